"""A header element by element: the same as in memory, within bounds, and without trust in any length."""

import random
import struct
from dataclasses import replace
from io import BytesIO

import pytest

from casebook.errors import OverBounds
from codestreams.bounds import HEADER_BOUNDS
from codestreams.elements import EXPLICIT, IMPLICIT, Encoding, NotUnderstood, encoding_of, walk
from codestreams.header import find_values, require_bounded

BIG = encoding_of("1.2.840.10008.1.2.2")
WANTED = {0x00080005: "SpecificCharacterSet", 0x0020000D: "StudyInstanceUID", 0x00380010: "AdmissionID"}
LAST = max(WANTED)
ENCODINGS = pytest.mark.parametrize("encoding", [EXPLICIT, IMPLICIT, BIG], ids=["explicit", "implicit", "big endian"])


def element(encoding: Encoding, tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    order = ">" if encoding.big_endian else "<"
    stated = len(value) if length is None else length
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if encoding.implicit or tag >> 16 == 0xFFFE:
        return head + struct.pack(f"{order}I", stated) + value
    if vr in {b"SQ", b"UN", b"OB"}:
        return head + vr + b"\0\0" + struct.pack(f"{order}I", stated) + value
    return head + vr + struct.pack(f"{order}H", stated) + value


def sequence(encoding: Encoding, tag: int, items: list[bytes], *, undefined: bool, vr: bytes = b"SQ") -> bytes:
    open_length = 0xFFFFFFFF if undefined else None
    parts = []
    for one in items:
        parts.append(element(encoding, 0xFFFEE000, b"", one, open_length))
        if undefined:
            parts.append(element(encoding, 0xFFFEE00D, b"", b""))
    if undefined:
        parts.append(element(encoding, 0xFFFEE0DD, b"", b""))
    return element(encoding, tag, vr, b"".join(parts), open_length)


def a_header(encoding: Encoding, seed: int) -> bytes:
    chance = random.Random(seed)
    parts = [element(encoding, 0x00080005, b"CS", b"ISO_IR 192")]
    for number in range(chance.randrange(6)):
        tag = 0x00190000 + 0x1000 + number
        inner = element(encoding, 0x00080100, b"SH", bytes(chance.randrange(0, 20, 2)))
        nested = sequence(encoding, 0x00081032, [inner] * chance.randrange(3), undefined=chance.random() < 0.5)
        kind = chance.randrange(3)
        if kind == 0:
            parts.append(element(encoding, tag, b"OB", bytes(chance.randrange(0, 4000, 2))))
        else:
            parts.append(sequence(encoding, tag, [inner + nested, b""], undefined=kind == 1))
    parts += [element(encoding, 0x0020000D, b"UI", b"1.2.3\0")] * chance.randrange(1, 3)
    if chance.random() < 0.7:
        parts.append(element(encoding, 0x00380010, b"LO", b"V1"))
    parts.append(element(encoding, 0x7FE00010, b"OW", bytes(50)))
    return b"".join(parts)


@ENCODINGS
@pytest.mark.parametrize("seed", range(40))
def test_a_file_gives_the_values_that_its_bytes_give_in_memory(encoding: Encoding, seed: int) -> None:
    content = a_header(encoding, seed)

    found = find_values(BytesIO(content), encoding, WANTED, LAST)

    assert found == walk(content, encoding, WANTED, LAST, whole=True)
    assert found["StudyInstanceUID"].startswith(b"1.2.3")
    require_bounded(BytesIO(content), encoding, sequences=frozenset())


@ENCODINGS
@pytest.mark.parametrize("seed", range(10))
def test_a_header_that_is_cut_off_anywhere_ends_the_look_and_never_loops(encoding: Encoding, seed: int) -> None:
    content = a_header(encoding, seed)
    for end in range(0, len(content), 7):
        for look in (
            lambda file: find_values(file, encoding, WANTED, LAST),
            lambda file: require_bounded(file, encoding, sequences=frozenset()),
        ):
            try:
                look(BytesIO(content[:end]))
            except (NotUnderstood, OverBounds):
                continue


class NoReader(BytesIO):
    """A file of which only short pieces are read."""

    def read(self, count: int | None = -1, /) -> bytes:
        assert count is not None
        assert 0 <= count <= 64
        return super().read(count)


@ENCODINGS
def test_a_long_value_is_passed_by_its_length_and_not_read(encoding: Encoding) -> None:
    long = element(encoding, 0x00191010, b"OB", bytes(1 << 20))
    nested = sequence(encoding, 0x00191011, [long], undefined=True)
    content = nested + long + element(encoding, 0x00380010, b"LO", b"V1")

    assert find_values(NoReader(content), encoding, WANTED, LAST) == {"AdmissionID": b"V1"}
    require_bounded(NoReader(content), encoding, sequences=frozenset())


SMALL = replace(HEADER_BOUNDS, longest_value_bytes=100, longest_bytes=1000, most_elements=50, deepest_sequence=3)


def nest(encoding: Encoding, depth: int, *, undefined: bool) -> bytes:
    content = b""
    for _ in range(depth):
        content = sequence(encoding, 0x00081032, [content], undefined=undefined)
    return content


@ENCODINGS
@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize(
    "excess",
    [
        lambda encoding, undefined: sequence(encoding, 0x00081032, [b""] * 60, undefined=undefined),
        lambda encoding, undefined: sequence(
            encoding,
            0x00081032,
            [element(encoding, 0x00080100, b"SH", b"") * 60],
            undefined=undefined,
        ),
        lambda encoding, undefined: nest(encoding, 6, undefined=undefined),
        lambda encoding, undefined: element(encoding, 0x00191010, b"OB", bytes(90)) * 12,
        lambda encoding, undefined: sequence(
            encoding, 0x00081032, [element(encoding, 0x00191010, b"OB", bytes(2000))], undefined=True
        ),
    ],
    ids=["items", "elements in an item", "depth", "bytes", "a long value in a sequence"],
)
def test_what_exceeds_a_bound_is_refused_at_any_depth(encoding: Encoding, undefined: bool, excess: object) -> None:
    content = excess(encoding, undefined)  # type: ignore[operator]
    bounds = replace(SMALL, longest_value_bytes=800)

    with pytest.raises(OverBounds):
        require_bounded(BytesIO(content), encoding, sequences={0x00081032}, bounds=bounds)


def test_a_sequence_that_no_vr_and_no_item_tag_gives_away_is_known_by_its_tag() -> None:
    hidden = element(IMPLICIT, 0x00081032, b"", struct.pack("<HHI", 1, 1, 0) * 60)

    with pytest.raises(NotUnderstood):
        require_bounded(
            BytesIO(hidden), IMPLICIT, sequences={0x00081032}, bounds=replace(SMALL, longest_value_bytes=800)
        )


def test_the_fragments_of_pixels_are_no_elements() -> None:
    fragments = sequence(EXPLICIT, 0x00191010, [b"\xff" * 40, b"\x01" * 40], undefined=False, vr=b"OB")
    content = fragments[:8] + struct.pack("<I", 0xFFFFFFFF) + fragments[12:] + element(EXPLICIT, 0xFFFEE0DD, b"", b"")

    require_bounded(BytesIO(content), EXPLICIT, sequences=frozenset())


def test_a_wanted_value_that_is_too_long_is_refused() -> None:
    content = element(EXPLICIT, 0x00380010, b"UN", bytes(200))

    with pytest.raises(OverBounds):
        find_values(BytesIO(content), EXPLICIT, WANTED, LAST, SMALL)
