"""From the bytes of an instance to what the index knows of it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom.uid import DeflatedExplicitVRLittleEndian

from casebook.errors import InvalidObject
from casebook.logs import get_logger
from casebook.study import PatientIdentity, ReceivedInstance, RejectionReason, StudyHeader
from dicom_node.objects.codes import read_codes
from dicom_node.objects.elements import (
    LONGEST_HEADER_BYTES,
    Encoding,
    NeedMoreBytes,
    NotUnderstood,
    encoding_of,
    inflate,
    tags_of,
    walk,
)
from dicom_node.objects.file_meta import LONGEST_FILE_META_BYTES, Envelope, read_file_meta, require_uid
from dicom_node.objects.identification import UID_KEYWORDS, forgiving_values
from dicom_node.objects.rejection_notes import read_rejection
from dicom_node.objects.sop_classes import KEY_OBJECT_SELECTION
from dicom_node.objects.text import clean_value, codecs_of, decode_ascii, decode_person_name, decode_text
from dicom_node.storage.inbox import StoredInstance

#: What pipelines match on, beside Modality.
MATCHING_KEYWORDS = (
    "BodyPartExamined",
    "ViewPosition",
    "StationName",
    "SeriesDescription",
    "StudyDescription",
    "Manufacturer",
    "ProtocolName",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "InstanceNumber",
    "Rows",
    "Columns",
    "DeviceUID",
)
_HEADER_KEYWORDS = (
    "PatientID", "IssuerOfPatientID", "PatientBirthDate", "AccessionNumber", "PatientName", "PatientSex", "PatientAge",
    "StudyID", "StudyDate", "StudyTime", "StudyDescription", "ReferringPhysicianName", "AdmissionID",
    "TimezoneOffsetFromUTC",
)  # fmt: skip
#: What differs within a series.
_OWN_KEYWORDS = ("SOPInstanceUID", "InstanceNumber")
#: What is looked at first; longer headers are read again in longer pieces.
_USUAL_HEADER_BYTES = 64 * 1024
#: Of the values of a header that are kept for the next objects of its series.
_LONGEST_KEPT_BYTES = 16 * 1024
_KEYWORD_OF_TAG = tags_of(
    (*MATCHING_KEYWORDS, *_HEADER_KEYWORDS, *UID_KEYWORDS, "Modality", "SpecificCharacterSet", "ProcedureCodeSequence")
)
_LAST_TAG = max(_KEYWORD_OF_TAG)
_log = get_logger(__name__)


def describe(
    data_directory: Path, stored: StoredInstance, quiet_period_of: Callable[[str, str], float]
) -> ReceivedInstance:
    """Describe a durable object for the index: its header and its sender.

    Raises
    ------
    InvalidObject
        When it cannot be read as a data set with its UIDs.
    """
    source = _source(data_directory, stored)
    envelope = source.envelope
    own, common = _header_values(source)
    if own["SOPInstanceUID"] != envelope.sop_instance_uid:
        raise InvalidObject("the data set names another instance than the command")
    rejection_reason, rejects = _rejection(source, common.study_instance_uid)
    return ReceivedInstance(
        study_instance_uid=common.study_instance_uid,
        series_instance_uid=common.series_instance_uid,
        sop_instance_uid=require_uid(own["SOPInstanceUID"]),
        sop_class_uid=envelope.sop_class_uid,
        transfer_syntax_uid=envelope.transfer_syntax_uid,
        modality=common.modality,
        attributes={**common.attributes, **_matching(own)},
        header=common.header,
        path=stored.path,
        size_bytes=stored.size_bytes,
        calling_ae_title=envelope.calling_ae_title,
        peer_address=envelope.peer_address,
        received_at=stored.received_at,
        acknowledged_ns=stored.acknowledged_ns,
        quiet_period_s=quiet_period_of(envelope.calling_ae_title, common.modality),
        rejects=rejects,
        rejection_reason=rejection_reason,
    )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the data set of a stored file, without its file meta information.

    Raises
    ------
    InvalidObject
        When the file has no file meta information.
    OSError
    """
    with path.open("rb", buffering=0) as file:
        _, offset = read_file_meta(file.read(LONGEST_FILE_META_BYTES))
        file.seek(offset)
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where the header of a durable object is read."""

    data_directory: Path
    #: Relative to it.
    path: str
    envelope: Envelope
    #: Of the data set in the file.
    offset: int
    #: Of the data set.
    size_bytes: int
    #: Its start.
    head: bytes

    def read(self, count: int) -> bytes:
        """Read a longer start from the disk."""
        return _read(self.data_directory / self.path, self.offset, count)


def _source(data_directory: Path, stored: StoredInstance) -> _Source:
    if stored.head and stored.envelope is not None:
        envelope, offset, head = stored.envelope, stored.data_set_offset, stored.head
    else:
        start = _read(data_directory / stored.path, 0, LONGEST_FILE_META_BYTES + _USUAL_HEADER_BYTES)
        written, offset = read_file_meta(start)
        envelope, head = stored.envelope or written, start[offset:]
    return _Source(
        data_directory=data_directory,
        path=stored.path,
        envelope=envelope,
        offset=offset,
        size_bytes=stored.size_bytes - offset,
        head=head,
    )


def _read(path: Path, offset: int, count: int) -> bytes:
    # Unbuffered: for a small object the buffers would cost more than the reading.
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return file.read(count)


def _rejection(source: _Source, study_instance_uid: str) -> tuple[RejectionReason | None, tuple[str, ...]]:
    if source.envelope.sop_class_uid != KEY_OBJECT_SELECTION:
        return None, ()
    try:
        return read_rejection(source.data_directory / source.path, study_instance_uid)
    except InvalidObject:
        # Kept like any other object: it only rejects nothing.
        _log.warning("key_object_document_not_understood", study_instance_uid=study_instance_uid)
        return None, ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """What the objects of a series have in common, as a rule."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    attributes: Mapping[str, str]
    header: StudyHeader


