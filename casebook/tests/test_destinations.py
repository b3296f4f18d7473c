"""How many jobs of a destination run at one time, in which order, and who tries one that fails."""

import re
from collections.abc import Callable
from random import Random
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, select, text

from casebook import database, destinations, intake, queue, tables
from casebook.case import Job
from casebook.settings import QueueSettings
from casebook.testing import MORNING, a_received_instance

LIMITS = QueueSettings(backoff_first_s=10.0, backoff_cap_s=300.0)


class Office:
    """One queue with jobs for destinations."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.now = MORNING
        self._random = Random(1)
        with database.write(engine) as connection:
            intake.record_instances(connection, [a_received_instance()], MORNING)

    def add(self, *keys: str, to: str = "", kind: str = "hl7") -> None:
        with database.write(self.engine) as connection:
            if to:
                destinations.register(connection, to, kind)
            for key in keys:
                queue.enqueue(
                    connection,
                    step="send" if to else "prepare",
                    queue="io",
                    idempotency_key=key,
                    study_instance_uid="1.2.3",
                    generation=1,
                    subject=key,
                    lock=to,
                    max_attempts=3,
                    priority=0 if to else 5,
                    now=self.now,
                )

    def claim(self) -> Job | None:
        with database.write(self.engine) as connection:
            found = queue.claim(connection, queue="io", owner="me", lease_s=60.0, now=self.now)
        return found[0] if found else None

    def claimed(self) -> list[str]:
        found = []
        while (job := self.claim()) is not None:
            found.append(job.subject)
        return found

    def taken(self) -> Job:
        job = self.claim()
        assert job is not None
        return job

    def fail(self, job: Job) -> None:
        def note(connection: Connection) -> None:
            again_at = destinations.note_failure(
                connection, job, reason="peer_unavailable", detail="", limits=LIMITS, now=self.now, random=self._random
            )
            queue.retry(
                connection,
                job,
                now=self.now,
                wait_s=again_at - self.now,
                failing_since=self.now,
                reason="peer_unavailable",
                detail="",
            )

        self._write(note)

    def deliver(self, job: Job) -> None:
        def note(connection: Connection) -> None:
            destinations.note_answer(connection, job.lock, limits=LIMITS, now=self.now)
            queue.finish(connection, job, now=self.now)

        self._write(note)

    def deliver_all(self) -> list[str]:
        found = []
        while (job := self.claim()) is not None:
            found.append(job.subject)
            self.deliver(job)
        return found

    def standing(self, name: str) -> destinations.Destination:
        with database.read(self.engine) as connection:
            return next(one for one in destinations.every(connection) if one.name == name)

    def _write(self, action: Callable[[Connection], None]) -> None:
        with database.write(self.engine) as connection:
            action(connection)


@pytest.fixture
def office(engine: Engine) -> Office:
    return Office(engine)


def test_of_an_hl7_destination_one_job_is_in_flight_and_of_a_dicom_destination_two(office: Office) -> None:
    office.add("a", "b", "c", to="ris", kind="hl7")
    office.add("d", "e", "f", to="pacs", kind="dicom")

    assert sorted(office.claimed()) == ["a", "d", "e"]


def test_a_destination_at_its_limit_keeps_nothing_else_waiting(office: Office) -> None:
    office.add(*(f"message {number}" for number in range(50)), to="ris")
    office.add("prepare")
    office.add("report", to="pacs", kind="dicom")

    assert sorted(office.claimed()) == ["message 0", "prepare", "report"]


def test_a_finished_job_lets_the_next_of_its_destination_run(office: Office) -> None:
    keys = [f"message {number:03d}" for number in range(200)]
    office.add(*keys, to="ris")

    assert office.deliver_all() == keys


def test_a_failing_destination_is_not_tried_before_its_time_and_then_by_one_job(office: Office) -> None:
    office.add("a", "b", "c", "d", to="pacs", kind="dicom")
    first, second = office.taken(), office.taken()
    office.fail(first)
    office.fail(second)

    assert office.claim() is None
    office.now = office.standing("pacs").next_try
    assert office.claimed() == ["a"]


def test_after_an_outage_everything_leaves_in_its_order(office: Office) -> None:
    keys = [f"message {number:03d}" for number in range(30)]
    office.add(*keys, to="ris")
    began = office.now
    while office.now < began + 24 * 3600:
        job = office.claim()
        if job is None:
            office.now = office.standing("ris").next_try
            continue
        office.now += 5.0
        office.fail(job)
    office.now = max(office.now, office.standing("ris").next_try)

    assert office.deliver_all() == keys
    assert office.standing("ris").failing_since is None


def test_a_silent_destination_that_wakes_up_at_its_second_job_gets_the_first_next(office: Office) -> None:
    office.add("a", "b", "c", "d", to="ris")
    office.fail(office.taken())
    second = office.taken()
    assert second.subject == "b"
    office.now += 25.0
    office.deliver(second)

    assert office.deliver_all() == ["a", "c", "d"]


def test_one_job_that_is_never_taken_keeps_the_others_of_its_destination_waiting_for_moments_only(
    office: Office,
) -> None:
    office.add("poison", *(f"message {number}" for number in range(20)), to="ris")
    delivered: list[str] = []
    began = office.now
    while len(delivered) < 20:
        job = office.claim()
        if job is None:
            office.now += 1.0
        elif job.subject == "poison":
            office.fail(job)
        else:
            office.now += 0.1
            office.deliver(job)
            delivered.append(job.subject)

    assert office.now - began < 5.0


def test_the_pause_between_two_tries_grows_with_the_outage_up_to_its_cap(office: Office) -> None:
    office.add("a", "b", to="ris")
    pauses = []
    for _ in range(12):
        for _ in range(2):
            office.fail(office.taken())
        pauses.append(office.standing("ris").next_try - office.now)
        office.now = office.standing("ris").next_try

    assert pauses[0] <= LIMITS.backoff_first_s
    assert max(pauses) <= LIMITS.backoff_cap_s
    assert pauses[-1] > 100.0


def test_a_failing_destination_says_since_when_and_how_much_waits(office: Office) -> None:
    office.add("a", "b", "c", to="ris")
    office.add("d", to="pacs", kind="dicom")
    office.fail(office.taken())
    office.now += 100.0
    with database.read(office.engine) as connection:
        (ris,) = destinations.failing(connection)

    assert (ris.name, ris.failing_since, ris.backlog, ris.reason) == ("ris", MORNING, 3, "peer_unavailable")


def test_a_destination_keeps_what_it_accepted_last(office: Office) -> None:
    office.add("a", to="pacs", kind="dicom")
    with database.write(office.engine) as connection:
        destinations.note_negotiated(connection, "pacs", {"1.2.840": ("1.2",)}, now=MORNING)
        destinations.note_negotiated(connection, "pacs", {"1.2.840": ("1.2",)}, now=MORNING + 5)

    assert office.standing("pacs").negotiated == {"1.2.840": ["1.2"]}
    assert office.standing("pacs").negotiated_at == MORNING


def test_only_queues_in_which_a_job_could_run_are_woken(office: Office) -> None:
    office.add("a", "b", to="ris")

    def due() -> list[str]:
        with database.read(office.engine) as connection:
            return queue.due_queues(connection, now=office.now)

    assert due() == ["io"]
    job = office.taken()
    assert due() == []
    office.deliver(job)
    assert due() == ["io"]


def test_claims_at_the_same_time_never_exceed_a_limit(postgresql: Engine) -> None:
    office = Office(postgresql)
    office.add(*(f"message {number}" for number in range(20)), to="ris")
    office.add(*(f"report {number}" for number in range(20)), to="pacs", kind="dicom")
    taken: list[str] = []

    def claim_again_and_again() -> None:
        for _ in range(15):
            job = office.claim()
            if job is not None:
                taken.append(job.lock)

    threads = [Thread(target=claim_again_and_again) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert sorted(taken) == ["pacs", "pacs", "ris"]


def test_a_claim_that_is_not_committed_yet_keeps_others_from_its_destination_alone(postgresql: Engine) -> None:
    office = Office(postgresql)
    office.add("a", "b", to="ris")
    office.add("c", to="pacs", kind="dicom")
    office.add("prepare")
    with database.write(postgresql) as open_claim:
        (mine,) = queue.claim(open_claim, queue="io", owner="first", lease_s=60.0, now=MORNING)

        assert mine.subject == "a"
        assert sorted(office.claimed()) == ["c", "prepare"]


@pytest.mark.parametrize("is_failing", [False, True])
def test_a_claim_looks_at_no_more_rows_for_a_long_backlog(engine: Engine, is_failing: bool) -> None:
    office = Office(engine)
    office.add("first", "second", to="ris")
    with database.write(engine) as connection:
        row = dict(connection.execute(select(tables.job).where(tables.job.c.subject == "first")).one()._mapping)
        row.pop("id")
        connection.execute(
            tables.job.insert(),
            [{**row, "idempotency_key": f"{number}", "subject": f"{number}"} for number in range(300)],
        )
        connection.execute(
            tables.job.insert(),
            [{**row, "idempotency_key": f"done {number}", "state": "done"} for number in range(3000)],
        )
    if is_failing:
        for _ in range(2):
            office.fail(office.taken())
    with database.write(engine) as connection:
        connection.execute(text("ANALYZE"))
    plan = _plan_of_a_claim(office)

    assert "ix_job_waiting_for_lock" in plan
    assert "ix_job_holding_lock" in plan
    assert "ix_attempt_on_wire" in plan or "ix_job_study_instance_uid_generation" in plan
    assert not re.findall(r"SCAN (?:job|waiting|running|older)\b|Seq Scan on job", plan)


def _plan_of_a_claim(office: Office) -> str:
    asked: list[tuple[str, Any]] = []

    def remember(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        asked.append((statement, parameters))

    event.listen(office.engine, "before_cursor_execute", remember)
    try:
        office.claim()
    finally:
        event.remove(office.engine, "before_cursor_execute", remember)
    explain = "EXPLAIN" if office.engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    plans: list[Any] = []
    with database.write(office.engine) as connection:
        for statement, parameters in asked:
            if "waiting" in statement or "candidate" in statement:
                plans += connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
    return "\n".join(str(row[-1]) for row in plans)
