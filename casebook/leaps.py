"""What a leap of the clock would break, and how it is made good: a clock that is set by hand, or after a long drift.

A clock that went back leaves times that lie further ahead than any wait lasts. That is seen in the rows, so that any
sweeper may put it right at any time, and two of them at once. One that went forward makes every wait look over; only
somebody who measures the time that passes can tell.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import BindParameter, Column, ColumnElement, Connection, Float, bindparam, case, or_, select, update

from casebook import tables
from casebook.case import JobState
from casebook.clock import Clock
from casebook.settings import QueueSettings
from casebook.study import StudyState

#: Seconds by which the clock may be corrected without anything taking notice.
SLACK_S = 5.0
_attempt = tables.attempt.c
_destination = tables.destination.c
_job = tables.job.c
_study = tables.study.c


@dataclass(slots=True, kw_only=True)
class Leaps:
    """Notices that the clock went forward by more than the time that passed.

    Parameters
    ----------
    passed_s
        Seconds that passed since any moment, whatever the time of day.
    """

    clock: Clock
    passed_s: Callable[[], float] = time.monotonic
    _last: tuple[float, float] | None = field(default=None, init=False)

    def forward_s(self, connection: Connection) -> float:
        """Return by how many seconds the clock leapt forward since the last call; 0 where it did not."""
        asked_at = self.passed_s()
        now = self.clock.now(connection)
        last, self._last = self._last, (now, asked_at)
        if last is None:
            return 0.0
        # The answer may have been slow: it was true at some moment between the question and now.
        leap_s = (now - last[0]) - (self.passed_s() - last[1])
        return leap_s if leap_s > SLACK_S else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wait:
    """A column that says until when a row waits."""

    until: Column[float]
    is_open: ColumnElement[bool]
    #: Seconds it lasts at most.
    longest_s: ColumnElement[float]

    @property
    def is_ahead(self) -> ColumnElement[bool]:
        return self.is_open & (self.until > _now + SLACK_S + self.longest_s)


_now: BindParameter[float] = bindparam("now", type_=Float)
_ask_again_s: BindParameter[float] = bindparam("ask_again_s", type_=Float)
_backoff_cap_s: BindParameter[float] = bindparam("backoff_cap_s", type_=Float)
_lease_s: BindParameter[float] = bindparam("lease_s", type_=Float)
_hard_limit_s: BindParameter[float] = bindparam("hard_limit_s", type_=Float)
_WAITS = (
    # A study waits for its quiet period, or for the next question to the archive.
    _Wait(
        until=_study.quiet_at,
        is_open=(_study.state == StudyState.RECEIVED) & _study.quiet_period_s.is_not(None),
        longest_s=case((_study.quiet_period_s > _ask_again_s, _study.quiet_period_s), else_=_ask_again_s),
    ),
    _Wait(
        until=_job.run_after,
        is_open=_job.state.in_((JobState.READY, JobState.RETRY)),
        longest_s=_backoff_cap_s,
    ),
    _Wait(until=_job.lease_until, is_open=_job.state == JobState.RUNNING, longest_s=_lease_s),
    _Wait(
        until=_destination.next_try,
        is_open=_destination.failing_since.is_not(None),
        longest_s=_backoff_cap_s,
    ),
    _Wait(
        until=_attempt.on_wire_until,
        is_open=_attempt.on_wire_until.is_not(None),
        longest_s=_hard_limit_s,
    ),
)
# Built once: putting a statement together takes longer than SQLite takes to answer it.
_WENT_BACK = select(or_(*(select(one.until).where(one.is_ahead).exists() for one in _WAITS)))
_PULL_BACK = tuple(
    update(one.until.table).where(one.is_ahead).values({one.until.name: _now + one.longest_s}) for one in _WAITS
)


def _given(limits: QueueSettings, now: float) -> dict[str, float]:
    return {
        "now": now,
        "ask_again_s": limits.ask_again_s,
        "backoff_cap_s": limits.backoff_cap_s,
        "lease_s": limits.lease_s,
        "hard_limit_s": limits.hard_limit_s,
    }


def went_back(connection: Connection, *, now: float, limits: QueueSettings) -> bool:
    """Say whether a row waits for a time further ahead than any wait lasts: the clock went back since."""
    return bool(connection.execute(_WENT_BACK, _given(limits, now)).scalar_one())


def pull_back(connection: Connection, *, now: float, limits: QueueSettings) -> int:
    """Let every wait that the clock made longer begin anew; return how many there were."""
    given = _given(limits, now)
    return sum(connection.execute(one, given).rowcount for one in _PULL_BACK)


def put_off(connection: Connection, *, now: float, limits: QueueSettings) -> int:
    """Let every wait that the clock made shorter begin anew, and return how many there were.

    Those are quiet periods, leases, and sends whose bytes may still be on their way.
    """
    quiet = (
        update(tables.study)
        .where(_study.state == StudyState.RECEIVED, _study.quiet_at < now + _study.quiet_period_s)
        .values(quiet_at=now + _study.quiet_period_s)
    )
    leases = (
        update(tables.job)
        .where(_job.state == JobState.RUNNING, _job.lease_until < now + limits.lease_s)
        .values(lease_until=now + limits.lease_s)
    )
    sends = (
        update(tables.attempt)
        .where(_attempt.on_wire_until < now + limits.hard_limit_s)
        .values(on_wire_until=now + limits.hard_limit_s)
    )
    return sum(connection.execute(one).rowcount for one in (quiet, leases, sends))
