"""From one codestream to stored values: the decoder, and what the stream and the header must agree on."""

import re
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import decode as decode_jpeg_2000

from casebook.errors import UnreadablePixels
from codestreams.bits import stored_bits
from codestreams.description import Description
from codestreams.faults import StreamFault
from codestreams.packets import OutOfPlaceError, Tile, Walked, count_packets, walk
from codestreams.structure import Kind, Structure, read_structure

#: PS3.5 A.4.
_RLE = "1.2.840.10008.1.2.5"
_TRANSFER_SYNTAXES = frozenset(
    {_RLE} | {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)}
)
_NO_RUN = 128
#: Bytes that no encoder writes at the end of a scan: whether they change the picture tells whether it was complete.
_PROBE = bytes(np.random.default_rng(1).integers(1, 255, 96, dtype=np.uint8))
#: What changes bytes into others.
_OTHERS = bytes((0x15, 0x2A, 0x55, 0x33, 0x0F, 0x5A, 0x3C, 0x71))
#: Bytes behind the picture that a careless encoder may leave at the end of a scan.
_LEFT_OVER = 16
#: Segments under so many bytes are not tried: too little of them is picture.
_SHORT_SEGMENT = 64
#: ISO/IEC 15444-1 B.10.1: FF90 and up does not occur in packets, but for the markers around them (A.8).
_NO_PACKET = re.compile(rb"\xff(?!\x91\x00\x04|\x92)[\x90-\xff]")
#: So many zeros may stand in the codewords of a JPEG 2000 and at their ends.
_ZEROS_OF_CODEWORDS = 64
#: Bytes at the end of the last codeword that are tried.
_LAST_OF_CODEWORD = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One frame."""

    #: Shape of the description.
    values: NDArray[Any]
    #: Whether the stream gave red, green and blue whatever the header says.
    is_rgb: bool
    #: Whether it gave luminance and chrominance whatever the header says.
    is_luminance: bool = False


def can_decode(transfer_syntax_uid: str) -> bool:
    """Say whether a decoder for this compressed transfer syntax is here."""
    return transfer_syntax_uid in _TRANSFER_SYNTAXES


def decode(content: bytes, transfer_syntax_uid: str, described: Description) -> Decoded:
    """Decode the stream of one frame.

    Parameters
    ----------
    content
        All fragments of the frame.
    transfer_syntax_uid
        (0002,0010); which JPEG it is, the stream says itself.
    described
        What the header says. Where the stream says otherwise, the stream is followed or refused.

    Raises
    ------
    UnreadablePixels
        When the stream is cut off, damaged, or contradicts the header.
    """
    if transfer_syntax_uid == _RLE:
        return Decoded(values=stored_bits(_decode_rle(content, described), described), is_rgb=False)
    found = read_structure(content)
    refuse_another_size(found, described)
    refuse_other_samples(found, described)
    refuse_another_depth(found, described)
    refuse_without_end(found)
    refuse_missing_restarts(found)
    refuse_missing_tiles(found)
    raw = _DECODERS[found.kind](found)
    if raw.shape != described.shape:
        raise UnreadablePixels(StreamFault.SIZE_CONFLICT)
    return Decoded(values=fit(raw, found, described), is_rgb=found.is_rgb, is_luminance=found.is_luminance)


def refuse_without_end(found: Structure) -> None:
    """Refuse a stream without its end: a decoder would make up what is missing.

    Raises
    ------
    UnreadablePixels
        When EOI or EOC is absent.
    """
    if not found.has_end:
        raise UnreadablePixels(StreamFault.TRUNCATED)


def refuse_missing_restarts(found: Structure) -> None:
    """Refuse a scan whose restart markers are not all there and in turn (ISO/IEC 10918-1 B.2.1).

    Raises
    ------
    UnreadablePixels
        When an interval is missing or stands in the wrong place.
    """
    for scan in found.scans:
        expected = scan.expected_restarts
        if expected is None:
            continue
        in_turn = all(number == index % 8 for index, number in enumerate(scan.restarts))
        # Some encoders write one more at the end of a scan.
        if not in_turn or len(scan.restarts) not in {expected, expected + 1}:
            raise UnreadablePixels(StreamFault.TRUNCATED)


def refuse_missing_tiles(found: Structure) -> None:
    """Refuse a JPEG 2000 stream that does not hold every tile of the picture (ISO/IEC 15444-1 B.3).

    Raises
    ------
    UnreadablePixels
        When a tile is missing.
    """
    if found.tiles < found.expected_tiles:
        raise UnreadablePixels(StreamFault.TRUNCATED)


def refuse_another_size(found: Structure, described: Description) -> None:
    """Refuse a stream of another size: a few bytes could ask for all the memory of the machine.

    Raises
    ------
    UnreadablePixels
        When rows or columns differ.
    """
    if (found.rows, found.columns) != (described.rows, described.columns):
        raise UnreadablePixels(StreamFault.SIZE_CONFLICT)


def refuse_other_samples(found: Structure, described: Description) -> None:
    """Refuse a grey stream under a colour header and the other way round.

    Raises
    ------
    UnreadablePixels
        When the samples of a pixel differ.
    """
    if found.samples_per_pixel != described.samples_per_pixel:
        raise UnreadablePixels(StreamFault.HEADER_CONFLICT)


def refuse_another_depth(found: Structure, described: Description) -> None:
    """Refuse a stream that was made again with fewer bits, so that windows and tables no longer fit.

    More bits than stored are in use (encoders state the cell); whether the values fit, the values tell.

    Raises
    ------
    UnreadablePixels
        When the stream holds one byte a sample and the header says more.
    """
    if found.precision <= 8 < described.bits_stored or found.precision > 8 * described.item_size:
        raise UnreadablePixels(StreamFault.HEADER_CONFLICT)


def refuse_another_sign(found: Structure, described: Description) -> None:
    """Refuse a stream of signed values under an unsigned header: nobody can know what its values stand for.

    Raises
    ------
    UnreadablePixels
        When only the stream is signed.
    """
    if found.is_signed and not described.is_signed:
        raise UnreadablePixels(StreamFault.HEADER_CONFLICT)


def refuse_values_out_of_range(raw: NDArray[Any], described: Description) -> None:
    """Refuse signed values of a stream that need more bits than the header says.

    Raises
    ------
    UnreadablePixels
        When they do.
    """
    limit = 1 << (described.bits_stored - 1)
    if int(raw.min()) < -limit or int(raw.max()) >= limit:
        raise UnreadablePixels(StreamFault.HEADER_CONFLICT)


def refuse_incomplete_scans(found: Structure, decoded: NDArray[Any]) -> None:
    """Refuse a JPEG whose scans hold fewer samples than the picture: its decoder fills up without a word.

    Raises
    ------
    UnreadablePixels
        When bytes added at the end of a scan change the picture.
    """
    if not np.array_equal(decoded, _decode_jpeg_stream(_probed(found), found.samples_per_pixel)):
        raise UnreadablePixels(StreamFault.TRUNCATED)


def refuse_left_over_bytes(found: Structure, decoded: NDArray[Any]) -> None:
    """Refuse a JPEG whose last scan goes on behind the picture: somewhere before, the decoder lost its place.

    Raises
    ------
    UnreadablePixels
        When other bytes shortly before the end of the scan do not change the picture.
    """
    scan = found.scans[-1]
    bounds = (scan.start, *scan.segment_ends)
    end = bounds[-1]
    if end - bounds[-2:][0] < _SHORT_SEGMENT:
        return
    place = end - _LEFT_OVER - len(_OTHERS)
    # A byte after FF is stuffed and has to stay; none of the others becomes FF, which would begin a marker.
    while found.stream[place - 1] == 0xFF:
        place -= 1
    changed = bytes((one ^ other) & 0x7F for one, other in zip(found.stream[place:], _OTHERS, strict=False))
    stream = found.stream[:place] + changed + found.stream[place + len(changed) :]
    if np.array_equal(decoded, _decode_jpeg_stream(stream, found.samples_per_pixel)):
        raise UnreadablePixels(StreamFault.DAMAGED)


def refuse_impossible_packets(found: Structure) -> None:
    """Refuse a JPEG 2000 whose packets hold bytes that no encoder writes (ISO/IEC 15444-1 B.10.1 and C.2.9).

    Raises
    ------
    UnreadablePixels
        When they hold a marker, or more zeros in a row than there can be empty packets.
    """
    for tile in found.packets:
        if _NO_PACKET.search(tile.content):
            raise UnreadablePixels(StreamFault.DAMAGED)
        if found.coding is not None and found.coding.is_arithmetic:
            zeros = min(count_packets(tile, found.coding), len(tile.content)) + _ZEROS_OF_CODEWORDS
            if bytes(zeros) in tile.content:
                raise UnreadablePixels(StreamFault.DAMAGED)


def refuse_packets_out_of_place(end: int, length: int) -> None:
    """Refuse a JPEG 2000 whose packets do not end where their tile ends: a decoder would lose its place as well.

    Parameters
    ----------
    end
        Of the last packet of a tile, in bytes; below zero where they could not be walked.
    length
        Of the tile, in bytes.

    Raises
    ------
    UnreadablePixels
        When the two differ.
    """
    if end != length:
        raise UnreadablePixels(StreamFault.DAMAGED)


def refuse_foreign_codewords(found: Structure, walks: Sequence[Walked], decoded: NDArray[Any]) -> None:
    """Refuse a JPEG 2000 without loss whose last codeword is not read to its end: it belongs to another picture.

    Raises
    ------
    UnreadablePixels
        When other bytes at its end do not change the picture.
    """
    tried = [(tile, one.last_codeword) for tile, one in zip(found.packets, walks, strict=False) if one.last_codeword]
    if not tried or found.coding is None or not found.coding.is_reversible:
        return
    with suppress(RuntimeError, ValueError):
        if np.array_equal(decoded, decode_jpeg_2000(_with_other_end(found.stream, *tried[-1]), 0)):
            raise UnreadablePixels(StreamFault.DAMAGED)


def _with_other_end(stream: bytes, tile: Tile, end: int) -> bytes:
    # None of the bytes becomes FF, or follows FF with what would begin a marker.
    changed = bytearray(tile.content)
    last = tile.content[end - _LAST_OF_CODEWORD : end]
    others = bytes((one ^ _OTHERS[place % len(_OTHERS)]) & 0x7F for place, one in enumerate(last))
    changed[end - len(others) : end] = others
    result, place = bytearray(stream), 0
    for begin, stop in tile.parts:
        result[begin:stop] = changed[place : place + stop - begin]
        place += stop - begin
    return bytes(result)


def fit(raw: NDArray[Any], found: Structure, described: Description) -> NDArray[Any]:
    """Turn what a stream holds into what the header describes.

    Returns
    -------
        Stored values of Bits Allocated.

    Raises
    ------
    UnreadablePixels
        When the two cannot both be right.
    """
    size = described.item_size
    if found.is_signed:
        refuse_another_sign(found, described)
        refuse_values_out_of_range(raw, described)
        return raw.astype(f"i{size}" if described.is_signed else f"u{size}")
    cells = raw.astype(f"u{size}")
    if described.is_signed and found.precision < described.bits_stored:
        # The sign bit is the highest one that the stream has.
        return stored_bits(cells, replace(described, bits_stored=found.precision, high_bit=found.precision - 1))
    if found.precision <= described.bits_stored:
        # The stream has no room for a shift, whatever High Bit says.
        return stored_bits(cells, replace(described, high_bit=described.bits_stored - 1))
    return stored_bits(cells, described)


def _decode_jpeg(found: Structure) -> NDArray[Any]:
    decoded = _decode_jpeg_stream(found.stream, found.samples_per_pixel)
    refuse_incomplete_scans(found, decoded)
    refuse_left_over_bytes(found, decoded)
    return decoded


def _decode_jpeg_stream(stream: bytes, samples_per_pixel: int) -> NDArray[Any]:
    # Without a change of colours: the header says which they are, and lossless streams have to come back as they were.
    colours = "GRAYSCALE" if samples_per_pixel == 1 else "YCBCR"
    try:
        return imagecodecs.jpeg8_decode(stream, colorspace=colours, outcolorspace=colours)
    except (RuntimeError, ValueError):
        raise UnreadablePixels(StreamFault.DAMAGED) from None


def _probed(found: Structure) -> bytes:
    parts, start = [], 0
    for end in (end for scan in found.scans for end in scan.segment_ends):
        parts += [found.stream[start:end], _PROBE]
        start = end
    return b"".join((*parts, found.stream[start:]))


def _decode_jpeg_ls(found: Structure) -> NDArray[Any]:
    try:
        return imagecodecs.jpegls_decode(found.stream)
    except (RuntimeError, ValueError):
        raise UnreadablePixels(StreamFault.DAMAGED) from None


def _decode_jpeg_2000(found: Structure) -> NDArray[Any]:
    refuse_impossible_packets(found)
    walks = _walked(found)
    try:
        decoded = decode_jpeg_2000(found.stream, 0)
    except (RuntimeError, ValueError):
        raise UnreadablePixels(StreamFault.DAMAGED) from None
    refuse_foreign_codewords(found, walks, decoded)
    return decoded


def _walked(found: Structure) -> list[Walked]:
    if found.coding is None:
        return []
    walks = []
    for tile in found.packets:
        try:
            walks.append(walk(tile, found.coding))
        except OutOfPlaceError:
            walks.append(Walked(end=-1, last_codeword=None))
        refuse_packets_out_of_place(walks[-1].end, len(tile.content))
    return walks


_DECODERS = {Kind.JPEG: _decode_jpeg, Kind.JPEG_LS: _decode_jpeg_ls, Kind.JPEG_2000: _decode_jpeg_2000}


def _decode_rle(content: bytes, described: Description) -> NDArray[Any]:
    # PS3.5 G: a header of 64 bytes, then a segment for every byte of a sample, the most significant first.
    if len(content) < 64:
        raise UnreadablePixels(StreamFault.TRUNCATED)
    count, *offsets = struct.unpack("<16L", content[:64])
    size, samples = described.item_size, described.samples_per_pixel
    if described.bits_allocated % 8:
        raise UnreadablePixels(StreamFault.DAMAGED)
    if count != size * samples:
        raise UnreadablePixels(StreamFault.HEADER_CONFLICT)
    bounds = [*offsets[:count], len(content)]
    planes = [_decode_segment(content[start:end], described) for start, end in pairwise(bounds)]
    # Bytes of one sample together, little endian.
    order = [sample * size + byte for sample in range(samples) for byte in reversed(range(size))]
    stacked = np.stack([planes[index] for index in order], axis=-1)
    cells = np.ascontiguousarray(stacked).view(f"<u{size}")
    return cells.reshape(described.shape)


def _decode_segment(segment: bytes, described: Description) -> NDArray[np.uint8]:
    needed = described.rows * described.columns
    try:
        plane = np.frombuffer(imagecodecs.packbits_decode(segment), dtype=np.uint8)
    except (RuntimeError, ValueError):
        raise UnreadablePixels(StreamFault.TRUNCATED) from None
    refuse_another_segment_length(plane.size, needed, described.columns)
    if needed + 1 < plane.size < needed + described.columns:
        refuse_runs_across_rows(segment, needed, described.columns)
    return plane[:needed]


def refuse_another_segment_length(length: int, needed: int, columns: int) -> None:
    """Refuse an RLE segment that does not hold the picture; less than a row too much is padding.

    Raises
    ------
    UnreadablePixels
        When it is shorter, or longer by a row.
    """
    if length < needed:
        raise UnreadablePixels(StreamFault.TRUNCATED)
    if length >= needed + max(columns, 2):
        raise UnreadablePixels(StreamFault.SIZE_CONFLICT)


def refuse_runs_across_rows(segment: bytes, needed: int, columns: int) -> None:
    """Refuse an RLE segment that is bytes too long and has runs from row to row: what is too much is no padding.

    Raises
    ------
    UnreadablePixels
        When a row does not begin with a run (PS3.5 G.3.1).
    """
    position = length = 0
    row = columns
    while length < needed and position < len(segment):
        count = segment[position]
        # PS3.5 G.3.2: bytes as they are, nothing, or one byte several times.
        length += 0 if count == _NO_RUN else count + 1 if count < _NO_RUN else 257 - count
        position += 1 if count == _NO_RUN else count + 2 if count < _NO_RUN else 2
        if length > row:
            raise UnreadablePixels(StreamFault.DAMAGED)
        row += columns if length == row else 0
