"""Both databases for every test that asks for `engine`, and the wiring on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from casebook import tables
from casebook.testing import FrozenClock, RecordingWaker, a_wiring, postgresql_database, sqlite_database
from casebook.wiring import Wiring
from integration_tests.foreign import refuse_or_skip


@pytest.fixture(scope="session")
def shared_postgresql() -> Iterator[Engine | None]:
    """One PostgreSQL database for the session; making one takes longer than a test."""
    with postgresql_database() as engine:
        yield engine


@pytest.fixture
def postgresql(shared_postgresql: Engine | None) -> Engine:
    """An empty PostgreSQL database."""
    if shared_postgresql is None:
        refuse_or_skip("no PostgreSQL answers (WETREAD_TEST_POSTGRESQL_URL)")
    with shared_postgresql.begin() as connection:
        # A TRUNCATE would be one word, and wait for the disk once for each table.
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())
    return shared_postgresql


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Engine]:
    """An empty SQLite database."""
    with sqlite_database(tmp_path) as engine:
        yield engine


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """An empty database of each kind."""
    found: Engine = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def clock() -> FrozenClock:
    """The clock of `wiring`."""
    return FrozenClock()


@pytest.fixture
def waker() -> RecordingWaker:
    """The bus of `wiring`."""
    return RecordingWaker()


@pytest.fixture
def wiring(engine: Engine, clock: FrozenClock, waker: RecordingWaker) -> Wiring:
    """Everything a role needs."""
    return a_wiring(engine, clock=clock, waker=waker)
