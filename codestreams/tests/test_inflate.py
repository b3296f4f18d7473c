"""Deflated bytes as a file: the same bytes, wherever it is read, and never more than it may give."""

import random
import tracemalloc
import zlib
from io import SEEK_CUR, SEEK_END, BytesIO

import pytest

from casebook.errors import InvalidObject, OverBounds
from codestreams.inflate import inflate_start, inflated

MIB = 1 << 20
PLAIN = random.Random(5).randbytes(700_000) + bytes(900_000) + b"end"


def deflate(content: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(content) + deflater.flush()


def test_it_is_read_like_the_file_that_it_stands_for() -> None:
    plain, file = BytesIO(PLAIN), inflated(BytesIO(b"meta" + deflate(PLAIN)), len(PLAIN))
    # From its place on.
    file = inflated(_at(b"meta" + deflate(PLAIN), 4), len(PLAIN))
    chance = random.Random(3)
    for _ in range(200):
        match chance.randrange(4):
            case 0:
                place = chance.randrange(len(PLAIN) + 10)
                assert file.seek(place) == plain.seek(place)
            case 1:
                step = chance.randrange(100_000)
                assert file.seek(step, SEEK_CUR) == plain.seek(step, SEEK_CUR)
            case 2:
                assert file.seek(0, SEEK_END) == plain.seek(0, SEEK_END)
            case _:
                count = chance.randrange(300_000)
                assert file.read(count) == plain.read(count)
        assert file.tell() == plain.tell()


def _at(content: bytes, place: int) -> BytesIO:
    file = BytesIO(content)
    file.seek(place)
    return file


@pytest.mark.parametrize("end", [10, 1000, 300_000])
def test_a_stream_that_is_cut_off_ends_where_it_is_cut_off(end: int) -> None:
    found = inflated(BytesIO(deflate(PLAIN)[:end]), len(PLAIN)).read()

    assert PLAIN.startswith(found)
    assert len(found) < len(PLAIN)


def test_bytes_that_are_no_stream_are_refused() -> None:
    with pytest.raises(InvalidObject):
        inflated(BytesIO(b"\xff" * 100), MIB).read()
    with pytest.raises(InvalidObject):
        inflate_start(b"\xff" * 100, MIB)


def test_more_than_it_may_give_is_refused_and_is_never_in_memory() -> None:
    content = deflate(bytes(200 * MIB))
    tracemalloc.start()
    file = inflated(BytesIO(content), 100 * MIB)
    file.seek(99 * MIB)
    assert file.read(10) == bytes(10)
    with pytest.raises(OverBounds):
        file.seek(0, SEEK_END)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 4 * MIB
    assert len(inflate_start(content, MIB)) == MIB
