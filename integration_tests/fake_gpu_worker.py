"""The gpu role with the fake reader, in every other respect the real one."""

from casebook import celery_role

app = celery_role.build_role_app("gpu", bodies={"read": "integration_tests.fake_reader:read"})


def main() -> None:
    """Work until told to stop."""
    celery_role.work(app)
