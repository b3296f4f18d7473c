"""Who runs, as rows: alive, silent, gone, and getting on."""

import subprocess
import sys
from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from casebook import presence, tables
from casebook.heartbeat import Heartbeat
from casebook.presence import SILENT_AFTER_S, Presence
from casebook.testing import MORNING, FrozenClock
from casebook.wiring import Wiring

ELSEWHERE = replace(presence.myself("gpu", queue="gpu"), host="gpu-2", pid=77)


def _beat(wiring: Wiring, one: Presence, *, progressed_ago_s: float = 0.0, job_id: int | None = None) -> None:
    with wiring.write() as connection:
        now = wiring.clock.now(connection)
        presence.beat(connection, one, now=now, progressed_ago_s=progressed_ago_s, job_id=job_id)


def _known(wiring: Wiring) -> list[Presence]:
    with wiring.read() as connection:
        return list(presence.known(connection))


def test_the_first_beat_says_that_a_process_is_ready_and_later_ones_that_it_lives(
    wiring: Wiring, clock: FrozenClock
) -> None:
    one = presence.myself("gpu", queue="gpu", facts={"models": "m"})
    _beat(wiring, one, job_id=5)
    clock.advance(20)
    _beat(wiring, one, progressed_ago_s=3.0)

    (found,) = _known(wiring)

    assert found == replace(one, started_at=MORNING, seen_at=MORNING + 20, progressed_at=MORNING + 17)


def test_a_process_that_no_longer_beats_is_silent_and_not_present(wiring: Wiring, clock: FrozenClock) -> None:
    _beat(wiring, ELSEWHERE)
    clock.advance(SILENT_AFTER_S + 1)
    _beat(wiring, presence.myself("io"))

    with wiring.read() as connection:
        assert [one.role for one in presence.present(connection, now=clock.at)] == ["io"]
    assert [one.role for one in _known(wiring) if one.is_silent(clock.at)] == ["gpu"]


def test_a_process_of_this_machine_that_is_gone_is_not_believed_and_is_forgotten(
    wiring: Wiring, clock: FrozenClock
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    _beat(wiring, replace(presence.myself("gpu"), pid=gone.pid, born_ticks=1))
    # The same pid in another life.
    _beat(wiring, replace(presence.myself("io"), born_ticks=1))
    # Only its own machine can tell.
    _beat(wiring, ELSEWHERE)

    assert [one.host for one in _known(wiring)] == ["gpu-2"]
    with wiring.write() as connection:
        presence.forget_the_dead(connection, now=clock.at)
        assert len(connection.execute(select(tables.presence)).all()) == 1


def test_a_process_of_another_machine_is_forgotten_after_a_day(wiring: Wiring, clock: FrozenClock) -> None:
    _beat(wiring, ELSEWHERE)
    for seconds, left in ((80_000, 1), (10_000, 0)):
        clock.advance(seconds)
        with wiring.write() as connection:
            presence.forget_the_dead(connection, now=clock.at)
        assert len(_known(wiring)) == left


def test_a_later_process_with_the_same_pid_takes_the_row(wiring: Wiring) -> None:
    me = presence.myself("io")
    _beat(wiring, replace(me, role="gpu", born_ticks=1))
    _beat(wiring, me)

    assert [one.role for one in _known(wiring)] == ["io"]


def test_a_withdrawn_process_is_not_known(wiring: Wiring) -> None:
    _beat(wiring, ELSEWHERE)
    _beat(wiring, presence.myself("io"))
    with wiring.write() as connection:
        presence.withdraw(connection, presence.myself("io"))
        # Another machine may have the same pids.
        presence.withdraw_all(connection, {77})

    assert [one.host for one in _known(wiring)] == ["gpu-2"]


def test_a_heartbeat_tells_what_is_in_hand_and_since_when(wiring: Wiring, clock: FrozenClock) -> None:
    at = [0.0]
    heartbeat = Heartbeat(wiring, "gpu", queue="gpu", clock=lambda: at[0])
    heartbeat.progressed(7)
    at[0] += 12
    heartbeat.beat()

    (found,) = _known(wiring)
    assert (found.role, found.queue, found.job_id, found.progressed_at) == ("gpu", "gpu", 7, clock.at - 12)

    heartbeat.stop()
    assert _known(wiring) == []


def test_a_heartbeat_outlives_a_database_that_is_away(wiring: Wiring, monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat = Heartbeat(wiring, "gpu")
    with monkeypatch.context() as patch:

        def away(*_args: object, **_values: object) -> None:
            raise OperationalError("x", None, Exception("gone"))

        patch.setattr(presence, "beat", away)
        heartbeat.beat()
    assert _known(wiring) == []
    heartbeat.beat()

    assert len(_known(wiring)) == 1
