"""The element that carries the pixels, where a reader of the header has stopped (PS3.5 7.1)."""

import struct
from dataclasses import dataclass
from io import SEEK_END
from typing import BinaryIO

from codestreams.elements import PIXEL_TAGS, UNDEFINED

_KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
#: PS3.5 7.1.2: these have a reserved field and a 32-bit length.
_VRS = frozenset({b"OB", b"OW", b"OF", b"OD", b"UN"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelElement:
    """Where the pixels of a file are."""

    keyword: str
    #: As written; OW in implicit VR (PS3.5 A.1).
    vr: str
    #: Of its value in the file.
    offset: int
    #: Of its value as stated; None where it is encapsulated.
    length: int | None
    #: Bytes of its value that exist; of one that is encapsulated, all to the end of the file.
    available: int


def find_pixel_element(file: BinaryIO, *, little_endian: bool) -> PixelElement | None:
    """Describe the element that begins here; None where it carries no pixels, or the file ends."""
    order = "<" if little_endian else ">"
    start = file.read(8)
    if len(start) < 8:
        return None
    group, element = struct.unpack(f"{order}HH", start[:4])
    tag = group << 16 | element
    if tag not in PIXEL_TAGS:
        return None
    # Some files change to implicit VR on their way, so the bytes are asked and not the transfer syntax.
    if start[4:6] in _VRS:
        vr, stated = start[4:6].decode("ascii"), file.read(4)
    else:
        vr, stated = "OW", start[4:]
    if len(stated) < 4:
        return None
    length = struct.unpack(f"{order}L", stated)[0]
    offset = file.tell()
    available = file.seek(0, SEEK_END) - offset
    if length == UNDEFINED:
        return PixelElement(keyword=_KEYWORDS[tag], vr=vr, offset=offset, length=None, available=available)
    return PixelElement(keyword=_KEYWORDS[tag], vr=vr, offset=offset, length=length, available=min(available, length))
