"""From stored values to what a reader sees: float32 in [0, 1], white is bright, one frame at a time.

The grayscale pipeline is PS3.3 C.11: Modality LUT, VOI LUT, Presentation LUT. Enhanced multi-frame images
carry their tables per frame (PS3.3 C.7.6.16), so every table is looked up for the frame at hand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from casebook.errors import UnreadablePixels
from worker.reader.decode import (
    DEFAULT_MAX_FRAME_BYTES,
    Fault,
    Picture,
    open_picture,
    plain_faults,
    stored_frames,
)

Frame = NDArray[np.float32]
Values = NDArray[np.floating[Any]]


class VoiFunction(StrEnum):
    """(0028,1056) VOI LUT Function (PS3.3 C.11.2.1.3)."""

    #: The window of C.11.2.1.2.1, half a value off at both ends; the default.
    LINEAR = "LINEAR"
    #: The window without the half values (C.11.2.1.3.2).
    LINEAR_EXACT = "LINEAR_EXACT"
    #: A logistic curve (C.11.2.1.3.1).
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window over the output of the Modality LUT; for CT in Hounsfield units."""

    center: float
    width: float
    function: VoiFunction = VoiFunction.LINEAR


def frames(
    source: Path | Dataset | Picture,
    indices: Sequence[int] | None = None,
    *,
    window: Window | None = None,
    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
) -> Iterator[Frame]:
    """Render frames one at a time as they would be displayed.

    Parameters
    ----------
    source
        A DICOM file, a data set in memory, or a picture that was opened before.
    indices
        Zero-based frames in the order wanted; all where absent.
    window
        Use this window instead of the one in the image.
    max_frame_bytes
        Decoded bytes of one frame over which the image is refused.

    Yields
    ------
        Shape (rows, columns) for grey or (rows, columns, 3) for colour, in [0, 1].

    Raises
    ------
    UnreadablePixels
        When the picture cannot be decoded or its tables cannot be used.
    """
    picture = source if isinstance(source, Picture) else open_picture(source, max_frame_bytes=max_frame_bytes)
    wanted = range(picture.frame_count) if indices is None else indices
    for index, stored in zip(wanted, stored_frames(picture, indices), strict=True):
        with plain_faults(Fault.BAD_LOOKUP_TABLE):
            frame = render(stored, picture.header, index, window)
        yield frame


def render(stored: NDArray[Any], header: Dataset, index: int = 0, window: Window | None = None) -> Frame:
    """Turn the stored values of one frame into display values (PS3.3 C.11).

    Parameters
    ----------
    stored
        Shape (rows, columns) or (rows, columns, 3), before any lookup table.
    header
        Carries the tables.
    index
        Zero-based frame, for tables that change from frame to frame.
    window
        Use this window instead of the one in the image.

    Returns
    -------
        Same rows and columns, in [0, 1].

    Raises
    ------
    UnreadablePixels
        When a lookup table is damaged or a colour space unknown.
    """
    photometric = str(header.get("PhotometricInterpretation", ""))
    if photometric == "PALETTE COLOR":
        with plain_faults(Fault.BAD_COLOUR):
            return _unit(apply_color_lut(stored, header), _palette_bits(header))
    if stored.ndim == 3:
        if photometric.startswith("MONOCHROME"):
            raise UnreadablePixels(Fault.BAD_COLOUR)
        return _unit(stored, int(header.BitsStored))  # YBR became RGB when it was decoded
    if photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise UnreadablePixels(Fault.BAD_COLOUR)
    values, has_modality_lut = modality_values(stored, header, index)
    shown = _voi(values, stored, header, index, window, has_modality_lut=has_modality_lut)
    # PS3.3 C.11.6: INVERSE repeats what MONOCHROME1 says and does not undo it.
    if photometric == "MONOCHROME1" or header.get("PresentationLUTShape") == "INVERSE":
        shown = np.float32(1) - shown
    return shown


def modality_values(stored: NDArray[Any], header: Dataset, index: int = 0) -> tuple[Values, bool]:
    """Apply the Modality LUT or the rescale slope and intercept (PS3.3 C.11.1).

    Returns
    -------
        Values in the unit of the modality (Hounsfield units for CT), same shape, and whether anything was
        there to apply.

    Raises
    ------
    UnreadablePixels
        When the lookup table is damaged.
    """
    # 24 bits of float32 hold every 16-bit value exactly.
    kind = np.float32 if stored.dtype.itemsize <= 2 else np.float64
    if _has_table(header, "ModalityLUTSequence"):
        return _looked_up(stored, header.ModalityLUTSequence[0], header).astype(kind), True
    rescale = _macro(header, "PixelValueTransformationSequence", index)
    slope, intercept = _number(rescale, "RescaleSlope"), _number(rescale, "RescaleIntercept")
    values = np.nan_to_num(stored.astype(kind))
    if slope is None and intercept is None:
        return values, False
    # A slope of zero would turn the picture into one grey: some converters write it and mean "none".
    return values * kind(slope or 1.0) + kind(intercept or 0.0), True


