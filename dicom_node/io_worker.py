"""The io role: ``celery -A dicom_node.io_worker worker -Q io``, or `main` under the supervisor.

One child more than sends may be in flight: however many destinations do not answer, one is left that prepares, counts
and compares.
"""

from casebook import celery_role
from casebook.queue import IN_FLIGHT
from casebook.settings import Settings, load_settings


def children(settings: Settings) -> int:
    """Return how many children this role needs: those that sends may hold, and one that they never do."""
    return 1 + sum(IN_FLIGHT[one.kind] for one in settings.destinations)


_settings = load_settings()
app = celery_role.build_role_app("io", concurrency=children(_settings), settings=_settings)


def main() -> None:
    """Work until told to stop."""
    celery_role.work(app)


if __name__ == "__main__":
    main()
