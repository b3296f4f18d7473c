"""From the bytes of a data set to what the index knows of it.

A walk over the top-level elements takes only the wanted ones and never looks at pixels; a data set that the walk
does not understand goes to pydicom, which forgives more and costs thirty times as much. Text is decoded by
SpecificCharacterSet (PS3.3 C.12.1.1.2); what cannot be decoded is replaced, never refused.
"""

import hashlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom import charset
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.valuerep import PersonName

from casebook.errors import InvalidObject
from casebook.logs import get_logger
from casebook.study import CodedConcept, PatientIdentity, ReceivedInstance, RejectionReason, StudyHeader
from dicom_node.objects.rejection_notes import read_rejection
from dicom_node.objects.sop_classes import KEY_OBJECT_SELECTION
from dicom_node.storage.inbox import Envelope, Landed, require_uid

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
_UID_KEYWORDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_CODE_KEYWORDS = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodeMeaning")
_LONGEST_TEXT = 1024
_LONGEST_HEADER_BYTES = 64 * 1024 * 1024
#: What is looked at first; longer headers are read again in longer pieces.
_USUAL_HEADER_BYTES = 64 * 1024
#: Of the values of a header that are kept for the next objects of its series.
_LONGEST_KEPT_BYTES = 16 * 1024
#: Our own is under 1 KiB; whatever file system utilities add stays within this.
_LONGEST_FILE_META_BYTES = 16 * 1024


def _tags(keywords: Sequence[str]) -> dict[int, str]:
    return {int(tag_for_keyword(keyword) or 0): keyword for keyword in keywords}


_KEYWORD_OF_TAG = _tags(
    (*MATCHING_KEYWORDS, *_HEADER_KEYWORDS, *_UID_KEYWORDS, "Modality", "SpecificCharacterSet", "ProcedureCodeSequence")
)
_IDENTIFYING_TAGS = _tags(_UID_KEYWORDS)
_LAST_TAG = max(_KEYWORD_OF_TAG)
_LAST_IDENTIFYING_TAG = max(_IDENTIFYING_TAGS)
_CODE_TAGS = _tags(_CODE_KEYWORDS)

#: Value representations with a 32-bit length after two reserved bytes (PS3.5 7.1.2).
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
#: All others (PS3.5 table 6.2-1).
_SHORT_VRS = frozenset(
    {
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
        b"ST", b"TM", b"UI", b"UL", b"US",
    }
)  # fmt: skip
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_FIRST_PIXEL_TAG = 0x7FE00000
_DEEPEST_SEQUENCE = 16
_log = get_logger(__name__)
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class _NeedMoreBytes(Exception):
    """The wanted elements are not all in the bytes at hand."""


