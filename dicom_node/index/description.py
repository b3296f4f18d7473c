"""From the bytes of an instance to what the index knows of it."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from casebook.character_sets import is_character_set
from casebook.errors import InvalidObject, OverBounds
from casebook.identity import KEYWORDS
from casebook.logs import get_logger
from casebook.settings import CharacterSetUse, SenderSettings, Settings
from casebook.study import CodedConcept, ReceivedInstance, RejectionReason, StudyHeader
from codestreams.elements import Encoding, NotUnderstood, encoding_of
from codestreams.stored_file import open_bytes
from dicom_node.objects.codes import read_codes
from dicom_node.objects.file_meta import LONGEST_FILE_META_BYTES, Envelope, read_file_meta, require_uid
from dicom_node.objects.identification import UID_KEYWORDS, DataSet, forgiving_values, identified
from dicom_node.objects.rejection_notes import read_rejection
from dicom_node.objects.sop_classes import KEY_OBJECT_SELECTION
from dicom_node.objects.tags import tags_of
from dicom_node.objects.text import (
    CharacterSet,
    character_set,
    clean_value,
    decode_ascii,
    descriptive_text,
    matching_text,
)
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
#: What describes the study, by its name in a header -> keyword.
_DESCRIBING = {
    "patient_sex": "PatientSex",
    "patient_age": "PatientAge",
    "study_id": "StudyID",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "study_description": "StudyDescription",
    "admission_id": "AdmissionID",
    "timezone_offset_from_utc": "TimezoneOffsetFromUTC",
}
#: What differs within a series.
_OWN_KEYWORDS = ("SOPInstanceUID", "InstanceNumber")
#: What is looked at first; longer headers are read again in longer pieces.
_USUAL_HEADER_BYTES = 64 * 1024
#: Of the values of a header that are kept for the next objects of its series.
_LONGEST_KEPT_BYTES = 16 * 1024
_KEYWORD_OF_TAG = tags_of(
    (
        *MATCHING_KEYWORDS, *KEYWORDS.values(), *_DESCRIBING.values(), *UID_KEYWORDS,
        "Modality", "SpecificCharacterSet", "ProcedureCodeSequence",
    )
)  # fmt: skip
_LAST_TAG = max(_KEYWORD_OF_TAG)
_log = get_logger(__name__)


def describe(
    data_directory: Path,
    stored: StoredInstance,
    quiet_period_of: Callable[[str, str], float],
    character_set_of: Callable[[str, str], SenderSettings | None] = lambda _ae_title, _modality: None,
) -> ReceivedInstance:
    """Describe a durable object for the index: its header and its sender.

    Parameters
    ----------
    quiet_period_of, character_set_of
        Ask the settings, by calling AE title and Modality; without the second, what the object states counts.

    Raises
    ------
    InvalidObject
        When it cannot be read as a data set with its UIDs.
    """
    source = _source(data_directory, stored)
    envelope = source.envelope
    own, common = _header_values(source, character_set_of)
    if own.sop_instance_uid != envelope.sop_instance_uid:
        raise InvalidObject("the data set names another instance than the command")
    rejection_reason, rejects = _rejection(source, common.study_instance_uid)
    return ReceivedInstance(
        study_instance_uid=common.study_instance_uid,
        series_instance_uid=common.series_instance_uid,
        sop_instance_uid=require_uid(own.sop_instance_uid),
        sop_class_uid=envelope.sop_class_uid,
        transfer_syntax_uid=envelope.transfer_syntax_uid,
        modality=common.modality,
        attributes={**common.attributes, **own.attributes},
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


def describe_again(settings: Settings, path: str) -> ReceivedInstance:
    """Describe a stored object anew, with the character sets that the settings name now.

    Parameters
    ----------
    path
        Relative to the data directory.

    Raises
    ------
    InvalidObject
        When it cannot be read any more.
    OSError
    """
    size_bytes = (settings.data_directory / path).stat().st_size
    stored = StoredInstance(path=path, size_bytes=size_bytes, received_at=0.0)
    listener = settings.listener
    return describe(settings.data_directory, stored, listener.quiet_period_of, listener.character_set_of)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the data set of a stored file, without its file meta information.

    Raises
    ------
    InvalidObject
        When the file has no file meta information.
    OSError
    """
    with open_bytes(path) as file:
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

    @property
    def data_set(self) -> DataSet:
        """The data set, to be looked at."""
        return DataSet(
            head=self.head,
            size_bytes=self.size_bytes,
            transfer_syntax_uid=self.envelope.transfer_syntax_uid,
            opened=self._opened,
        )

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        with open_bytes(self.data_directory / self.path) as file:
            file.seek(self.offset)
            yield file


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
    with open_bytes(path) as file:
        file.seek(offset)
        return file.read(count)