def _voi(
    values: Values,
    stored: NDArray[Any],
    header: Dataset,
    index: int,
    window: Window | None,
    *,
    has_modality_lut: bool,
) -> Frame:
    # PS3.3 C.11.2
    if window is not None:
        return windowed(values, window)
    voi = _macro(header, "FrameVOILUTSequence", index)
    if _has_table(voi, "VOILUTSequence"):
        item = voi.VOILUTSequence[0]
        table = _looked_up(np.rint(values).astype(np.int64), item, header)
        return _unit(table, _lut_bits(item))
    center, width = _number(voi, "WindowCenter"), _number(voi, "WindowWidth")
    if center is not None and width is not None and width > 0:
        name = str(voi.get("VOILUTFunction") or "LINEAR")
        function = VoiFunction(name) if name in set(VoiFunction) else VoiFunction.LINEAR
        return windowed(values, Window(center=center, width=width, function=function))
    bits = int(header.get("BitsStored") or 16)
    if bits <= 8 and stored.dtype.kind == "u" and not has_modality_lut:
        return _unit(stored, bits)  # made for the screen: black and white mean something already
    return _stretched(values, _without_padding(values, stored, header))


def windowed(values: Values, window: Window) -> Frame:
    """Map values through a window to [0, 1] (PS3.3 C.11.2.1.2.1 and C.11.2.1.3)."""
    center, width = window.center, window.width
    if window.function is VoiFunction.SIGMOID:
        exponent = np.clip(-4 * (values - center) / width, -80, 80)
        shown = 1 / (1 + np.exp(exponent))
    elif window.function is VoiFunction.LINEAR and width > 1:
        shown = (values - (center - 0.5)) / (width - 1) + 0.5
    elif window.function is VoiFunction.LINEAR and width == 1:
        shown = np.where(values > center - 0.5, 1.0, 0.0)
    else:
        # A width under one is not allowed for LINEAR; images of small real numbers have it and mean this.
        shown = (values - center) / width + 0.5
    clipped: Frame = np.clip(shown, 0, 1).astype(np.float32)
    return clipped


def _unit(values: NDArray[Any], bits: int) -> Frame:
    scaled: Frame = values.astype(np.float32) / np.float32(2**bits - 1)
    return np.clip(scaled, 0, 1)


def _stretched(values: Values, inside: Values) -> Frame:
    if not inside.size:
        return np.zeros(values.shape, dtype=np.float32)
    low, high = float(inside.min()), float(inside.max())
    if high <= low:
        return np.zeros(values.shape, dtype=np.float32)
    stretched: Frame = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return stretched


def _without_padding(values: Values, stored: NDArray[Any], header: Dataset) -> Values:
    # PS3.3 C.7.5.1.1.2: padding is no picture and must not set the contrast of it.
    padding = header.get("PixelPaddingValue")
    if padding is None:
        return values
    limit = header.get("PixelPaddingRangeLimit", padding)
    low, high = sorted((int(padding), int(limit)))
    return values[(stored < low) | (stored > high)]


def _has_table(item: Dataset, keyword: str) -> bool:
    # Converters leave empty lookup tables behind; the picture is whole without them.
    return bool(item.get(keyword)) and item[keyword].value[0].get("LUTData") is not None


def _looked_up(values: NDArray[Any], item: Dataset, header: Dataset) -> NDArray[np.int64]:
    # PS3.3 C.11.1.1: entries, first value mapped, bits of an entry.
    entries, first, _ = (int(number) for number in item.LUTDescriptor)
    entries = entries % 2**16 or 2**16
    if first >= 2**15 and int(header.get("PixelRepresentation") or 0) == 1:
        first -= 2**16  # the VR of the descriptor is unsigned in files without explicit VR
    table = _table(item.LUTData, entries)
    place = np.clip(values.astype(np.int64) - first, 0, len(table) - 1)
    return table[place]


def _table(data: Any, entries: int) -> NDArray[np.int64]:
    if not isinstance(data, bytes):
        table = np.atleast_1d(np.asarray(data, dtype=np.int64)) % 2**16
    elif len(data) in {entries, entries + 1} and entries > 1:
        table = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    else:
        table = np.frombuffer(data, dtype="<u2").astype(np.int64)
    if not table.size:
        raise UnreadablePixels(Fault.BAD_LOOKUP_TABLE)
    return table[:entries]


def _lut_bits(item: Dataset) -> int:
    # The third value is often 16 where the table holds fewer bits, or the other way round; the table knows.
    bits = int(item.LUTDescriptor[2])
    highest = int(_table(item.LUTData, int(item.LUTDescriptor[0]) or 2**16).max())
    return max(bits if 1 <= bits <= 16 else 16, highest.bit_length())


def _palette_bits(header: Dataset) -> int:
    bits = int(header.RedPaletteColorLookupTableDescriptor[2])
    return 8 if bits <= 8 else 16


def _macro(header: Dataset, name: str, index: int) -> Dataset:
    # PS3.3 C.7.6.16.1: the frame's own item, then the one all frames share, then the image itself.
    groups = header.get("PerFrameFunctionalGroupsSequence") or []
    own = [groups[index]] if index < len(groups) else []
    for item in (*own, *(header.get("SharedFunctionalGroupsSequence") or [])):
        if item.get(name):
            found: Dataset = item[name].value[0]
            return found
    return header


def _number(item: Dataset, keyword: str) -> float | None:
    value = item.get(keyword)
    if value is None or value == "":
        return None
    first = value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value
    number = float(first)
    return number if np.isfinite(number) else None
