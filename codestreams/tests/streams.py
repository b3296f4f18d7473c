"""Codestreams made up for tests: a smooth picture in every codec; nothing in them comes from a patient."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codestreams.description import Description

BASELINE, EXTENDED, LOSSLESS, LOSSLESS_SV1 = (f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70))
JPEG_LS, JPEG_2000, HTJ2K = (f"1.2.840.10008.1.2.4.{number}" for number in (80, 90, 201))
RLE = "1.2.840.10008.1.2.5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One stream, its header, and what it holds."""

    transfer_syntax_uid: str
    stream: bytes
    described: Description
    values: NDArray[Any]

    def cut(self, length: int, end: bytes = b"") -> "Sample":
        """Return the same sample with a stream of so many bytes, and `end` behind it."""
        return replace(self, stream=self.stream[:length] + end)

    def says(self, **attributes: Any) -> "Sample":
        """Return the same stream under another header."""
        return replace(self, described=replace(self.described, **attributes))


def a_picture(bits: int = 12, rows: int = 96, columns: int = 80, *, seed: int = 1) -> NDArray[Any]:
    """Draw a smooth picture with a little noise that uses most of `bits`, shape (rows, columns)."""
    down, across = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    shape = 0.5 + 0.35 * np.sin(5 * down + 1) * np.cos(4 * across) + 0.1 * across
    noise = np.random.default_rng(seed).normal(0, 0.004, shape.shape)
    full = 2**bits - 1
    values: NDArray[Any] = np.clip(np.rint((shape + noise) * full), 0, full).astype("u1" if bits <= 8 else "u2")
    return values


def describe(values: NDArray[Any], bits: int) -> Description:
    """Describe a picture as a true header does."""
    return Description(
        rows=values.shape[0],
        columns=values.shape[1],
        samples_per_pixel=3 if values.ndim == 3 else 1,
        bits_allocated=8 * values.dtype.itemsize,
        bits_stored=bits,
        high_bit=bits - 1,
        is_signed=values.dtype.kind == "i",
    )


def rle(values: NDArray[Any]) -> bytes:
    """Encode as PS3.5 G says, one segment a byte of the sample."""
    planes = values.astype(f"<u{values.dtype.itemsize}").view("u1").reshape(values.size, -1).T[::-1]
    segments = [bytes(imagecodecs.packbits_encode(np.ascontiguousarray(plane).tobytes())) for plane in planes]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = [64 + sum(map(len, segments[:index])) for index in range(len(segments))]
    head = b"".join(number.to_bytes(4, "little") for number in (len(segments), *offsets))
    return head.ljust(64, b"\0") + b"".join(segments)


def _jpeg(values: NDArray[Any], **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(values, **options))


def with_restarts() -> bytes:
    """Encode the baseline picture with a restart marker after every fourth unit."""
    target = io.BytesIO()
    Image.fromarray(a_picture(8)).save(target, "JPEG", quality=95, restart_marker_blocks=4)
    return target.getvalue()


def with_tiles(values: NDArray[Any]) -> bytes:
    """Encode as JPEG 2000 in tiles of 32 rows and 40 columns."""
    target = io.BytesIO()
    Image.fromarray(values).save(target, "JPEG2000", no_jp2=True, tile_size=(40, 32), irreversible=False)
    return target.getvalue()


_ENCODERS: dict[str, tuple[str, int, Callable[[NDArray[Any]], bytes]]] = {
    "baseline": (BASELINE, 8, lambda values: _jpeg(values, level=95)),
    "baseline with restarts": (BASELINE, 8, lambda _: with_restarts()),
    "extended, 12 bits": (EXTENDED, 12, lambda values: _jpeg(values, level=95, bitspersample=12)),
    "lossless, predictor 4": (LOSSLESS, 12, lambda values: _jpeg(values, lossless=True, predictor=4, bitspersample=12)),
    "lossless, 8 bits": (LOSSLESS_SV1, 8, lambda values: _jpeg(values, lossless=True, predictor=1)),
    "lossless, 12 bits": (LOSSLESS_SV1, 12, lambda values: _jpeg(values, lossless=True, predictor=1, bitspersample=12)),
    "lossless, 16 bits": (LOSSLESS_SV1, 16, lambda values: _jpeg(values, lossless=True, predictor=1, bitspersample=16)),
    "JPEG-LS, 8 bits": (JPEG_LS, 8, lambda values: bytes(imagecodecs.jpegls_encode(values))),
    "JPEG-LS, 16 bits": (JPEG_LS, 16, lambda values: bytes(imagecodecs.jpegls_encode(values))),
    "JPEG 2000": (JPEG_2000, 16, lambda values: bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="J2K"))),
    "JPEG 2000, 12 bits": (
        JPEG_2000, 12,
        lambda values: bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="J2K", bitspersample=12)),
    ),
    "JPEG 2000, tiles": (JPEG_2000, 8, with_tiles),
    "HTJ2K": (HTJ2K, 16, lambda values: bytes(imagecodecs.htj2k_encode(values, reversible=True))),
    "RLE, 8 bits": (RLE, 8, rle),
    "RLE, 16 bits": (RLE, 12, rle),
}  # fmt: skip
NAMES = tuple(_ENCODERS)
LOSSY = ("baseline", "baseline with restarts", "extended, 12 bits")


def sample(name: str, *, rows: int = 96, columns: int = 80, seed: int = 1) -> Sample:
    """Make the sample of one codec."""
    transfer_syntax_uid, bits, encode = _ENCODERS[name]
    values = a_picture(bits, rows, columns, seed=seed)
    return Sample(
        transfer_syntax_uid=transfer_syntax_uid,
        stream=encode(values),
        described=describe(values, bits),
        values=values,
    )
