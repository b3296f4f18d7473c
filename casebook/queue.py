"""The queue of record: a job is a row, a claim is one statement, and every later write carries the fence.

Losing, repeating or reordering wake-up messages cannot lose or repeat work, because only these rows decide.
Every function runs inside the caller's transaction; a `LostLease` must roll it back.

A send carries the name of its destination as its lock: of one destination only some jobs run at one time, the first
that waits comes first, and one that takes nothing is left alone until its next try. So no destination delays another.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Float,
    Integer,
    Row,
    ScalarSelect,
    Select,
    String,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal_column,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.sql.elements import ColumnElement

from casebook import tables
from casebook.case import Job, JobState
from casebook.errors import LostLease

#: Seconds of waiting that weigh as much as one step of priority.
_AGEING_S = 600.0
#: How many jobs of one destination are in flight at one time, by its kind. A receiver of HL7 takes one message after
#: another, and its order is that of sending.
IN_FLIGHT = {"dicom": 2, "hl7": 1}
_WAITING = (JobState.READY, JobState.RETRY)
_job = tables.job.c
_attempt = tables.attempt.c
_destination = tables.destination.c
_now = bindparam("at", type_=Float)


def _says(words: str, of: str = "job") -> ColumnElement[bool]:
    """Return a condition in the very words of a partial index."""
    return literal_column(f"{of}.{words}")


def _older_is_on_wire(waiting: Any) -> ColumnElement[bool]:
    # A receiver that got the older result last would show it as the newer one.
    older = tables.job.alias("older")
    return exists().where(
        older.c.study_instance_uid == waiting.study_instance_uid,
        older.c.generation < waiting.generation,
        older.c.lock == waiting.lock,
        _attempt.job_id == older.c.id,
        _says(tables.MAY_BE_ON_WIRE, "attempt"),
        _attempt.on_wire_until > _now,
    )


def _first_of_destination(*, of_queue: bool = True) -> ScalarSelect[Any]:
    """Return the job of a destination that is next, by the order in which its jobs were made."""
    waiting = tables.job.alias("waiting")
    return (
        select(waiting.c.id)
        .where(
            waiting.c.lock == _destination.name,
            _says(tables.HAS_LOCK, "waiting"),
            _says(tables.IS_WAITING, "waiting"),
            *((waiting.c.queue == bindparam("of_queue"),) if of_queue else ()),
            waiting.c.run_after <= _now,
            ~_older_is_on_wire(waiting.c),
        )
        .order_by(waiting.c.id)
        .limit(1)
        .correlate(tables.destination)
        .scalar_subquery()
    )


def _is_open() -> ColumnElement[bool]:
    """Say whether another job of a destination may run; one that fails is probed by one job when its time comes."""
    running = tables.job.alias("running")
    in_flight = (
        select(func.count())
        .where(
            running.c.lock == _destination.name, _says(tables.HAS_LOCK, "running"), _says(tables.IS_RUNNING, "running")
        )
        .correlate(tables.destination)
        .scalar_subquery()
    )
    limit = case(
        (and_(_destination.failing_since.is_not(None), _destination.next_try > _now), 0),
        (_destination.failing_since.is_not(None), 1),
        *((_destination.kind == kind, number) for kind, number in IN_FLIGHT.items()),
        else_=1,
    )
    return in_flight < limit


def _candidates(*, of_queue: bool = True, in_turn_only: bool = False) -> CompoundSelect[Any]:
    """Return every due job without a lock, and of each open destination the one that is next."""
    first = (
        select(_first_of_destination(of_queue=of_queue).label("id")).select_from(tables.destination).where(_is_open())
    )
    if in_turn_only:
        first = first.where(_destination.name.in_(bindparam("in_turn", type_=String, expanding=True)))
    unlocked = select(_job.id).where(
        *((_job.queue == bindparam("of_queue"),) if of_queue else ()),
        _job.run_after <= _now,
        _says(tables.IS_WAITING),
        _says(tables.HAS_NO_LOCK),
    )
    return union_all(unlocked, first)


def _claim_statement(*, is_postgresql: bool) -> ReturningUpdate[Any]:
    candidate = _candidates(in_turn_only=is_postgresql).cte("candidate")
    due = (
        select(_job.id)
        # Said once more of the row itself: PostgreSQL looks again at a row that another claim changed meanwhile.
        .where(_job.id.in_(select(candidate.c.id)), _job.state.in_(_WAITING), _job.run_after <= _now)
        .order_by(_job.priority * _AGEING_S + _job.run_after, _job.id)
        .limit(bindparam("most", type_=Integer))
    )
    # A CTE and no subquery: PostgreSQL may run a subquery again for each row, and would claim more than the limit.
    chosen = (due.with_for_update(skip_locked=True, of=tables.job) if is_postgresql else due).cte("chosen")
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


def _take_turns() -> Select[Any]:
    first = _first_of_destination()
    return (
        select(_destination.name)
        .where(_is_open(), first.is_not(None))
        .order_by(first)
        .limit(bindparam("most", type_=Integer))
        .with_for_update(skip_locked=True)
    )


# Built once: putting a statement together takes longer than SQLite takes to answer it.
_CLAIM = _claim_statement(is_postgresql=False)
_CLAIM_IN_TURN = _claim_statement(is_postgresql=True)
_TAKE_TURNS = _take_turns()
_ADD_JOB = {
    # RETURNING and not the row count: drivers count an insert that returns its key differently.
    dialect.dialect.name: dialect.insert(tables.job)
    .on_conflict_do_nothing(index_elements=["idempotency_key"])
    .returning(_job.id)
    for dialect in (sqlite, postgresql)
}
_ADD_ATTEMPT = insert(tables.attempt)
_CHANGE_ATTEMPT = update(tables.attempt).where(
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
    .where(_job.id.in_(select(_candidates(of_queue=False).cte("candidate").c.id)))
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
    lock: str = "",
) -> bool:
    """Add a job in the transaction of the row that asks for it; say whether it is new.

    The idempotency key makes a repeated request a no-op.

    Parameters
    ----------
    lock
        Name of a registered destination, of whose jobs only some run at one time; empty where nothing limits it.
    """
    values = {
        "step": step,
        "queue": queue,
        "idempotency_key": idempotency_key,
        "study_instance_uid": study_instance_uid,
        "generation": generation,
        "subject": subject,
        "lock": lock,
        "priority": priority,
        "max_attempts": max_attempts,
        "state": JobState.READY,
        "run_after": now,
        "created_at": now,
    }
    added = connection.execute(_ADD_JOB[connection.dialect.name], values)
    return added.first() is not None


def claim(connection: Connection, *, queue: str, owner: str, lease_s: float, now: float, limit: int = 1) -> list[Job]:
    """Take up to `limit` due jobs of a queue, most urgent first, and raise their fences.

    Of one destination it takes one job, the first that waits, and none while as many are in flight as may be, or
    while the destination fails and its next try has not come.
    """
    asked = {"of_queue": queue, "at": now, "most": limit, "new_owner": owner, "until": now + lease_s}
    statement = _CLAIM
    if connection.dialect.name == "postgresql":
        # Two claims at one time would each count the jobs in flight without that of the other. The row of the
        # destination is the turn: whoever holds it counts, in a statement of its own that sees what was committed.
        asked["in_turn"] = [row.name for row in connection.execute(_TAKE_TURNS, asked)]
        statement = _CLAIM_IN_TURN
    taken = connection.execute(statement, asked).all()
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
    failing_since: float | None = None,
    may_be_on_wire: bool = False,
) -> None:
    """Give the job back for a later attempt.

    Parameters
    ----------
    failing_since
        Since when somebody else keeps it waiting, which is no attempt of the job; None where it failed itself.
    may_be_on_wire
        The worker went silent: nobody knows whether it still sends.

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
        attempt=job.attempt if failing_since is None else job.attempt - 1,
        failing_since=failing_since,
        reason=reason,
        detail=detail,
    )
    _end_attempt(connection, job, now=now, result="retry", reason=reason, may_be_on_wire=may_be_on_wire)


