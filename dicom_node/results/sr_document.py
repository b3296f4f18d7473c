"""The draft as a DICOM structured report: Enhanced SR, TID 2000, every item a row of the template.

A pure function: no clock, no random number, no setting that is not passed in, so the same Reading always
gives the same bytes. Written with pydicom alone; every value is checked here, because pydicom would
replace what it cannot encode by question marks.
"""

import datetime as dt
import hashlib
import io
import itertools
from collections.abc import Iterable

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from casebook.reading import InstanceReference, Reading
from casebook.settings import DeviceSettings
from casebook.study import StudyHeader
from dicom_node.objects.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.results.clean_text import clean_line
from dicom_node.results.derived_uids import series_instance_uid, sop_instance_uid
from dicom_node.results.draft_text import compose, wording_of
from dicom_node.results.report_codes import dcm, private_scheme, procedure_codes
from dicom_node.results.sr_elements import MANUFACTURER, MODEL_NAME, code_item, is_writable, put
from dicom_node.results.tid2000 import add_content
from dicom_node.results.timestamps import date_or_empty, fixed_offset, moment

ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"
#: The series list of a viewer shows some twenty characters, so the word that counts comes first.
SERIES_DESCRIPTION = "UNVERIFIED AI draft report"
#: Of earlier versions: frozen bytes may still have to be sent.
FORMER_SERIES_DESCRIPTIONS = ("AI DRAFT report - NOT VERIFIED",)
#: Far behind the series of a modality, so that it stands last in a viewer.
SERIES_NUMBER = 9901
#: InstanceNumber counts down from here: OHIF shows the lowest of a series, and the newest draft is the one that counts.
_FIRST_INSTANCE_NUMBER = 9999
#: Names the series. It changes when what a series states or how it is ordered does: drafts of both orders in one
#: series would show the older one.
_SERIES_KIND = "sr, newest first"
#: Stands for the SOP Instance UID while the bytes that it is derived from are made.
_NO_UID = "0"


def build(
    reading: Reading,
    device: DeviceSettings,
    *,
    revision: int,
    predecessor: InstanceReference | None = None,
) -> Dataset:
    """Build the SR of one draft (PS3.3 A.35.2, PS3.16 TID 2000).

    Parameters
    ----------
    reading
        Gives the text, the identity, the images it is based on and the one timestamp.
    device
        How the author names itself.
    revision
        Counts the drafts of the study, from 1; InstanceNumber counts down with it.
    predecessor
        The earlier draft at the same destination.

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
    put(ds, "SpecificCharacterSet", "ISO_IR 192")
    _copy_header(ds, reading.study_instance_uid, reading.header)
    _add_series_and_equipment(ds, reading, device)
    _add_document(ds, reading, device, revision=revision, predecessor=predecessor)
    add_content(ds, reading, device, text)
    seal(ds, ENHANCED_SR, reading.sha256)
    return ds


def seal(ds: Dataset, sop_class_uid: str, source: str) -> None:
    """Give a built object its class, its file meta information and its UID.

    Parameters
    ----------
    ds
        Complete but for these.
    sop_class_uid
        What it is.
    source
        Names what it was made from: the same source and the same content always get the same UID.
    """
    put(ds, "SOPClassUID", sop_class_uid)
    ds.file_meta = _file_meta(sop_class_uid)
    # The UID names these very bytes: it is derived from the object as it is with a UID that says nothing.
    _name(ds, _NO_UID)
    _name(ds, sop_instance_uid(source, hashlib.sha256(to_bytes(ds)).hexdigest()))


def to_bytes(ds: Dataset) -> bytes:
    """Encode a built SR as a DICOM file (PS3.10): the same bytes for the same data set."""
    stream = io.BytesIO()
    dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def _name(ds: Dataset, uid: str) -> None:
    put(ds, "SOPInstanceUID", uid)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)


def _file_meta(sop_class_uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def _copy_header(ds: Dataset, study_instance_uid: str, header: StudyHeader) -> None:
    """Copy what places the SR in the patient's study (PS3.3 C.7.1.1, C.7.2.1), unchanged or not at all."""
    identity = header.identity
    # Whose it is: what cannot be copied exactly is not sent.
    put(ds, "StudyInstanceUID", study_instance_uid)
    put(ds, "PatientID", identity.patient_id)
    put(ds, "PatientName", header.patient_name)
    # A birth date that is no date identifies nobody: left empty, as type 2 allows.
    put(ds, "PatientBirthDate", date_or_empty(identity.patient_birth_date))
    put(ds, "AccessionNumber", identity.accession_number)
    if identity.issuer_of_patient_id:
        put(ds, "IssuerOfPatientID", identity.issuer_of_patient_id)
    # What describes it: a received value that its VR forbids is left out (type 2: empty), never mended.
    for keyword, value in (
        ("PatientSex", header.patient_sex),
        ("StudyID", header.study_id),
        ("StudyDate", header.study_date),
        ("StudyTime", header.study_time),
        ("ReferringPhysicianName", header.referring_physician_name),
    ):
        put(ds, keyword, value if is_writable(keyword, value) else "")
    for keyword, value in (
        ("PatientAge", header.patient_age),
        ("StudyDescription", header.study_description),
        ("AdmissionID", header.admission_id),
    ):
        if value and is_writable(keyword, value):
            put(ds, keyword, value)
    if fixed_offset(header.timezone_offset_from_utc):
        put(ds, "TimezoneOffsetFromUTC", header.timezone_offset_from_utc)
    if codes := procedure_codes(header):
        ds.ProcedureCodeSequence = [code_item(one) for one in codes]


