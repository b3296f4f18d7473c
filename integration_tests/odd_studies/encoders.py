"""Codestreams of grey frames in every transfer syntax that can be written here, lossless but where the syntax is not."""

import io
import re
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from training.phantom.codecs import compress

Values = NDArray[np.integer[Any]]

#: Syntaxes of compressed grey frames: the stored bits they can hold, and whether they can be signed.
_BITS: Mapping[UID, tuple[tuple[int, ...], bool]] = MappingProxyType(
    {
        JPEGBaseline8Bit: ((8,), False),
        JPEGExtended12Bit: ((12,), False),
        JPEGLossless: ((8, 10, 12, 14, 16), True),
        JPEGLosslessSV1: ((8, 10, 12, 14, 16), True),
        JPEGLSLossless: ((8, 10, 12, 14, 16), True),
        JPEGLSNearLossless: ((8,), False),
        JPEG2000Lossless: ((8, 10, 12, 14, 16), True),
        JPEG2000: ((8, 10, 12, 14, 16), True),
        HTJ2KLossless: ((8, 10, 12, 14, 16), True),
        HTJ2KLosslessRPCL: ((8, 10, 12, 14, 16), True),
        HTJ2K: ((8, 10, 12, 14, 16), True),
        RLELossless: ((8, 10, 12, 14, 16), True),
    }
)
#: Every syntax that `encode` writes.
SYNTAXES = tuple(_BITS)
#: ISO/IEC 15444-1 A.5.1: where Ssiz of the first component stands.
_SSIZ = 42


def can_hold(syntax: UID, bits: int, *, signed: bool) -> bool:
    """Say whether a syntax has grey values of so many bits."""
    depths, may_be_signed = _BITS[syntax]
    return bits in depths and (may_be_signed or not signed)


def encode(values: Values, syntax: UID, bits: int, *, predictor: int = 1) -> bytes:
    """Encode one frame.

    Parameters
    ----------
    values
        Shape (rows, columns), or (rows, columns, 3); signed where the type is.
    bits
        Bits of one sample.
    predictor
        Of JPEG lossless, 1 to 7.
    """
    signed = bool(values.min() < 0) or values.dtype.kind == "i"
    if syntax == JPEGBaseline8Bit:
        return bytes(imagecodecs.jpeg8_encode(values.astype(np.uint8), level=100))
    if syntax == JPEGExtended12Bit:
        return bytes(imagecodecs.jpeg8_encode(values.astype(np.uint16), level=100, bitspersample=12))
    if syntax in {JPEGLossless, JPEGLosslessSV1}:
        cells = _cells(values, bits)
        used = 1 if syntax == JPEGLosslessSV1 else predictor
        return bytes(imagecodecs.jpeg8_encode(cells, lossless=True, predictor=used, bitspersample=bits))
    if syntax == JPEGLSNearLossless:
        return bytes(imagecodecs.jpegls_encode(values.astype(np.uint8), level=1))
    if syntax in {JPEG2000Lossless, JPEG2000}:
        cells = values.astype(np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"))
        level = 0 if syntax == JPEG2000Lossless else 70
        return bytes(
            imagecodecs.jpeg2k_encode(
                cells, level=level, codecformat="j2k", reversible=level == 0, bitspersample=bits, mct=False
            )
        )
    if syntax in {HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K}:
        return _encode_htj2k(values, bits, signed=signed)
    return _encode_by_pydicom(values, syntax, bits, signed=signed)


def _cells(values: Values, bits: int) -> NDArray[Any]:
    # JPEG knows no sign: two's complement in as many bits as are stored.
    masked = values.astype(np.int64) & (2**bits - 1)
    cells: NDArray[Any] = masked.astype(np.uint8 if bits <= 8 else np.uint16)
    return cells


def _encode_htj2k(values: Values, bits: int, *, signed: bool) -> bytes:
    whole = 8 if bits <= 8 else 16
    # OpenJPH takes the depth from the type. The coefficients are values around zero, so a smaller depth is told
    # afterwards, and what is taken off before the transform stays the same.
    shift = 0 if signed else 2 ** (whole - 1) - 2 ** (bits - 1)
    cells = (values.astype(np.int64) + shift).astype(np.dtype(f"{'i' if signed else 'u'}{whole // 8}"))
    content = bytearray(imagecodecs.htj2k_encode(cells, reversible=True))
    content[_SSIZ] = (0x80 if signed else 0) | (bits - 1)
    return bytes(content)


def _encode_by_pydicom(values: Values, syntax: UID, bits: int, *, signed: bool) -> bytes:
    allocated = 8 if bits <= 8 else 16
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 1 if values.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = values.astype(f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
    compress(dataset, syntax)
    frame: bytes = get_frame(dataset.PixelData, 0, number_of_frames=1)
    return frame


def change_size(codestream: bytes, rows: int) -> bytes:
    """Let a stream declare another number of rows in its frame header."""
    content = bytearray(codestream)
    if content[:4] == b"\xff\x4f\xff\x51":
        struct.pack_into(">I", content, 12, rows)
        return bytes(content)
    position = 2
    while content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}):
            struct.pack_into(">H", content, position + 5, rows)
            break
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return bytes(content)


