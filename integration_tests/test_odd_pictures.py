"""Odd and damaged pictures of one phantom: each shows what the undamaged one shows, or is refused with its sentence.

The undamaged phantom is the reference: foreign readers follow the descriptor of a table and leave High Bit alone.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import DataElement, Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from casebook.errors import UnreadablePixels
from integration_tests.foreign import program, run
from integration_tests.odd_studies.checks import BACKED, STREAMS, TABLES, taken_out
from training.phantom.codecs import compress
from training.phantom.dicom import Modality, Photometric, Storage, build_study
from worker.reader import decode as decode_module
from worker.reader import pixels as pixels_module
from worker.reader.decode import Fault, open_picture, stored_values
from worker.reader.pixels import Frame, frames, rendered_frames

CODECS = (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless)
#: The largest mean difference that a draft may be made from.
CLOSE = 0.02
Change = Callable[[Dataset], None]


def phantom(
    seed: int = 3,
    *,
    bits: int = 12,
    modality: Modality = Modality.DX,
    photometric: Photometric = Photometric.MONOCHROME2,
    codec: UID = ExplicitVRLittleEndian,
) -> Dataset:
    storage = Storage(modality=modality, photometric=photometric, bits_stored=bits, transfer_syntax_uid=codec)
    return build_study(seed, storage=storage).dataset


def written(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def shown(source: Dataset | Path) -> Frame:
    return next(frames(source))


def far(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.abs(one - other).mean())


def stored(dataset: Dataset) -> NDArray[np.uint16]:
    return np.frombuffer(dataset.PixelData, dtype="<u2").reshape(dataset.Rows, dataset.Columns)


def store(dataset: Dataset, values: NDArray[Any]) -> None:
    dataset.PixelData = values.astype("<u2").tobytes()


def fault(source: Dataset | Path) -> str:
    with pytest.raises(UnreadablePixels) as caught:
        shown(source)
    return str(caught.value)


# ------------------------------------------------------------------------------- tables and windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A VOI LUT that shows what the window of the phantom shows."""

    first: int
    entries: NDArray[np.int64]

    def item(self, *, declared: int, vr: str = "US", packed: bool = False, odd: bool = False) -> Sequence:
        item = Dataset()
        count = len(self.entries) % 2**16
        first = self.first if vr == "SS" else self.first % 2**16
        # Written as bytes, because a descriptor has one VR and files hold what does not fit it.
        item.add_new("LUTDescriptor", vr, [count, first, declared])
        content = self.entries.astype("u1" if packed else "<u2").tobytes()
        item.add_new("LUTData", "OW", content + (b"\0" if len(content) % 2 and not odd else b""))
        return Sequence([item])


def table_of(dataset: Dataset, depth: int, *, low: int = 0, count: int | None = None) -> Table:
    """Turn the window of an image into a table over the values from `low` on."""
    bits = int(dataset.BitsStored)
    values = np.arange(count or 2**bits) + low
    center, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
    display = np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    del dataset.WindowCenter, dataset.WindowWidth
    return Table(first=low, entries=np.rint(display * (2**depth - 1)).astype(np.int64))


@pytest.mark.parametrize("bits", [12, 14, 16])
@pytest.mark.parametrize(("needed", "declared"), [(12, 16), (10, 16), (8, 16), (12, 8), (16, 12), (14, 14), (12, 0)])
def test_the_bits_of_the_largest_entry_decide_how_bright_a_table_is(bits: int, needed: int, declared: int) -> None:
    undamaged = shown(phantom(bits=bits))
    dataset = phantom(bits=bits)
    dataset.VOILUTSequence = table_of(dataset, needed).item(declared=declared)

    assert far(shown(dataset), undamaged) < CLOSE


@pytest.mark.parametrize(("depth", "declared"), [(8, 16), (10, 16), (12, 16), (12, 12), (12, 13), (14, 16), (11, 11)])
def test_a_table_whose_white_is_a_power_of_two_is_as_bright_as_one_with_a_step_less(depth: int, declared: int) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    table = table_of(dataset, depth)
    entries = np.where(table.entries == 2**depth - 1, 2**depth, table.entries)
    dataset.VOILUTSequence = Table(first=0, entries=entries).item(declared=declared)

    assert far(shown(dataset), undamaged) < CLOSE


@pytest.mark.parametrize("over", [1, 4, 60])
def test_a_table_of_stated_bits_may_be_a_little_brighter_than_they_can_say(over: int) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    table = table_of(dataset, 12)
    entries = np.where(table.entries == 4095, 4095 + over, table.entries)
    dataset.VOILUTSequence = Table(first=0, entries=entries).item(declared=12)

    assert far(shown(dataset), undamaged) < CLOSE


