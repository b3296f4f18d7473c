"""What `wetread why` says of a study in each state it can be in."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest

from casebook import decisions, flow, generations, intake, queue, store
from casebook.case import Case
from casebook.errors import PatientNotConfirmed, PeerUnavailable, RejectedByPeer
from casebook.outcomes import Classed, Delivered, Drafted, Held, Outcome, Prepared, Refused
from casebook.runner import Runner
from casebook.settings import ArchiveSettings, DicomDestination, Hl7Destination, ResultStatus, Settings
from casebook.study import CompletionReason, Difference, StudyState
from casebook.sweeper import sweep
from casebook.testing import FrozenClock, a_header, a_reading, a_received_instance, a_wiring, sqlite_database
from casebook.wiring import Wiring
from console.explain import Explanation, explain

STUDY = "1.2.3"
DISMISSAL = f"If nobody can mend it: wetread dismiss {STUDY} --reason TEXT"
SETTINGS = Settings(
    destinations=(
        DicomDestination(name="pacs", kind="dicom", host="10.1.7.4", port=104, ae_title="PACS"),
        Hl7Destination(
            name="ris", kind="hl7", host="10.1.7.5", port=2575, result_status=ResultStatus.STORED, timeout_s=5
        ),
    )
)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def wiring(clock: FrozenClock) -> Iterator[Wiring]:
    with sqlite_database() as engine:
        yield a_wiring(engine, clock=clock, settings=SETTINGS, owner="reader-1:77")


def receive(wiring: Wiring, *numbers: int, patient_id: str = "P-1", modality: str = "DX") -> None:
    received = [a_received_instance(number, patient_id=patient_id, modality=modality) for number in numbers]
    with wiring.write() as connection:
        intake.record_instances(connection, received, wiring.clock.now(connection))


def say(wiring: Wiring, *, show_patient_ids: bool = False) -> Explanation:
    with wiring.read() as connection:
        return explain(
            connection,
            STUDY,
            settings=wiring.settings,
            now=wiring.clock.now(connection),
            show_patient_ids=show_patient_ids,
        )


def complete(wiring: Wiring, clock: FrozenClock) -> None:
    clock.advance(31)
    sweep(wiring)


def run(wiring: Wiring, queue_name: str, **bodies: Callable[[Case], Outcome]) -> None:
    steps = {name: (lambda case, _settings, body=body: body(case)) for name, body in bodies.items()}
    Runner(wiring, steps, heartbeat=lambda *_: nullcontext()).drain(queue_name)


def draft(case: Case) -> Outcome:
    return Drafted(reading=a_reading(study=STUDY, generation=case.job.generation))


def render(case: Case) -> Outcome:
    kind = "sr" if case.job.subject == "pacs" else "oru"
    return Prepared(kind=kind, content=b"x", object_uid=f"{case.job.subject}.1", object_class="c")


def fail(error: Exception) -> Callable[[Case], Outcome]:
    def body(_case: Case) -> Outcome:
        raise error

    return body


def test_a_study_that_arrives_says_when_its_quiet_period_ends(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1, 2)
    clock.advance(10)

    said = say(wiring)

    assert said.sentence == (
        "Receives images: 2 so far from MODALITY, the last one 10 s ago; the quiet period ends in 20 s."
    )
    assert said.advice == f"To have it read at once: wetread close {STUDY}"
    assert not said.needs_a_person


def test_a_study_that_no_sweep_completed_says_that_the_sweeper_may_not_run(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    clock.advance(60)

    assert say(wiring).sentence == "The quiet period ended 30 s ago; the next sweep completes the study."
    assert "sweeper does not run" in say(wiring).advice


def test_a_study_whose_archive_is_asked_says_so(wiring: Wiring, clock: FrozenClock) -> None:
    archive = ArchiveSettings(host="10.1.7.4", port=104, ae_title="PACS")
    asking = a_wiring(wiring.engine, clock=clock, settings=SETTINGS.model_copy(update={"archive": archive}))
    receive(asking, 1, 2)
    complete(asking, clock)

    assert say(asking).sentence.startswith(
        "Waits until the archive has said how many images the study has; 2 are here; "
        "the question waits for a free io worker since 0 s"
    )


def test_a_repeated_image_names_which_one_is_compared(wiring: Wiring) -> None:
    receive(wiring, 1)
    again = a_received_instance(1, content=b"other")
    with wiring.write() as connection:
        intake.record_instances(connection, [again], wiring.clock.now(connection))

    said = say(wiring)

    assert said.sentence == (
        f"Waits until 1 image that arrived twice with other bytes ({again.sop_instance_uid}) is compared with the "
        "first copy; the comparison waits for a free io worker since 0 s."
    )
    assert "no io worker runs" in said.advice


def test_a_complete_study_waits_for_a_reader(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    clock.advance(7)

    assert say(wiring).sentence == "Complete: the reading waits for a free gpu worker since 7 s."
    assert "no gpu worker runs" in say(wiring).advice


def test_a_reading_in_work_names_its_worker_and_its_lease(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    with wiring.write() as connection:
        queue.claim(connection, queue="gpu", owner="reader-1:77", lease_s=60, now=clock.now())
    clock.advance(15)

    assert say(wiring).sentence == (
        "Complete: the reading is in work (attempt 1 of 5, lease held by reader-1:77 for another 45 s)."
    )


def test_a_send_that_failed_says_when_it_is_tried_again_and_after_what(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    run(wiring, "gpu", read=draft)
    refusing = PeerUnavailable("the connection failed (ConnectionRefusedError)")
    run(wiring, "io", prepare=render, send=lambda case: _send(case, refusing))

    said = say(wiring)

    assert said.study.state is StudyState.READY
    assert said.sentence.startswith(
        "Ready to be sent: sending to ris waits: the destination fails since 0 s, last with peer_unavailable "
        "(the connection failed (ConnectionRefusedError)); it is tried again in "
    )
    assert "destination ris (hl7 10.1.7.5:2575)" in said.advice
    assert "wetread test-destination ris" in said.advice
    assert [(one.destination, one.acknowledgement) for one in said.outputs] == [("pacs", "0x0000"), ("ris", "")]


def test_every_failing_destination_that_holds_a_study_is_named(wiring: Wiring, clock: FrozenClock) -> None:
    def read(case: Case) -> Outcome:
        return Drafted(reading=a_reading(study=case.study.study_instance_uid, generation=1))

    def prepare(case: Case) -> Outcome:
        kind = "sr" if case.job.subject == "pacs" else "oru"
        uid = f"{case.study.study_instance_uid}.{kind}"
        return Prepared(kind=kind, content=b"x", object_uid=uid, object_class="c")

    for number in (1, 2):
        uid = f"1.2.{number}"
        with wiring.write() as connection:
            intake.record_instances(connection, [a_received_instance(study=uid)], clock.now())
    clock.advance(31)
    for number in (1, 2):
        with wiring.write() as connection:
            flow.settle_quiet(connection, f"1.2.{number}", terms=wiring.terms(connection), archive=None)
    run(wiring, "gpu", read=read)
    run(wiring, "io", prepare=prepare, send=fail(PeerUnavailable("it was silent")))
    clock.advance(120)
    with wiring.read() as connection:
        said = explain(connection, "1.2.2", settings=wiring.settings, now=clock.now())

    assert said.sentence.count("as does 1 other result: the destination fails since 2 min, last with peer_unava") == 2
    assert "sending to pacs waits" in said.sentence
    assert "sending to ris waits" in said.sentence
    assert "test-destination pacs" in said.advice
    assert "test-destination ris" in said.advice
    assert "io worker" not in said.sentence + said.advice


def test_an_attempt_in_work_still_says_why_the_last_one_failed(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    run(wiring, "gpu", read=draft)
    run(wiring, "io", prepare=render, send=lambda case: _send(case, PeerUnavailable("it was silent")))
    clock.advance(10)
    with wiring.write() as connection:
        queue.claim(connection, queue="io", owner="sender-1:77", lease_s=60, now=clock.now())

    assert say(wiring).sentence.startswith(
        "Ready to be sent: sending to ris is in work again after peer_unavailable (it was silent) (attempt 1 of 5"
    )


def _send(case: Case, error: Exception) -> Outcome:
    if case.job.subject == "ris":
        raise error
    return Delivered(acknowledgement="0x0000")


def test_a_read_study_says_which_results_are_rendered(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    run(wiring, "gpu", read=draft)

    assert say(wiring).sentence == (
        "Read: the result for pacs waits for a free io worker since 0 s; "
        "the result for ris waits for a free io worker since 0 s."
    )


def test_a_delivered_study_says_who_acknowledged_what(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    run(wiring, "gpu", read=draft)
    run(wiring, "io", prepare=render, send=lambda case: Delivered(acknowledgement=_ACKNOWLEDGED[case.job.subject]))

    said = say(wiring)

    assert said.sentence == "Delivered: pacs acknowledged the SR with 0x0000, ris acknowledged the ORU with AA."
    assert said.advice == ""
    assert next(one.action for one in said.timeline) == "first_image_received"
    assert [one.action for one in said.timeline][-1] == "delivered"


_ACKNOWLEDGED = {"pacs": "0x0000", "ris": "AA"}


def test_a_dead_study_names_the_destination_the_error_and_the_way_back(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    run(wiring, "gpu", read=draft)
    refused = RejectedByPeer("the receiver answered AR")
    run(wiring, "io", prepare=render, send=lambda case: _send(case, refused))

    said = say(wiring)

    assert said.needs_a_person
    assert said.sentence == (
        "Given up: sending to ris failed after 1 attempt with rejected_by_peer (the receiver answered AR)."
    )
    assert said.advice == f"Look at destination ris (hl7 10.1.7.5:2575); then: wetread retry {STUDY}. {DISMISSAL}"


def test_a_dead_reading_points_to_retry(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    for _ in range(5):
        run(wiring, "gpu", read=fail(ZeroDivisionError("Name^Planted")))
        clock.advance(1000)

    said = say(wiring)

    assert said.sentence == (
        "Given up: the reading failed after 5 attempts with zero_division_error (Unexpected ZeroDivisionError)."
    )
    assert said.advice == f"When its cause is mended: wetread retry {STUDY}. {DISMISSAL}"


def test_a_refused_study_gives_the_readers_reason(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    run(wiring, "gpu", read=lambda _: Refused(reason="no_frontal_view", detail="The study has no frontal view."))

    assert say(wiring).sentence == ("Refused, so there is no draft: The study has no frontal view (no_frontal_view).")
    assert not say(wiring).needs_a_person


def test_an_unmatched_study_names_its_modality_and_where_pipelines_lie(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1, modality="MG")
    complete(wiring, clock)

    assert say(wiring).sentence == "No pipeline wants this study (MG), so it is kept and not read."
    assert "pipelines" in say(wiring).advice


def test_two_patients_in_one_study_are_told_apart_without_naming_them(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1, 2)
    clock.advance(1)
    receive(wiring, 3, patient_id="P-2")
    complete(wiring, clock)

    said = say(wiring)

    assert said.needs_a_person
    assert said.sentence == (
        "Held for a person: of its images, in the order of arrival, images 1-2 carry PatientID A, image 3 carries "
        f"PatientID B, so no draft is written for either (which ones: wetread why {STUDY} --show-patient-ids)."
    )
    assert "P-1" not in repr(said)
    assert f"wetread release {STUDY} --as PATIENT_ID" in said.advice


def test_two_patients_in_one_study_are_named_where_they_are_asked_for(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    clock.advance(1)
    receive(wiring, 2, patient_id="P-2")
    complete(wiring, clock)

    assert "image 1 carries PatientID P-1, image 2 carries PatientID P-2" in say(wiring, show_patient_ids=True).sentence


@pytest.mark.parametrize("outcome", ["held", "refused"])
def test_a_draft_that_was_sent_before_is_to_be_withdrawn(wiring: Wiring, clock: FrozenClock, outcome: str) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    run(wiring, "gpu", read=draft)
    run(wiring, "io", prepare=render, send=lambda _: Delivered(acknowledgement="AA"))
    late = a_received_instance(2, patient_id="P-2" if outcome == "held" else "P-1", received_at=clock.now())
    with wiring.write() as connection:
        intake.record_instances(connection, [late], clock.now())
    complete(wiring, clock)
    run(wiring, "gpu", read=lambda _: Refused(reason="no_frontal_view", detail="The study has no frontal view."))

    said = say(wiring)

    assert said.study.state == outcome
    assert said.sentence.endswith("A draft was already sent to pacs (pacs.1), ris (ris.1); have it withdrawn.")


def test_an_image_that_was_left_out_before_contradicts_nobody_any_more(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    clock.advance(1)
    receive(wiring, 2, patient_id="P-2")
    complete(wiring, clock)
    with wiring.write() as connection:
        decisions.release(connection, STUDY, patient_id="P-1", now=clock.now(), actor="person")
        generations.hold(connection, STUDY, now=clock.now(), reason="patient_id_empty", detail="PatientID is empty.")

    assert say(wiring).sentence == "Held for a person: PatientID is empty (patient_id_empty)."


def test_a_hold_because_of_another_accession_number_names_the_option_that_chooses(
    wiring: Wiring, clock: FrozenClock
) -> None:
    others = [a_received_instance(number, header=a_header(accession_number=f"A-{number}")) for number in (1, 2)]
    with wiring.write() as connection:
        intake.record_instances(connection, others, clock.now())
    complete(wiring, clock)

    assert f"wetread release {STUDY} --as PATIENT_ID --accession-number NUMBER" in say(wiring).advice


@pytest.mark.parametrize(
    ("reason", "advice"),
    [("accession_number_empty", "Mend AccessionNumber in the PACS"), ("text_unwritable", f"wetread retry {STUDY}")],
)
def test_a_hold_for_one_destination_says_what_mends_it(
    wiring: Wiring, clock: FrozenClock, reason: str, advice: str
) -> None:
    receive(wiring, 1)
    with wiring.write() as connection:
        store.set_state(connection, STUDY, StudyState.HELD, now=clock.now(), reason=reason, detail="X.")

    assert advice in say(wiring).advice
    assert DISMISSAL in say(wiring).advice


@pytest.mark.parametrize("verdict", ["pixels_differ", "unreadable", "first_copy_unreadable"])
def test_a_held_repeated_image_is_named(wiring: Wiring, clock: FrozenClock, verdict: str) -> None:
    receive(wiring, 1)
    again = a_received_instance(1, content=b"other")
    with wiring.write() as connection:
        intake.record_instances(connection, [again], clock.now())
    run(wiring, "io", classify=lambda _: Classed(is_variant=False, reason=verdict))

    said = say(wiring)

    assert said.study.state is StudyState.HELD
    assert said.sentence.startswith("Held for a person: An image arrived twice")
    assert again.sop_instance_uid in said.sentence


def test_a_dismissed_study_says_why_what_was_sent_and_the_way_back(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    run(wiring, "gpu", read=draft)
    refused = RejectedByPeer("the receiver answered AR")
    run(wiring, "io", prepare=render, send=lambda case: _send(case, refused))
    with wiring.write() as connection:
        decisions.dismiss(connection, STUDY, reason="The RIS never takes it.", now=clock.now(), actor="person me")

    said = say(wiring)

    assert not said.needs_a_person
    assert said.sentence == (
        "Dismissed by a person, so nothing more is done for this study: The RIS never takes it. "
        "What was sent before stays where it is: pacs (pacs.1), ris (ris.1)."
    )
    assert said.advice.endswith(f"wetread retry {STUDY}")
    assert [(one.actor, one.action, one.detail) for one in said.timeline][-1] == (
        "person me",
        "dismissed",
        "The RIS never takes it.",
    )
    assert said.study.detail == ""


def hold(wiring: Wiring, *held: Held) -> None:
    """Let the results for the destinations of a study be held, each for its reason."""
    outcomes = iter(held)
    run(wiring, "gpu", read=draft)
    run(wiring, "io", prepare=lambda _case: next(outcomes))


NO_ACCESSION = Held(
    reason="accession_number_empty",
    detail="AccessionNumber is empty, so the RIS could not file the report.",
    only_this_output=True,
)
UNWRITABLE = Held(reason="text_unwritable", detail="The draft cannot be written for pacs.", only_this_output=True)


def test_two_destinations_that_are_held_each_say_their_reason_and_what_mends_it(
    wiring: Wiring, clock: FrozenClock
) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    hold(wiring, UNWRITABLE, NO_ACCESSION)

    said = say(wiring)

    assert "nothing goes to pacs: The draft cannot be written for pacs (text_unwritable)" in said.sentence
    assert "nothing goes to ris: AccessionNumber is empty" in said.sentence
    assert "For pacs: No character set of a destination mends this" in said.advice
    assert "For ris: Mend AccessionNumber" in said.advice
    assert [(one.destination, one.reason) for one in said.holds] == [
        ("pacs", "text_unwritable"),
        ("ris", "accession_number_empty"),
    ]
    assert "not affected" not in said.sentence


def test_a_destination_that_got_its_report_is_named_beside_the_one_that_is_held(
    wiring: Wiring, clock: FrozenClock
) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    run(wiring, "gpu", read=draft)
    run(
        wiring,
        "io",
        prepare=lambda case: render(case) if case.job.subject == "pacs" else NO_ACCESSION,
        send=lambda _: Delivered(acknowledgement="0x0000"),
    )

    assert "pacs acknowledged the SR with 0x0000" in say(wiring).sentence


def test_a_study_that_is_held_as_a_whole_keeps_what_held_one_destination(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    hold(wiring, UNWRITABLE, Held(reason="identity_changed", detail="The draft was read under another PatientID."))

    said = say(wiring)

    assert said.sentence.startswith("Held for a person: The draft was read under another PatientID")
    assert "Held also because: nothing goes to pacs: The draft cannot be written for pacs" in said.sentence


def test_what_an_archive_says_instead_is_shown_only_where_it_is_asked_for(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    differs = Held(
        reason="archive_names_another_patient",
        detail="The archive PACS and the images that were read disagree about PatientID, so nothing is sent.",
        differences=(Difference(keyword="PatientID", ours="P-1", theirs="P-2"),),
    )
    hold(wiring, differs)

    said = say(wiring)
    assert "P-2" not in json.dumps(dataclasses.asdict(said))
    assert f"wetread release {STUDY} --as PATIENT_ID" in said.advice
    assert "PatientID is P-1 here and P-2 there" in say(wiring, show_patient_ids=True).sentence


def test_a_result_that_waits_for_the_archive_says_so(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    complete(wiring, clock)
    run(wiring, "gpu", read=draft)
    run(wiring, "io", prepare=fail(PatientNotConfirmed("The archive PACS does not know this study")))

    said = say(wiring)

    assert "patient_not_confirmed (The archive PACS does not know this study)" in said.sentence
    assert "see that the archive answers and has the study" in said.advice


def test_a_closed_study_waits_for_nothing(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    with wiring.write() as connection:
        store.set_state(connection, STUDY, StudyState.CLOSED, now=clock.now())

    assert say(wiring).sentence.startswith("Closed: the radiologist's final report has arrived")


def test_every_state_has_its_sentence(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    for state in StudyState:
        with wiring.write() as connection:
            store.set_state(connection, STUDY, state, now=clock.now(), reason="some_reason")
        assert say(wiring).sentence.endswith((".", ")"))


def test_a_study_forced_by_a_person_goes_on(wiring: Wiring, clock: FrozenClock) -> None:
    receive(wiring, 1)
    with wiring.write() as connection:
        flow.complete(connection, STUDY, terms=wiring.terms(connection), reason=CompletionReason.FORCED)

    assert say(wiring).study.completion_reason is CompletionReason.FORCED


def test_a_study_nobody_sent_is_not_known(wiring: Wiring) -> None:
    with pytest.raises(KeyError):
        say(wiring)
