"""Claim, body, commit: what a worker does with one job."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import pytest
import structlog
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError, OperationalError

from casebook import audit, flow, intake, store, tables
from casebook.case import Case, Job
from casebook.errors import LostLease, PatientNotConfirmed, PeerUnavailable
from casebook.logs import configure_logs
from casebook.outcomes import Cleared, Delivered, Drafted, Held, Note, Outcome, Prepared
from casebook.runner import Body, Gate, Runner
from casebook.settings import Settings
from casebook.study import StudyState
from casebook.sweeper import sweep
from casebook.testing import FrozenClock, RecordingWaker, a_reading, a_received_instance
from casebook.wiring import Wiring

UID = "1.2.3"


def _read(case: Case, _settings: Settings) -> Outcome:
    return Drafted(reading=a_reading(UID, case.job.generation))


def _prepare(case: Case, _settings: Settings) -> Outcome:
    return Prepared(kind="sr", content=b"x", object_uid=f"9.{case.job.subject}", object_class="1.2.840")


def _send(_case: Case, _settings: Settings) -> Outcome:
    return Delivered(acknowledgement="0x0000")


def _runner(
    wiring: Wiring,
    *,
    pause: Callable[[float], bool] | None = None,
    gates: Mapping[str, Gate] | None = None,
    **bodies: Body,
) -> Runner:
    return Runner(
        wiring,
        {"read": _read, "prepare": _prepare, "send": _send, **bodies},
        heartbeat=lambda _wiring, _job: nullcontext(),
        pause=pause,
        gates=gates,
    )


@pytest.fixture(autouse=True)
def received(wiring: Wiring, clock: FrozenClock, waker: RecordingWaker) -> None:
    with wiring.write() as connection:
        intake.record_instances(connection, [a_received_instance()], clock.at)
    clock.advance(31)
    sweep(wiring)
    waker.woken.clear()


def _state(wiring: Wiring) -> StudyState:
    with wiring.read() as connection:
        return store.get_study(connection, UID).state


def _job(wiring: Wiring) -> tuple[str, int, str, str]:
    with wiring.read() as connection:
        row = connection.execute(select(tables.job)).one()
    return row.state, row.attempt, row.reason, row.detail


def test_a_worker_does_every_due_job_and_wakes_the_next_queue(wiring: Wiring, waker: RecordingWaker) -> None:
    runner = _runner(wiring)

    assert runner.drain("gpu") == 1
    assert waker.woken == ["io"]
    assert runner.drain("io") == 4
    assert _state(wiring) is StudyState.DELIVERED
    assert not runner.run_one("gpu")


def _may_have_left(wiring: Wiring) -> bool:
    column = tables.output.c
    with wiring.read() as connection:
        return any(row.first_sent_at for row in connection.execute(select(column.first_sent_at)))


def _not_confirmed(_case: Case, _settings: Settings) -> Cleared | Held:
    raise PatientNotConfirmed


@pytest.mark.parametrize(
    ("gate", "state"),
    [
        (lambda *_: Held(reason="archive_names_another_patient", detail="X."), StudyState.HELD),
        (_not_confirmed, StudyState.READ),
    ],
)
def test_a_gate_that_stays_closed_keeps_its_step_from_beginning(wiring: Wiring, gate: Gate, state: StudyState) -> None:
    def never(_case: Case, _settings: Settings) -> Outcome:
        raise AssertionError("it began")

    runner = _runner(wiring, gates={"send": gate}, send=never)
    runner.drain("gpu")
    runner.drain("io")

    assert _state(wiring) in (state, StudyState.READY)
    assert not _may_have_left(wiring)


def test_what_a_gate_notes_stands_in_the_timeline(wiring: Wiring) -> None:
    note = Note(action="archive_did_not_answer", detail="The archive PACS does not answer.")
    runner = _runner(wiring, gates=dict.fromkeys(("prepare", "send"), lambda *_: Cleared(notes=(note,))))
    runner.drain("gpu")
    runner.drain("io")

    assert _state(wiring) is StudyState.DELIVERED
    with wiring.read() as connection:
        assert [one.action for one in audit.timeline(connection, UID)].count(note.action) == 4


def test_a_worker_that_lost_its_lease_drops_its_result(wiring: Wiring, clock: FrozenClock) -> None:
    def outlive(case: Case, settings: Settings) -> Outcome:
        clock.advance(1000)
        sweep(wiring)
        return _read(case, settings)

    assert _runner(wiring, read=outlive).run_one("gpu")

    assert _job(wiring)[0] == "retry"
    with wiring.read() as connection:
        assert store.get_reading(connection, UID, 1) is None


def test_a_database_that_is_away_at_the_commit_loses_no_result(wiring: Wiring, monkeypatch: pytest.MonkeyPatch) -> None:
    advance, pauses, reads = flow.advance, [], []
    failures = iter([True, True, False])

    def away_twice(connection: Connection, *args: object, **values: object) -> None:
        if next(failures):
            raise OperationalError("x", None, Exception("gone"))
        advance(connection, *args, **values)  # type: ignore[arg-type]

    def read(case: Case, settings: Settings) -> Outcome:
        reads.append(case)
        return _read(case, settings)

    monkeypatch.setattr(flow, "advance", away_twice)

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    _runner(wiring, pause=pause, read=read).run_one("gpu")

    assert _state(wiring) is StudyState.READ
    assert (len(pauses), len(reads)) == (2, 1)


def test_a_worker_told_to_stop_does_not_wait_for_the_database(wiring: Wiring, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_args: object, **_values: object) -> None:
        raise OperationalError("x", None, Exception("gone"))

    monkeypatch.setattr(flow, "advance", away)
    monkeypatch.setattr(flow, "fail", away)

    with pytest.raises(OperationalError):
        _runner(wiring, pause=lambda _seconds: True).run_one("gpu")
    assert _job(wiring)[0] == "running", "the lease gives it back"


def test_an_outcome_that_cannot_be_written_is_one_attempt_and_no_endless_loop(
    wiring: Wiring, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_values: object) -> None:
        raise IntegrityError("INSERT ... DOE^JANE", None, Exception("DOE^JANE"))

    monkeypatch.setattr(flow, "advance", refuse)

    assert _runner(wiring).run_one("gpu")
    assert _job(wiring) == ("retry", 1, "integrity_error", "Unexpected IntegrityError.")


def test_an_unexpected_error_is_one_attempt_and_never_tells_its_text(
    wiring: Wiring, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_down(_case: Case, _settings: Settings) -> Outcome:
        raise ValueError("DOE^JANE 19510317")

    stream = io.StringIO()
    before = structlog.get_config()
    try:
        configure_logs("gpu", stream)
        _runner(wiring, read=break_down).run_one("gpu")
    finally:
        structlog.configure(**before)

    assert _job(wiring) == ("retry", 1, "value_error", "Unexpected ValueError.")
    said = stream.getvalue() + "".join(capsys.readouterr())
    assert "DOE" not in said
    assert "step_failed" in [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert "ValueError" in said


def test_a_retryable_error_of_a_body_is_a_later_attempt(wiring: Wiring, clock: FrozenClock) -> None:
    errors = iter([PeerUnavailable(), None])

    def sometimes(case: Case, settings: Settings) -> Outcome:
        error = next(errors)
        if error is not None:
            raise error
        return _read(case, settings)

    runner = _runner(wiring, read=sometimes)
    assert runner.drain("gpu") == 1
    assert _job(wiring)[0] == "retry"
    clock.advance(100)
    assert runner.drain("gpu") == 1
    assert _state(wiring) is StudyState.READ


def test_a_body_that_notices_its_lost_lease_writes_nothing(wiring: Wiring) -> None:
    def give_up(_case: Case, _settings: Settings) -> Outcome:
        raise LostLease

    assert _runner(wiring, read=give_up).run_one("gpu")
    assert _job(wiring)[0] == "running"


def test_a_send_is_noted_before_its_body_runs(wiring: Wiring) -> None:
    noted = []

    def send(case: Case, settings: Settings) -> Outcome:
        with wiring.read() as connection:
            noted.append(connection.execute(select(tables.output.c.first_sent_at)).scalars().all())
        return _send(case, settings)

    runner = _runner(wiring, send=send)
    runner.drain("gpu")
    runner.drain("io")

    assert all(any(at is not None for at in row) for row in noted)
    assert len(noted) == 2


def test_a_stopped_runner_takes_no_other_job(wiring: Wiring) -> None:
    runner = _runner(wiring)
    runner.stop()

    assert runner.drain("gpu") == 0
    assert _job(wiring)[0] == "ready"


def test_a_wake_up_that_comes_twice_does_nothing_the_second_time(wiring: Wiring) -> None:
    runner = _runner(wiring)

    assert [runner.drain("gpu"), runner.drain("gpu")] == [1, 0]


def test_a_job_without_a_body_is_a_failed_attempt(wiring: Wiring) -> None:
    Runner(wiring, {}, heartbeat=lambda _wiring, _job: nullcontext()).run_one("gpu")

    assert _job(wiring)[2] == "key_error"


def test_the_heartbeat_surrounds_body_and_commit(wiring: Wiring) -> None:
    order: list[str] = []

    @contextmanager
    def heartbeat(_wiring: Wiring, _job: Job) -> Iterator[None]:
        order.append("begins")
        yield
        order.append(f"ends {_state(wiring)}")

    Runner(wiring, {"read": _read}, heartbeat=heartbeat).run_one("gpu")

    assert order == ["begins", "ends read"]
