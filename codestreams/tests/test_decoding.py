"""Whole streams come back pixel for pixel; cut, patched and contradicting ones are refused with their sentence."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from casebook.errors import UnreadablePixels
from codestreams import decoding
from codestreams.decoding import can_decode, decode
from codestreams.faults import StreamFault
from codestreams.structure import read_structure
from codestreams.tests.streams import (
    BASELINE,
    JPEG_2000,
    LOSSY,
    NAMES,
    Sample,
    a_picture,
    describe,
    rle,
    sample,
    with_restarts,
)

EOI = b"\xff\xd9"  # and EOC of JPEG 2000


def decoded(one: Sample) -> NDArray[Any]:
    return decode(one.stream, one.transfer_syntax_uid, one.described).values


def fault(one: Sample) -> str:
    with pytest.raises(UnreadablePixels) as caught:
        decoded(one)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("baseline with restarts", (96, 80)),
        *((name, size) for name in NAMES if "restarts" not in name for size in ((96, 80), (17, 33), (128, 128))),
    ],
)
def test_a_whole_stream_gives_back_its_picture(name: str, size: tuple[int, int]) -> None:
    one = sample(name, rows=size[0], columns=size[1])

    values = decoded(one)

    assert values.dtype == one.values.dtype
    if name in LOSSY:
        assert np.abs(values.astype(float) - one.values).mean() < 0.01 * 2**one.described.bits_stored
    else:
        assert np.array_equal(values, one.values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("end", [b"", EOI, b"\0" * 64], ids=["cut", "end put back", "filled up with zeros"])
def test_a_stream_cut_at_any_of_twenty_points_is_refused(name: str, end: bytes) -> None:
    one = sample(name)
    for point in range(20):
        length = round(len(one.stream) * (0.03 + 0.95 * point / 20))

        assert fault(one.cut(length, end)) in set(StreamFault), (name, point)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("RLE")])
def test_a_stream_without_its_last_two_bytes_ends_too_early(name: str) -> None:
    one = sample(name)

    assert fault(one.cut(len(one.stream) - 2)) == StreamFault.TRUNCATED


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("RLE")])
@pytest.mark.parametrize("padding", [b"\0", b"\0" * 2, b"\0" * 1001, b"\x20", b"\xff\xd9\0"])
def test_what_stands_behind_the_end_changes_nothing(name: str, padding: bytes) -> None:
    one = sample(name)

    assert np.array_equal(decoded(replace(one, stream=one.stream + padding)), decoded(one))


def test_twenty_flipped_bytes_never_end_the_process() -> None:
    rng = np.random.default_rng(5)
    for name in NAMES:
        one = sample(name)
        for _ in range(20):
            stream = bytearray(one.stream)
            for place in rng.integers(2, len(stream), 20):
                stream[place] = int(rng.integers(256))
            try:
                assert decoded(replace(one, stream=bytes(stream))).shape == one.values.shape
            except UnreadablePixels as error:
                assert str(error) in set(StreamFault)  # noqa: PT017


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [48, 95, 97, 192])
def test_a_stream_of_another_size_than_the_header_is_refused(name: str, rows: int) -> None:
    one = sample(name).says(rows=rows)

    assert fault(one) in {StreamFault.SIZE_CONFLICT, StreamFault.TRUNCATED}


@pytest.mark.parametrize("name", [name for name in NAMES if "12 bits" in name or "predictor" in name])
def test_a_header_that_promises_fewer_bits_than_the_picture_uses_is_refused(name: str) -> None:
    assert fault(sample(name).says(bits_stored=10, high_bit=9)) == StreamFault.HEADER_CONFLICT
    assert fault(sample(name).says(bits_stored=8, high_bit=7)) == StreamFault.HEADER_CONFLICT


@pytest.mark.parametrize("name", [name for name in NAMES if "12 bits" in name or "predictor" in name])
def test_a_header_that_promises_more_bits_than_the_stream_has_changes_nothing(name: str) -> None:
    one = sample(name)

    assert np.array_equal(decoded(one.says(bits_stored=16, high_bit=15)), decoded(one))


@pytest.mark.parametrize("name", ["baseline", "baseline with restarts", "lossless, 8 bits", "JPEG-LS, 8 bits"])
def test_a_stream_of_bytes_under_a_header_of_words_is_refused_but_read_in_a_cell_of_a_word(name: str) -> None:
    one = sample(name)

    assert fault(one.says(bits_allocated=16, bits_stored=12, high_bit=11)) == StreamFault.HEADER_CONFLICT
    in_words = decoded(one.says(bits_allocated=16))
    assert in_words.dtype == np.uint16
    assert np.array_equal(in_words, decoded(one))


@pytest.mark.parametrize("name", NAMES)
def test_a_grey_stream_under_a_colour_header_is_refused(name: str) -> None:
    assert fault(sample(name).says(samples_per_pixel=3)) == StreamFault.HEADER_CONFLICT


@pytest.mark.parametrize("name", [name for name in NAMES if sample(name).described.bits_stored > 8])
def test_a_sign_that_would_tear_the_picture_is_refused(name: str) -> None:
    one = sample(name)

    assert fault(one.says(is_signed=True)) == StreamFault.HEADER_CONFLICT


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_signed_values_come_back_from_streams_that_know_no_sign(bits: int) -> None:
    values = a_picture(bits).astype(np.int32) - 2 ** (bits - 1)
    signed = values.astype(np.int16)
    cells = (values % 2**bits).astype(np.uint16)
    described = describe(signed, bits)
    for encode in (
        lambda cells: bytes(imagecodecs.jpegls_encode(cells)),
        lambda cells: bytes(imagecodecs.jpeg8_encode(cells, lossless=True, predictor=1, bitspersample=bits)),
        rle,
    ):
        uid = "1.2.840.10008.1.2.5" if encode is rle else "1.2.840.10008.1.2.4.80"

        assert np.array_equal(decode(encode(cells), uid, described).values, signed)


def _jpeg_2000(values: NDArray[Any], bits: int) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="J2K", bitspersample=bits))


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_a_signed_jpeg_2000_is_read_under_a_signed_header_and_refused_under_another(bits: int) -> None:
    signed = (a_picture(bits).astype(np.int32) - 2 ** (bits - 1)).astype(np.int16)
    one = Sample(
        transfer_syntax_uid=JPEG_2000, stream=_jpeg_2000(signed, bits), described=describe(signed, bits), values=signed
    )

    assert read_structure(one.stream).is_signed
    assert np.array_equal(decoded(one), signed)
    assert fault(one.says(is_signed=False)) == StreamFault.HEADER_CONFLICT


@pytest.mark.parametrize("name", ["JPEG 2000", "JPEG 2000, 12 bits", "HTJ2K"])
def test_a_flipped_sign_of_a_jpeg_2000_is_refused(name: str) -> None:
    one = sample(name)
    stream = bytearray(one.stream)
    stream[42] ^= 0x80  # ISO/IEC 15444-1 A.5.1: Ssiz

    assert fault(replace(one, stream=bytes(stream))) == StreamFault.HEADER_CONFLICT


def test_a_jpeg_2000_that_lost_its_sign_is_read_as_the_header_says() -> None:
    values = (a_picture(12).astype(np.int32) - 2048) // 8  # around zero, as soft tissue is
    signed = values.astype(np.int16)
    stream = _jpeg_2000((values % 2**12).astype(np.uint16), 12)

    assert np.array_equal(decode(stream, JPEG_2000, describe(signed, 12)).values, signed)


def test_a_jpeg_2000_in_a_box_is_read() -> None:
    values = a_picture(16)
    stream = bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="JP2"))

    assert np.array_equal(decode(stream, JPEG_2000, describe(values, 16)).values, values)


@pytest.mark.parametrize("name", ["extended, 12 bits", "baseline"])
def test_a_spectral_selection_that_ends_at_zero_means_all_of_it(name: str) -> None:
    one = sample(name)
    at = one.stream.index(b"\xff\xda")
    stream = bytearray(one.stream)
    stream[at + 8] = 0  # ISO/IEC 10918-1 B.2.3: Se, of one component

    assert one.stream[at + 8] == 63
    assert np.array_equal(decoded(replace(one, stream=bytes(stream))), decoded(one))


@pytest.mark.parametrize("name", ["baseline", "extended, 12 bits", "lossless, 8 bits", "lossless, 12 bits"])
def test_a_jpeg_that_tells_its_rows_at_the_end_is_read(name: str) -> None:
    one = sample(name)
    stream = bytearray(one.stream)
    at = next(found.start() for found in re.finditer(rb"\xff[\xc0\xc1\xc3]", one.stream))
    stream[at + 5 : at + 7] = b"\0\0"
    told = bytes(stream[:-2]) + b"\xff\xdc\0\x04" + (96).to_bytes(2, "big") + EOI
    other = bytes(stream[:-2]) + b"\xff\xdc\0\x04" + (48).to_bytes(2, "big") + EOI

    assert np.array_equal(decoded(replace(one, stream=told)), decoded(one))
    assert fault(replace(one, stream=other)) == StreamFault.SIZE_CONFLICT
    assert fault(replace(one, stream=bytes(stream))) == StreamFault.SIZE_CONFLICT


def _intervals() -> tuple[bytes, list[bytes]]:
    # The head of the stream, and its intervals with the marker that ends each.
    stream = with_restarts()
    start = stream.index(b"\xff\xda")
    start += 2 + int.from_bytes(stream[start + 2 : start + 4], "big")
    parts = re.findall(rb".*?(?:\xff[\xd0-\xd9])", stream[start:], re.DOTALL)
    assert stream[:start] + b"".join(parts) == stream
    return stream[:start], parts


@pytest.mark.parametrize("lost", [0, 3, 7, 15])
def test_a_jpeg_that_lost_an_interval_is_refused(lost: int) -> None:
    head, parts = _intervals()
    one = sample("baseline with restarts")

    assert fault(replace(one, stream=head + b"".join(parts[:lost] + parts[lost + 1 :]))) == StreamFault.TRUNCATED


@pytest.mark.parametrize("at", [1, 5, 12])
def test_a_jpeg_whose_intervals_are_out_of_turn_is_refused(at: int) -> None:
    head, parts = _intervals()
    parts[at], parts[at + 1] = parts[at + 1], parts[at]
    one = sample("baseline with restarts")

    assert fault(replace(one, stream=head + b"".join(parts))) == StreamFault.TRUNCATED


@pytest.mark.parametrize("at", [1, 5, 12])
def test_a_jpeg_with_a_cut_interval_is_refused(at: int) -> None:
    head, parts = _intervals()
    parts[at] = parts[at][: len(parts[at]) // 2] + parts[at][-2:]
    one = sample("baseline with restarts")

    assert fault(replace(one, stream=head + b"".join(parts))) == StreamFault.TRUNCATED


@pytest.mark.parametrize("name", ["baseline", "extended, 12 bits", "lossless, 8 bits", "lossless, 12 bits"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_jpeg_whose_scan_goes_on_behind_the_picture_is_refused(name: str, seed: int) -> None:
    one = sample(name, seed=seed)
    longer = one.stream[:-2] + one.stream[-300:-50].replace(b"\xff", b"\x7f") + EOI
    a_little_longer = one.stream[:-2] + b"\x55" * 8 + EOI

    assert fault(replace(one, stream=longer)) == StreamFault.DAMAGED
    assert np.array_equal(decoded(replace(one, stream=a_little_longer)), decoded(one))


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_a_jpeg_2000_without_all_its_tiles_is_refused(kept: int) -> None:
    one = sample("JPEG 2000, tiles")
    starts = [found.start() for found in re.finditer(rb"\xff\x90\0\x0a", one.stream)]

    assert len(starts) == 6
    assert fault(one.cut(starts[kept], EOI)) == StreamFault.TRUNCATED


def test_a_segment_of_rle_with_one_byte_too_much_is_read_and_with_a_row_refused() -> None:
    one = sample("RLE, 8 bits")
    longer = replace(one, stream=one.stream + b"\x00\x07")
    a_row = replace(one, stream=one.stream + bytes((256 - 79, 9)))

    assert np.array_equal(decoded(longer), one.values)
    assert fault(a_row) == StreamFault.SIZE_CONFLICT


@pytest.mark.parametrize("count", [0, 1, 3, 15])
def test_rle_with_another_number_of_segments_is_refused(count: int) -> None:
    one = sample("RLE, 16 bits")

    assert fault(replace(one, stream=count.to_bytes(4, "little") + one.stream[4:])) == StreamFault.HEADER_CONFLICT


def test_colours_come_back_as_they_were_encoded() -> None:
    planes = np.stack([a_picture(8, seed=seed) for seed in range(3)], axis=-1)
    described = describe(planes, 8)
    lossless = bytes(imagecodecs.jpeg8_encode(planes, lossless=True, predictor=1))
    streams = {
        "1.2.840.10008.1.2.4.70": lossless,
        "1.2.840.10008.1.2.4.80": bytes(imagecodecs.jpegls_encode(planes)),
        JPEG_2000: bytes(imagecodecs.jpeg2k_encode(planes, level=0, codecformat="J2K")),
        "1.2.840.10008.1.2.5": _rle_of_planes(planes),
    }
    for uid, stream in streams.items():
        assert np.array_equal(decode(stream, uid, described).values, planes), uid


def _rle_of_planes(planes: NDArray[Any]) -> bytes:
    segments = [bytes(imagecodecs.packbits_encode(planes[..., index].tobytes())) for index in range(3)]
    offsets = [64 + sum(map(len, segments[:index])) for index in range(3)]
    return b"".join(number.to_bytes(4, "little") for number in (3, *offsets)).ljust(64, b"\0") + b"".join(segments)


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\x4f\xff\x51", b"GIF89a" * 9]
)
def test_what_is_no_stream_is_refused(content: bytes) -> None:
    assert fault(replace(sample("baseline"), stream=content)) in {StreamFault.DAMAGED, StreamFault.TRUNCATED}


def test_a_transfer_syntax_without_a_decoder_is_known_as_such() -> None:
    assert can_decode(BASELINE)
    assert not can_decode("1.2.840.10008.1.2.4.100")


def _flipped_sign() -> Sample:
    # The stream lies in the upper half, where the flipped sign gives no negative value.
    values = (a_picture(12) // 4 + 3000).astype(np.uint16)
    stream = bytearray(_jpeg_2000(values, 12))
    stream[42] ^= 0x80
    return Sample(transfer_syntax_uid=JPEG_2000, stream=bytes(stream), described=describe(values, 12), values=values)


def _beyond_its_bits() -> Sample:
    values = (a_picture(12).astype(np.int32) - 2048).astype(np.int16)
    described = replace(describe(values, 12), bits_stored=10, high_bit=9)
    return Sample(transfer_syntax_uid=JPEG_2000, stream=_jpeg_2000(values, 12), described=described, values=values)


def _recoded_to_bytes() -> Sample:
    return sample("lossless, 8 bits").says(bits_allocated=16, bits_stored=12, high_bit=11)


def _out_of_turn() -> Sample:
    # The last interval twice: a decoder throws the second one away.
    head, parts = _intervals()
    parts.insert(-1, parts[-2])
    parts.insert(-1, parts[-2])
    return replace(sample("baseline with restarts"), stream=head + b"".join(parts))


def _without_a_tile() -> Sample:
    one = sample("JPEG 2000, tiles")
    starts = [found.start() for found in re.finditer(rb"\xff\x90\0\x0a", one.stream)]
    return one.cut(starts[3], EOI)


def _longer(name: str) -> Sample:
    one = sample(name)
    return replace(one, stream=one.stream[:-2] + b"\x55" * 300 + EOI)


def _cut(name: str, end: bytes) -> Sample:
    one = sample(name)
    return one.cut(len(one.stream) * 2 // 3, end)


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        ("refuse_without_end", lambda: _cut("lossless, 12 bits", b"")),
        ("refuse_incomplete_scans", lambda: _cut("lossless, 12 bits", EOI)),
        ("refuse_left_over_bytes", lambda: _longer("lossless, 12 bits")),
        ("refuse_missing_restarts", _out_of_turn),
        ("refuse_missing_tiles", _without_a_tile),
        ("refuse_another_depth", _recoded_to_bytes),
        ("refuse_another_sign", _flipped_sign),
        ("refuse_values_out_of_range", _beyond_its_bits),
        ("refuse_another_segment_length", lambda: sample("RLE, 8 bits").says(rows=48)),
    ],
)
def test_without_its_check_a_wrong_stream_would_be_read(
    check: str, wrong: Callable[[], Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = wrong()
    assert fault(one) in set(StreamFault)

    monkeypatch.setattr(decoding, check, lambda *_: None)

    assert decoded(one).shape == one.described.shape


@pytest.mark.parametrize("check", ["refuse_another_size", "refuse_other_samples"])
def test_a_stream_of_another_shape_is_refused_before_it_is_decoded(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = sample("JPEG 2000").says(**{"rows": 97} if check == "refuse_another_size" else {"samples_per_pixel": 3})
    decodings: list[str] = []
    monkeypatch.setattr(decoding, "_DECODERS", dict.fromkeys(decoding._DECODERS, lambda _: decodings.append("done")))

    fault(one)

    assert decodings == []


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("RLE")])
def test_a_stream_that_goes_on_in_fill_bytes_costs_no_more_than_its_length(name: str) -> None:
    one = sample(name)

    assert fault(one.cut(len(one.stream) // 2, b"\xff" * 100_000)) in set(StreamFault)
