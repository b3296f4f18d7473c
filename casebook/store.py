"""Studies, instances, readings and outputs: the only door to their rows.

Every function runs inside the caller's transaction. A study row is locked before anything of the study is
changed, so that late images and finishing steps wait for one another instead of overwriting each other.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import BindParameter, Connection, Integer, Row, Select, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from casebook import audit, tables
from casebook.case import FrozenOutput, Job, JobState
from casebook.outcomes import Prepared
from casebook.reading import Reading, canonical_json, from_bytes
from casebook.study import (
    CompletionReason,
    Copy,
    Difference,
    Hold,
    Instance,
    InstanceStatus,
    Prior,
    PriorKind,
    ReceivedInstance,
    Study,
    StudyHeader,
    StudyState,
)

#: Reason of a received study while the archive is asked for its count.
COUNTING = "counting"
#: Any number, as long as it stays the same and differs from that of the migrations.
_RECORDING_LOCK = 7_305_713_002
_study = tables.study.c
_instance = tables.instance.c
_reading = tables.reading.c
_output = tables.output.c
_job = tables.job.c
_HEADER = TypeAdapter(StudyHeader)
_DIFFERENCES = TypeAdapter(tuple[Difference, ...])

# Built once: putting a statement together takes longer than SQLite takes to answer it.
_of_study: BindParameter[str] = bindparam("uid")
_ADD_STUDY = {
    dialect.dialect.name: dialect.insert(tables.study).on_conflict_do_nothing().returning(_study.study_instance_uid)
    for dialect in (sqlite, postgresql)
}
_GET_STUDY = select(*tables.study.c).where(_study.study_instance_uid == _of_study)
_LOCK_STUDY = _GET_STUDY.with_for_update()
_CHANGE_STUDY = update(tables.study).where(_study.study_instance_uid == _of_study)
_TOUCH_ALL = update(tables.study).where(_study.state == StudyState.RECEIVED, _study.quiet_at < bindparam("until"))
_TOUCH_STUDY = _TOUCH_ALL.where(_study.study_instance_uid == _of_study)
_QUIET_STUDIES = (
    select(_study.study_instance_uid)
    .where(
        _study.state == StudyState.RECEIVED,
        _study.quiet_at <= bindparam("at"),
        _study.reason != COUNTING,
        ~select(_instance.id)
        .where(_instance.study_instance_uid == _study.study_instance_uid, _instance.status == InstanceStatus.UNCLASSED)
        .exists(),
    )
    .order_by(_study.quiet_at, _study.study_instance_uid)
    .limit(bindparam("most", type_=Integer))
)
_INSTANCES = (
    select(*tables.instance.c)
    .where(_instance.study_instance_uid == _of_study, _instance.status.in_(bindparam("statuses", expanding=True)))
    .order_by(_instance.acknowledged_ns, _instance.received_at, _instance.id)
)
_COUNT_CURRENT = select(func.count()).where(
    _instance.study_instance_uid == _of_study, _instance.status == InstanceStatus.CURRENT
)
_UNCLASSED = (
    select(_instance.id)
    .where(_instance.study_instance_uid == _of_study, _instance.status == InstanceStatus.UNCLASSED)
    .limit(1)
)
_HOLDS = (
    select(*tables.hold.c)
    .where(
        tables.hold.c.study_instance_uid == _of_study,
        tables.hold.c.generation == bindparam("of_generation"),
    )
    .order_by(tables.hold.c.id)
)
_GET_READING = select(_reading.content, _reading.revision).where(
    _reading.study_instance_uid == _of_study, _reading.generation == bindparam("of_generation")
)
_HAS_READING = select(_reading.id).where(
    _reading.study_instance_uid == _of_study, _reading.generation == bindparam("of_generation")
)
_REJECTIONS = select(
    tables.rejection.c.sop_instance_uid, tables.rejection.c.note_sop_instance_uid, tables.rejection.c.reason
).where(tables.rejection.c.study_instance_uid == _of_study)
_ISSUED_UIDS = select(_output.object_uid).where(_output.study_instance_uid == _of_study).order_by(_output.id)
_GET_OUTPUT = select(*tables.output.c).where(
    _output.study_instance_uid == _of_study,
    _output.generation == bindparam("of_generation"),
    _output.destination == bindparam("to"),
)
_MARK_DELIVERED = update(tables.output).where(
    _output.study_instance_uid == _of_study,
    _output.generation == bindparam("of_generation"),
    _output.destination == bindparam("to"),
)
_MARK_SENDING = _MARK_DELIVERED.where(_output.first_sent_at.is_(None))
_PREDECESSOR = (
    select(*tables.output.c)
    .where(
        _output.study_instance_uid == _of_study,
        _output.generation < bindparam("of_generation"),
        _output.destination == bindparam("to"),
        _output.first_sent_at.is_not(None),
    )
    .order_by(_output.generation.desc())
    .limit(1)
)
_outputs_of_generation = (_output.study_instance_uid == _of_study, _output.generation == bindparam("of_generation"))
_PROGRESS = select(
    select(func.count())
    .select_from(tables.job)
    .where(
        _job.study_instance_uid == _of_study,
        _job.generation == bindparam("of_generation"),
        _job.step == "prepare",
        _job.state != JobState.SUPERSEDED,
    )
    .scalar_subquery()
    .label("wanted"),
    select(func.count()).select_from(tables.output).where(*_outputs_of_generation).scalar_subquery().label("frozen"),
    select(func.count(_output.delivered_at)).where(*_outputs_of_generation).scalar_subquery().label("delivered"),
    select(func.count())
    .select_from(tables.job)
    .where(_job.study_instance_uid == _of_study, _job.state == JobState.DEAD)
    .scalar_subquery()
    .label("dead"),
)


# ---- receiving ---------------------------------------------------------------------------------------------


def copies(connection: Connection, sop_instance_uids: Collection[str]) -> list[Copy]:
    """List every stored object with one of these SOP Instance UIDs, of whatever study."""
    found = []
    for uids in _batched(sorted(sop_instance_uids)):
        rows = connection.execute(
            select(*(tables.instance.c[name] for name in Copy.__dataclass_fields__)).where(
                _instance.sop_instance_uid.in_(uids)
            )
        )
        found += [
            Copy(**{**row._mapping, "status": InstanceStatus(row.status)})  # noqa: SLF001 - SQLAlchemy's documented name
            for row in rows
        ]
    return found


def set_digest(connection: Connection, path: str, sha256: str) -> None:
    """Note the digest of a stored object that was not needed when it came."""
    connection.execute(update(tables.instance).where(_instance.path == path).values(sha256=sha256))


def set_acknowledged(connection: Connection, path: str, acknowledged_ns: int) -> None:
    """Give a stored object an earlier place in the order of acknowledgements: equal bytes came before."""
    connection.execute(update(tables.instance).where(_instance.path == path).values(acknowledged_ns=acknowledged_ns))


def last_acknowledged(connection: Connection) -> int:
    """Return the last place in the order of acknowledgements that an object with a row has; 0 where none has one."""
    return int(connection.execute(select(func.coalesce(func.max(_instance.acknowledged_ns), 0))).scalar_one())


def lock_recording(connection: Connection) -> None:
    """Let recordings happen one after another until the transaction ends; taken before any study is locked.

    Otherwise two listeners that get one SOP Instance UID for two studies at the same time could both believe
    that theirs is the first copy. SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_RECORDING_LOCK)))


