"""What happens to a study: completion, steps, errors and what a person decides."""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from sqlalchemy import Connection, select

from casebook import audit, database, decisions, flow, generations, intake, queue, store, tables
from casebook.case import Case, Job
from casebook.errors import (
    IdentityConflict,
    InvalidObject,
    LostLease,
    PatientNotConfirmed,
    PeerUnavailable,
    RejectedByPeer,
    Retryable,
    SettingsError,
    WrongState,
)
from casebook.identity import KEYWORDS
from casebook.outcomes import (
    Classed,
    Cleared,
    Counted,
    Delivered,
    Drafted,
    Held,
    Note,
    Outcome,
    Prepared,
    Refused,
)
from casebook.settings import ArchiveSettings, QueueSettings
from casebook.study import CompletionReason, InstanceStatus, Study, StudyState
from casebook.terms import Terms
from casebook.testing import FrozenClock, a_header, a_pipeline, a_reading, a_received_instance
from casebook.wiring import Wiring

UID = "1.2.3"
LIMITS = QueueSettings(max_attempts=3, give_up_after_h=2.0, backoff_first_s=10.0, backoff_cap_s=30.0)
ARCHIVE = ArchiveSettings(host="127.0.0.1", port=104, ae_title="ARCHIVE", max_questions=2)


class Room:
    """One reading room: a database, a clock, and short words for what happens in it."""

    def __init__(self, wiring: Wiring, clock: FrozenClock) -> None:
        self.wiring = wiring
        self.clock = clock
        self.pipelines = wiring.pipelines

    @property
    def terms(self) -> Terms:
        return Terms(pipelines=self.pipelines, limits=LIMITS, now=self.clock.at)

    def write(self, action: Callable[[Connection], object]) -> None:
        with self.wiring.write() as connection:
            action(connection)

    def receive(self, *numbers: int, **values: object) -> None:
        received = [a_received_instance(number, received_at=self.clock.at, **values) for number in numbers]  # type: ignore[arg-type]
        self.write(lambda c: intake.record_instances(c, received, self.clock.at))

    def settle(self, archive: ArchiveSettings | None = None) -> bool:
        with self.wiring.write() as connection:
            return flow.settle_quiet(connection, UID, terms=self.terms, archive=archive)

    def complete(self) -> None:
        self.clock.advance(31)
        assert self.settle()

    def claim(self, step: str) -> Job:
        queue_name = next(one.queue for one in flow.STEPS if one.name == step)
        with self.wiring.write() as connection:
            jobs = queue.claim(connection, queue=queue_name, owner="me", lease_s=60.0, now=self.clock.at, limit=9)
            wanted = next(job for job in jobs if job.step == step)
            for job in jobs:
                if job is not wanted:
                    queue.release(connection, job, now=self.clock.at)
        return wanted

    def claim_all(self, queue_name: str) -> list[Job]:
        with self.wiring.write() as connection:
            return queue.claim(connection, queue=queue_name, owner="me", lease_s=60.0, now=self.clock.at, limit=9)

    def load(self, job: Job) -> Case:
        with self.wiring.read() as connection:
            return flow.load_case(connection, job, self.pipelines)

    def begin_send(self, job: Job) -> None:
        self.write(lambda c: flow.begin_send(c, job, terms=self.terms))

    def advance(self, job: Job, outcome: Outcome) -> None:
        self.write(lambda c: flow.advance(c, job, outcome, terms=self.terms))

    def fail(self, job: Job, error: BaseException) -> None:
        self.write(lambda c: flow.fail(c, job, error, terms=self.terms, random=Random(1)))

    def read(self) -> None:
        job = self.claim("read")
        images = [one.sop_instance_uid for one in self.load(job).instances]
        self.advance(job, Drafted(reading=a_reading(UID, job.generation, images=images, created_at=self.clock.at)))

    def prepare(self) -> None:
        job = self.claim("prepare")
        case = self.load(job)
        assert case.reading is not None
        uid = f"9.{job.generation}.{job.subject}"
        self.advance(
            job, Prepared(kind="sr", content=case.predecessor_uid.encode(), object_uid=uid, object_class="1.2.840")
        )

    def send(self) -> None:
        job = self.claim("send")
        self.begin_send(job)
        self.advance(job, Delivered(acknowledgement="0x0000"))

    def deliver_all(self) -> None:
        self.complete()
        self.read()
        for _ in self.pipelines[0].destinations:
            self.prepare()
        for _ in self.pipelines[0].destinations:
            self.send()

    def study(self) -> Study:
        with self.wiring.read() as connection:
            return store.get_study(connection, UID)

    def statuses(self) -> list[InstanceStatus]:
        with self.wiring.read() as connection:
            return [one.status for one in store.instances(connection, UID, statuses=InstanceStatus)]

    def actions(self) -> list[str]:
        with self.wiring.read() as connection:
            return [one.action for one in audit.timeline(connection, UID)]

    def live_jobs(self) -> list[tuple[str, str]]:
        job = tables.job.c
        with self.wiring.read() as connection:
            rows = connection.execute(
                select(job.step, job.subject).where(job.state.in_(("ready", "retry", "running"))).order_by(job.id)
            )
            return [(row.step, row.subject) for row in rows]