def bury(
    connection: Connection, job: Job, *, now: float, reason: str, detail: str, may_be_on_wire: bool = False
) -> None:
    """Give the job up until a person retries it; see `retry`.

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
    _end_attempt(connection, job, now=now, result="dead", reason=reason, may_be_on_wire=may_be_on_wire)


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


def put_on_wire(connection: Connection, job: Job, *, until: float) -> None:
    """Note that bytes of this attempt are about to leave, and when its process will have ended at the latest."""
    connection.execute(_CHANGE_ATTEMPT, {"of_job": job.id, "of_fence": job.fence, "on_wire_until": until})


def take_off_wire(connection: Connection, job: Job) -> None:
    """Note that an attempt has ended whose job was taken from its worker."""
    connection.execute(_CHANGE_ATTEMPT, {"of_job": job.id, "of_fence": job.fence, "on_wire_until": None})


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
        .values(
            state=JobState.READY,
            attempt=0,
            run_after=now,
            failing_since=None,
            finished_at=None,
            reason="",
            detail="",
        )
    )
    return revived.rowcount


def _guarded(connection: Connection, job: Job, **values: Any) -> None:
    changed = connection.execute(_GUARDED, {"of_job": job.id, "of_fence": job.fence, **values})
    if changed.rowcount != 1:
        raise LostLease


def _end_attempt(
    connection: Connection, job: Job, *, now: float, result: str, reason: str = "", may_be_on_wire: bool = False
) -> None:
    values = {"of_job": job.id, "of_fence": job.fence, "ended_at": now, "result": result, "reason": reason}
    connection.execute(_CHANGE_ATTEMPT, values if may_be_on_wire else {**values, "on_wire_until": None})


_FIELDS: Iterable[str] = Job.__dataclass_fields__


def _to_job(row: Row[Any]) -> Job:
    return Job(**{name: getattr(row, name) for name in _FIELDS})
