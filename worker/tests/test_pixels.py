"""Stored values become display values as PS3.3 C.11 says, and bad files one plain sentence."""

import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from casebook.errors import UnreadablePixels
from worker.reader.decode import Fault, open_picture, stored_frames, stored_values
from worker.reader.pixels import VoiFunction, Window, frames, modality_values, windowed
from worker.tests.pictures import picture, ramp, write


def only(dataset: Dataset, window: Window | None = None) -> NDArray[np.float32]:
    [frame] = frames(dataset, window=window)
    return frame


def table(entries: list[int], first: int, bits: int, *, signed: bool = False) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, dtype="<u2").tobytes())
    return Sequence([item])


def test_a_linear_window_follows_the_formula_of_the_standard() -> None:
    shown = windowed(np.array([-1.0, 0.0, 50.0, 99.0, 100.0]), Window(center=50, width=100))

    assert shown == pytest.approx([0.0, 0.5 / 99 - 0.5 / 99, 50.0 / 99 - 0.5 / 99 + 0.5 / 99, 1.0, 1.0], abs=6e-3)
    assert windowed(np.array([49.5]), Window(center=50, width=100))[0] == pytest.approx(0.5)


def test_a_linear_exact_window_is_half_way_at_its_centre() -> None:
    window = Window(center=50, width=100, function=VoiFunction.LINEAR_EXACT)

    assert windowed(np.array([0.0, 50.0, 100.0]), window) == pytest.approx([0, 0.5, 1])


def test_a_sigmoid_window_is_half_way_at_its_centre_and_never_overflows() -> None:
    window = Window(center=50, width=100, function=VoiFunction.SIGMOID)

    shown = windowed(np.array([-1e9, 50.0, 100.0, 1e9]), window)

    assert shown == pytest.approx([0, 0.5, 1 / (1 + np.exp(-2)), 1])


def test_a_window_of_width_one_is_a_threshold() -> None:
    assert windowed(np.array([9.0, 10.0]), Window(center=10, width=1)).tolist() == [0, 1]


@pytest.mark.parametrize("width", [0, -5])
def test_a_window_without_width_is_ignored(width: int) -> None:
    dataset = picture(ramp(), WindowCenter=50, WindowWidth=width)

    assert only(dataset)[-1, -1] == 1
    assert only(dataset)[0, 0] == 0


def test_rescale_slope_and_intercept_come_before_the_window() -> None:
    dataset = picture(
        ramp("int16"),
        RescaleSlope=2,
        RescaleIntercept=-100,
        WindowCenter=0,
        WindowWidth=100,
        VOILUTFunction="LINEAR_EXACT",
    )

    # Stored 50 is 0 in the unit of the modality, the centre of the window.
    assert only(dataset)[1, 0] == pytest.approx(0.5)


def test_signed_values_keep_their_sign() -> None:
    dataset = picture(ramp("int16") - np.int16(1000), WindowCenter=-1000, WindowWidth=10, VOILUTFunction="LINEAR_EXACT")

    assert only(dataset)[0, 0] == pytest.approx(0.5)
    assert only(dataset)[0, 1] == 1


def test_signed_values_of_twelve_bits_are_extended_from_their_own_sign_bit() -> None:
    values = np.array([[0x0FFF, 0x0001]], dtype=np.uint16)  # -1 and 1 in twelve bits

    dataset = picture(values, BitsStored=12, HighBit=11, PixelRepresentation=1)

    assert stored_values(open_picture(dataset)).tolist() == [[-1, 1]]


def test_bits_above_bits_stored_are_no_pixels() -> None:
    values = np.array([[0xF001, 0x0002]], dtype=np.uint16)

    dataset = picture(values, BitsStored=12, HighBit=11)

    assert stored_values(open_picture(dataset)).tolist() == [[1, 2]]


def test_a_modality_lut_replaces_the_rescale() -> None:
    dataset = picture(np.array([[0, 1, 2, 3]], dtype=np.uint16), ModalityLUTSequence=table([5, 6, 7], 1, 16))

    values, applied = modality_values(dataset.pixel_array, dataset)

    assert applied
    assert values.tolist() == [[5, 5, 6, 7]]  # values below the first one take the first entry


