"""The duplicate rule: is a repeated SOP Instance UID the same picture of the same patient.

Same identity and same decoded pixels, in whatever transfer syntax and with whatever header edits: a variant,
kept and never read. Anything else: a conflict that a person has to see. The first copy is never touched.
"""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.pixels.utils import iter_pixels

from casebook.case import Case
from casebook.errors import InvalidObject, Retryable
from casebook.outcomes import Classed
from casebook.settings import Settings
from casebook.study import Instance, changes

_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
#: Beside the stored values, these say what the picture shows (PS3.3 C.7.6.3, C.11.1).
_PICTURE_KEYWORDS = ("Rows", "Columns", "PixelRepresentation", "RescaleSlope", "RescaleIntercept")
#: Attributes in these groups are the header that archives correct; the content of a non-image lies elsewhere.
_HEADER_GROUPS = frozenset({0x0008, 0x0010, 0x0020, 0x0032, 0x0038})
_DECODER = "pylibjpeg"
_MONOCHROME = frozenset({"MONOCHROME1", "MONOCHROME2"})


def classify(case: Case, settings: Settings) -> Classed:
    """Compare a repeated object with the first copy.

    Raises
    ------
    InvalidObject
        When the case holds no repeated object or no first copy of it.
    Retryable
        When the disk does not give a copy out now.
    """
    repeated = case.repeated
    if repeated is None:
        raise InvalidObject("the case has no repeated object")
    first = _first_copy(case, repeated)
    if changes(first.header, repeated.header):
        return Classed(is_variant=False, reason="other_identity")
    if first.sop_class_uid != repeated.sop_class_uid:
        return Classed(is_variant=False, reason="other_sop_class")
    paths = (settings.data_directory / first.path, settings.data_directory / repeated.path)
    try:
        one, other = (_read(path) for path in paths)
    except _Unreadable:
        return Classed(is_variant=False, reason="unreadable")
    if one.get("StudyInstanceUID") != other.get("StudyInstanceUID"):
        return Classed(is_variant=False, reason="other_study")
    has_pixels = [any(keyword in dataset for keyword in _PIXEL_KEYWORDS) for dataset in (one, other)]
    if has_pixels == [False, False]:
        return _classed(_content(one) == _content(other), "other_content")
    if has_pixels != [True, True] or _picture(one) != _picture(other):
        return Classed(is_variant=False, reason="other_pixels")
    return _classed(_same_pixels(one, other), "other_pixels")


def _classed(is_same: bool, reason: str) -> Classed:  # noqa: FBT001 - the verdict itself
    return Classed(is_variant=True) if is_same else Classed(is_variant=False, reason=reason)


def _first_copy(case: Case, repeated: Instance) -> Instance:
    for instance in case.instances:
        if instance.sop_instance_uid == repeated.sop_instance_uid and instance.path != repeated.path:
            return instance
    raise InvalidObject("the case has no first copy of the repeated object")


class _Unreadable(InvalidObject):
    """The file cannot be read."""


def _read(path: Path) -> Dataset:
    try:
        return dcmread(path, defer_size=1 << 20)
    except (OSError, MemoryError):
        # The disk or this machine, not the object: a verdict would be one about neither.
        raise Retryable("a copy of the repeated object cannot be read now") from None
    # pydicom names no common ancestor of what damaged data makes it raise.
    except Exception:  # noqa: BLE001
        raise _Unreadable from None


def _picture(dataset: Dataset) -> tuple[Any, ...]:
    shown = str(dataset.get("PhotometricInterpretation", ""))
    # YBR and RGB name the same picture in another coding; the two monochromes are each other's negative.
    kind = shown if shown in _MONOCHROME or shown == "PALETTE COLOR" else "colour"
    values = (_number(dataset.get(keyword)) for keyword in _PICTURE_KEYWORDS)
    return (kind, str(dataset.get("NumberOfFrames") or 1), *values)


def _number(value: Any) -> float | None:
    # "1" and "1.0" are the same rescale slope.
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _content(dataset: Dataset) -> Dataset:
    kept = Dataset()
    for element in dataset:
        if element.tag.group not in _HEADER_GROUPS:
            kept[element.tag] = element
    return kept


def _same_pixels(one: Dataset, other: Dataset) -> bool:
    """Compare frame by frame, in constant memory; what no decoder can read has to be equal byte by byte."""
    try:
        frames = zip_longest(_frames(one), _frames(other))
        return all(a is not None and b is not None and np.array_equal(a, b) for a, b in frames)
    # Every decoder has errors of its own; the one for RLE panics past Exception.
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise Retryable("a copy of the repeated object cannot be read now") from None
        return _same_stored_bytes(one, other)


def _frames(dataset: Dataset) -> Iterator[np.ndarray[Any, Any]]:
    # Named, because pydicom would try GDCM first where it is installed, and GDCM ends the process on damage.
    plugin = _DECODER if dataset.file_meta.TransferSyntaxUID.is_encapsulated else ""
    return iter_pixels(dataset, raw=True, decoding_plugin=plugin)


def _same_stored_bytes(one: Dataset, other: Dataset) -> bool:
    if one.file_meta.TransferSyntaxUID != other.file_meta.TransferSyntaxUID:
        return False
    return all(one.get(keyword) == other.get(keyword) for keyword in _PIXEL_KEYWORDS)
