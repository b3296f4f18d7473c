"""What `wetread status` says of the roles: well, silent, absent, or alive without getting on."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from casebook import intake, presence, queue
from casebook.sweeper import sweep
from casebook.testing import FrozenClock, a_received_instance, a_wiring, sqlite_database
from casebook.wiring import Wiring
from console import roles
from console.roles import Roles

ELSEWHERE = presence.myself("gpu", queue="gpu", facts={"models": "m"})


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def wiring(clock: FrozenClock) -> Iterator[Wiring]:
    with sqlite_database() as engine:
        yield a_wiring(engine, clock=clock)


def _beat(wiring: Wiring, role: str, pid: int, *, idle_s: float = 0.0, job_id: int | None = None) -> None:
    one = replace(ELSEWHERE, role=role, queue=role, host="node-2", pid=pid)
    with wiring.write() as connection:
        now = wiring.clock.now(connection)
        presence.beat(connection, one, now=now, progressed_ago_s=idle_s, job_id=job_id)


def _everybody(wiring: Wiring, **idle_s: float) -> None:
    for pid, role in enumerate((presence.SUPERVISOR, *roles.ROLES)):
        _beat(wiring, role, pid, idle_s=idle_s.get(role, 0.0))


def _a_study_waits(wiring: Wiring, clock: FrozenClock) -> None:
    with wiring.write() as connection:
        intake.record_instances(connection, [a_received_instance()], clock.at)
    clock.advance(31)
    sweep(wiring)


def _look(wiring: Wiring) -> Roles:
    with wiring.read() as connection:
        return roles.roles_at(connection, now=wiring.clock.now(connection))


def _attention(wiring: Wiring) -> list[str]:
    return roles.attention(_look(wiring), is_embedded=False)


def test_roles_that_beat_are_well_wherever_they_run(wiring: Wiring) -> None:
    _everybody(wiring)

    assert _attention(wiring) == []
    assert roles.in_words("gpu", _look(wiring), 1.5) == "gpu ok (m, 1.50 s/study)"


def test_a_dead_gpu_worker_of_another_machine_is_seen(wiring: Wiring, clock: FrozenClock) -> None:
    _everybody(wiring)
    clock.advance(60)
    for pid, role in enumerate((presence.SUPERVISOR, "listener", "sweeper", "io")):
        _beat(wiring, role, pid)

    (said,) = _attention(wiring)

    assert said.startswith("gpu on node-2 is silent since 60 s (process 4): its machine, or its way to the database")
    assert roles.in_words("gpu", _look(wiring), None) == "gpu silent"


def test_one_silent_worker_beside_a_sound_one_is_seen(wiring: Wiring, clock: FrozenClock) -> None:
    _everybody(wiring)
    clock.advance(60)
    _everybody(wiring)
    _beat(wiring, "gpu", 99)
    clock.advance(60)
    _everybody(wiring)

    assert [one.partition(" (")[0] for one in _attention(wiring)] == ["gpu on node-2 is silent since 60 s"]
    assert roles.in_words("gpu", _look(wiring), None) == "gpu ok (m)"


def test_a_role_that_nobody_runs_is_missed(wiring: Wiring) -> None:
    for pid, role in enumerate(("listener", "sweeper", "io")):
        _beat(wiring, role, pid)

    assert _attention(wiring) == [
        "gpu does not work: look for role_ended in the log, or start it: wetread up --role gpu"
    ]


def test_a_worker_that_takes_no_work_while_work_waits_is_no_ok(wiring: Wiring, clock: FrozenClock) -> None:
    _a_study_waits(wiring, clock)
    clock.advance(70)
    _everybody(wiring, gpu=65.0)

    (said,) = _attention(wiring)

    assert said.startswith("gpu is alive but takes no work, and a job has waited for 70 s: it may have lost its way")
    assert "kill its process (4 on node-2)" in said
    assert roles.in_words("gpu", _look(wiring), None) == "gpu no progress"


def test_a_send_that_waits_for_its_destination_says_nothing_against_the_workers(
    wiring: Wiring, clock: FrozenClock
) -> None:
    _a_study_waits(wiring, clock)
    with wiring.write() as connection:
        queue.claim(connection, queue="gpu", owner="gpu", lease_s=600.0, now=clock.at)
        queue.enqueue(
            connection,
            step="send",
            queue="io",
            idempotency_key="send",
            study_instance_uid="1.2.3",
            generation=1,
            max_attempts=5,
            now=clock.at,
            subject="ris",
            lock="ris",
        )
    clock.advance(300)
    _everybody(wiring, io=299.0)

    assert _attention(wiring) == []


@pytest.mark.parametrize("case", ["nothing waits", "it looked a moment ago", "it has a job", "it waits for a moment"])
def test_a_worker_that_gets_on_is_ok(wiring: Wiring, clock: FrozenClock, case: str) -> None:
    if case != "nothing waits":
        _a_study_waits(wiring, clock)
    clock.advance(30 if case == "it waits for a moment" else 300)
    _everybody(wiring, gpu=5.0 if case == "it looked a moment ago" else 299.0)
    if case == "it has a job":
        _beat(wiring, "gpu", 4, idle_s=299.0, job_id=1)

    assert _attention(wiring) == []


def test_a_sweeper_that_finishes_no_sweep_is_no_ok(wiring: Wiring) -> None:
    _everybody(wiring, sweeper=90.0)

    (said,) = _attention(wiring)

    assert said.startswith("sweeper is alive but has finished no sweep for 90 s: ")


def test_a_supervisor_that_is_stopped_is_seen(wiring: Wiring, clock: FrozenClock) -> None:
    _everybody(wiring)
    with wiring.write() as connection:
        presence.beat(connection, presence.myself(presence.SUPERVISOR), now=clock.at, progressed_ago_s=0.0, job_id=None)
    clock.advance(60)
    _everybody(wiring)

    (said,) = _attention(wiring)

    assert "kill -CONT" in said