class _NotUnderstood(Exception):
    """The walk met something that only pydicom may forgive."""


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How elements are laid out: PS3.5 7.1 and annex A."""

    implicit: bool
    big_endian: bool
    tag: struct.Struct
    #: Tag, VR and 16-bit length in one call.
    explicit_header: struct.Struct
    long_length: struct.Struct


def _encoding(*, implicit: bool, big_endian: bool) -> _Encoding:
    order = ">" if big_endian else "<"
    return _Encoding(
        implicit, big_endian, struct.Struct(f"{order}HH"), struct.Struct(f"{order}HH2sH"), struct.Struct(f"{order}I")
    )


_IMPLICIT = _encoding(implicit=True, big_endian=False)
_EXPLICIT = _encoding(implicit=False, big_endian=False)
_EXPLICIT_BIG_ENDIAN = _encoding(implicit=False, big_endian=True)


def _encoding_of(transfer_syntax_uid: str) -> _Encoding:
    if transfer_syntax_uid == ImplicitVRLittleEndian:
        return _IMPLICIT
    return _EXPLICIT_BIG_ENDIAN if transfer_syntax_uid == ExplicitVRBigEndian else _EXPLICIT


def _walk(
    data: bytes | memoryview,
    encoding: _Encoding,
    wanted: Mapping[int, str],
    last_tag: int,
    *,
    whole: bool,
    start: int = 0,
) -> dict[str, bytes]:
    """Collect the raw values of wanted elements, up to a tag or to the pixels.

    Raises
    ------
    _NeedMoreBytes
        When the bytes end before that and are not the whole data set.
    _NotUnderstood
        When an element has no plausible form.
    """
    found: dict[str, bytes] = {}
    position, end = start, len(data)
    is_implicit, read_header = encoding.implicit, encoding.explicit_header.unpack_from
    try:
        while position < end:
            # The common case of `_element`, in place: this loop runs before every acknowledgement.
            if not is_implicit:
                group, element, vr, length = read_header(data, position)
                tag = group << 16 | element
                value_at = position + 8
                if vr not in _SHORT_VRS:
                    tag, value_at, length = _element(data, position, encoding)
            else:
                tag, value_at, length = _element(data, position, encoding)
            if tag > last_tag or tag >= _FIRST_PIXEL_TAG:
                return found
            keyword = wanted.get(tag)
            if length == _UNDEFINED:
                after = _skip_undefined(data, value_at, _inside(data, position, encoding), 0)
                if keyword:
                    found[keyword] = bytes(data[value_at:after])
                position = after
                continue
            position = value_at + length
            if keyword:
                if position > end:
                    raise _NeedMoreBytes
                found[keyword] = bytes(data[value_at:position])
    except struct.error:
        raise (_NotUnderstood if whole else _NeedMoreBytes) from None
    except _NeedMoreBytes:
        if whole:
            raise _NotUnderstood from None
        raise
    if whole:
        return found
    raise _NeedMoreBytes


def _element(data: bytes | memoryview, position: int, encoding: _Encoding) -> tuple[int, int, int]:
    """Return tag, offset of the value and its length (PS3.5 7.1)."""
    group, element = encoding.tag.unpack_from(data, position)
    tag = group << 16 | element
    if encoding.implicit or group == 0xFFFE:
        (length,) = encoding.long_length.unpack_from(data, position + 4)
        return tag, position + 8, length
    _, _, vr, length = encoding.explicit_header.unpack_from(data, position)
    if vr in _SHORT_VRS:
        return tag, position + 8, length
    if vr not in _LONG_VRS:
        raise _NotUnderstood
    (length,) = encoding.long_length.unpack_from(data, position + 8)
    return tag, position + 12, length


def _inside(data: bytes | memoryview, position: int, encoding: _Encoding) -> _Encoding:
    # PS3.5 6.2.2: a value of unknown VR and undefined length is a sequence in implicit VR little endian.
    is_unknown = not encoding.implicit and bytes(data[position + 4 : position + 6]) == b"UN"
    return _IMPLICIT if is_unknown else encoding


def _skip_undefined(data: bytes | memoryview, position: int, encoding: _Encoding, depth: int) -> int:
    """Return the offset after a sequence of undefined length (PS3.5 7.5)."""
    if depth > _DEEPEST_SEQUENCE:
        raise _NotUnderstood
    while True:
        tag, position, length = _element(data, position, encoding)
        if tag == _SEQUENCE_END:
            return position
        if tag != _ITEM:
            raise _NotUnderstood
        if length != _UNDEFINED:
            position += length
            continue
        position = _end_of_item(data, position, encoding, depth)


def _end_of_item(data: bytes | memoryview, position: int, encoding: _Encoding, depth: int) -> int:
    """Return the offset after the delimiter of an item of undefined length (PS3.5 7.5.1)."""
    while True:
        tag, value_at, length = _element(data, position, encoding)
        if tag == _ITEM_END:
            return value_at
        if length == _UNDEFINED:
            position = _skip_undefined(data, value_at, _inside(data, position, encoding), depth + 1)
        else:
            position = value_at + length


def _inflated(data: bytes) -> bytes:
    # PS3.5 A.5: a raw deflate stream. The limit is against bombs; the header is far shorter.
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _LONGEST_HEADER_BYTES)
    except zlib.error:
        raise InvalidObject("the deflated data set cannot be inflated") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """The three UIDs without which an object is refused."""

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


def identify(
    head: bytes, transfer_syntax_uid: str, read_back: Callable[[int], bytes], size_bytes: int
) -> Identification:
    """Find the UIDs of an object that is still arriving.

    Parameters
    ----------
    head
        Start of the data set.
    read_back
        Returns the given number of bytes from the start of the data set, for the rare long header.
    size_bytes
        Of the data set.

    Raises
    ------
    InvalidObject
        When one of the three is missing or malformed.
    """
    values: dict[str, bytes] = {}
    data = head
    while True:
        whole = len(data) >= size_bytes
        try:
            plain = _inflated(data) if transfer_syntax_uid == DeflatedExplicitVRLittleEndian else data
            values = _walk(
                plain, _encoding_of(transfer_syntax_uid), _IDENTIFYING_TAGS, _LAST_IDENTIFYING_TAG, whole=whole
            )
            break
        except _NeedMoreBytes:
            data = read_back(min(size_bytes, max(len(data), 4096) * 16))
        except _NotUnderstood:
            break
    if any(keyword not in values for keyword in _UID_KEYWORDS):
        forgiven = _forgiving_values(
            read_back(min(size_bytes, _LONGEST_HEADER_BYTES)), transfer_syntax_uid, _UID_KEYWORDS
        )
        values = {keyword: str(forgiven.get(keyword, "")).encode("ascii", "replace") for keyword in _UID_KEYWORDS}
    sop, study, series = (require_uid(_ascii(values[keyword])) for keyword in _UID_KEYWORDS)
    return Identification(sop_instance_uid=sop, study_instance_uid=study, series_instance_uid=series)


def describe(data_directory: Path, landed: Landed, quiet_period_of: Callable[[str, str], float]) -> ReceivedInstance:
    """Describe a durable object for the index: its header and its sender.

    Raises
    ------
    InvalidObject
        When it cannot be read as a data set with its UIDs.
    """
    source = _source(data_directory, landed)
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
        path=landed.path,
        size_bytes=landed.size_bytes,
        calling_ae_title=envelope.calling_ae_title,
        peer_address=envelope.peer_address,
        received_at=landed.received_at,
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
        _, offset = read_file_meta(file.read(_LONGEST_FILE_META_BYTES))
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


def _source(data_directory: Path, landed: Landed) -> _Source:
    if landed.head and landed.envelope is not None:
        envelope, offset, head = landed.envelope, landed.data_set_offset, landed.head
    else:
        start = _read(data_directory / landed.path, 0, _LONGEST_FILE_META_BYTES + _USUAL_HEADER_BYTES)
        written, offset = read_file_meta(start)
        envelope, head = landed.envelope or written, start[offset:]
    return _Source(
        data_directory=data_directory,
        path=landed.path,
        envelope=envelope,
        offset=offset,
        size_bytes=landed.size_bytes - offset,
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


def read_file_meta(start: bytes) -> tuple[Envelope, int]:
    """Read the file meta information (PS3.10 7.1) and say where the data set begins.

    Raises
    ------
    InvalidObject
        When there is none.
    """
    if start[128:132] != b"DICM":
        raise InvalidObject("the file has no file meta information")
    try:
        _, value_at, _ = _element(start, 132, _EXPLICIT)
        (group_length,) = struct.unpack_from("<I", start, value_at)
        end = value_at + 4 + group_length
        found = _walk(start[:end], _EXPLICIT, _META_TAGS, 0x0002FFFF, whole=True, start=value_at + 4)
    except (struct.error, _NotUnderstood):
        raise InvalidObject("the file meta information cannot be read") from None
    text = {keyword: _ascii(value) for keyword, value in found.items()}
    address = text.get("SourcePresentationAddress", "").removeprefix("tcp://").strip("[]")
    envelope = Envelope(
        sop_class_uid=text.get("MediaStorageSOPClassUID", ""),
        sop_instance_uid=text.get("MediaStorageSOPInstanceUID", ""),
        transfer_syntax_uid=text.get("TransferSyntaxUID", ""),
        calling_ae_title=text.get("SourceApplicationEntityTitle", ""),
        peer_address=address,
    )
    return envelope, end


_META_TAGS = {
    0x00020002: "MediaStorageSOPClassUID",
    0x00020003: "MediaStorageSOPInstanceUID",
    0x00020010: "TransferSyntaxUID",
    0x00020016: "SourceApplicationEntityTitle",
    0x00020026: "SourcePresentationAddress",
}


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
    encoding = _encoding_of(transfer_syntax_uid)
    deflated = transfer_syntax_uid == DeflatedExplicitVRLittleEndian
    while True:
        whole = len(data) >= source.size_bytes
        try:
            raw = _walk(_inflated(data) if deflated else data, encoding, _KEYWORD_OF_TAG, _LAST_TAG, whole=whole)
        except _NeedMoreBytes:
            data = source.read(max(len(data), 4096) * 8)
            continue
        except _NotUnderstood:
            break
        if all(keyword in raw for keyword in _UID_KEYWORDS):
            own = _decoded({keyword: raw.pop(keyword) for keyword in _OWN_KEYWORDS if keyword in raw}, encoding)
            if sum(map(len, raw.values())) <= _LONGEST_KEPT_BYTES:
                return own, _common_of(tuple(raw.items()), transfer_syntax_uid)
            return own, _common(_decoded(raw, encoding))
        break
    start = source.read(min(source.size_bytes, _LONGEST_HEADER_BYTES))
    values = _forgiving_values(start, transfer_syntax_uid, tuple(_KEYWORD_OF_TAG.values()))
    return {keyword: values[keyword] for keyword in _OWN_KEYWORDS}, _common(values)


# To decode the texts of a header takes longer than to find them.
@lru_cache(maxsize=32)
def _common_of(raw: tuple[tuple[str, bytes], ...], transfer_syntax_uid: str) -> _Common:
    return _common(_decoded(dict(raw), _encoding_of(transfer_syntax_uid)))


def _decoded(raw: Mapping[str, bytes], encoding: _Encoding) -> dict[str, Any]:
    encodings = _encodings(_ascii(raw.get("SpecificCharacterSet", b"")))
    values: dict[str, Any] = {}
    for keyword, value in raw.items():
        if keyword == "ProcedureCodeSequence":
            values[keyword] = _codes(value, encoding, encodings)
        elif keyword in {"Rows", "Columns"}:
            values[keyword] = str(int.from_bytes(value[:2], "big" if encoding.big_endian else "little"))
        elif keyword in {"PatientName", "ReferringPhysicianName"}:
            values[keyword] = _clean(_person_name(value, encodings))
        else:
            values[keyword] = _clean(_text(value, encodings))
    return values


def _codes(value: bytes, encoding: _Encoding, encodings: list[str]) -> tuple[CodedConcept, ...]:
    """Read the items of a code sequence (PS3.3 8.8); an item that cannot be read is left out."""
    concepts = []
    position = 0
    try:
        while position + 8 <= len(value):
            tag, item_at, length = _element(value, position, encoding)
            if tag != _ITEM:
                break
            if length == _UNDEFINED:
                # The item ends where its delimiter stands: walk it as a data set of its own.
                position = _end_of_item(value, item_at, encoding, 0)
                item = value[item_at : position - 8]
            else:
                position = item_at + length
                item = value[item_at:position]
            found = _walk(item, encoding, _CODE_TAGS, 0x0040FFFF, whole=True)
            texts = {keyword: _clean(_text(code, encodings)) for keyword, code in found.items()}
            concepts.append(_concept(texts))
    except (struct.error, _NotUnderstood):
        pass
    return tuple(concept for concept in concepts if concept.value)


def _concept(texts: Mapping[str, str]) -> CodedConcept:
    value = texts.get("CodeValue") or texts.get("LongCodeValue") or texts.get("URNCodeValue") or ""
    return CodedConcept(
        value=value, scheme=texts.get("CodingSchemeDesignator", ""), meaning=texts.get("CodeMeaning", "")
    )


def _forgiving_values(data: bytes, transfer_syntax_uid: str, keywords: Sequence[str]) -> dict[str, Any]:
    """Let pydicom try; what it cannot read either is absent.

    Raises
    ------
    InvalidObject
        When pydicom finds no data set at all.
    """
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        data = _inflated(data)
    encoding = _encoding_of(transfer_syntax_uid)
    try:
        dataset = read_dataset(
            io.BytesIO(data),
            is_implicit_VR=encoding.implicit,
            is_little_endian=not encoding.big_endian,
            stop_when=lambda tag, _vr, _length: tag >= _FIRST_PIXEL_TAG,
        )
    # pydicom names no common ancestor of what damaged data makes it raise.
    except Exception:  # noqa: BLE001
        raise InvalidObject("the data set cannot be read") from None
    return {keyword: _forgiving_value(dataset, keyword) for keyword in keywords}


def _forgiving_value(dataset: Dataset, keyword: str) -> Any:
    try:
        value = dataset.get(keyword, "")
        if isinstance(value, DicomSequence):
            concepts = (_concept({name: _clean(str(item.get(name, ""))) for name in _CODE_KEYWORDS}) for item in value)
            return tuple(concept for concept in concepts if concept.value)
        if not isinstance(value, str) and isinstance(value, Sequence):
            value = "\\".join(map(str, value))
        return _clean("" if value is None else str(value))
    # One damaged value costs itself, not the object.
    except Exception:  # noqa: BLE001
        return ""


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


@lru_cache(maxsize=64)
def _encodings(character_sets: str) -> list[str]:
    """Turn defined terms into codec names; an unknown term counts as the default repertoire."""
    known = [term.strip() if term.strip() in charset.python_encoding else "" for term in character_sets.split("\\")]
    # pydicom warns about combinations it mends itself.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(charset.convert_encodings(known))


def _text(value: bytes, encodings: list[str]) -> str:
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    try:
        return charset.decode_bytes(value, encodings, {0x09, 0x0A, 0x0C, 0x0D, 0x5C})
    except (LookupError, UnicodeError, ValueError, Warning):
        return value.decode("latin-1")


def _person_name(value: bytes, encodings: list[str]) -> str:
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    try:
        return str(PersonName(value, encodings))
    except (LookupError, UnicodeError, ValueError, Warning):
        return value.decode("latin-1")


def _ascii(value: bytes) -> str:
    return value.decode("latin-1").strip(" \x00")


def _clean(text: str) -> str:
    # PS3.5 6.2: spaces around a value are padding. Control characters and lone surrogates cannot be stored.
    return _CONTROL.sub("", text).strip(" ")[:_LONGEST_TEXT]
