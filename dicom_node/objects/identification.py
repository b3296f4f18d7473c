"""The three UIDs of an instance, and the reader that forgives what the walk does not understand.

pydicom forgives more and costs thirty times as much, so it comes second.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from casebook.errors import InvalidObject
from casebook.identity import IDENTITY, KEYWORDS
from casebook.study import CodedConcept, PatientIdentity, StudyHeader
from dicom_node.objects.codes import CODE_KEYWORDS, concept_of, read_codes
from dicom_node.objects.elements import (
    FIRST_PIXEL_TAG,
    LONGEST_HEADER_BYTES,
    Encoding,
    NeedMoreBytes,
    NotUnderstood,
    encoding_of,
    inflate,
    tags_of,
    walk,
)
from dicom_node.objects.file_meta import require_uid
from dicom_node.objects.text import CharacterSet, character_set, decode_ascii, descriptive_text, identifying_text

UID_KEYWORDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_SOP_CLASS = "SOPClassUID"
_IDENTIFYING_TAGS = tags_of((*UID_KEYWORDS, _SOP_CLASS))
_LAST_IDENTIFYING_TAG = max(_IDENTIFYING_TAGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """The three UIDs without which an object is refused."""

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    #: Of the data set; empty where it states none.
    sop_class_uid: str = ""


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
            plain = inflate(data) if transfer_syntax_uid == DeflatedExplicitVRLittleEndian else data
            values = walk(
                plain, encoding_of(transfer_syntax_uid), _IDENTIFYING_TAGS, _LAST_IDENTIFYING_TAG, whole=whole
            )
            break
        except NeedMoreBytes:
            data = read_back(min(size_bytes, max(len(data), 4096) * 16))
        except NotUnderstood:
            break
    if any(keyword not in values for keyword in UID_KEYWORDS):
        keywords = (*UID_KEYWORDS, _SOP_CLASS)
        forgiven = forgiving_values(read_back(min(size_bytes, LONGEST_HEADER_BYTES)), transfer_syntax_uid, keywords)
        values = {keyword: forgiven.raw.get(keyword, b"") for keyword in keywords}
    sop, study, series = (require_uid(decode_ascii(values[keyword])) for keyword in UID_KEYWORDS)
    return Identification(
        sop_instance_uid=sop,
        study_instance_uid=study,
        series_instance_uid=series,
        sop_class_uid=decode_ascii(values.get(_SOP_CLASS, b"")).strip("\0 "),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgivenValues:
    """What pydicom could find of a data set."""

    #: Keyword -> the bytes of its value.
    raw: dict[str, bytes]
    #: Keyword -> the items of a code sequence.
    concepts: dict[str, tuple[CodedConcept, ...]]


def forgiving_values(data: bytes, transfer_syntax_uid: str, keywords: Sequence[str]) -> ForgivenValues:
    """Let pydicom find the elements, not decode them; what it cannot find either is absent.

    Raises
    ------
    InvalidObject
        When pydicom finds no data set at all.
    """
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        data = inflate(data)
    encoding = encoding_of(transfer_syntax_uid)
    try:
        dataset = read_dataset(
            io.BytesIO(data),
            is_implicit_VR=encoding.implicit,
            is_little_endian=not encoding.big_endian,
            stop_when=lambda tag, _vr, _length: tag >= FIRST_PIXEL_TAG,
        )
    # pydicom names no common ancestor of what damaged data makes it raise.
    except Exception:  # noqa: BLE001
        raise InvalidObject("the data set cannot be read") from None
    characters = character_set(decode_ascii(raw_value(dataset, "SpecificCharacterSet")))
    found = {keyword: raw_value(dataset, keyword) for keyword in keywords if keyword in dataset}
    concepts = {keyword: _concepts(dataset, keyword, encoding, characters) for keyword in found}
    return ForgivenValues(raw=found, concepts={keyword: some for keyword, some in concepts.items() if some})


def raw_value(dataset: Dataset, keyword: str) -> bytes:
    """Return the bytes of a value that pydicom has read and not looked at yet; empty where there are none.

    Raises
    ------
    InvalidObject
        When it has looked at it, so that the bytes are lost.
    """
    if keyword not in dataset:
        return b""
    # Otherwise pydicom looks at a value without bytes, which it takes for one left in the file, and fails on its VR.
    value = dataset.get_item(keyword, keep_deferred=True).value
    if isinstance(value, bytes):
        return value
    if isinstance(value, DicomSequence) or not value:
        return b""
    # SpecificCharacterSet is the one element that it looks at at once.
    text = value if isinstance(value, str) or not isinstance(value, Iterable) else "\\".join(map(str, value))
    if keyword == "SpecificCharacterSet":
        return str(text).encode("ascii", "replace")
    if not str(text).isascii():
        raise InvalidObject(f"the bytes of {keyword} are lost")
    return str(text).encode("ascii")


def whose(dataset: Dataset) -> StudyHeader:
    """Return what a data set says of whose it is, from its bytes: what identifies, and nothing else.

    Parameters
    ----------
    dataset
        As pydicom read it, its values not looked at yet.
    """
    raw = {keyword: raw_value(dataset, keyword) for keyword in KEYWORDS.values() if keyword in dataset}
    return identified(raw, character_set(decode_ascii(raw_value(dataset, "SpecificCharacterSet"))))


def identified(raw: Mapping[str, bytes], characters: CharacterSet, *, set_for: str = "") -> StudyHeader:
    """Return a header with what identifies, from its bytes by keyword, and nothing else.

    Parameters
    ----------
    set_for
        AE title of the sender that the character set was set for.
    """
    found = {
        name: identifying_text(keyword, raw[keyword], characters, set_for=set_for)
        for name, keyword in KEYWORDS.items()
        if keyword in raw
    }
    exact = {name: one.text or "" for name, one in found.items()}
    return StudyHeader(
        identity=PatientIdentity(**{name: exact[name] for name in IDENTITY if name in exact}),
        patient_name=exact.get("patient_name", ""),
        referring_physician_name=exact.get("referring_physician_name", ""),
        identifying=tuple(found.values()),
    )


def _concepts(dataset: Dataset, keyword: str, encoding: Encoding, characters: CharacterSet) -> tuple[CodedConcept, ...]:
    if dictionary_VR(keyword) != "SQ":
        return ()
    try:
        value = dataset[keyword].value
        items = (
            concept_of({name: descriptive_text(raw_value(item, name), characters) for name in CODE_KEYWORDS})
            for item in value
        )
        return tuple(concept for concept in items if concept.value)
    # One damaged value costs itself, not the object.
    except Exception:  # noqa: BLE001
        return read_codes(raw_value(dataset, keyword), encoding, characters)
