"""Where the tests find their data and their servers: the only place of the tests that reads the environment."""

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSettings:
    """What the environment says about this test run.

    Parameters
    ----------
    test_data
        Folder of real DICOM and HL7 files (``WETREAD_TEST_DATA``).
    require_peers
        A missing peer or data folder fails a test instead of skipping it (``WETREAD_REQUIRE_PEERS=1``).
    write_screenshots
        Tests of a viewer write what they see to ``docs/images`` (``WETREAD_TEST_SCREENSHOTS=1``).
    postgresql_url
        SQLAlchemy URL of a database from which others may be created (``WETREAD_TEST_POSTGRESQL_URL``).
    amqp_url
        RabbitMQ, as an administrator (``WETREAD_TEST_AMQP_URL``).
    redis_url
        Redis; an empty database number is chosen beside it (``WETREAD_TEST_REDIS_URL``).
    """

    __test__ = False  # the name is no test class for pytest

    test_data: Path
    require_peers: bool
    write_screenshots: bool
    postgresql_url: str
    amqp_url: str
    redis_url: str


def load() -> TestSettings:
    """Read the environment once.

    Returns
    -------
        The settings; a relative ``WETREAD_TEST_DATA`` counts from the repository's root.
    """
    get = os.environ.get
    return TestSettings(
        test_data=(REPOSITORY / get("WETREAD_TEST_DATA", "../shared/data")).resolve(),
        require_peers=get("WETREAD_REQUIRE_PEERS", "") == "1",
        write_screenshots=get("WETREAD_TEST_SCREENSHOTS", "") == "1",
        postgresql_url=get("WETREAD_TEST_POSTGRESQL_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"),
        amqp_url=get("WETREAD_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//"),
        redis_url=get("WETREAD_TEST_REDIS_URL", "redis://127.0.0.1:6379/0"),
    )


def environment(**changes: str) -> dict[str, str]:
    """Build the environment of a child process: ours, without Wetread's own settings, with changes.

    Parameters
    ----------
    changes
        Variables to set over it.

    Returns
    -------
        A full environment, for example for ``subprocess``.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WETREAD_")}
    return inherited | changes
