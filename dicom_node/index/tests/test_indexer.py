"""The indexer: rows follow files, whatever happens in between."""

import contextlib
import errno
import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from casebook import device, intake, store, tables
from casebook.clock import Clock
from casebook.database import read, write
from casebook.errors import StoreUnavailable
from casebook.settings import SHIPPED_DEVICE_UID, Settings
from casebook.testing import FrozenClock
from dicom_node.index import indexer, recorder
from dicom_node.index.description import describe
from dicom_node.index.indexer import MAX_LAG_S, Indexer
from dicom_node.index.recorder import Recorded, Recorder, RecorderEnded
from dicom_node.storage.inbox import Inbox, StoredInstance
from dicom_node.storage.tests.test_inbox import an_envelope
from dicom_node.tests.receiving import a_database, a_settings, data_set_bytes, failing_to_open
from dicom_node.tests.wire import data_set


class Bench:
    """An inbox, a database and an indexer whose thread does not run."""

    def __init__(self, tmp_path: Path) -> None:
        self.settings = a_settings(tmp_path)
        self.engine = a_database(self.settings)
        self.inbox = Inbox(tmp_path)
        self.indexer = self.an_indexer()

    def an_indexer(self, settings: Settings | None = None, clock: Clock | None = None) -> Indexer:
        chosen = settings or self.settings
        return Indexer(self.inbox, Recorder(self.inbox, self.engine, chosen, clock), chosen, clock)

    def land(self, uid: str = "1.2.3.4", content: bytes | None = None, study: str = "1.2.3") -> StoredInstance:
        incoming = self.inbox.incoming(an_envelope(uid))
        incoming.write([content if content is not None else data_set(uid, study=study)])
        stored = incoming.commit()
        self.indexer.submit(stored)
        return stored

    def rows(self) -> list[Any]:
        with read(self.engine) as connection:
            return list(connection.execute(select(tables.instance).order_by(tables.instance.c.id)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    with contextlib.closing(found.inbox):
        yield found
        found.engine.dispose()


def test_a_burst_becomes_one_batch(bench: Bench) -> None:
    paths = [bench.land(f"1.2.3.{number}").path for number in range(50)]

    assert bench.indexer.index_waiting() == 50

    assert [row.path for row in bench.rows()] == paths
    assert bench.indexer.index_waiting() == 0
    assert bench.indexer.lag_s == 0.0


def test_an_equal_repetition_leaves_one_row_and_one_file(bench: Bench) -> None:
    first = bench.land()
    again = bench.land()
    bench.indexer.index_waiting()
    third = bench.land()
    bench.indexer.index_waiting()

    assert [row.path for row in bench.rows()] == [first.path]
    assert [(bench.inbox.data_directory / one.path).exists() for one in (first, again, third)] == [True, False, False]


def test_only_what_repeats_is_hashed(bench: Bench) -> None:
    bench.land("1.2.3.4")
    bench.land("1.2.3.5")
    bench.indexer.index_waiting()
    assert [row.sha256 for row in bench.rows()] == ["", ""]

    bench.land("1.2.3.5")
    bench.indexer.index_waiting()

    assert [row.sha256 for row in bench.rows()] == ["", hashlib.sha256(data_set("1.2.3.5")).hexdigest()]


def test_another_object_under_a_known_uid_is_kept_beside_the_first(bench: Bench) -> None:
    first = bench.land()
    bench.indexer.index_waiting()
    other = bench.land(content=data_set(pixels=b"other"))
    again = bench.land(content=data_set(pixels=b"other"))
    bench.indexer.index_waiting()

    rows = bench.rows()
    assert [row.path for row in rows] == [first.path, other.path]
    assert len({row.sha256 for row in rows} | {""}) == 3
    assert not (bench.inbox.data_directory / again.path).exists()


def test_a_repetition_of_an_object_whose_file_is_gone_is_kept(bench: Bench) -> None:
    first = bench.land()
    bench.indexer.index_waiting()
    (bench.inbox.data_directory / first.path).unlink()

    again = bench.land()
    bench.indexer.index_waiting()

    assert [row.path for row in bench.rows()] == [first.path, again.path]
    assert (bench.inbox.data_directory / again.path).exists()


def test_a_repetition_takes_the_place_of_an_equal_file_that_is_gone(bench: Bench) -> None:
    first = bench.land()
    bench.land()
    bench.indexer.index_waiting()
    (bench.inbox.data_directory / first.path).unlink()

    again = bench.land()
    bench.indexer.index_waiting()

    assert [row.path for row in bench.rows()] == [first.path]
    assert data_set_bytes(bench.inbox.data_directory / first.path) == data_set("1.2.3.4")
    assert not (bench.inbox.data_directory / again.path).exists()


def test_a_repetition_that_is_asked_about_again_after_it_was_removed_gets_no_row(bench: Bench) -> None:
    bench.land()
    again = bench.land()
    bench.indexer.index_waiting()
    assert not (bench.inbox.data_directory / again.path).exists()

    bench.indexer.submit(replace(again, head=data_set("1.2.3.4")))
    bench.indexer.index_waiting()

    assert len(bench.rows()) == 1
    with read(bench.engine) as connection:
        assert connection.execute(select(tables.job)).all() == []


def test_a_repetition_that_cannot_be_removed_holds_up_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.land()
    again = bench.land()

    def fail(_path: object) -> None:
        raise PermissionError

    monkeypatch.setattr(bench.inbox.files, "remove", fail)
    bench.indexer.index_waiting()

    assert len(bench.rows()) == 1
    assert (bench.inbox.data_directory / again.path).exists()
    assert bench.indexer.lag_s == 0.0


FAILURES = pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ENOENT])


