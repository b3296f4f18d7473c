"""The packets of a sound JPEG 2000 end where their tile ends, however it is coded; those of a damaged one do not."""

import io
import time
from dataclasses import replace
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from casebook.errors import UnreadablePixels
from codestreams.decoding import decode
from codestreams.description import Description
from codestreams.packets import OutOfPlaceError, count_packets, walk
from codestreams.structure import read_structure

_JPEG_2000 = "1.2.840.10008.1.2.4.90"
_LAYERS = {"quality_layers": [60, 40, 20, 5]}
_PRECINCTS = {"precinct_size": (64, 64), "codeblock_size": (32, 32)}
_TILES = {"tile_size": (100, 70)}


def _film(seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:240, :200]
    film = 128 + 90 * np.sin(rows / 31) * np.cos(columns / 23) + rng.normal(0, 6, (240, 200))
    grey: NDArray[np.uint8] = np.clip(film, 0, 255).astype(np.uint8)
    return grey


def _half(film: NDArray[np.uint8]) -> NDArray[np.uint8]:
    half = film.copy()
    half[100:] = 0
    return half


PICTURES = {
    "film": _film(),
    "half empty": _half(_film()),
    "empty": np.zeros((240, 200), np.uint8),
    "tiny": _film()[:7, :5],
    "colours": np.stack([_film(), _film(1), _half(_film())], axis=-1),
}


def _encode(picture: NDArray[np.uint8], **options: Any) -> bytes:
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "JPEG2000", no_jp2=True, **{"irreversible": False} | options)
    return written.getvalue()


def _describe(picture: NDArray[np.uint8]) -> Description:
    return Description(
        rows=picture.shape[0],
        columns=picture.shape[1],
        samples_per_pixel=1 if picture.ndim == 2 else 3,
        bits_allocated=8,
        bits_stored=8,
        high_bit=7,
        is_signed=False,
    )


def _decode(stream: bytes, picture: NDArray[np.uint8]) -> NDArray[Any]:
    return decode(stream, _JPEG_2000, _describe(picture)).values


def _spans(stream: bytes) -> tuple[int, int]:
    (tile,) = read_structure(stream).packets
    return tile.parts[0]


@pytest.mark.parametrize("name", list(PICTURES))
@pytest.mark.parametrize("progression", ["LRCP", "RLCP", "RPCL", "PCRL", "CPRL"])
@pytest.mark.parametrize(
    "options",
    [{}, _LAYERS, _PRECINCTS, _LAYERS | _PRECINCTS, _TILES, _TILES | _LAYERS, {"num_resolutions": 1}],
    ids=str,
)
def test_packets_of_a_sound_picture_end_where_their_tile_ends(
    name: str, progression: str, options: dict[str, Any]
) -> None:
    picture = PICTURES[name]
    if name == "tiny" and "tile_size" in options:
        options = {}
    for irreversible in (False, True):
        stream = _encode(picture, progression=progression, irreversible=irreversible, **options)
        found = read_structure(stream)
        assert found.coding is not None

        for tile in found.packets:
            assert walk(tile, found.coding).end == len(tile.content)
            assert count_packets(tile, found.coding) <= len(tile.content)
        assert _decode(stream, picture).shape == picture.shape


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_packets_of_htj2k_end_where_their_tile_ends(dtype: type) -> None:
    for name, picture in PICTURES.items():
        stream = bytes(imagecodecs.htj2k_encode(picture.astype(dtype), reversible=True))
        found = read_structure(stream)
        assert found.coding is not None, name

        for tile in found.packets:
            assert walk(tile, found.coding).end == len(tile.content)


@pytest.mark.parametrize("point", range(20))
@pytest.mark.parametrize("fill", ["zeros", "ones", "itself", "another stream", "nothing"])
def test_a_stream_cut_at_any_point_and_filled_up_is_refused(point: int, fill: str) -> None:
    picture = PICTURES["film"]
    stream = _encode(picture)
    begin, end = _spans(stream)
    at = begin + round((end - begin) * (0.02 + 0.95 * point / 20))
    other = _encode(_film(5), irreversible=True)
    length = 0 if fill == "nothing" else end - at
    tail = {
        "zeros": bytes(length),
        "ones": b"\xff" * length,
        "itself": (stream[begin:at] * 100)[:length],
        "another stream": (other[200:-2] * 20)[:length],
        "nothing": b"",
    }[fill]

    with pytest.raises(UnreadablePixels):
        _decode(stream[:at] + tail + b"\xff\xd9", picture)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.8])
def test_a_hole_of_zeros_is_refused(place: float) -> None:
    picture = PICTURES["film"]
    stream = _encode(picture)
    begin, end = _spans(stream)
    at = begin + round((end - begin) * place)

    with pytest.raises(UnreadablePixels):
        _decode(stream[:at] + bytes(500) + stream[at + 500 :], picture)


@pytest.mark.parametrize("rows", [-64, -8, -1, 8, 64])
def test_a_stream_that_lies_about_its_size_together_with_the_header_is_refused(rows: int) -> None:
    picture = PICTURES["film"]
    stream = bytearray(_encode(picture))
    # ISO/IEC 15444-1 A.5.1: Ysiz and YTsiz, so that it stays one tile.
    for place in (12, 28):
        stream[place : place + 4] = (240 + rows).to_bytes(4, "big")
    claimed = np.zeros((240 + rows, 200), np.uint8)

    with pytest.raises(UnreadablePixels):
        _decode(bytes(stream), claimed)


def test_more_packets_than_bytes_are_none() -> None:
    found = read_structure(_encode(PICTURES["empty"]))
    assert found.coding is not None
    tile = found.packets[0]
    shorter = type(tile)(
        left=0, top=0, right=2**31, bottom=2**31, components=3, parts=tile.parts, content=tile.content[:2]
    )

    with pytest.raises(OutOfPlaceError):
        walk(shorter, found.coding)


def test_a_few_bytes_cannot_ask_for_a_walk_without_end() -> None:
    found = read_structure(_encode(PICTURES["empty"]))
    assert found.coding is not None
    tile = replace(found.packets[0], right=2**15, bottom=2**15, content=bytes(10**6))
    coding = replace(found.coding, block=(2, 2), layers=1000)

    began = time.perf_counter()
    with pytest.raises(OutOfPlaceError):
        walk(tile, coding)
    assert time.perf_counter() - began < 10


def test_the_end_of_the_last_codeword_belongs_to_the_picture() -> None:
    picture = PICTURES["film"]
    stream, other = _encode(picture), _encode(_film(5))
    (tile,) = read_structure(stream).packets
    begin, end = tile.parts[0]
    # Codewords of another picture, each byte of which an encoder could have written, under the lengths of this one.
    half = (begin + end) // 2
    mixed = stream[:half] + other[half - 4000 : half - 4000 + end - half] + b"\xff\xd9"

    with pytest.raises(UnreadablePixels):
        _decode(mixed, picture)


def test_an_rle_segment_that_is_too_long_and_has_runs_across_rows_is_refused() -> None:
    picture = np.repeat(np.arange(40, dtype=np.uint8)[:, None], 30, axis=1)
    whole = b"".join(bytes((256 - 29, row)) for row in range(40))
    moved = bytes((256 - 32, 0)) + whole[2:]
    head = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56)

    def read(segment: bytes) -> NDArray[Any]:
        return decode(head + segment, "1.2.840.10008.1.2.5", _describe(picture)).values

    assert np.array_equal(read(whole), picture)
    # A run of its own behind the picture is padding.
    assert np.array_equal(read(whole + bytes((0, 0))), picture)
    with pytest.raises(UnreadablePixels):
        read(moved)
