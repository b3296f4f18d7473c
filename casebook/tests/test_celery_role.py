"""A role's child: what it does with the job in hand when it is told to stop."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from sqlalchemy import select, update

from casebook import celery_role, intake, queue, tables
from casebook.case import Case
from casebook.errors import Retryable
from casebook.flow import QUEUES, STEPS
from casebook.outcomes import Outcome, Refused
from casebook.settings import QueueSettings, Settings
from casebook.sweeper import sweep
from casebook.testing import FrozenClock, a_received_instance, a_wiring, sqlite_database
from casebook.watchdog import GRACE_AFTER_LOSS_S, ExitCode, Watchdog
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


class _Ended(BaseException):
    """Stands for the end of the process."""


def _end(code: int) -> None:
    raise _Ended(code)


def _break_down(_case: Case, _settings: Settings) -> Outcome:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_an_unforeseen_error_of_read_counts_one_attempt_of_its_job_and_ends_the_process(wiring: Wiring) -> None:
    child = celery_role.Child(wiring, {"read": _break_down}, leave=_end)

    with pytest.raises(_Ended) as ended:
        child.runner.drain("gpu")

    assert ended.value.args == (ExitCode.STEP_BROKE,)
    # What the fault left on the device never met the second study.
    assert _jobs(wiring) == [("retry", 1), ("ready", 0)]


def test_an_error_of_ours_in_read_ends_nothing(wiring: Wiring) -> None:
    def wait(_case: Case, _settings: Settings) -> Outcome:
        raise Retryable

    celery_role.Child(wiring, {"read": wait}, leave=_end).runner.drain("gpu")

    assert _jobs(wiring) == [("retry", 1), ("retry", 1)]


def test_an_unforeseen_error_of_another_step_ends_nothing(wiring: Wiring) -> None:
    with wiring.write() as connection:
        connection.execute(update(tables.job).values(step="classify"))

    celery_role.Child(wiring, {"classify": _break_down}, leave=_end).runner.drain("gpu")

    assert {state for state, _ in _jobs(wiring)} == {"retry"}


def test_a_read_that_hangs_and_is_superseded_does_not_keep_its_process(wiring: Wiring) -> None:
    impatient = replace(wiring, settings=Settings(queue=QueueSettings(lease_s=0.06)))
    body, left, at = _Slow(), list[int](), [0.0]
    watchdog = Watchdog(900.0, clock=lambda: at[0], leave=left.append)
    child = celery_role.Child(impatient, {"read": body}, watchdog=watchdog)
    working = threading.Thread(target=child.runner.run_one, args=("gpu",))
    working.start()
    assert body.started.wait(30)
    with wiring.write() as connection:
        queue.supersede(
            connection, study_instance_uid="1.2.3", now=wiring.clock.now(connection), steps=["read"], reason="test"
        )

    assert _until(lambda: watchdog.watched is not None and watchdog.watched.is_lost)
    at[0] += GRACE_AFTER_LOSS_S
    watchdog.look()
    body.may_end.set()
    working.join(30)

    assert left == [ExitCode.LEASE_LOST]


def _until(look: Callable[[], bool]) -> bool:
    again = threading.Event()
    for _ in range(600):
        if look():
            return True
        again.wait(0.05)
    return False


def test_only_a_child_that_blocks_the_stop_signal_is_sent_it() -> None:
    program = "import signal, sys; {} print(flush=True); sys.stdin.read()"
    answers = []
    for line in ("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]);", ""):
        command = [sys.executable, "-c", program.format(line)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            answers.append(celery_role._blocks_the_stop_signal(child.pid))

    assert answers == [True, False]


class _Pool:
    """As much of Celery's pool as a parent looks at."""

    def __init__(self) -> None:
        self.info = {"processes": [1, 2]}
        self.may_end = threading.Event()
        self._pool = SimpleNamespace(_task_handler=threading.Thread(target=self.may_end.wait, daemon=True))
        self._pool._task_handler.start()


def test_a_parent_ends_with_the_thread_that_gives_work_to_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = _Pool()
    monkeypatch.setattr(celery_role._parent, "pool", pool)
    monkeypatch.setattr(os, "_exit", _end)
    pool.may_end.set()

    with pytest.raises(_Ended):
        celery_role._end_with_a_lost_child()