def add_study(connection: Connection, first: ReceivedInstance, *, now: float) -> bool:
    """Add the row of the study of a first object where there is none; say whether there was none."""
    added = connection.execute(
        _ADD_STUDY[connection.dialect.name],
        {
            "study_instance_uid": first.study_instance_uid,
            "generation": 1,
            "state": StudyState.RECEIVED,
            "calling_ae_title": first.calling_ae_title,
            "first_received_at": first.received_at,
            "last_received_at": first.received_at,
            "quiet_at": now + first.quiet_period_s,
            "quiet_period_s": first.quiet_period_s,
            "changed_at": now,
        },
    )
    return added.first() is not None


def add_instances(connection: Connection, judged: Sequence[tuple[ReceivedInstance, InstanceStatus, str]]) -> None:
    """Add the rows of durable objects, each with what it means for its study and why."""
    connection.execute(insert(tables.instance), [_instance_row(*one) for one in judged])


def _instance_row(one: ReceivedInstance, status: InstanceStatus, reason: str) -> dict[str, Any]:
    return {
        "study_instance_uid": one.study_instance_uid,
        "series_instance_uid": one.series_instance_uid,
        "sop_instance_uid": one.sop_instance_uid,
        "sop_class_uid": one.sop_class_uid,
        "transfer_syntax_uid": one.transfer_syntax_uid,
        "modality": one.modality,
        "attributes": canonical_json(one.attributes).decode(),
        "header": _HEADER.dump_json(one.header).decode(),
        "path": one.path,
        "size_bytes": one.size_bytes,
        "sha256": one.sha256,
        "status": status,
        "reason": reason,
        "calling_ae_title": one.calling_ae_title,
        "peer_address": one.peer_address,
        "received_at": one.received_at,
        "acknowledged_ns": one.acknowledged_ns,
    }


