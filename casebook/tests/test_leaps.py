"""A clock that leaps: nothing is read too early, and nothing waits for the time that was."""

import pytest
from sqlalchemy import select

from casebook import intake, queue, store, tables
from casebook.case import JobState
from casebook.leaps import SLACK_S, Leaps
from casebook.study import StudyState
from casebook.sweeper import sweep
from casebook.testing import FrozenClock, a_received_instance
from casebook.wiring import Wiring

_QUIET_PERIOD_S = 30.0
_HOUR_S = 3600.0


class Sweeper:
    """One sweeper, its own measure of the time that passes, and the clock of the database."""

    def __init__(self, wiring: Wiring, clock: FrozenClock) -> None:
        self._wiring = wiring
        self._clock = clock
        self._passed_s = 0.0
        self._leaps = Leaps(clock=clock, passed_s=lambda: self._passed_s)
        self.sweep()

    def sweep(self) -> int:
        return sweep(self._wiring, self._leaps).completed

    def wait(self, seconds: float) -> int:
        """Sweep each second for some time; return how many studies completed."""
        completed = 0
        for _ in range(round(seconds)):
            self._clock.advance(1.0)
            self._passed_s += 1.0
            completed += self.sweep()
        return completed


@pytest.fixture
def sweeper(wiring: Wiring, clock: FrozenClock) -> Sweeper:
    return Sweeper(wiring, clock)


def _receive(wiring: Wiring, clock: FrozenClock, uid: str = "1.1") -> None:
    with wiring.write() as connection:
        intake.record_instances(connection, [a_received_instance(study=uid)], clock.at)


def _state(wiring: Wiring, uid: str = "1.1") -> StudyState:
    with wiring.read() as connection:
        return store.get_study(connection, uid).state


def _job(wiring: Wiring) -> tuple[JobState, float, float]:
    job = tables.job.c
    with wiring.read() as connection:
        row = connection.execute(select(job.state, job.run_after, job.lease_until)).one()
    return JobState(row.state), row.run_after, row.lease_until or 0.0


@pytest.mark.parametrize("waited_s", [1, 15, 29])
@pytest.mark.parametrize("back_s", [10.0, 60.0, _HOUR_S, 24 * _HOUR_S])
def test_after_a_leap_back_a_study_waits_at_most_twice_its_quiet_period_and_the_slack(
    wiring: Wiring, clock: FrozenClock, sweeper: Sweeper, waited_s: int, back_s: float
) -> None:
    _receive(wiring, clock)
    sweeper.wait(waited_s)
    clock.advance(-back_s)

    assert sweeper.wait(2 * _QUIET_PERIOD_S + SLACK_S - waited_s) == 1


def test_a_leap_back_while_no_sweeper_ran_is_made_good_by_the_next(wiring: Wiring, clock: FrozenClock) -> None:
    _receive(wiring, clock)
    clock.advance(-_HOUR_S)

    assert Sweeper(wiring, clock).wait(_QUIET_PERIOD_S) == 1


@pytest.mark.parametrize("forward_s", [10.0, 60.0, _HOUR_S, 24 * _HOUR_S])
def test_after_a_leap_forward_no_study_is_complete_too_early(
    wiring: Wiring, clock: FrozenClock, sweeper: Sweeper, forward_s: float
) -> None:
    sweeper.wait(5)
    _receive(wiring, clock)
    clock.advance(forward_s)

    assert sweeper.wait(_QUIET_PERIOD_S - SLACK_S - 1) == 0
    assert sweeper.wait(_QUIET_PERIOD_S) == 1


@pytest.mark.parametrize("leap_s", [-_HOUR_S, _HOUR_S])
def test_two_sweepers_that_see_one_leap_do_not_make_it_good_twice(
    wiring: Wiring, clock: FrozenClock, leap_s: float
) -> None:
    first, second = Sweeper(wiring, clock), Sweeper(wiring, clock)
    _receive(wiring, clock)
    clock.advance(leap_s)
    first.sweep()
    second.sweep()

    assert first.wait(_QUIET_PERIOD_S) == 1


def test_a_study_that_waits_for_the_next_question_to_the_archive_is_left_alone(
    wiring: Wiring, clock: FrozenClock, sweeper: Sweeper
) -> None:
    _receive(wiring, clock)
    ask_again_s = wiring.settings.queue.ask_again_s
    with wiring.write() as connection:
        store.set_counting(connection, "1.1", counting=False, quiet_at=clock.at + ask_again_s)
    sweeper.sweep()

    with wiring.read() as connection:
        assert store.get_study(connection, "1.1").quiet_at == clock.at + ask_again_s


@pytest.mark.parametrize("leap_s", [-_HOUR_S, _HOUR_S])
def test_a_leap_costs_no_worker_its_lease(wiring: Wiring, clock: FrozenClock, sweeper: Sweeper, leap_s: float) -> None:
    _receive(wiring, clock)
    sweeper.wait(_QUIET_PERIOD_S)
    lease_s = wiring.settings.queue.lease_s
    with wiring.write() as connection:
        queue.claim(connection, queue="gpu", owner="worker", lease_s=lease_s, now=clock.at)
    clock.advance(leap_s)
    sweeper.sweep()

    assert _job(wiring)[0] is JobState.RUNNING
    assert _job(wiring)[2] == clock.at + lease_s


def test_after_a_leap_back_the_job_of_a_silent_worker_is_given_to_another_in_time(
    wiring: Wiring, clock: FrozenClock, sweeper: Sweeper
) -> None:
    _receive(wiring, clock)
    sweeper.wait(_QUIET_PERIOD_S)
    lease_s = wiring.settings.queue.lease_s
    with wiring.write() as connection:
        queue.claim(connection, queue="gpu", owner="silent", lease_s=lease_s, now=clock.at)
    clock.advance(-_HOUR_S)
    sweeper.wait(lease_s + 3)

    assert _job(wiring)[0] is JobState.RETRY


def test_after_a_leap_back_a_retry_waits_no_longer_than_the_longest_wait(
    wiring: Wiring, clock: FrozenClock, sweeper: Sweeper
) -> None:
    _receive(wiring, clock)
    sweeper.wait(_QUIET_PERIOD_S)
    with wiring.write() as connection:
        job = queue.claim(connection, queue="gpu", owner="one", lease_s=60.0, now=clock.at)[0]
        queue.retry(connection, job, now=clock.at, wait_s=10.0, reason="model_failed", detail="")
    clock.advance(-24 * _HOUR_S)
    sweeper.sweep()

    assert _job(wiring)[1] <= clock.at + wiring.settings.queue.backoff_cap_s


def test_a_slow_answer_of_the_database_is_no_leap(wiring: Wiring) -> None:
    passed = iter([0.0, 1.0, 61.0])
    clock = FrozenClock()
    leaps = Leaps(clock=clock, passed_s=lambda: next(passed))
    with wiring.read() as connection:
        assert leaps.forward_s(connection) == 0.0
        clock.advance(40.0)
        assert leaps.forward_s(connection) == 0.0
