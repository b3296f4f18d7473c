"""The draft as a DICOM structured report: Enhanced SR, TID 2000, every item a row of the template.

A pure function: no clock, no random number, no setting that is not passed in, so the same Reading always
gives the same bytes. Written with pydicom alone; every value is checked here, because pydicom would
replace what it cannot encode by question marks.
"""

import datetime as dt
import hashlib
import io
import itertools
from collections.abc import Iterable, Sequence

from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import validate_value

from casebook.errors import UnwritableText
from casebook.reading import InstanceReference, Reading
from casebook.settings import DeviceSettings
from casebook.study import CodedConcept, StudyHeader
from dicom_node.results.clean_text import clean_line, is_plain
from dicom_node.results.derived_uids import series_instance_uid, sop_instance_uid
from dicom_node.results.draft_text import DraftText, compose
from dicom_node.results.timestamps import date_or_empty, fixed_offset, moment
from dicom_node.storage.inbox import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"
MANUFACTURER = "Wetread"
MODEL_NAME = "Wetread"
SERIES_DESCRIPTION = "AI DRAFT report - NOT VERIFIED"
#: Far behind the series of a modality, so that it stands last in a viewer.
SERIES_NUMBER = 9901

#: PS3.16 CID 7000: document title by modality; OTHER_TITLE for the rest.
TITLES = {
    **dict.fromkeys(("CR", "DX", "RF"), CodedConcept(value="18782-3", scheme="LN", meaning="X-Ray Report")),
    "CT": CodedConcept(value="18747-6", scheme="LN", meaning="CT Report"),
    "MR": CodedConcept(value="18755-9", scheme="LN", meaning="MRI Report"),
    "US": CodedConcept(value="18760-9", scheme="LN", meaning="Ultrasound Report"),
    "NM": CodedConcept(value="18757-5", scheme="LN", meaning="Nuclear Medicine Report"),
    "PT": CodedConcept(value="18758-3", scheme="LN", meaning="PET Scan Report"),
}
OTHER_TITLE = CodedConcept(value="18748-4", scheme="LN", meaning="Diagnostic Imaging Report")

#: PS3.16 CID 5000, with its exact meanings.
_LANGUAGES = {
    "en": CodedConcept(value="en", scheme="RFC5646", meaning="English"),
    "zh-CN": CodedConcept(value="zh-CN", scheme="RFC5646", meaning="Chinese (S)"),
}

#: Stands for the SOP Instance UID while the bytes that it is derived from are made.
_NO_UID = "0"

_CONTAINS = "CONTAINS"
_MODIFIER = "HAS CONCEPT MOD"
_CONTEXT = "HAS OBS CONTEXT"


def _dcm(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value=value, scheme="DCM", meaning=meaning)


SUMMARY = _dcm("121111", "Summary")
FINDINGS = _dcm("121070", "Findings")
_FINDING = _dcm("121071", "Finding")
_IMPRESSIONS = _dcm("121072", "Impressions")
_IMPRESSION = _dcm("121073", "Impression")
_PROCEDURE_DESCRIPTIONS = _dcm("121064", "Current Procedure Descriptions")
_PROCEDURE_DESCRIPTION = _dcm("121065", "Procedure Description")


def build(
    reading: Reading,
    device: DeviceSettings,
    *,
    revision: int,
    predecessor: tuple[str, str] | None = None,
) -> Dataset:
    """Build the SR of one draft (PS3.3 A.35.2, PS3.16 TID 2000).

    Parameters
    ----------
    reading
        Gives the text, the identity, the images it is based on and the one timestamp.
    device
        How the author names itself.
    revision
        Counts the drafts of the study, from 1; InstanceNumber.
    predecessor
        SOP Class UID and SOP Instance UID of the earlier draft at the same destination.

    Returns
    -------
        With file meta information; its SOP Instance UID is derived from everything else in it.

    Raises
    ------
    UnwritableText
        When a text or an attribute of the patient cannot be carried as it is.
    """
    text = compose(reading, revision=revision, replaces_earlier=predecessor is not None)
    ds = Dataset()
    _put(ds, "SpecificCharacterSet", "ISO_IR 192")
    _copy_header(ds, reading.study_instance_uid, reading.header)
    _add_series_and_equipment(ds, reading, device)
    _add_document(ds, reading, device, revision=revision, predecessor=predecessor)
    _add_content(ds, reading, device, text)
    _put(ds, "SOPClassUID", ENHANCED_SR)
    ds.file_meta = _file_meta()
    # The UID names these very bytes: it is derived from the object as it is with a UID that says nothing.
    _name(ds, _NO_UID)
    _name(ds, sop_instance_uid(reading.sha256, hashlib.sha256(to_bytes(ds)).hexdigest()))
    return ds


