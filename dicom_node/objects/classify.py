"""The duplicate rule: is a repeated SOP Instance UID the same picture of the same patient.

Same identity and same decoded pixels, in whatever transfer syntax and with whatever header edits: a variant,
kept and never read. Anything else, a copy that is damaged among it: a conflict that a person has to see. The first
copy is never touched.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import SEEK_END
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options

from casebook.case import Case
from casebook.errors import InvalidObject, OverBounds, Retryable
from casebook.identity import changes
from casebook.outcomes import FIRST_COPY_UNREADABLE, UNREADABLE, Classed
from casebook.settings import Settings
from casebook.study import Instance
from codestreams.decoding import decode
from codestreams.description import Description, describe, photometric_interpretation
from codestreams.fragments import frame_fragments, join, list_items, refuse_long_stream
from codestreams.pixel_element import PixelElement, find_pixel_element
from codestreams.stored_file import is_trouble_of_the_machine, open_plain
from dicom_node.objects.stored_header import header_of

#: Beside the stored values, these say what the picture shows (PS3.3 C.7.6.3, C.11.1).
_PICTURE_KEYWORDS = ("Rows", "Columns", "PixelRepresentation", "RescaleSlope", "RescaleIntercept")
#: With these and its length, uncompressed pixel data is laid out alike.
_LAYOUT_KEYWORDS = ("BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PlanarConfiguration")
#: Attributes in these groups are the header that archives correct; the content of a non-image lies elsewhere.
_HEADER_GROUPS = frozenset({0x0008, 0x0010, 0x0020, 0x0032, 0x0038})
_MONOCHROME = frozenset({"MONOCHROME1", "MONOCHROME2"})
#: Two copies are compared in pieces, so that neither is in memory.
_PIECE_BYTES = 1 << 20


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
    copies = []
    for path, reason in zip(paths, (FIRST_COPY_UNREADABLE, UNREADABLE), strict=True):
        copy = _read(path)
        if copy is None:
            return Classed(is_variant=False, reason=reason)
        copies.append(copy)
    with _machine_troubles_apart():
        return _compare(copies[0], copies[1], settings.worker.max_image_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """One copy, without what is long in it."""

    path: Path
    #: Without its pixels, and without the values that are left in the file.
    header: Dataset
    #: None of an object without pixels.
    pixels: PixelElement | None
    #: Tag -> offset and length of a value that is left in the file.
    left: Mapping[int, tuple[int, int]]

    @property
    def is_encapsulated(self) -> bool:
        return bool(self.header.file_meta.TransferSyntaxUID.is_encapsulated)

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield a part of the file, piece by piece."""
        with open_plain(self.path, with_pixels=True) as plain:
            plain.file.seek(offset)
            while length > 0 and (piece := plain.file.read(min(length, _PIECE_BYTES))):
                yield piece
                length -= len(piece)


def _compare(one: _Copy, other: _Copy, max_frame_bytes: int) -> Classed:
    if one.header.get("StudyInstanceUID") != other.header.get("StudyInstanceUID"):
        return Classed(is_variant=False, reason="other_study")
    if one.pixels is None and other.pixels is None:
        return _classed(_same_content(one, other), "other_content")
    if one.pixels is None or other.pixels is None or _picture(one.header) != _picture(other.header):
        return Classed(is_variant=False, reason="other_pixels")
    return _classed(_same_pixels(one, other, max_frame_bytes), "other_pixels")


def _classed(is_same: bool, reason: str) -> Classed:  # noqa: FBT001 - the verdict itself
    return Classed(is_variant=True) if is_same else Classed(is_variant=False, reason=reason)


def _first_copy(case: Case, repeated: Instance) -> Instance:
    for instance in case.instances:
        if instance.sop_instance_uid == repeated.sop_instance_uid and instance.path != repeated.path:
            return instance
    raise InvalidObject("the case has no first copy of the repeated object")


def _read(path: Path) -> _Copy | None:
    """Read a copy, every element of its header; None where it is damaged or over the bounds.

    Raises
    ------
    Retryable
        When the disk does not give it out now.
    """
    try:
        with _machine_troubles_apart(), open_plain(path, with_pixels=True) as plain:
            header = header_of(plain)
            pixels = find_pixel_element(plain.file, little_endian=bool(header.original_encoding[1]))
            if not _is_whole(header, pixels, plain.file.seek(0, SEEK_END)):
                return None
            left = _take_out_what_is_left(header)
            # pydicom turns bytes into values only when they are asked for; damage shows then.
            for _ in header.iterall():
                pass
            return _Copy(path=path, header=header, pixels=pixels, left=left)
    except Retryable:
        raise
    except Exception:  # noqa: BLE001 - pydicom names no common ancestor of what damaged data makes it raise
        return None


@contextmanager
def _machine_troubles_apart() -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError) as error:
        if is_trouble_of_the_machine(error):
            raise Retryable("A stored copy of the repeated image cannot be read; the disk may be away.") from None
        raise


def _is_whole(header: Dataset, pixels: PixelElement | None, size_bytes: int) -> bool:
    if "TransferSyntaxUID" not in header.file_meta or any(not header.get(keyword) for keyword in _NEVER_ABSENT):
        return False
    if pixels is not None and pixels.length is not None and pixels.available < pixels.length:
        return False
    for element in header.values():
        if not isinstance(element, RawDataElement) or element.length == _UNDEFINED_LENGTH:
            continue
        # A long value is left in the file.
        value: bytes | None = element.value
        there = size_bytes - element.value_tell if value is None else len(value)
        if there < element.length:
            return False
    return True