def test_a_table_of_sixteen_bits_that_ends_in_the_middle_is_dark_on_purpose() -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    table = table_of(dataset, 16)
    dataset.VOILUTSequence = Table(first=0, entries=(table.entries + 1) // 2).item(declared=16)

    assert int((table.entries + 1).max() // 2) == 2**15
    assert far(shown(dataset), undamaged / 2) < CLOSE


@pytest.mark.parametrize("peak", [0.55, 0.75, 0.95])
def test_a_table_that_is_dark_on_purpose_stays_dark(peak: float) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    table = table_of(dataset, 12)
    dataset.VOILUTSequence = Table(first=0, entries=np.rint(table.entries * peak).astype(np.int64)).item(declared=12)

    assert far(shown(dataset), undamaged * peak) < CLOSE
    assert shown(dataset).max() < peak + 0.01


@pytest.mark.parametrize("photometric", list(Photometric))
def test_a_table_comes_before_the_inversion(photometric: Photometric) -> None:
    dataset = phantom(photometric=photometric, modality=Modality.CR)
    undamaged = shown(dataset)
    dataset.VOILUTSequence = table_of(dataset, 12).item(declared=16)

    assert far(shown(dataset), undamaged) < CLOSE


@pytest.mark.parametrize("intercept", [-1, -500, -1024, -2048, -4000])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_first_value_of_a_table_has_the_sign_of_the_rescaled_values(
    intercept: int, syntax: UID, tmp_path: Path
) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    table = table_of(dataset, 12)
    dataset.RescaleIntercept, dataset.RescaleSlope = intercept, 1
    dataset.VOILUTSequence = Table(first=intercept, entries=table.entries).item(declared=16)
    dataset.file_meta.TransferSyntaxUID = syntax

    assert far(shown(written(dataset, tmp_path / "image.dcm")), undamaged) < CLOSE


@pytest.mark.parametrize("first", [32768, 40000, 50000])
def test_a_large_first_value_of_unsigned_values_stays_large(first: int) -> None:
    dataset = phantom(bits=16)
    values = stored(dataset)
    undamaged = shown(dataset)
    table = table_of(dataset, 12)
    dataset.VOILUTSequence = Table(first=first, entries=table.entries[first:]).item(declared=12)

    assert far(shown(dataset), np.where(values < first, shown(dataset), undamaged)) < CLOSE


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_signed_image_with_a_modality_lut_finds_its_first_entry(bits: int) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    half = 2 ** (bits - 1)
    values = (stored(dataset).astype(np.int32) >> (12 - bits) if bits < 12 else stored(dataset).astype(np.int32)) - half
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = max(bits, 12), max(bits, 12) - 1, 1
    store(dataset, values % 2**16)
    entries = np.arange(2 ** max(bits, 12)) << (12 - bits) if bits < 12 else np.arange(2**bits)
    del dataset.RescaleSlope, dataset.RescaleIntercept
    dataset.ModalityLUTSequence = Table(first=-half, entries=entries % 2**16).item(declared=16)

    assert far(shown(dataset), undamaged) < CLOSE


@pytest.mark.parametrize("case", ["65536 entries", "bytes", "bytes, odd", "words for bytes", "a stray byte", "numbers"])
def test_a_table_is_read_however_its_entries_are_packed(case: str) -> None:
    bits = 16 if case == "65536 entries" else 12
    dataset = phantom(bits=bits)
    undamaged = shown(dataset)
    if case == "bytes, odd":
        table = table_of(dataset, 8, count=4095)
    else:
        table = table_of(dataset, 8 if "bytes" in case else 12)
    sequence = table.item(declared=8, packed=case in {"bytes", "bytes, odd"}, odd=case == "bytes, odd")
    if case == "a stray byte":
        sequence[0].LUTData += b"\x07"
    if case == "numbers":
        sequence[0].add_new("LUTData", "US", [int(entry) for entry in table.entries])
    dataset.VOILUTSequence = sequence

    assert far(shown(dataset), undamaged) < CLOSE


@pytest.mark.parametrize("kept", [0, 1, 100, 4094])
def test_a_table_that_lacks_entries_is_refused(kept: int) -> None:
    dataset = phantom()
    sequence = table_of(dataset, 12).item(declared=12)
    sequence[0].LUTData = sequence[0].LUTData[: 2 * kept]
    dataset.VOILUTSequence = sequence

    assert fault(dataset) == Fault.BAD_LOOKUP_TABLE


@pytest.mark.parametrize("size", [3, 5, 8])
@pytest.mark.parametrize("seed", [3, 4, 9])
def test_one_marker_does_not_set_the_contrast_of_a_picture_without_a_window(size: int, seed: int) -> None:
    plain, marked = phantom(seed), phantom(seed)
    for dataset in (plain, marked):
        del dataset.WindowCenter, dataset.WindowWidth
    values = stored(marked).copy()
    values[4 : 4 + size, 4 : 4 + size] = 4095
    store(marked, values)
    away = np.ones(values.shape, dtype=bool)
    away[4 : 4 + size, 4 : 4 + size] = False

    assert far(shown(marked)[away], shown(plain)[away]) < 3 * CLOSE
    assert np.ptp(shown(marked)[away]) > 0.75


@pytest.mark.parametrize("is_white", [False, True])
@pytest.mark.parametrize("place", [0, 4])
@pytest.mark.parametrize("size", [3, 8, 20])
def test_a_mark_at_the_edge_of_a_film_without_a_window_is_not_shown(is_white: bool, place: int, size: int) -> None:
    plain, marked = phantom(), phantom()
    # The film at the other end of the range, so that the mark is far from all of it.
    values = (stored(plain) // 2 + (0 if is_white else 2000)).astype(np.uint16)
    for dataset in (plain, marked):
        del dataset.WindowCenter, dataset.WindowWidth
        store(dataset, values)
    values = values.copy()
    values[place : place + size, place : place + size] = 4095 if is_white else 0
    store(marked, values)
    mark = np.zeros(values.shape, dtype=bool)
    mark[place : place + size, place : place + size] = True

    assert far(shown(marked)[~mark], shown(plain)[~mark]) < 4 * CLOSE
    assert np.abs(shown(marked)[mark] - shown(plain)[mark]).mean() < 0.2
    assert [next(rendered_frames(open_picture(one))).lacks_marks for one in (plain, marked)] == [False, True]


@pytest.mark.parametrize("is_white", [False, True])
@pytest.mark.parametrize(("row", "size"), [(40, 3), (100, 12), (150, 4), (20, 30)])
@pytest.mark.parametrize("has_letter", [False, True])
def test_what_saturates_in_the_patient_is_shown_as_sharp_as_it_is(
    is_white: bool, row: int, size: int, *, has_letter: bool
) -> None:
    dataset = phantom()
    del dataset.WindowCenter, dataset.WindowWidth
    values = (stored(dataset) // 2 + (0 if is_white else 2000)).astype(np.uint16)
    end = 4095 if is_white else 0
    # A pacemaker, a clip or contrast, up to the end of what the bits can hold.
    values[row : row + size, 150 : 150 + size] = end
    if has_letter:
        values[2:8, 2:8] = end
    store(dataset, values)

    assert (shown(dataset)[values == end] == float(is_white)).all()


@pytest.mark.parametrize("modality", ["CT", "MR", "XA", "RF"])
def test_nothing_is_taken_out_of_a_slice(modality: str) -> None:
    dataset = phantom()
    del dataset.WindowCenter, dataset.WindowWidth
    values = (stored(dataset) // 2).astype(np.uint16)
    values[2:8, 2:8] = 4095
    store(dataset, values)
    dataset.Modality = modality

    assert (shown(dataset)[2:8, 2:8] == 1).all()


def test_metal_on_a_film_without_a_window_is_shown() -> None:
    dataset = phantom()
    del dataset.WindowCenter, dataset.WindowWidth
    values = stored(dataset).astype(np.int64)
    across, down = np.meshgrid(np.arange(values.shape[1]) - 150, np.arange(values.shape[0]) - 150)
    # A clip of metal, white in its middle, with the soft edge that every object has on a film.
    metal = np.clip(1.5 - np.hypot(across, down) / 5, 0, 1)
    values = np.rint(values + metal * (4095 - values)).astype(np.int64)
    store(dataset, values.astype(np.uint16))

    assert shown(dataset)[150, 150] == 1
    assert (shown(dataset)[values == 4095] == 1).all()


def test_a_hot_spot_that_is_no_end_of_what_the_bits_can_hold_is_no_mark() -> None:
    dataset = phantom()
    del dataset.WindowCenter, dataset.WindowWidth
    values = stored(dataset) // 2
    values[150:153, 150:153] = 3500
    store(dataset, values)

    assert (shown(dataset)[150:153, 150:153] == 1).all()


def test_a_large_part_of_one_value_is_no_mark() -> None:
    dataset = phantom()
    del dataset.WindowCenter, dataset.WindowWidth
    values = stored(dataset).copy()
    values[100:160, 100:160] = 4095
    store(dataset, values)

    assert (shown(dataset)[100:160, 100:160] == 1).all()


@pytest.mark.parametrize("padding", [0, 3000, 4095])
def test_padding_is_left_out_of_the_range(padding: int) -> None:
    dataset = phantom()
    del dataset.WindowCenter, dataset.WindowWidth
    undamaged = shown(dataset)[30:]
    values = stored(dataset).copy()
    values[:30] = padding
    store(dataset, values)
    dataset.add_new("PixelPaddingValue", "US", padding)

    assert far(shown(dataset)[30:], undamaged) < 3 * CLOSE


def test_a_signed_padding_value_is_read_as_such_in_a_file_without_explicit_vr(tmp_path: Path) -> None:
    dataset = phantom()
    del dataset.WindowCenter, dataset.WindowWidth
    values = stored(dataset).astype(np.int32) - 1024
    values[:50] = -2000
    store(dataset, values % 2**16)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, 1
    without = shown(dataset)
    dataset.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    picture = shown(written(dataset, tmp_path / "image.dcm"))

    assert np.ptp(picture[50:]) > np.ptp(without[50:]) + 0.2


@pytest.mark.parametrize(
    ("centers", "widths"),
    [
        ([9000, None], [10, None]),
        ([-500, None], [1, None]),
        ([100, None], [0, None]),
        ([None], [None]),
        ([None, 1], [None]),
    ],
)
def test_of_several_windows_the_first_that_shows_the_picture_counts(
    centers: list[float | None], widths: list[float | None]
) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    center, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
    dataset.WindowCenter = [center if one is None else one for one in centers]
    dataset.WindowWidth = [width if one is None else one for one in widths]

    assert far(shown(dataset), undamaged) < CLOSE


@pytest.mark.parametrize("function", ["LINEAR", "linear", "LINEAR_EXACT", "SIGMOID", "UNKNOWN", None])
@pytest.mark.parametrize("slope", [1, 2, 0.25, -1])
def test_windows_are_those_of_an_independent_reader(function: str | None, slope: float) -> None:
    dataset = phantom()
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, -100
    dataset.WindowCenter, dataset.WindowWidth = float(dataset.WindowCenter) * slope - 100, 1500
    independent = dcmread(_in_memory(dataset))
    independent.VOILUTFunction = function if function in {"LINEAR_EXACT", "SIGMOID"} else "LINEAR"
    if function:
        dataset["VOILUTFunction"] = DataElement("VOILUTFunction", "CS", function, validation_mode=0)
    expected = apply_voi_lut(apply_modality_lut(independent.pixel_array, independent), independent)
    low, high = _range_of(independent)

    assert far(shown(dataset), (expected - low) / (high - low)) < 0.001


def _range_of(dataset: Dataset) -> tuple[float, float]:
    # pydicom scales a window to the range of the rescaled values.
    bounds = [
        end * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept) for end in (0, 2**dataset.BitsStored - 1)
    ]
    return bounds[0], bounds[1]


def _in_memory(dataset: Dataset) -> BytesIO:
    target = BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    target.seek(0)
    return target


@pytest.mark.parametrize("slope", [0, "0.0", None])
def test_a_rescale_slope_of_zero_or_nothing_means_none(slope: Any) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    dataset.RescaleSlope = slope

    assert far(shown(dataset), undamaged) == 0


@pytest.mark.peers
@pytest.mark.parametrize("bits", [12, 14, 16])
@pytest.mark.parametrize("photometric", list(Photometric))
@pytest.mark.parametrize("function", ["LINEAR", "SIGMOID"])
def test_windows_are_those_of_dcmtk(bits: int, photometric: Photometric, function: str, tmp_path: Path) -> None:
    dataset = phantom(bits=bits, photometric=photometric, modality=Modality.CR)
    dataset.VOILUTFunction = function
    path = written(dataset, tmp_path / "image.dcm")

    run([program("dcm2pnm"), "--write-16-bit-pnm", "+Wi", "1", path, tmp_path / "image.pgm"])

    _, _, _, *numbers = (tmp_path / "image.pgm").read_text(encoding="ascii").split("\n", 3)
    expected = np.array(numbers[0].split(), dtype=float).reshape(dataset.Rows, dataset.Columns) / 65535
    assert far(shown(path), expected) < 0.001


@pytest.mark.parametrize("shape", ["INVERSE", "inverse", " INVERSE ", "Inverse"])
def test_a_presentation_shape_is_read_however_it_is_spelt(shape: str) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    store(dataset, 4095 - stored(dataset).astype(np.int64))
    dataset.WindowCenter = 4096 - float(dataset.WindowCenter)
    dataset["PresentationLUTShape"] = DataElement("PresentationLUTShape", "CS", shape, validation_mode=0)

    assert far(shown(dataset), undamaged) < 0.001


@pytest.mark.parametrize(
    ("keyword", "sides"),
    [("PixelAspectRatio", [2, 1]), ("PixelSpacing", [0.4, 0.2]), ("ImagerPixelSpacing", [0.3, 0.15])],
)
@pytest.mark.parametrize("is_tall", [True, False])
def test_pixels_that_are_not_square_are_made_so(keyword: str, sides: list[float], *, is_tall: bool) -> None:
    dataset = phantom()
    dataset.Rows, dataset.Columns = dataset.Rows // 2 * 2, dataset.Columns // 2 * 2
    values = np.frombuffer(dataset.PixelData, "<u2")[: dataset.Rows * dataset.Columns].reshape(dataset.Rows, -1)
    store(dataset, values)
    undamaged = shown(dataset)
    store(dataset, values[::2] if is_tall else values[:, ::2])
    dataset.Rows, dataset.Columns = (values[::2] if is_tall else values[:, ::2]).shape
    for absent in ("PixelSpacing", "ImagerPixelSpacing"):
        if absent in dataset:
            delattr(dataset, absent)
    setattr(dataset, keyword, sides if is_tall else sides[::-1])

    assert shown(dataset).shape == undamaged.shape
    assert far(shown(dataset), undamaged) < CLOSE


@pytest.mark.parametrize("sides", [[0, 1], [1, 0], [1, 100], [1, 1], [-1, 2]])
def test_sides_of_a_pixel_that_cannot_be_change_nothing(sides: list[int]) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    dataset.PixelAspectRatio = sides

    assert far(shown(dataset), undamaged) == 0


@pytest.mark.parametrize("said", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize(("subsampling", "keeps_rgb"), [("4:2:0", False), ("4:2:2", False), ("4:4:4", True)])
def test_a_jpeg_that_says_its_colours_is_believed(said: str, subsampling: str, *, keeps_rgb: bool) -> None:
    film = (shown(phantom())[..., None] * [255, 160, 90]).astype(np.uint8)
    written_ = BytesIO()
    options = {"keep_rgb": True} if keeps_rgb else {"subsampling": subsampling}
    Image.fromarray(film).save(written_, "JPEG", quality=98, **options)
    dataset = phantom(codec=JPEGLosslessSV1)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, said, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    _wrap(dataset, written_.getvalue())

    assert far(shown(dataset), film.astype(np.float32) / 255) < CLOSE


# ---------------------------------------------------------------------------------------- palettes


@pytest.mark.parametrize("case", ["words", "narrow words", "white of 256", "bytes", "65536 entries", "signed", "odd"])
def test_a_palette_shows_the_colours_it_was_made_of(case: str) -> None:
    dataset = phantom()
    values = (stored(dataset) >> 4).astype(np.int64)
    entries = 255 if case == "odd" else 256
    values = np.minimum(values, entries - 1)
    colours = [np.arange(entries), np.arange(entries)[::-1], np.full(entries, 77)]
    expected = np.stack([colour[values] for colour in colours], axis=-1) / 255
    first = -128 if case == "signed" else 0
    if case == "65536 entries":
        colours = [np.concatenate([colour, np.zeros(2**16 - 256, dtype=int)]) for colour in colours]
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    dataset.PixelRepresentation = int(case == "signed")
    store(dataset, (values + first) % 2**16)
    for name, colour in zip(("Red", "Green", "Blue"), colours, strict=True):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [len(colour) % 2**16, first % 2**16, 16])
        if case in {"bytes", "odd"}:
            content = colour.astype("u1").tobytes()
        else:
            entries_ = np.where((colour == 255) & (case == "white of 256"), 256, colour)
            content = (entries_ * (257 if case == "words" else 1)).astype("<u2").tobytes()
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", content)

    assert far(shown(dataset), expected.astype(np.float32)) < CLOSE


# ------------------------------------------------------------------------------- bits of the header


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("photometric", list(Photometric))
def test_high_bit_is_honoured(bits: int, photometric: Photometric) -> None:
    dataset = phantom(photometric=photometric)
    undamaged = shown(dataset)
    values = stored(dataset)
    if bits == 10:
        values = values >> np.uint16(2)
        dataset.WindowCenter, dataset.WindowWidth = float(dataset.WindowCenter) / 4, float(dataset.WindowWidth) / 4
    dataset.BitsStored, dataset.HighBit = bits, 15
    store(dataset, values << np.uint16(16 - bits))

    assert far(shown(dataset), undamaged) < CLOSE


@pytest.mark.parametrize(
    ("stored_bits", "high_bit"), [(12, 15), (12, 10), (12, 0), (12, 16), (17, 16), (0, 11), (9, 8), (10, 9)]
)
def test_bits_that_the_cells_do_not_have_are_refused_or_change_nothing(stored_bits: int, high_bit: int) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    dataset.BitsStored, dataset.HighBit = stored_bits, high_bit

    try:
        assert far(shown(dataset), undamaged) < CLOSE
    except UnreadablePixels as error:
        assert str(error) in {Fault.BAD_HEADER, Fault.HEADER_CONFLICT}  # noqa: PT017


@pytest.mark.parametrize("bits", [12, 14, 16])
@pytest.mark.parametrize("codec", [ExplicitVRLittleEndian, *CODECS])
def test_a_false_sign_is_refused(bits: int, codec: UID) -> None:
    dataset = phantom(bits=bits, codec=codec)
    dataset.PixelRepresentation = 1

    assert fault(dataset) == Fault.HEADER_CONFLICT


@pytest.mark.parametrize("codec", [ExplicitVRLittleEndian, RLELossless, JPEGLosslessSV1, JPEGLSLossless])
@pytest.mark.parametrize("keyword", ["SamplesPerPixel", "PixelRepresentation", "HighBit"])
def test_what_the_header_leaves_out_has_its_one_meaning(codec: UID, keyword: str, tmp_path: Path) -> None:
    dataset = phantom(codec=codec)
    undamaged = shown(dataset)
    delattr(dataset, keyword)

    assert far(shown(written(dataset, tmp_path / "image.dcm")), undamaged) == 0


@pytest.mark.parametrize("plane", [12, 13, 15])
@pytest.mark.parametrize("declared", [True, False])
def test_an_overlay_in_the_upper_bits_is_not_shown(plane: int, declared: bool) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    values = stored(dataset).copy()
    values[10:40, 10:60:2] |= 1 << plane
    store(dataset, values)
    if declared:
        dataset.add_new(0x60000100, "US", 16)
        dataset.add_new(0x60000102, "US", plane)

    assert far(shown(dataset), undamaged) == 0


# --------------------------------------------------------------------------------- the pixel element


def _rewritten(dataset: Dataset, head: bytes, tail: bytes = b"") -> bytes:
    """Write a native file with another head of its pixel element."""
    content = _in_memory(dataset).getvalue()
    place = content.rindex(b"\xe0\x7f\x10\x00OW\0\0")
    return content[:place] + head + content[place + 12 :] + tail


@pytest.mark.parametrize("vr", [b"OW", b"OB", b"UN"])
@pytest.mark.parametrize("tail", [b"", b"\xfc\xff\xfc\xffOB\0\0\x08\0\0\0" + bytes(range(8))])
def test_pixel_data_is_read_under_any_vr_and_with_something_behind_it(vr: bytes, tail: bytes, tmp_path: Path) -> None:
    dataset = phantom()
    head = b"\xe0\x7f\x10\x00" + vr + b"\0\0" + struct.pack("<L", len(dataset.PixelData))
    path = tmp_path / "image.dcm"
    path.write_bytes(_rewritten(dataset, head, tail))

    assert far(shown(path), shown(dataset)) == 0


@pytest.mark.parametrize("missing", [2, 100, 5000])
def test_what_stands_behind_short_pixel_data_is_no_part_of_it(missing: int, tmp_path: Path) -> None:
    dataset = phantom()
    dataset.PixelData = dataset.PixelData[:-missing]
    tail = b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<L", 8000) + bytes(8000)
    path = tmp_path / "image.dcm"
    path.write_bytes(_in_memory(dataset).getvalue() + tail)

    assert fault(path) == Fault.TRUNCATED


@pytest.mark.parametrize("padding", [b"\0\0", b"\0" * 4096, b"\xff" * 4096, b"\x01\x02"])
def test_padding_behind_the_picture_is_allowed(padding: bytes) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    dataset.PixelData += padding

    assert far(shown(dataset), undamaged) == 0


@pytest.mark.parametrize("attributes", [{"Rows": 56}, {"Rows": 110}, {"Columns": 40}])
@pytest.mark.parametrize("codec", [ExplicitVRLittleEndian, *CODECS])
def test_a_header_that_describes_a_smaller_picture_is_refused(attributes: dict[str, int], codec: UID) -> None:
    dataset = phantom(codec=codec)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)

    assert fault(dataset) in {Fault.TOO_LONG, Fault.SIZE_CONFLICT}


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("codec", [ExplicitVRLittleEndian, *CODECS])
def test_frames_that_are_not_there_are_missed(count: int, codec: UID) -> None:
    dataset = phantom(codec=codec)
    dataset.NumberOfFrames = count

    assert fault(dataset) in {Fault.TRUNCATED, Fault.FRAMES_CONFLICT}


# ----------------------------------------------------------------------------- compressed pixel data


def _stream(dataset: Dataset) -> bytes:
    return next(iter(generate_frames(dataset.PixelData, number_of_frames=1)))


def _wrap(dataset: Dataset, stream: bytes) -> None:
    dataset.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2)])
    dataset["PixelData"].is_undefined_length = True


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bits", [12, 14, 16])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_stream_cut_at_any_of_twenty_points_is_refused(codec: UID, bits: int, end: bytes) -> None:
    dataset = phantom(bits=bits, codec=codec)
    undamaged, stream = shown(dataset), _stream(dataset)
    for point in range(20):
        _wrap(dataset, stream[: round(len(stream) * (0.02 + 0.97 * point / 20))] + end)
        try:
            assert far(shown(dataset), undamaged) < CLOSE, point
        except UnreadablePixels as error:
            assert str(error) in {Fault.TRUNCATED, Fault.DAMAGED}  # noqa: PT017
        else:
            assert point == 19


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("padding", [b"\0\0", b"\0" * 10])
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_whole_streams_are_read_whatever_their_wrapper_lacks(
    codec: UID, padding: bytes, parts: int, tmp_path: Path
) -> None:
    dataset = phantom(codec=codec)
    undamaged, stream = shown(dataset), _stream(dataset) + padding
    length = -(-len(stream) // parts) // 2 * 2 + 2
    pieces = [stream[start : start + length] for start in range(0, len(stream), length)]
    offsets = [sum(len(piece) + 8 for piece in pieces[:index]) for index in range(len(pieces))]
    for table in ([], [0], offsets, [4711] * len(pieces)):
        items = [struct.pack(f"<{len(table)}L", *table), *pieces]
        body = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(one)) + one for one in items)
        content = _in_memory(dataset).getvalue()
        place = content.rindex(b"\xe0\x7f\x10\x00OB\0\0") + 12
        for end in (b"", b"\xfe\xff\xdd\xe0\0\0\0\0"):
            path = tmp_path / "image.dcm"
            path.write_bytes(content[:place] + body + end)

            assert far(shown(path), undamaged) == 0, (table, end)