@pytest.fixture
def room(wiring: Wiring, clock: FrozenClock) -> Room:
    return Room(wiring, clock)


# ---- completion --------------------------------------------------------------------------------------------


def test_a_study_is_not_complete_before_its_quiet_period_is_over(room: Room) -> None:
    room.receive(1)
    room.clock.advance(29.9)

    assert not room.settle()
    assert room.study().state is StudyState.RECEIVED


def test_every_new_image_starts_the_quiet_period_again(room: Room) -> None:
    room.receive(1)
    room.clock.advance(25)
    room.receive(2)
    room.clock.advance(25)

    assert not room.settle()
    room.clock.advance(6)
    assert room.settle()


def test_a_quiet_study_is_complete_once_and_asks_for_one_reading(room: Room) -> None:
    room.receive(1, 2)
    room.complete()

    assert not room.settle()
    assert room.study().state is StudyState.COMPLETE
    assert room.study().completion_reason is CompletionReason.QUIET
    assert room.study().pipeline == "chest"
    assert room.live_jobs() == [("read", "")]


def test_a_study_that_no_pipeline_wants_ends_as_unmatched(room: Room) -> None:
    room.receive(1, modality="MR")
    room.complete()

    assert (room.study().state, room.study().reason) == (StudyState.UNMATCHED, "no_pipeline_matches")
    assert room.live_jobs() == []


@pytest.mark.parametrize("keyword", ["patient_id", "patient_birth_date", "accession_number", "issuer_of_patient_id"])
def test_images_that_disagree_about_the_patient_hold_the_study(room: Room, keyword: str) -> None:
    room.receive(1, header=a_header(**{keyword: "ONE"}))
    room.receive(2, header=a_header(**{keyword: "OTHER"}))
    room.complete()

    assert (room.study().state, room.study().reason) == (StudyState.HELD, "patient_identity_differs")
    assert KEYWORDS[keyword] in room.study().detail
    assert "OTHER" not in room.study().detail
    assert room.live_jobs() == []


def test_a_study_with_a_copy_not_yet_compared_is_not_complete(room: Room) -> None:
    room.receive(1)
    room.receive(1, content=b"other")
    room.clock.advance(100)

    assert not room.settle()
    room.advance(room.claim("classify"), Classed(is_variant=True, reason="transfer_syntax"))
    assert room.settle()


def test_a_person_may_close_a_study_before_it_is_quiet(room: Room) -> None:
    room.receive(1)
    with room.wiring.write() as connection:
        assert flow.complete(connection, UID, terms=room.terms, reason=CompletionReason.FORCED)

    assert room.study().completion_reason is CompletionReason.FORCED


# ---- the count of the archive ------------------------------------------------------------------------------


def test_a_quiet_study_is_complete_when_the_archive_counts_as_many_images(room: Room) -> None:
    room.receive(1, 2)
    room.clock.advance(31)
    assert not room.settle(ARCHIVE)
    assert not room.settle(ARCHIVE)
    assert room.live_jobs() == [("count", "1")]

    room.advance(room.claim("count"), Counted(expected=2))

    assert room.study().state is StudyState.COMPLETE
    assert room.study().completion_reason is CompletionReason.COUNTED
    assert room.study().expected_instances == 2


def test_a_missing_image_is_asked_for_again_and_then_the_study_is_read_as_it_is(room: Room) -> None:
    room.receive(1)
    for _ in range(ARCHIVE.max_questions):
        room.clock.advance(31)
        room.settle(ARCHIVE)
        room.advance(room.claim("count"), Counted(expected=2))
        assert room.study().state is StudyState.RECEIVED
    assert not room.settle(ARCHIVE), "the next look waits"
    room.clock.advance(31)
    assert room.settle(ARCHIVE)

    assert room.study().completion_reason is CompletionReason.QUIET
    assert (room.study().instance_count, room.study().expected_instances) == (1, 2)


def test_an_archive_that_does_not_answer_cannot_kill_a_study(room: Room) -> None:
    room.receive(1)
    for _ in range(ARCHIVE.max_questions):
        room.clock.advance(31)
        room.settle(ARCHIVE)
        room.fail(room.claim("count"), PeerUnavailable())
    room.clock.advance(31)

    assert room.settle(ARCHIVE)
    assert room.study().state is StudyState.COMPLETE


