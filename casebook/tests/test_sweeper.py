"""The sweep: expired leases, quiet studies, waiting queues."""

import threading

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from casebook import flow, intake, queue, store, tables
from casebook.study import StudyState
from casebook.sweeper import Swept, sweep, sweep_until
from casebook.testing import FrozenClock, RecordingWaker, a_received_instance
from casebook.wiring import Wiring


def _receive(wiring: Wiring, clock: FrozenClock, *studies: str) -> None:
    with wiring.write() as connection:
        intake.record_instances(
            connection, [a_received_instance(study=uid, received_at=clock.at) for uid in studies], clock.at
        )


def test_a_sweep_completes_quiet_studies_and_wakes_their_queue(
    wiring: Wiring, clock: FrozenClock, waker: RecordingWaker
) -> None:
    _receive(wiring, clock, "1.1", "1.2")
    assert sweep(wiring) == Swept(expired=0, completed=0, woken=())
    clock.advance(31)

    assert sweep(wiring) == Swept(expired=0, completed=2, woken=("gpu",))
    assert waker.woken == ["gpu"]


def test_a_lost_wake_up_is_sent_again_by_the_next_sweep(
    wiring: Wiring, clock: FrozenClock, waker: RecordingWaker
) -> None:
    _receive(wiring, clock, "1.1")
    clock.advance(31)
    sweep(wiring)
    sweep(wiring)

    assert waker.woken == ["gpu", "gpu"]


def test_an_expired_lease_gives_the_job_to_another_worker(wiring: Wiring, clock: FrozenClock) -> None:
    _receive(wiring, clock, "1.1")
    clock.advance(31)
    sweep(wiring)
    with wiring.write() as connection:
        queue.claim(connection, queue="gpu", owner="silent", lease_s=60.0, now=clock.at)
    assert sweep(wiring).expired == 0
    clock.advance(61)

    assert sweep(wiring).expired == 1
    assert sweep(wiring).expired == 0
    clock.advance(60)
    with wiring.write() as connection:
        assert queue.claim(connection, queue="gpu", owner="next", lease_s=60.0, now=clock.at)[0].attempt == 2


def test_two_sweeps_at_once_do_everything_once(wiring: Wiring, clock: FrozenClock) -> None:
    studies = [f"1.{number}" for number in range(8)]
    _receive(wiring, clock, *studies)
    clock.advance(31)
    sweep(wiring)
    with wiring.write() as connection:
        queue.claim(connection, queue="gpu", owner="silent", lease_s=60.0, now=clock.at, limit=4)
    _receive(wiring, clock, *(f"2.{number}" for number in range(8)))
    clock.advance(61)
    results: list[Swept] = []
    barrier = threading.Barrier(2)

    def run() -> None:
        barrier.wait(timeout=20)
        results.append(sweep(wiring))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert len(results) == 2
    assert sum(one.completed for one in results) == 8
    assert sum(one.expired for one in results) == 4
    with wiring.read() as connection:
        assert len(connection.execute(select(tables.job.c.id)).all()) == 16


def test_one_broken_study_does_not_stop_the_others(
    wiring: Wiring, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = flow.settle_quiet

    def break_on_first(connection: object, study_instance_uid: str, **values: object) -> bool:
        if study_instance_uid == "1.1":
            raise ValueError("a header nobody can read")
        return settle(connection, study_instance_uid, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(flow, "settle_quiet", break_on_first)
    _receive(wiring, clock, "1.1", "1.2")
    clock.advance(31)

    assert sweep(wiring).completed == 1
    with wiring.read() as connection:
        assert store.get_study(connection, "1.2").state is StudyState.COMPLETE


def test_the_longest_quiet_studies_come_first(wiring: Wiring, clock: FrozenClock) -> None:
    _receive(wiring, clock, "1.9")
    clock.advance(5)
    _receive(wiring, clock, "1.1")
    clock.advance(60)

    with wiring.read() as connection:
        assert store.quiet_studies(connection, now=clock.at) == ["1.9", "1.1"]


def test_the_sweep_goes_on_after_a_database_that_was_away(wiring: Wiring, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(threading.Event):
        rounds = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.rounds += 1
            if self.rounds == 2:
                self.set()
            return self.is_set()

    calls = []

    def away(_connection: object, *, now: float) -> list[object]:
        calls.append(now)
        if len(calls) == 1:
            raise OperationalError("x", None, Exception("gone"))
        return []

    monkeypatch.setattr(queue, "expired", away)
    stop = Twice()
    sweep_until(wiring, stop)

    assert len(calls) == 2
