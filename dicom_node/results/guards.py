"""The last look at the exact bytes of an output: a draft that says it is one, about the right patient.

The builders cannot make anything else; these guards do not trust them. They read the bytes as a receiver
would, before the bytes are frozen and before each send, and know nothing of how they were made.
"""

import io
import struct
from collections.abc import Iterable, Iterator

from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from casebook.errors import IdentityConflict, InvalidObject, UnsafeOutput
from casebook.identity import (
    IDENTITY,
    KEYWORDS,
    agree,
    exact_text,
    holds_control_character,
    holds_lost_character,
    holds_no_character,
    without_padding,
)
from casebook.reading import Reading
from casebook.settings import Hl7Destination
from casebook.study import StudyHeader
from dicom_node.hl7.er7 import COMPONENT, ESCAPE, FIELD, REPETITION, SUBCOMPONENT, Segment, parse, unescape
from dicom_node.objects.identification import whose
from dicom_node.results.draft_text import WORDINGS, wording_of
from dicom_node.results.oru import CODECS, DISCLAIMER_CODE, MESSAGE_TYPE, STUDY
from dicom_node.results.rejection_note import KEY_OBJECT_SELECTION
from dicom_node.results.rejection_note import TITLE as REJECTION_TITLE
from dicom_node.results.report_codes import OTHER_TITLE, SUMMARY, TITLES
from dicom_node.results.sr_document import ENHANCED_SR, FORMER_SERIES_DESCRIPTIONS, SERIES_DESCRIPTION
from dicom_node.results.timestamps import date_or_empty

#: What an SR of ours says of itself, by keyword; anything else would be more than a draft.
_STATED = {
    "SOPClassUID": ENHANCED_SR,
    "SpecificCharacterSet": "ISO_IR 192",
    "Modality": "SR",
    "PreliminaryFlag": "PRELIMINARY",
    "CompletionFlag": "PARTIAL",
    "VerificationFlag": "UNVERIFIED",
}
#: Bytes that an earlier version froze are still drafts.
_SERIES_DESCRIPTIONS = frozenset({SERIES_DESCRIPTION, *FORMER_SERIES_DESCRIPTIONS})
_TITLES = frozenset(title.value for title in (*TITLES.values(), OTHER_TITLE))
#: HL7 table 0123: preliminary, stored but not verified.
_DRAFT_STATUSES = frozenset({"P", "R"})
_DELIMITERS = (FIELD, f"{COMPONENT}{REPETITION}{ESCAPE}{SUBCOMPONENT}")
_ORU_SEGMENTS = frozenset({"MSH", "PID", "PV1", "ORC", "OBR", "NTE", "OBX"})


def check_sr(content: bytes, reading: Reading, object_uid: str) -> None:
    """Pass the bytes of an SR that is a draft of this Reading for this patient.

    Parameters
    ----------
    content
        A DICOM file.
    reading
        With the identity snapshot.
    object_uid
        SOP Instance UID it will be sent under.

    Raises
    ------
    UnsafeOutput
        When it claims to be more than a draft or does not say that it is one.
    IdentityConflict
        When it names another patient or study than the Reading.
    """
    try:
        refuse_lost_characters("the SR", _texts_of(dcmread(io.BytesIO(content))))
        found = whose(dcmread(io.BytesIO(content)))
        ds = dcmread(io.BytesIO(content))
    except (InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, TypeError, struct.error):
        raise UnsafeOutput("the SR cannot be read back") from None
    for keyword, value in _STATED.items():
        if str(ds.get(keyword, "")) != value:
            raise UnsafeOutput(f"{keyword} of the SR is not {value}")
    if str(ds.get("SeriesDescription", "")) not in _SERIES_DESCRIPTIONS:
        raise UnsafeOutput("SeriesDescription of the SR does not say that it is an unverified draft")
    if str(ds.get("ContentQualification", "")) != reading.provenance.content_qualification:
        raise UnsafeOutput("ContentQualification of the SR is not that of the model")
    if ds.get("VerifyingObserverSequence"):
        raise UnsafeOutput("the SR names a verifying observer")
    authors = ds.get("AuthorObserverSequence") or []
    if not authors or any(one.get("ObserverType") != "DEV" or "PersonName" in one for one in authors):
        raise UnsafeOutput("the author of the SR is not a device")
    _check_device(ds, authors)
    _check_people(ds)
    if _code(ds) not in _TITLES:
        raise UnsafeOutput("the title of the SR is not one of ours")
    if not _first_text(ds).startswith(wording_of(reading).marks):
        raise UnsafeOutput("the first section of the SR is not the disclaimer")
    if not object_uid == ds.get("SOPInstanceUID") == ds.file_meta.get("MediaStorageSOPInstanceUID"):
        raise UnsafeOutput("the SR carries another SOP Instance UID than its record")
    _check_identity(ds, found, reading)
    _check_evidence(ds, reading)


