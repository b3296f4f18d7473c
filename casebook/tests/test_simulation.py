"""Small sizes of the simulation, and the proof that it notices what it is there to notice."""

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, bindparam, literal, update

from casebook import flow, intake, queue, store, tables
from casebook.case import Job
from casebook.outcomes import Cleared, Outcome
from casebook.runner import Runner
from casebook.simulation.__main__ import main
from casebook.simulation.hospital import Hospital, Report, simulate
from casebook.simulation.outage import Fault, Outage, play_outage
from casebook.simulation.world import BrokenPromise, Crash, Odds, SimulatedWiring
from casebook.testing import postgresql_database, sqlite_database
from integration_tests.foreign import refuse_or_skip


def _play(seed: int, studies: int) -> Report:
    with sqlite_database() as engine:
        return simulate(seed, studies, engine)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_promise_holds_in_a_hospital_where_everything_goes_wrong(seed: int) -> None:
    report = _play(seed, 30)

    assert sum(report.endings.values()) == 30
    assert report.endings["delivered"] > 15
    assert report.deaths >= 20
    assert report.faults["wake-up lost"] > 50


@pytest.mark.parametrize("seed", [1, 2])
def test_every_promise_holds_on_postgresql(seed: int) -> None:
    with postgresql_database() as engine:
        if engine is None:
            refuse_or_skip("no PostgreSQL answers (WETREAD_TEST_POSTGRESQL_URL)")
        report = simulate(seed, 10, engine)

    assert sum(report.endings.values()) == 10


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("destination", ["ris", "pacs"])
def test_an_outage_of_hours_delays_no_other_destination_and_ends_nothing(destination: str, fault: Fault) -> None:
    with sqlite_database() as engine:
        report = play_outage(1, 20, engine, Outage(destination=destination, fault=fault, seconds=24 * 3600))

    assert report.waited >= 8
    assert 0.0 < report.longest_delay_s <= 5.0
    assert report.recovery_s < 900.0


def test_a_claim_without_limits_lets_one_destination_delay_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_CLAIM", _claim_without_limits())
    outage = Outage(destination="ris", fault=Fault.SILENT, seconds=1800)

    with sqlite_database() as engine, pytest.raises(BrokenPromise, match=r"waited .* for another end"):
        play_outage(1, 20, engine, outage)


def _claim_without_limits() -> Any:
    with pytest.MonkeyPatch.context() as inside:
        inside.setattr(queue, "_is_open", lambda: literal(value=True))
        return queue._claim_statement(is_postgresql=False)


def test_one_seed_is_one_story() -> None:
    assert _play(5, 10) == _play(5, 10)


def _breaks_within(seeds: int, studies: int = 20) -> str:
    for seed in range(1, seeds + 1):
        try:
            _play(seed, studies)
        except BrokenPromise as broken:
            return str(broken)
    return ""


def test_a_queue_without_its_fence_breaks_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_GUARDED", update(tables.job).where(tables.job.c.id == bindparam("of_job")))

    assert _breaks_within(5)


def test_a_follow_up_committed_after_its_cause_breaks_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    # The opposite of an outbox: the jobs of the next step get a transaction of their own.
    late: list[Callable[[Connection], None]] = []
    enqueue = flow._enqueue

    def put_off(connection: Connection, *args: Any, **kwargs: Any) -> None:
        late.append(lambda later: enqueue(later, *args, **kwargs))

    def commit(runner: Runner, job: Job, outcome: Outcome) -> None:
        with monkeypatch.context() as inside:
            inside.setattr(flow, "_enqueue", put_off)
            late.clear()
            whole_commit(runner, job, outcome)
        with runner._wiring.write() as connection:
            for one in late:
                one(connection)

    whole_commit = Runner.commit
    monkeypatch.setattr(Runner, "commit", commit)

    assert "stuck" in _breaks_within(5)


def test_an_idempotency_key_without_the_generation_breaks_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue = queue.enqueue

    def forget(connection: Connection, *, idempotency_key: str, **values: Any) -> bool:
        key = ":".join(part for number, part in enumerate(idempotency_key.split(":")) if number != 2)
        return enqueue(connection, idempotency_key=key, **values)

    monkeypatch.setattr(queue, "enqueue", forget)

    assert "stuck" in _breaks_within(4)


def test_a_send_that_is_not_noted_first_breaks_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "mark_sending", lambda *_args, **_values: None)

    assert "predecessor" in _breaks_within(4)


def test_a_hold_that_stops_nothing_breaks_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    supersede = queue.supersede

    def only_for_late_images(connection: Connection, *, reason: str, **values: Any) -> int:
        return 0 if reason == "held" else supersede(connection, reason=reason, **values)

    monkeypatch.setattr(queue, "supersede", only_for_late_images)

    assert "hold" in _breaks_within(5) or "held" in _breaks_within(5)


def test_a_result_that_leaves_without_asking_the_archive_breaks_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hospital, "_ask_whose_it_is", lambda *_: Cleared())

    assert "the archive contradicts" in _breaks_within(4)


def test_a_first_copy_by_the_order_of_rows_breaks_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "put_first_copies_first", lambda *_: False)

    assert "was acknowledged first" in _breaks_within(10)


def test_a_failing_seed_says_how_to_play_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_GUARDED", update(tables.job).where(tables.job.c.id == bindparam("of_job")))

    for seed in range(1, 5):
        result = CliRunner().invoke(main, ["--seed", str(seed), "--studies", "30"])
        if result.exit_code:
            break

    assert result.exit_code == 1
    assert f"python -m casebook.simulation --seed {seed} --studies 30 --database sqlite" in result.output


def test_a_process_that_dies_before_its_commit_leaves_nothing_and_after_it_everything() -> None:
    with sqlite_database() as engine:
        hospital = Hospital(1, 1, engine)
        wiring = hospital._wiring("test")
        for odds, expected in (
            (Odds(crash_before_commit=1.0), 0),
            (Odds(crash_before_commit=0.0, crash_after_commit=1.0), 1),
        ):
            hospital.world.odds = odds
            with pytest.raises(Crash), wiring.write() as connection:
                connection.execute(
                    tables.audit.insert().values(at=0.0, actor="test", action="tried", study_instance_uid="", detail="")
                )
            with SimulatedWiring.read(wiring) as connection:
                assert len(connection.execute(tables.audit.select()).all()) == expected
