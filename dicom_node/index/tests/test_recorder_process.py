"""The recorder in a process of its own: the same rows, and what happens when one of the two processes ends."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from casebook import tables
from casebook.database import read
from casebook.errors import StoreUnavailable
from casebook.settings import Settings
from dicom_node.index.recorder import Recorded, RecorderEnded
from dicom_node.index.recorder_process import RecorderProcess
from dicom_node.storage.inbox import Inbox, StoredInstance
from dicom_node.storage.tests.test_inbox import an_envelope
from dicom_node.tests.receiving import a_database, a_settings
from dicom_node.tests.wire import data_set


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return a_settings(tmp_path)


@pytest.fixture
def inbox(settings: Settings) -> Iterator[Inbox]:
    with contextlib.closing(Inbox(settings.data_directory)) as opened:
        yield opened


@pytest.fixture
def records(settings: Settings, inbox: Inbox) -> Iterator[RecorderProcess]:
    a_database(settings).dispose()
    with contextlib.closing(RecorderProcess(settings)) as started:
        started.start()
        yield started


def land(inbox: Inbox, uid: str, content: bytes | None = None) -> StoredInstance:
    incoming = inbox.incoming(an_envelope(uid))
    incoming.write([content if content is not None else data_set(uid)])
    return incoming.commit()


def paths(settings: Settings) -> list[str]:
    engine = a_database(settings)
    with read(engine) as connection:
        found = [row.path for row in connection.execute(select(tables.instance.c.path).order_by(tables.instance.c.id))]
    engine.dispose()
    return found


def take_the_database_away(settings: Settings) -> None:
    for path in settings.data_directory.glob("wetread.sqlite*"):
        path.unlink()
    (settings.data_directory / "wetread.sqlite").mkdir()


def child(records: RecorderProcess) -> psutil.Process:
    assert records._process is not None
    return psutil.Process(records._process.pid)


def test_objects_get_their_rows(settings: Settings, inbox: Inbox, records: RecorderProcess) -> None:
    stored = [land(inbox, f"1.2.3.{number}") for number in range(3)]

    assert records.record(stored) == Recorded()

    assert paths(settings) == [one.path for one in stored]


def test_what_cannot_be_understood_is_set_aside(inbox: Inbox, records: RecorderProcess) -> None:
    poison = land(inbox, "1.2.3.4", b"\xff" * 1000)

    assert records.record([poison]) == Recorded()

    assert (inbox.refused_directory / Path(poison.path).name).exists()


def test_what_the_database_refuses_is_named(settings: Settings, inbox: Inbox, records: RecorderProcess) -> None:
    stored = land(inbox, "1.2.3.4")
    take_the_database_away(settings)

    assert records.record([stored]) == Recorded(refused=frozenset({stored.path}))


def test_a_study_is_touched(settings: Settings, inbox: Inbox, records: RecorderProcess) -> None:
    records.record([land(inbox, "1.2.3.4")])

    records.touch({"1.2.3": 86_400.0})

    engine = a_database(settings)
    with read(engine) as connection:
        left_s = float(connection.execute(select(tables.study.c.quiet_at)).scalar_one()) - time.time()
    assert 80_000 < left_s <= 86_400
    engine.dispose()


def test_a_touch_that_the_database_refuses_is_told(settings: Settings, records: RecorderProcess) -> None:
    take_the_database_away(settings)

    with pytest.raises(StoreUnavailable):
        records.touch({"1.2.3": 86_400.0})


def test_a_recorder_that_ended_is_started_again(settings: Settings, inbox: Inbox, records: RecorderProcess) -> None:
    stored = land(inbox, "1.2.3.4")
    child(records).kill()

    with pytest.raises(RecorderEnded):
        records.record([stored])
    assert records.record([stored]) == Recorded()

    assert paths(settings) == [stored.path]


def test_signals_to_the_whole_service_do_not_end_it(settings: Settings, inbox: Inbox, records: RecorderProcess) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        child(records).send_signal(number)
    stored = land(inbox, "1.2.3.4")

    assert records.record([stored]) == Recorded()
    assert paths(settings) == [stored.path]


def test_it_ends_with_its_owner(records: RecorderProcess) -> None:
    process = child(records)
    assert records._connection is not None
    # What the kernel does for a process that is killed.
    records._connection.close()

    process.wait(10)


def test_no_process_is_left_behind(records: RecorderProcess) -> None:
    process = child(records)
    records.close()
    records.close()

    assert not process.is_running()


def test_objects_that_two_recorders_get_keep_one_row_and_their_file(
    settings: Settings, inbox: Inbox, records: RecorderProcess
) -> None:
    # The recorder of a killed listener may still be at work when the next one scans the inbox.
    stored = [land(inbox, f"1.2.3.{number}") for number in range(3)]
    with contextlib.closing(RecorderProcess(settings)) as other:
        other.start()
        assert records.record(stored) == Recorded()
        assert other.record(stored) == Recorded()

    assert paths(settings) == [one.path for one in stored]
    assert all((settings.data_directory / one.path).exists() for one in stored)
