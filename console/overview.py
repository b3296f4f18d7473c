"""What `wetread status` shows: the last hour, what stands where, and what has waited longest."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from casebook import destinations, store, tables
from casebook.destinations import Destination
from casebook.study import Hold, InstanceStatus, Study, StudyState

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S
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
    #: Objects that were set aside or found missing in the last day.
    set_aside: int
    #: Durable objects that the disk has not given out since they were last tried, and that have no row yet.
    unread: int
    #: Repeated images that nobody can compare, because the disk does not give out the first copy.
    uncompared: int
    #: Destinations that take nothing at present, with what waits for each.
    failing: tuple[Destination, ...]
    #: Mean seconds of a read in the last hour; None where there was none.
    read_s: float | None


def overview(connection: Connection, *, now: float) -> Overview:
    """Read the facts of this moment."""
    since = now - _HOUR_S
    oldest = _oldest(connection)
    # Counted where an index tells it all: to open each row of an hour costs more than everything else here.
    images, size = connection.execute(
        select(func.count(), func.coalesce(func.sum(_instance.size_bytes), 0)).where(_instance.received_at >= since)
    ).one()
    return Overview(
        received_studies=_received_studies(connection, since),
        received_images=images,
        received_bytes=int(size),
        drafted=_happened(connection, "drafted", since),
        delivered=_happened(connection, str(StudyState.DELIVERED), since),
        closed=_happened(connection, str(StudyState.CLOSED), since),
        counts=store.state_counts(connection),
        oldest=oldest,
        oldest_holds=store.holds(connection, oldest) if oldest and oldest.state is StudyState.HELD else (),
        set_aside=len(_told(connection, ("object_set_aside", "object_lost"), now - _DAY_S)),
        unread=_unread(connection, now - _DAY_S),
        uncompared=_uncompared(connection, now - _DAY_S),
        failing=destinations.failing(connection),
        read_s=_read_s(connection, since),
    )


def _received_studies(connection: Connection, since: float) -> int:
    query = select(func.count()).where(tables.study.c.last_received_at >= since)
    return int(connection.execute(query).scalar_one())


def _told(connection: Connection, actions: Sequence[str], since: float) -> set[str]:
    query = select(_audit.detail).where(_audit.action.in_(actions), _audit.at >= since)
    return set(connection.execute(query).scalars())


def _unread(connection: Connection, since: float) -> int:
    waiting = _told(connection, ("object_not_read",), since)
    # A detail of the others is the reason and the path.
    gone = {told.rpartition(" ")[2] for told in _told(connection, ("object_set_aside", "object_lost"), since)}
    return sum(not _has_row(connection, path) for path in waiting - gone)


def _has_row(connection: Connection, path: str) -> bool:
    return connection.execute(select(_instance.id).where(_instance.path == path)).first() is not None


def _uncompared(connection: Connection, since: float) -> int:
    studies = select(_audit.study_instance_uid).where(_audit.action == "first_copy_not_read", _audit.at >= since)
    query = select(func.count()).where(
        _instance.status == InstanceStatus.UNCLASSED, _instance.study_instance_uid.in_(studies)
    )
    return int(connection.execute(query).scalar_one())


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
