"""Which bits of a sample are the picture, and whether the header can be right about them (PS3.5 8.1.1)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from casebook.errors import UnreadablePixels
from codestreams.description import Description
from codestreams.faults import StreamFault

#: So many times larger than under the other sign may the steps between neighbours be. Of all real pictures and films
#: tried the largest was 1.00, and the smallest of films under a false sign 1.14.
_TORN = 1.05
#: Share of near neighbours at which what lies above the stored bits is more of the same picture.
_CONTINUED = 0.1
#: So many values may the bits above the stored ones take where no overlay is declared: those of four planes.
_LEFT_OVER = 16


def stored_bits(cells: NDArray[Any], described: Description) -> NDArray[Any]:
    """Take the stored bits out of pixel cells as High Bit and Bits Stored say, with their sign.

    Parameters
    ----------
    cells
        Whole cells of Bits Allocated, any shape.
    described
        What the header says.

    Returns
    -------
        Same shape, signed where the header says so.

    Raises
    ------
    UnreadablePixels
        When the bits of the cells show that the header is wrong.
    """
    size = cells.dtype.itemsize
    # Big endian cells become cells of this machine: a view of their bits alone would swap them.
    unsigned: NDArray[Any] = cells.astype(cells.dtype.newbyteorder("="), copy=False).view(f"u{size}")
    bits = described.bits_stored
    shift = described.high_bit + 1 - bits
    if shift:
        refuse_unshifted_cells(unsigned, described)
        unsigned = unsigned >> unsigned.dtype.type(shift)
    stored = unsigned
    if bits < 8 * size:
        stored = unsigned & unsigned.dtype.type((1 << bits) - 1)
        if not described.has_overlay_bits and not shift:
            refuse_torn_depth(unsigned, stored, described)
    refuse_torn_sign(stored, described)
    return _extended(stored, bits) if described.is_signed else stored


def refuse_unshifted_cells(cells: NDArray[Any], described: Description) -> None:
    """Refuse cells that lie in the low bits although High Bit says that they lie in the upper ones.

    Raises
    ------
    UnreadablePixels
        When the bits under the stored ones are in use, and not by an overlay below a picture in the upper bits.
    """
    shift = described.high_bit + 1 - described.bits_stored
    below = cells & cells.dtype.type((1 << shift) - 1)
    uses_upper = bool((cells >> cells.dtype.type(described.bits_stored)).any())
    if below.any() and not (described.has_overlay_bits and uses_upper):
        raise UnreadablePixels(StreamFault.HEADER_CONFLICT)


def refuse_torn_depth(cells: NDArray[Any], masked: NDArray[Any], described: Description) -> None:
    """Refuse cells whose picture goes on above Bits Stored: cutting it off would leave stripes of noise.

    Raises
    ------
    UnreadablePixels
        When the picture goes on where the bits above change, or these are too many for letters and lines.
    """
    bits = described.bits_stored
    # The sign may be carried on above the stored bits or not; both are in use and give the same values.
    whole = cells.view(f"i{cells.dtype.itemsize}") if described.is_signed else cells
    inside = _extended(masked, bits) if described.is_signed else masked
    if np.array_equal(inside, whole):
        return
    if np.unique(whole >> whole.dtype.type(bits)).size > _LEFT_OVER or _continued(whole, bits) > _CONTINUED:
        raise UnreadablePixels(StreamFault.HEADER_CONFLICT)


def refuse_torn_sign(values: NDArray[Any], described: Description) -> None:
    """Refuse a sign that tears the picture: what lies next to each other lies at both ends of the range.

    Raises
    ------
    UnreadablePixels
        When the other sign gives a far smoother picture.
    """
    bits = described.bits_stored
    signed = _extended(values, bits)
    # Eight bits and fewer are made for the screen; more than 16 are doses and counts, that need not be smooth.
    if not 8 < bits <= 16 or values.ndim != 2 or np.array_equal(signed, values):
        return
    chosen, other = (signed, values) if described.is_signed else (values, signed)
    usual = _usual(values)
    if _steps(chosen, usual) > _TORN * _steps(other, usual):
        raise UnreadablePixels(StreamFault.HEADER_CONFLICT)


def _continued(whole: NDArray[Any], bits: int) -> float:
    # The share of neighbours with other upper bits that lie near each other all the same. Where the upper bits are
    # an overlay or left over from something, a change of them is a jump.
    exact = whole.astype(np.int64)
    upper = exact >> bits
    changes = near = 0
    for axis in range(min(exact.ndim, 2)):
        changed = np.diff(upper, axis=axis) != 0
        changes += int(changed.sum())
        near += int((np.abs(np.diff(exact, axis=axis))[changed] < 1 << (bits - 1)).sum())
    return near / changes if changes else 0.0


def _extended(values: NDArray[Any], bits: int) -> NDArray[Any]:
    size = values.dtype.itemsize
    shift = 8 * size - bits
    extended: NDArray[Any] = (values << values.dtype.type(shift)).view(f"i{size}") >> np.dtype(f"i{size}").type(shift)
    return extended


def _usual(values: NDArray[Any]) -> NDArray[np.bool_]:
    # The lowest and the highest value may be padding, a marker or saturation, and lie beside anything.
    usual: NDArray[np.bool_] = (values != values.min()) & (values != values.max())
    return usual


def _steps(values: NDArray[Any], usual: NDArray[np.bool_]) -> float:
    # Sum of the steps between usual neighbours, along rows and columns.
    exact = values.astype(np.float64 if values.dtype.itemsize > 2 else np.int32)
    total = 1.0
    for axis in range(min(exact.ndim, 2)):
        both = np.logical_and(*(np.take(usual, part, axis) for part in _neighbours(usual.shape[axis])))
        total += float(np.abs(np.diff(exact, axis=axis))[both].sum(dtype=np.float64))
    return total


def _neighbours(length: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.arange(length - 1), np.arange(1, length)
