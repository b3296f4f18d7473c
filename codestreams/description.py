"""What the header says about the pixels of one frame."""

from dataclasses import dataclass


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
