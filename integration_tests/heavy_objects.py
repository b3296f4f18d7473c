"""Objects that are small on the wire or in the file, and huge for whoever takes them into memory as they say."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dicom_node.objects.file_meta import Envelope, build_file_meta

CT, KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.59"
EXPLICIT, DEFLATED, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
MIB, GIB = 1 << 20, 1 << 30
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset({b"OB", b"OW", b"UN", b"SQ"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Zeros:
    """So many zero bytes, never in memory at one time."""

    size_bytes: int


Part = bytes | Zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class HeavyObject:
    """One object, as the parts of its data set."""

    sop_instance_uid: str
    parts: Sequence[Part] = field(repr=False)
    sop_class_uid: str = CT
    transfer_syntax_uid: str = EXPLICIT

    def pieces(self, longest_bytes: int = 60_000) -> Iterator[bytes]:
        """Yield the data set as it is sent, in pieces."""
        plain = _deflated(self.parts) if self.transfer_syntax_uid == DEFLATED else _plain(self.parts)
        for part in plain:
            yield from (part[at : at + longest_bytes] for at in range(0, len(part), longest_bytes))

    def write(self, path: Path) -> Path:
        """Write it as a stored file, with holes where it has zeros."""
        meta = build_file_meta(
            Envelope(
                sop_class_uid=self.sop_class_uid,
                sop_instance_uid=self.sop_instance_uid,
                transfer_syntax_uid=self.transfer_syntax_uid,
                calling_ae_title="CT01",
            )
        )
        with path.open("wb") as file:
            file.write(meta)
            for part in _deflated(self.parts) if self.transfer_syntax_uid == DEFLATED else self.parts:
                if isinstance(part, Zeros):
                    file.truncate(file.seek(part.size_bytes, 1))
                else:
                    file.write(part)
        return path


def _plain(parts: Sequence[Part]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        for at in range(0, part.size_bytes, MIB):
            yield bytes(min(MIB, part.size_bytes - at))


def _deflated(parts: Sequence[Part]) -> Iterator[bytes]:
    # After a full flush a block stands for itself: one of zeros is deflated once, and repeated.
    block = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    zeros = block.compress(bytes(MIB)) + block.flush(zlib.Z_FULL_FLUSH)
    deflater = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    for part in parts:
        if isinstance(part, bytes):
            yield deflater.compress(part)
            continue
        yield deflater.flush(zlib.Z_FULL_FLUSH)
        for _ in range(part.size_bytes // MIB):
            yield zeros
        yield deflater.compress(bytes(part.size_bytes % MIB))
    yield deflater.flush()


def element(group: int, number: int, vr: bytes, value: bytes = b"") -> bytes:
    """Return an element in explicit VR little endian."""
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return head(group, number, vr, len(value)) + value


def long_element(group: int, number: int, vr: bytes, size_bytes: int) -> tuple[bytes, Zeros]:
    """Return an element whose value is zeros."""
    return head(group, number, vr, size_bytes), Zeros(size_bytes=size_bytes)


def head(group: int, number: int, vr: bytes, length: int) -> bytes:
    """Return tag, VR and length of an element."""
    if vr in _LONG:
        return struct.pack("<HH2sHI", group, number, vr, 0, length)
    return struct.pack("<HH2sH", group, number, vr, length)


def item(length: int = 0) -> bytes:
    """Return the beginning of an item (PS3.5 7.5)."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, length)


def open_sequence(group: int, number: int) -> bytes:
    """Return the beginning of a sequence of undefined length."""
    return head(group, number, b"SQ", _UNDEFINED)


def close_sequence() -> bytes:
    """Return the delimiter of a sequence."""
    return struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def encapsulated(*fragments: bytes) -> bytes:
    """Return pixel data in fragments, with an empty offset table (PS3.5 A.4)."""
    items = b"".join(item(len(one)) + one for one in (b"", *fragments))
    return head(0x7FE0, 0x0010, b"OB", _UNDEFINED) + items + close_sequence()


def class_and_instance(sop_instance_uid: str, sop_class_uid: str = CT, modality: bytes = b"CT") -> bytes:
    """Return the beginning of a data set."""
    return (
        element(0x0008, 0x0016, b"UI", sop_class_uid.encode())
        + element(0x0008, 0x0018, b"UI", sop_instance_uid.encode())
        + element(0x0008, 0x0060, b"CS", modality)
        + element(0x0010, 0x0010, b"PN", b"A^B")
        + element(0x0010, 0x0020, b"LO", b"P1")
    )


def study_and_series(study: str = "1.2.3") -> bytes:
    """Return the UIDs of study and series."""
    return element(0x0020, 0x000D, b"UI", study.encode()) + element(0x0020, 0x000E, b"UI", f"{study}.1".encode())


def image_module(rows: int, columns: int, bits: int = 8) -> bytes:
    """Return what describes the pixels (PS3.3 C.7.6.3)."""
    numbers = {0x0010: rows, 0x0011: columns, 0x0100: bits, 0x0101: bits, 0x0102: bits - 1, 0x0103: 0}
    grey = element(0x0028, 0x0002, b"US", struct.pack("<H", 1)) + element(0x0028, 0x0004, b"CS", b"MONOCHROME2")
    return grey + b"".join(element(0x0028, at, b"US", struct.pack("<H", one)) for at, one in numbers.items())


def many_elements(group: int, count: int) -> bytes:
    """Return empty private elements of eight bytes with numbers that do not compress."""
    cells = np.zeros(count, dtype=[("group", "<u2"), ("number", "<u2"), ("vr", "S2"), ("length", "<u2")])
    cells["group"], cells["vr"] = group, b"LO"
    cells["number"] = np.random.default_rng(7).integers(0x1000, 0xFFFF, count, dtype=np.uint16)
    return cells.tobytes()
