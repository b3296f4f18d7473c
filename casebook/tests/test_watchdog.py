"""What ends a process that cannot go on, without the database and without the interpreter where need be."""

import signal
import subprocess
import sys
import threading

import pytest

from casebook import watchdog
from casebook.errors import LostLease
from casebook.watchdog import GRACE_AFTER_LOSS_S, ExitCode, Watchdog, go_on, start_vital


class Bench:
    """A watchdog with a clock that stands still, whose process does not really end."""

    def __init__(self, hard_limit_s: float = 60.0) -> None:
        self.at = 1000.0
        self.left: list[int] = []
        #: What the kernel was told last; None: its timer was taken back.
        self.timer: float | None = None
        self.watchdog = Watchdog(
            hard_limit_s,
            clock=lambda: self.at,
            leave=self.left.append,
            timer=lambda s: setattr(self, "timer", s or None),
        )

    def after(self, seconds: float) -> list[int]:
        self.at += seconds
        self.watchdog.look()
        return self.left


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_work_within_its_limit_is_left_alone(bench: Bench) -> None:
    with bench.watchdog.watch(job=1):
        assert bench.after(59.9) == []
    assert bench.after(1000.0) == []


def test_work_past_its_limit_ends_the_process(bench: Bench) -> None:
    with bench.watchdog.watch(job=1, step="read"):
        assert bench.after(60.0) == [ExitCode.JOB_HUNG]


def test_work_that_another_one_has_ends_the_process_soon(bench: Bench) -> None:
    with bench.watchdog.watch(job=1) as watched:
        watched.lose()
        assert bench.after(GRACE_AFTER_LOSS_S - 0.1) == []
        assert bench.after(0.1) == [ExitCode.LEASE_LOST]


def test_a_lost_lease_gives_no_more_time_than_the_limit(bench: Bench) -> None:
    with bench.watchdog.watch(job=1) as watched:
        bench.at += 59.0
        watched.lose()
        assert bench.after(1.0) == [ExitCode.LEASE_LOST]


def test_the_next_job_has_its_own_time(bench: Bench) -> None:
    with bench.watchdog.watch(job=1):
        bench.at += 59.0
    with bench.watchdog.watch(job=2):
        assert bench.after(59.0) == []


def test_a_body_learns_that_its_job_is_no_longer_its_own(bench: Bench) -> None:
    go_on()
    with bench.watchdog.watch(job=1) as watched:
        go_on()
        watched.lose()
        with pytest.raises(LostLease):
            go_on()
    go_on()


def test_the_kernel_is_told_to_end_what_the_watchdog_cannot(bench: Bench) -> None:
    with bench.watchdog.watch(job=1) as watched:
        assert bench.timer == pytest.approx(65.0)
        watched.lose()
        assert bench.timer == pytest.approx(GRACE_AFTER_LOSS_S + 5.0)
    assert bench.timer is None


_KEEPS_THE_INTERPRETER = """
import ctypes, signal
from casebook import watchdog
# As billiard may leave it: a handler needs the interpreter.
signal.signal(signal.SIGALRM, lambda *_: None)
watchdog._KERNEL_WAITS_S = 0.2
watching = watchdog.Watchdog(0.1, timer=watchdog.kernel_timer)
watching.start()
with watching.watch(job=1):
    ctypes.PyDLL(None).sleep(100)
"""


def test_a_driver_that_never_gives_the_interpreter_back_ends_with_its_process() -> None:
    ended = subprocess.run([sys.executable, "-c", _KEEPS_THE_INTERPRETER], timeout=90, check=False)

    assert ended.returncode == -signal.SIGALRM


_HANGS = """
import time
from casebook import watchdog
watching = watchdog.Watchdog(0.1)
watching.start()
with watching.watch(job=1, step="read"):
    time.sleep(100)
"""


def test_a_process_that_hangs_ends_itself_with_one_line_that_says_why() -> None:
    ended = subprocess.run([sys.executable, "-c", _HANGS], capture_output=True, text=True, timeout=90, check=False)

    assert ended.returncode == ExitCode.JOB_HUNG
    assert ended.stdout.count("job_hung") == 1


def test_an_error_in_a_thread_by_which_the_process_lives_ends_it() -> None:
    def fail() -> None:
        raise ValueError

    left: list[int] = []
    start_vital(fail, name="stop", leave=left.append).join(30)

    assert left == [ExitCode.THREAD_FAILED]


def test_a_thread_whose_work_is_done_ends_nothing() -> None:
    done, left = threading.Event(), list[int]()
    start_vital(done.set, name="stop", leave=left.append).join(30)

    assert done.is_set()
    assert left == []


def test_the_exit_codes_are_those_of_the_manual() -> None:
    assert {one.name: int(one) for one in watchdog.ExitCode} == {
        "JOB_HUNG": 70,
        "LEASE_LOST": 71,
        "STEP_BROKE": 72,
        "THREAD_FAILED": 73,
    }
