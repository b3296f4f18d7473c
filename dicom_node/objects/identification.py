"""The three UIDs of an instance, and the reader that forgives what the walk does not understand.

pydicom forgives more and costs thirty times as much, so it comes second.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from casebook.errors import InvalidObject
from dicom_node.objects.codes import CODE_KEYWORDS, concept_of
from dicom_node.objects.elements import (
    FIRST_PIXEL_TAG,
    LONGEST_HEADER_BYTES,
    NeedMoreBytes,
    NotUnderstood,
    encoding_of,
    inflate,
    tags_of,
    walk,
)
from dicom_node.objects.file_meta import require_uid
from dicom_node.objects.text import clean_value, decode_ascii

UID_KEYWORDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_IDENTIFYING_TAGS = tags_of(UID_KEYWORDS)
_LAST_IDENTIFYING_TAG = max(_IDENTIFYING_TAGS)


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
        forgiven = forgiving_values(read_back(min(size_bytes, LONGEST_HEADER_BYTES)), transfer_syntax_uid, UID_KEYWORDS)
        values = {keyword: str(forgiven.get(keyword, "")).encode("ascii", "replace") for keyword in UID_KEYWORDS}
    sop, study, series = (require_uid(decode_ascii(values[keyword])) for keyword in UID_KEYWORDS)
    return Identification(sop_instance_uid=sop, study_instance_uid=study, series_instance_uid=series)


def forgiving_values(data: bytes, transfer_syntax_uid: str, keywords: Sequence[str]) -> dict[str, Any]:
    """Let pydicom try; what it cannot read either is absent.

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
    return {keyword: _forgiving_value(dataset, keyword) for keyword in keywords}


def _forgiving_value(dataset: Dataset, keyword: str) -> Any:
    try:
        value = dataset.get(keyword, "")
        if isinstance(value, DicomSequence):
            concepts = (
                concept_of({name: clean_value(str(item.get(name, ""))) for name in CODE_KEYWORDS}) for item in value
            )
            return tuple(concept for concept in concepts if concept.value)
        if not isinstance(value, str) and isinstance(value, Sequence):
            value = "\\".join(map(str, value))
        return clean_value("" if value is None else str(value))
    # One damaged value costs itself, not the object.
    except Exception:  # noqa: BLE001
        return ""