def test_images_fetched_from_the_archive_count(room: Room) -> None:
    room.receive(1)
    room.clock.advance(31)
    room.settle(ARCHIVE)

    room.advance(room.claim("count"), Counted(expected=2, pulled=(a_received_instance(2),)))

    assert room.study().state is StudyState.COMPLETE
    assert room.study().instance_count == 2


def test_a_fetched_image_that_its_sender_sent_meanwhile_is_not_recorded_again(room: Room) -> None:
    room.receive(1)
    room.clock.advance(31)
    room.settle(ARCHIVE)
    job = room.claim("count")
    room.receive(2)
    fetched = replace(a_received_instance(2, path="pulled/2.dcm"), sha256="")

    room.advance(job, Counted(expected=3, pulled=(fetched, a_received_instance(3))))

    with room.wiring.write() as connection:
        (sent,) = store.copies(connection, {fetched.sop_instance_uid})
    assert sent.path != fetched.path
    assert room.study().instance_count == 3


def test_a_fetched_image_that_contradicts_holds_the_study_with_its_reason(room: Room) -> None:
    room.receive(7, study="9.9")
    room.receive(1)
    room.clock.advance(31)
    room.settle(ARCHIVE)
    stranger = a_received_instance(2, sop_instance_uid="9.9.1.7")

    room.advance(room.claim("count"), Counted(expected=2, pulled=(stranger,)))

    assert (room.study().state, room.study().reason) == (StudyState.HELD, "sop_instance_uid_in_two_studies")


def test_a_study_that_still_streams_in_is_not_complete_although_the_archive_agrees(room: Room) -> None:
    room.receive(1)
    room.clock.advance(31)
    room.settle(ARCHIVE)
    job = room.claim("count")
    room.receive(2)

    room.advance(job, Counted(expected=2))

    assert room.study().state is StudyState.RECEIVED
    room.clock.advance(31)
    room.settle(ARCHIVE)
    room.advance(room.claim("count"), Counted(expected=2))
    assert room.study().completion_reason is CompletionReason.COUNTED


