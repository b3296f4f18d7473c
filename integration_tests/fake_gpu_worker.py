"""The gpu role with the fake reader, in every other respect the real one."""

from casebook import look

app = look.build_role_app("gpu", bodies={"read": "integration_tests.fake_reader:read"})


def main() -> None:
    """Work until told to stop."""
    look.work(app)
