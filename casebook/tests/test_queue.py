"""The queue of record."""

from collections.abc import Callable

import pytest
from sqlalchemy import Connection, Engine, select

from casebook import database, intake, queue, tables
from casebook.case import Job, JobState
from casebook.errors import LostLease
from casebook.testing import MORNING, a_received_instance

LEASE_S = 60.0


def _study(engine: Engine, uid: str = "1.2.3") -> None:
    with database.write(engine) as connection:
        intake.record_instances(connection, [a_received_instance(study=uid)], MORNING)


def _add(engine: Engine, key: str, *, priority: int = 5, now: float = MORNING, max_attempts: int = 3) -> bool:
    with database.write(engine) as connection:
        return queue.enqueue(
            connection,
            step="read",
            queue="gpu",
            idempotency_key=key,
            study_instance_uid="1.2.3",
            generation=1,
            subject=key,
            max_attempts=max_attempts,
            now=now,
            priority=priority,
        )


def _claim(engine: Engine, *, now: float = MORNING, limit: int = 1, of: str = "gpu") -> list[Job]:
    with database.write(engine) as connection:
        return queue.claim(connection, queue=of, owner="me", lease_s=LEASE_S, now=now, limit=limit)


def _state(engine: Engine, key: str) -> tuple[str, int]:
    with database.read(engine) as connection:
        row = connection.execute(
            select(tables.job.c.state, tables.job.c.attempt).where(tables.job.c.idempotency_key == key)
        ).one()
    return row.state, row.attempt


def test_the_most_urgent_job_is_claimed_first(engine: Engine) -> None:
    _study(engine)
    for key, priority in (("later", 5), ("stat", 0), ("routine", 4)):
        _add(engine, key, priority=priority)

    assert [job.subject for job in _claim(engine, limit=3)] == ["stat", "routine", "later"]


def test_a_job_that_waits_long_overtakes_fresh_ones_of_the_next_priority(engine: Engine) -> None:
    _study(engine)
    _add(engine, "old", priority=5, now=MORNING)
    _add(engine, "fresh", priority=4, now=MORNING + 601)

    assert _claim(engine, now=MORNING + 601)[0].subject == "old"


def test_a_job_that_waits_less_long_does_not_overtake(engine: Engine) -> None:
    _study(engine)
    _add(engine, "old", priority=5, now=MORNING)
    _add(engine, "fresh", priority=4, now=MORNING + 599)

    assert _claim(engine, now=MORNING + 599)[0].subject == "fresh"


def test_of_equal_jobs_the_first_comes_first(engine: Engine) -> None:
    _study(engine)
    for key in "abc":
        _add(engine, key)

    assert [_claim(engine)[0].subject for _ in range(3)] == ["a", "b", "c"]


def test_an_idempotency_key_makes_one_job(engine: Engine) -> None:
    _study(engine)

    assert [_add(engine, "once"), _add(engine, "once")] == [True, False]
    assert len(_claim(engine, limit=5)) == 1


def test_a_claimed_job_is_not_claimed_again(engine: Engine) -> None:
    _study(engine)
    _add(engine, "one")

    assert len(_claim(engine)) == 1
    assert _claim(engine) == []


def test_a_queue_gives_only_its_own_jobs(engine: Engine) -> None:
    _study(engine)
    _add(engine, "one")

    assert _claim(engine, of="io") == []


def test_a_claim_takes_no_more_than_asked_for(engine: Engine) -> None:
    _study(engine)
    for key in "abcd":
        _add(engine, key)

    assert len(_claim(engine, limit=3)) == 3


def test_a_worker_that_lost_its_job_can_write_nothing(engine: Engine) -> None:
    _study(engine)
    _add(engine, "one")
    zombie = _claim(engine)[0]
    with database.write(engine) as connection:
        queue.retry(connection, zombie, now=MORNING, wait_s=0.0, reason="worker_vanished", detail="")
    owner = _claim(engine, now=MORNING + 1)[0]

    assert owner.fence == zombie.fence + 1
    writes: list[Callable[[Connection], None]] = [
        lambda c: queue.finish(c, zombie, now=MORNING),
        lambda c: queue.renew(c, zombie, lease_until=MORNING),
        lambda c: queue.retry(c, zombie, now=MORNING, wait_s=1.0, reason="x", detail=""),
        lambda c: queue.bury(c, zombie, now=MORNING, reason="x", detail=""),
        lambda c: queue.release(c, zombie, now=MORNING),
    ]
    for write in writes:
        with pytest.raises(LostLease), database.write(engine) as connection:
            write(connection)
    with database.write(engine) as connection:
        queue.finish(connection, owner, now=MORNING)
    assert _state(engine, "one") == (JobState.DONE, 2)


def test_a_finished_job_cannot_be_finished_again(engine: Engine) -> None:
    _study(engine)
    _add(engine, "one")
    job = _claim(engine)[0]
    with database.write(engine) as connection:
        queue.finish(connection, job, now=MORNING)

    with pytest.raises(LostLease), database.write(engine) as connection:
        queue.finish(connection, job, now=MORNING)


