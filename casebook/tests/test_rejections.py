"""Rejection notes: what they take out stays out, and a study without images has a recorded outcome."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine

from casebook import audit, database, decisions, flow, generations, intake, store
from casebook.settings import QueueSettings
from casebook.study import CompletionReason, InstanceStatus, ReceivedInstance, RejectionReason, Study, StudyState
from casebook.terms import Terms
from casebook.testing import MORNING, a_pipeline, a_received_instance, sqlite_database

STUDY = "1.2.3"
_PIPELINES = (a_pipeline(),)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with sqlite_database() as opened:
        yield opened


def a_note(*numbers: int, at: float = MORNING + 60, patient_id: str = "P-1") -> ReceivedInstance:
    """Return a rejection note for some images of the study."""
    note = a_received_instance(99, received_at=at, modality="KO", patient_id=patient_id)
    return replace(
        note,
        rejects=tuple(f"{STUDY}.1.{number}" for number in numbers),
        rejection_reason=RejectionReason.QUALITY,
    )


def record(engine: Engine, *received: ReceivedInstance) -> None:
    with database.write(engine) as connection:
        intake.record_instances(connection, received, received[-1].received_at)


def complete(engine: Engine, now: float = MORNING + 1000) -> Study:
    with database.write(engine) as connection:
        flow.complete(
            connection,
            STUDY,
            terms=Terms(pipelines=_PIPELINES, limits=QueueSettings(), now=now),
            reason=CompletionReason.QUIET,
        )
        return store.get_study(connection, STUDY)


def statuses(connection: Connection) -> dict[str, InstanceStatus]:
    found = store.instances(connection, STUDY, statuses=InstanceStatus)
    return {one.sop_instance_uid.removeprefix(f"{STUDY}.1."): one.status for one in found}


def test_a_rejected_image_is_left_out_and_a_read_study_is_read_anew(engine: Engine) -> None:
    record(engine, a_received_instance(1), a_received_instance(2))
    assert complete(engine).state is StudyState.COMPLETE

    record(engine, a_note(2))

    with database.read(engine) as connection:
        assert statuses(connection) == {
            "1": InstanceStatus.CURRENT,
            "2": InstanceStatus.EXCLUDED,
            "99": InstanceStatus.CURRENT,
        }
        study = store.get_study(connection, STUDY)
        assert (study.generation, study.state, study.instance_count) == (2, StudyState.RECEIVED, 2)
        assert "rejection_note_received" in [one.action for one in audit.timeline(connection, STUDY)]


def test_an_image_that_comes_after_its_rejection_is_left_out_and_starts_nothing(engine: Engine) -> None:
    record(engine, a_received_instance(1), a_note(2, at=MORNING))
    assert complete(engine).state is StudyState.COMPLETE

    record(engine, a_received_instance(2, received_at=MORNING + 2000))

    with database.read(engine) as connection:
        assert statuses(connection)["2"] is InstanceStatus.EXCLUDED
        assert store.get_study(connection, STUDY).generation == 1


def test_a_study_whose_every_image_is_rejected_is_refused_with_its_reason(engine: Engine) -> None:
    record(engine, a_received_instance(1), a_received_instance(2), a_note(1, 2, at=MORNING))

    study = complete(engine)

    assert (study.state, study.reason) == (StudyState.REFUSED, "every_image_rejected")


def test_a_note_of_another_patient_holds_the_study(engine: Engine) -> None:
    record(engine, a_received_instance(1), a_received_instance(2), a_note(2, at=MORNING, patient_id="P-2"))

    assert complete(engine).state is StudyState.HELD


def test_a_note_that_comes_twice_changes_nothing(engine: Engine) -> None:
    record(engine, a_received_instance(1), a_received_instance(2))
    record(engine, a_note(2))
    complete(engine)

    record(engine, a_note(2, at=MORNING + 5000))

    with database.read(engine) as connection:
        assert store.get_study(connection, STUDY).state is StudyState.COMPLETE


def test_a_note_reaches_only_its_own_study(engine: Engine) -> None:
    record(engine, a_received_instance(1), a_received_instance(1, study="1.2.4"))

    record(engine, replace(a_note(1), rejects=("1.2.4.1.1",)))

    with database.read(engine) as connection:
        (other,) = store.instances(connection, "1.2.4", statuses=InstanceStatus)
        assert other.status is InstanceStatus.CURRENT


def test_a_released_study_stays_without_its_rejected_images(engine: Engine) -> None:
    record(engine, a_received_instance(1), a_received_instance(2), a_note(2, at=MORNING))
    with database.write(engine) as connection:
        generations.hold(connection, STUDY, now=MORNING, reason="asked", detail="")

        kept = decisions.release(connection, STUDY, patient_id="P-1", now=MORNING + 10, actor="person")

        assert (kept, statuses(connection)["2"]) == (2, InstanceStatus.EXCLUDED)
