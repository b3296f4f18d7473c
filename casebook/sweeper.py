"""The sweep: expired leases, quiet studies and waiting queues. Any node may run it, any number may run at once."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy.exc import OperationalError

from casebook import flow, leaps, queue, store
from casebook.case import Job
from casebook.leaps import Leaps
from casebook.logs import get_logger
from casebook.wiring import Wiring

_log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one sweep found."""

    expired: int
    completed: int
    woken: tuple[str, ...]


def sweep(wiring: Wiring, clock_leaps: Leaps | None = None) -> Swept:
    """Do one sweep, each study and each lease in a transaction of its own.

    Parameters
    ----------
    clock_leaps
        What this sweeper knows of the clock since its last sweep; None: nothing.
    """
    _make_leaps_good(wiring, clock_leaps or Leaps(clock=wiring.clock))
    with wiring.read() as connection:
        now = wiring.clock.now(connection)
        silent = queue.expired(connection, now=now)
        quiet = store.quiet_studies(connection, now=now)
    expired = sum(_expire(wiring, job) for job in silent)
    completed = sum(_settle(wiring, study_instance_uid) for study_instance_uid in quiet)
    with wiring.read() as connection:
        due = tuple(queue.due_queues(connection, now=wiring.clock.now(connection)))
    for name in due:
        wiring.wake(name)
    return Swept(expired=expired, completed=completed, woken=due)


def _make_leaps_good(wiring: Wiring, clock_leaps: Leaps) -> None:
    limits = wiring.settings.queue
    with wiring.read() as connection:
        forward_s = clock_leaps.forward_s(connection)
        went_back = leaps.went_back(connection, now=wiring.clock.now(connection), limits=limits)
    if forward_s:
        with wiring.write() as connection:
            count = leaps.put_off(connection, now=wiring.clock.now(connection), limits=limits)
        _log.warning("clock_went_forward", seconds=round(forward_s), count=count)
    if went_back:
        with wiring.write() as connection:
            count = leaps.pull_back(connection, now=wiring.clock.now(connection), limits=limits)
        _log.warning("clock_went_back", count=count)


def _expire(wiring: Wiring, job: Job) -> bool:
    try:
        with wiring.write() as connection:
            # The lease may have been renewed since it was read: the clock of this transaction decides.
            expired = flow.expire(connection, job, terms=wiring.terms(connection), random=wiring.random)
    except OperationalError:
        raise
    except Exception as error:  # noqa: BLE001 - the process edge of one job: a broken one must not stop the others
        _log.error("lease_not_expired", job=job.id, step=job.step, exc_info=error)
        return False
    if expired:
        _log.warning("lease_expired", job=job.id, step=job.step, study_instance_uid=job.study_instance_uid)
    return expired


def _settle(wiring: Wiring, study_instance_uid: str) -> bool:
    try:
        with wiring.write() as connection:
            return flow.settle_quiet(
                connection,
                study_instance_uid,
                terms=wiring.terms(connection),
                archive=wiring.settings.archive,
            )
    except OperationalError:
        raise
    except Exception as error:  # noqa: BLE001 - the process edge of one study: a broken one must not stop the others
        _log.error("study_not_completed", study_instance_uid=study_instance_uid, exc_info=error)
        return False


def sweep_until(
    wiring: Wiring, stop: threading.Event, watched: Callable[[Callable[[], object]], object] | None = None
) -> None:
    """Sweep again and again until told to stop; a database that is away is tried again.

    Parameters
    ----------
    watched
        Called with each sweep, which it does; None: nothing stands around it.
    """
    once = partial(sweep, wiring, Leaps(clock=wiring.clock))
    while not stop.is_set():
        try:
            (watched or _unwatched)(once)
        except Exception as error:  # noqa: BLE001 - the process edge of the sweep: the next one may succeed
            _log.error("sweep_failed", exc_info=error)
        stop.wait(wiring.settings.queue.sweep_interval_s)


def _unwatched(once: Callable[[], object]) -> None:
    once()
