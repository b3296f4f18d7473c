"""File meta information (PS3.10 7.1): how a stored instance names its sender, written and read in one place."""

import re
import struct
from dataclasses import dataclass
from functools import lru_cache

from casebook.errors import InvalidObject
from codestreams.elements import EXPLICIT, NotUnderstood, element_at, walk
from dicom_node.objects.text import decode_ascii

#: Identifies this implementation (PS3.7 D.3.3.2).
IMPLEMENTATION_CLASS_UID = "2.25.156402173689225470915437264078413391467"
IMPLEMENTATION_VERSION_NAME = "WETREAD_0_1"
#: PS3.5 9.1 allows digits and dots, 64 at most. Leading zeros and empty components occur and harm nobody.
_UID = re.compile(r"[0-9.]{1,64}")


def require_uid(value: str) -> str:
    """Return a UID that may be used in names and results.

    Raises
    ------
    InvalidObject
        When it is empty, too long, or has other characters than digits and dots (PS3.5 9.1).
    """
    if not _UID.fullmatch(value) or not value.strip("."):
        raise InvalidObject("a UID is missing or malformed")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What the association says about an object, before its first byte."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    peer_address: str = ""


def build_file_meta(envelope: Envelope) -> bytes:
    """Build preamble and file meta information (PS3.10 7.1), the sender's AE title and address included."""
    elements = b"".join(
        (
            _meta_before(envelope.sop_class_uid),
            _short_element(0x0003, b"UI", envelope.sop_instance_uid, b"\x00"),
            _meta_after(envelope.transfer_syntax_uid, envelope.calling_ae_title, envelope.peer_address),
        )
    )
    group_length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements))
    return bytes(128) + b"DICM" + group_length + elements


# What objects of an association have in common is built once; this is done while their sender waits.
@lru_cache(maxsize=64)
def _meta_before(sop_class_uid: str) -> bytes:
    version = struct.pack("<HH2sHI", 2, 0x0001, b"OB", 0, 2) + b"\x00\x01"
    return version + _short_element(0x0002, b"UI", sop_class_uid, b"\x00")


@lru_cache(maxsize=64)
def _meta_after(transfer_syntax_uid: str, calling_ae_title: str, peer_address: str) -> bytes:
    return b"".join(
        (
            _short_element(0x0010, b"UI", transfer_syntax_uid, b"\x00"),
            _short_element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID, b"\x00"),
            _short_element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME, b" "),
            _short_element(0x0016, b"AE", calling_ae_title, b" "),
            _presentation_address(peer_address),
        )
    )


def _short_element(element: int, vr: bytes, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    value += padding * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def _presentation_address(peer_address: str) -> bytes:
    # (0002,0026) Source Presentation Address, VR UR: a URI, with a 32-bit length.
    if not peer_address:
        return b""
    value = f"tcp://[{peer_address}]" if ":" in peer_address else f"tcp://{peer_address}"
    encoded = value.encode("ascii", "replace")
    encoded += b" " * (len(encoded) % 2)
    return struct.pack("<HH2sHI", 2, 0x0026, b"UR", 0, len(encoded)) + encoded


#: Our own is under 1 KiB; whatever file system utilities add stays within this.
LONGEST_FILE_META_BYTES = 16 * 1024


def find_data_set(start: bytes) -> int | None:
    """Return where the data set of a file begins, None while that takes more bytes (PS3.10 7.1).

    The elements of group 0002 say it themselves. The group length (0002,0000) is often wrong, zero or absent; it counts
    only where the data set has elements of that group too.

    Raises
    ------
    InvalidObject
        When this is no DICOM file.
    """
    if len(start) >= _META_AT and start[_PREAMBLE_BYTES:_META_AT] != b"DICM":
        raise InvalidObject("it is no DICOM file (no DICM after the preamble)")
    position, last_tag, stated_end = _META_AT, 0, -1
    try:
        while True:
            group, element = EXPLICIT.tag.unpack_from(start, position)
            tag = group << 16 | element
            if group != _META_GROUP or (position == stated_end and _begins_data_set(start, position, last_tag)):
                return position
            tag, value_at, length = element_at(start, position, EXPLICIT)
            position = value_at + length
            if tag == _GROUP_LENGTH and length == 4:
                stated_end = position + struct.unpack_from("<I", start, value_at)[0]
            last_tag = tag
    except struct.error:
        return None
    except NotUnderstood:
        raise InvalidObject("its file meta information cannot be read") from None


def _begins_data_set(start: bytes, position: int, last_tag: int) -> bool:
    """Say whether an element of group 0002 that stands where the group length ends is one of the data set."""
    if last_tag < _TRANSFER_SYNTAX:
        return False  # Too short by far: what names the instance and its transfer syntax has not come yet.
    try:
        tag, _, _ = element_at(start, position, EXPLICIT)
    except NotUnderstood:
        return True
    return tag <= last_tag  # Elements ascend: the file meta information would go on with a higher one.


_PREAMBLE_BYTES = 128
_META_AT = _PREAMBLE_BYTES + 4
_META_GROUP = 0x0002
_GROUP_LENGTH = 0x00020000
_TRANSFER_SYNTAX = 0x00020010


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
        _, value_at, _ = element_at(start, 132, EXPLICIT)
        (group_length,) = struct.unpack_from("<I", start, value_at)
        end = value_at + 4 + group_length
    except (struct.error, NotUnderstood):
        raise InvalidObject("the file meta information cannot be read") from None
    return parse_file_meta(start[:end]), end


def parse_file_meta(start: bytes) -> Envelope:
    """Read what stands between the preamble and the data set (PS3.10 7.1).

    Raises
    ------
    InvalidObject
        When its elements cannot be read.
    """
    try:
        found = walk(start, EXPLICIT, _META_TAGS, 0x0002FFFF, whole=True, start=_META_AT)
    except (struct.error, NotUnderstood):
        raise InvalidObject("the file meta information cannot be read") from None
    text = {keyword: decode_ascii(value) for keyword, value in found.items()}
    address = text.get("SourcePresentationAddress", "").removeprefix("tcp://").strip("[]")
    return Envelope(
        sop_class_uid=text.get("MediaStorageSOPClassUID", ""),
        sop_instance_uid=text.get("MediaStorageSOPInstanceUID", ""),
        transfer_syntax_uid=text.get("TransferSyntaxUID", ""),
        calling_ae_title=text.get("SourceApplicationEntityTitle", ""),
        peer_address=address,
    )


_META_TAGS = {
    0x00020002: "MediaStorageSOPClassUID",
    0x00020003: "MediaStorageSOPInstanceUID",
    0x00020010: "TransferSyntaxUID",
    0x00020016: "SourceApplicationEntityTitle",
    0x00020026: "SourcePresentationAddress",
}
