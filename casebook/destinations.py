"""Where results go, as the queue of record knows it: whether a destination fails, since when, and what it accepted.

Every function runs inside the caller's transaction. Whoever changes a destination and a job of it locks the
destination first: a claim holds its row while it looks for a job.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sqlalchemy import Connection, ScalarSelect, func, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite

from casebook import tables
from casebook.case import Job, JobState
from casebook.settings import QueueSettings

#: SOP Class UID to the transfer syntaxes that were accepted for it.
Negotiated = Mapping[str, Sequence[str]]

#: Kind of a destination by the kind of output that goes there.
KIND_OF_OUTPUT = {"sr": "dicom", "oru": "hl7"}
_destination = tables.destination.c
_job = tables.job.c
_columns = [one for one in tables.destination.c if one.name != "suspect_job_id"]
_ADD = {
    dialect.dialect.name: dialect.insert(tables.destination).on_conflict_do_nothing()
    for dialect in (sqlite, postgresql)
}


def _count(words: str) -> ScalarSelect[Any]:
    return (
        select(func.count())
        .where(_job.lock == _destination.name, literal_column(f"job.{tables.HAS_LOCK}"), literal_column(f"job.{words}"))
        .correlate(tables.destination)
        .scalar_subquery()
    )


_EVERY = select(*_columns, (_count(tables.IS_WAITING) + _count(tables.IS_RUNNING)).label("backlog")).order_by(
    _destination.name
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """How it stands with one destination."""

    name: str
    kind: str
    #: In seconds since the epoch; None while it works.
    failing_since: float | None
    #: Nobody tries it before, while it fails; in seconds since the epoch.
    next_try: float
    #: Why it failed last.
    reason: str
    #: The same as a sentence.
    detail: str
    #: What it accepted in its last association; empty where there was none.
    negotiated: Negotiated
    negotiated_at: float | None
    #: Results that wait for it.
    backlog: int


def register(connection: Connection, name: str, kind: str) -> None:
    """Add a destination that is not known, before the first job for it."""
    values = {"name": name, "kind": kind}
    connection.execute(_ADD[connection.dialect.name], values)
    connection.execute(
        update(tables.destination).where(_destination.name == name, _destination.kind != kind).values(kind=kind)
    )


def lock(connection: Connection, name: str) -> None:
    """Keep others from claiming jobs of a destination until the transaction ends; nothing where it is not known."""
    connection.execute(select(_destination.name).where(_destination.name == name).with_for_update())


def every(connection: Connection) -> tuple[Destination, ...]:
    """Return every destination by its name."""
    rows = connection.execute(_EVERY)
    found = []
    for row in rows:
        values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
        values["negotiated"] = json.loads(row.negotiated) if row.negotiated else {}
        found.append(Destination(**values))
    return tuple(found)


def failing(connection: Connection) -> tuple[Destination, ...]:
    """Return the destinations that fail, by name."""
    return tuple(one for one in every(connection) if one.failing_since is not None)


def wait_s(limits: QueueSettings, *, failing_since: float, now: float, random: Random) -> float:
    """Return how long to wait for somebody who does not answer: about as long as it has lasted, up to the cap."""
    longest_s = min(limits.backoff_cap_s, max(limits.backoff_first_s, now - failing_since))
    return longest_s * random.uniform(0.5, 1.0)


def note_failure(
    connection: Connection, job: Job, *, reason: str, detail: str, limits: QueueSettings, now: float, random: Random
) -> float:
    """Note that a destination did not take a job; return when this job may be tried again.

    One job that fails may be at fault itself, so another one is tried at once. When that fails too, the destination
    is at fault: nobody tries it for some time, and then its jobs go on in their order.
    """
    lock(connection, job.lock)
    row = connection.execute(select(*tables.destination.c).where(_destination.name == job.lock)).one()
    since = now if row.failing_since is None else row.failing_since
    pause_s = wait_s(limits, failing_since=since, now=now, random=random)
    is_alone = row.suspect_job_id in (None, job.id)
    connection.execute(
        update(tables.destination)
        .where(_destination.name == job.lock)
        .values(
            failing_since=since,
            next_try=now if is_alone else now + pause_s,
            suspect_job_id=job.id if is_alone else None,
            reason=reason,
            detail=detail,
        )
    )
    if is_alone:
        return now + pause_s
    _bring_forward(connection, row.suspect_job_id, now)
    return now


def note_answer(connection: Connection, name: str, *, limits: QueueSettings, now: float) -> None:
    """Note that a destination answered as it should: it does not fail any more."""
    query = select(*tables.destination.c).where(_destination.name == name, _destination.failing_since.is_not(None))
    if connection.execute(query).first() is None:
        return  # As nearly always: a destination that works is not locked.
    lock(connection, name)
    row = connection.execute(query).one_or_none()
    if row is None:
        return
    connection.execute(
        update(tables.destination)
        .where(_destination.name == name)
        .values(failing_since=None, next_try=0.0, suspect_job_id=None)
    )
    # What failed a moment ago while this went through is at fault itself, and waits; what failed before is next.
    if row.suspect_job_id is not None and row.next_try < now - limits.backoff_first_s:
        _bring_forward(connection, row.suspect_job_id, now)


def note_negotiated(connection: Connection, name: str, negotiated: Negotiated, *, now: float) -> None:
    """Keep what a destination accepted in its last association, where it is not what it accepted before."""
    text = json.dumps({uid: list(syntaxes) for uid, syntaxes in sorted(negotiated.items())})
    connection.execute(
        update(tables.destination)
        .where(_destination.name == name, _destination.negotiated != text)
        .values(negotiated=text, negotiated_at=now)
    )


def _bring_forward(connection: Connection, job_id: int, now: float) -> None:
    connection.execute(
        update(tables.job)
        .where(_job.id == job_id, _job.state == JobState.RETRY, _job.run_after > now)
        .values(run_after=now)
    )
