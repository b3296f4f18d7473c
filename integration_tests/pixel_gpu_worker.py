"""The gpu role with real pixels and a fake writer, in every other respect the real one."""

from casebook import look

app = look.build_role_app("gpu", bodies={"read": "integration_tests.pixel_reader:read"})


def main() -> None:
    """Work until told to stop."""
    look.work(app)
