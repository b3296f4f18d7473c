"""From stored values to what a reader sees: float32 in [0, 1], white is bright, one frame at a time.

The grayscale pipeline is PS3.3 C.11: Modality LUT, VOI LUT, Presentation LUT. Enhanced multi-frame images
carry their tables per frame (PS3.3 C.7.6.16), so every table is looked up for the frame at hand.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from casebook.errors import UnreadablePixels
from codestreams.description import photometric_interpretation
from worker.reader.decode import (
    DEFAULT_MAX_FRAME_BYTES,
    Fault,
    Picture,
    open_picture,
    plain_faults,
    stored_frames,
)
from worker.reader.edge_marks import find_edge_marks, values_apart, without_marks
from worker.reader.picture_kind import FILM_MODALITIES

#: Share of the pixels at either end that a picture without a window does not have to show, in percent.
_OUTSIDE_PERCENT = 2.0
#: What a header says in larger numbers, no pixel can be reckoned with.
_LARGEST = 1e30
#: How far from the rest, in parts of its range, a lowest or highest value is still part of the picture.
_NEAR = 0.2

#: So many times white may the largest entry of a table be whose descriptor states fewer bits than it needs.
_ROUNDED_UP = 1.02
#: Bits of the entries of tables as they are made (PS3.3 C.11.1.1).
_DEPTHS_OF_TABLES = frozenset({8, 10, 12, 14, 16})

#: Up to this ratio of its sides a pixel is square; over the other one what is stated makes no picture.
_SQUARE, _FLATTEST = 1.02, 8.0

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One frame as it is shown, and what is no longer in it."""

    #: Shape (rows, columns) for grey or (rows, columns, 3) for colour, in [0, 1].
    frame: Frame
    #: Whether marks at its edge were left out.
    lacks_marks: bool = False


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
    yield from (one.frame for one in rendered_frames(picture, indices, window=window))


def rendered_frames(
    picture: Picture, indices: Sequence[int] | None = None, *, window: Window | None = None
) -> Iterator[Rendered]:
    """Render frames as `frames` does, and say of each what is no longer in it.

    Raises
    ------
    UnreadablePixels
        When the picture cannot be decoded or its tables cannot be used.
    """
    wanted = range(picture.frame_count) if indices is None else indices
    for index, stored in zip(wanted, stored_frames(picture, indices), strict=True):
        with plain_faults(Fault.BAD_LOOKUP_TABLE):
            rendered = render(stored, picture.header, index, window)
            tall = pixel_height(picture.header, index)
            yield rendered if tall == 1 else replace(rendered, frame=with_square_pixels(rendered.frame, tall))


def render(stored: NDArray[Any], header: Dataset, index: int = 0, window: Window | None = None) -> Rendered:
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
    photometric = photometric_interpretation(header)
    if photometric == "PALETTE COLOR":
        with plain_faults(Fault.BAD_COLOUR):
            return Rendered(frame=_coloured(stored, header))
    if stored.ndim == 3:
        if photometric.startswith("MONOCHROME"):
            raise UnreadablePixels(Fault.BAD_COLOUR)
        return Rendered(frame=_unit(stored, _bits_stored(stored, header)))  # YBR became RGB when it was decoded
    if photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise UnreadablePixels(Fault.BAD_COLOUR)
    values, has_modality_lut = modality_values(stored, header, index)
    shown = _voi(values, stored, header, index, window, has_modality_lut=has_modality_lut)
    # PS3.3 C.11.6: INVERSE repeats what MONOCHROME1 says and does not undo it.
    shape = str(header.get("PresentationLUTShape") or "").strip().upper()
    if photometric == "MONOCHROME1" or shape == "INVERSE":
        return Rendered(frame=np.float32(1) - shown.frame, lacks_marks=shown.lacks_marks)
    return shown


def pixel_height(header: Dataset, index: int = 0) -> float:
    """Return the height of a pixel over its width (PS3.3 C.7.6.3.1.7, 10.7.1.3); 1 where nothing says otherwise."""
    measures = _macro(header, "PixelMeasuresSequence", index)
    for item, keyword in (
        (header, "PixelAspectRatio"),
        (measures, "PixelSpacing"),
        (header, "ImagerPixelSpacing"),
        (header, "NominalScannedPixelSpacing"),
    ):
        numbers = _numbers(item, keyword)
        if len(numbers) == 2 and numbers[0] and numbers[1] and min(numbers[0], numbers[1]) > 0:
            tall = numbers[0] / numbers[1]
            return tall if _SQUARE < max(tall, 1 / tall) < _FLATTEST else 1.0
    return 1.0


