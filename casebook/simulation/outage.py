"""One destination that takes nothing for hours, in a hospital where all else works: who waits for it, and who does not.

The long sibling of the games: no other fault is drawn, so that every second of delay is that of the outage.
"""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Engine, select

from casebook import database, destinations, tables
from casebook.simulation.ends import End
from casebook.simulation.hospital import Hospital, quiet_logs
from casebook.simulation.world import BrokenPromise, Odds

_reading = tables.reading.c
_output = tables.output.c
_audit = tables.audit.c
#: Virtual seconds from a reading to its result at a destination that works.
LONGEST_DELAY_S = 5.0
#: Virtual seconds after an outage within which everything that waited has left.
_LONGEST_RECOVERY_S = 900.0


class Fault(StrEnum):
    """What a destination does during an outage."""

    SILENT = "silent"
    REFUSING = "refusing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A destination that takes nothing from the first study on."""

    destination: str
    fault: Fault
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageReport:
    """What an outage showed."""

    #: Results that waited for the destination when it worked again.
    waited: int
    #: Longest time from a reading to its result at the other destination, in virtual seconds.
    longest_delay_s: float
    #: From the end of the outage to the last result that had waited, in virtual seconds.
    recovery_s: float


def play_outage(seed: int, studies: int, engine: Engine, outage: Outage) -> OutageReport:
    """Play one outage on a fresh, migrated database.

    Raises
    ------
    BrokenPromise
        When another destination is delayed, something dies, or what waited leaves in another order or not at all.
    """
    with quiet_logs():
        hospital = Hospital(seed, studies, engine, is_rough=False)
        hospital.world.odds = Odds(wake_up_s=0.3)
        end = hospital.ends[outage.destination]
        begin = end.goes_silent if outage.fault is Fault.SILENT else end.goes_down
        begin(outage.seconds)
        ends_at = hospital.world.now + outage.seconds
        hospital.start()
        hospital.run_until(lambda: hospital.world.now >= ends_at)
        _is_known_to_fail(engine, end)
        waiting = _waiting(engine, end)
        hospital.run_until(lambda: hospital.world.now >= ends_at + _LONGEST_RECOVERY_S)
        hospital.promises.hold_at_the_end(hospital.plans)
        longest_delay_s = max(_is_not_delayed(engine, one) for one in hospital.ends.values() if one is not end)
        _left_in_order(end, waiting)
        return OutageReport(
            waited=len(waiting),
            longest_delay_s=longest_delay_s,
            recovery_s=_last_delivery(engine, end) - ends_at,
        )


def _is_known_to_fail(engine: Engine, end: End) -> None:
    with database.read(engine) as connection:
        names = [one.name for one in destinations.failing(connection)]
    if names != [end.name]:
        raise BrokenPromise(f"{end.name} takes nothing, and those known to fail are: {', '.join(names) or 'none'}")


def _waiting(engine: Engine, end: End) -> list[str]:
    """Return what waits for a destination, in the order in which it is to leave."""
    job = tables.job.c
    query = (
        select(_output.object_uid)
        .join(
            tables.job,
            (job.study_instance_uid == _output.study_instance_uid)
            & (job.generation == _output.generation)
            & (job.lock == _output.destination),
        )
        .where(_output.destination == end.name, job.state.in_(("ready", "retry", "running")))
        .order_by(job.id)
    )
    with database.read(engine) as connection:
        return [row.object_uid for row in connection.execute(query)]


def _left_in_order(end: End, waiting: list[str]) -> None:
    if end.name != "ris":
        return  # Two of a DICOM destination are in flight at one time, and either may be first.
    left = [uid for uid in end.arrived if uid in set(waiting)]
    # What is missing was refused for good, or waits for a person.
    if left != [uid for uid in waiting if uid in set(left)]:
        raise BrokenPromise(f"{end.name}: {len(waiting)} results waited and did not leave in their order")


def _is_not_delayed(engine: Engine, end: End) -> float:
    """Return the longest time from a reading to its delivery, of studies in which nothing had to be compared."""
    compared = select(tables.job.c.study_instance_uid).where(tables.job.c.step == "classify")
    delays = (
        select(_output.study_instance_uid, (_output.delivered_at - _reading.created_at).label("delay_s"))
        .join(
            tables.reading,
            (_reading.study_instance_uid == _output.study_instance_uid) & (_reading.generation == _output.generation),
        )
        .where(
            _output.destination == end.name,
            _output.delivered_at.is_not(None),
            _output.study_instance_uid.not_in(compared),
        )
    )
    with database.read(engine) as connection:
        found = connection.execute(delays).all()
    if not found:
        raise BrokenPromise(f"{end.name}: nothing arrived")
    longest = max(found, key=lambda row: row.delay_s)
    if longest.delay_s > LONGEST_DELAY_S:
        raise BrokenPromise(f"{end.name}: {longest.study_instance_uid} waited {longest.delay_s:.1f} s for another end")
    return float(longest.delay_s)


def _last_delivery(engine: Engine, end: End) -> float:
    with database.read(engine) as connection:
        query = select(_output.delivered_at).where(_output.destination == end.name, _output.delivered_at.is_not(None))
        return max(float(row.delivered_at) for row in connection.execute(query))
