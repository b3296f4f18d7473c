"""The io role: ``celery -A dicom_node.io_worker worker -Q io``, or `main` under the supervisor.

Two children, so that a destination that does not answer leaves the other one working.
"""

from casebook import celery_role

app = celery_role.build_role_app("io", concurrency=2)


def main() -> None:
    """Work until told to stop."""
    celery_role.work(app)


if __name__ == "__main__":
    main()