def _add_series_and_equipment(ds: Dataset, reading: Reading, device: DeviceSettings) -> None:
    put(ds, "Modality", "SR")
    # Every revision lies in the same series, and what a series states has to be equal in all of its instances:
    # hence no SeriesDate and no SeriesTime.
    put(ds, "SeriesInstanceUID", series_instance_uid(reading.study_instance_uid, _SERIES_KIND))
    put(ds, "SeriesNumber", SERIES_NUMBER)
    put(ds, "SeriesDescription", SERIES_DESCRIPTION)
    ds.ReferencedPerformedProcedureStepSequence = []
    _put_equipment(ds, reading, device)
    put(ds, "StationName", device.station_name)
    put(ds, "InstitutionName", clean_line(device.institution_name))
    put(ds, "DeviceUID", device.device_uid)


def _put_equipment(ds: Dataset, reading: Reading, device: DeviceSettings) -> None:
    put(ds, "Manufacturer", MANUFACTURER)
    put(ds, "ManufacturerModelName", MODEL_NAME)
    put(ds, "DeviceSerialNumber", clean_line(device.device_serial_number))
    put(ds, "SoftwareVersions", clean_line(reading.provenance.software_version))


def _add_document(
    ds: Dataset, reading: Reading, device: DeviceSettings, *, revision: int, predecessor: InstanceReference | None
) -> None:
    """Say what kind of document this is: made by a machine, partial, preliminary, unverified (PS3.3 C.17.2)."""
    stated = _stated_at(reading, device)
    put(ds, "InstanceNumber", _FIRST_INSTANCE_NUMBER + 1 - revision)
    for kind in ("Content", "InstanceCreation"):
        put(ds, f"{kind}Date", stated.strftime("%Y%m%d"))
        put(ds, f"{kind}Time", stated.strftime("%H%M%S"))
    put(ds, "ContentQualification", reading.provenance.content_qualification)
    put(ds, "PreliminaryFlag", "PRELIMINARY")
    put(ds, "CompletionFlag", "PARTIAL")
    put(ds, "CompletionFlagDescription", wording_of(reading).not_reviewed)
    put(ds, "VerificationFlag", "UNVERIFIED")
    ds.AuthorObserverSequence = [_author(device)]
    ds.ContributingEquipmentSequence = [_contribution(reading, device, stated)]
    ds.PerformedProcedureCodeSequence = [code_item(one) for one in procedure_codes(reading.header)]
    if reading.images:
        ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(reading.study_instance_uid, reading.images)]
    if predecessor is not None:
        ds.PredecessorDocumentsSequence = [_evidence(reading.study_instance_uid, [predecessor])]
    ds.CodingSchemeIdentificationSequence = [
        _coding_scheme("DCM", "1.2.840.10008.2.16.4", "DICOM Controlled Terminology"),
        _coding_scheme("LN", "2.16.840.1.113883.6.1", "LOINC"),
        _coding_scheme(private_scheme(device.organization), "", "Wetread draft report codes"),
    ]


def _stated_at(reading: Reading, device: DeviceSettings) -> dt.datetime:
    # A copied TimezoneOffsetFromUTC rules every date and time of the object, ours too (PS3.3 C.12.1.1.8).
    local = moment(reading.created_at, device.timezone)
    offset = fixed_offset(reading.header.timezone_offset_from_utc)
    return local.astimezone(offset) if offset else local


def _author(device: DeviceSettings) -> Dataset:
    author = Dataset()
    put(author, "ObserverType", "DEV")
    put(author, "InstitutionName", clean_line(device.institution_name))
    author.InstitutionCodeSequence = []
    put(author, "StationName", device.station_name)
    put(author, "DeviceUID", device.device_uid)
    put(author, "Manufacturer", MANUFACTURER)
    put(author, "ManufacturerModelName", MODEL_NAME)
    return author


def _contribution(reading: Reading, device: DeviceSettings, stated: dt.datetime) -> Dataset:
    made_by = reading.provenance
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(dcm("109102", "Processing Equipment"))]
    _put_equipment(item, reading, device)
    put(item, "ContributionDateTime", stated.strftime("%Y%m%d%H%M%S%z"))
    put(
        item,
        "ContributionDescription",
        clean_line(f"AI-generated draft report; model {made_by.model_name} {made_by.model_version}"),
    )
    return item


def _coding_scheme(designator: str, uid: str, name: str) -> Dataset:
    item = Dataset()
    put(item, "CodingSchemeDesignator", designator)
    if uid:
        put(item, "CodingSchemeUID", uid)
    put(item, "CodingSchemeName", name)
    return item


def _evidence(study_instance_uid: str, references: Iterable[InstanceReference]) -> Dataset:
    """List instances by series (PS3.3 table C.17-3a, hierarchical SOP instance reference)."""
    by_series = sorted({(one.series_instance_uid, one.sop_instance_uid, one.sop_class_uid) for one in references})
    study = Dataset()
    put(study, "StudyInstanceUID", study_instance_uid)
    study.ReferencedSeriesSequence = []
    for series_uid, instances in itertools.groupby(by_series, key=lambda one: one[0]):
        series = Dataset()
        put(series, "SeriesInstanceUID", series_uid)
        series.ReferencedSOPSequence = [_reference(sop_class, instance) for _, instance, sop_class in instances]
        study.ReferencedSeriesSequence.append(series)
    return study


def _reference(sop_class_uid: str, instance_uid: str) -> Dataset:
    item = Dataset()
    put(item, "ReferencedSOPClassUID", sop_class_uid)
    put(item, "ReferencedSOPInstanceUID", instance_uid)
    return item
