"""What happened to a study, row by row: insert-only, no patient data, the timeline of `wetread why`."""

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from casebook import tables

_ADD = insert(tables.audit)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One line of a study's timeline."""

    at: float
    actor: str
    #: Static name in the past tense.
    action: str
    detail: str


def record(
    connection: Connection, *, at: float, actor: str, action: str, study_instance_uid: str = "", detail: str = ""
) -> None:
    """Add one row in the transaction of what it tells of."""
    connection.execute(
        _ADD, {"at": at, "actor": actor, "action": action, "study_instance_uid": study_instance_uid, "detail": detail}
    )


def timeline(connection: Connection, study_instance_uid: str) -> tuple[AuditEvent, ...]:
    """Return everything that happened to a study, in order."""
    columns = tables.audit.c
    rows = connection.execute(
        select(columns.at, columns.actor, columns.action, columns.detail)
        .where(columns.study_instance_uid == study_instance_uid)
        .order_by(columns.id)
    )
    return tuple(AuditEvent(at=row.at, actor=row.actor, action=row.action, detail=row.detail) for row in rows)
