"""The header of a file, element by element and within bounds: long values are passed by their length (PS3.5 7.1).

Nothing here trusts a length: what a reader may take into memory is counted before it does.
"""

import struct
from collections.abc import Collection, Mapping
from io import SEEK_CUR
from typing import BinaryIO

from casebook.errors import OverBounds
from codestreams.bounds import HEADER_BOUNDS, HeaderBounds
from codestreams.elements import (
    FIRST_PIXEL_TAG,
    IMPLICIT,
    ITEM,
    ITEM_END,
    LONG_VRS,
    PIXEL_TAGS,
    SEQUENCE_END,
    SHORT_VRS,
    UNDEFINED,
    Encoding,
    NotUnderstood,
    both,
)

#: No VR at all is implicit VR.
_MAYBE_SEQUENCES = frozenset({b"", b"SQ", b"UN"})
_ITEM_BYTES = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")


def find_values(
    file: BinaryIO,
    encoding: Encoding,
    wanted: Mapping[int, str],
    last_tag: int,
    bounds: HeaderBounds = HEADER_BOUNDS,
) -> dict[str, bytes]:
    """Collect the raw values of wanted elements, up to a tag or to the pixels, as `elements.walk` does.

    Parameters
    ----------
    file
        At the beginning of a data set.

    Raises
    ------
    OverBounds
        When they do not stand within the bounds, or one is too long.
    NotUnderstood
        When an element has no plausible form.
    """
    walk, found = _Walk(file, bounds), dict[str, bytes]()
    while (element := walk.next_element(encoding)) is not None:
        tag, vr, length = element
        if tag > last_tag or tag >= FIRST_PIXEL_TAG:
            break
        keyword = wanted.get(tag)
        if length == UNDEFINED:
            start = file.tell()
            walk.pass_sequence(_inside(vr, encoding), 0)
            value = _between(file, start, bounds) if keyword else b""
        elif keyword:
            value = walk.value(length)
        else:
            file.seek(length, SEEK_CUR)
        if keyword:
            found[keyword] = both(found[keyword], value) if keyword in found else value
    return found


def require_bounded(
    file: BinaryIO,
    encoding: Encoding,
    *,
    sequences: Collection[int],
    bounds: HeaderBounds = HEADER_BOUNDS,
) -> None:
    """Refuse a header that would take more memory than the bounds allow, once a reader has taken it apart.

    It ends before the pixels, or with the file where there are none.

    Parameters
    ----------
    file
        At the beginning of a data set.
    sequences
        Tags that are sequences by the dictionary, whose elements are counted although no VR says so.

    Raises
    ------
    OverBounds
    NotUnderstood
        When an element has no plausible form, so that nothing can be counted.
    """
    walk = _Walk(file, bounds)
    while (element := walk.next_element(encoding)) is not None:
        tag, vr, length = element
        if tag in PIXEL_TAGS:
            return
        if length == UNDEFINED:
            start = file.tell()
            walk.pass_sequence(_inside(vr, encoding), 0, counts=_counts(vr, sequences))
            walk.take(file.tell() - start)
        elif length <= bounds.longest_value_bytes:
            walk.take(length)
            walk.pass_value(tag, vr, length, encoding, 0, sequences)
        else:
            file.seek(length, SEEK_CUR)


