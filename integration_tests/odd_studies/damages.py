"""Pixel modules that are damaged, that contradict themselves, or that only look so.

A damage that leaves the picture whole has to be read; any other one has to be refused, or to show the film as it is.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from integration_tests.odd_studies import encoders
from integration_tests.odd_studies.data_set import DELIMITER, RawDataSet, item
from integration_tests.odd_studies.drawing import DraftStudy, pick
from integration_tests.odd_studies.pictures import NATIVE, Container, Pixels, Table, draw_pixels
from integration_tests.odd_studies.study import Expected

Kind = Callable[[DraftStudy], None]
#: Places at which a stream is cut: as many, evenly spaced.
CUTS = 20
_WITH_END = tuple(one for one in encoders.SYNTAXES if one != RLELossless)
_END = MappingProxyType({True: b"\xff\xd9", False: b""})


def _syntax(draft: DraftStudy, *choices: UID) -> UID:
    return choices[int(draft.rng.integers(len(choices)))]


def _store(draft: DraftStudy, syntax: UID, form: str = "window") -> Pixels:
    pixels = draw_pixels(draft.film, draft.rng, syntax=syntax, form=form)
    draft.set_pixels(pixels)
    draft.done += pixels.done
    return pixels


def _replace_stream(draft: DraftStudy, pixels: Pixels, stream: bytes) -> None:
    def edit(raw: RawDataSet) -> None:
        raw.set_encapsulated(pixels.items(stream))

    draft.first.finish.append(edit)


# ---- cut off -----------------------------------------------------------------------------------------------


def _cut_stream(draft: DraftStudy) -> None:
    """Cut a codestream at one of 20 places, inside whole items, with an end set behind it or not."""
    pixels = _store(draft, _syntax(draft, *encoders.SYNTAXES))
    stream = pixels.codestream()
    place = 1 + int(draft.rng.integers(CUTS))
    has_end = bool(draft.rng.random() < 0.5) and pixels.syntax != RLELossless
    cut = stream[: len(stream) * place // (CUTS + 1)]
    _replace_stream(draft, pixels, cut + _END[has_end])
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"cut at {place} of {CUTS + 1}{', an end set behind it' if has_end else ''}")


def _cut_and_padded(draft: DraftStudy) -> None:
    """Cut a codestream and fill it up to its length with zeros or with what stands before."""
    pixels = _store(draft, _syntax(draft, *encoders.SYNTAXES))
    stream = pixels.codestream()
    place = 1 + int(draft.rng.integers(CUTS))
    at = len(stream) * place // (CUTS + 1)
    missing = len(stream) - at
    fill = (b"\0" * missing, b"\xff" * missing, (stream[:at] * (1 + missing // max(at, 1)))[:missing])
    chosen = int(draft.rng.integers(3))
    has_end = bool(draft.rng.random() < 0.5)
    content = stream[:at] + fill[chosen]
    _replace_stream(draft, pixels, content[:-2] + b"\xff\xd9" if has_end else content)
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"filled with {('zeros', 'ones', 'itself')[chosen]} from {place} of {CUTS + 1}")


def _jpeg_2000_damaged(draft: DraftStudy) -> None:
    """Fill a part of the packets of a JPEG 2000 with zeros, with its own bytes or with those of another picture."""
    pixels = _store(draft, _syntax(draft, JPEG2000Lossless, JPEG2000, HTJ2KLossless))
    stream = pixels.codestream()
    begin, end = encoders.bounds_of_packets(stream)
    at = begin + (end - begin) * int(draft.rng.integers(1, CUTS // 2)) // (CUTS + 1)
    stop = end if draft.rng.random() < 0.5 else min(at + (end - begin) // 2, end)
    kept, pixels.values = pixels.values, np.ascontiguousarray(pixels.values[::-1, ::-1])
    other = pixels.codestream()
    pixels.values = kept
    kind = int(draft.rng.integers(3))
    source = (b"\0", stream[begin:at], other[len(other) // 2 : -2])[kind]
    fill = (source * (1 + (stop - at) // max(len(source), 1)))[: stop - at]
    _replace_stream(draft, pixels, stream[:at] + fill + stream[stop:])
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"bytes {at} to {stop} of {len(stream)}: {('zeros', 'its own', 'of another')[kind]}")


def _rle_run_longer(draft: DraftStudy) -> None:
    """Let a run of an RLE segment say a few pixels too many, so that everything behind it is moved."""
    pixels = _store(draft, RLELossless)
    while pixels.bits_stored == 8:
        pixels = _store(draft, RLELossless)
    more = int(draft.rng.integers(20, 60))
    _replace_stream(draft, pixels, encoders.with_longer_runs(pixels.codestream(), 0, more))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"a run of {more} pixels too many")


def _cut_items(draft: DraftStudy) -> None:
    """Cut the whole pixel data at one of 20 places, items and all."""
    pixels = _store(draft, _syntax(draft, *encoders.SYNTAXES))
    items = pixels.items(pixels.codestream())
    place = 1 + int(draft.rng.integers(CUTS))
    cut = items[: len(items) * place // (CUTS + 1)]
    ends_there = bool(draft.rng.random() < 0.5)
    draft.first.finish.append(lambda raw: raw.set_encapsulated(cut + (DELIMITER if ends_there else b"")))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"pixel data cut at {place} of {CUTS + 1}{', a delimiter behind it' if ends_there else ''}")


def _cut_native(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE))
    content = pixels.native()
    place = 1 + int(draft.rng.integers(CUTS))
    cut = content[: len(content) * place // (CUTS + 1) // 2 * 2]
    draft.first.finish.append(lambda raw: raw.set_native(cut))
    draft.expected = Expected.NO_DRAFT
    draft.done.append(f"{len(cut)} of {len(content)} bytes")


def _fragment_missing(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *_WITH_END))
    stream = pixels.codestream()
    size = -(-len(stream) // 4) // 2 * 2 + 2
    parts = [stream[at : at + size] for at in range(0, len(stream), size)]
    lost = int(draft.rng.integers(len(parts)))
    kept = [item(part + b"\0" * (len(part) % 2)) for number, part in enumerate(parts) if number != lost]
    content = b"".join([item(b""), *kept, DELIMITER])
    draft.first.finish.append(lambda raw: raw.set_encapsulated(content))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"fragment {lost + 1} of {len(parts)} is missing")


def _restarts(draft: DraftStudy) -> None:
    """Write a JPEG with restart markers; of half of them eight intervals are missing."""
    pixels = _store(draft, JPEGBaseline8Bit)
    stream = encoders.encode_with_restarts(pixels.values)
    if draft.rng.random() < 0.5:
        number = int(draft.rng.integers(2, 20))
        stream = encoders.without_restart_intervals(stream, number)
        draft.expected = Expected.RIGHT_OR_NONE
        draft.done.append(f"eight restart intervals from {number} on are missing")
    _replace_stream(draft, pixels, stream)
    draft.done.append("restart markers")


def _tiles(draft: DraftStudy) -> None:
    """Write a JPEG 2000 stream of tiles; of half of them a tile is missing."""
    pixels = _store(draft, JPEG2000Lossless)
    while pixels.is_signed or pixels.bits_stored != 8:
        pixels = _store(draft, JPEG2000Lossless)
    stream = encoders.encode_in_tiles(pixels.values, 128)
    if draft.rng.random() < 0.5:
        number = int(draft.rng.integers(0, 9))
        stream = encoders.without_tile(stream, number)
        draft.expected = Expected.RIGHT_OR_NONE
        draft.done.append(f"tile {number} is missing")
    _replace_stream(draft, pixels, stream)
    draft.done.append("nine tiles")


def _two_streams(draft: DraftStudy) -> None:
    """Put the stream of another picture before that of the film, in one frame."""
    pixels = _store(draft, _syntax(draft, JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless))
    stream = pixels.codestream()
    kept, pixels.values = pixels.values, np.ascontiguousarray(pixels.values[::-1, ::-1])
    other = pixels.codestream()
    pixels.values = kept
    parts = [item(one + b"\0" * (len(one) % 2)) for one in (other, stream)]
    content = b"".join([item(b""), *parts, DELIMITER])
    draft.first.finish.append(lambda raw: raw.set_encapsulated(content))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append("two streams for one frame")


def _rle_of_another_size(draft: DraftStudy) -> None:
    pixels = _store(draft, RLELossless)
    rows = pixels.values.shape[0]
    stated = rows + int(draft.rng.choice([-120, -60, 60]))
    draft.first.change("Rows", _number(stated, pixels.syntax), "US")
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"Rows {stated} for segments of {rows}")


# ---- the wrapper -------------------------------------------------------------------------------------------


def _no_delimiter(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *encoders.SYNTAXES))
    pixels.container.has_delimiter = False
    draft.done.append("no delimiter behind whole items")


def _offset_per_fragment(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *_WITH_END))
    pixels.container = Container(fragments=2 + int(draft.rng.integers(3)), offsets="fragment")
    draft.done.append("an offset for each fragment of one frame")


def _no_offset_table(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *_WITH_END))
    pixels.container = Container(offsets="absent", fragments=1)
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append("no item for the offset table")


def _zeros_behind(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *_WITH_END))
    pixels.container.padding = b"\0" * (2 * int(draft.rng.integers(1, 40)))
    draft.done.append("zeros behind the end of the stream")


def _bytes_behind_items(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *_WITH_END))
    draft.first.finish.append(
        lambda raw: raw.set("DataSetTrailingPadding", b"\0" * (2 * int(draft.rng.integers(1, 40))), "OB")
    )
    pixels.container.fragments = 1
    draft.done.append("padding behind the pixel data")


def _native_too_long(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE))
    content = pixels.native() + b"\0" * int(draft.rng.choice([2, 4, 512]))
    draft.first.finish.append(lambda raw: raw.set_native(content))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append("zeros behind the pixels")


# ---- what the header says ----------------------------------------------------------------------------------


def _number(value: int, syntax: UID) -> bytes:
    return value.to_bytes(2, "big" if syntax == ExplicitVRBigEndian else "little")


def _samples_absent(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE, *encoders.SYNTAXES))
    pixels.samples = None
    draft.done.append("SamplesPerPixel absent")


def _samples_wrong(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE, *encoders.SYNTAXES))
    pixels.samples = int(draft.rng.choice([0, 2, 3, 4]))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"SamplesPerPixel {pixels.samples}")


def _high_bit_above(draft: DraftStudy) -> None:
    """Store the values in the upper bits of their cells, as HighBit says."""
    pixels = _store(draft, _syntax(draft, *NATIVE))
    while pixels.bits_allocated == pixels.bits_stored:
        pixels = _store(draft, pixels.syntax)
    pixels.high_bit = pixels.bits_allocated - 1
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"HighBit {pixels.high_bit}, and the values lie there")


def _high_bit_lies(draft: DraftStudy) -> None:
    """Say another HighBit than where the values lie."""
    pixels = _store(draft, _syntax(draft, *NATIVE))
    while pixels.bits_allocated == pixels.bits_stored:
        pixels = _store(draft, pixels.syntax)
    above = bool(draft.rng.random() < 0.5)
    stated = pixels.bits_allocated - 1
    if above:
        pixels.high_bit, stated = stated, pixels.bits_stored - 1
    draft.first.change("HighBit", _number(stated, pixels.syntax), "US")
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"values up to bit {pixels.high_bit}, HighBit {stated}")


def _bits_stored_lies(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE, *encoders.SYNTAXES))
    choices = [bits for bits in (8, 10, 12, 14, 16) if bits != pixels.bits_stored and bits <= pixels.bits_allocated]
    if not choices:
        choices = [6, 7]
    stated = int(draft.rng.choice(choices))
    draft.first.change("BitsStored", _number(stated, pixels.syntax), "US")
    draft.first.change("HighBit", _number(stated - 1, pixels.syntax), "US")
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"BitsStored {stated} for values of {pixels.bits_stored} bits")


def _bits_allocated_lies(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE, *encoders.SYNTAXES))
    stated = 24 - pixels.bits_allocated
    draft.first.change("BitsAllocated", _number(stated, pixels.syntax), "US")
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"BitsAllocated {stated} for cells of {pixels.bits_allocated} bits")


def _sign_lies(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE, *(one for one in encoders.SYNTAXES if one != RLELossless)))
    draft.first.change("PixelRepresentation", _number(int(not pixels.is_signed), pixels.syntax), "US")
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"PixelRepresentation {int(not pixels.is_signed)} for the other sign")


def _sign_of_stream_lies(draft: DraftStudy) -> None:
    """Let a JPEG 2000 stream say another sign than the header; both say what the values are."""
    pixels = _store(draft, _syntax(draft, JPEG2000Lossless, JPEG2000, HTJ2KLossless))
    stream = encoders.claim_sign(pixels.codestream(), signed=not pixels.is_signed)
    _replace_stream(draft, pixels, stream)
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append("Ssiz says the other sign")


def _stream_of_another_depth(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, JPEG2000Lossless, JPEGLosslessSV1, JPEGLossless, JPEGLSLossless))
    choices = [bits for bits in (8, 10, 12, 14, 16) if bits > pixels.bits_stored]
    if choices and not pixels.is_signed:
        bits = int(draft.rng.choice(choices))
        # The same values in a stream that could hold more: read as they are.
        cells = pixels.values.astype(np.uint16)
        stream = encoders.encode(cells, pixels.syntax, bits)
        if pixels.bits_allocated == 8:
            draft.first.change("BitsAllocated", _number(16, pixels.syntax), "US")
        _replace_stream(draft, pixels, stream)
        draft.done.append(f"a stream of {bits} bits")
    draft.expected = Expected.RIGHT_OR_NONE


def _stream_of_fewer_bits(draft: DraftStudy) -> None:
    """Store a film of more bits in a stream of eight, as some converters do, and keep its window."""
    pixels = _store(draft, _syntax(draft, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless))
    while pixels.is_signed or pixels.bits_stored != 10:
        pixels = _store(draft, pixels.syntax)
    cells = (pixels.values >> (pixels.bits_stored - 8)).astype(np.uint8)
    _replace_stream(draft, pixels, encoders.encode(cells, pixels.syntax, 8))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"a stream of 8 bits for {pixels.bits_stored}")


def _signed_stream(draft: DraftStudy) -> None:
    """Store values around zero in a signed stream under a header without a sign."""
    pixels = _store(draft, _syntax(draft, JPEG2000Lossless, HTJ2KLossless))
    while pixels.is_signed:
        pixels = _store(draft, pixels.syntax)
    around = pixels.values - 2 ** (pixels.bits_stored - 1)
    cells = around.astype(np.int8 if pixels.bits_stored == 8 else np.int16)
    _replace_stream(draft, pixels, encoders.encode(cells, pixels.syntax, pixels.bits_stored))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append("signed values in the stream, none in the header")


def _impossible_bits(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE, *encoders.SYNTAXES))
    allocated = pixels.bits_allocated
    stored, high = (
        (allocated + 4, allocated + 3),
        (pixels.bits_stored, allocated + 2),
        (pixels.bits_stored, max(pixels.bits_stored - 4, 0)),
        (1, 0),
    )[int(draft.rng.integers(4))]
    draft.first.change("BitsStored", _number(stored, pixels.syntax), "US")
    draft.first.change("HighBit", _number(high, pixels.syntax), "US")
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"BitsStored {stored}, HighBit {high} of {allocated}")


def _size_lies(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE, *encoders.SYNTAXES))
    keyword = ("Rows", "Columns")[int(draft.rng.integers(2))]
    length = pixels.values.shape[0 if keyword == "Rows" else 1]
    stated = length + int(draft.rng.choice([-100, -16, -1, 1, 16, 100]))
    draft.first.change(keyword, _number(stated, pixels.syntax), "US")
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"{keyword} {stated} instead of {length}")


def _size_of_stream_lies(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, JPEG2000Lossless, JPEGLosslessSV1, JPEGExtended12Bit, JPEGLSLossless))
    rows = pixels.values.shape[0]
    stated = rows + int(draft.rng.choice([-64, -8, -1, 1, 8, 64]))
    _replace_stream(draft, pixels, encoders.change_size(pixels.codestream(), stated))
    # A JPEG 2000 stream that lies together with its header is no contradiction, and nothing in it tells.
    if pixels.syntax != JPEG2000Lossless and draft.rng.random() < 0.5:
        draft.first.change("Rows", _number(stated, pixels.syntax), "US")
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"a stream that says {stated} rows and holds {rows}")


def _frames_lie(draft: DraftStudy) -> None:
    _store(draft, _syntax(draft, *NATIVE, *encoders.SYNTAXES))
    stated = (b"0", b"", b"2", b"10", b"-1", b"1.0")[int(draft.rng.integers(6))]
    draft.first.change("NumberOfFrames", stated)
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"NumberOfFrames {stated!r}")


def _photometric_lies(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE, *encoders.SYNTAXES))
    other = (b"RGB", b"PALETTE COLOR", b"YBR_FULL", b"", b"MONOCHROME", b"GREY")[int(draft.rng.integers(6))]
    draft.first.change("PhotometricInterpretation", other)
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"PhotometricInterpretation {other!r} for {pixels.photometric}")


def _photometric_spelt(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE, *encoders.SYNTAXES))
    spelt = (f"{pixels.photometric} ", f" {pixels.photometric}", pixels.photometric.lower())[int(draft.rng.integers(3))]
    draft.first.change("PhotometricInterpretation", spelt.encode("ascii"))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"PhotometricInterpretation {spelt!r}")


def _photometric_and_shape(draft: DraftStudy) -> None:
    """Say INVERSE where MONOCHROME1 says so already, or alone."""
    pixels = _store(draft, _syntax(draft, *NATIVE, *encoders.SYNTAXES))
    pixels.texts["PresentationLUTShape"] = "INVERSE"
    if pixels.photometric == "MONOCHROME2":
        pixels.shown = np.float32(1) - pixels.shown
        # Shown as stated it is a negative, which no model was made for.
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append("PresentationLUTShape INVERSE")


def _other_syntax_inside(draft: DraftStudy) -> None:
    """Put a group 0002 of another transfer syntax into the data set."""
    _store(draft, _syntax(draft, *NATIVE[:2], *encoders.SYNTAXES))
    other = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless)[int(draft.rng.integers(4))]
    draft.first.change("TransferSyntaxUID", str(other).encode("ascii"), "UI")
    draft.done.append(f"group 0002 in the data set says {other.name}")


# ---- tables and windows ------------------------------------------------------------------------------------


def _narrow_table(draft: DraftStudy) -> None:
    """State more bits than the entries of the VOI LUT need."""
    pixels = _store(draft, _syntax(draft, *NATIVE, JPEGLosslessSV1, JPEG2000Lossless), "VOI table")
    table = pixels.voi_table
    assert table is not None
    bits = int(draft.rng.choice([10, 12, 14]))
    highest = int(table.entries.max()) or 1
    table.entries = np.rint(table.entries * ((2**bits - 1) / highest)).astype(np.int64)
    table.stated_bits, table.is_packed = 16, False
    draft.done.append(f"a VOI LUT of {bits} bits that states 16")


def _wide_table(draft: DraftStudy) -> None:
    """State fewer bits than the entries of the VOI LUT have."""
    pixels = _store(draft, _syntax(draft, *NATIVE), "VOI table")
    table = pixels.voi_table
    assert table is not None
    highest = int(table.entries.max()) or 1
    table.entries = np.rint(table.entries * (65535 / highest)).astype(np.int64)
    table.stated_bits, table.is_packed = int(draft.rng.choice([10, 12, 14])), False
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"a VOI LUT of 16 bits that states {table.stated_bits}")


def _bytes_in_words(draft: DraftStudy) -> None:
    """Write entries of eight bits into words."""
    pixels = _store(draft, _syntax(draft, *NATIVE), "VOI table")
    table = pixels.voi_table
    assert table is not None
    highest = int(table.entries.max()) or 1
    table.entries = np.rint(table.entries * (255 / highest)).astype(np.int64)
    table.stated_bits, table.is_packed = 8, False
    draft.done.append("a VOI LUT of eight bits an entry, in words")


def _white_of_a_power_of_two(draft: DraftStudy) -> None:
    """Round the white of a VOI LUT up to a power of two, as 4096 in a table of 12 bits."""
    pixels = _store(draft, _syntax(draft, *NATIVE), "VOI table")
    table = pixels.voi_table
    assert table is not None
    bits = int(draft.rng.choice([8, 10, 12, 14]))
    highest = int(table.entries.max()) or 1
    table.entries = np.rint(table.entries * (2**bits / highest)).astype(np.int64)
    table.stated_bits, table.is_packed = int(draft.rng.choice([bits, 16])), False
    draft.done.append(f"a VOI LUT whose white is {2**bits}, states {table.stated_bits} bits")


def _signed_first_value(draft: DraftStudy) -> None:
    """Give the first value below zero the VR US, as in implicit VR: its sign follows the rescaled range."""
    pixels = _store(draft, _syntax(draft, ImplicitVRLittleEndian, ExplicitVRLittleEndian), "VOI table")
    table = pixels.voi_table
    assert table is not None
    moved = -1024 if not pixels.is_signed else 0
    if moved:
        present = int(pixels.texts.get("RescaleIntercept", "0"))
        table.first += moved - present
        pixels.texts |= {"RescaleSlope": "1", "RescaleIntercept": str(moved), "RescaleType": "US"}
    table.first_vr = "US"
    draft.done.append(f"first value {table.first} of the VOI LUT as US")


def _table_cut(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE), pick(draft.rng, ("VOI table", "Modality table")))
    table = pixels.voi_table or pixels.modality_table
    assert table is not None
    eighths = pick(draft.rng, (4, 5, 6))
    table.stated_entries = len(table.entries)
    table.entries = table.entries[: len(table.entries) * eighths // 8]
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"{eighths} eighths of a table")


def _table_damaged(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE), pick(draft.rng, ("VOI table", "Modality table")))
    table = pixels.voi_table or pixels.modality_table
    assert table is not None
    if draft.rng.random() < 0.25:
        # It says nothing, so the film is shown over its range.
        pixels = _store(draft, pixels.syntax, "no window")
        pixels.voi_table = Table(entries=np.zeros(0, np.int64), first=0, stated_bits=12)
        draft.done.append("an empty table")
    else:
        _damage_table(draft, table)
    draft.expected = Expected.RIGHT_OR_NONE


def _damage_table(draft: DraftStudy, table: Table) -> None:
    kind = int(draft.rng.integers(3))
    if kind == 0:
        table.first = int(draft.pixels.values.max()) + 1 if not draft.pixels.is_signed else 32_000
        draft.done.append("a first value above every value")
    elif kind == 1:
        table.entries = np.full_like(table.entries, int(table.entries[0]))
        draft.done.append("a table of one value")
    else:
        table.stated_bits = int(draft.rng.choice([0, 1, 17, 32, 255]))
        draft.done.append(f"a table that states {table.stated_bits} bits")


def _window_unusable(draft: DraftStudy) -> None:
    """Write a window that is none; without one the film is shown over its range."""
    pixels = _store(draft, _syntax(draft, *NATIVE, *encoders.SYNTAXES), "no window")
    center, width = (
        ("", ""), ("2048", ""), ("", "4096"), ("0", "0"), ("2048", "0"), ("2048", "-5"), ("NaN", "NaN"),
        ("abc", "4096"), ("1e40", "1e40"),
    )[int(draft.rng.integers(9))]  # fmt: skip
    pixels.texts |= {"WindowCenter": center, "WindowWidth": width}
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"WindowCenter {center!r}, WindowWidth {width!r}")


def _window_elsewhere(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE))
    pixels.texts["WindowCenter"] = ("-70000", "900000", "200000")[int(draft.rng.integers(3))]
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append("a window outside of all values")


def _one_saturated_marker(draft: DraftStudy) -> None:
    """Set a small marker far above everything else of a film without a window."""
    pixels = _store(draft, _syntax(draft, *NATIVE, JPEGLosslessSV1, JPEG2000Lossless), "no window")
    while pixels.bits_stored < 12 or pixels.is_signed:
        pixels = _store(draft, pixels.syntax, "no window")
    size = int(draft.rng.integers(2, 9))
    # White on the film, whatever white is stored as; the rest is shown as without it.
    white = 2**pixels.bits_stored - 1 if pixels.photometric == "MONOCHROME2" else 0
    pixels.values[4 : 4 + size, 4 : 4 + size] = white
    draft.done.append("no window, one saturated marker")


def _saturated_metal(draft: DraftStudy) -> None:
    """Set something in the patient of a film without a window to the end of what the bits hold."""
    pixels = _store(draft, _syntax(draft, *NATIVE, JPEGLosslessSV1, JPEG2000Lossless), "no window")
    while pixels.bits_stored < 12 or pixels.is_signed:
        pixels = _store(draft, pixels.syntax, "no window")
    rows, columns = pixels.values.shape
    height, width = (int(part) for part in draft.rng.integers(6, 24, 2))
    top, left = int(draft.rng.integers(rows // 5, rows // 2)), int(draft.rng.integers(columns // 5, columns // 2))
    place = slice(top, top + height), slice(left, left + width)
    pixels.values[place] = 2**pixels.bits_stored - 1 if pixels.photometric == "MONOCHROME2" else 0
    pixels.shown = pixels.shown.copy()
    pixels.shown[place] = 1
    draft.done.append(f"no window, {height} x {width} pixels of metal")


def _not_square(draft: DraftStudy) -> None:
    """Store every second row or column, and say so."""
    pixels = _store(draft, _syntax(draft, *NATIVE, JPEGLosslessSV1, JPEG2000Lossless, RLELossless))
    keyword, sides = pick(draft.rng, (("PixelAspectRatio", (2, 1)), ("PixelSpacing", (0.4, 0.2))))
    for absent in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        draft.first.leave_out(absent)
    is_tall = bool(draft.rng.random() < 0.5)
    rows, columns = (length // 2 * 2 for length in pixels.values.shape)
    kept = pixels.values[:rows, :columns]
    pixels.values = np.ascontiguousarray(kept[::2] if is_tall else kept[:, ::2])
    pixels.shown = pixels.shown[:rows, :columns]
    first, second = sides if is_tall else sides[::-1]
    draft.first.change(keyword, f"{first}\\{second}".encode("ascii"))
    # Half of the detail is gone, which a model need not accept.
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"{keyword} {first} to {second}")


def _mirrored(draft: DraftStudy) -> None:
    """Store a film mirrored or upside down, and say so: left and right of a draft would be those of the picture."""
    pixels = _store(draft, _syntax(draft, *NATIVE, JPEGLosslessSV1, RLELossless))
    orientation = pick(draft.rng, ("R\\F", "L\\H", "R\\H"))
    turned = pixels.values[:, ::-1] if orientation.startswith("R") else pixels.values
    pixels.values = np.ascontiguousarray(turned[::-1] if orientation.endswith("H") else turned)
    draft.first.change("PatientOrientation", orientation.encode("ascii"))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"PatientOrientation {orientation!r}")


# ---- bits of codecs ----------------------------------------------------------------------------------------


def _eight_bits_in_sixteen(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, JPEGLosslessSV1, JPEGLossless, JPEG2000Lossless, RLELossless, *NATIVE))
    while pixels.bits_stored != 8:
        pixels = _store(draft, pixels.syntax)
    if pixels.syntax in {*NATIVE, RLELossless}:
        # Cells of sixteen bits; the stream of a codec says its own depth.
        pixels.bits_allocated = 16
        if pixels.syntax == RLELossless:
            wide = pixels.values.astype(np.int16 if pixels.is_signed else np.uint16)
            stream = encoders.encode(wide, RLELossless, 16)
            _replace_stream(draft, pixels, stream)
    else:
        draft.first.change("BitsAllocated", _number(16, pixels.syntax), "US")
    draft.done.append("eight bits stored in sixteen allocated")


def _spectral_end_zero(draft: DraftStudy) -> None:
    pixels = _store(draft, JPEGExtended12Bit)
    _replace_stream(draft, pixels, encoders.forget_spectral_end(pixels.codestream()))
    draft.done.append("Se of the scan header is zero")


def _stream_of_another_codec(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless))
    other = _syntax(draft, *(one for one in (JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless, RLELossless)))
    cells = pixels.values.astype(np.dtype(f"{'i' if pixels.is_signed else 'u'}{1 if pixels.bits_stored <= 8 else 2}"))
    _replace_stream(draft, pixels, encoders.encode(cells, other, pixels.bits_stored))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"the stream is {other.name}")


def _bytes_swapped(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE))
    while pixels.bits_allocated != 16:
        pixels = _store(draft, pixels.syntax)
    content = np.frombuffer(pixels.native(), "<u2").byteswap().tobytes()
    draft.first.finish.append(lambda raw: raw.set_native(content))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append("bytes of every value swapped")


def _one_byte_off(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE))
    while pixels.bits_allocated != 16:
        pixels = _store(draft, pixels.syntax)
    content = pixels.native()
    draft.first.finish.append(lambda raw: raw.set_native(content[1:] + b"\0"))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append("pixels one byte off")


def _noise(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE, JPEGLosslessSV1))
    lowest = -(2 ** (pixels.bits_stored - 1)) if pixels.is_signed else 0
    pixels.values = draft.rng.integers(lowest, lowest + 2**pixels.bits_stored, pixels.values.shape)
    draft.expected = Expected.NO_DRAFT
    draft.done.append("noise")


def _empty(draft: DraftStudy) -> None:
    pixels = _store(draft, _syntax(draft, *NATIVE, *encoders.SYNTAXES))
    choice = int(draft.rng.integers(3))
    if choice == 0:
        pixels.values[:] = int(draft.rng.choice([0, int(pixels.values.max())]))
    elif choice == 1:
        draft.first.finish.append(
            lambda raw: raw.set_encapsulated(b"") if pixels.syntax.is_encapsulated else raw.set_native(b"")
        )
    else:
        draft.first.finish.append(lambda raw: raw.remove("PixelData"))
    draft.expected = Expected.NO_DRAFT
    draft.done.append(("one value", "no bytes of pixels", "no pixel data")[choice])


#: Damaged and odd pixel modules.
ODD: Mapping[str, Kind] = MappingProxyType(
    {
        "stream cut": _cut_stream,
        "stream cut and filled": _cut_and_padded,
        "JPEG 2000 damaged": _jpeg_2000_damaged,
        "RLE run longer": _rle_run_longer,
        "items cut": _cut_items,
        "native pixels cut": _cut_native,
        "fragment missing": _fragment_missing,
        "restarts": _restarts,
        "tiles": _tiles,
        "two streams": _two_streams,
        "RLE of another size": _rle_of_another_size,
        "no delimiter": _no_delimiter,
        "offset per fragment": _offset_per_fragment,
        "no offset table": _no_offset_table,
        "zeros behind the stream": _zeros_behind,
        "padding behind the items": _bytes_behind_items,
        "native pixels too long": _native_too_long,
        "SamplesPerPixel absent": _samples_absent,
        "SamplesPerPixel wrong": _samples_wrong,
        "HighBit above": _high_bit_above,
        "HighBit lies": _high_bit_lies,
        "BitsStored lies": _bits_stored_lies,
        "BitsAllocated lies": _bits_allocated_lies,
        "PixelRepresentation lies": _sign_lies,
        "sign of the stream lies": _sign_of_stream_lies,
        "stream of another depth": _stream_of_another_depth,
        "stream of fewer bits": _stream_of_fewer_bits,
        "signed stream": _signed_stream,
        "impossible bits": _impossible_bits,
        "size lies": _size_lies,
        "size of the stream lies": _size_of_stream_lies,
        "NumberOfFrames lies": _frames_lie,
        "photometric interpretation lies": _photometric_lies,
        "photometric interpretation spelt": _photometric_spelt,
        "presentation LUT shape": _photometric_and_shape,
        "group 0002 inside": _other_syntax_inside,
        "narrow VOI LUT": _narrow_table,
        "wide VOI LUT": _wide_table,
        "VOI LUT of bytes in words": _bytes_in_words,
        "white of a power of two": _white_of_a_power_of_two,
        "signed first value": _signed_first_value,
        "damaged table": _table_damaged,
        "table cut": _table_cut,
        "unusable window": _window_unusable,
        "window elsewhere": _window_elsewhere,
        "one saturated marker": _one_saturated_marker,
        "saturated metal": _saturated_metal,
        "pixels not square": _not_square,
        "mirrored": _mirrored,
        "eight bits in sixteen": _eight_bits_in_sixteen,
        "Se is zero": _spectral_end_zero,
        "stream of another codec": _stream_of_another_codec,
        "bytes swapped": _bytes_swapped,
        "one byte off": _one_byte_off,
        "noise": _noise,
        "empty": _empty,
    }
)
