"""The one clock that decides: quiet periods, leases and times of retry are written and compared by it alone."""

import time
from typing import Protocol

from sqlalchemy import Connection, text


class Clock(Protocol):
    """Tells the time of the queue of record."""

    def now(self, connection: Connection) -> float:
        """Return seconds since the epoch, UTC."""
        ...


class DatabaseClock:
    """The clock of the database server where there is one, so that nothing depends on the hosts' clocks."""

    def now(self, connection: Connection) -> float:
        """Return seconds since the epoch, UTC."""
        if connection.dialect.name == "postgresql":
            return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
        return time.time()