def to_bytes(ds: Dataset) -> bytes:
    """Encode a built SR as a DICOM file (PS3.10): the same bytes for the same data set."""
    stream = io.BytesIO()
    dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def _name(ds: Dataset, uid: str) -> None:
    _put(ds, "SOPInstanceUID", uid)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)


def _file_meta() -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID(ENHANCED_SR)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def _copy_header(ds: Dataset, study_instance_uid: str, header: StudyHeader) -> None:
    """Copy what places the SR in the patient's study (PS3.3 C.7.1.1, C.7.2.1), unchanged or not at all."""
    identity = header.identity
    # Whose it is: what cannot be copied exactly is not sent.
    _put(ds, "StudyInstanceUID", study_instance_uid)
    _put(ds, "PatientID", identity.patient_id)
    _put(ds, "PatientName", header.patient_name)
    # A birth date that is no date identifies nobody: left empty, as type 2 allows.
    _put(ds, "PatientBirthDate", date_or_empty(identity.patient_birth_date))
    _put(ds, "AccessionNumber", identity.accession_number)
    if identity.issuer_of_patient_id:
        _put(ds, "IssuerOfPatientID", identity.issuer_of_patient_id)
    # What describes it: a received value that its VR forbids is left out (type 2: empty), never mended.
    for keyword, value in (
        ("PatientSex", header.patient_sex),
        ("StudyID", header.study_id),
        ("StudyDate", header.study_date),
        ("StudyTime", header.study_time),
        ("ReferringPhysicianName", header.referring_physician_name),
    ):
        _put(ds, keyword, value if _is_writable(keyword, value) else "")
    for keyword, value in (
        ("PatientAge", header.patient_age),
        ("StudyDescription", header.study_description),
        ("AdmissionID", header.admission_id),
    ):
        if value and _is_writable(keyword, value):
            _put(ds, keyword, value)
    if fixed_offset(header.timezone_offset_from_utc):
        _put(ds, "TimezoneOffsetFromUTC", header.timezone_offset_from_utc)
    if codes := procedure_codes(header):
        ds.ProcedureCodeSequence = [_code(one) for one in codes]


def procedure_codes(header: StudyHeader) -> tuple[CodedConcept, ...]:
    """Return the received procedure codes that can be written as they are."""
    return tuple(
        one
        for one in header.procedure_codes
        if one.value
        and one.scheme
        and one.meaning
        and _is_writable("CodeValue", one.value)
        and _is_writable("CodingSchemeDesignator", one.scheme)
        and _is_writable("CodeMeaning", one.meaning)
    )


def _add_series_and_equipment(ds: Dataset, reading: Reading, device: DeviceSettings) -> None:
    _put(ds, "Modality", "SR")
    # Every revision lies in the same series, and what a series states has to be equal in all of its instances:
    # hence no SeriesDate and no SeriesTime.
    _put(ds, "SeriesInstanceUID", series_instance_uid(reading.study_instance_uid, "sr"))
    _put(ds, "SeriesNumber", SERIES_NUMBER)
    _put(ds, "SeriesDescription", SERIES_DESCRIPTION)
    ds.ReferencedPerformedProcedureStepSequence = []
    _put_equipment(ds, reading, device)
    _put(ds, "StationName", device.station_name)
    _put(ds, "InstitutionName", clean_line(device.institution_name))
    _put(ds, "DeviceUID", device.device_uid)


def _put_equipment(ds: Dataset, reading: Reading, device: DeviceSettings) -> None:
    _put(ds, "Manufacturer", MANUFACTURER)
    _put(ds, "ManufacturerModelName", MODEL_NAME)
    _put(ds, "DeviceSerialNumber", clean_line(device.device_serial_number))
    _put(ds, "SoftwareVersions", clean_line(reading.provenance.software_version))


