"""The gpu role with real pixels and a writer that keeps what it sees, in every other respect the real one."""

from casebook import celery_role

app = celery_role.build_role_app("gpu", bodies={"read": "integration_tests.odd_studies.site:read"})


def main() -> None:
    """Work until told to stop."""
    celery_role.work(app)