def check_rejection_note(content: bytes, document: Dataset, reading: Reading) -> None:
    """Pass the bytes of a note that rejects exactly what a draft replaces, for this patient.

    Parameters
    ----------
    content
        A DICOM file.
    document
        The draft, which passed `check_sr`.
    reading
        With the identity snapshot.

    Raises
    ------
    UnsafeOutput
        When it rejects anything else, an image above all.
    IdentityConflict
        When it names another patient or study than the Reading.
    """
    refuse_lost_characters("the rejection note", _texts_of(dcmread(io.BytesIO(content))))
    found = whose(dcmread(io.BytesIO(content)))
    ds = dcmread(io.BytesIO(content))
    if str(ds.get("SOPClassUID", "")) != KEY_OBJECT_SELECTION or _code(ds) != REJECTION_TITLE.value:
        raise UnsafeOutput("the rejection note is none")
    rejected = _named(ds, "CurrentRequestedProcedureEvidenceSequence")
    pointed_at = {
        str(one.ReferencedSOPInstanceUID)
        for item in ds.get("ContentSequence") or []
        for one in item.get("ReferencedSOPSequence") or []
    }
    if not rejected or not rejected == pointed_at == _named(document, "PredecessorDocumentsSequence"):
        raise UnsafeOutput("the rejection note names something else than the draft that is replaced")
    if rejected & {str(document.SOPInstanceUID), *(one.sop_instance_uid for one in reading.images)}:
        raise UnsafeOutput("the rejection note names the new draft or an image")
    _check_identity(ds, found, reading)


def _named(ds: Dataset, keyword: str) -> set[str]:
    return {
        str(one.ReferencedSOPInstanceUID)
        for study in ds.get(keyword) or []
        for series in study.get("ReferencedSeriesSequence") or []
        for one in series.get("ReferencedSOPSequence") or []
    }


def _check_device(ds: Dataset, authors: Iterable[Dataset]) -> None:
    if not ds.get("DeviceUID") or any(one.get("DeviceUID") != ds.DeviceUID for one in authors):
        raise UnsafeOutput("the SR does not name the device that wrote it, or names two")


#: The only people in a draft that nobody has reviewed.
_PEOPLE = frozenset({tag_for_keyword(one) for one in ("PatientName", "ReferringPhysicianName")})


def _check_people(ds: Dataset) -> None:
    for tag in list(ds.keys()):
        # A long name need not be decoded to see that it is one.
        element = ds.get_item(tag)
        if element.VR == "SQ":
            for item in ds[tag].value:
                _check_people(item)
        elif element.VR == "PN" and element.value and int(tag) not in _PEOPLE:
            raise UnsafeOutput("the SR names a person beside the patient and the referring physician")


def _check_evidence(ds: Dataset, reading: Reading) -> None:
    if _named(ds, "CurrentRequestedProcedureEvidenceSequence") != {one.sop_instance_uid for one in reading.images}:
        raise UnsafeOutput("the SR names other images than those that were read")
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PredecessorDocumentsSequence"):
        if any(not agree(str(one.StudyInstanceUID), reading.study_instance_uid) for one in ds.get(keyword) or []):
            raise IdentityConflict(f"{keyword} of the SR names another study")


#: Text may be laid out in lines in these (PS3.5 table 6.2-1); nowhere else does a control character belong.
_VRS_WITH_LINES = frozenset({"LT", "ST", "UT"})
_TEXT_VRS = (
    frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UC", "UI", "UR"}) | _VRS_WITH_LINES
)
_LINES = str.maketrans("", "", "\r\n\t\f")


