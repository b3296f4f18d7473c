"""The queue of record: a job is a row, a claim is one statement, and every later write carries the fence.

Losing, repeating or reordering wake-up messages cannot lose or repeat work, because only these rows decide.
Every function runs inside the caller's transaction; a `LostLease` must roll it back.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Integer, Row, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningUpdate

from casebook import tables
from casebook.case import Job, JobState
from casebook.errors import LostLease

#: Seconds of waiting that weigh as much as one step of priority.
_AGEING_S = 600.0
_WAITING = (JobState.READY, JobState.RETRY)
_job = tables.job.c
_attempt = tables.attempt.c


def _claim_statement(*, skip_locked: bool) -> ReturningUpdate[Any]:
    due = (
        select(_job.id)
        .where(_job.queue == bindparam("of_queue"), _job.state.in_(_WAITING), _job.run_after <= bindparam("at"))
        .order_by(_job.priority * _AGEING_S + _job.run_after, _job.id)
        .limit(bindparam("most", type_=Integer))
    )
    # A CTE and no subquery: PostgreSQL may run a subquery again for each row, and would claim more than the limit.
    chosen = (due.with_for_update(skip_locked=True) if skip_locked else due).cte("chosen")
    return (
        update(tables.job)
        .where(_job.id.in_(select(chosen.c.id)))
        .values(
            state=JobState.RUNNING,
            fence=_job.fence + 1,
            attempt=_job.attempt + 1,
            owner=bindparam("new_owner"),
            lease_until=bindparam("until"),
        )
        .returning(*tables.job.c)
    )


# Built once: putting a statement together takes longer than SQLite takes to answer it.
_CLAIM = _claim_statement(skip_locked=False)
_CLAIM_SKIPPING = _claim_statement(skip_locked=True)
_ADD_JOB = {
    # RETURNING and not the row count: drivers count an insert that returns its key differently.
    dialect.dialect.name: dialect.insert(tables.job)
    .on_conflict_do_nothing(index_elements=["idempotency_key"])
    .returning(_job.id)
    for dialect in (sqlite, postgresql)
}
_ADD_ATTEMPT = insert(tables.attempt)
_END_ATTEMPT = update(tables.attempt).where(
    _attempt.job_id == bindparam("of_job"), _attempt.fence == bindparam("of_fence")
)
_GUARDED = update(tables.job).where(
    _job.id == bindparam("of_job"), _job.fence == bindparam("of_fence"), _job.state == JobState.RUNNING
)
_EXPIRED = (
    select(*tables.job.c)
    .where(_job.state == JobState.RUNNING, _job.lease_until < bindparam("at"))
    .order_by(_job.lease_until)
    .limit(bindparam("most", type_=Integer))
)
_DUE_QUEUES = (
    select(_job.queue)
    .where(_job.state.in_(_WAITING), _job.run_after <= bindparam("at"))
    .distinct()
    .order_by(_job.queue)
)


def enqueue(
    connection: Connection,
    *,
    step: str,
    queue: str,
    idempotency_key: str,
    study_instance_uid: str,
    generation: int,
    max_attempts: int,
    now: float,
    subject: str = "",
    priority: int = 5,
) -> bool:
    """Add a job in the transaction of the row that asks for it; say whether it is new.

    The idempotency key makes a repeated request a no-op.
    """
    values = {
        "step": step,
        "queue": queue,
        "idempotency_key": idempotency_key,
        "study_instance_uid": study_instance_uid,
        "generation": generation,
        "subject": subject,
        "priority": priority,
        "max_attempts": max_attempts,
        "state": JobState.READY,
        "run_after": now,
        "created_at": now,
    }
    added = connection.execute(_ADD_JOB[connection.dialect.name], values)
    return added.first() is not None


def claim(connection: Connection, *, queue: str, owner: str, lease_s: float, now: float, limit: int = 1) -> list[Job]:
    """Take up to `limit` due jobs of a queue, most urgent first, and raise their fences."""
    taken = connection.execute(
        _CLAIM_SKIPPING if connection.dialect.name == "postgresql" else _CLAIM,
        {"of_queue": queue, "at": now, "most": limit, "new_owner": owner, "until": now + lease_s},
    ).all()
    if taken:
        connection.execute(
            _ADD_ATTEMPT,
            [{"job_id": row.id, "fence": row.fence, "owner": owner, "started_at": now} for row in taken],
        )
    ordered = sorted(taken, key=lambda row: (row.priority * _AGEING_S + row.run_after, row.id))
    return [_to_job(row) for row in ordered]


def renew(connection: Connection, job: Job, *, lease_until: float) -> None:
    """Extend the lease.

    Raises
    ------
    LostLease
        When the job is no longer ours.
    """
    _guarded(connection, job, lease_until=lease_until)


def finish(connection: Connection, job: Job, *, now: float) -> None:
    """Mark the job done; the caller commits its result in the same transaction.

    Raises
    ------
    LostLease
        When the job is no longer ours: the result must not be written.
    """
    _guarded(connection, job, state=JobState.DONE, owner=None, lease_until=None, finished_at=now, reason="", detail="")
    _end_attempt(connection, job, now=now, result="done")


def retry(
    connection: Connection,
    job: Job,
    *,
    now: float,
    wait_s: float,
    reason: str,
    detail: str,
    max_attempts: int | None = None,
) -> None:
    """Give the job back for a later attempt.

    Parameters
    ----------
    max_attempts
        What it may take from now on; None: as before.

    Raises
    ------
    LostLease
        When the job is no longer ours.
    """
    _guarded(
        connection,
        job,
        state=JobState.RETRY,
        owner=None,
        lease_until=None,
        run_after=now + wait_s,
        max_attempts=job.max_attempts if max_attempts is None else max_attempts,
        reason=reason,
        detail=detail,
    )
    _end_attempt(connection, job, now=now, result="retry", reason=reason)


def bury(connection: Connection, job: Job, *, now: float, reason: str, detail: str) -> None:
    """Give the job up until a person retries it.

    Raises
    ------
    LostLease
        When the job is no longer ours.
    """
    _guarded(
        connection,
        job,
        state=JobState.DEAD,
        owner=None,
        lease_until=None,
        finished_at=now,
        reason=reason,
        detail=detail,
    )
    _end_attempt(connection, job, now=now, result="dead", reason=reason)


def release(connection: Connection, job: Job, *, now: float) -> None:
    """Give an unfinished job back uncounted, because this worker was told to stop.

    Raises
    ------
    LostLease
        When the job is no longer ours.
    """
    _guarded(
        connection, job, state=JobState.READY, owner=None, lease_until=None, run_after=now, attempt=job.attempt - 1
    )
    _end_attempt(connection, job, now=now, result="released")


def expired(connection: Connection, *, now: float, limit: int = 100) -> list[Job]:
    """Return running jobs whose lease has passed; the caller fails each under its fence."""
    rows = connection.execute(_EXPIRED, {"at": now, "most": limit})
    return [_to_job(row) for row in rows]


def is_expired(connection: Connection, job: Job, *, now: float) -> bool:
    """Say whether the lease of a job has still passed, and keep its worker from renewing it until we are done."""
    found = connection.execute(
        select(_job.id)
        .where(_job.id == job.id, _job.fence == job.fence, _job.state == JobState.RUNNING, _job.lease_until < now)
        .with_for_update()
    ).one_or_none()
    return found is not None


def due_queues(connection: Connection, *, now: float) -> list[str]:
    """Return the queues in which a job waits for a worker."""
    rows = connection.execute(_DUE_QUEUES, {"at": now})
    return [row.queue for row in rows]


def supersede(
    connection: Connection,
    *,
    study_instance_uid: str,
    now: float,
    steps: Sequence[str],
    reason: str,
    subject: str | None = None,
) -> int:
    """End every unfinished job of these steps of a study; a worker that holds one is fenced off.

    Parameters
    ----------
    subject
        Only jobs about this.

    Returns
    -------
        How many jobs were ended.
    """
    ended = connection.execute(
        update(tables.job)
        .where(
            _job.study_instance_uid == study_instance_uid,
            _job.step.in_(steps),
            _job.state.in_((*_WAITING, JobState.RUNNING, JobState.DEAD)),
            *(() if subject is None else (_job.subject == subject,)),
        )
        .values(
            state=JobState.SUPERSEDED,
            fence=_job.fence + 1,
            owner=None,
            lease_until=None,
            finished_at=now,
            reason=reason,
        )
    )
    return ended.rowcount


def revive(connection: Connection, *, study_instance_uid: str, now: float) -> int:
    """Make the dead jobs of a study ready again with fresh attempts, because a person said so."""
    revived = connection.execute(
        update(tables.job)
        .where(_job.study_instance_uid == study_instance_uid, _job.state == JobState.DEAD)
        .values(state=JobState.READY, attempt=0, run_after=now, finished_at=None, reason="", detail="")
    )
    return revived.rowcount


def _guarded(connection: Connection, job: Job, **values: Any) -> None:
    changed = connection.execute(_GUARDED, {"of_job": job.id, "of_fence": job.fence, **values})
    if changed.rowcount != 1:
        raise LostLease


def _end_attempt(connection: Connection, job: Job, *, now: float, result: str, reason: str = "") -> None:
    connection.execute(
        _END_ATTEMPT,
        {"of_job": job.id, "of_fence": job.fence, "ended_at": now, "result": result, "reason": reason},
    )


_FIELDS: Iterable[str] = Job.__dataclass_fields__


def _to_job(row: Row[Any]) -> Job:
    return Job(**{name: getattr(row, name) for name in _FIELDS})
