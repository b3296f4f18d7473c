"""A person ends what nobody can mend: nothing leaves afterwards, nobody is asked, and a new image begins anew."""

import pytest

from casebook import audit, decisions, queue, store
from casebook.case import Job
from casebook.errors import IdentityConflict, InvalidObject, LostLease, RejectedByPeer, WrongState
from casebook.outcomes import Classed, Delivered, Held
from casebook.study import CompletionReason, InstanceStatus, StudyState
from casebook.testing import FrozenClock
from casebook.tests.test_flow import UID, Room
from casebook.wiring import Wiring


@pytest.fixture
def room(wiring: Wiring, clock: FrozenClock) -> Room:
    return Room(wiring, clock)


def dismiss(room: Room, reason: str = "The RIS will never take it.") -> None:
    room.write(lambda c: decisions.dismiss(c, UID, reason=reason, now=room.clock.at, actor="person me"))


def hold_two_patients(room: Room) -> None:
    room.receive(1)
    room.receive(2, patient_id="P-2")
    room.complete()
    assert room.study().state is StudyState.HELD


def die_at_one_destination(room: Room) -> Job:
    """Let one send die while the other one is in work; return the other."""
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    room.prepare()
    room.fail(room.claim("send"), RejectedByPeer())
    other = room.claim("send")
    assert room.study().state is StudyState.DEAD
    return other


