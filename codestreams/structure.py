"""What a codestream says about itself, and whether it is whole: read without decoding a pixel."""

import re
import struct
from dataclasses import dataclass, replace
from enum import StrEnum

from casebook.errors import UnreadablePixels
from codestreams.faults import StreamFault
from codestreams.packets import Coding, Tile


class Kind(StrEnum):
    """The codec, as the stream's own first bytes tell it."""

    #: ISO/IEC 10918-1, lossy or lossless.
    JPEG = "JPEG"
    #: ISO/IEC 14495-1.
    JPEG_LS = "JPEG-LS"
    #: ISO/IEC 15444-1 and 15444-15 (HTJ2K).
    JPEG_2000 = "JPEG 2000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One scan of a JPEG (ISO/IEC 10918-1 B.2.3)."""

    #: Where its first entropy-coded segment begins.
    start: int
    #: Where its entropy-coded segments end.
    segment_ends: tuple[int, ...]
    #: Numbers of its restart markers, 0 to 7, in the order found.
    restarts: tuple[int, ...]
    #: How many there should be; None where the scan does not say.
    expected_restarts: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """The frame header of one stream."""

    kind: Kind
    rows: int
    columns: int
    samples_per_pixel: int
    #: Bits of one sample.
    precision: int
    #: Only JPEG 2000 says so.
    is_signed: bool = False
    #: The bytes of the stream itself, without what stands before and after it.
    stream: bytes
    #: Whether its own end was found: EOI or EOC.
    has_end: bool
    #: The scans of a JPEG.
    scans: tuple[Scan, ...] = ()
    #: How many tiles of a JPEG 2000 picture there are, and how many there should be.
    tiles: int = 0
    expected_tiles: int = 0
    #: How the packets of a JPEG 2000 are coded; None where parts of it are coded in other ways.
    coding: Coding | None = None
    #: What its tiles hold.
    packets: tuple[Tile, ...] = ()
    #: Whether decoding gives red, green and blue whatever the header says.
    is_rgb: bool = False
    #: Whether decoding gives luminance and chrominance whatever the header says.
    is_luminance: bool = False


#: ISO/IEC 10918-1 B.1.1.2: a marker is FF, and neither 00 nor FF; any number of fill bytes FF may stand before it.
_JPEG_MARKER = re.compile(rb"\xff++([\x01-\xfe])")
#: The same inside of a scan, looked for from the first of its fill bytes only: a megabyte of them costs as much once.
_SCAN_MARKER = re.compile(rb"(?<!\xff)\xff++([\x01-\xfe])")
#: ISO/IEC 14495-1 A.1: a bit is stuffed after FF, so that only 80 and up is a marker.
_JPEG_LS_MARKER = re.compile(rb"(?<!\xff)\xff++([\x80-\xfe])")
_EOI, _SOS, _DRI, _DNL = 0xD9, 0xDA, 0xDD, 0xDC
#: APP14, whose last byte says whether colours were transformed (ISO/IEC 10918-6 6.5.3).
_ADOBE = 0xEE
_RESTARTS = range(0xD0, 0xD8)
#: SOF0 to SOF15 without DHT, JPG and DAC; SOF55 is JPEG-LS.
_FRAME_HEADERS = frozenset(set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7})
_LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_JPEG_LS = 0xF7
#: ISO/IEC 15444-1 A.2: SOC and SIZ, SOT, SOD, EOC, COD.
_MAIN_HEADER, _SOT, _SOD, _EOC, _COD = b"\xff\x4f\xff\x51", 0xFF90, b"\xff\x93", 0xFFD9, 0xFF52
#: COC, POC, PPM and PPT: a component of its own coding, packets in more than one order, their headers elsewhere.
_OTHER_WAYS = frozenset({0xFF53, 0xFF5F, 0xFF60, 0xFF61})
#: Markers with a length that stand in the main header and in the header of a tile-part.
_SEGMENTS = range(0xFF50, 0xFF70)


