"""The door to the rows, with several writers at once."""

import threading
from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import Engine, func, select

from casebook import database, intake, store, tables
from casebook.errors import LostLease
from casebook.runner import is_away
from casebook.study import InstanceStatus, ReceivedInstance, StudyState
from casebook.testing import MORNING, a_reading, a_received_instance


def _together(*actions: Callable[[], object]) -> list[BaseException]:
    """Run every action in a thread of its own, started at one moment; return what they raised."""
    barrier = threading.Barrier(len(actions))
    raised: list[BaseException] = []

    def run(action: Callable[[], object]) -> None:
        barrier.wait(timeout=20)
        try:
            action()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return raised


def _record(engine: Engine, received: Sequence[ReceivedInstance]) -> None:
    with database.write(engine) as connection:
        intake.record_instances(connection, received, MORNING)


def _count(engine: Engine) -> int:
    with database.read(engine) as connection:
        return connection.execute(select(func.count()).select_from(tables.instance)).scalar_one()


def test_two_listeners_that_index_the_same_files_make_one_row_each(engine: Engine) -> None:
    batch = [a_received_instance(number, study=f"1.{study}") for study in range(5) for number in range(3)]

    raised = _together(lambda: _record(engine, batch), lambda: _record(engine, list(reversed(batch))))

    assert raised == []
    assert _count(engine) == 15
    with database.read(engine) as connection:
        assert {study.instance_count for study in store.studies(connection)} == {3}
        assert {study.generation for study in store.studies(connection)} == {1}


def test_one_uid_sent_for_two_studies_at_one_moment_is_noticed(engine: Engine) -> None:
    raised = _together(
        *(
            lambda study=study: _record(engine, [a_received_instance(study=study, sop_instance_uid="5.5")])
            for study in ("1.1", "1.2")
        )
    )

    assert raised == []
    with database.read(engine) as connection:
        states = sorted(study.state for study in store.studies(connection))
    assert states == [StudyState.HELD, StudyState.RECEIVED]


def test_late_images_and_finishing_steps_never_deadlock(postgresql: Engine) -> None:
    from random import Random

    from casebook import flow, queue
    from casebook.outcomes import Drafted
    from casebook.settings import QueueSettings
    from casebook.terms import Terms
    from casebook.testing import a_pipeline

    def terms(after_s: float) -> Terms:
        return Terms(pipelines=(a_pipeline(),), limits=QueueSettings(), now=MORNING + after_s)

    studies = [f"1.{number}" for number in range(6)]
    _record(postgresql, [a_received_instance(study=uid) for uid in studies])
    for uid in studies:
        with database.write(postgresql) as connection:
            flow.settle_quiet(connection, uid, terms=terms(31), archive=None)
    with database.write(postgresql) as connection:
        jobs = queue.claim(connection, queue="gpu", owner="me", lease_s=60.0, now=MORNING + 31, limit=6)

    def finish() -> None:
        for job in jobs:
            try:
                with database.write(postgresql) as connection:
                    flow.advance(
                        connection,
                        job,
                        Drafted(reading=a_reading(job.study_instance_uid)),
                        terms=terms(40),
                    )
            except LostLease:
                continue

    def expire() -> None:
        for job in reversed(jobs):
            with database.write(postgresql) as connection:
                flow.expire(connection, job, terms=terms(1000), random=Random(1))

    late = [a_received_instance(2, study=uid) for uid in studies]
    raised = _together(finish, expire, lambda: _record(postgresql, late), lambda: _record(postgresql, late))

    assert raised == []
    with database.read(postgresql) as connection:
        for study in store.studies(connection):
            assert (study.generation, study.state, study.instance_count) == (2, StudyState.RECEIVED, 2)


def test_recording_a_batch_again_after_a_crash_changes_nothing(engine: Engine) -> None:
    batch = [a_received_instance(1), a_received_instance(2)]
    _record(engine, batch)
    with database.read(engine) as connection:
        before = store.get_study(connection, "1.2.3")
    _record(engine, batch)

    with database.read(engine) as connection:
        assert store.get_study(connection, "1.2.3") == before
        assert store.known_paths(connection) == {one.path for one in batch}