def _take_out_what_is_left(header: Dataset) -> dict[int, tuple[int, int]]:
    left = {
        int(element.tag): (element.value_tell, element.length)
        for element in header.values()
        if isinstance(element, RawDataElement) and element.length > 0 and not isinstance(element.value, bytes)
    }
    for tag in left:
        del header[tag]
    return left


#: Without these no object is accepted; a copy that lost them was damaged on our disk.
_NEVER_ABSENT = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_UNDEFINED_LENGTH = 0xFFFFFFFF


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


def _same_content(one: _Copy, other: _Copy) -> bool:
    if _content(one.header) != _content(other.header):
        return False
    lefts = [{tag: at for tag, at in copy.left.items() if tag >> 16 not in _HEADER_GROUPS} for copy in (one, other)]
    return lefts[0].keys() == lefts[1].keys() and all(
        _same_bytes(one, lefts[0][tag], other, lefts[1][tag]) for tag in lefts[0]
    )


def _content(header: Dataset) -> Dataset:
    kept = Dataset()
    for element in header:
        if element.tag.group not in _HEADER_GROUPS:
            kept[element.tag] = element
    return kept


def _same_bytes(one: _Copy, at: tuple[int, int], other: _Copy, at_other: tuple[int, int]) -> bool:
    if at[1] != at_other[1]:
        return False
    return all(a == b for a, b in zip_longest(one.pieces(*at), other.pieces(*at_other)))


def _same_pixels(one: _Copy, other: _Copy, max_frame_bytes: int) -> bool:
    """Compare frame by frame, one frame in memory; what cannot be decoded has to be equal byte by byte."""
    if _has_same_layout(one, other) and _same_stored_bytes(one, other):
        return True
    try:
        frames = zip_longest(_frame_digests(one, max_frame_bytes), _frame_digests(other, max_frame_bytes))
        return all(a == b for a, b in frames)
    # Every decoder has errors of its own.
    except Exception as error:
        if is_trouble_of_the_machine(error):
            raise
        return _same_stored_bytes(one, other)


def _has_same_layout(one: _Copy, other: _Copy) -> bool:
    # Of compressed pixel data the damaged one has to be found, so it is decoded.
    layouts = [
        (copy.is_encapsulated, copy.header.original_encoding, *(copy.header.get(name) for name in _LAYOUT_KEYWORDS))
        for copy in (one, other)
    ]
    return not one.is_encapsulated and layouts[0] == layouts[1]


def _frame_digests(copy: _Copy, max_frame_bytes: int) -> Iterator[bytes]:
    pixels, described = copy.pixels, describe(copy.header)
    frame_bytes = described.rows * described.columns * described.samples_per_pixel * described.item_size
    if pixels is None or frame_bytes > max_frame_bytes:
        raise OverBounds
    with open_plain(copy.path, with_pixels=True) as plain:
        plain.file.seek(pixels.offset)
        frames = _encapsulated if copy.is_encapsulated else _native
        for frame in frames(plain.file, copy.header, pixels, described):
            yield _digest(frame)


def _encapsulated(
    file: BinaryIO, header: Dataset, pixels: PixelElement, described: Description
) -> Iterator[NDArray[Any]]:
    # The decoders that the reader has, and none that pydicom would find first: GDCM ends the process on damage.
    items = list_items(file, pixels.available)
    for fragments in frame_fragments(file, items, _frame_count(header)):
        refuse_long_stream(fragments, described)
        yield decode(join(file, fragments), header.file_meta.TransferSyntaxUID, described).values


def _native(file: BinaryIO, header: Dataset, pixels: PixelElement, described: Description) -> Iterator[NDArray[Any]]:
    vr = "OW" if described.bits_allocated > 8 else "OB"
    options = as_pixel_options(header) | {
        "pixel_keyword": pixels.keyword,
        "pixel_vr": vr if pixels.vr == "UN" else pixels.vr,
        "number_of_frames": _frame_count(header),
    }
    for frame, _ in get_decoder(header.file_meta.TransferSyntaxUID).iter_array(file, raw=True, **options):
        yield frame
    # More than the padding to an even length: nobody knows what that shows.
    if pixels.available > _native_bytes(header, described) + 1:
        raise InvalidObject("there is more pixel data than the header says")


def _native_bytes(header: Dataset, described: Description) -> int:
    samples = described.rows * described.columns * described.samples_per_pixel * _frame_count(header)
    size_bytes = -(-samples * described.bits_allocated // 8)
    # PS3.3 C.7.6.3.1.2: two samples a pixel.
    return size_bytes * 2 // 3 if photometric_interpretation(header) == "YBR_FULL_422" else size_bytes


def _frame_count(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _digest(frame: NDArray[Any]) -> bytes:
    """Return a digest of the values of a frame, whatever the size of its cells."""
    is_real = frame.dtype.kind == "f"
    digest = hashlib.blake2b(repr((frame.shape, is_real)).encode())
    rows_a_piece = max(1, _PIECE_BYTES // max(1, frame[:1].size * 8))
    for start in range(0, len(frame), rows_a_piece):
        piece = frame[start : start + rows_a_piece]
        digest.update(np.ascontiguousarray(piece, dtype="<f8" if is_real else "<i8").data)
    return digest.digest()


def _same_stored_bytes(one: _Copy, other: _Copy) -> bool:
    if one.pixels is None or other.pixels is None or one.pixels.keyword != other.pixels.keyword:
        return False
    if one.header.file_meta.TransferSyntaxUID != other.header.file_meta.TransferSyntaxUID:
        return False
    at, at_other = ((copy.offset, copy.available) for copy in (one.pixels, other.pixels))
    return _same_bytes(one, at, other, at_other)
