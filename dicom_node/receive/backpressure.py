"""How long an answer is held back while rows lag behind: a sender that waits goes on, one that is refused may not."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from casebook.errors import StoreUnavailable

#: A held-back answer looks again this often.
_LOOK_INTERVAL_S = 0.02


class Keeps(Protocol):
    """Who says whether rows keep up."""

    @property
    def keeps_up(self) -> bool:
        """False while rows lag or the database refuses."""
        ...


class Backpressure:
    """Slows every sender of a process down to what the index takes, for so long, and refuses only then."""

    def __init__(self, index: Keeps, longest_delay_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take whose pace counts and for how long senders wait for it."""
        self._index = index
        self._longest_delay_s = longest_delay_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        #: On the monotonic clock; None while rows keep up.
        self._behind_since: float | None = None
        self._pause = threading.Event()

    @property
    def is_bearable(self) -> bool:
        """Whether rows keep up, or have lagged for less than senders wait."""
        with self._lock:
            if self._index.keeps_up:
                self._behind_since = None
                return True
            now = self._monotonic()
            if self._behind_since is None:
                self._behind_since = now
            return now - self._behind_since < self._longest_delay_s

    def require_bearable(self) -> None:
        """Refuse at once what would be refused in the end.

        Raises
        ------
        StoreUnavailable
        """
        if not self.is_bearable:
            raise StoreUnavailable

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Return once rows keep up.

        Parameters
        ----------
        meanwhile
            Called at each look.

        Raises
        ------
        StoreUnavailable
            When they lag for too long.
        """
        while not self._index.keeps_up:
            self.require_bearable()
            meanwhile()
            self._pause.wait(_LOOK_INTERVAL_S)
