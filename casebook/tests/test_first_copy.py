"""Of two copies of one image the one acknowledged first stands, in whatever order their rows come."""

import pytest
from sqlalchemy import select

from casebook import intake, store, tables
from casebook.case import JobState
from casebook.study import InstanceStatus, ReceivedInstance, StudyState
from casebook.testing import MORNING, a_received_instance
from casebook.wiring import Wiring

UID, OTHER = "1.2.3", "1.2.4"
C, U, X = InstanceStatus.CURRENT, InstanceStatus.UNCLASSED, InstanceStatus.CONFLICT


def copy(place: int, content: str, *, study: str = UID) -> ReceivedInstance:
    return a_received_instance(
        study=study,
        sop_instance_uid="1.2.3.1.1",
        content=content.encode(),
        path=f"{study}/{content}-{place}",
        acknowledged_ns=place,
    )


def record(wiring: Wiring, *received: ReceivedInstance) -> None:
    with wiring.write() as connection:
        intake.record_instances(connection, received, MORNING)


def statuses(wiring: Wiring) -> dict[str, InstanceStatus]:
    column = tables.instance.c
    with wiring.read() as connection:
        return {row.path: InstanceStatus(row.status) for row in connection.execute(select(column.path, column.status))}


def compared(wiring: Wiring) -> set[str]:
    column = tables.job.c
    query = select(column.subject).where(column.step == "classify", column.state == JobState.READY)
    with wiring.read() as connection:
        return {row.subject for row in connection.execute(query)}


def test_a_copy_that_was_acknowledged_first_and_recorded_second_takes_the_first_place(wiring: Wiring) -> None:
    record(wiring, copy(2, "b"))
    record(wiring, copy(1, "a"))

    assert statuses(wiring) == {"1.2.3/b-2": U, "1.2.3/a-1": C}
    assert compared(wiring) == {"1.2.3/b-2"}
    with wiring.read() as connection:
        assert store.get_study(connection, UID).instance_count == 1


def test_three_copies_in_any_order_leave_the_first_one_standing(wiring: Wiring) -> None:
    for place in (3, 2, 1):
        record(wiring, copy(place, f"c{place}"))

    assert statuses(wiring) == {"1.2.3/c3-3": U, "1.2.3/c2-2": U, "1.2.3/c1-1": C}
    assert compared(wiring) == {"1.2.3/c3-3", "1.2.3/c2-2"}


def test_equal_bytes_that_came_before_give_their_copy_their_place(wiring: Wiring) -> None:
    record(wiring, copy(3, "a"))
    record(wiring, copy(2, "b"))
    record(wiring, copy(1, "a"))

    assert statuses(wiring) == {"1.2.3/a-3": C, "1.2.3/b-2": U}
    assert compared(wiring) == {"1.2.3/b-2"}


@pytest.mark.parametrize("places", [(0, 1), (2, 0)])
def test_where_the_order_is_not_known_the_first_row_stands(wiring: Wiring, places: tuple[int, int]) -> None:
    record(wiring, copy(places[0], "a"))
    record(wiring, copy(places[1], "b"))

    assert statuses(wiring)[f"1.2.3/a-{places[0]}"] is C


def test_a_draft_of_a_copy_that_turns_out_to_be_the_second_is_superseded(wiring: Wiring) -> None:
    record(wiring, copy(2, "b"))
    with wiring.write() as connection:
        store.set_state(connection, UID, StudyState.COMPLETE, now=MORNING)
    record(wiring, copy(1, "a"))

    with wiring.read() as connection:
        study = store.get_study(connection, UID)
    assert (study.state, study.generation) == (StudyState.RECEIVED, 2)


def test_of_two_studies_that_claim_one_image_the_one_acknowledged_first_keeps_it(wiring: Wiring) -> None:
    record(wiring, copy(2, "b", study=OTHER))
    record(wiring, copy(1, "a"))

    assert statuses(wiring) == {"1.2.4/b-2": X, "1.2.3/a-1": C}
    with wiring.read() as connection:
        assert store.get_study(connection, OTHER).state is StudyState.HELD
        assert store.get_study(connection, UID).state is StudyState.RECEIVED
