"""Each frame gets the fragments of its own stream, whatever the offset tables say and the wrapper lacks."""

import struct
from io import BytesIO

import pytest

from casebook.errors import UnreadablePixels
from codestreams import fragments as module
from codestreams.faults import StreamFault
from codestreams.fragments import frame_fragments, join, list_items

DELIMITER = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
STREAMS = [b"\xff\xd8\xff\xf7" + bytes([number]) * 30 + b"\xff\xd9" for number in range(3)]


def item(content: bytes) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content


def table(*offsets: int) -> bytes:
    return item(struct.pack(f"<{len(offsets)}L", *offsets))


def frames(content: bytes, count: int, extended: tuple[int, ...] = ()) -> list[bytes]:
    source = BytesIO(b"before" + content)
    source.seek(6)
    items = list_items(source)
    return [join(source, one) for one in frame_fragments(source, items, count, extended)]


def fault(content: bytes, count: int) -> str:
    with pytest.raises(UnreadablePixels) as caught:
        frames(content, count)
    return str(caught.value)


def pieces(stream: bytes, parts: int) -> list[bytes]:
    length = -(-len(stream) // parts)
    return [stream[start : start + length] for start in range(0, len(stream), length)]


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize(
    "offsets", [(), (0,), (0, 17, 34), (0, 1, 2, 3), (9999,)], ids=["none", "one", "each", "odd", "wrong"]
)
@pytest.mark.parametrize("end", [DELIMITER, b"", b"\0" * 3, b"\0" * 512, b"\xfc\xff\xfc\xff\0\0\0\0"])
def test_one_frame_is_all_of_its_fragments(parts: int, offsets: tuple[int, ...], end: bytes) -> None:
    content = table(*offsets) + b"".join(item(piece) for piece in pieces(STREAMS[0], parts)) + end

    assert frames(content, 1) == [STREAMS[0]]


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("offsets", [(), (0,), (0, 44, 88), (5, 6, 7), tuple(range(15))])
def test_every_frame_begins_where_its_stream_begins(parts: int, offsets: tuple[int, ...]) -> None:
    content = table(*offsets) + b"".join(item(piece) for stream in STREAMS for piece in pieces(stream, parts))

    assert frames(content, 3) == STREAMS
    assert frames(content, 3, (0, 3, 4)) == STREAMS


def test_fragments_of_rle_are_frames_and_offset_tables_say_where_they_are_not() -> None:
    content = [bytes([number]) * 20 for number in range(4)]
    whole = table() + b"".join(item(one) for one in content)

    assert frames(whole, 4) == content
    assert frames(whole, 1) == [b"".join(content)]
    halves = table(0, 56) + b"".join(item(one) for one in content)
    assert frames(halves, 2) == [content[0] + content[1], content[2] + content[3]]
    assert frames(whole, 2, (0, 28)) == [content[0], b"".join(content[1:])]
    assert fault(whole, 2) == StreamFault.FRAMES_CONFLICT


def test_items_without_an_offset_table_are_read() -> None:
    assert frames(b"".join(map(item, STREAMS)) + DELIMITER, 3) == STREAMS
    assert frames(item(STREAMS[0]), 1) == [STREAMS[0]]


@pytest.mark.parametrize(
    ("count", "expected"), [(4, "TRUNCATED"), (9, "TRUNCATED"), (2, "FRAMES_CONFLICT"), (1, "FRAMES_CONFLICT")]
)
def test_another_number_of_streams_than_frames_is_refused(count: int, expected: str) -> None:
    assert fault(table() + b"".join(map(item, STREAMS)) + DELIMITER, count) == StreamFault[expected]


@pytest.mark.parametrize("cut", [1, 4, 20, 35])
def test_an_item_that_is_cut_off_is_refused(cut: int) -> None:
    content = table() + b"".join(map(item, STREAMS))

    assert fault(content[:-cut], 3) == StreamFault.TRUNCATED


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "TRUNCATED"),
        (DELIMITER, "TRUNCATED"),
        (table() + DELIMITER, "TRUNCATED"),
        (b"\x01\x02\x03\x04" * 9, "DAMAGED"),
        (table() + item(STREAMS[0]) + b"\x01\x02\x03\x04" * 9, "DAMAGED"),
        (table() + item(b"\x01\x02") + item(STREAMS[0]), "DAMAGED"),
    ],
)
def test_what_are_no_items_is_refused(content: bytes, expected: str) -> None:
    assert fault(content, 1) == StreamFault[expected]


def test_bytes_behind_the_pixel_data_are_not_looked_at() -> None:
    content = table() + item(STREAMS[0])
    source = BytesIO(content + b"\x01\x02\x03\x04" * 9)

    items = list_items(source, len(content))

    assert [join(source, one) for one in frame_fragments(source, items, 1)] == [STREAMS[0]]


def test_without_its_check_another_number_of_streams_would_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "refuse_another_count", lambda *_: None)

    assert frames(table() + b"".join(map(item, STREAMS)), 1)[0] == STREAMS[0]


def test_a_file_that_became_shorter_is_refused() -> None:
    source = BytesIO(table() + item(STREAMS[0]))
    items = list_items(source)

    with pytest.raises(UnreadablePixels, match="too early"):
        join(BytesIO(source.getvalue()[:20]), items.fragments)