def hold_one_output(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.advance(room.claim("prepare"), Held(reason="text_unwritable", detail="It cannot.", only_this_output=True))
    room.prepare()
    assert room.study().state is StudyState.HELD
    assert room.live_jobs()


def test_a_held_study_is_ended_and_the_person_and_the_reason_stand_in_its_timeline(room: Room) -> None:
    hold_two_patients(room)

    dismiss(room, "  Two patients,\n mended\tin the PACS. ")

    study = room.study()
    assert (study.state, study.reason, study.detail) == (StudyState.CLOSED, "dismissed", "")
    with room.wiring.read() as connection:
        last = audit.timeline(connection, UID)[-1]
    assert (last.actor, last.action, last.detail) == ("person me", "dismissed", "Two patients, mended in the PACS.")
    assert room.live_jobs() == []


def test_nothing_leaves_after_a_dismissal(room: Room) -> None:
    sending = die_at_one_destination(room)

    dismiss(room)

    with pytest.raises(LostLease):
        room.begin_send(sending)
    with pytest.raises(LostLease):
        room.advance(sending, Delivered(acknowledgement="0x0000"))
    assert room.live_jobs() == []
    assert room.study().state is StudyState.CLOSED


def test_what_is_tried_again_elsewhere_ends_with_a_hold_that_nobody_can_mend(room: Room) -> None:
    hold_one_output(room)

    dismiss(room)

    assert room.live_jobs() == []
    with room.wiring.write() as connection:
        assert queue.claim(connection, queue="io", owner="x", lease_s=9, now=room.clock.at + 9999, limit=9) == []


def test_what_died_is_not_revived_by_a_retry_of_everything(room: Room) -> None:
    die_at_one_destination(room)
    dismiss(room)

    with room.wiring.write() as connection:
        assert decisions.retry_dead(connection, UID, now=room.clock.at, actor="person me") == 0
        assert store.studies(connection, states=(StudyState.DEAD, StudyState.HELD)) == []
    assert room.study().state is StudyState.CLOSED


@pytest.mark.parametrize("begin", [hold_two_patients, die_at_one_destination, hold_one_output])
def test_a_new_image_begins_the_next_generation(room: Room, begin: object) -> None:
    begin(room)  # type: ignore[operator]
    generation = room.study().generation
    dismiss(room)

    room.receive(9)

    study = room.study()
    assert (study.state, study.generation, study.reason) == (StudyState.RECEIVED, generation + 1, "")


def test_a_study_of_two_patients_is_held_again_when_a_new_image_comes(room: Room) -> None:
    hold_two_patients(room)
    dismiss(room)
    room.receive(9)

    room.complete()

    assert (room.study().state, room.study().reason) == (StudyState.HELD, "patient_identity_differs")


@pytest.mark.parametrize("compared", ["conflict", "not compared", "failed"])
def test_copies_that_nobody_decided_about_hold_the_next_generation(room: Room, compared: str) -> None:
    room.receive(1)
    room.receive(1, content=b"other")
    if compared == "conflict":
        room.advance(room.claim("classify"), Classed(is_variant=False, reason="pixels_differ"))
    elif compared == "failed":
        room.fail(room.claim("classify"), InvalidObject())
    else:
        room.write(
            lambda c: store.set_state(c, UID, StudyState.HELD, now=room.clock.at, reason="archive_has_study_twice")
        )
    assert room.study().state is StudyState.HELD
    dismiss(room)
    assert room.statuses() == [InstanceStatus.CURRENT, InstanceStatus.CONFLICT]
    room.receive(9)

    room.complete()

    assert (room.study().state, room.study().reason) == (StudyState.HELD, "repeated_image_differs")
    room.write(lambda c: decisions.release(c, UID, patient_id="P-1", now=room.clock.at, actor="person me"))
    room.complete()
    assert room.study().state is StudyState.COMPLETE


def test_a_comparison_that_ends_after_the_dismissal_changes_nothing(room: Room) -> None:
    room.receive(1)
    room.receive(1, content=b"other")
    job = room.claim("classify")
    room.write(lambda c: store.set_state(c, UID, StudyState.HELD, now=room.clock.at, reason="x"))
    dismiss(room)

    with pytest.raises(LostLease):
        room.advance(job, Classed(is_variant=False, reason="pixels_differ"))
    assert room.study().state is StudyState.CLOSED


def test_a_dismissal_by_mistake_is_undone_by_a_retry(room: Room) -> None:
    hold_one_output(room)
    dismiss(room)

    with room.wiring.write() as connection:
        assert decisions.read_again(connection, UID, now=room.clock.at, actor="person me")

    assert (room.study().state, room.study().generation) == (StudyState.RECEIVED, 2)


def test_a_dismissed_study_is_neither_released_nor_closed(room: Room) -> None:
    hold_two_patients(room)
    dismiss(room)

    with pytest.raises(IdentityConflict):
        room.write(lambda c: decisions.release(c, UID, patient_id="P-1", now=room.clock.at, actor="person me"))
    with pytest.raises(WrongState):
        room.write(lambda c: decisions.close(c, UID, terms=room.terms, actor="person me"))
    with pytest.raises(WrongState):
        dismiss(room)


def test_a_final_report_still_ends_a_study_for_good(room: Room) -> None:
    hold_two_patients(room)
    room.write(lambda c: store.set_state(c, UID, StudyState.CLOSED, now=room.clock.at))

    room.receive(9)

    assert room.study().state is StudyState.CLOSED
    with room.wiring.write() as connection:
        assert not decisions.read_again(connection, UID, now=room.clock.at, actor="person me")


@pytest.mark.parametrize("state", [one for one in StudyState if one not in (StudyState.HELD, StudyState.DEAD)], ids=str)
def test_only_what_waits_for_a_person_is_dismissed(room: Room, state: StudyState) -> None:
    room.receive(1)
    room.write(lambda c: store.set_state(c, UID, state, now=room.clock.at, completion_reason=CompletionReason.QUIET))

    with pytest.raises(WrongState, match=f"it is {state}"):
        dismiss(room)

    assert "dismissed" not in room.actions()


@pytest.mark.parametrize("reason", ["", "  ", "\n\t", "\0", "x" * 501])
def test_a_reason_says_something(room: Room, reason: str) -> None:
    hold_two_patients(room)

    with pytest.raises(WrongState, match="1 to 500 characters"):
        dismiss(room, reason)

    assert room.study().state is StudyState.HELD
