"""What the header says about the pixels of one frame."""

from dataclasses import dataclass
from typing import Any, Protocol

#: One sample a pixel, also where (0028,0002) is absent.
_GREY = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"})
#: (60xx,0102) and (60xx,3000), PS3.3 C.9.2.
_OVERLAY_GROUPS, _OVERLAY_BIT_POSITION, _OVERLAY_DATA = range(0x6000, 0x6020, 2), 0x0102, 0x3000


class Header(Protocol):
    """A data set: gives the value of a keyword, or the element of a tag."""

    def get(self, key: Any, default: Any = None) -> Any:
        """Return what stands under `key`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The Image Pixel Module, as far as decoding one frame needs it (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    #: Bits of an overlay lie in the pixel values (PS3.5 8.1.2, retired): what is beside the stored bits is no picture.
    has_overlay_bits: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one decoded frame: (rows, columns), or (rows, columns, samples) for colour."""
        plane = (self.rows, self.columns)
        return plane if self.samples_per_pixel == 1 else (*plane, self.samples_per_pixel)

    @property
    def item_size(self) -> int:
        """Bytes of one sample: bits that are packed are unpacked into one byte each."""
        return max(self.bits_allocated // 8, 1)


def describe(header: Header) -> Description:
    """Read the Image Pixel Module; what is left out has the one meaning it can have.

    Raises
    ------
    TypeError, ValueError
        When rows, columns or bits are absent or no numbers.
    """
    allocated = int(header.get("BitsAllocated"))
    stored = int(header.get("BitsStored") or allocated)
    high_bit = header.get("HighBit")
    samples = 1 if photometric_interpretation(header) in _GREY else 3
    return Description(
        rows=int(header.get("Rows")),
        columns=int(header.get("Columns")),
        samples_per_pixel=int(header.get("SamplesPerPixel") or samples),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=stored - 1 if high_bit is None else int(high_bit),
        is_signed=int(header.get("PixelRepresentation") or 0) == 1,
        has_overlay_bits=any(_has_overlay_bit(header, group, allocated) for group in _OVERLAY_GROUPS),
    )


def photometric_interpretation(header: Header) -> str:
    """Return (0028,0004) as it is meant, whatever blanks and small letters it is written with."""
    return str(header.get("PhotometricInterpretation") or "").strip().upper()


def _has_overlay_bit(header: Header, group: int, bits_allocated: int) -> bool:
    # Retired: without Overlay Data, the plane lies in this bit of the pixel cells.
    position = header.get((group, _OVERLAY_BIT_POSITION))
    if position is None or header.get((group, _OVERLAY_DATA)) is not None:
        return False
    return 0 <= int(position.value or 0) < bits_allocated
