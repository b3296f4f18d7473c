"""What `wetread status` shows: the last hour, what stands where, and what has waited longest."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from casebook import destinations, store, tables
from casebook.destinations import Destination
from casebook.study import Hold, Study, StudyState

_HOUR_S = 3600.0
_audit = tables.audit.c
_instance = tables.instance.c
_job = tables.job.c
_attempt = tables.attempt.c
#: States in which a study waits for somebody, most urgent first.
_WAITING = (
    StudyState.HELD,
    StudyState.DEAD,
    StudyState.READY,
    StudyState.READ,
    StudyState.COMPLETE,
    StudyState.RECEIVED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The facts of one moment."""

    received_studies: int
    received_images: int
    received_bytes: int
    drafted: int
    delivered: int
    closed: int
    counts: dict[StudyState, int]
    #: The study that has waited longest in the most urgent state that has any.
    oldest: Study | None
    #: Every reason for which it is held.
    oldest_holds: tuple[Hold, ...]
    #: Destinations that take nothing at present, with what waits for each.
    failing: tuple[Destination, ...]
    #: Mean seconds of a read in the last hour; None where there was none.
    read_s: float | None


def overview(connection: Connection, *, now: float) -> Overview:
    """Read the facts of this moment."""
    since = now - _HOUR_S
    oldest = _oldest(connection)
    images, size, studies = connection.execute(
        select(
            func.count(),
            func.coalesce(func.sum(_instance.size_bytes), 0),
            func.count(_instance.study_instance_uid.distinct()),
        ).where(_instance.received_at >= since)
    ).one()
    return Overview(
        received_studies=studies,
        received_images=images,
        received_bytes=int(size),
        drafted=_happened(connection, "drafted", since),
        delivered=_happened(connection, str(StudyState.DELIVERED), since),
        closed=_happened(connection, str(StudyState.CLOSED), since),
        counts=store.state_counts(connection),
        oldest=oldest,
        oldest_holds=store.holds(connection, oldest) if oldest and oldest.state is StudyState.HELD else (),
        failing=destinations.failing(connection),
        read_s=_read_s(connection, since),
    )


def _happened(connection: Connection, action: str, since: float) -> int:
    query = select(func.count()).where(_audit.action == action, _audit.at >= since)
    return int(connection.execute(query).scalar_one())


def _oldest(connection: Connection) -> Study | None:
    for state in _WAITING:
        found = store.studies(connection, states=[state], limit=1)
        if found:
            return found[0]
    return None


def _read_s(connection: Connection, since: float) -> float | None:
    mean = connection.execute(
        select(func.avg(_attempt.ended_at - _attempt.started_at))
        .join(tables.job, _job.id == _attempt.job_id)
        .where(_job.step == "read", _attempt.result == "done", _attempt.ended_at >= since)
    ).scalar_one()
    return None if mean is None else float(mean)