class _Walk:
    """A place in a header, and how much of it may still come."""

    def __init__(self, file: BinaryIO, bounds: HeaderBounds) -> None:
        self._file = file
        self._bounds = bounds
        self._elements_left = bounds.most_elements
        self._bytes_left = bounds.longest_bytes

    def take(self, size_bytes: int) -> None:
        """Count what a reader would hold of it."""
        self._bytes_left -= size_bytes
        if self._bytes_left < 0:
            raise OverBounds

    def next_element(self, encoding: Encoding) -> tuple[int, bytes, int] | None:
        """Return tag, VR and length of the next element, at its value; None at the end of the file."""
        head = self._file.read(8)
        if len(head) < 8:
            if head:
                raise NotUnderstood
            return None
        self._elements_left -= 1
        if self._elements_left < 0:
            raise OverBounds
        group, element = encoding.tag.unpack_from(head)
        tag = group << 16 | element
        if encoding.implicit or group == 0xFFFE:
            return tag, b"", encoding.long_length.unpack_from(head, 4)[0]
        _, _, vr, length = encoding.explicit_header.unpack(head)
        if vr in SHORT_VRS:
            return tag, vr, length
        if vr not in LONG_VRS:
            raise NotUnderstood
        try:
            return tag, vr, encoding.long_length.unpack(self._file.read(4))[0]
        except struct.error:
            raise NotUnderstood from None

    def value(self, length: int) -> bytes:
        """Read a value that is wanted."""
        if length > self._bounds.longest_value_bytes:
            raise OverBounds
        self.take(length)
        value = self._file.read(length)
        if len(value) < length:
            raise NotUnderstood
        return value

    def pass_value(
        self, tag: int, vr: bytes, length: int, encoding: Encoding, depth: int, counts: Collection[int]
    ) -> None:
        """Pass a value of known length; count its elements where a reader would take it for a sequence."""
        start = self._file.tell()
        if length and vr in _MAYBE_SEQUENCES:
            begins = self._file.read(4)
            self._file.seek(start)
            is_sequence = vr == b"SQ" or tag in counts
            if begins in _ITEM_BYTES or is_sequence:
                self._pass_items(start + length, encoding, depth, counts)
        self._file.seek(start + length)

    def pass_sequence(self, encoding: Encoding, depth: int, counts: Collection[int] | None = None) -> None:
        """Pass a sequence of undefined length (PS3.5 7.5); with `counts`, count what its items hold."""
        self._pass_items(None, encoding, depth, counts)

    def _pass_items(self, end: int | None, encoding: Encoding, depth: int, counts: Collection[int] | None) -> None:
        if depth > self._bounds.deepest_sequence:
            raise OverBounds
        while end is None or self._file.tell() < end:
            element = self.next_element(encoding)
            if element is None:
                raise NotUnderstood
            tag, _, length = element
            if tag == SEQUENCE_END:
                return
            if tag != ITEM:
                raise NotUnderstood
            if length == UNDEFINED:
                self._pass_item(None, encoding, depth, counts)
            elif counts is None:
                self._file.seek(length, SEEK_CUR)
            else:
                self._pass_item(self._file.tell() + length, encoding, depth, counts)

    def _pass_item(self, end: int | None, encoding: Encoding, depth: int, counts: Collection[int] | None) -> None:
        while end is None or self._file.tell() < end:
            element = self.next_element(encoding)
            if element is None:
                raise NotUnderstood
            tag, vr, length = element
            if tag == ITEM_END:
                return
            if length == UNDEFINED:
                inner = None if counts is None else _counts(vr, counts)
                self._pass_items(None, _inside(vr, encoding), depth + 1, inner)
            elif counts is None:
                self._file.seek(length, SEEK_CUR)
            else:
                self.pass_value(tag, vr, length, encoding, depth + 1, counts)


def _counts(vr: bytes, sequences: Collection[int]) -> Collection[int] | None:
    # The items of any other VR are fragments (PS3.5 A.4), and hold no elements.
    return sequences if vr in _MAYBE_SEQUENCES else None


def _inside(vr: bytes, encoding: Encoding) -> Encoding:
    # PS3.5 6.2.2: a value of unknown VR and undefined length is a sequence in implicit VR little endian.
    return IMPLICIT if vr == b"UN" else encoding


def _between(file: BinaryIO, start: int, bounds: HeaderBounds) -> bytes:
    end = file.tell()
    if end - start > bounds.longest_value_bytes:
        raise OverBounds
    file.seek(start)
    return file.read(end - start)
