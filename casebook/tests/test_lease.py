"""The heartbeat that keeps a lease while a body runs."""

import threading

import pytest
from sqlalchemy import Connection, Engine, select

from casebook import database, intake, queue, tables
from casebook.case import Job
from casebook.runner import keep_lease
from casebook.settings import QueueSettings, Settings
from casebook.testing import MORNING, a_received_instance, a_wiring
from casebook.wiring import Wiring


class TellingClock:
    """Says when somebody asked for the time, so that a test need not sleep."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def now(self, connection: Connection) -> float:
        self.asked.set()
        return 5000.0


def _claimed(engine: Engine) -> Job:
    with database.write(engine) as connection:
        intake.record_instances(connection, [a_received_instance()], MORNING)
        queue.enqueue(
            connection,
            step="read",
            queue="gpu",
            idempotency_key="one",
            study_instance_uid="1.2.3",
            generation=1,
            max_attempts=3,
            now=MORNING,
        )
        return queue.claim(connection, queue="gpu", owner="me", lease_s=1.0, now=MORNING)[0]


def _wiring(engine: Engine, clock: TellingClock) -> Wiring:
    return a_wiring(engine, clock=clock, settings=Settings(queue=QueueSettings(lease_s=0.03)))


def test_the_heartbeat_renews_the_lease_and_ends_with_the_job(sqlite: Engine) -> None:
    clock = TellingClock()
    job = _claimed(sqlite)
    wiring = _wiring(sqlite, clock)
    # The wiring asked for itself.
    clock.asked.clear()
    before = threading.active_count()
    with keep_lease(wiring, job):
        assert clock.asked.wait(timeout=20)

    assert threading.active_count() == before
    with database.read(sqlite) as connection:
        assert connection.execute(select(tables.job.c.lease_until)).scalar_one() == pytest.approx(5000.03)


def test_the_heartbeat_of_a_lost_job_ends_without_touching_the_new_owner(sqlite: Engine) -> None:
    clock = TellingClock()
    job = _claimed(sqlite)
    with database.write(sqlite) as connection:
        queue.retry(connection, job, now=MORNING, wait_s=0.0, reason="worker_vanished", detail="")
        queue.claim(connection, queue="gpu", owner="other", lease_s=77.0, now=MORNING)
    wiring = _wiring(sqlite, clock)
    lost = threading.Event()
    with keep_lease(wiring, job, lost.set):
        assert lost.wait(timeout=20), "the worker has to learn it"

    with database.read(sqlite) as connection:
        assert connection.execute(select(tables.job.c.lease_until)).scalar_one() == MORNING + 77.0