def forget_spectral_end(codestream: bytes) -> bytes:
    """Write Se = 0 into the scan header of a sequential JPEG, as some 12-bit encoders do."""
    at = codestream.index(b"\xff\xda")
    length = int.from_bytes(codestream[at + 2 : at + 4], "big")
    place = at + 2 + length - 2
    return codestream[:place] + b"\0" + codestream[place + 1 :]


def claim_sign(codestream: bytes, *, signed: bool) -> bytes:
    """Let a JPEG 2000 stream say another sign of its samples (Ssiz)."""
    content = bytearray(codestream)
    content[_SSIZ] = (content[_SSIZ] & 0x7F) | (0x80 if signed else 0)
    return bytes(content)


def encode_with_restarts(values: Values) -> bytes:
    """Encode eight bits as baseline JPEG with a restart marker after each row of blocks."""
    return _encode_by_pillow(values.astype(np.uint8), "JPEG", quality=98, restart_marker_rows=1)


def encode_in_tiles(values: Values, size: int) -> bytes:
    """Encode eight bits as JPEG 2000 without loss, in tiles of so many pixels."""
    return _encode_by_pillow(
        values.astype(np.uint8), "JPEG2000", tile_size=(size, size), irreversible=False, no_jp2=True
    )


def _encode_by_pillow(cells: NDArray[Any], kind: str, **options: object) -> bytes:
    written = io.BytesIO()
    Image.fromarray(cells).save(written, kind, **options)
    return written.getvalue()


def without_restart_intervals(codestream: bytes, first: int) -> bytes:
    """Leave eight intervals out of a JPEG with restarts: the numbers of the markers, which count to eight, go on."""
    starts = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", codestream)]
    return codestream[: starts[first]] + codestream[starts[first + 8] :]


def without_tile(codestream: bytes, number: int) -> bytes:
    """Leave one tile part out of a JPEG 2000 stream (ISO/IEC 15444-1 A.4.2)."""
    position = codestream.index(b"\xff\x90")
    parts = []
    while codestream[position : position + 2] == b"\xff\x90":
        length = int.from_bytes(codestream[position + 6 : position + 10], "big")
        parts.append(codestream[position : position + length])
        position += length
    begin = codestream[: codestream.index(b"\xff\x90")]
    return begin + b"".join(parts[:number] + parts[number + 1 :]) + codestream[position:]


def bounds_of_packets(codestream: bytes) -> tuple[int, int]:
    """Return where the packets of a JPEG 2000 stream of one tile begin and end (ISO/IEC 15444-1 A.4)."""
    return codestream.index(b"\xff\x93") + 2, len(codestream) - 2


def with_longer_runs(codestream: bytes, segment: int, pixels: int) -> bytes:
    """Let the first run of an RLE segment say that it is longer by so many pixels (PS3.5 G.3)."""
    content = bytearray(codestream)
    position = int.from_bytes(content[4 + 4 * segment : 8 + 4 * segment], "little")
    while position < len(content) - 1:
        count = content[position]
        if 128 + pixels < count:
            content[position] = count - pixels
            break
        position += 2 if count > 128 else count + 2
    return bytes(content)