def set_received(
    connection: Connection,
    study_instance_uid: str,
    *,
    instance_count: int,
    last_received_at: float,
    quiet_at: float,
    quiet_period_s: float,
    now: float,
) -> None:
    """Write what newly received objects change of a study."""
    connection.execute(
        _CHANGE_STUDY,
        {
            "uid": study_instance_uid,
            "instance_count": instance_count,
            "last_received_at": last_received_at,
            "quiet_at": quiet_at,
            "quiet_period_s": quiet_period_s,
            "changed_at": now,
        },
    )


def add_rejections(connection: Connection, study_instance_uid: str, note: ReceivedInstance, *, reason: str) -> None:
    """Keep what a rejection note takes out of a study, and take out what is here."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for uids in _batched(note.rejects):
        rows = [
            {
                "study_instance_uid": study_instance_uid,
                "sop_instance_uid": uid,
                "note_sop_instance_uid": note.sop_instance_uid,
                "reason": reason,
                "received_at": note.received_at,
            }
            for uid in uids
        ]
        connection.execute(dialect.insert(tables.rejection).on_conflict_do_nothing(), rows)
        connection.execute(
            update(tables.instance)
            .where(
                _instance.study_instance_uid == study_instance_uid,
                _instance.sop_instance_uid.in_(uids),
                _instance.status == InstanceStatus.CURRENT,
            )
            .values(status=InstanceStatus.EXCLUDED, reason=reason)
        )


def rejections(connection: Connection, study_instance_uid: str) -> dict[str, str]:
    """Return what rejection notes took out of a study: SOP Instance UID to reason."""
    rows = connection.execute(_REJECTIONS, {"uid": study_instance_uid})
    return {row.sop_instance_uid: row.reason for row in rows}


def rejection_notes(connection: Connection, study_instance_uid: str) -> set[str]:
    """Return the SOP Instance UIDs of the rejection notes of a study."""
    rows = connection.execute(_REJECTIONS, {"uid": study_instance_uid})
    return {row.note_sop_instance_uid for row in rows}


def known_paths(connection: Connection) -> set[str]:
    """Return the path of every object that has a row, relative to the data directory."""
    return {row.path for row in connection.execute(select(_instance.path))}


def touch(connection: Connection, quiet_period_s_of: Mapping[str, float], *, now: float) -> None:
    """Let the quiet period of received studies begin anew: more of them is on its way, or was sent back by us.

    Parameters
    ----------
    quiet_period_s_of
        Study Instance UID to the seconds it lasts; an unknown study, or one that is past being received, is left as
        it is.
    """
    if not quiet_period_s_of:
        return
    lock_recording(connection)
    for uid, quiet_period_s in sorted(quiet_period_s_of.items()):
        connection.execute(_TOUCH_STUDY, {"uid": uid, **_quiet(now, quiet_period_s)})


def touch_all(connection: Connection, quiet_period_s: float, *, now: float) -> None:
    """Let the quiet period of every received study begin anew."""
    lock_recording(connection)
    connection.execute(_TOUCH_ALL, _quiet(now, quiet_period_s))


def _quiet(now: float, quiet_period_s: float) -> dict[str, float]:
    quiet_at = now + quiet_period_s
    return {"until": quiet_at, "quiet_at": quiet_at, "quiet_period_s": quiet_period_s}


def is_issued(connection: Connection, sop_instance_uids: Iterable[str]) -> set[str]:
    """Return those of the UIDs under which we froze a result of our own (the loop guard)."""
    found: set[str] = set()
    for uids in _batched(sorted(set(sop_instance_uids))):
        rows = connection.execute(select(_output.object_uid).where(_output.object_uid.in_(uids)))
        found.update(row.object_uid for row in rows)
    return found


# ---- studies -----------------------------------------------------------------------------------------------


def lock_study(connection: Connection, study_instance_uid: str) -> Study:
    """Return the study and keep others from changing it until the transaction ends.

    Raises
    ------
    KeyError
        When the study is not known.
    """
    return _one_study(connection, _LOCK_STUDY, study_instance_uid)


def get_study(connection: Connection, study_instance_uid: str) -> Study:
    """Return the study as it stands.

    Raises
    ------
    KeyError
        When the study is not known.
    """
    return _one_study(connection, _GET_STUDY, study_instance_uid)


def _one_study(connection: Connection, query: Select[Any], study_instance_uid: str) -> Study:
    row = connection.execute(query, {"uid": study_instance_uid}).one_or_none()
    if row is None:
        raise KeyError(study_instance_uid)
    return _to_study(row)


def studies(
    connection: Connection, *, states: Iterable[StudyState] | None = None, limit: int | None = 1000
) -> list[Study]:
    """Return studies, longest unchanged first."""
    query = select(*tables.study.c).order_by(_study.changed_at, _study.study_instance_uid).limit(limit)
    if states is not None:
        query = query.where(_study.state.in_(list(states)))
    return [_to_study(row) for row in connection.execute(query)]


def quiet_studies(connection: Connection, *, now: float, limit: int = 100) -> list[str]:
    """Return studies whose quiet period is over, without those with a repeated object not yet compared."""
    rows = connection.execute(_QUIET_STUDIES, {"at": now, "most": limit})
    return [row.study_instance_uid for row in rows]


def set_state(
    connection: Connection,
    study_instance_uid: str,
    state: StudyState,
    *,
    now: float,
    reason: str = "",
    detail: str = "",
    actor: str = "flow",
    action: str = "",
    said: str = "",
    **values: Any,
) -> None:
    """Write the state of a study and its line in the timeline.

    Parameters
    ----------
    action, said
        What happened, and in which words, where the timeline says it otherwise than the row.
    """
    connection.execute(
        _CHANGE_STUDY,
        {"uid": study_instance_uid, "state": state, "reason": reason, "detail": detail, "changed_at": now, **values},
    )
    audit.record(
        connection,
        at=now,
        actor=actor,
        action=action or str(state),
        study_instance_uid=study_instance_uid,
        detail=said or (f"{reason}: {detail}" if reason and detail else reason or detail),
    )


def add_hold(connection: Connection, study_instance_uid: str, generation: int, hold: Hold, *, now: float) -> None:
    """Keep a reason for which a study is held; one that is known already changes nothing."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(
        dialect.insert(tables.hold).on_conflict_do_nothing(),
        {
            "study_instance_uid": study_instance_uid,
            "generation": generation,
            "destination": hold.destination,
            "reason": hold.reason,
            "detail": hold.detail,
            "differences": _DIFFERENCES.dump_json(hold.differences).decode() if hold.differences else "",
            "held_at": now,
        },
    )