@FAILURES
def test_a_repetition_whose_first_copy_cannot_be_read_gets_its_row_uncompared_and_holds_up_nobody(
    bench: Bench, error: int
) -> None:
    first = bench.land()
    bench.indexer.index_waiting()
    again = bench.land()
    bystander = bench.land("1.2.3.5")

    with failing_to_open(bench.inbox.data_directory / first.path, error=error):
        bench.indexer.index_waiting()

    assert bench.indexer.keeps_up
    assert {row.path: row.status for row in bench.rows()} == {
        first.path: "current",
        again.path: "unclassed",
        bystander.path: "current",
    }
    assert _actions(bench).count("first_copy_not_read") == 1
    with read(bench.engine) as connection:
        assert [row.subject for row in connection.execute(select(tables.job.c.subject))] == [again.path]


@FAILURES
def test_a_repetition_is_never_taken_for_an_equal_one_while_neither_copy_can_be_read(bench: Bench, error: int) -> None:
    first = bench.land()
    bench.indexer.index_waiting()
    again = bench.land()
    both = [bench.inbox.data_directory / one.path for one in (first, again)]

    with failing_to_open(*both, error=error):
        bench.indexer.index_waiting()

    assert bench.indexer.keeps_up
    assert all(path.exists() for path in both)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_an_object_that_cannot_be_read_waits_alone_and_gets_its_row_in_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    now = [100.0]
    monkeypatch.setattr("dicom_node.index.indexer.time.monotonic", lambda: now[0])
    stored = [bench.land(f"1.2.3.{number}") for number in range(3)]

    with failing_to_open(bench.inbox.data_directory / stored[1].path, error=error):
        for _ in range(3):
            bench.indexer.index_waiting()
            now[0] += 60.0
            assert bench.indexer.keeps_up
    assert [row.path for row in bench.rows()] == [stored[0].path, stored[2].path]
    assert _actions(bench).count("object_not_read") == 1

    bench.indexer.index_waiting()

    assert {row.path for row in bench.rows()} == {one.path for one in stored}


class DyingRecorder(Recorder):
    """A recorder that ends over some objects, as one in a process of its own does."""

    poison: frozenset[str] = frozenset()
    batches: ClassVar[list[int]] = []

    def record(self, stored: Sequence[StoredInstance]) -> Recorded:
        self.batches.append(len(stored))
        if self.poison & {one.path for one in stored}:
            raise RecorderEnded
        return super().record(stored)