def with_square_pixels(frame: Frame, tall: float) -> Frame:
    """Widen or heighten a frame whose pixels are not square, as a viewer does; nothing is thrown away."""
    rows, columns = frame.shape[:2]
    size = (columns, round(rows * tall)) if tall > 1 else (round(columns / tall), rows)
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.BILINEAR))
        for plane in (np.moveaxis(frame, -1, 0) if frame.ndim == 3 else [frame])
    ]
    wide: Frame = np.stack(planes, axis=-1) if frame.ndim == 3 else planes[0]
    return wide


def modality_values(stored: NDArray[Any], header: Dataset, index: int = 0) -> tuple[Values, bool]:
    """Apply the Modality LUT or the rescale slope and intercept (PS3.3 C.11.1).

    Returns
    -------
        Values in the unit of the modality (Hounsfield units for CT), same shape, and whether they are others
        than the stored ones.

    Raises
    ------
    UnreadablePixels
        When the lookup table is damaged.
    """
    # 24 bits of float32 hold every 16-bit value exactly.
    kind = np.float32 if stored.dtype.itemsize <= 2 else np.float64
    if _has_table(header, "ModalityLUTSequence"):
        item = header.ModalityLUTSequence[0]
        return _looked_up(stored, item, header, _stored_range(stored, header)).astype(kind), True
    slope, intercept = _rescale(header, index)
    values = np.nan_to_num(stored.astype(kind))
    if (slope, intercept) == (1, 0):
        return values, False
    return values * kind(slope) + kind(intercept), True


def _rescale(header: Dataset, index: int) -> tuple[float, float]:
    rescale = _macro(header, "PixelValueTransformationSequence", index)
    slope, intercept = _number(rescale, "RescaleSlope"), _number(rescale, "RescaleIntercept")
    if max(abs(slope or 0), abs(intercept or 0)) > _LARGEST:
        raise UnreadablePixels(Fault.BAD_HEADER)
    # A slope of zero would turn the picture into one grey: some converters write it and mean "none".
    return slope or 1.0, intercept or 0.0


def _voi(
    values: Values,
    stored: NDArray[Any],
    header: Dataset,
    index: int,
    window: Window | None,
    *,
    has_modality_lut: bool,
) -> Rendered:
    # PS3.3 C.11.2
    if window is not None:
        return Rendered(frame=windowed(values, window))
    voi = _macro(header, "FrameVOILUTSequence", index)
    if _has_table(voi, "VOILUTSequence"):
        item = voi.VOILUTSequence[0]
        table = _looked_up(np.rint(values).astype(np.int64), item, header, _modality_range(stored, header, index))
        return Rendered(frame=_unit(table, lookup_bits(item, header)))
    own = _own_window(voi, values)
    if own is not None:
        return Rendered(frame=windowed(values, own))
    bits = _bits_stored(stored, header)
    if bits <= 8 and stored.dtype.kind == "u" and not has_modality_lut:
        return Rendered(frame=_unit(stored, bits))  # made for the screen: black and white mean something already
    return _over_its_range(values, stored, header, index)


def _over_its_range(values: Values, stored: NDArray[Any], header: Dataset, index: int) -> Rendered:
    inside = _without_padding(values, stored, header)
    low, high = shown_range(inside)
    if str(header.get("Modality") or "").strip() not in FILM_MODALITIES:
        return Rendered(frame=_stretched(values, low, high))
    marks = find_edge_marks(values, values_apart(inside, _modality_range(stored, header, index)))
    if marks is None:
        return Rendered(frame=_stretched(values, low, high))
    return Rendered(frame=_stretched(without_marks(values, marks), low, high), lacks_marks=True)


def _own_window(voi: Dataset, values: Values) -> Window | None:
    # PS3.3 C.11.2.1.2: several windows are alternative views of equal right; one outside of the picture shows none.
    name = str(voi.get("VOILUTFunction") or "LINEAR").strip().upper().replace(" ", "_")
    function = VoiFunction(name) if name in set(VoiFunction) else VoiFunction.LINEAR
    windows = [
        Window(center=center, width=width, function=function)
        for center, width in zip(_numbers(voi, "WindowCenter"), _numbers(voi, "WindowWidth"), strict=False)
        if center is not None and width is not None and 0 < width < _LARGEST and abs(center) < _LARGEST
    ]
    low, high = float(values.min()), float(values.max())
    seen = [one for one in windows if one.center - one.width / 2 <= high and one.center + one.width / 2 >= low]
    return next(iter(seen or windows), None)


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


