"""The elements of a data set where they lie: a walk that takes only the wanted ones (PS3.5 7).

It never looks at pixels; what it does not understand, its caller may give to a reader that forgives more.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from codestreams.bounds import HEADER_BOUNDS

#: PS3.5 A.1 to A.3 and A.5.
IMPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
#: Value representations with a 32-bit length after two reserved bytes (PS3.5 7.1.2).
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
#: All others (PS3.5 table 6.2-1).
SHORT_VRS = frozenset(
    {
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
        b"ST", b"TM", b"UI", b"UL", b"US",
    }
)  # fmt: skip
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
FIRST_PIXEL_TAG = 0x7FE00000
#: The elements that can carry pixels: Float Pixel Data, Double Float Pixel Data, Pixel Data.
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})


class NeedMoreBytes(Exception):
    """The wanted elements are not all in the bytes at hand."""


class NotUnderstood(Exception):
    """The walk met something that only pydicom may forgive."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are laid out: PS3.5 7.1 and annex A."""

    implicit: bool
    big_endian: bool
    tag: struct.Struct
    #: Tag, VR and 16-bit length in one call.
    explicit_header: struct.Struct
    long_length: struct.Struct


def _encoding(*, implicit: bool, big_endian: bool) -> Encoding:
    order = ">" if big_endian else "<"
    return Encoding(
        implicit, big_endian, struct.Struct(f"{order}HH"), struct.Struct(f"{order}HH2sH"), struct.Struct(f"{order}I")
    )


IMPLICIT = _encoding(implicit=True, big_endian=False)
EXPLICIT = _encoding(implicit=False, big_endian=False)
_EXPLICIT_BIG_ENDIAN = _encoding(implicit=False, big_endian=True)


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """Say how the elements of a transfer syntax are laid out."""
    if transfer_syntax_uid == IMPLICIT_LITTLE_ENDIAN:
        return IMPLICIT
    return _EXPLICIT_BIG_ENDIAN if transfer_syntax_uid == EXPLICIT_BIG_ENDIAN else EXPLICIT


def walk(
    data: bytes | memoryview,
    encoding: Encoding,
    wanted: Mapping[int, str],
    last_tag: int,
    *,
    whole: bool,
    start: int = 0,
) -> dict[str, bytes]:
    """Collect the raw values of wanted elements, up to a tag or to the pixels.

    An element that stands there twice with different values has both, with a backslash between them.

    Raises
    ------
    NeedMoreBytes
        When the bytes end before that and are not the whole data set.
    NotUnderstood
        When an element has no plausible form.
    """
    found: dict[str, bytes] = {}
    position, end = start, len(data)
    is_implicit, read_header = encoding.implicit, encoding.explicit_header.unpack_from
    try:
        while position < end:
            # The common case of `element_at`, in place: this loop runs before every acknowledgement.
            if not is_implicit:
                group, element, vr, length = read_header(data, position)
                tag = group << 16 | element
                value_at = position + 8
                if vr not in SHORT_VRS:
                    tag, value_at, length = element_at(data, position, encoding)
            else:
                tag, value_at, length = element_at(data, position, encoding)
            if tag > last_tag or tag >= FIRST_PIXEL_TAG:
                return found
            keyword = wanted.get(tag)
            if length == UNDEFINED:
                after = _skip_undefined(data, value_at, _inside(data, position, encoding), 0)
                if keyword:
                    found[keyword] = bytes(data[value_at:after])
                position = after
                continue
            position = value_at + length
            if keyword:
                if position > end:
                    raise NeedMoreBytes
                value = bytes(data[value_at:position])
                found[keyword] = both(found[keyword], value) if keyword in found else value
    except struct.error:
        raise (NotUnderstood if whole else NeedMoreBytes) from None
    except NeedMoreBytes:
        if whole:
            raise NotUnderstood from None
        raise
    if whole:
        return found
    raise NeedMoreBytes


def both(one: bytes, other: bytes) -> bytes:
    """Return the value of an element that stands there twice, against PS3.5 7.1: two values where they differ.

    One reader would take the first and the next one the last, so neither may be chosen here.
    """
    if one.rstrip(b" \x00") == other.rstrip(b" \x00"):
        return one
    # The blank ends a letter of two bytes that lacks its second one.
    return one + b" \\" + other


def element_at(data: bytes | memoryview, position: int, encoding: Encoding) -> tuple[int, int, int]:
    """Return tag, offset of the value and its length (PS3.5 7.1)."""
    group, element = encoding.tag.unpack_from(data, position)
    tag = group << 16 | element
    if encoding.implicit or group == 0xFFFE:
        (length,) = encoding.long_length.unpack_from(data, position + 4)
        return tag, position + 8, length
    _, _, vr, length = encoding.explicit_header.unpack_from(data, position)
    if vr in SHORT_VRS:
        return tag, position + 8, length
    if vr not in LONG_VRS:
        raise NotUnderstood
    (length,) = encoding.long_length.unpack_from(data, position + 8)
    return tag, position + 12, length


def _inside(data: bytes | memoryview, position: int, encoding: Encoding) -> Encoding:
    # PS3.5 6.2.2: a value of unknown VR and undefined length is a sequence in implicit VR little endian.
    is_unknown = not encoding.implicit and bytes(data[position + 4 : position + 6]) == b"UN"
    return IMPLICIT if is_unknown else encoding


def _skip_undefined(data: bytes | memoryview, position: int, encoding: Encoding, depth: int) -> int:
    """Return the offset after a sequence of undefined length (PS3.5 7.5)."""
    if depth > HEADER_BOUNDS.deepest_sequence:
        raise NotUnderstood
    while True:
        tag, position, length = element_at(data, position, encoding)
        if tag == SEQUENCE_END:
            return position
        if tag != ITEM:
            raise NotUnderstood
        if length != UNDEFINED:
            position += length
            continue
        position = end_of_item(data, position, encoding, depth)


def end_of_item(data: bytes | memoryview, position: int, encoding: Encoding, depth: int) -> int:
    """Return the offset after the delimiter of an item of undefined length (PS3.5 7.5.1)."""
    while True:
        tag, value_at, length = element_at(data, position, encoding)
        if tag == ITEM_END:
            return value_at
        if length == UNDEFINED:
            position = _skip_undefined(data, value_at, _inside(data, position, encoding), depth + 1)
        else:
            position = value_at + length
