"""What ends a process that cannot go on: a job past its limit, a lost lease, a thread without which it would be deaf.

Nothing here touches the database or waits for anything, because what hangs may be just that. Whoever started the
process starts it again, and the queue of record gives its job to the next one.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from typing import Any

from casebook.errors import LostLease
from casebook.logs import get_logger

#: Seconds for which a body may go on after its lease was lost: a message on the wire is finished, a model stops.
GRACE_AFTER_LOSS_S = 20.0
#: Seconds after which the kernel ends the process where the watchdog could not: its thread needs the interpreter, and
#: a driver may never give that back.
_KERNEL_WAITS_S = 5.0
_LOOK_S = 0.5
_log = get_logger()


class ExitCode(IntEnum):
    """Why a process ended itself."""

    #: A job ran past its hard limit.
    JOB_HUNG = 70
    #: A body went on with a job that another worker may have.
    LEASE_LOST = 71
    #: The `read` step met an error nobody foresaw; what it left on the device would meet the next study.
    STEP_BROKE = 72
    #: A thread failed by which the process lives.
    THREAD_FAILED = 73


class Watched:
    """One piece of work under watch."""

    def __init__(self, watchdog: "Watchdog", ends_at: float, facts: dict[str, Any]) -> None:
        self._watchdog = watchdog
        self._ends_at = ends_at
        self.facts = facts
        self.is_lost = False

    @property
    def ends_at(self) -> float:
        """When the process ends for it, on the watchdog's clock."""
        return self._ends_at

    def lose(self) -> None:
        """Learn that another worker may have the job: the body has to end soon."""
        self.is_lost = True
        self._ends_at = min(self._ends_at, self._watchdog.now() + GRACE_AFTER_LOSS_S)
        self._watchdog.arm(self)


#: The work of the thread that asks.
_in_hand: ContextVar[Watched | None] = ContextVar("in_hand", default=None)


def go_on() -> None:
    """Return where the job in hand is still ours; called by bodies between two pieces of long work.

    Raises
    ------
    LostLease
        When another worker may have it.
    """
    watched = _in_hand.get()
    if watched is not None and watched.is_lost:
        raise LostLease


def _no_timer(_seconds: float) -> None:
    """Set no timer: a process that also does other things keeps its own."""


def kernel_timer(seconds: float) -> None:
    """Let the kernel end this process after some seconds, whatever its threads do; 0 takes that back."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


class Watchdog:
    """Ends this process when a piece of work takes too long; one thread, one piece of work at a time."""

    def __init__(
        self,
        hard_limit_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        leave: Callable[[int], Any] = os._exit,
        timer: Callable[[float], None] = _no_timer,
    ) -> None:
        """Take how long a piece of work may take.

        Parameters
        ----------
        clock
            A monotonic one. It goes on while the process is stopped: so does the lease.
        leave
            Ends the process.
        timer
            Sets what ends it where `leave` is never reached; see `kernel_timer`.
        """
        self._hard_limit_s = hard_limit_s
        self.now = clock
        self._leave = leave
        self._timer = timer
        self._watched: Watched | None = None

    @property
    def watched(self) -> Watched | None:
        """The work in hand."""
        return self._watched

    def start(self) -> None:
        """Look from now on; only in the main thread."""
        # The default, which ends the process: billiard sets a handler, and a handler needs the interpreter.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        start_vital(self._look_for_ever, name="watchdog", leave=self._leave)

    @contextmanager
    def watch(self, **facts: Any) -> Iterator[Watched]:
        """Watch the block.

        Parameters
        ----------
        facts
            What the log says of it, should the process end for it.
        """
        watched = Watched(self, self.now() + self._hard_limit_s, facts)
        token = _in_hand.set(watched)
        self._watched = watched
        self.arm(watched)
        try:
            yield watched
        finally:
            self._watched = None
            self._timer(0)
            _in_hand.reset(token)

    def arm(self, watched: Watched) -> None:
        """Set the kernel's timer behind the end of a piece of work."""
        if watched is self._watched:
            self._timer(max(0.0, watched.ends_at - self.now()) + _KERNEL_WAITS_S)

    def look(self) -> None:
        """End the process if the work in hand has had its time; the body of the thread."""
        watched = self._watched
        if watched is None or self.now() < watched.ends_at:
            return
        code = ExitCode.LEASE_LOST if watched.is_lost else ExitCode.JOB_HUNG
        _log.error("process_ended_itself", reason=code.name.lower(), exit_code=int(code), **watched.facts)
        self._watched = None
        self._leave(code)

    def _look_for_ever(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            self.look()


def start_vital(target: Callable[[], None], *, name: str, leave: Callable[[int], Any] = os._exit) -> threading.Thread:
    """Start a thread by which the process lives: an error in it ends the process, which would be deaf without it.

    Parameters
    ----------
    target
        Returns only when its work is done.
    """

    def run() -> None:
        try:
            target()
        except BaseException as error:  # noqa: BLE001 - the process edge of a thread
            code = ExitCode.THREAD_FAILED
            _log.error(
                "process_ended_itself", reason=code.name.lower(), exit_code=int(code), state=name, exc_info=error
            )
            leave(code)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
