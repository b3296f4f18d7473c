"""The heartbeat of a process: a thread that writes its row of `presence` again and again."""

import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from casebook import presence
from casebook.logs import get_logger
from casebook.presence import Presence
from casebook.watchdog import start_vital
from casebook.wiring import Wiring

_log = get_logger()


class Heartbeat:
    """Says that this process lives, and how it gets on."""

    def __init__(
        self,
        wiring: Wiring,
        role: str,
        *,
        queue: str = "",
        facts: dict[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what the process is.

        Parameters
        ----------
        queue
            The one it works on.
        facts
            What an operator wants to know of it: port, model, version.
        clock
            A monotonic one.
        """
        self._wiring = wiring
        self._one: Presence = presence.myself(role, queue=queue, facts=facts)
        self._clock = clock
        self._progressed = clock()
        self._job_id: int | None = None
        self._stopping = threading.Event()
        self._beats = True
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write that this process is ready, and go on beating."""
        self.beat()
        self._thread = start_vital(self._beat_for_ever, name="heartbeat")

    def stop(self) -> None:
        """Remove the row: this process ends as it was told to."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        try:
            with self._wiring.write() as connection:
                presence.withdraw(connection, self._one)
        except SQLAlchemyError as error:
            _log.warning("heartbeat_not_written", exc_info=error)

    def progressed(self, job_id: int | None = None) -> None:
        """Learn that the process got on with its work.

        Parameters
        ----------
        job_id
            The job in hand from now on; None: there is none.
        """
        self._progressed = self._clock()
        self._job_id = job_id

    def beat(self) -> None:
        """Write the row once, and clear away those of processes that are gone; a database may be away."""
        try:
            with self._wiring.write() as connection:
                now = self._wiring.clock.now(connection)
                presence.forget_the_dead(connection, now=now)
                presence.beat(
                    connection,
                    self._one,
                    now=now,
                    progressed_ago_s=self._clock() - self._progressed,
                    job_id=self._job_id,
                )
        except SQLAlchemyError as error:
            # Once: a database that is away is everybody's trouble, and everybody says so.
            if self._beats:
                _log.warning("heartbeat_not_written", exc_info=error)
            self._beats = False
        else:
            self._beats = True

    def _beat_for_ever(self) -> None:
        while not self._stopping.wait(presence.BEAT_S):
            self.beat()
