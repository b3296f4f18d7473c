"""A data set as bytes, element by element: what no DICOM library would write can be written here.

Only the top level is taken apart (PS3.5 7.1); sequences stay as they were encoded.
"""

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

#: Value representations with a 32-bit length after two reserved bytes (PS3.5 7.1.2).
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_PIXEL_DATA = 0x7FE00010
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One element with its value as it is written."""

    tag: int
    vr: bytes
    value: bytes
    #: The length is written as undefined, and the value ends itself.
    is_undefined: bool = False


@dataclass(slots=True, kw_only=True)
class RawDataSet:
    """The elements of a data set in the order of their tags."""

    transfer_syntax_uid: str
    elements: dict[int, Element] = field(default_factory=dict)

    def set(self, keyword: str, value: bytes, vr: str = "") -> None:
        """Write these bytes as the value of an element; an odd number of them is padded by its VR (PS3.5 6.2)."""
        tag = int(tag_for_keyword(keyword) or 0)
        used = vr or dictionary_VR(tag).split(" or ", maxsplit=1)[0]
        padding = b"\0" if used in {"UI", "OB", "UN"} else b" "
        self.elements[tag] = Element(tag=tag, vr=used.encode("ascii"), value=value + padding * (len(value) % 2))

    def remove(self, *keywords: str) -> None:
        """Leave elements out."""
        for keyword in keywords:
            self.elements.pop(int(tag_for_keyword(keyword) or 0), None)

    def set_encapsulated(self, items: bytes) -> None:
        """Write pixel data of undefined length; the items end themselves, or not (PS3.5 A.4)."""
        self.elements[_PIXEL_DATA] = Element(tag=_PIXEL_DATA, vr=b"OB", value=items, is_undefined=True)

    def set_native(self, value: bytes, vr: str = "OW") -> None:
        """Write plain pixel data, in the byte order of the transfer syntax."""
        self.elements[_PIXEL_DATA] = Element(
            tag=_PIXEL_DATA, vr=vr.encode("ascii"), value=value + b"\0" * (len(value) % 2)
        )

    def encode(self) -> bytes:
        """Return the bytes that go over the wire."""
        content = b"".join(self._encoded(self.elements[tag]) for tag in sorted(self.elements))
        if self.transfer_syntax_uid != DeflatedExplicitVRLittleEndian:
            return content
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        deflated = deflater.compress(content) + deflater.flush()
        return deflated + b"\0" * (len(deflated) % 2)

    def _encoded(self, element: Element) -> bytes:
        order = ">" if self.transfer_syntax_uid == ExplicitVRBigEndian else "<"
        length = _UNDEFINED if element.is_undefined else len(element.value)
        tag = struct.pack(f"{order}HH", element.tag >> 16, element.tag & 0xFFFF)
        if self.transfer_syntax_uid == ImplicitVRLittleEndian:
            return tag + struct.pack("<I", length) + element.value
        if element.vr in _LONG_VRS:
            return tag + element.vr + b"\0\0" + struct.pack(f"{order}I", length) + element.value
        return tag + element.vr + struct.pack(f"{order}H", length) + element.value


def take_apart(dataset: Dataset, transfer_syntax_uid: str) -> RawDataSet:
    """Encode a data set without its pixels in a transfer syntax and take the bytes apart."""
    syntax = UID(transfer_syntax_uid)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    header = Dataset({element.tag: element for element in dataset if element.tag < 0x7FE00000})
    write_dataset(buffer, header, [str(dataset.get("SpecificCharacterSet", "")) or "ISO_IR 6"])
    raw = RawDataSet(transfer_syntax_uid=transfer_syntax_uid)
    raw.elements.update((element.tag, element) for element in _elements(buffer.getvalue(), syntax))
    return raw


def _elements(content: bytes, syntax: UID) -> Iterator[Element]:
    order = "<" if syntax.is_little_endian else ">"
    source = io.BytesIO(content)
    while head := source.read(8):
        group, number = struct.unpack(f"{order}HH", head[:4])
        tag = group << 16 | number
        if syntax.is_implicit_VR:
            vr, (length,) = dictionary_VR(tag).split(" or ")[0].encode("ascii"), struct.unpack("<I", head[4:])
        else:
            vr = head[4:6]
            packed = source.read(4) if vr in _LONG_VRS else head[6:8]
            (length,) = struct.unpack(f"{order}{'I' if vr in _LONG_VRS else 'H'}", packed)
        yield Element(tag=tag, vr=vr, value=source.read(length))


def item(content: bytes) -> bytes:
    """Return an item of encapsulated pixel data (PS3.5 A.4)."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


#: The end of the items (PS3.5 A.4).
DELIMITER = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def sequence_item(values: Mapping[str, tuple[str, bytes]], transfer_syntax_uid: str) -> bytes:
    """Return one sequence item of defined length with these elements: keyword -> VR and bytes."""
    inside = RawDataSet(transfer_syntax_uid=transfer_syntax_uid)
    for keyword, (vr, value) in values.items():
        inside.set(keyword, value, vr)
    order = ">" if transfer_syntax_uid == ExplicitVRBigEndian else "<"
    syntax = transfer_syntax_uid
    if syntax == DeflatedExplicitVRLittleEndian:
        # Deflated as a whole, not by its items.
        inside.transfer_syntax_uid = "1.2.840.10008.1.2.1"
    content = inside.encode()
    return struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(content)) + content