def test_a_voi_lut_with_a_negative_first_value_is_read_in_a_signed_image() -> None:
    dataset = picture(np.array([[-2, -1, 0]], dtype=np.int16), VOILUTSequence=table([0, 2048, 4095], 0x10000 - 2, 12))

    assert only(dataset) == pytest.approx(np.array([[0, 2048 / 4095, 1]]))


def test_an_empty_voi_lut_is_as_good_as_none() -> None:
    empty = Dataset()
    empty.LUTDescriptor = None
    empty.LUTData = None

    assert only(picture(ramp(), VOILUTSequence=Sequence([empty])))[-1, -1] == 1


def test_a_damaged_voi_lut_is_an_error_with_a_reason() -> None:
    broken = Dataset()
    broken.LUTDescriptor = [1, 0, 16]
    broken.add_new("LUTData", "OW", b"")

    with pytest.raises(UnreadablePixels, match=r"lookup table"):
        only(picture(ramp(), VOILUTSequence=Sequence([broken])))


@pytest.mark.parametrize(
    "attributes", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}]
)
def test_what_is_stored_inverted_is_shown_upright(attributes: dict[str, Any]) -> None:
    upright = only(picture(ramp()))

    assert only(picture(ramp(), **attributes)) == pytest.approx(1 - upright)