def _add_document(
    ds: Dataset, reading: Reading, device: DeviceSettings, *, revision: int, predecessor: tuple[str, str] | None
) -> None:
    """Say what kind of document this is: made by a machine, partial, preliminary, unverified (PS3.3 C.17.2)."""
    stated = _stated_at(reading, device)
    _put(ds, "InstanceNumber", revision)
    for kind in ("Content", "InstanceCreation"):
        _put(ds, f"{kind}Date", stated.strftime("%Y%m%d"))
        _put(ds, f"{kind}Time", stated.strftime("%H%M%S"))
    _put(ds, "ContentQualification", reading.provenance.content_qualification)
    _put(ds, "PreliminaryFlag", "PRELIMINARY")
    _put(ds, "CompletionFlag", "PARTIAL")
    _put(ds, "CompletionFlagDescription", "AI-generated draft, not reviewed by a physician")
    _put(ds, "VerificationFlag", "UNVERIFIED")
    ds.AuthorObserverSequence = [_author(device)]
    ds.ContributingEquipmentSequence = [_contribution(reading, device, stated)]
    ds.PerformedProcedureCodeSequence = [_code(one) for one in procedure_codes(reading.header)]
    if reading.images:
        ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(reading.study_instance_uid, reading.images)]
    if predecessor is not None:
        sop_class_uid, predecessor_uid = predecessor
        earlier = InstanceReference(
            series_instance_uid=ds.SeriesInstanceUID, sop_instance_uid=predecessor_uid, sop_class_uid=sop_class_uid
        )
        ds.PredecessorDocumentsSequence = [_evidence(reading.study_instance_uid, [earlier])]
    ds.CodingSchemeIdentificationSequence = [
        _coding_scheme("DCM", "1.2.840.10008.2.16.4", "DICOM Controlled Terminology"),
        _coding_scheme("LN", "2.16.840.1.113883.6.1", "LOINC"),
    ]


def _stated_at(reading: Reading, device: DeviceSettings) -> dt.datetime:
    # A copied TimezoneOffsetFromUTC rules every date and time of the object, ours too (PS3.3 C.12.1.1.8).
    local = moment(reading.created_at, device.timezone)
    offset = fixed_offset(reading.header.timezone_offset_from_utc)
    return local.astimezone(offset) if offset else local


def _author(device: DeviceSettings) -> Dataset:
    author = Dataset()
    _put(author, "ObserverType", "DEV")
    _put(author, "InstitutionName", clean_line(device.institution_name))
    author.InstitutionCodeSequence = []
    _put(author, "StationName", device.station_name)
    _put(author, "DeviceUID", device.device_uid)
    _put(author, "Manufacturer", MANUFACTURER)
    _put(author, "ManufacturerModelName", MODEL_NAME)
    return author


def _contribution(reading: Reading, device: DeviceSettings, stated: dt.datetime) -> Dataset:
    made_by = reading.provenance
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [_code(_dcm("109102", "Processing Equipment"))]
    _put_equipment(item, reading, device)
    _put(item, "ContributionDateTime", stated.strftime("%Y%m%d%H%M%S%z"))
    _put(
        item,
        "ContributionDescription",
        clean_line(f"AI-generated draft report; model {made_by.model_name} {made_by.model_version}"),
    )
    return item


def _coding_scheme(designator: str, uid: str, name: str) -> Dataset:
    item = Dataset()
    _put(item, "CodingSchemeDesignator", designator)
    _put(item, "CodingSchemeUID", uid)
    _put(item, "CodingSchemeName", name)
    return item


def _evidence(study_instance_uid: str, references: Iterable[InstanceReference]) -> Dataset:
    """List instances by series (PS3.3 table C.17-3a, hierarchical SOP instance reference)."""
    by_series = sorted({(one.series_instance_uid, one.sop_instance_uid, one.sop_class_uid) for one in references})
    study = Dataset()
    _put(study, "StudyInstanceUID", study_instance_uid)
    study.ReferencedSeriesSequence = []
    for series_uid, instances in itertools.groupby(by_series, key=lambda one: one[0]):
        series = Dataset()
        _put(series, "SeriesInstanceUID", series_uid)
        series.ReferencedSOPSequence = [_reference(sop_class, instance) for _, instance, sop_class in instances]
        study.ReferencedSeriesSequence.append(series)
    return study


def _reference(sop_class_uid: str, instance_uid: str) -> Dataset:
    item = Dataset()
    _put(item, "ReferencedSOPClassUID", sop_class_uid)
    _put(item, "ReferencedSOPInstanceUID", instance_uid)
    return item