def _common(values: Mapping[str, Any]) -> _Common:
    return _Common(
        study_instance_uid=require_uid(str(values.get("StudyInstanceUID", ""))),
        series_instance_uid=require_uid(str(values.get("SeriesInstanceUID", ""))),
        modality=str(values.get("Modality", "")),
        attributes=_matching(values),
        header=_study_header(values),
    )


def _matching(values: Mapping[str, Any]) -> dict[str, str]:
    return {keyword: str(values[keyword]) for keyword in MATCHING_KEYWORDS if values.get(keyword)}


def _header_values(source: _Source) -> tuple[Mapping[str, Any], _Common]:
    """Return the values that differ from object to object, and the others.

    Raises
    ------
    InvalidObject
    """
    data, transfer_syntax_uid = source.head, source.envelope.transfer_syntax_uid
    encoding = encoding_of(transfer_syntax_uid)
    deflated = transfer_syntax_uid == DeflatedExplicitVRLittleEndian
    while True:
        whole = len(data) >= source.size_bytes
        try:
            raw = walk(inflate(data) if deflated else data, encoding, _KEYWORD_OF_TAG, _LAST_TAG, whole=whole)
        except NeedMoreBytes:
            data = source.read(max(len(data), 4096) * 8)
            continue
        except NotUnderstood:
            break
        if all(keyword in raw for keyword in UID_KEYWORDS):
            own = _decoded({keyword: raw.pop(keyword) for keyword in _OWN_KEYWORDS if keyword in raw}, encoding)
            if sum(map(len, raw.values())) <= _LONGEST_KEPT_BYTES:
                return own, _common_of(tuple(raw.items()), transfer_syntax_uid)
            return own, _common(_decoded(raw, encoding))
        break
    start = source.read(min(source.size_bytes, LONGEST_HEADER_BYTES))
    values = forgiving_values(start, transfer_syntax_uid, tuple(_KEYWORD_OF_TAG.values()))
    return {keyword: values[keyword] for keyword in _OWN_KEYWORDS}, _common(values)


# To decode the texts of a header takes longer than to find them.
@lru_cache(maxsize=32)
def _common_of(raw: tuple[tuple[str, bytes], ...], transfer_syntax_uid: str) -> _Common:
    return _common(_decoded(dict(raw), encoding_of(transfer_syntax_uid)))


def _decoded(raw: Mapping[str, bytes], encoding: Encoding) -> dict[str, Any]:
    encodings = codecs_of(decode_ascii(raw.get("SpecificCharacterSet", b"")))
    values: dict[str, Any] = {}
    for keyword, value in raw.items():
        if keyword == "ProcedureCodeSequence":
            values[keyword] = read_codes(value, encoding, encodings)
        elif keyword in {"Rows", "Columns"}:
            values[keyword] = str(int.from_bytes(value[:2], "big" if encoding.big_endian else "little"))
        elif keyword in {"PatientName", "ReferringPhysicianName"}:
            values[keyword] = clean_value(decode_person_name(value, encodings))
        else:
            values[keyword] = clean_value(decode_text(value, encodings))
    return values


def _study_header(values: Mapping[str, Any]) -> StudyHeader:
    def text(keyword: str) -> str:
        return str(values.get(keyword) or "")

    return StudyHeader(
        identity=PatientIdentity(
            patient_id=text("PatientID"),
            issuer_of_patient_id=text("IssuerOfPatientID"),
            patient_birth_date=text("PatientBirthDate"),
            accession_number=text("AccessionNumber"),
        ),
        patient_name=text("PatientName"),
        patient_sex=text("PatientSex"),
        patient_age=text("PatientAge"),
        study_id=text("StudyID"),
        study_date=text("StudyDate"),
        study_time=text("StudyTime"),
        study_description=text("StudyDescription"),
        referring_physician_name=text("ReferringPhysicianName"),
        admission_id=text("AdmissionID"),
        timezone_offset_from_utc=text("TimezoneOffsetFromUTC"),
        procedure_codes=values.get("ProcedureCodeSequence") or (),
    )