def holds(connection: Connection, study: Study, *, with_values: bool = False) -> tuple[Hold, ...]:
    """Return every reason for which the current generation of a study was held, in order.

    Parameters
    ----------
    with_values
        Also read what the two sides of a difference say, which is patient data.
    """
    rows = connection.execute(_HOLDS, {"uid": study.study_instance_uid, "of_generation": study.generation})
    found = []
    for row in rows:
        differences = _DIFFERENCES.validate_json(row.differences) if row.differences else ()
        if not with_values:
            differences = tuple(Difference(keyword=one.keyword) for one in differences)
        found.append(Hold(destination=row.destination, reason=row.reason, detail=row.detail, differences=differences))
    return tuple(found)


def set_next_generation(connection: Connection, study: Study, *, now: float) -> None:
    """Write that a study receives anew, as its next generation."""
    connection.execute(
        update(tables.study)
        .where(_study.study_instance_uid == study.study_instance_uid)
        .values(
            generation=study.generation + 1,
            state=StudyState.RECEIVED,
            reason="",
            detail="",
            pipeline="",
            completion_reason=None,
            changed_at=now,
        )
    )


def set_counting(connection: Connection, study_instance_uid: str, *, counting: bool, quiet_at: float) -> None:
    """Note whether the archive is being asked about a received study, and when the next sweep may look at it."""
    connection.execute(
        _CHANGE_STUDY, {"uid": study_instance_uid, "reason": COUNTING if counting else "", "quiet_at": quiet_at}
    )


def set_expected(connection: Connection, study_instance_uid: str, expected_instances: int) -> None:
    """Note how many images the archive has."""
    connection.execute(_CHANGE_STUDY, {"uid": study_instance_uid, "expected_instances": expected_instances})