@pytest.fixture
def dying(bench: Bench) -> DyingRecorder:
    records = DyingRecorder(bench.inbox, bench.engine, bench.settings)
    records.batches.clear()
    bench.indexer = Indexer(bench.inbox, records, bench.settings)
    return records


def test_an_object_over_which_the_recorder_ends_is_found_by_halves_and_set_aside(
    bench: Bench, dying: DyingRecorder
) -> None:
    stored = [bench.land(f"1.2.3.{number}") for number in range(40)]
    dying.poison = frozenset({stored[7].path, stored[23].path})

    while bench.indexer.index_waiting():
        assert bench.indexer.keeps_up

    assert {row.path for row in bench.rows()} == {one.path for one in stored} - dying.poison
    for path in dying.poison:
        reason = (bench.inbox.refused_directory / Path(path).name).with_suffix(".dcm.reason")
        assert reason.read_text() == "recorder_ended_over_it\n"
    assert len(dying.batches) < 40
    assert _actions(bench).count("object_set_aside") == 2


def test_what_comes_while_the_recorder_is_searched_does_not_wait_for_it(bench: Bench, dying: DyingRecorder) -> None:
    stored = [bench.land(f"1.2.3.{number}") for number in range(16)]
    dying.poison = frozenset({stored[3].path})
    bench.indexer.index_waiting()

    late = bench.land("1.2.4")
    for _ in range(2):
        bench.indexer.index_waiting()

    assert late.path in {row.path for row in bench.rows()}


def test_an_object_is_not_set_aside_because_somebody_killed_the_recorder_once(
    bench: Bench, dying: DyingRecorder
) -> None:
    stored = bench.land()
    dying.poison = frozenset({stored.path})
    bench.indexer.index_waiting()
    dying.poison = frozenset()

    bench.indexer.index_waiting()

    assert [row.path for row in bench.rows()] == [stored.path]


def test_nothing_is_lost_while_the_database_does_not_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = [bench.land(f"1.2.3.{number}") for number in range(3)]

    def refuse(*_arguments: object) -> None:
        raise OperationalError("insert", {}, Exception("locked"))

    with monkeypatch.context() as patched:
        patched.setattr(intake, "record_instances", refuse)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                bench.indexer.index_waiting()
    assert bench.indexer.lag_s > 0.0

    bench.indexer.index_waiting()

    assert [row.path for row in bench.rows()] == [one.path for one in stored]


