"""What `wetread status` and `wetread why` ask the database, and that no answer grows with the history."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, event

from benchmarks.history import fill
from casebook import database
from casebook.settings import Settings
from casebook.testing import MORNING, sqlite_database
from console.explain import explain
from console.overview import overview


@contextmanager
def _questions(engine: Engine) -> Iterator[list[tuple[str, object]]]:
    asked: list[tuple[str, object]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_rest: object) -> None:
        asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    yield asked
    event.remove(engine, "before_cursor_execute", note)


def _scans(engine: Engine, asked: list[tuple[str, object]]) -> list[str]:
    plans = []
    with database.read(engine) as connection:
        for statement, parameters in asked:
            if statement.startswith("SELECT"):
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
                plans += [str(row.detail) for row in rows]
    return [one for one in plans if re.match(r"SCAN (study|instance|job|attempt|audit|output)\b", one)]


@pytest.fixture
def sqlite() -> Iterator[Engine]:
    with sqlite_database() as engine:
        yield engine


def test_no_question_of_status_or_why_reads_a_whole_table(sqlite: Engine) -> None:
    uid = fill(sqlite, 1000, MORNING)
    with _questions(sqlite) as asked, database.read(sqlite) as connection:
        overview(connection, now=MORNING)
        explain(connection, uid, settings=Settings(), now=MORNING)

    assert len(asked) > 10
    # How many studies stand where is the one thing that is counted, and that in an index alone.
    scans = _scans(sqlite, asked)
    assert len(scans) == 1
    assert scans[0].startswith("SCAN study USING COVERING INDEX ix_study_state_")


def test_the_last_hour_is_counted(sqlite: Engine) -> None:
    fill(sqlite, 20 * 200, MORNING)
    with database.read(sqlite) as connection:
        facts = overview(connection, now=MORNING)

    # A study of twenty images each half minute.
    assert (facts.received_studies, facts.received_images, facts.delivered, facts.drafted) == (120, 2400, 120, 120)
    assert facts.read_s == 1.5