def _add_content(ds: Dataset, reading: Reading, device: DeviceSettings, text: DraftText) -> None:
    """Add the tree (TID 2000, TID 2002): all shown content is a direct child of a heading, as old viewers need."""
    template = Dataset()
    _put(template, "MappingResource", "DCMR")
    _put(template, "MappingResourceUID", "1.2.840.10008.8.1.1")
    _put(template, "TemplateIdentifier", "2000")
    _put(ds, "ValueType", "CONTAINER")
    ds.ConceptNameCodeSequence = [_code(TITLES.get(reading.modality, OTHER_TITLE))]
    _put(ds, "ContinuityOfContent", "SEPARATE")
    ds.ContentTemplateSequence = [template]
    sections = (
        _section(SUMMARY, SUMMARY, [text.disclaimer]),
        _section(FINDINGS, _FINDING, text.findings),
        _section(_IMPRESSIONS, _IMPRESSION, text.impression),
        # A second "Findings": the text layout stays inside the template, which has no heading for checks.
        _section(FINDINGS, _FINDING, text.checks),
        _section(_PROCEDURE_DESCRIPTIONS, _PROCEDURE_DESCRIPTION, text.basis),
    )
    ds.ContentSequence = [*_context(reading, device), *(one for one in sections if one is not None)]


def _context(reading: Reading, device: DeviceSettings) -> list[Dataset]:
    """State language, procedure and observer (TID 1204, 1210, 1002, 1004)."""
    language = _item(_MODIFIER, "CODE", _dcm("121049", "Language of Content Item and Descendants"))
    language.ConceptCodeSequence = [_code(_LANGUAGES[reading.language])]
    items = [language]
    for one in procedure_codes(reading.header):
        procedure = _item(_MODIFIER, "CODE", _dcm("121058", "Procedure reported"))
        procedure.ConceptCodeSequence = [_code(one)]
        items.append(procedure)
    observer_type = _item(_CONTEXT, "CODE", _dcm("121005", "Observer Type"))
    observer_type.ConceptCodeSequence = [_code(_dcm("121007", "Device"))]
    observer_uid = _item(_CONTEXT, "UIDREF", _dcm("121012", "Device Observer UID"))
    _put(observer_uid, "UID", device.device_uid)
    return [
        *items,
        observer_type,
        observer_uid,
        _text(_CONTEXT, _dcm("121013", "Device Observer Name"), device.station_name),
        _text(_CONTEXT, _dcm("121014", "Device Observer Manufacturer"), MANUFACTURER),
        _text(_CONTEXT, _dcm("121015", "Device Observer Model Name"), MODEL_NAME),
        _text(_CONTEXT, _dcm("121016", "Device Observer Serial Number"), clean_line(device.device_serial_number)),
    ]


def _section(heading: CodedConcept, name: CodedConcept, texts: Sequence[str]) -> Dataset | None:
    if not texts:
        return None
    section = _item(_CONTAINS, "CONTAINER", heading)
    _put(section, "ContinuityOfContent", "SEPARATE")
    section.ContentSequence = [_text(_CONTAINS, name, one) for one in texts]
    return section


def _text(relationship: str, name: CodedConcept, value: str) -> Dataset:
    item = _item(relationship, "TEXT", name)
    # PS3.5 6.2, UT: a new line is CR LF.
    item.TextValue = value.replace("\n", "\r\n")
    return item


def _item(relationship: str, value_type: str, name: CodedConcept) -> Dataset:
    item = Dataset()
    _put(item, "RelationshipType", relationship)
    _put(item, "ValueType", value_type)
    item.ConceptNameCodeSequence = [_code(name)]
    return item


def _code(concept: CodedConcept) -> Dataset:
    item = Dataset()
    _put(item, "CodeValue", concept.value)
    _put(item, "CodingSchemeDesignator", concept.scheme)
    _put(item, "CodeMeaning", concept.meaning)
    return item


def _put(ds: Dataset, keyword: str, value: str | int) -> None:
    """Set an element that its VR allows; a text that it does not allow is refused, never replaced or cut."""
    if isinstance(value, str) and not _is_writable(keyword, value):
        raise UnwritableText(f"{keyword} holds a value that DICOM does not allow for it, so it cannot be copied")
    setattr(ds, keyword, value)


def _is_writable(keyword: str, value: str) -> bool:
    # A backslash would split the value in two, equal signs beyond two would make a fourth name group.
    if not is_plain(value) or "\\" in value:
        return False
    try:
        validate_value(dictionary_VR(keyword), value, config.RAISE)
    except ValueError:
        return False
    return True