def test_new_objects_are_refused_when_rows_lag(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("dicom_node.index.indexer.time.monotonic", lambda: now[0])
    bench.land()
    kept_up = [bench.indexer.keeps_up]
    now[0] += MAX_LAG_S + 0.1
    kept_up.append(bench.indexer.keeps_up)
    bench.indexer.index_waiting()
    kept_up.append(bench.indexer.keeps_up)

    assert kept_up == [True, False, True]


def test_an_unreadable_file_is_set_aside_with_its_reason_and_stops_nobody(bench: Bench) -> None:
    bench.land("1.2.3.1")
    poison = bench.land("1.2.3.2", b"\xff" * 1000)
    bench.land("1.2.3.3")

    bench.indexer.index_waiting()

    assert [row.sop_instance_uid for row in bench.rows()] == ["1.2.3.1", "1.2.3.3"]
    aside = bench.inbox.refused_directory / Path(poison.path).name
    assert aside.exists()
    assert aside.with_name(f"{aside.name}.reason").read_text() == "unreadable_header\n"
    with read(bench.engine) as connection:
        actions = [row.action for row in connection.execute(select(tables.audit.c.action))]
    assert "object_set_aside" in actions


def test_a_row_that_cannot_be_stored_is_set_aside_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = intake.record_instances

    def choosy(connection: Any, received: Any, *others: Any) -> dict[str, str]:
        if any(one.sop_instance_uid == "1.2.3.2" for one in received):
            raise ValueError("cannot store")
        return real(connection, received, *others)

    monkeypatch.setattr(intake, "record_instances", choosy)
    stored = [bench.land(f"1.2.3.{number}") for number in range(1, 4)]

    bench.indexer.index_waiting()

    assert [row.sop_instance_uid for row in bench.rows()] == ["1.2.3.1", "1.2.3.3"]
    assert (bench.inbox.refused_directory / Path(stored[1].path).name).exists()


def test_our_own_results_are_stored_as_ours(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "is_issued", lambda _connection, uids: {"1.2.3.4"} & set(uids))
    bench.land("1.2.3.4")
    bench.land("1.2.3.5")

    bench.indexer.index_waiting()

    assert [row.status for row in bench.rows()] == ["own", "current"]


@pytest.mark.parametrize("is_former", [False, True])
def test_what_our_device_made_is_ours_under_any_uid_it_ever_had(bench: Bench, *, is_former: bool) -> None:
    with write(bench.engine) as connection:
        former = device.settle(connection, stated="", now=0.0)
        current = device.settle(connection, stated="1.2.3.4.5", now=1.0)
    bench.land("1.2.3.4", data_set("1.2.3.4") + _device_uid(former if is_former else current))
    bench.land("1.2.3.5", data_set("1.2.3.5") + _device_uid(SHIPPED_DEVICE_UID))
    bench.land("1.2.3.6", data_set("1.2.3.6") + _device_uid("1.2.3.4.6"))

    bench.indexer.index_waiting()

    assert [row.status for row in bench.rows()] == ["own", "own", "current"]


def _device_uid(uid: str) -> bytes:
    # (0018,1002) behind group 0020: the order of elements is no concern of a receiver.
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return struct.pack("<HH2sH", 0x0018, 0x1002, b"UI", len(value)) + value


def test_a_start_takes_up_what_has_no_row(bench: Bench) -> None:
    stored = bench.land("1.2.3.1")
    bench.indexer.index_waiting()
    bench.land("1.2.3.2")
    restarted = bench.an_indexer()

    assert restarted.take_up(bench.engine) == 1
    restarted.start()
    restarted.stop()

    assert {row.path for row in bench.rows()} >= {stored.path}
    assert len(bench.rows()) == 2


def test_the_quiet_period_of_the_sender_is_used(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    settings = bench.settings.model_copy(
        update={"listener": bench.settings.listener.model_copy(update={"quiet_period_s": 7.0})}
    )
    bench.indexer = bench.an_indexer(settings, FrozenClock(1000.0))
    stored = replace(bench.land(), received_at=1000.0)
    bench.indexer._waiting.clear()
    bench.indexer.submit(stored)
    bench.indexer.index_waiting()

    with read(bench.engine) as connection:
        assert connection.execute(select(tables.study.c.quiet_at)).scalar_one() == 1007.0
    bench.inbox.close()


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "told to fail"), OSError(errno.EIO, "no"), MemoryError()])
def test_a_file_that_cannot_be_read_for_a_moment_gets_its_row_later_and_holds_up_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    stored = [bench.land(f"1.2.3.{number}") for number in range(3)]
    real = describe

    def choosy(folder: Path, one: StoredInstance, *asked: Any) -> Any:
        if one.path == stored[1].path:
            raise error
        return real(folder, one, *asked)

    now = [100.0]
    monkeypatch.setattr("dicom_node.index.indexer.time.monotonic", lambda: now[0])
    with monkeypatch.context() as patched:
        patched.setattr(recorder, "describe", choosy)
        for _ in range(2):
            bench.indexer.index_waiting()
            now[0] += 60.0
        assert [row.path for row in bench.rows()] == [stored[0].path, stored[2].path]
        assert bench.indexer.keeps_up

    assert bench.indexer.index_waiting() == 1
    assert {row.path for row in bench.rows()} == {one.path for one in stored}
    assert _actions(bench).count("object_lost") == 0