def shown_range(inside: Values) -> tuple[float, float]:
    """Choose the range to show of a picture that has no window.

    A marker of lead, a dead detector line or a burnt-in letter must not set the contrast of everything else: the
    range is that of nearly all pixels, and goes to the lowest and the highest only where those are near.
    """
    if not inside.size:
        return 0.0, 0.0
    lowest, middle, highest = float(inside.min()), float(np.median(inside)), float(inside.max())
    # Where most of the picture is background, what is not counts.
    usual = inside[inside != middle] if middle in {lowest, highest} else inside
    if not usual.size:
        return lowest, highest
    low = float(np.percentile(usual, _OUTSIDE_PERCENT, method="lower"))
    high = float(np.percentile(usual, 100 - _OUTSIDE_PERCENT, method="higher"))
    if high <= low:
        return lowest, highest
    margin = _NEAR * (high - low)
    return max(lowest, low - margin), min(highest, high + margin)


def _stretched(values: Values, low: float, high: float) -> Frame:
    if high <= low:
        return np.zeros(values.shape, dtype=np.float32)
    stretched: Frame = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return stretched


def _without_padding(values: Values, stored: NDArray[Any], header: Dataset) -> Values:
    # PS3.3 C.7.5.1.1.2: padding is no picture and must not set the contrast of it.
    keyword = "PixelPaddingValue" if stored.dtype.kind in "iu" else "FloatPixelPaddingValue"
    padding = _number(header, keyword)
    if padding is None:
        return values
    limit = _number(header, "PixelPaddingRangeLimit")
    bounds = [padding, padding if limit is None else limit]
    if stored.dtype.kind == "i":
        # The VR is unsigned in files without explicit VR.
        bounds = [bound - 2**16 if bound >= 2**15 and stored.dtype.itemsize == 2 else bound for bound in bounds]
    return values[(stored < min(bounds)) | (stored > max(bounds))]


def _has_table(item: Dataset, keyword: str) -> bool:
    # Converters leave empty lookup tables behind; the picture is whole without them.
    return bool(item.get(keyword)) and item[keyword].value[0].get("LUTData") is not None


def _bits_stored(stored: NDArray[Any], header: Dataset) -> int:
    return int(header.get("BitsStored") or 8 * stored.dtype.itemsize)


def _stored_range(stored: NDArray[Any], header: Dataset) -> tuple[float, float]:
    # What values of so many bits can be.
    bits = _bits_stored(stored, header)
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if stored.dtype.kind == "i" else (0.0, 2.0**bits - 1)


def _modality_range(stored: NDArray[Any], header: Dataset, index: int) -> tuple[float, float]:
    if _has_table(header, "ModalityLUTSequence"):
        return 0.0, 2.0 ** lookup_bits(header.ModalityLUTSequence[0], header) - 1
    slope, intercept = _rescale(header, index)
    low, high = sorted(bound * slope + intercept for bound in _stored_range(stored, header))
    return low, high


def _looked_up(values: NDArray[Any], item: Dataset, header: Dataset, bounds: tuple[float, float]) -> NDArray[np.int64]:
    entries, first = int(item.LUTDescriptor[0]), int(item.LUTDescriptor[1])
    table = _table(item.LUTData, entries, header)
    return _mapped(values, table, first, bounds)


def _mapped(
    values: NDArray[Any], table: NDArray[np.int64], first: int, bounds: tuple[float, float]
) -> NDArray[np.int64]:
    # PS3.3 C.11.1.1: what lies outside of the table takes its first or last entry.
    place = values.astype(np.int64) - first_mapped_value(first, len(table), bounds)
    return table[np.clip(place, 0, len(table) - 1)]