def test_a_retried_job_waits_and_counts_its_attempts(engine: Engine) -> None:
    _study(engine)
    _add(engine, "one")
    job = _claim(engine)[0]
    with database.write(engine) as connection:
        queue.retry(connection, job, now=MORNING, wait_s=10.0, reason="peer_unavailable", detail="")

    assert _claim(engine, now=MORNING + 9.9) == []
    assert _claim(engine, now=MORNING + 10.0)[0].attempt == 2


def test_a_job_given_back_at_shutdown_loses_no_attempt(engine: Engine) -> None:
    _study(engine)
    _add(engine, "one")
    job = _claim(engine)[0]
    with database.write(engine) as connection:
        queue.release(connection, job, now=MORNING)

    assert _state(engine, "one") == (JobState.READY, 0)
    assert _claim(engine)[0].attempt == 1


def test_a_buried_job_rests_until_a_person_revives_it_with_fresh_attempts(engine: Engine) -> None:
    _study(engine)
    _add(engine, "one")
    job = _claim(engine)[0]
    with database.write(engine) as connection:
        queue.bury(connection, job, now=MORNING, reason="rejected_by_peer", detail="")

    assert _claim(engine, now=MORNING + 1e6) == []
    with database.write(engine) as connection:
        assert queue.revive(connection, study_instance_uid="1.2.3", now=MORNING) == 1
    assert _claim(engine)[0].attempt == 1


def test_superseding_ends_waiting_running_and_dead_jobs_and_fences_their_workers(engine: Engine) -> None:
    _study(engine)
    for key in ("running", "waiting", "dead", "done"):
        _add(engine, key, priority={"running": 0, "dead": 1, "done": 2}.get(key, 9))
    running, dead, done = _claim(engine, limit=3)
    with database.write(engine) as connection:
        queue.bury(connection, dead, now=MORNING, reason="x", detail="")
        queue.finish(connection, done, now=MORNING)
        ended = queue.supersede(
            connection, study_instance_uid="1.2.3", now=MORNING, steps=("read",), reason="late_image_received"
        )

    assert ended == 3
    assert _state(engine, "done")[0] == JobState.DONE
    assert _claim(engine) == []
    with pytest.raises(LostLease), database.write(engine) as connection:
        queue.finish(connection, running, now=MORNING)


def test_a_lease_expires_only_after_its_time_and_not_when_renewed(engine: Engine) -> None:
    _study(engine)
    _add(engine, "one")
    job = _claim(engine)[0]

    def silent(now: float) -> list[int]:
        with database.read(engine) as connection:
            return [one.id for one in queue.expired(connection, now=now)]

    assert silent(MORNING + LEASE_S) == []
    assert silent(MORNING + LEASE_S + 1) == [job.id]
    with database.write(engine) as connection:
        queue.renew(connection, job, lease_until=MORNING + 2 * LEASE_S)
    assert silent(MORNING + LEASE_S + 1) == []
    with database.write(engine) as connection:
        assert not queue.is_expired(connection, job, now=MORNING + LEASE_S + 1)
        assert queue.is_expired(connection, job, now=MORNING + 2 * LEASE_S + 1)


def test_every_attempt_is_on_record_with_its_end(engine: Engine) -> None:
    _study(engine)
    _add(engine, "one")
    for result in ("retry", "done"):
        job = _claim(engine)[0]
        with database.write(engine) as connection:
            if result == "retry":
                queue.retry(connection, job, now=MORNING, wait_s=0.0, reason="value_error", detail="")
            else:
                queue.finish(connection, job, now=MORNING)

    with database.read(engine) as connection:
        rows = connection.execute(select(tables.attempt).order_by(tables.attempt.c.id)).all()
    assert [(row.result, row.reason) for row in rows] == [("retry", "value_error"), ("done", "")]
    assert all(row.ended_at == MORNING for row in rows)


def test_only_queues_with_a_due_job_are_woken(engine: Engine) -> None:
    _study(engine)

    def due(connection: Connection) -> list[str]:
        return queue.due_queues(connection, now=MORNING)

    with database.read(engine) as connection:
        assert due(connection) == []
    _add(engine, "later", now=MORNING + 1)
    with database.read(engine) as connection:
        assert due(connection) == []
    _add(engine, "now")
    with database.read(engine) as connection:
        assert due(connection) == ["gpu"]


def test_two_workers_on_postgresql_never_wait_for_one_another_and_never_share_a_job(postgresql: Engine) -> None:
    _study(postgresql)
    for key in "abcd":
        _add(postgresql, key)

    with database.write(postgresql) as first, database.write(postgresql) as second:
        mine = queue.claim(first, queue="gpu", owner="first", lease_s=LEASE_S, now=MORNING, limit=2)
        # The first transaction is open: without SKIP LOCKED this would run into the lock timeout.
        theirs = queue.claim(second, queue="gpu", owner="second", lease_s=LEASE_S, now=MORNING, limit=2)

    assert [job.subject for job in mine] == ["a", "b"]
    assert [job.subject for job in theirs] == ["c", "d"]


def test_a_rolled_back_claim_leaves_the_job_to_others(engine: Engine) -> None:
    _study(engine)
    _add(engine, "one")
    with database.write(engine) as connection:
        assert queue.claim(connection, queue="gpu", owner="me", lease_s=LEASE_S, now=MORNING)
        connection.get_transaction().rollback()  # type: ignore[union-attr]

    assert _claim(engine)[0].attempt == 1
