"""Who runs, on every machine of an installation: one row per process, written again by it while it lives.

A row tells three things apart: a process that is gone or silent (`seen_at` stands still), one that is alive, and one
that gets on with its work (`progressed_at`). Every function runs inside the caller's transaction.
"""

import json
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from casebook import tables

#: Role name of the process that starts all others.
SUPERVISOR = "supervisor"
#: Seconds between two beats of a process.
BEAT_S = 5.0
#: Seconds without a beat after which a process counts as silent: longer than a database may keep one waiting.
SILENT_AFTER_S = 45.0
#: Seconds after which a silent process of another machine is forgotten; whoever cares has been told for a day.
_FORGOTTEN_AFTER_S = 86_400.0
_presence = tables.presence.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """One process that was ready for its work."""

    role: str
    host: str
    #: Which numbering of processes `pid` belongs to: containers of one host have their own.
    pid_namespace: int
    pid: int
    #: When the process was created, in clock ticks after the start of its machine: tells it from a later one with the
    #: same pid. Not a time of day, which may be set back.
    born_ticks: int
    #: Queue it works on; empty where it works on none.
    queue: str = ""
    #: When it was ready, when it was last seen and when it last got on with its work, seconds since the epoch.
    started_at: float = 0.0
    seen_at: float = 0.0
    progressed_at: float = 0.0
    #: The job in hand.
    job_id: int | None = None
    #: What an operator wants to know of it: port, model, version.
    facts: dict[str, str] = field(default_factory=dict)

    def is_silent(self, now: float) -> bool:
        """Whether it has not been seen for so long that something is wrong with it, or with its way to us."""
        return abs(now - self.seen_at) > SILENT_AFTER_S


def myself(role: str, *, queue: str = "", facts: dict[str, str] | None = None) -> Presence:
    """Return the presence of this process, not yet written."""
    pid = os.getpid()
    return Presence(
        role=role,
        host=_host(),
        pid_namespace=_pid_namespace(),
        pid=pid,
        born_ticks=_born_ticks(pid) or 0,
        queue=queue,
        facts=facts or {},
    )


def beat(connection: Connection, one: Presence, *, now: float, progressed_ago_s: float, job_id: int | None) -> None:
    """Write that a process lives; the first beat says that it is ready."""
    values = {"seen_at": now, "progressed_at": now - progressed_ago_s, "job_id": job_id}
    known = connection.execute(update(tables.presence).where(*_is(one)).values(values))
    if known.rowcount == 0:
        _insert(connection, one, now, values)


def _insert(connection: Connection, one: Presence, now: float, values: dict[str, Any]) -> None:
    # What stood under this pid was another process.
    connection.execute(delete(tables.presence).where(*_is_at_the_place_of(one)))
    connection.execute(
        insert(tables.presence),
        {
            "role": one.role,
            "host": one.host,
            "pid_namespace": one.pid_namespace,
            "pid": one.pid,
            "born_ticks": one.born_ticks,
            "queue": one.queue,
            "started_at": now,
            "facts": json.dumps(one.facts),
            **values,
        },
    )


def withdraw(connection: Connection, one: Presence) -> None:
    """Remove a process that ends as it was told to."""
    connection.execute(delete(tables.presence).where(*_is(one)))


def known(connection: Connection) -> tuple[Presence, ...]:
    """Return every process that is not known to have ended, by role; some may be silent."""
    rows = connection.execute(select(tables.presence).order_by(_presence.role, _presence.host, _presence.pid))
    return tuple(one for one in map(_to_presence, rows) if not is_gone(one))


def present(connection: Connection, *, now: float) -> tuple[Presence, ...]:
    """Return the processes that are ready and alive, by role."""
    return tuple(one for one in known(connection) if not one.is_silent(now))


def forget_the_dead(connection: Connection, *, now: float) -> None:
    """Remove processes of this machine that are gone, and those of others that nobody has seen for a day."""
    rows = [_to_presence(row) for row in connection.execute(select(tables.presence).order_by(_presence.id))]
    for one in rows:
        if is_gone(one) or now - one.seen_at > _FORGOTTEN_AFTER_S:
            withdraw(connection, one)


def withdraw_all(connection: Connection, pids: Collection[int]) -> None:
    """Remove processes of this machine that were ended together."""
    connection.execute(
        delete(tables.presence).where(
            _presence.host == _host(), _presence.pid_namespace == _pid_namespace(), _presence.pid.in_(pids)
        )
    )


def is_here(one: Presence) -> bool:
    """Whether a process runs on this machine, among the processes we can see."""
    return (one.host, one.pid_namespace) == (_host(), _pid_namespace())


def is_gone(one: Presence) -> bool:
    """Whether a process has ended for sure, as only its own machine can tell."""
    return is_here(one) and _born_ticks(one.pid) != one.born_ticks


def _born_ticks(pid: int) -> int | None:
    """Return when a process of this machine was created, None where it has ended; see proc(5)."""
    try:
        # The name of the program stands in brackets and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def _is_at_the_place_of(one: Presence) -> tuple[Any, ...]:
    return _presence.host == one.host, _presence.pid_namespace == one.pid_namespace, _presence.pid == one.pid


def _is(one: Presence) -> tuple[Any, ...]:
    return *_is_at_the_place_of(one), _presence.born_ticks == one.born_ticks


def _to_presence(row: Row[Any]) -> Presence:
    names = [name for name in Presence.__dataclass_fields__ if name != "facts"]
    return replace(Presence(**{name: getattr(row, name) for name in names}), facts=json.loads(row.facts))


def _host() -> str:
    return socket.gethostname()[:64]


@cache
def _pid_namespace() -> int:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0
