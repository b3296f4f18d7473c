"""Processes that stay stopped are killed; a short pause harms nobody."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from console.stopped import StoppedProcesses


class Watching:
    """A look every second at one real process, on a clock that stands still in between."""

    def __init__(self, process: psutil.Process) -> None:
        self.at = 0.0
        self.process = process
        self.stopped = StoppedProcesses(longest_s=30.0, clock=lambda: self.at)

    def look(self, seconds: int) -> None:
        for _ in range(seconds):
            self.at += 1.0
            self.stopped.look([self.process])


@pytest.fixture
def watching() -> Iterator[Watching]:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
        yield Watching(psutil.Process(child.pid))
        child.kill()


def _wait_until_stopped(process: psutil.Process) -> None:
    while process.status() != psutil.STATUS_STOPPED:
        pass


def test_a_process_that_stays_stopped_is_killed(watching: Watching) -> None:
    watching.process.send_signal(signal.SIGSTOP)
    _wait_until_stopped(watching.process)
    watching.look(30)
    assert watching.process.status() == psutil.STATUS_STOPPED
    watching.look(1)

    assert watching.process.wait(30) == -signal.SIGKILL


def test_pauses_do_not_add_up(watching: Watching) -> None:
    for _ in range(3):
        watching.process.send_signal(signal.SIGSTOP)
        _wait_until_stopped(watching.process)
        watching.look(20)
        watching.process.send_signal(signal.SIGCONT)
        while watching.process.status() == psutil.STATUS_STOPPED:
            pass
        watching.look(1)

    assert watching.process.is_running()


def test_a_pause_of_the_one_who_looks_counts_for_nobody(watching: Watching) -> None:
    watching.process.send_signal(signal.SIGSTOP)
    _wait_until_stopped(watching.process)
    watching.look(1)
    # The whole machine was paused, and goes on in any order.
    watching.at += 3600.0
    watching.look(1)

    assert watching.process.status() == psutil.STATUS_STOPPED