@pytest.mark.parametrize("codec", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("seed", [3, 4, 9])
def test_eight_stored_bits_in_a_cell_of_sixteen_are_read(codec: UID, seed: int) -> None:
    dataset = phantom(seed)
    undamaged = shown(dataset)
    values = (stored(dataset) >> 4).astype(np.uint8)
    dataset.WindowCenter, dataset.WindowWidth = float(dataset.WindowCenter) / 16, float(dataset.WindowWidth) / 16
    dataset.PixelData = values.tobytes() + b"\0" * (values.size % 2)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    compress(dataset, codec)
    dataset.BitsAllocated = 16

    assert far(shown(dataset), undamaged) < CLOSE


@pytest.mark.parametrize("codec", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
def test_a_stream_with_other_bits_than_the_header_is_followed_or_refused(codec: UID) -> None:
    for bits, said in ((12, 16), (12, 14), (14, 12), (16, 12), (16, 8), (12, 10)):
        dataset = phantom(bits=bits, codec=codec)
        undamaged = shown(dataset)
        dataset.BitsStored, dataset.HighBit = said, said - 1
        try:
            assert far(shown(dataset), undamaged) < CLOSE, (bits, said)
        except UnreadablePixels as error:
            assert str(error) == Fault.HEADER_CONFLICT  # noqa: PT017


def test_a_header_inside_the_data_set_does_not_change_the_transfer_syntax(tmp_path: Path) -> None:
    for number, codec in enumerate((ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1, RLELossless)):
        dataset = phantom(codec=codec)
        undamaged = shown(dataset)
        content = _in_memory(dataset).getvalue()
        end = 144 + struct.unpack("<L", content[140:144])[0]
        uid = b"1.2.840.10008.1.2.4.90"
        head = b"\x02\0\x10\0" + (struct.pack("<L", len(uid)) if codec == ImplicitVRLittleEndian else b"UI\x16\0")
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(content[:end] + head + uid + content[end:])

        assert far(shown(path), undamaged) == 0, codec


# ------------------------------------------------------------------------------------ many at random


def _hole(dataset: Dataset, rng: np.random.Generator) -> None:
    stream = bytearray(_stream(dataset))
    start = int(rng.integers(200, len(stream) - 3000))
    del stream[start : start + int(rng.integers(50, 2000))]
    _wrap(dataset, bytes(stream))


def _zeroed(dataset: Dataset, rng: np.random.Generator) -> None:
    stream = bytearray(_stream(dataset))
    start, length = int(rng.integers(200, len(stream) - 6000)), int(rng.integers(500, 5000))
    stream[start : start + length] = bytes(length)
    _wrap(dataset, bytes(stream))


def _cut_somewhere(dataset: Dataset, rng: np.random.Generator) -> None:
    stream = _stream(dataset)
    end = (b"", b"\xff\xd9", b"\0" * 100)[int(rng.integers(3))]
    _wrap(dataset, stream[: int(rng.integers(500, len(stream) - 20))] + end)


def _other_number(dataset: Dataset, rng: np.random.Generator) -> None:
    keyword, numbers = (
        ("HighBit", (15, 13, 10, 7)),
        ("PixelRepresentation", (1,)),
        ("BitsAllocated", (8, 12, 32)),
        ("Rows", (dataset.Rows - 1, dataset.Rows + 1, 40)),
        ("Columns", (dataset.Columns - 1, dataset.Columns + 1, 40)),
        ("NumberOfFrames", (2, 5)),
        ("SamplesPerPixel", (2, 3)),
    )[int(rng.integers(7))]
    setattr(dataset, keyword, numbers[int(rng.integers(len(numbers)))])


def _other_bits(dataset: Dataset, rng: np.random.Generator) -> None:
    dataset.BitsStored = int(rng.integers(6, 17))
    dataset.HighBit = dataset.BitsStored - 1


@pytest.mark.parametrize("change", [_hole, _zeroed, _cut_somewhere, _other_number, _other_bits])
def test_of_many_odd_pictures_none_is_shown_wrong(
    change: Callable[[Dataset, np.random.Generator], None],
) -> None:
    refused = 0
    for seed in range(24):
        rng = np.random.default_rng([seed, 8])
        dataset = phantom(seed, bits=(12, 14, 16)[seed % 3], codec=CODECS[seed % 4])
        undamaged = shown(dataset)
        change(dataset, rng)
        try:
            picture = shown(dataset)
        except UnreadablePixels as error:
            assert str(error) in set(Fault)  # noqa: PT017
            refused += 1
        else:
            assert picture.shape == undamaged.shape
            assert far(picture, undamaged) < CLOSE, (seed, dataset.file_meta.TransferSyntaxUID.name)

    assert refused >= 5


# --------------------------------------------------------------------------------- each check alone


def _short(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-500]


def _long(dataset: Dataset) -> None:
    dataset.Rows = 60


def _high(dataset: Dataset) -> None:
    dataset.HighBit = 20


def _lacking(dataset: Dataset) -> None:
    sequence = table_of(dataset, 12).item(declared=12)
    sequence[0].LUTData = sequence[0].LUTData[:4000]
    dataset.VOILUTSequence = sequence


@pytest.mark.parametrize(
    ("module", "check", "change"),
    [
        (decode_module, "refuse_too_few_bytes", _short),
        (decode_module, "refuse_another_picture_behind", _long),
        (decode_module, "refuse_impossible_bits", _high),
        (pixels_module, "refuse_short_table", _lacking),
    ],
)
def test_without_its_check_a_wrong_header_would_be_believed(
    module: Any, check: str, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = phantom()
    change(dataset)
    before = fault(dataset)

    monkeypatch.setattr(module, check, lambda *_: None)

    try:
        assert shown(dataset).ndim == 2
    except (UnreadablePixels, OverflowError) as error:
        assert str(error) != before  # noqa: PT017


@pytest.mark.parametrize("rule", ["lookup_bits", "first_mapped_value", "shown_range"])
def test_without_its_rule_a_picture_would_be_another(rule: str) -> None:
    dataset = phantom()
    undamaged = shown(dataset)
    if rule == "shown_range":
        del dataset.WindowCenter, dataset.WindowWidth
        undamaged = shown(dataset)
        values = stored(dataset).copy()
        values[4:8, 4:8] = 4095
        store(dataset, values)
    else:
        dataset.RescaleIntercept = -1024
        dataset.VOILUTSequence = Table(first=-1024, entries=table_of(dataset, 12).entries).item(declared=16)
    assert far(shown(dataset), undamaged) < 3 * CLOSE

    with taken_out([one for one in TABLES if one.name == rule]):
        assert far(shown(dataset), undamaged) > 3 * CLOSE


@pytest.fixture
def everything_off() -> Iterator[None]:
    """Pictures without any check of streams, bits and tables."""
    with taken_out([*STREAMS, *TABLES, *BACKED]):
        yield


def _cut_with_end(dataset: Dataset) -> None:
    stream = _stream(dataset)
    _wrap(dataset, stream[: len(stream) // 2] + b"\xff\xd9")


@pytest.mark.usefixtures("everything_off")
@pytest.mark.parametrize("codec", [ExplicitVRLittleEndian, *CODECS])
def test_with_every_check_off_an_undamaged_picture_is_shown_all_the_same(codec: UID) -> None:
    assert far(shown(phantom(codec=codec)), shown(phantom())) == 0


@pytest.mark.usefixtures("everything_off")
def test_with_every_check_off_damaged_pictures_are_shown() -> None:
    dataset = phantom(codec=JPEGLosslessSV1)
    _cut_with_end(dataset)
    assert far(shown(dataset), shown(phantom())) > CLOSE

    dataset = phantom()
    dataset.PixelRepresentation = 1
    assert far(shown(dataset), shown(phantom())) > CLOSE


# -------------------------------------------------------------------------------- the reported cases


@pytest.mark.corpus
class TestCases:
    @pytest.mark.parametrize(
        "name",
        [
            "jpeg_lossless_16_allocated_8_stored",
            "jpeg_without_sequence_delimiter",
            "no_window_one_saturated_marker_12",
            "voi_lut_narrower_than_descriptor",
            "voi_lut_signed_first_value",
            "highbit_15_bitsstored_12",
        ],
    )
    def test_a_reported_picture_shows_what_the_undamaged_one_shows(self, corpus: Path, name: str) -> None:
        undamaged = shown(corpus / "cases" / "reference" / "1.dcm")

        assert far(shown(corpus / "cases" / name / "1.dcm"), undamaged) < CLOSE

    @pytest.mark.parametrize(
        "name", ["group2_in_dataset_other_ts", "group2_in_dataset_implicit_ts", "group2_in_implicit_dataset"]
    )
    def test_a_picture_with_group_2_in_its_data_set_is_read(self, corpus: Path, name: str) -> None:
        picture = shown(corpus / "cases" / name / "1.dcm")

        assert np.ptp(picture) > 0.7
        assert 0.2 < picture.mean() < 0.6

    def test_a_stream_cut_inside_of_its_fragment_is_refused(self, corpus: Path) -> None:
        assert fault(corpus / "cases" / "jpeg_cut_inside_fragment" / "1.dcm") == Fault.TRUNCATED

    def test_the_undamaged_picture_is_the_one_of_the_file(self, corpus: Path) -> None:
        path = corpus / "cases" / "reference" / "1.dcm"

        assert np.array_equal(stored_values(open_picture(path)), dcmread(path).pixel_array)