def test_one_batch_may_carry_one_object_twice(engine: Engine) -> None:
    _record(engine, [a_received_instance(1), a_received_instance(1, path="again.dcm")])

    assert _count(engine) == 1


def test_other_bytes_in_the_same_batch_are_kept_and_compared(engine: Engine) -> None:
    _record(engine, [a_received_instance(1), a_received_instance(1, content=b"other")])

    with database.read(engine) as connection:
        found = store.instances(connection, "1.2.3", statuses=InstanceStatus)
        assert [one.status for one in found] == [InstanceStatus.CURRENT, InstanceStatus.UNCLASSED]
        assert store.has_unclassed(connection, "1.2.3")
        assert store.quiet_studies(connection, now=MORNING + 100) == []


def test_our_own_results_that_come_back_start_nothing(engine: Engine) -> None:
    _record(engine, [a_received_instance(1, is_own=True)])

    with database.read(engine) as connection:
        study = store.get_study(connection, "1.2.3")
    assert (study.state, study.reason, study.instance_count) == (StudyState.UNMATCHED, "only_own_results", 0)


def test_an_own_result_beside_images_changes_neither_count_nor_generation(engine: Engine) -> None:
    _record(engine, [a_received_instance(1)])
    _record(engine, [a_received_instance(2, is_own=True, received_at=MORNING + 10)])

    with database.read(engine) as connection:
        study = store.get_study(connection, "1.2.3")
    assert (study.generation, study.instance_count, study.quiet_at) == (1, 1, MORNING + 30)


def test_images_after_an_own_result_are_read(engine: Engine) -> None:
    _record(engine, [a_received_instance(1, is_own=True)])
    _record(engine, [a_received_instance(2)])

    with database.read(engine) as connection:
        assert store.get_study(connection, "1.2.3").state is StudyState.RECEIVED


def test_a_large_batch_is_one_transaction(engine: Engine) -> None:
    _record(engine, [a_received_instance(number) for number in range(1200)])

    with database.read(engine) as connection:
        assert store.get_study(connection, "1.2.3").instance_count == 1200
        assert len(store.instances(connection, "1.2.3")) == 1200


def test_images_come_back_in_the_order_of_their_arrival(engine: Engine) -> None:
    for number, at in ((3, 2.0), (1, 1.0), (2, 3.0)):
        _record(engine, [a_received_instance(number, received_at=MORNING + at)])

    with database.read(engine) as connection:
        found = [one.sop_instance_uid for one in store.instances(connection, "1.2.3")]
    assert found == ["1.2.3.1.1", "1.2.3.1.3", "1.2.3.1.2"]


def test_a_header_comes_back_as_it_was_with_text_of_any_script(engine: Engine) -> None:
    from casebook.testing import a_header

    header = a_header(patient_name="王^小东=王^小東", study_description="Thorax a.p. – ärztlich")
    _record(engine, [a_received_instance(header=header)])

    with database.read(engine) as connection:
        assert store.instances(connection, "1.2.3")[0].header == header


def test_a_reading_comes_back_byte_for_byte(engine: Engine) -> None:
    _record(engine, [a_received_instance()])
    reading = a_reading(findings="双肺清晰。")
    with database.write(engine) as connection:
        assert store.add_reading(connection, reading, now=MORNING) == 1

    with database.read(engine) as connection:
        found = store.get_reading(connection, "1.2.3", 1)
    assert found == (reading, 1)
    assert found is not None
    assert found[0].sha256 == reading.sha256


def test_an_unknown_study_is_a_key_error(engine: Engine) -> None:
    with pytest.raises(KeyError), database.read(engine) as connection:
        store.get_study(connection, "9.9.9")


def test_a_database_that_is_away_is_told_from_a_mistake(engine: Engine) -> None:
    from sqlalchemy.exc import IntegrityError, OperationalError

    assert is_away(OperationalError("x", None, Exception()))
    assert not is_away(IntegrityError("x", None, Exception()))