def first_mapped_value(first: int, entries: int, bounds: tuple[float, float]) -> int:
    """Read the second value of a descriptor with the sign of what goes into the table (PS3.3 C.11.1.1, C.11.2.1.1).

    Its VR is unsigned in files without explicit VR and in many with it, so the table is laid where it covers more
    of the values that can come.

    Parameters
    ----------
    first
        As the file has it.
    entries
        Of the table.
    bounds
        The lowest and the highest value that can come: stored, or rescaled.
    """
    low, high = bounds
    unsigned = first % 2**16
    signed = unsigned - 2**16 if unsigned >= 2**15 else unsigned
    covered = {start: min(high, start + entries - 1.0) - max(low, start) for start in (unsigned, signed)}
    likely, other = (signed, unsigned) if low < 0 else (unsigned, signed)
    return other if max(covered[other], 0) > max(covered[likely], 0) else likely


def _table(data: Any, entries: int, header: Dataset) -> NDArray[np.int64]:
    # PS3.3 C.11.1.1: entries are words, or bytes of which two share a word; 65536 entries are written as zero.
    entries = entries % 2**16 or 2**16
    order = ">" if getattr(header, "original_encoding", (None, None))[1] is False else "<"
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], dtype=f"{order}u2").astype("<u2")
        # A last byte without its other half is one entry of a byte each, or a stray one.
        octets = np.concatenate([words.view(np.uint8), np.frombuffer(data[len(data) // 2 * 2 :], dtype=np.uint8)])
    else:
        words = (np.atleast_1d(np.asarray(data, dtype=np.int64)) % 2**16).astype("<u2")
        octets = words.view(np.uint8)
    is_packed = entries > 1 and octets.size in {entries, entries + 1}
    table = (octets if is_packed else words).astype(np.int64)
    refuse_short_table(table.size, entries)
    return table[:entries]


def refuse_short_table(length: int, entries: int) -> None:
    """Refuse a lookup table with fewer entries than its descriptor says.

    Raises
    ------
    UnreadablePixels
        When entries are missing.
    """
    if length < entries:
        raise UnreadablePixels(Fault.BAD_LOOKUP_TABLE)


def lookup_bits(item: Dataset, header: Dataset) -> int:
    """Count the bits that the largest entry of a table needs; its descriptor often says 16 whatever it holds.

    The bits and not the largest entry itself: a table that is dark on purpose stays dark.
    """
    stated = int(item.LUTDescriptor[2]) if len(item.LUTDescriptor) > 2 else 0
    return _bits_of(_table(item.LUTData, int(item.LUTDescriptor[0]), header), {stated})


def _bits_of(table: NDArray[Any], stated: AbstractSet[int]) -> int:
    largest = int(table.max())
    bits = max(largest.bit_length(), 1)
    below = bits - 1
    # 4096 in a table of 12 bits is its white, rounded up; so is a little more where the descriptor says 12.
    if largest == 1 << below and below in _DEPTHS_OF_TABLES | stated:
        return below
    if below in stated and below >= min(_DEPTHS_OF_TABLES) and largest < (1 << below) * _ROUNDED_UP:
        return below
    return bits


def _coloured(stored: NDArray[Any], header: Dataset) -> Frame:
    # PS3.3 C.7.6.3.1.5 and C.7.6.3.1.6; segmented tables are expanded by pydicom.
    if header.get("RedPaletteColorLookupTableData") is None:
        colours = apply_color_lut(stored, header)
        return _unit(colours, palette_bits(colours))
    bounds = _stored_range(stored, header)
    planes, tables, stated = [], [], set()
    for colour in ("Red", "Green", "Blue"):
        entries, first, bits = (int(number) for number in header[f"{colour}PaletteColorLookupTableDescriptor"].value)
        table = _table(header[f"{colour}PaletteColorLookupTableData"].value, entries, header)
        planes.append(_mapped(stored, table, first, bounds))
        tables.append(table)
        stated.add(bits)
    return _unit(np.stack(planes, axis=-1), palette_bits(np.concatenate(tables), stated))


def palette_bits(entries: NDArray[Any], stated: AbstractSet[int] = frozenset()) -> int:
    """Count the bits that the largest entry of a palette needs, and never fewer than a screen has."""
    return max(_bits_of(entries, stated), 8)


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
    return next(iter(_numbers(item, keyword)), None)


def _numbers(item: Dataset, keyword: str) -> list[float | None]:
    value = item.get(keyword)
    if value is None or value == "":
        return []
    several = value if hasattr(value, "__len__") and not isinstance(value, str) else [value]
    numbers = [None if one is None or one == "" else float(one) for one in several]
    return [one if one is not None and np.isfinite(one) else None for one in numbers]