def test_a_file_that_was_taken_away_is_written_into_the_timeline_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = bench.land("1.2.3.1")
    bench.land("1.2.3.2")
    (bench.inbox.data_directory / gone.path).unlink()

    def refuse(*_arguments: object) -> None:
        raise OperationalError("insert", {}, Exception("locked"))

    with monkeypatch.context() as patched:
        patched.setattr(intake, "record_instances", refuse)
        with pytest.raises(StoreUnavailable):
            bench.indexer.index_waiting()
    bench.indexer.index_waiting()

    assert [row.sop_instance_uid for row in bench.rows()] == ["1.2.3.2"]
    assert _actions(bench).count("object_lost") == 1


def _actions(bench: Bench) -> list[str]:
    with read(bench.engine) as connection:
        return [row.action for row in connection.execute(select(tables.audit.c.action))]


def _quiet_at(bench: Bench) -> float:
    with read(bench.engine) as connection:
        return float(connection.execute(select(tables.study.c.quiet_at)).scalar_one())


def test_a_study_waits_while_more_of_it_is_on_its_way(bench: Bench) -> None:
    clock = FrozenClock(1000.0)
    bench.indexer = bench.an_indexer(clock=clock)
    bench.land()
    bench.indexer.index_waiting()
    before = _quiet_at(bench)

    clock.advance(20.0)
    bench.indexer.touch("1.2.3", "SENDER")
    bench.indexer.touch("9.9.9", "SENDER")
    bench.indexer.index_waiting()
    assert (before, _quiet_at(bench)) == (1030.0, 1050.0)

    clock.advance(-15.0)
    bench.indexer.touch("1.2.3", "SENDER")
    bench.indexer.index_waiting()
    assert _quiet_at(bench) == 1050.0


@pytest.mark.parametrize("skew_s", [-3600.0, -60.0, 60.0, 3600.0])
def test_the_clock_of_the_receiving_host_does_not_decide_when_a_study_is_quiet(bench: Bench, skew_s: float) -> None:
    bench.indexer = bench.an_indexer(clock=FrozenClock(1000.0))
    bench.indexer.submit(replace(bench.land(), received_at=1000.0 + skew_s))
    bench.indexer.index_waiting()

    assert _quiet_at(bench) == 1030.0


def test_a_touch_is_not_forgotten_while_the_database_does_not_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.indexer = bench.an_indexer(clock=FrozenClock(1020.0))
    bench.indexer.submit(replace(bench.land(), received_at=1000.0))
    bench.indexer.index_waiting()

    def refuse(*_arguments: object, **_named: object) -> None:
        raise OperationalError("update", {}, Exception("locked"))

    bench.indexer.touch("1.2.3", "SENDER")
    with monkeypatch.context() as patched:
        patched.setattr(store, "touch", refuse)
        with pytest.raises(StoreUnavailable):
            bench.indexer.index_waiting()
    bench.indexer.index_waiting()

    assert _quiet_at(bench) == 1050.0


def test_no_study_was_quiet_while_nobody_listened(bench: Bench) -> None:
    bench.indexer = bench.an_indexer(clock=FrozenClock(1000.0))
    bench.land()
    bench.indexer.index_waiting()
    restarted = bench.an_indexer(clock=FrozenClock(5000.0))

    restarted.take_up(bench.engine)

    assert _quiet_at(bench) == 5030.0


def test_only_a_short_line_is_kept_in_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer, "_MAX_BATCH", 3)
    stored = []
    for number in range(10):
        incoming = bench.inbox.incoming(an_envelope(f"1.2.3.{number}"))
        content = data_set(f"1.2.3.{number}")
        incoming.write([content])
        stored.append(replace(incoming.commit(), head=content))
        bench.indexer.submit(stored[-1])
    for one in stored:
        (bench.inbox.data_directory / one.path).unlink()

    while bench.indexer.index_waiting():
        pass

    # Those behind the first four are read back, which shows here: their files are gone.
    assert [row.path for row in bench.rows()] == [one.path for one in stored[:4]]
