"""What a codestream says about itself, and whether it is whole: read without decoding a pixel."""

import re
import struct
from dataclasses import dataclass, replace
from enum import StrEnum

from casebook.errors import UnreadablePixels
from codestreams.faults import StreamFault


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
    #: Whether decoding gives red, green and blue whatever the header says.
    is_rgb: bool = False


#: ISO/IEC 10918-1 B.1.1.2: a marker is FF, and neither 00 nor FF; any number of fill bytes FF may stand before it.
_JPEG_MARKER = re.compile(rb"\xff++([\x01-\xfe])")
#: The same inside of a scan, looked for from the first of its fill bytes only: a megabyte of them costs as much once.
_SCAN_MARKER = re.compile(rb"(?<!\xff)\xff++([\x01-\xfe])")
#: ISO/IEC 14495-1 A.1: a bit is stuffed after FF, so that only 80 and up is a marker.
_JPEG_LS_MARKER = re.compile(rb"(?<!\xff)\xff++([\x80-\xfe])")
_EOI, _SOS, _DRI, _DNL = 0xD9, 0xDA, 0xDD, 0xDC
_RESTARTS = range(0xD0, 0xD8)
#: SOF0 to SOF15 without DHT, JPG and DAC; SOF55 is JPEG-LS.
_FRAME_HEADERS = frozenset(set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7})
_LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_JPEG_LS = 0xF7
#: ISO/IEC 15444-1 A.2: SOC and SIZ, SOT, EOC, COD.
_MAIN_HEADER, _SOT, _EOC, _COD = b"\xff\x4f\xff\x51", 0xFF90, 0xFFD9, 0xFF52


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
    while (match := _JPEG_MARKER.match(content, position)) is not None:
        marker, position = match[1][0], match.end()
        if marker == _EOI:
            has_end = True
            break
        length = int.from_bytes(content[position : position + 2], "big")
        body = content[position + 2 : position + length]
        if marker in _FRAME_HEADERS:
            frame = _frame_header(marker, body, position + 2)
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
        is_rgb=bytes(frame.components) in {b"RGB", b"rgb"},
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


def _read_jpeg_2000(content: bytes) -> Structure:
    # ISO/IEC 15444-1 A.5.1: SIZ.
    columns, rows, left, top, tile_columns, tile_rows, tile_left, tile_top, count = struct.unpack_from(
        ">8IH", content, 8
    )
    depths = {content[42 + 3 * place] for place in range(count)}
    samplings = {content[43 + 3 * place : 45 + 3 * place] for place in range(count)}
    if len(depths) != 1 or samplings != {b"\x01\x01"} or columns <= left or rows <= top:
        raise UnreadablePixels(StreamFault.DAMAGED)
    expected = -(-(columns - tile_left) // tile_columns) * -(-(rows - tile_top) // tile_rows)
    position, is_rgb, has_end = 2, False, False
    found: set[int] = set()
    while position < len(content):
        marker = int.from_bytes(content[position : position + 2], "big")
        if marker == _EOC:
            has_end = True
            break
        if marker == _SOT:
            tile, part = struct.unpack_from(">HI", content, position + 4)
            found.add(tile)
            # Zero: up to the end of the stream (A.4.2). FFD9 does not occur inside of packets (B.10.1).
            following = position + part if part else content.find(b"\xff\xd9", position)
            if following <= position:
                break
            position = following
            continue
        if not 0xFF50 <= marker <= 0xFF6F:  # the markers of the main header
            break
        if marker == _COD:
            is_rgb = count >= 3 and content[position + 8] == 1
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    depth = depths.pop()
    return Structure(
        kind=Kind.JPEG_2000,
        rows=rows - top,
        columns=columns - left,
        samples_per_pixel=count,
        precision=(depth & 0x7F) + 1,
        is_signed=bool(depth & 0x80),
        stream=content[: position + 2] if has_end else content,
        has_end=has_end,
        tiles=len(found),
        expected_tiles=expected,
        is_rgb=is_rgb,
    )