def test_a_count_without_fetched_images_never_waits_for_a_recording(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.receive(1)
    room.clock.advance(31)
    room.settle(ARCHIVE)
    locked: list[Connection] = []
    monkeypatch.setattr(store, "lock_recording", locked.append)

    room.advance(room.claim("count"), Counted(expected=1))

    assert room.study().state is StudyState.COMPLETE
    assert locked == []


def test_a_count_that_fails_after_a_person_closed_the_study_keeps_its_reason(room: Room) -> None:
    room.receive(1, modality="MR")
    room.clock.advance(31)
    room.settle(ARCHIVE)
    job = room.claim("count")
    room.write(lambda c: flow.complete(c, UID, terms=room.terms, reason=CompletionReason.FORCED))

    room.fail(job, PeerUnavailable())

    assert (room.study().state, room.study().reason) == (StudyState.UNMATCHED, "no_pipeline_matches")


# ---- the line ----------------------------------------------------------------------------------------------


def test_a_study_goes_from_received_to_delivered(room: Room) -> None:
    room.receive(1)
    states = [room.study().state]
    room.complete()
    states.append(room.study().state)
    room.read()
    states.append(room.study().state)
    room.prepare()
    states.append(room.study().state)
    room.prepare()
    states.append(room.study().state)
    room.send()
    states.append(room.study().state)
    room.send()
    states.append(room.study().state)

    assert states == ["received", "complete", "read", "read", "ready", "ready", "delivered"]
    assert room.live_jobs() == []
    assert room.actions()[0] == "first_image_received"
    assert room.actions()[-1] == "delivered"


@pytest.mark.parametrize("step", ["prepare", "send"])
def test_a_result_waits_for_an_archive_as_long_as_for_a_destination(room: Room, step: str) -> None:
    room.receive(1)
    room.complete()
    room.read()
    if step == "send":
        room.prepare()
    began = room.clock.at
    while room.clock.at < began + LIMITS.give_up_after_h * 3600 - 60:
        room.fail(room.claim(step), PatientNotConfirmed("The archive PACS does not answer"))
        room.clock.advance(31)
    assert room.study().state is StudyState.READ
    assert room.claim(step).attempt == 1


def test_what_was_noted_when_a_job_was_cleared_stands_in_the_timeline(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    job = room.claim("prepare")
    cleared = Cleared(notes=(Note(action="archive_did_not_answer", detail="The archive PACS does not answer."),))
    room.write(lambda c: flow.note_cleared(c, job, cleared, terms=room.terms))

    assert "archive_did_not_answer" in room.actions()


def test_each_destination_keeps_its_reason_and_the_study_its_own(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    for reason in ("text_unwritable", "accession_number_empty"):
        room.advance(room.claim("prepare"), Held(reason=reason, detail="X.", only_this_output=True))
    with room.wiring.read() as connection:
        held = store.holds(connection, room.study())

    assert {one.reason for one in held} == {"text_unwritable", "accession_number_empty"}
    assert {one.destination for one in held} == {"pacs", "ris"}

    room.write(lambda c: generations.hold(c, UID, now=room.clock.at, reason="study_differs", detail="Y."))
    room.write(
        lambda c: generations.hold(
            c, UID, now=room.clock.at, reason="text_unwritable", detail="X.", destination="third"
        )
    )
    assert room.study().reason == "study_differs"


def test_a_fast_destination_does_not_wait_for_a_slow_one(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    room.send()

    assert room.study().state is StudyState.READ
    room.prepare()
    room.send()
    assert room.study().state is StudyState.DELIVERED


def test_a_refused_study_says_why_and_asks_for_nothing(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.advance(room.claim("read"), Refused(reason="not_a_chest", detail="The picture does not show a chest."))

    assert (room.study().state, room.study().reason) == (StudyState.REFUSED, "not_a_chest")
    assert room.study().detail == "The picture does not show a chest."
    assert room.live_jobs() == []


def test_a_held_outcome_stops_the_outputs_of_the_other_destinations(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.advance(room.claim("prepare"), Held(reason="patient_id_is_empty", detail="The images carry no PatientID."))

    assert room.study().state is StudyState.HELD
    assert room.live_jobs() == []


def test_a_reading_of_an_older_generation_is_not_written(room: Room) -> None:
    room.receive(1)
    room.complete()
    late = room.claim("read")
    room.receive(2)

    with pytest.raises(LostLease):
        room.advance(late, Drafted(reading=a_reading(UID, 1)))
    assert room.study().generation == 2
    with room.wiring.read() as connection:
        assert store.get_reading(connection, UID, 1) is None


def test_a_reading_that_names_another_generation_is_not_written(room: Room) -> None:
    room.receive(1)
    room.complete()

    with pytest.raises(LostLease):
        room.advance(room.claim("read"), Drafted(reading=a_reading(UID, 2)))
    assert room.study().state is StudyState.COMPLETE


def test_an_outcome_written_twice_is_written_once(room: Room) -> None:
    room.receive(1)
    room.complete()
    job = room.claim("read")
    room.advance(job, Drafted(reading=a_reading(UID)))

    with pytest.raises(LostLease):
        room.advance(job, Drafted(reading=a_reading(UID, findings="Something else.")))
    assert room.live_jobs() == [("prepare", "pacs"), ("prepare", "ris")]


def test_a_study_whose_prepare_jobs_are_gone_is_never_called_delivered(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    with room.wiring.write() as connection:
        connection.execute(tables.job.delete().where(tables.job.c.step == "prepare"))
        flow.settle(connection, UID, room.clock.at)

    assert room.study().state is not StudyState.DELIVERED


def test_a_reading_for_a_pipeline_that_is_gone_ends_with_a_reason(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.pipelines = (a_pipeline("another"),)

    with pytest.raises(SettingsError, match="chest"):
        room.load(room.claim("read"))


# ---- late images and generations ---------------------------------------------------------------------------


def test_a_late_image_starts_the_next_generation_and_names_what_was_sent(room: Room) -> None:
    room.receive(1)
    room.deliver_all()
    room.receive(2)

    assert (room.study().generation, room.study().state, room.study().pipeline) == (2, StudyState.RECEIVED, "")
    room.complete()
    room.read()
    case = room.load(room.claim("prepare"))
    assert case.predecessor_uid == "9.1.pacs"
    assert case.revision == 2


def test_an_output_that_was_never_sent_is_no_predecessor(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    room.receive(2)
    room.complete()
    room.read()

    assert room.load(room.claim("prepare")).predecessor_uid == ""


def test_an_output_whose_send_began_is_a_predecessor_even_without_an_answer(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    room.begin_send(room.claim("send"))
    room.receive(2)
    room.complete()
    room.read()

    assert room.load(room.claim("prepare")).predecessor_uid == "9.1.pacs"


def test_a_predecessor_is_looked_for_at_the_same_destination(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    room.send()
    room.receive(2)
    room.complete()
    room.read()
    room.prepare()
    job = room.claim("prepare")

    assert job.subject == "ris"
    assert room.load(job).predecessor_uid == ""


def test_a_superseded_generation_starts_no_send(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    job = room.claim("send")
    room.receive(2)

    with pytest.raises(LostLease):
        room.begin_send(job)


@pytest.mark.parametrize("state", [StudyState.REFUSED, StudyState.UNMATCHED, StudyState.DEAD])
def test_a_late_image_gives_a_study_that_had_ended_another_chance(room: Room, state: StudyState) -> None:
    room.receive(1, modality="MR" if state is StudyState.UNMATCHED else "DX")
    room.complete()
    if state is StudyState.REFUSED:
        room.advance(room.claim("read"), Refused(reason="x", detail="X."))
    elif state is StudyState.DEAD:
        room.fail(room.claim("read"), InvalidObject())
    assert room.study().state is state
    room.receive(2)
    room.complete()

    assert (room.study().state, room.study().generation) == (StudyState.COMPLETE, 2)
    assert room.live_jobs() == [("read", "")]


def test_a_late_image_does_not_end_a_hold(room: Room) -> None:
    room.receive(1)
    room.receive(2, patient_id="P-2")
    room.complete()
    room.receive(3)

    assert (room.study().state, room.study().generation) == (StudyState.HELD, 1)
    assert room.study().instance_count == 3


@pytest.mark.parametrize("reason", ["accession_number_empty", "text_unwritable"])
def test_a_late_image_is_read_although_one_destination_cannot_be_served(room: Room, reason: str) -> None:
    hold_one_output(room, reason)
    room.receive(2)
    room.complete()

    assert (room.study().state, room.study().generation) == (StudyState.COMPLETE, 2)
    room.read()
    assert room.load(room.claim("prepare")).predecessor_uid == "9.1.pacs"


def hold_one_output(room: Room, reason: str) -> None:
    """Deliver to the first destination and hold for the second."""
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    room.send()
    room.advance(room.claim("prepare"), Held(reason=reason, detail="X.", only_this_output=True))


# ---- repeated objects --------------------------------------------------------------------------------------


def test_equal_bytes_change_nothing_at_any_time(room: Room) -> None:
    room.receive(1)
    room.deliver_all()
    before = room.study()
    room.clock.advance(100)
    room.receive(1)

    assert room.study() == before
    assert room.statuses() == [InstanceStatus.CURRENT]


def test_a_variant_is_kept_and_holds_nothing(room: Room) -> None:
    room.receive(1)
    room.deliver_all()
    room.receive(1, content=b"other transfer syntax")
    case = room.load(room.claim("classify"))
    assert case.repeated is not None
    assert [one.status for one in case.instances] == [InstanceStatus.CURRENT]
    room.advance(case.job, Classed(is_variant=True, reason="same_pixels"))

    assert room.study().state is StudyState.DELIVERED
    assert room.statuses() == [InstanceStatus.CURRENT, InstanceStatus.VARIANT]


def test_a_conflicting_copy_holds_the_study_and_keeps_the_first_copy(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.receive(1, content=b"other pixels")
    room.advance(room.claim("classify"), Classed(is_variant=False, reason="pixels_differ"))

    assert (room.study().state, room.study().reason) == (StudyState.HELD, "repeated_image_differs")
    assert room.statuses() == [InstanceStatus.CURRENT, InstanceStatus.CONFLICT]
    assert room.live_jobs() == []


@pytest.mark.parametrize(("verdict", "which"), [("unreadable", "later copy"), ("first_copy_unreadable", "first copy")])
def test_a_damaged_copy_holds_the_study_and_is_not_called_another_patient(room: Room, verdict: str, which: str) -> None:
    room.receive(1)
    room.complete()
    room.receive(1, content=b"damaged")
    room.advance(room.claim("classify"), Classed(is_variant=False, reason=verdict))

    assert (room.study().state, room.study().reason) == (StudyState.HELD, "repeated_image_unreadable")
    assert f"the {which} is damaged" in room.study().detail
    assert room.statuses() == [InstanceStatus.CURRENT, InstanceStatus.CONFLICT]


def test_copies_that_cannot_be_compared_hold_the_study(room: Room) -> None:
    room.receive(1)
    room.receive(1, content=b"other")
    room.fail(room.claim("classify"), InvalidObject())

    assert (room.study().state, room.study().reason) == (StudyState.HELD, "repeated_image_not_compared")


def test_nothing_is_sent_while_a_copy_is_not_compared(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    room.receive(1, content=b"other")
    job = room.claim("send")

    with pytest.raises(Retryable):
        room.load(job)
    with pytest.raises(Retryable):
        room.begin_send(job)
    with room.wiring.read() as connection:
        assert store.predecessor(connection, UID, 99, "pacs") is None, "nothing is noted as sent"


def test_a_copy_that_arrives_between_loading_and_sending_stops_the_send(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    job = room.claim("send")
    room.load(job)
    room.receive(1, content=b"other")

    with pytest.raises(Retryable):
        room.begin_send(job)


def test_one_uid_in_two_studies_holds_the_second_and_not_the_first(room: Room) -> None:
    room.receive(1, study="9.9", sop_instance_uid="5.5")
    room.receive(1, sop_instance_uid="5.5")

    assert (room.study().state, room.study().reason) == (StudyState.HELD, "sop_instance_uid_in_two_studies")
    with room.wiring.read() as connection:
        assert store.get_study(connection, "9.9").state is StudyState.RECEIVED


def test_a_very_long_path_fits_everywhere(room: Room) -> None:
    room.receive(1)
    room.receive(1, content=b"other", path="p" * 255)

    assert room.claim("classify").subject == "p" * 255


# ---- errors ------------------------------------------------------------------------------------------------


def test_a_retryable_error_waits_longer_each_time_and_then_kills_the_job(room: Room) -> None:
    room.receive(1)
    room.complete()
    waits = []
    for _ in range(LIMITS.max_attempts):
        room.fail(room.claim("read"), Retryable())
        if room.study().state is StudyState.DEAD:
            break
        with room.wiring.read() as connection:
            due = connection.execute(select(tables.job.c.run_after)).scalar_one()
        waits.append(due - room.clock.at)
        room.clock.at = due

    assert 5.0 <= waits[0] <= 10.0
    assert 10.0 <= waits[1] <= 20.0
    assert len(waits) == LIMITS.max_attempts - 1
    assert room.study().state is StudyState.DEAD


def test_a_wait_is_never_longer_than_its_cap(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    for _ in range(20):
        room.fail(room.claim("send"), PeerUnavailable())
        with room.wiring.read() as connection:
            due = connection.execute(select(tables.job.c.run_after).where(tables.job.c.step == "send")).scalar_one()
        assert due - room.clock.at <= LIMITS.backoff_cap_s
        room.clock.at = due


def test_an_outage_uses_up_no_attempts_and_ends_in_time(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    began = room.clock.at
    while room.clock.at < began + LIMITS.give_up_after_h * 3600:
        job = room.claim("send")
        assert job.attempt == 1
        room.fail(job, PeerUnavailable("it was silent"))
        assert room.study().state is StudyState.READ
        room.clock.advance(31)
    room.fail(room.claim("send"), PeerUnavailable("it was silent"))

    assert room.study().state is StudyState.DEAD


def test_a_revived_send_has_its_hours_again(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    room.fail(room.claim("send"), PeerUnavailable())
    room.clock.advance(LIMITS.give_up_after_h * 3600 + 1)
    room.fail(room.claim("send"), PeerUnavailable())
    room.write(lambda c: decisions.retry_dead(c, UID, now=room.clock.at, actor="person"))
    room.fail(room.claim("send"), PeerUnavailable())

    assert room.study().state is StudyState.READ


def test_a_send_whose_worker_keeps_vanishing_is_dead_after_its_attempts(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    for _ in range(LIMITS.max_attempts):
        room.fail(room.claim("send"), flow.WorkerVanished())
        room.clock.advance(31)

    assert room.study().state is StudyState.DEAD


def test_a_newer_result_waits_while_the_older_may_be_on_the_wire(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    older = room.claim("send")
    room.begin_send(older)
    room.receive(2)
    room.complete()
    room.read()
    for _ in room.pipelines[0].destinations:
        room.prepare()
    other = room.claim("send")
    assert (other.subject, other.generation) != (older.subject, 2)
    assert not [one for one in room.claim_all("io") if one.subject == older.subject], "it may still be on its way"

    room.write(lambda c: queue.take_off_wire(c, older))

    assert [one.generation for one in room.claim_all("io")] == [2]


def test_what_a_vanished_worker_sent_is_over_when_its_process_must_have_ended(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    older = room.claim("send")
    room.begin_send(older)
    room.fail(older, flow.WorkerVanished())
    room.receive(2)
    room.complete()
    room.read()
    room.prepare()
    room.prepare()
    began = room.clock.at
    assert not [one for one in room.claim_all("io") if one.subject == older.subject]

    room.clock.at = began + LIMITS.hard_limit_s

    assert [one.generation for one in room.claim_all("io") if one.subject == older.subject] == [2]


def test_a_permanent_error_kills_the_job_at_once_and_keeps_its_reason(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    room.fail(room.claim("send"), RejectedByPeer("The destination answered 0xA900."))

    assert (room.study().state, room.study().reason) == (StudyState.DEAD, "step_failed")
    with room.wiring.read() as connection:
        row = connection.execute(select(tables.job).where(tables.job.c.state == "dead")).one()
    assert (row.reason, row.detail) == ("rejected_by_peer", "The destination answered 0xA900.")


def test_a_foreign_error_leaves_only_its_type_behind(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.fail(room.claim("read"), ValueError("PatientName DOE^JANE"))

    with room.wiring.read() as connection:
        row = connection.execute(select(tables.job)).one()
        everything = repr([connection.execute(select(table)).all() for table in (tables.audit, tables.study)])
    assert (row.reason, row.detail) == ("value_error", "Unexpected ValueError.")
    assert "DOE" not in everything


def test_an_identity_conflict_holds_the_study(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.fail(room.claim("prepare"), IdentityConflict())

    assert (room.study().state, room.study().reason) == (StudyState.HELD, "identity_conflict")
    assert room.live_jobs() == []


def test_a_silent_worker_costs_one_attempt_and_too_many_kill_the_job(room: Room) -> None:
    room.receive(1)
    room.complete()
    for _ in range(LIMITS.max_attempts):
        job = room.claim("read")
        room.clock.advance(61)
        with room.wiring.write() as connection:
            assert flow.expire(connection, job, terms=room.terms, random=Random(1))
        room.clock.advance(100)

    assert room.study().state is StudyState.DEAD


def test_a_lease_that_was_renewed_in_time_does_not_expire(room: Room) -> None:
    room.receive(1)
    room.complete()
    job = room.claim("read")
    room.clock.advance(61)
    room.write(lambda c: queue.renew(c, job, lease_until=room.clock.at + 60))

    with room.wiring.write() as connection:
        assert not flow.expire(connection, job, terms=room.terms, random=Random(1))
    room.advance(job, Drafted(reading=a_reading(UID)))


# ---- a person ----------------------------------------------------------------------------------------------


def test_a_person_retries_a_dead_study_and_it_goes_on_where_it_was(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    room.prepare()
    room.fail(room.claim("send"), RejectedByPeer())
    assert room.study().state is StudyState.DEAD
    with room.wiring.write() as connection:
        assert decisions.retry_dead(connection, UID, now=room.clock.at, actor="console") == 1

    assert room.study().state is StudyState.READY
    room.send()
    room.send()
    assert room.study().state is StudyState.DELIVERED


def test_retrying_a_study_without_dead_jobs_changes_nothing(room: Room) -> None:
    room.receive(1)
    room.complete()
    before = room.study()
    with room.wiring.write() as connection:
        assert decisions.retry_dead(connection, UID, now=room.clock.at, actor="console") == 0

    assert room.study() == before


@pytest.mark.parametrize("state", [StudyState.REFUSED, StudyState.UNMATCHED, StudyState.HELD])
def test_a_person_has_a_study_that_was_not_read_or_not_served_looked_at_again(room: Room, state: StudyState) -> None:
    if state is StudyState.HELD:
        hold_one_output(room, "text_unwritable")
    else:
        room.receive(1, modality="MR" if state is StudyState.UNMATCHED else "DX")
        room.complete()
    if state is StudyState.REFUSED:
        room.advance(room.claim("read"), Refused(reason="x", detail="X."))
    assert room.study().state is state
    room.pipelines = (a_pipeline(modality="MR"),) if state is StudyState.UNMATCHED else room.pipelines

    with room.wiring.write() as connection:
        assert decisions.read_again(connection, UID, now=room.clock.at, actor="person x")
    assert room.settle()

    assert (room.study().state, room.study().generation) == (StudyState.COMPLETE, 2)


def test_only_a_study_that_was_not_read_is_looked_at_again(room: Room) -> None:
    room.receive(1)
    room.receive(2, study="9.9", is_own=True)

    with room.wiring.write() as connection:
        assert not decisions.read_again(connection, UID, now=room.clock.at, actor="person x")
        assert not decisions.read_again(connection, "9.9", now=room.clock.at, actor="person x")


def test_the_timeline_names_who_closed_a_study(room: Room) -> None:
    room.receive(1)

    def close(connection: Connection) -> object:
        return decisions.close(connection, UID, terms=room.terms, actor="person x")

    room.write(close)

    with room.wiring.read() as connection:
        named = [(one.actor, one.action) for one in audit.timeline(connection, UID)]
    assert ("person x", "declared_complete") in named
    assert room.study().completion_reason is CompletionReason.FORCED
    with pytest.raises(WrongState):
        room.write(close)


def test_a_study_with_a_copy_not_compared_cannot_be_closed(room: Room) -> None:
    room.receive(1)
    room.receive(1, content=b"other")

    with pytest.raises(WrongState, match="compared"), room.wiring.write() as connection:
        decisions.close(connection, UID, terms=room.terms, actor="person x")


def test_a_released_study_goes_on_with_the_images_of_one_patient(room: Room) -> None:
    room.receive(1, 2)
    room.receive(3, patient_id="P-2")
    room.complete()
    with room.wiring.write() as connection:
        assert decisions.release(connection, UID, patient_id="P-1", now=room.clock.at, actor="console") == 2
    assert room.settle()

    assert (room.study().state, room.study().generation, room.study().instance_count) == (StudyState.COMPLETE, 2, 2)
    assert room.statuses() == [InstanceStatus.CURRENT, InstanceStatus.CURRENT, InstanceStatus.EXCLUDED]


def test_a_reader_is_told_which_images_a_release_left_out(room: Room) -> None:
    room.receive(1, 2)
    room.receive(3, patient_id="P-2")
    room.receive(2, content=b"other")
    room.advance(room.claim("classify"), Classed(is_variant=False, reason="pixels_differ"))
    with room.wiring.write() as connection:
        decisions.release(connection, UID, patient_id="P-1", now=room.clock.at, actor="console")
    assert room.settle()

    assert room.load(room.claim("read")).set_aside_uids == (f"{UID}.1.3",)


def test_a_release_keeps_the_first_copy_of_a_conflict(room: Room) -> None:
    room.receive(1)
    room.clock.advance(1)
    room.receive(1, content=b"other pixels")
    room.advance(room.claim("classify"), Classed(is_variant=False, reason="pixels_differ"))
    with room.wiring.write() as connection:
        assert decisions.release(connection, UID, patient_id="P-1", now=room.clock.at, actor="console") == 1

    assert room.statuses() == [InstanceStatus.CURRENT, InstanceStatus.EXCLUDED]


def test_a_release_for_a_patient_without_images_changes_nothing(room: Room) -> None:
    room.receive(1)
    room.receive(2, patient_id="P-2")
    room.complete()

    with pytest.raises(IdentityConflict), room.wiring.write() as connection:
        decisions.release(connection, UID, patient_id="P-9", now=room.clock.at, actor="console")
    assert room.study().state is StudyState.HELD
    assert room.statuses() == [InstanceStatus.CURRENT, InstanceStatus.CURRENT]


@pytest.mark.parametrize("keyword", ["patient_birth_date", "accession_number", "issuer_of_patient_id"])
@pytest.mark.parametrize(("chosen", "kept"), [("B", 2), (" A ", 1)])
def test_a_release_chooses_the_whole_identity(room: Room, keyword: str, chosen: str, kept: int) -> None:
    room.receive(1, 2, header=a_header(**{keyword: "B"}))
    room.receive(3, header=a_header(**{keyword: "A"}))
    room.complete()
    before = room.statuses()

    with pytest.raises(IdentityConflict, match=KEYWORDS[keyword]), room.wiring.write() as connection:
        decisions.release(connection, UID, patient_id="P-1", now=room.clock.at, actor="console")
    assert (room.study().state, room.statuses()) == (StudyState.HELD, before)
    choice: dict[str, Any] = {keyword: chosen}
    with room.wiring.write() as connection:
        assert (
            decisions.release(connection, UID, patient_id="P-1", now=room.clock.at, actor="console", **choice) == kept
        )
    assert room.settle()
    assert (room.study().state, room.study().instance_count) == (StudyState.COMPLETE, kept)


def test_a_hold_for_one_destination_is_not_released_into_the_same_hold(room: Room) -> None:
    hold_one_output(room, "accession_number_empty")

    with pytest.raises(IdentityConflict, match="one destination"), room.wiring.write() as connection:
        decisions.release(connection, UID, patient_id="P-1", now=room.clock.at, actor="console")
    assert room.study().generation == 1


def test_only_a_held_study_can_be_released(room: Room) -> None:
    room.receive(1)

    with pytest.raises(IdentityConflict), room.wiring.write() as connection:
        decisions.release(connection, UID, patient_id="P-1", now=room.clock.at, actor="console")


def test_a_hold_stops_a_send_that_has_not_begun(room: Room) -> None:
    room.receive(1)
    room.complete()
    room.read()
    room.prepare()
    job = room.claim("send")
    room.write(lambda c: generations.hold(c, UID, now=room.clock.at, reason="x", detail="X."))

    with pytest.raises(LostLease):
        room.begin_send(job)


def test_every_step_of_the_table_has_a_queue_that_workers_listen_to() -> None:
    assert {step.queue for step in flow.STEPS} == set(flow.QUEUES)
    assert len({step.name for step in flow.STEPS}) == len(flow.STEPS)


def test_a_rolled_back_step_leaves_neither_result_nor_next_jobs(room: Room) -> None:
    room.receive(1)
    room.complete()
    job = room.claim("read")
    with database.write(room.wiring.engine) as connection:
        flow.advance(
            connection,
            job,
            Drafted(reading=a_reading(UID)),
            terms=room.terms,
        )
        connection.get_transaction().rollback()  # type: ignore[union-attr]

    assert room.live_jobs() == [("read", "")]
    assert room.study().state is StudyState.COMPLETE
    room.advance(job, Drafted(reading=a_reading(UID)))
