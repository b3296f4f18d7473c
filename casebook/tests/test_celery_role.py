"""A role's child: what it does with the job in hand when it is told to stop."""

import signal
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from casebook import celery_role, intake, tables
from casebook.case import Case
from casebook.flow import QUEUES, STEPS
from casebook.outcomes import Outcome, Refused
from casebook.settings import Settings
from casebook.sweeper import sweep
from casebook.testing import FrozenClock, a_received_instance, a_wiring, sqlite_database
from casebook.wiring import Wiring


@pytest.fixture
def wiring() -> Iterator[Wiring]:
    """A database with two studies to read."""
    clock = FrozenClock()
    with sqlite_database() as engine:
        made = a_wiring(engine, clock=clock)
        with made.write() as connection:
            received = [a_received_instance(1, study=study) for study in ("1.2.3", "1.2.4")]
            intake.record_instances(connection, received, clock.now())
        clock.advance(31)
        sweep(made)
        yield made


def _jobs(wiring: Wiring) -> list[tuple[str, int]]:
    with wiring.read() as connection:
        rows = connection.execute(select(tables.job.c.state, tables.job.c.attempt).order_by(tables.job.c.id))
        return [(row.state, row.attempt) for row in rows]


class _Slow:
    """A body that goes on until it is allowed to end."""

    def __init__(self) -> None:
        self.started, self.may_end = threading.Event(), threading.Event()

    def __call__(self, _case: Case, _settings: Settings) -> Outcome:
        self.started.set()
        assert self.may_end.wait(30)
        return Refused(reason="test", detail="Test.")


def test_a_job_that_takes_too_long_is_given_back_uncounted(wiring: Wiring) -> None:
    body = _Slow()
    child = celery_role.Child(wiring, {"read": body})
    left: list[int] = []

    def leave(code: int) -> None:
        left.append(code)
        body.may_end.set()

    working = threading.Thread(target=child.runner.drain, args=("gpu",))
    working.start()
    assert body.started.wait(30)
    child.stop(give_back_after_s=0.0, leave=leave)
    working.join(30)

    assert left == [0]
    # The late result was fenced off, and the second job was not taken.
    assert _jobs(wiring) == [("ready", 0), ("ready", 0)]


def test_a_job_that_ends_in_time_is_finished_and_no_other_is_taken(wiring: Wiring) -> None:
    body = _Slow()
    child = celery_role.Child(wiring, {"read": body})

    working = threading.Thread(target=child.runner.drain, args=("gpu",))
    working.start()
    assert body.started.wait(30)
    child.stop(give_back_after_s=60.0, leave=lambda _: None)
    body.may_end.set()
    working.join(30)

    assert _jobs(wiring) == [("done", 1), ("ready", 0)]


def test_a_child_without_a_parent_leaves_at_once_when_it_is_idle(wiring: Wiring) -> None:
    left: list[int] = []

    celery_role.Child(wiring, {}).end(give_back_after_s=60.0, leave=left.append)

    assert left == [0]


def test_a_child_without_a_parent_finishes_its_job_and_leaves(wiring: Wiring) -> None:
    body = _Slow()
    child = celery_role.Child(wiring, {"read": body})
    left: list[int] = []

    working = threading.Thread(target=child.runner.drain, args=("gpu",))
    working.start()
    assert body.started.wait(30)
    ending = threading.Thread(target=child.end, kwargs={"give_back_after_s": 60.0, "leave": left.append})
    ending.start()
    assert not left
    body.may_end.set()
    working.join(30)
    ending.join(30)

    assert left == [0]
    assert _jobs(wiring) == [("done", 1), ("ready", 0)]


def test_a_wake_up_before_the_child_is_ready_does_nothing(wiring: Wiring) -> None:
    celery_role.look("gpu")

    assert _jobs(wiring) == [("ready", 0), ("ready", 0)]


@pytest.mark.parametrize("role", QUEUES)
def test_a_role_knows_a_body_for_every_step_of_its_queue(role: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    app = celery_role.build_role_app(role, settings=Settings(data_directory=tmp_path_factory.mktemp("data")))

    assert app.main == role
    assert set(app.conf["wetread_bodies"]) == {step.name for step in STEPS if step.queue == role}
    assert "casebook.celery_role" in app.conf.include


@pytest.mark.parametrize("number", [0, 7, signal.SIGUSR1, 94_123_456])
def test_a_child_that_was_paused_is_not_told_to_stop(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    garbage = signal.struct_siginfo((number, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(signal, "sigtimedwait", lambda _signals, _timeout: garbage)

    assert not celery_role._is_told_to_stop()


def test_a_child_that_is_told_to_stop_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = signal.struct_siginfo((signal.SIGUSR2, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(signal, "sigtimedwait", lambda _signals, _timeout: told)

    assert celery_role._is_told_to_stop()
