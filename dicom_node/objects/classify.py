"""The duplicate rule: is a repeated SOP Instance UID the same picture of the same patient.

Same identity and same decoded pixels, in whatever transfer syntax and with whatever header edits: a variant,
kept and never read. Anything else, a copy that is damaged among it: a conflict that a person has to see. The first
copy is never touched.
"""

import errno
from collections.abc import Iterator
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.pixels.utils import iter_pixels

from casebook.case import Case
from casebook.errors import InvalidObject, Retryable
from casebook.identity import changes
from casebook.outcomes import FIRST_COPY_UNREADABLE, UNREADABLE, Classed
from casebook.settings import Settings
from casebook.study import Instance
from codestreams.decoding import decode
from codestreams.description import describe
from codestreams.fragments import frame_fragments, join, list_items
from codestreams.part10 import without_foreign_meta

_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
#: Beside the stored values, these say what the picture shows (PS3.3 C.7.6.3, C.11.1).
_PICTURE_KEYWORDS = ("Rows", "Columns", "PixelRepresentation", "RescaleSlope", "RescaleIntercept")
#: Attributes in these groups are the header that archives correct; the content of a non-image lies elsewhere.
_HEADER_GROUPS = frozenset({0x0008, 0x0010, 0x0020, 0x0032, 0x0038})
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
    for path, reason in zip(paths, (FIRST_COPY_UNREADABLE, UNREADABLE), strict=True):
        if not _is_readable(path):
            return Classed(is_variant=False, reason=reason)
    return _compare(*(_read(path) for path in paths))


def _compare(one: Dataset, other: Dataset) -> Classed:
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


def _is_readable(path: Path) -> bool:
    """Say whether a copy is whole and can be read to its end, every element of it.

    Raises
    ------
    Retryable
        When the disk does not give it out now.
    """
    try:
        dataset = _read(path)
        if not _is_whole(dataset, path.stat().st_size):
            return False
        # pydicom turns bytes into values only when they are asked for; damage shows then.
        for _ in dataset.iterall():
            pass
    except Exception as error:  # noqa: BLE001 - pydicom names no common ancestor of what damaged data makes it raise
        if is_trouble_of_the_machine(error):
            raise Retryable("a copy of the repeated object cannot be read now") from None
        return False
    return True


def _is_whole(dataset: Dataset, size_bytes: int) -> bool:
    if "TransferSyntaxUID" not in dataset.file_meta or any(not dataset.get(keyword) for keyword in _NEVER_ABSENT):
        return False
    for element in dataset.values():
        if not isinstance(element, RawDataElement) or element.length == _UNDEFINED_LENGTH:
            continue
        # A long value is left in the file until it is asked for.
        there = size_bytes - element.value_tell if element.value is None else len(element.value)
        if there < element.length:
            return False
    return True


def is_trouble_of_the_machine(error: BaseException) -> bool:
    """Say whether reading failed because of the disk or this machine: a verdict would be one about neither.

    A damaged file makes pydicom raise an OSError of its own, which carries no number, and seek to places that do not
    exist, which the system refuses as an invalid argument.
    """
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _ERRORS_OF_DAMAGE
    return isinstance(error, MemoryError)


#: Without these no object is accepted; a copy that lost them was damaged on our disk.
_NEVER_ABSENT = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_UNDEFINED_LENGTH = 0xFFFFFFFF
_ERRORS_OF_DAMAGE = frozenset({errno.EINVAL, errno.EOVERFLOW, errno.EFBIG})


def _read(path: Path) -> Dataset:
    with path.open("rb") as opened:
        file = without_foreign_meta(opened)
        # A deferred value is read again from the path, so only a file that is read as it lies may defer any.
        return dcmread(path, defer_size=1 << 20) if file is opened else dcmread(file)


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
    # Every decoder has errors of its own.
    except Exception as error:  # noqa: BLE001
        if is_trouble_of_the_machine(error):
            raise Retryable("a copy of the repeated object cannot be read now") from None
        return _same_stored_bytes(one, other)


def _frames(dataset: Dataset) -> Iterator[np.ndarray[Any, Any]]:
    transfer_syntax_uid = dataset.file_meta.TransferSyntaxUID
    if not transfer_syntax_uid.is_encapsulated:
        yield from iter_pixels(dataset, raw=True)
        return
    # The decoders that the reader has, and none that pydicom would find first: GDCM ends the process on damage.
    described, source = describe(dataset), BytesIO(dataset.PixelData)
    for fragments in frame_fragments(source, list_items(source), int(dataset.get("NumberOfFrames") or 1)):
        yield decode(join(source, fragments), transfer_syntax_uid, described).values


def _same_stored_bytes(one: Dataset, other: Dataset) -> bool:
    if one.file_meta.TransferSyntaxUID != other.file_meta.TransferSyntaxUID:
        return False
    return all(one.get(keyword) == other.get(keyword) for keyword in _PIXEL_KEYWORDS)