def state_counts(connection: Connection) -> dict[StudyState, int]:
    """Count the studies in each state."""
    rows = connection.execute(select(_study.state, func.count().label("n")).group_by(_study.state))
    return {StudyState(row.state): row.n for row in rows}


# ---- instances ---------------------------------------------------------------------------------------------


def instances(
    connection: Connection, study_instance_uid: str, *, statuses: Iterable[InstanceStatus] = (InstanceStatus.CURRENT,)
) -> tuple[Instance, ...]:
    """Return the objects of a study in the order of their arrival."""
    rows = connection.execute(_INSTANCES, {"uid": study_instance_uid, "statuses": list(statuses)})
    return tuple(_to_instance(row) for row in rows)


def questions(connection: Connection, study_instance_uid: str, generation: int) -> int:
    """Count how often the archive was asked about a generation."""
    jobs = tables.job.c
    return int(
        connection.execute(
            select(func.count()).where(
                jobs.study_instance_uid == study_instance_uid, jobs.generation == generation, jobs.step == "count"
            )
        ).scalar_one()
    )


def set_instance_status(connection: Connection, path: str, status: InstanceStatus, *, reason: str = "") -> None:
    """Write what a stored object means for its study."""
    connection.execute(update(tables.instance).where(_instance.path == path).values(status=status, reason=reason))


def set_description(connection: Connection, described: ReceivedInstance) -> None:
    """Write what the header of a stored object says, read anew."""
    connection.execute(
        update(tables.instance)
        .where(_instance.path == described.path)
        .values(
            attributes=canonical_json(described.attributes).decode(),
            header=_HEADER.dump_json(described.header).decode(),
        )
    )


def recount(connection: Connection, study_instance_uid: str) -> int:
    """Write and return the number of current instances of a study."""
    count = connection.execute(_COUNT_CURRENT, {"uid": study_instance_uid}).scalar_one()
    connection.execute(_CHANGE_STUDY, {"uid": study_instance_uid, "instance_count": count})
    return int(count)


def add_priors(connection: Connection, study_instance_uid: str, found: Sequence[Prior], *, now: float) -> None:
    """Keep the earlier studies of the patient beside a study; results of our own are no priors."""
    own = is_issued(connection, [one.sop_instance_uid for one in found])
    rows = [
        {"study_instance_uid": study_instance_uid, "fetched_at": now, **asdict(one)}
        for one in found
        if one.sop_instance_uid not in own
    ]
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(tables.prior).on_conflict_do_nothing(), rows)


def priors(connection: Connection, study_instance_uid: str) -> tuple[Prior, ...]:
    """Return the objects of earlier studies, newest study first."""
    columns = [tables.prior.c[name] for name in Prior.__dataclass_fields__]
    rows = connection.execute(
        select(*columns)
        .where(tables.prior.c.study_instance_uid == study_instance_uid)
        .order_by(tables.prior.c.study_date.desc(), tables.prior.c.id)
    )
    return tuple(Prior(**{**row._mapping, "kind": PriorKind(row.kind)}) for row in rows)  # noqa: SLF001


# ---- readings and outputs ----------------------------------------------------------------------------------


def add_reading(connection: Connection, reading: Reading, *, now: float) -> int:
    """Freeze a Reading and return its revision, counted from 1."""
    revision = (
        1
        + connection.execute(
            select(func.coalesce(func.max(_reading.revision), 0)).where(
                _reading.study_instance_uid == reading.study_instance_uid
            )
        ).scalar_one()
    )
    connection.execute(
        insert(tables.reading).values(
            study_instance_uid=reading.study_instance_uid,
            generation=reading.generation,
            revision=revision,
            sha256=reading.sha256,
            content=reading.to_bytes(),
            created_at=now,
        )
    )
    return int(revision)


def get_reading(connection: Connection, study_instance_uid: str, generation: int) -> tuple[Reading, int] | None:
    """Return the Reading of a generation with its revision, or None."""
    row = connection.execute(_GET_READING, {"uid": study_instance_uid, "of_generation": generation}).one_or_none()
    return None if row is None else (from_bytes(bytes(row.content)), row.revision)


def has_reading(connection: Connection, study_instance_uid: str, generation: int) -> bool:
    """Say whether a generation has been read."""
    found = connection.execute(_HAS_READING, {"uid": study_instance_uid, "of_generation": generation})
    return found.first() is not None