def test_monochrome1_with_an_inverse_presentation_lut_is_inverted_once() -> None:
    both = picture(ramp(), PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")

    assert only(both) == pytest.approx(1 - only(picture(ramp())))


def test_padding_does_not_set_the_contrast() -> None:
    values = ramp()
    values[0, 0] = 60000

    shown = only(picture(values, PixelPaddingValue=60000))

    assert shown[-1, -1] == 1
    assert only(picture(values))[-1, -1] < 0.01


def test_eight_bits_without_a_window_are_shown_as_they_are() -> None:
    assert only(picture(np.array([[0, 51, 102]], dtype=np.uint8))) == pytest.approx(np.array([[0, 0.2, 0.4]]))


def test_an_image_of_one_value_is_black_and_no_error() -> None:
    assert only(picture(np.full((3, 3), 500, dtype=np.uint16))).max() == 0


def test_palette_colour_becomes_red_green_and_blue() -> None:
    dataset = picture(np.array([[0, 1]], dtype=np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for colour, entries in (("Red", [0, 65535]), ("Green", [65535, 0]), ("Blue", [0, 0])):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [2, 0, 16])
        dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", np.asarray(entries, dtype="<u2").tobytes())

    assert only(dataset).tolist() == [[[0, 1, 0], [1, 0, 0]]]


def test_a_palette_without_tables_is_an_error_with_a_reason() -> None:
    dataset = picture(np.array([[0, 1]], dtype=np.uint8), PhotometricInterpretation="PALETTE COLOR")

    with pytest.raises(UnreadablePixels, match="photometric interpretation"):
        only(dataset)


def test_ybr_becomes_red_green_and_blue() -> None:
    values = np.array([[[76, 85, 255]]], dtype=np.uint8)  # pure red (PS3.3 C.7.6.3.1.2)

    shown = only(picture(values, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL"))

    assert shown[0, 0] == pytest.approx([1, 0, 0], abs=0.01)


def test_planes_and_pixels_give_the_same_colours() -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    planes = picture(values, SamplesPerPixel=3)
    planes.PlanarConfiguration = 1
    planes.PixelData = values.transpose(2, 0, 1).tobytes()

    assert np.array_equal(only(planes), only(picture(values, SamplesPerPixel=3)))


def test_each_frame_of_an_enhanced_image_has_its_own_tables() -> None:
    dataset = picture(np.stack([ramp(), ramp()]))
    dataset.PerFrameFunctionalGroupsSequence = Sequence()
    for center in (0, 1000):
        voi = Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 10
        group = Dataset()
        group.FrameVOILUTSequence = Sequence([voi])
        dataset.PerFrameFunctionalGroupsSequence.append(group)

    first, second = frames(dataset)

    assert first[-1, -1] == 1
    assert second[-1, -1] == 0


def test_a_named_window_wins_over_the_one_in_the_image() -> None:
    dataset = picture(ramp(), WindowCenter=0, WindowWidth=10)

    assert only(dataset, Window(center=1000, width=10)).max() == 0


def test_frames_are_given_in_the_order_asked_for() -> None:
    values = np.stack([np.full((2, 2), number, dtype=np.uint8) for number in range(5)])
    opened = open_picture(picture(values))

    assert [int(frame[0, 0]) for frame in stored_frames(opened, [3, 0, 3])] == [3, 0, 3]
    assert not list(stored_frames(opened, []))


def test_a_frame_that_does_not_exist_is_an_error_with_a_reason() -> None:
    with pytest.raises(UnreadablePixels, match="does not have the frame"):
        list(frames(picture(ramp()), [1]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float_pixels_are_read(dtype: str, tmp_path: Path) -> None:
    dataset = picture(ramp("uint16"))
    values = np.linspace(0, 1, 20).astype(dtype).reshape(4, 5)
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit
    keyword, vr = ("FloatPixelData", "OF") if dtype == "float32" else ("DoubleFloatPixelData", "OD")
    dataset.BitsAllocated = values.dtype.itemsize * 8
    dataset.add_new(keyword, vr, values.tobytes())

    [frame] = frames(write(dataset, tmp_path / "float.dcm"))

    assert frame == pytest.approx(values)


def test_single_bits_are_unpacked() -> None:
    dataset = picture(np.zeros((2, 4), dtype=np.uint8), BitsAllocated=1, BitsStored=1, HighBit=0)
    dataset.PixelData = b"\x0f\x00"  # PS3.5 8.1.1: the first pixel is the lowest bit

    assert only(dataset).tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("transfer_syntax_uid", [RLELossless, JPEG2000Lossless])
def test_compressed_frames_of_a_file_equal_the_uncompressed_ones(transfer_syntax_uid: str, tmp_path: Path) -> None:
    values = np.stack([ramp("uint16", 64, 64, step) for step in (1, 2, 3)])
    dataset = picture(values)
    dataset.compress(transfer_syntax_uid)
    opened = open_picture(write(dataset, tmp_path / "compressed.dcm"))

    assert opened.frame_count == 3
    assert np.array_equal(np.stack(list(stored_frames(opened))), values)
    assert np.array_equal(stored_values(opened, 2), values[2])


def test_a_deflated_file_is_read_and_a_deflate_bomb_refused(tmp_path: Path) -> None:
    values = np.zeros((200, 200), dtype=np.uint16)
    values[0, 0] = 7
    dataset = picture(values)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = write(dataset, tmp_path / "deflated.dcm")

    assert np.array_equal(stored_values(open_picture(path)), values)
    with pytest.raises(UnreadablePixels, match="over the limit"):
        open_picture(path, max_frame_bytes=50_000)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def without_meta(path: Path) -> None:
    path.write_bytes(path.read_bytes()[300:])


def noise(path: Path) -> None:
    path.write_bytes(zlib.compress(path.read_bytes()))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (cut_off, Fault.TRUNCATED),
        (without_meta, Fault.NOT_DICOM),
        (noise, Fault.NOT_DICOM),
        (empty, Fault.NOT_DICOM),
    ],
)
def test_a_spoiled_file_gives_one_plain_sentence(spoil: Callable[[Path], None], fault: Fault, tmp_path: Path) -> None:
    path = write(picture(ramp()), tmp_path / "image.dcm")
    spoil(path)

    with pytest.raises(UnreadablePixels) as caught:
        list(frames(path))

    assert str(caught.value) == fault


@pytest.mark.parametrize(
    ("attributes", "fault"),
    [
        ({"Rows": 0}, Fault.BAD_HEADER),
        ({"Rows": None}, Fault.BAD_HEADER),
        ({"BitsAllocated": 12}, Fault.BAD_HEADER),
        ({"SamplesPerPixel": 4}, Fault.BAD_HEADER),
        ({"PhotometricInterpretation": "CMYK"}, Fault.BAD_COLOUR),
        ({"Rows": 60000, "Columns": 60000}, Fault.TOO_LARGE),
        ({"Rows": 100}, Fault.TRUNCATED),
        ({"NumberOfFrames": 9}, Fault.TRUNCATED),
    ],
)
def test_a_header_that_cannot_be_gives_one_plain_sentence(attributes: dict[str, object], fault: Fault) -> None:
    dataset = picture(ramp())
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)

    with pytest.raises(UnreadablePixels) as caught:
        list(frames(dataset, max_frame_bytes=1_000_000_000))

    assert str(caught.value) == fault


def test_an_unknown_or_missing_transfer_syntax_is_named() -> None:
    dataset = picture(ramp())
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.8.1")
    with pytest.raises(UnreadablePixels, match="not supported"):
        open_picture(dataset)
    del dataset.file_meta.TransferSyntaxUID
    with pytest.raises(UnreadablePixels, match="does not say"):
        open_picture(dataset)


def test_an_object_without_pixels_is_named(tmp_path: Path) -> None:
    dataset = picture(ramp())
    del dataset.PixelData

    for source in (dataset, write(dataset, tmp_path / "report.dcm")):
        with pytest.raises(UnreadablePixels, match="holds no pixel data"):
            open_picture(source)


def test_a_stream_that_declares_another_size_than_the_header_is_never_decoded() -> None:
    dataset = picture(ramp("uint16", 64, 64))
    dataset.compress(JPEG2000Lossless)
    stream = bytearray(next(iter(_streams(dataset))))
    stream[8:16] = (60000).to_bytes(4, "big") * 2  # ISO/IEC 15444-1 A.5.1: Xsiz, Ysiz
    dataset.PixelData = encapsulate([bytes(stream)])

    with pytest.raises(UnreadablePixels, match="another size"):
        list(frames(dataset))


def _streams(dataset: Dataset) -> list[bytes]:
    from pydicom.encaps import generate_frames

    return list(generate_frames(dataset.PixelData, number_of_frames=1))


def test_a_fault_never_repeats_a_value_of_the_file(tmp_path: Path) -> None:
    dataset = picture(ramp(), PatientName="Planted^Name")
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    path = write(dataset, tmp_path / "image.dcm")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 10])

    with pytest.raises(UnreadablePixels) as caught:
        list(frames(path))

    assert "Planted" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert dcmread(BytesIO(content)).PatientName == "Planted^Name"


def test_a_segment_that_goes_on_behind_the_picture_is_refused() -> None:
    dataset = picture(np.zeros((2, 2), dtype=np.uint16))
    dataset.file_meta.TransferSyntaxUID = RLELossless
    # PS3.5 G: two segments of 128 bytes, where the picture has room for four.
    segment = b"\x7f" + bytes(128)
    head = b"".join(number.to_bytes(4, "little") for number in (2, 64, 64 + len(segment)))
    stream = head.ljust(64, b"\0") + segment * 2
    dataset.PixelData = encapsulate([stream])

    with pytest.raises(UnreadablePixels, match="another size"):
        only(dataset)


@pytest.mark.parametrize(("center", "width"), [(1e40, 1e40), (50, 1e40), (-1e40, 100), (1e308, 1e308)])
def test_a_window_in_numbers_that_no_pixel_has_is_none(center: float, width: float) -> None:
    dataset = picture(ramp(), WindowCenter=center, WindowWidth=width)

    np.testing.assert_array_equal(only(dataset), only(picture(ramp())))


@pytest.mark.parametrize("rescale", [{"RescaleSlope": -1e40, "RescaleIntercept": 0}, {"RescaleIntercept": 1e300}])
def test_a_rescale_in_numbers_that_no_pixel_has_is_refused(rescale: dict[str, Any]) -> None:
    with pytest.raises(UnreadablePixels, match="missing or invalid"):
        only(picture(ramp(), **rescale))