def refuse_lost_characters(what: str, texts: Iterator[str]) -> None:
    """Refuse an output in which a letter was replaced, or a control character stands.

    Raises
    ------
    UnsafeOutput
    """
    for text in texts:
        if holds_lost_character(text):
            raise UnsafeOutput(f"{what} holds U+FFFD: a character was lost")
        if holds_control_character(text) or holds_no_character(text):
            raise UnsafeOutput(f"{what} holds a control character")


def _texts_of(ds: Dataset) -> Iterator[str]:
    """Yield every text of a data set from its bytes, which have to be UTF-8; ValueError where they are not."""
    for tag in list(ds.keys()):
        element = ds.get_item(tag)
        vr = str(element.VR or dictionary_VR(tag))
        if vr == "SQ":
            for item in ds[tag].value:
                yield from _texts_of(item)
        elif vr in _TEXT_VRS and isinstance(element.value, bytes):
            text = without_padding(element.value.decode("utf-8"))
            yield text.translate(_LINES) if vr in _VRS_WITH_LINES else text


def _check_identity(ds: Dataset, found: StudyHeader, reading: Reading) -> None:
    if not agree(str(ds.get("StudyInstanceUID") or ""), reading.study_instance_uid):
        raise IdentityConflict("StudyInstanceUID of the object is not that of the study")
    for name in (*IDENTITY, "patient_name"):
        stated, wanted = exact_text(found, name), exact_text(reading.header, name)
        if name == "patient_birth_date":
            wanted = date_or_empty(wanted or "")
        if name == "patient_name" and stated is not None and wanted is not None:
            # Empty components and groups at the end are padding too (PS3.5 6.2.1).
            stated, wanted = stated.rstrip(" ^="), wanted.rstrip(" ^=")
        if not agree(stated, wanted):
            raise IdentityConflict(f"{KEYWORDS[name]} of the object is not that of the study")


def _first_text(ds: Dataset) -> str:
    for section in ds.get("ContentSequence") or []:
        if section.get("ValueType") != "CONTAINER":
            continue
        first = (section.get("ContentSequence") or [Dataset()])[0]
        return str(first.get("TextValue", "")) if _code(section) == SUMMARY.value else ""
    return ""