def freeze_output(connection: Connection, job: Job, prepared: Prepared, *, sha256: str, now: float) -> None:
    """Store the exact bytes of one output; they are never changed afterwards."""
    connection.execute(
        insert(tables.output).values(
            study_instance_uid=job.study_instance_uid,
            generation=job.generation,
            destination=job.subject,
            kind=prepared.kind,
            content=prepared.content,
            sha256=sha256,
            object_uid=prepared.object_uid,
            object_class=prepared.object_class,
            frozen_at=now,
        )
    )


def get_output(
    connection: Connection, study_instance_uid: str, generation: int, destination: str
) -> FrozenOutput | None:
    """Return the frozen output of a generation for a destination, or None."""
    row = connection.execute(
        _GET_OUTPUT, {"uid": study_instance_uid, "of_generation": generation, "to": destination}
    ).one_or_none()
    return None if row is None else _to_output(row)


def issued_uids(connection: Connection, study_instance_uid: str) -> tuple[str, ...]:
    """Return the UIDs of every result we froze for a study."""
    rows = connection.execute(_ISSUED_UIDS, {"uid": study_instance_uid})
    return tuple(row.object_uid for row in rows)


def predecessor(
    connection: Connection, study_instance_uid: str, generation: int, destination: str
) -> FrozenOutput | None:
    """Return the last earlier output that may have reached the destination, or None."""
    row = connection.execute(
        _PREDECESSOR, {"uid": study_instance_uid, "of_generation": generation, "to": destination}
    ).one_or_none()
    return None if row is None else _to_output(row)


def sent_outputs(connection: Connection, study_instance_uid: str) -> dict[str, tuple[int, str]]:
    """Return the last output that may have reached each destination: its generation and its UID, by destination."""
    rows = connection.execute(
        select(_output.destination, _output.generation, _output.object_uid)
        .where(_output.study_instance_uid == study_instance_uid, _output.first_sent_at.is_not(None))
        .order_by(_output.generation)
    )
    return {row.destination: (row.generation, row.object_uid) for row in rows}


def mark_sending(connection: Connection, job: Job, *, now: float) -> None:
    """Note that the first byte of an output is about to leave."""
    connection.execute(_MARK_SENDING, {**_output_of(job), "first_sent_at": now})


def mark_delivered(connection: Connection, job: Job, *, acknowledgement: str, now: float) -> None:
    """Note the acknowledgement of an output."""
    connection.execute(_MARK_DELIVERED, {**_output_of(job), "delivered_at": now, "acknowledgement": acknowledgement})


def _output_of(job: Job) -> dict[str, Any]:
    return {"uid": job.study_instance_uid, "of_generation": job.generation, "to": job.subject}


def progress(connection: Connection, study_instance_uid: str, generation: int) -> tuple[int, int, int, int]:
    """Count the prepare jobs, frozen outputs, delivered outputs and dead jobs of a generation."""
    counted = connection.execute(_PROGRESS, {"uid": study_instance_uid, "of_generation": generation}).one()
    return int(counted.wanted), int(counted.frozen), int(counted.delivered), int(counted.dead)


def has_unclassed(connection: Connection, study_instance_uid: str) -> bool:
    """Say whether a repeated object of the study has not been compared yet."""
    found = connection.execute(_UNCLASSED, {"uid": study_instance_uid})
    return found.first() is not None


# ---- rows --------------------------------------------------------------------------------------------------


def _to_study(row: Row[Any]) -> Study:
    values = {name: getattr(row, name) for name in Study.__dataclass_fields__}
    values["state"] = StudyState(row.state)
    values["completion_reason"] = CompletionReason(row.completion_reason) if row.completion_reason else None
    return Study(**values)


def _to_instance(row: Row[Any]) -> Instance:
    values = {name: getattr(row, name) for name in Instance.__dataclass_fields__}
    values["attributes"] = json.loads(row.attributes)
    values["header"] = _HEADER.validate_json(row.header)
    values["status"] = InstanceStatus(row.status)
    return Instance(**values)


def _to_output(row: Row[Any]) -> FrozenOutput:
    return FrozenOutput(
        kind=row.kind,
        content=bytes(row.content),
        sha256=row.sha256,
        object_uid=row.object_uid,
        object_class=row.object_class,
        first_sent_at=row.first_sent_at,
    )


def _batched(values: Sequence[str], size: int = 500) -> Iterable[Sequence[str]]:
    # SQLite and PostgreSQL bound the number of parameters of one statement.
    return (values[start : start + size] for start in range(0, len(values), size))
