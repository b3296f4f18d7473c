"""A connection to PostgreSQL that does not wait for ever: a server that says nothing any more is lost.

The server's own limits (`statement_timeout`) help only while its answers arrive, and those of TCP only while nothing
between us and it acknowledges our bytes: behind a proxy or a load balancer whose server is gone, neither ends a wait.
"""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.waiting import READY_NONE

_T = TypeVar("_T")
#: Seconds between two looks at the clock while nothing comes.
_LOOK_S = 0.1


class BoundedConnection(psycopg.Connection[Any]):
    """One that is closed when its server was silent for too long during one operation."""

    #: Seconds.
    longest_answer_s = 35.0

    def wait(self, gen: Any, interval: float = _LOOK_S, timeout: float | None = None) -> Any:
        """Let psycopg wait for the socket on behalf of one operation.

        Raises
        ------
        psycopg.OperationalError
            When the server stays silent.
        """
        return super().wait(self._bounded(gen), interval, timeout)

    def _bounded(self, operation: Generator[Any, Any, _T]) -> Generator[Any, Any, _T]:
        deadline = time.monotonic() + self.longest_answer_s
        try:
            wanted = next(operation)
            while True:
                ready = yield wanted
                # Not after bytes: a process that was stopped finds the answer waiting for it.
                if ready == READY_NONE and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("the database server does not answer any more")
                wanted = operation.send(ready)
        except StopIteration as ended:
            result: _T = ended.value
            return result


def connect(longest_answer_s: float, *arguments: Any, **options: Any) -> BoundedConnection:
    """Connect as psycopg does.

    Parameters
    ----------
    longest_answer_s
        How long one operation may wait for the server, in seconds.
    """
    connection = BoundedConnection.connect(*arguments, **options)
    connection.longest_answer_s = longest_answer_s
    return connection
