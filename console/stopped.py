"""Ends processes that stay stopped: nothing inside a stopped process can, and its place stays taken."""

import time
from collections.abc import Callable, Iterable

import psutil

from casebook.logs import get_logger

#: Stopped by a signal, or by a debugger.
_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
#: Between two looks no more than this counts: whoever looks may have been stopped as well.
_LONGEST_STEP_S = 3.0
_log = get_logger()


class StoppedProcesses:
    """How long processes have been stopped."""

    def __init__(self, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take how long a process may be stopped, in seconds, and a monotonic clock."""
        self._longest_s = longest_s
        self._clock = clock
        self._looked_at = clock()
        self._stopped_s: dict[psutil.Process, float] = {}

    def look(self, family: Iterable[psutil.Process]) -> None:
        """Look at every process once, and kill those that were stopped for too long; whoever started them goes on."""
        now = self._clock()
        step_s, self._looked_at = min(now - self._looked_at, _LONGEST_STEP_S), now
        stopped = [one for one in family if _is_stopped(one)]
        self._stopped_s = {one: self._stopped_s.get(one, -step_s) + step_s for one in stopped}
        for one, stopped_s in self._stopped_s.items():
            if stopped_s >= self._longest_s:
                _log.error("stopped_process_killed", pid=one.pid, limit=self._longest_s)
                _kill(one)


def _is_stopped(one: psutil.Process) -> bool:
    try:
        return one.status() in _STOPPED
    except psutil.Error:
        return False


def _kill(one: psutil.Process) -> None:
    try:
        one.kill()
    except psutil.Error:
        return