def read_structure(content: bytes) -> Structure:
    """Read the markers of one stream up to its end; whether it is whole, the facts tell.

    Raises
    ------
    UnreadablePixels
        When the stream is of no known kind, or ends before its picture begins.
    """
    try:
        if content[:2] == b"\xff\xd8":
            return _read_jpeg(content)
        # A codestream in a JP2 box is not allowed (PS3.5 A.4.4) and in use.
        start = content.find(_MAIN_HEADER, 0, 4096)
        if start >= 0:
            return _read_jpeg_2000(content[start:])
    except (struct.error, IndexError, ZeroDivisionError):
        raise UnreadablePixels(StreamFault.TRUNCATED) from None
    raise UnreadablePixels(StreamFault.DAMAGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FrameHeader:
    """SOF (ISO/IEC 10918-1 B.2.2)."""

    marker: int
    precision: int
    rows: int
    columns: int
    #: Component id -> horizontal and vertical sampling factor.
    components: dict[int, tuple[int, int]]
    #: Of the number of rows in the stream.
    rows_at: int


def _read_jpeg(content: bytes) -> Structure:
    position, restart_interval = 2, 0
    frame: _FrameHeader | None = None
    scans: list[Scan] = []
    has_end = False
    transform: int | None = None
    while (match := _JPEG_MARKER.match(content, position)) is not None:
        marker, position = match[1][0], match.end()
        if marker == _EOI:
            has_end = True
            break
        length = int.from_bytes(content[position : position + 2], "big")
        body = content[position + 2 : position + length]
        if marker in _FRAME_HEADERS:
            frame = _frame_header(marker, body, position + 2)
        elif marker == _ADOBE and body[:5] == b"Adobe" and len(body) >= 12:
            transform = body[11]
        elif marker == _DRI:
            restart_interval = int.from_bytes(body, "big")
        elif marker == _DNL and frame is not None:
            # ISO/IEC 10918-1 B.2.5: the number of rows, told after the first scan where the frame says zero.
            frame = replace(frame, rows=frame.rows or int.from_bytes(body[:2], "big"))
        position += length
        if marker == _SOS and frame is not None:
            scan, position = _read_scan(content, position, frame, body, restart_interval)
            scans.append(scan)
    if frame is None or not scans:
        raise UnreadablePixels(StreamFault.TRUNCATED)
    stream = content[:position]
    # No decoder here reads a frame that tells its rows at the end; it reads one that tells them at the beginning.
    if content[frame.rows_at : frame.rows_at + 2] == b"\0\0":
        stream = stream[: frame.rows_at] + frame.rows.to_bytes(2, "big") + stream[frame.rows_at + 2 :]
    return Structure(
        kind=Kind.JPEG_LS if frame.marker == _JPEG_LS else Kind.JPEG,
        rows=frame.rows,
        columns=frame.columns,
        samples_per_pixel=len(frame.components),
        precision=frame.precision,
        stream=stream,
        has_end=has_end,
        scans=tuple(scans),
        is_rgb=len(frame.components) == 3 and (transform == 0 or bytes(frame.components) in {b"RGB", b"rgb"}),
        # Chrominance alone is stored with fewer samples.
        is_luminance=len(frame.components) == 3 and (transform == 1 or len(set(frame.components.values())) > 1),
    )


def _frame_header(marker: int, body: bytes, offset: int) -> _FrameHeader:
    precision, rows, columns, count = struct.unpack_from(">BHHB", body)
    components = {
        body[place]: (body[place + 1] >> 4 or 1, body[place + 1] & 15 or 1) for place in range(6, 6 + 3 * count, 3)
    }
    if not columns or len(components) != count:
        raise UnreadablePixels(StreamFault.DAMAGED)
    return _FrameHeader(
        marker=marker, precision=precision, rows=rows, columns=columns, components=components, rows_at=offset + 1
    )


def _read_scan(
    content: bytes, position: int, frame: _FrameHeader, body: bytes, restart_interval: int
) -> tuple[Scan, int]:
    # Walks the entropy-coded segments up to the first marker that is no restart.
    is_jpeg_ls = frame.marker == _JPEG_LS
    pattern = _JPEG_LS_MARKER if is_jpeg_ls else _SCAN_MARKER
    restarts: list[int] = []
    ends: list[int] = []
    end = len(content)
    for match in pattern.finditer(content, position):
        ends.append(match.start())
        if match[1][0] not in _RESTARTS:
            end = match.start()
            break
        restarts.append(match[1][0] - _RESTARTS.start)
    expected = None
    if not is_jpeg_ls and frame.rows:
        units = _units(frame, list(body[1 : 1 + 2 * body[0] : 2]))
        expected = -(-units // restart_interval) - 1 if restart_interval else 0
    return Scan(start=position, segment_ends=tuple(ends), restarts=tuple(restarts), expected_restarts=expected), end


def _units(frame: _FrameHeader, scan: list[int]) -> int:
    # ISO/IEC 10918-1 A.2: the minimum coded units of a scan.
    block = 1 if frame.marker in _LOSSLESS else 8
    widest = max(horizontal for horizontal, _ in frame.components.values())
    highest = max(vertical for _, vertical in frame.components.values())
    if len(scan) > 1:
        return -(-frame.columns // (block * widest)) * -(-frame.rows // (block * highest))
    horizontal, vertical = frame.components.get(scan[0], (1, 1))
    columns, rows = -(-frame.columns * horizontal // widest), -(-frame.rows * vertical // highest)
    return -(-columns // block) * -(-rows // block)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """SIZ (ISO/IEC 15444-1 A.5.1), on the reference grid."""

    columns: int
    rows: int
    left: int
    top: int
    tile_columns: int
    tile_rows: int
    tile_left: int
    tile_top: int
    components: int

    @property
    def tiles_across(self) -> int:
        return -(-(self.columns - self.tile_left) // self.tile_columns)

    @property
    def tiles_down(self) -> int:
        return -(-(self.rows - self.tile_top) // self.tile_rows)


def _read_jpeg_2000(content: bytes) -> Structure:
    size = _Size(**dict(zip(_Size.__slots__, struct.unpack_from(">8IH", content, 8), strict=True)))
    depths = {content[42 + 3 * place] for place in range(size.components)}
    samplings = {content[43 + 3 * place : 45 + 3 * place] for place in range(size.components)}
    if len(depths) != 1 or samplings != {b"\x01\x01"} or size.columns <= size.left or size.rows <= size.top:
        raise UnreadablePixels(StreamFault.DAMAGED)
    markers, position = _read_segments(content, 2)
    if _COD not in markers:
        raise UnreadablePixels(StreamFault.DAMAGED)
    coding = _read_coding(markers[_COD])
    parts, position, has_end = _read_tile_parts(content, position)
    of_parts = {one for part in parts for one in part.markers}
    is_one_way = not (_OTHER_WAYS & {*markers, *of_parts}) and _COD not in of_parts
    tiles: dict[int, list[_TilePart]] = {}
    for part in parts:
        tiles.setdefault(part.tile, []).append(part)
    depth = depths.pop()
    return Structure(
        kind=Kind.JPEG_2000,
        rows=size.rows - size.top,
        columns=size.columns - size.left,
        samples_per_pixel=size.components,
        precision=(depth & 0x7F) + 1,
        is_signed=bool(depth & 0x80),
        stream=content[: position + 2] if has_end else content,
        has_end=has_end,
        tiles=len(tiles),
        expected_tiles=size.tiles_across * size.tiles_down,
        coding=coding if is_one_way else None,
        packets=tuple(_tile(number, found, size, content) for number, found in tiles.items()),
        is_rgb=size.components >= 3 and coding.has_colour_transform,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _TilePart:
    """One part of a tile (ISO/IEC 15444-1 A.4.2)."""

    tile: int
    markers: frozenset[int]
    #: Where its packets begin and end.
    begin: int
    end: int


def _read_segments(content: bytes, position: int) -> tuple[dict[int, bytes], int]:
    # The marker segments of a header, and where it ends.
    found: dict[int, bytes] = {}
    while (marker := int.from_bytes(content[position : position + 2], "big")) in _SEGMENTS:
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        found[marker] = content[position + 4 : position + 2 + length]
        position += 2 + length
    return found, position


def _read_coding(body: bytes) -> Coding:
    style, progression, layers, colours, levels, wide, high, blocks, wavelet = struct.unpack_from(">BBHBBBBBB", body)
    sizes = body[10 : 11 + levels] if style & 1 else b"\xff" * (levels + 1)
    if len(sizes) != levels + 1 or levels > 32:
        raise UnreadablePixels(StreamFault.DAMAGED)
    return Coding(
        progression=progression,
        layers=layers,
        has_colour_transform=colours == 1,
        block=((wide & 15) + 2, (high & 15) + 2),
        style=blocks,
        is_reversible=wavelet == 1,
        precincts=tuple((one & 15, one >> 4) for one in sizes),
    )


def _read_tile_parts(content: bytes, position: int) -> tuple[list[_TilePart], int, bool]:
    # The parts of all tiles; where they end; whether the end of the stream stands there.
    parts: list[_TilePart] = []
    while position < len(content):
        marker = int.from_bytes(content[position : position + 2], "big")
        if marker != _SOT:
            return parts, position, marker == _EOC
        tile, length = struct.unpack_from(">HI", content, position + 4)
        # Zero: up to the end of the stream (A.4.2). FFD9 does not occur inside of packets (B.10.1).
        following = position + length if length else content.find(b"\xff\xd9", position)
        if following <= position:
            break
        markers, begin = _read_segments(content, position + 12)
        if content[begin : begin + 2] != _SOD:
            raise UnreadablePixels(StreamFault.DAMAGED)
        parts.append(_TilePart(tile=tile, markers=frozenset(markers), begin=begin + 2, end=following))
        position = following
    return parts, position, False


def _tile(number: int, parts: list[_TilePart], size: _Size, content: bytes) -> Tile:
    # ISO/IEC 15444-1 B.3
    row, column = divmod(number, size.tiles_across)
    return Tile(
        left=max(size.tile_left + column * size.tile_columns, size.left),
        right=min(size.tile_left + (column + 1) * size.tile_columns, size.columns),
        top=max(size.tile_top + row * size.tile_rows, size.top),
        bottom=min(size.tile_top + (row + 1) * size.tile_rows, size.rows),
        components=size.components,
        parts=tuple((part.begin, part.end) for part in parts),
        content=b"".join(content[part.begin : part.end] for part in parts),
    )
