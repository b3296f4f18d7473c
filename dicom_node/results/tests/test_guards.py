"""The guards raise on whatever is more than a draft or about somebody else."""

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from casebook.errors import IdentityConflict, UnsafeOutput, WetreadError
from casebook.settings import Hl7Destination
from dicom_node.results import guards, oru
from dicom_node.results.sr_document import build, to_bytes
from dicom_node.results.tests import drafts

SAID = drafts.reading()
BUILT = build(SAID, drafts.DEVICE, revision=1)
UID = str(BUILT.SOPInstanceUID)


def author(ds: Dataset) -> Dataset:
    found: Dataset = ds.AuthorObserverSequence[0]
    return found


def summary(ds: Dataset) -> Dataset:
    found: Dataset = next(one for one in ds.ContentSequence if one.ValueType == "CONTAINER")
    return found


def evidence(ds: Dataset) -> Dataset:
    found: Dataset = ds.CurrentRequestedProcedureEvidenceSequence[0]
    return found


def study_item(uid: str) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = uid
    return item


IMAGE_UID = "ReferencedSOPInstanceUID"
SR_LIES: dict[str, tuple[Callable[[Dataset], object], type[WetreadError]]] = {
    "verified": (lambda ds: setattr(ds, "VerificationFlag", "VERIFIED"), UnsafeOutput),
    "no_verification_flag": (lambda ds: ds.__delattr__("VerificationFlag"), UnsafeOutput),
    "complete": (lambda ds: setattr(ds, "CompletionFlag", "COMPLETE"), UnsafeOutput),
    "final": (lambda ds: setattr(ds, "PreliminaryFlag", "FINAL"), UnsafeOutput),
    "no_preliminary_flag": (lambda ds: ds.__delattr__("PreliminaryFlag"), UnsafeOutput),
    "verifying_observer": (lambda ds: setattr(ds, "VerifyingObserverSequence", [Dataset()]), UnsafeOutput),
    "no_author": (lambda ds: setattr(ds, "AuthorObserverSequence", []), UnsafeOutput),
    "person_author": (lambda ds: setattr(author(ds), "ObserverType", "PSN"), UnsafeOutput),
    "named_author": (lambda ds: setattr(author(ds), "PersonName", "Li^Lei"), UnsafeOutput),
    "no_device": (lambda ds: ds.__delattr__("DeviceUID"), UnsafeOutput),
    "empty_device": (lambda ds: setattr(ds, "DeviceUID", ""), UnsafeOutput),
    "other_author": (lambda ds: setattr(author(ds), "DeviceUID", "2.25.9"), UnsafeOutput),
    "series_text": (lambda ds: setattr(ds, "SeriesDescription", "Report"), UnsafeOutput),
    "not_research": (lambda ds: setattr(ds, "ContentQualification", "PRODUCT"), UnsafeOutput),
    "wrong_title": (lambda ds: setattr(ds.ConceptNameCodeSequence[0], "CodeValue", "99999-9"), UnsafeOutput),
    "no_disclaimer": (lambda ds: setattr(summary(ds), "ContentSequence", []), UnsafeOutput),
    "disclaimer_later": (lambda ds: ds.ContentSequence.append(ds.ContentSequence.pop(4)), UnsafeOutput),
    "other_disclaimer": (
        lambda ds: setattr(summary(ds).ContentSequence[0], "TextValue", "Reviewed by a physician."),
        UnsafeOutput,
    ),
    "other_sop_class": (lambda ds: setattr(ds, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.33"), UnsafeOutput),
    "other_uid": (lambda ds: setattr(ds, "SOPInstanceUID", "2.25.1"), UnsafeOutput),
    "other_patient": (lambda ds: setattr(ds, "PatientID", "P0001235"), IdentityConflict),
    "no_patient": (lambda ds: ds.__delattr__("PatientID"), IdentityConflict),
    "other_issuer": (lambda ds: setattr(ds, "IssuerOfPatientID", "ELSEWHERE"), IdentityConflict),
    "other_name": (lambda ds: setattr(ds, "PatientName", "Li^Lei"), IdentityConflict),
    "other_birth_date": (lambda ds: setattr(ds, "PatientBirthDate", "19600102"), IdentityConflict),
    "other_accession": (lambda ds: setattr(ds, "AccessionNumber", "A2"), IdentityConflict),
    "other_study": (lambda ds: setattr(ds, "StudyInstanceUID", "1.2.3"), IdentityConflict),
    "other_image": (
        lambda ds: setattr(evidence(ds).ReferencedSeriesSequence[0].ReferencedSOPSequence[0], IMAGE_UID, "1.2.3"),
        UnsafeOutput,
    ),
    "no_evidence": (lambda ds: ds.__delattr__("CurrentRequestedProcedureEvidenceSequence"), UnsafeOutput),
    "evidence_of_another_study": (lambda ds: setattr(evidence(ds), "StudyInstanceUID", "1.2.3"), IdentityConflict),
    "predecessor_in_another_study": (
        lambda ds: setattr(ds, "PredecessorDocumentsSequence", [study_item("1.2.3")]),
        IdentityConflict,
    ),
    "reading_physician": (lambda ds: setattr(ds, "NameOfPhysiciansReadingStudy", "Li^Lei"), UnsafeOutput),
    "person_in_the_text": (lambda ds: setattr(summary(ds).ContentSequence[0], "PersonName", "Li^Lei"), UnsafeOutput),
}


#: Bytes of a text of the SR -> bytes of the same length that no text may have.
LOST = {
    "replaced": ("王^小东".encode(), "\ufffd^小东".encode()),
    "not_utf_8": ("王^小东".encode(), b"\xff\xfe\xfd^" + "小东".encode()),
    "control_in_id": (b"P0001234", b"P000\x07234"),
    "escape_in_issuer": (b"HOSP", b"HO\x1bP"),
    "nul_inside": (b"P0001234", b"P000\x00234"),
    "c1_control": ("王^小东".encode(), "\x85a^小东".encode()),
    "replaced_in_a_finding": (b"Heart size", "\ufffdart size".encode()[:10]),
}


@pytest.mark.parametrize("name", LOST)
def test_an_sr_with_a_lost_or_a_control_character_is_refused(name: str) -> None:
    old, new = LOST[name]
    content = to_bytes(BUILT)
    assert old in content
    assert len(old) == len(new)

    with pytest.raises(UnsafeOutput, match=r"U\+FFFD|control character|read back"):
        guards.check_sr(content.replace(old, new), SAID, UID)


@pytest.mark.parametrize("text", ["\ufffd", "\x07", "\x1b", "\x85", "\x00"])
def test_a_message_with_a_lost_or_a_control_character_is_refused(text: str) -> None:
    for old in (b"Wang", b"Heart size"):
        assert old in MESSAGE
        with pytest.raises(UnsafeOutput, match=r"U\+FFFD|control character"):
            guards.check_oru(MESSAGE.replace(old, old[:2] + text.encode() + old[2:]), SAID, RIS, CONTROL_ID)


def test_an_sr_of_ascii_alone_states_its_character_set() -> None:
    said = drafts.reading(header=drafts.header(patient_name="Wang", study_description=""))
    ds = build(said, drafts.DEVICE, revision=1)
    content = to_bytes(ds).replace(b"ISO_IR 192", b"ISO_IR 100")

    with pytest.raises(UnsafeOutput, match="SpecificCharacterSet"):
        guards.check_sr(content, said, str(ds.SOPInstanceUID))


def test_a_text_in_lines_is_no_control_character() -> None:
    said = drafts.reading(sections=drafts.sections(("One line.\nAnother one.",)))
    ds = build(said, drafts.DEVICE, revision=1)

    guards.check_sr(to_bytes(ds), said, str(ds.SOPInstanceUID))


@pytest.mark.parametrize(
    "issuer", ["1.2.840.113619.2.55.3.604688", "DCM4CHEE.40CBE202.0C09C769", "A&B|C^D~E\u00e9", "X" * 64]
)
def test_an_issuer_of_any_length_stands_in_the_message(issuer: str) -> None:
    identity = replace(drafts.HEADER.identity, issuer_of_patient_id=issuer)
    said = drafts.reading(header=replace(drafts.HEADER, identity=identity))
    message, control_id = oru.build(said, RIS, drafts.DEVICE, revision=1)

    guards.check_oru(message, said, RIS, control_id)
    with pytest.raises(IdentityConflict, match="IssuerOfPatientID"):
        guards.check_oru(message, SAID, RIS, control_id)


def test_an_sr_that_is_a_draft_of_this_patient_passes() -> None:
    guards.check_sr(to_bytes(BUILT), SAID, UID)


@pytest.mark.parametrize("name", SR_LIES)
def test_an_sr_that_lies_is_refused(name: str) -> None:
    lie, error = SR_LIES[name]
    ds = dcmread(io.BytesIO(to_bytes(BUILT)))
    lie(ds)
    stream = io.BytesIO()
    dcmwrite(stream, ds)

    with pytest.raises(error) as raised:
        guards.check_sr(stream.getvalue(), SAID, UID)

    assert "P000" not in str(raised.value)
    assert "Wang" not in str(raised.value)


def test_what_an_earlier_version_froze_is_still_a_draft() -> None:
    said = drafts.reading("zh-CN")
    ds = build(said, drafts.DEVICE, revision=1)
    ds.SeriesDescription = "AI DRAFT report - NOT VERIFIED"
    first = summary(ds).ContentSequence[0]
    first.TextValue = first.TextValue.replace("AI 报告草稿，未经医师审核。", "人工智能草稿，未经审核。")

    guards.check_sr(to_bytes(ds), said, str(ds.SOPInstanceUID))


@pytest.mark.parametrize("content", [b"", b"not DICOM", b"\0" * 128 + b"DICM"])
def test_bytes_that_are_no_sr_are_refused(content: bytes) -> None:
    with pytest.raises(UnsafeOutput):
        guards.check_sr(content, SAID, UID)


RIS = Hl7Destination(name="ris", kind="hl7", host="127.0.0.1", port=1, result_status="R")
MESSAGE, CONTROL_ID = oru.build(SAID, RIS, drafts.DEVICE, revision=1)

ORU_LIES: dict[str, tuple[bytes, bytes, type[WetreadError]]] = {
    "final": (b"|RAD|R", b"|RAD|F", UnsafeOutput),
    "corrected": (b"|RAD|R", b"|RAD|C", UnsafeOutput),
    "no_status": (b"|RAD|R", b"|RAD|", UnsafeOutput),
    "two_statuses": (b"|RAD|R", b"|RAD|P", UnsafeOutput),
    "final_observation": (b"||||||R|||", b"||||||F|||", UnsafeOutput),
    "interpreter": (b"|RAD|R", b"|RAD|R|||||||1234&Li&Lei", UnsafeOutput),
    "transcriptionist": (b"|RAD|R", b"|RAD|R||||||||||1234&Li&Lei", UnsafeOutput),
    "order_completed": (b"||IP", b"||CM", UnsafeOutput),
    "order_cancelled": (b"ORC|RE", b"ORC|CA", UnsafeOutput),
    "other_character_set": (b"UNICODE UTF-8", b"8859/1", UnsafeOutput),
    "other_delimiters": (b"MSH|^~\\&|", b"MSH|^~\\#|", UnsafeOutput),
    "other_order": (b"ORC|RE||A20260920001", b"ORC|RE||A2", IdentityConflict),
    "former_patient": (b"PID|||", b"PID||P2|", IdentityConflict),
    "two_patient_ids": (b"^HOSP^MR|", b"^HOSP^MR~P2^^^HOSP^MR|", IdentityConflict),
    "responsible_observer": (b"|||AI^Machine", b"||1234^Li|AI^Machine", UnsafeOutput),
    "no_note": (b"NTE|1|L|AI DRAFT", b"NTE|1|L|A DRAFT", UnsafeOutput),
    "no_disclaimer": (b"|DISC^", b"|DISK^", UnsafeOutput),
    "other_disclaimer": (b"|0|AI DRAFT - NOT VERIFIED", b"|0|Verified", UnsafeOutput),
    "other_segment": (b"PV1|", b"ZV1|", UnsafeOutput),
    "second_patient": (b"PV1|", b"PID|||P2\rPV1|", UnsafeOutput),
    "other_control_id": (CONTROL_ID.encode(), b"0" * 20, UnsafeOutput),
    "other_type": (b"ORU^R01^ORU_R01", b"ORU^R03^ORU_R01", UnsafeOutput),
    "other_patient": (b"|P0001234^", b"|P0001235^", IdentityConflict),
    "other_birth_date": (b"|19600101|", b"|19600102|", IdentityConflict),
    "other_accession": (b"|A20260920001", b"|A2", IdentityConflict),
    "other_issuer": (b"^HOSP^", b"^ELSE^", IdentityConflict),
    "other_name": (b"Wang^XiaoDong", b"Wang^DongXiao", IdentityConflict),
    "other_ideographic_name": ("王^小东".encode(), "王^大东".encode(), IdentityConflict),
    "one_name_less": ("~王^小东^^^^^L^I".encode(), b"", IdentityConflict),
    "other_study": (drafts.STUDY_UID.encode(), b"1.2.3", IdentityConflict),
}


def test_an_oru_that_is_a_draft_of_this_patient_passes() -> None:
    guards.check_oru(MESSAGE, SAID, RIS, CONTROL_ID)


@pytest.mark.parametrize("name", ORU_LIES)
def test_an_oru_that_lies_is_refused(name: str) -> None:
    old, new, error = ORU_LIES[name]
    assert old in MESSAGE

    with pytest.raises(error):
        guards.check_oru(MESSAGE.replace(old, new), SAID, RIS, CONTROL_ID)


def test_a_message_whose_destination_wants_the_study_has_to_name_it_first() -> None:
    without, control_id = oru.build(
        SAID, RIS.model_copy(update={"states_study_instance_uid": False}), drafts.DEVICE, revision=1
    )

    with pytest.raises(IdentityConflict):
        guards.check_oru(without, SAID, RIS, control_id)


def test_a_study_that_need_not_be_named_is_not_another_one() -> None:
    nameless = RIS.model_copy(update={"states_study_instance_uid": False})

    with pytest.raises(IdentityConflict):
        guards.check_oru(MESSAGE.replace(drafts.STUDY_UID.encode(), b"1.2.3"), SAID, nameless, CONTROL_ID)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xfe", b"MSH|^~\\&|\r"])
def test_bytes_that_are_no_oru_are_refused(content: bytes) -> None:
    with pytest.raises(UnsafeOutput):
        guards.check_oru(content, SAID, RIS, CONTROL_ID)