def _code(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue", "")) if names else ""


def check_oru(content: bytes, reading: Reading, destination: Hl7Destination, control_id: str) -> None:
    """Pass the bytes of an ORU^R01 that is a draft of this Reading for this patient.

    Parameters
    ----------
    content
        The message without MLLP framing.
    reading
        With the identity snapshot.
    destination
        Where it goes.
    control_id
        MSH-10 it will be sent under.

    Raises
    ------
    UnsafeOutput
        When it claims to be more than a draft or does not say that it is one.
    IdentityConflict
        When it names another patient, order or study than the Reading.
    """
    try:
        text = content.decode(CODECS[destination.charset])
        segments = parse(text)
    except (UnicodeDecodeError, InvalidObject):
        raise UnsafeOutput("the HL7 message cannot be read back") from None
    refuse_lost_characters("the HL7 message", iter(text.split("\r")))
    if not {one.name for one in segments} <= _ORU_SEGMENTS:
        raise UnsafeOutput("the HL7 message holds a segment we never write")
    header, patient, common, order = (_only(segments, name) for name in ("MSH", "PID", "ORC", "OBR"))
    if (header.field(1), header.field(2)) != _DELIMITERS or header.field(18) != destination.charset:
        raise UnsafeOutput("MSH-2 or MSH-18 of the message does not say how it is written")
    if header.field(9) != MESSAGE_TYPE or header.field(10) != control_id:
        raise UnsafeOutput("MSH-9 or MSH-10 of the message is not that of its record")
    if order.field(25) not in _DRAFT_STATUSES:
        raise UnsafeOutput("OBR-25 is neither P nor R")
    if any(order.field(number) for number in (32, 33, 34, 35)):
        raise UnsafeOutput("OBR-32 to OBR-35 name an interpreter or another person")
    if (common.field(1), common.field(5)) != ("RE", "IP"):
        raise UnsafeOutput("ORC-1 or ORC-5 says more than that observations follow and the order is in work")
    observations = [one for one in segments if one.name == "OBX"]
    if any(one.field(11) != order.field(25) or one.field(16) for one in observations):
        raise UnsafeOutput("an OBX-11 differs from OBR-25, or an OBX-16 names a responsible observer")
    if not _says_it_is_a_draft(segments):
        raise UnsafeOutput("the disclaimer is missing from NTE or from the first text of the HL7 message")
    if not agree(unescape(common.field(3)), exact_text(reading.header, "accession_number")):
        raise IdentityConflict("ORC-3 is not the AccessionNumber of the study")
    _check_oru_identity(patient, order, observations, reading, destination)


def _says_it_is_a_draft(segments: tuple[Segment, ...]) -> bool:
    marks = tuple(mark for wording in WORDINGS.values() for mark in wording.marks)
    notes = [unescape(one.field(3)) for one in segments if one.name == "NTE"]
    texts = [one for one in segments if one.name == "OBX" and one.field(2) == "TX"]
    return bool(
        notes
        and texts
        and notes[0].startswith(marks)
        and texts[0].field(3).startswith(f"{DISCLAIMER_CODE}^")
        and unescape(texts[0].field(5)).startswith(marks)
    )


def _check_oru_identity(
    patient: Segment, order: Segment, observations: list[Segment], reading: Reading, destination: Hl7Destination
) -> None:
    wanted = {name: exact_text(reading.header, name) for name in KEYWORDS}
    if patient.field(2) or patient.field(4) or REPETITION in patient.field(3):
        raise IdentityConflict("PID-2 to PID-4 hold more than the PatientID of the study")
    identifier = patient.field(3).split(COMPONENT)
    if not agree(unescape(identifier[0]), wanted["patient_id"]):
        raise IdentityConflict("PID-3 is not the PatientID of the study")
    # Where the study names no issuer, the setting of the destination stands there.
    namespace, universal = (*"".join(identifier[3:4]).split(SUBCOMPONENT), "")[:2]
    issuer = wanted["issuer_of_patient_id"]
    if issuer and not agree(unescape(namespace or universal), issuer):
        raise IdentityConflict("PID-3 does not carry the IssuerOfPatientID of the study")
    if not agree(unescape(patient.field(7)), date_or_empty(wanted["patient_birth_date"] or "")):
        raise IdentityConflict("PID-7 is not the PatientBirthDate of the study")
    if not _is_name(patient.field(5), wanted["patient_name"]):
        raise IdentityConflict("PID-5 is not the PatientName of the study")
    if not all(agree(unescape(order.field(number)), wanted["accession_number"]) for number in (3, 18)):
        raise IdentityConflict("OBR-3 or OBR-18 is not the AccessionNumber of the study")
    studies = [one for one in observations if one.field(3).startswith(f"{STUDY.value}^")]
    if not all(agree(one.field(5), reading.study_instance_uid) for one in studies):
        raise IdentityConflict("an OBX carries another StudyInstanceUID than that of the study")
    if destination.states_study_instance_uid and not observations[:1] == studies:
        raise IdentityConflict("the first OBX does not carry the StudyInstanceUID of the study")


def _is_name(field: str, wanted: str | None) -> bool:
    """Say whether PID-5 is a person name: group by group, suffix and prefix in their other order (HL7 v2.5.1 2A.88)."""
    if wanted is None:
        return False
    stated = []
    for repetition in field.split(REPETITION):
        parts = [unescape(one) for one in repetition.split(COMPONENT)]
        family, given, middle, suffix, prefix = (*parts, *[""] * 5)[:5]
        stated.append((family, given, middle, prefix, suffix))
    named = []
    for group in wanted.split("="):
        parts = [one.strip(" ") for one in group.rstrip(" ^").split("^")]
        if any(parts):
            named.append((*parts, *[""] * (5 - len(parts))))
    return (named or [("",) * 5]) == stated


def _only(segments: tuple[Segment, ...], name: str) -> Segment:
    found = [one for one in segments if one.name == name]
    if len(found) != 1:
        raise UnsafeOutput(f"the HL7 message has {len(found)} {name} segments")
    return found[0]
