"""From the items of encapsulated pixel data to one codestream per frame (PS3.5 A.4).

The streams say themselves where they begin, so an offset table is believed only where they cannot: tables with an
entry per fragment, empty tables and wrong ones are all in use.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import SEEK_END
from typing import BinaryIO

from casebook.errors import OverBounds, UnreadablePixels
from codestreams.bounds import HEADER_BOUNDS
from codestreams.description import Description
from codestreams.faults import StreamFault

_ITEM = (0xFFFE, 0xE000)
#: What ends the items: their delimiter, or where it is absent what may follow pixel data, or zeros.
_AFTER_ITEMS = frozenset({(0xFFFE, 0xE0DD), (0xFFFA, 0xFFFA), (0xFFFC, 0xFFFC), (0, 0)})
#: Of a stream beside its picture: profiles, comments, padding.
_LONGEST_OVERHEAD_BYTES = 8 << 20
#: How a stream begins: JPEG and JPEG-LS (SOI and a marker), JPEG 2000 (SOC, SIZ), JPEG 2000 in a JP2 box.
_BEGINNINGS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0c\x6a\x50\x20\x20")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """One item of encapsulated pixel data."""

    #: Of its value, from the beginning of the source.
    offset: int
    length: int
    #: Of its item tag, from the first byte after the Basic Offset Table.
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """All items of encapsulated pixel data, none of them read."""

    fragments: tuple[Fragment, ...]
    #: The Basic Offset Table; empty where the file has none.
    basic_offsets: tuple[int, ...]


def list_items(source: BinaryIO, available: int | None = None) -> Items:
    """List the items from here on, up to the delimiter or to the end of whole items (PS3.5 A.4).

    The delimiter may be absent: each stream is asked for its own end.

    Parameters
    ----------
    source
        At its first item.
    available
        Bytes from there on that are pixel data; all where absent.

    Raises
    ------
    UnreadablePixels
        When an item is cut off or no item stands where one should.
    OverBounds
        When they are too many, or their table is too long.
    """
    start = source.tell()
    end = source.seek(0, SEEK_END)
    end = end if available is None else min(end, start + available)
    position = start
    found: list[Fragment] = []
    while position < end:
        source.seek(position)
        head = source.read(8)
        if len(head) < 8:
            if any(head):
                raise UnreadablePixels(StreamFault.TRUNCATED)
            break
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) in _AFTER_ITEMS:
            break
        if (group, element) != _ITEM:
            raise UnreadablePixels(StreamFault.DAMAGED)
        if position + 8 + length > end:
            raise UnreadablePixels(StreamFault.TRUNCATED)
        if len(found) == HEADER_BOUNDS.most_elements:
            raise OverBounds
        found.append(Fragment(offset=position + 8, length=length, place=position - start))
        position += 8 + length
    source.seek(start)
    if not found:
        raise UnreadablePixels(StreamFault.TRUNCATED)
    return _without_table(source, found)


def frame_fragments(
    source: BinaryIO, items: Items, frame_count: int, extended_offsets: Sequence[int] = ()
) -> list[tuple[Fragment, ...]]:
    """Say which fragments make up each frame.

    Parameters
    ----------
    source
        Where the items lie.
    items
        From `list_items`.
    frame_count
        (0028,0008) Number of Frames.
    extended_offsets
        (7FE0,0001) Extended Offset Table; empty where absent.

    Raises
    ------
    UnreadablePixels
        When the items hold another number of frames.
    """
    fragments = items.fragments
    starts = [index for index, one in enumerate(fragments) if _begins_a_stream(source, one)]
    if starts:
        if starts[0] != 0:
            raise UnreadablePixels(StreamFault.DAMAGED)
        refuse_another_count(len(starts), frame_count)
        return _cut_at(fragments, starts)
    # RLE has no beginning of its own, and exactly one fragment a frame (PS3.5 A.4.2); older files broke that.
    if frame_count == 1:
        return [fragments]
    if len(fragments) == frame_count:
        return [(one,) for one in fragments]
    for offsets in (extended_offsets, items.basic_offsets):
        places = {one.place: index for index, one in enumerate(fragments)}
        if len(offsets) == frame_count and all(offset in places for offset in offsets):
            return _cut_at(fragments, [places[offset] for offset in offsets])
    raise UnreadablePixels(StreamFault.FRAMES_CONFLICT)


def refuse_another_count(streams: int, frame_count: int) -> None:
    """Refuse pixel data whose streams are more or fewer than the frames of the header.

    Raises
    ------
    UnreadablePixels
        When they are.
    """
    if streams < frame_count:
        raise UnreadablePixels(StreamFault.TRUNCATED)
    if streams > frame_count:
        raise UnreadablePixels(StreamFault.FRAMES_CONFLICT)


def refuse_long_stream(fragments: Sequence[Fragment], described: Description) -> None:
    """Refuse the stream of a frame that is far longer than the frame itself, before any of it is read.

    Raises
    ------
    UnreadablePixels
        When it is.
    """
    frame_bytes = described.rows * described.columns * described.samples_per_pixel * described.item_size
    if sum(one.length for one in fragments) > 2 * frame_bytes + _LONGEST_OVERHEAD_BYTES:
        raise UnreadablePixels(StreamFault.DAMAGED)


def join(source: BinaryIO, fragments: Sequence[Fragment]) -> bytes:
    """Read the stream of one frame.

    Raises
    ------
    UnreadablePixels
        When the file became shorter.
    """
    parts = []
    for one in fragments:
        source.seek(one.offset)
        part = source.read(one.length)
        if len(part) != one.length:
            raise UnreadablePixels(StreamFault.TRUNCATED)
        parts.append(part)
    return b"".join(parts)


def _without_table(source: BinaryIO, found: Sequence[Fragment]) -> Items:
    # The first item is the Basic Offset Table. Some senders leave it out, and its place holds a stream.
    first, *others = found
    if first.length and (_begins_a_stream(source, first) or not others):
        return Items(fragments=tuple(found), basic_offsets=())
    if not others:
        raise UnreadablePixels(StreamFault.TRUNCATED)
    if first.length > 4 * HEADER_BOUNDS.most_elements:
        raise OverBounds
    source.seek(first.offset)
    table = source.read(first.length // 4 * 4)
    base = others[0].place
    fragments = tuple(Fragment(offset=one.offset, length=one.length, place=one.place - base) for one in others)
    return Items(fragments=fragments, basic_offsets=struct.unpack(f"<{len(table) // 4}L", table))


def _begins_a_stream(source: BinaryIO, fragment: Fragment) -> bool:
    source.seek(fragment.offset)
    return source.read(min(fragment.length, 8)).startswith(_BEGINNINGS)


def _cut_at(fragments: Sequence[Fragment], starts: Sequence[int]) -> list[tuple[Fragment, ...]]:
    ends = [*starts[1:], len(fragments)]
    return [tuple(fragments[start:end]) for start, end in zip(starts, ends, strict=True)]
