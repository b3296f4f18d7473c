"""Does jobs: claim, run the body under a heartbeat, commit the outcome under the fence."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import structlog
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from casebook import flow, queue
from casebook.case import Case, Job
from casebook.errors import LostLease, StoreUnavailable, WetreadError
from casebook.logs import get_logger
from casebook.outcomes import Cleared, Held, Outcome
from casebook.settings import Settings
from casebook.watchdog import start_vital
from casebook.wiring import Wiring

Body = Callable[[Case, Settings], Outcome]
#: Says whether a step may begin, before anything of it has left.
Gate = Callable[[Case, Settings], Cleared | Held]
Heartbeat = Callable[[Wiring, Job], AbstractContextManager[None]]
Pause = Callable[[float], bool]

#: Seconds between two tries to commit a finished result while the database is away.
_COMMIT_PAUSE_S = 1.0
_log = get_logger()


class _Broken(Exception):
    """A body ended with an error nobody foresaw."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _nothing(_job: Job) -> None:
    """Go on."""


class Runner:
    """Works off one queue in this process."""

    def __init__(
        self,
        wiring: Wiring,
        bodies: Mapping[str, Body],
        heartbeat: Heartbeat | None = None,
        pause: Pause | None = None,
        gates: Mapping[str, Gate] | None = None,
        broke: Callable[[Job], None] | None = None,
    ) -> None:
        """Take what to do for each step, by name.

        Parameters
        ----------
        heartbeat
            Keeps the lease while a body runs.
        pause
            Waits some seconds between two tries to commit; True when this worker was told to stop.
        gates
            What has to clear a step first, by its name.
        broke
            Told after an attempt was counted whose body ended with an error nobody foresaw.
        """
        self._broke = broke or _nothing
        self._gates = gates or {}
        self._wiring = wiring
        self._bodies = bodies
        self._heartbeat = heartbeat or keep_lease
        self._stopping = threading.Event()
        self._pause = pause or self._stopping.wait

    def stop(self) -> None:
        """Finish the job in hand and take no other."""
        self._stopping.set()

    def drain(self, queue_name: str) -> int:
        """Do every due job of a queue; return how many were done."""
        done = 0
        while not self._stopping.is_set() and self.run_one(queue_name):
            done += 1
        return done

    def run_one(self, queue_name: str) -> bool:
        """Claim and do one job; say whether there was one."""
        job = self.claim(queue_name)
        if job is None:
            return False
        identifiers = structlog.contextvars.bind_contextvars(
            study_instance_uid=job.study_instance_uid, job=job.id, step=job.step, attempt=job.attempt
        )
        try:
            with self._heartbeat(self._wiring, job):
                self._do(job)
        except LostLease:
            _log.warning("lease_lost", fence=job.fence)
            self.leave_wire(job)
        finally:
            structlog.contextvars.reset_contextvars(**identifiers)
        return True

    def _do(self, job: Job) -> None:
        try:
            self._commit_patiently(job, self._outcome(job))
        except LostLease:
            raise
        except WetreadError as error:
            self.fail(job, error)
        except _Broken as broken:
            _log.error("step_failed", exc_info=broken.error)
            try:
                self.fail(job, broken.error)
            finally:
                self._broke(job)
        except Exception as error:  # noqa: BLE001 - the process edge of a step: any failure is one attempt
            _log.error("step_failed", exc_info=error)
            self.fail(job, error)
        else:
            self.wake_next()

    def _outcome(self, job: Job) -> Outcome:
        case, gate = self.load(job), self._gates.get(job.step)
        cleared = gate(case, self._wiring.settings) if gate else Cleared()
        if isinstance(cleared, Held):
            return cleared
        self.begin(job, cleared)
        body = self._bodies[job.step]
        try:
            return body(case, self._wiring.settings)
        except WetreadError:
            raise
        except Exception as error:
            raise _Broken(error) from error

    # What follows are the transactions of a job, one a method: between two of them a process may die.

    def claim(self, queue_name: str) -> Job | None:
        """Take the most urgent due job of a queue, if there is one."""
        wiring = self._wiring
        with wiring.write() as connection:
            claimed = queue.claim(
                connection,
                queue=queue_name,
                owner=wiring.owner,
                lease_s=wiring.settings.queue.lease_s,
                now=wiring.clock.now(connection),
            )
        return claimed[0] if claimed else None

    def load(self, job: Job) -> Case:
        """Read what the step may look at.

        Raises
        ------
        Retryable
            When the step has to wait for another one.
        """
        with self._wiring.read() as connection:
            return flow.load_case(connection, job, self._wiring.pipelines)

    def begin(self, job: Job, cleared: Cleared) -> None:
        """Write what was noted when the job was cleared; a send is noted before its first byte leaves.

        Raises
        ------
        LostLease
            When the job is no longer ours.
        Retryable
            When the step has to wait for another one.
        """
        if not cleared.notes and job.step != "send":
            return
        wiring = self._wiring
        with wiring.write() as connection:
            terms = wiring.terms(connection)
            flow.note_cleared(connection, job, cleared, terms=terms)
            if job.step == "send":
                flow.begin_send(connection, job, terms=terms)

    def commit(self, job: Job, outcome: Outcome) -> None:
        """Write the outcome of a step and the jobs that follow from it.

        Raises
        ------
        LostLease
            When the job is no longer ours.
        """
        with self._wiring.write() as connection:
            flow.advance(connection, job, outcome, terms=self._wiring.terms(connection))
        _log.info("step_finished", state=type(outcome).__name__)

    def _commit_patiently(self, job: Job, outcome: Outcome) -> None:
        # A finished result is worth keeping while the lease may still be ours.
        deadline = time.monotonic() + self._wiring.settings.queue.lease_s
        while True:
            try:
                self.commit(job, outcome)
            except DBAPIError as error:
                if not is_away(error) or time.monotonic() > deadline or self._pause(_COMMIT_PAUSE_S):
                    raise
            else:
                return

    def fail(self, job: Job, error: Exception) -> None:
        """Write that an attempt failed.

        Raises
        ------
        LostLease
            When the job is no longer ours.
        """
        with self._wiring.write() as connection:
            flow.fail(connection, job, error, terms=self._wiring.terms(connection), random=self._wiring.random)
        _log.warning("step_did_not_finish", reason=type(error).__name__)

    def leave_wire(self, job: Job) -> None:
        """Write that a send has ended whose job was taken from us, so that a newer result need not wait for it."""
        if not job.lock:
            return
        try:
            with self._wiring.write() as connection:
                queue.take_off_wire(connection, job)
        except DBAPIError as error:
            # Then it waits until this process would have ended at the latest.
            _log.warning("end_of_send_not_noted", job=job.id, exc_info=error)

    def wake_next(self) -> None:
        """Tell the workers of every queue in which a job is due to look."""
        with self._wiring.read() as connection:
            due = queue.due_queues(connection, now=self._wiring.clock.now(connection))
        for name in due:
            self._wiring.wake(name)


def is_away(error: DBAPIError) -> bool:
    """Say whether the database cannot be reached or is too busy, so that the same statement may work later."""
    return isinstance(error, OperationalError) or error.connection_invalidated


@contextmanager
def keep_lease(wiring: Wiring, job: Job, lost: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Renew the lease every third of its length.

    Parameters
    ----------
    lost
        Told when another worker may have the job.
    """
    stop = threading.Event()
    lease_s = wiring.settings.queue.lease_s

    def beat() -> None:
        while not stop.wait(lease_s / 3):
            try:
                with wiring.write() as connection:
                    queue.renew(connection, job, lease_until=wiring.clock.now(connection) + lease_s)
            except LostLease:
                _log.warning("lease_lost", job=job.id, step=job.step, fence=job.fence)
                lost()
                return
            except (SQLAlchemyError, StoreUnavailable):
                _log.warning("lease_not_renewed", job=job.id)

    thread = start_vital(beat, name=f"lease-{job.id}")
    try:
        yield
    finally:
        stop.set()
        thread.join()
