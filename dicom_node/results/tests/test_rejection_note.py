"""The note that withdraws a superseded draft: what it says, and that it can withdraw nothing else."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from casebook.case import Case
from casebook.errors import IdentityConflict, PeerUnavailable, RejectedByPeer, UnsafeOutput, WetreadError
from casebook.outcomes import Delivered, Prepared
from casebook.settings import DicomDestination, Settings
from casebook.study import RejectionReason
from dicom_node.objects.rejection_notes import read_rejection
from dicom_node.results import guards, rejection_note
from dicom_node.results.prepare import prepare
from dicom_node.results.rejection_note import KEY_OBJECT_SELECTION
from dicom_node.results.send import send
from dicom_node.results.sr_document import ENHANCED_SR, build, to_bytes
from dicom_node.results.tests import drafts
from dicom_node.tests.peers import archive

SAID = drafts.reading(generation=2)
DRAFT = build(SAID, drafts.DEVICE, revision=2, predecessor=drafts.earlier("2.25.77"))


def note() -> Dataset:
    """Return the note as a receiver reads it."""
    built = rejection_note.build(DRAFT)
    assert built is not None
    return dcmread(io.BytesIO(to_bytes(built)))


def test_a_first_draft_withdraws_nothing() -> None:
    assert rejection_note.build(build(SAID, drafts.DEVICE, revision=1)) is None


def test_a_note_rejects_the_draft_that_is_replaced(tmp_path: Path) -> None:
    ds = note()
    path = tmp_path / "note.dcm"
    ds.save_as(path)

    assert (ds.SOPClassUID, ds.Modality) == (KEY_OBJECT_SELECTION, "KO")
    assert read_rejection(path, drafts.STUDY_UID) == (RejectionReason.QUALITY, ("2.25.77",))
    (reference,) = [one for one in ds.ContentSequence if one.ValueType == "COMPOSITE"]
    assert reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.77"
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "2010"
    # By these it is known as ours when it comes back.
    assert ds.DeviceUID == drafts.DEVICE.device_uid
    assert ds.SeriesInstanceUID != DRAFT.SeriesInstanceUID


def test_the_same_draft_gives_the_same_note_and_another_one_another() -> None:
    other = build(
        replace(SAID, created_at=SAID.created_at + 9), drafts.DEVICE, revision=2, predecessor=drafts.earlier()
    )
    notes = [rejection_note.build(one) for one in (DRAFT, DRAFT, other)]
    first, again, another = (to_bytes(one) for one in notes if one is not None)

    assert first == again
    assert dcmread(io.BytesIO(first)).SOPInstanceUID != dcmread(io.BytesIO(another)).SOPInstanceUID


def evidence(ds: Dataset) -> Dataset:
    found: Dataset = (
        ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    )
    return found


def _reject_an_image(ds: Dataset) -> None:
    for one in (evidence(ds), ds.ContentSequence[-1].ReferencedSOPSequence[0]):
        one.ReferencedSOPInstanceUID = drafts.image().sop_instance_uid


LIES: dict[str, tuple[Callable[[Dataset], object], type[WetreadError]]] = {
    "an image": (_reject_an_image, UnsafeOutput),
    "the new draft": (lambda ds: setattr(evidence(ds), "ReferencedSOPInstanceUID", DRAFT.SOPInstanceUID), UnsafeOutput),
    "nothing": (lambda ds: ds.__delattr__("CurrentRequestedProcedureEvidenceSequence"), UnsafeOutput),
    "no pointer": (lambda ds: ds.ContentSequence.pop(), UnsafeOutput),
    "another reason": (lambda ds: setattr(ds.ConceptNameCodeSequence[0], "CodeValue", "113037"), UnsafeOutput),
    "another class": (lambda ds: setattr(ds, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.22"), UnsafeOutput),
    "another patient": (lambda ds: setattr(ds, "PatientID", "P2"), IdentityConflict),
    "another study": (lambda ds: setattr(ds, "StudyInstanceUID", "1.2.3"), IdentityConflict),
}


def test_a_note_about_the_replaced_draft_passes() -> None:
    guards.check_rejection_note(to_bytes(note()), DRAFT, SAID)


@pytest.mark.parametrize("name", LIES)
def test_a_note_that_would_withdraw_something_else_is_refused(name: str) -> None:
    lie, error = LIES[name]
    ds = note()
    lie(ds)

    with pytest.raises(error):
        guards.check_rejection_note(to_bytes(ds), DRAFT, SAID)


def second_draft() -> Case:
    first = prepare(drafts.case("pacs"), drafts.settings())
    assert isinstance(first, Prepared)
    changes: dict[str, Any] = {
        "predecessor_uid": first.object_uid,
        "predecessor_class": first.object_class,
        "predecessor_content": first.content,
    }
    second = prepare(drafts.case("pacs", said=SAID, revision=2, **changes), drafts.settings())
    assert isinstance(second, Prepared)
    return drafts.case("pacs", said=SAID, prepared=second, revision=2, **changes)


def settings(port: int, *, takes_notes: bool) -> Settings:
    found = drafts.settings(port=port)
    pacs = found.destination("pacs")
    assert isinstance(pacs, DicomDestination)
    return found.model_copy(update={"destinations": (pacs.model_copy(update={"rejection_notes": takes_notes}),)})


def test_the_note_follows_the_draft_where_the_archive_takes_notes() -> None:
    ready = second_draft()
    assert ready.output is not None

    with archive(0x0000, 0x0000, further_sop_class_uids=(KEY_OBJECT_SELECTION,)) as peer:
        outcome = send(ready, settings(peer.port, takes_notes=True))

    assert isinstance(outcome, Delivered)
    assert outcome.acknowledgement == "0x0000"
    assert set(outcome.negotiated) == {ENHANCED_SR, KEY_OBJECT_SELECTION}
    draft, rejection = peer.data_sets
    assert ready.output.content.endswith(draft)
    assert b"Rejected for Quality Reasons" in rejection
    assert ready.predecessor_uid.encode() in rejection


@pytest.mark.parametrize(("takes_notes", "ready"), [(False, second_draft()), (True, None)])
def test_no_note_is_sent_unasked_or_for_a_first_draft(takes_notes: bool, ready: Case | None) -> None:
    if ready is None:
        first = prepare(drafts.case("pacs"), drafts.settings())
        assert isinstance(first, Prepared)
        ready = drafts.case("pacs", prepared=first)

    with archive(0x0000, further_sop_class_uids=(KEY_OBJECT_SELECTION,)) as peer:
        send(ready, settings(peer.port, takes_notes=takes_notes))

    assert len(peer.data_sets) == 1


def test_a_note_that_did_not_arrive_is_sent_again_with_the_draft() -> None:
    ready = second_draft()

    with archive(0x0000, 0xA700, 0x0111, 0x0000, further_sop_class_uids=(KEY_OBJECT_SELECTION,)) as peer:
        to = settings(peer.port, takes_notes=True)
        with pytest.raises(PeerUnavailable):
            send(ready, to)
        outcome = send(ready, to)

    assert isinstance(outcome, Delivered)
    assert outcome.acknowledgement == "0x0111"
    assert peer.data_sets[:2] == peer.data_sets[2:]


def test_nothing_is_sent_when_the_note_would_withdraw_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = second_draft()
    real = rejection_note.build

    def lying(document: Dataset) -> Dataset | None:
        built = real(document)
        assert built is not None
        _reject_an_image(built)
        return built

    monkeypatch.setattr(rejection_note, "build", lying)

    with archive(0x0000, 0x0000, further_sop_class_uids=(KEY_OBJECT_SELECTION,)) as peer, pytest.raises(UnsafeOutput):
        send(ready, settings(peer.port, takes_notes=True))

    assert not peer.data_sets


def test_an_archive_that_takes_no_notes_is_named_with_the_setting_to_change() -> None:
    with archive(0x0000) as peer, pytest.raises(RejectedByPeer, match="rejection_notes"):
        send(second_draft(), settings(peer.port, takes_notes=True))

    assert len(peer.data_sets) == 1