def _rejection(source: _Source, study_instance_uid: str) -> tuple[RejectionReason | None, tuple[str, ...]]:
    if source.envelope.sop_class_uid != KEY_OBJECT_SELECTION:
        return None, ()
    try:
        return read_rejection(source.data_directory / source.path, study_instance_uid)
    except OverBounds:
        # Set aside: what cannot be looked at within bounds may reject what a reader would show.
        raise
    except InvalidObject:
        # Kept like any other object: it only rejects nothing.
        _log.warning("key_object_document_not_understood", study_instance_uid=study_instance_uid)
        return None, ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    """What differs from object to object."""

    sop_instance_uid: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """What the objects of a series have in common, as a rule."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    attributes: Mapping[str, str]
    header: StudyHeader


def _header_values(
    source: _Source, character_set_of: Callable[[str, str], SenderSettings | None]
) -> tuple[_Own, _Common]:
    """Return the values that differ from object to object, and the others.

    Raises
    ------
    InvalidObject
    """
    transfer_syntax_uid, data_set = source.envelope.transfer_syntax_uid, source.data_set
    encoding = encoding_of(transfer_syntax_uid)
    concepts: tuple[CodedConcept, ...] | None = None
    try:
        raw = data_set.values(_KEYWORD_OF_TAG, _LAST_TAG)
    except NotUnderstood:
        raw = {}
    if any(keyword not in raw for keyword in UID_KEYWORDS):
        forgiven = forgiving_values(data_set, tuple(_KEYWORD_OF_TAG.values()))
        raw, concepts = forgiven.raw, forgiven.concepts.get("ProcedureCodeSequence", ())
    modality = clean_value(decode_ascii(raw.get("Modality", b"")))
    sender = character_set_of(source.envelope.calling_ae_title, modality)
    own = _own({keyword: raw.pop(keyword) for keyword in _OWN_KEYWORDS if keyword in raw}, encoding)
    if concepts is None and sum(map(len, raw.values())) <= _LONGEST_KEPT_BYTES:
        return own, _common_of(tuple(raw.items()), transfer_syntax_uid, sender, source.envelope.calling_ae_title)
    return own, _common(raw, encoding, sender, source.envelope.calling_ae_title, concepts)


def _own(raw: Mapping[str, bytes], encoding: Encoding) -> _Own:
    attributes = _matching(raw, encoding, character_set(""))
    return _Own(sop_instance_uid=decode_ascii(raw.get("SOPInstanceUID", b"")), attributes=attributes)


# To decode the texts of a header takes longer than to find them.
@lru_cache(maxsize=32)
def _common_of(
    raw: tuple[tuple[str, bytes], ...], transfer_syntax_uid: str, sender: SenderSettings | None, calling_ae_title: str
) -> _Common:
    return _common(dict(raw), encoding_of(transfer_syntax_uid), sender, calling_ae_title)


def _common(
    raw: Mapping[str, bytes],
    encoding: Encoding,
    sender: SenderSettings | None,
    calling_ae_title: str,
    concepts: tuple[CodedConcept, ...] | None = None,
) -> _Common:
    stated = decode_ascii(raw.get("SpecificCharacterSet", b""))
    set_for = calling_ae_title if sender is not None and _counts(sender, stated) else ""
    characters = character_set(stated)
    if sender is not None and sender.character_set is not None and set_for:
        characters = replace(character_set(sender.character_set), name=sender.character_set)
    if concepts is None:
        concepts = read_codes(raw.get("ProcedureCodeSequence", b""), encoding, characters)
    return _Common(
        study_instance_uid=require_uid(decode_ascii(raw.get("StudyInstanceUID", b""))),
        series_instance_uid=require_uid(decode_ascii(raw.get("SeriesInstanceUID", b""))),
        modality=clean_value(decode_ascii(raw.get("Modality", b""))),
        attributes=_matching(raw, encoding, characters),
        header=_study_header(raw, characters, set_for, concepts),
    )


def _counts(sender: SenderSettings, stated: str) -> bool:
    """Say whether the character set of a sender counts for an object that states this one, or none that is known."""
    return sender.character_set_applies is CharacterSetUse.ALWAYS or not is_character_set(stated)


def _matching(raw: Mapping[str, bytes], encoding: Encoding, characters: CharacterSet) -> dict[str, str]:
    found = {}
    for keyword in MATCHING_KEYWORDS:
        value = raw.get(keyword)
        if not value:
            continue
        if keyword in {"Rows", "Columns"}:
            found[keyword] = str(int.from_bytes(value[:2], "big" if encoding.big_endian else "little"))
        elif text := matching_text(value, characters):
            found[keyword] = text
    return found


def _study_header(
    raw: Mapping[str, bytes], characters: CharacterSet, set_for: str, concepts: tuple[CodedConcept, ...]
) -> StudyHeader:
    describing = {name: descriptive_text(raw.get(keyword, b""), characters) for name, keyword in _DESCRIBING.items()}
    header = identified(raw, characters, set_for=set_for)
    return StudyHeader(
        identity=header.identity,
        patient_name=header.patient_name,
        referring_physician_name=header.referring_physician_name,
        identifying=header.identifying,
        procedure_codes=concepts,
        **describing,
    )
