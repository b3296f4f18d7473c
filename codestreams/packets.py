"""Walks the packets of a JPEG 2000 (ISO/IEC 15444-1 B) without decoding them: each says how long it is.

A decoder that lost its place reads on and makes up a picture. Packets that are walked one after the other end exactly
where their tile ends, or somewhere before something was damaged.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

#: Shorter codewords are not worth trying.
_SHORT_CODEWORD = 64
#: So often, at the most, a code-block is looked at: each in every layer. No picture that is read here needs as many.
_MOST_LOOKS = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """COD (ISO/IEC 15444-1 A.6.1)."""

    #: 0 to 4: LRCP, RLCP, RPCL, PCRL, CPRL.
    progression: int
    layers: int
    has_colour_transform: bool
    #: Logarithms of the width and the height of a code-block.
    block: tuple[int, int]
    #: The style of the code-blocks (A.6.1, table A.19, and ISO/IEC 15444-15).
    style: int
    #: Transformed without loss.
    is_reversible: bool
    #: For each resolution, the logarithms of the width and the height of its precincts.
    precincts: tuple[tuple[int, int], ...]

    @property
    def is_arithmetic(self) -> bool:
        """Whether every bit is coded arithmetically: HTJ2K and the bypass write some of them as they are."""
        return not self.style & (_BYPASS | _HIGH_THROUGHPUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One tile on the reference grid, and what is in it."""

    left: int
    top: int
    right: int
    bottom: int
    components: int
    #: Where the packets of its parts begin and end in the stream.
    parts: tuple[tuple[int, int], ...]
    #: Its packets, of all parts.
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """What was found on the way through the packets of a tile."""

    #: Where the last one ends, from the beginning of the content.
    end: int
    #: Where the last codeword of some length ends; None where there is none.
    last_codeword: int | None


_BYPASS, _TERMINATED, _HIGH_THROUGHPUT = 0x01, 0x04, 0x40


class OutOfPlaceError(Exception):
    """A packet says what no packet can say, or goes on behind the end of its tile."""


def count_packets(tile: Tile, coding: Coding) -> int:
    """Count the packets of a tile, empty ones among them (B.9): a layer of a component, resolution and precinct."""
    precincts = sum(
        _across(_resolution(tile, coding, level), coding.precincts[level])
        * _down(_resolution(tile, coding, level), coding.precincts[level])
        for level in range(len(coding.precincts))
    )
    return coding.layers * tile.components * precincts


def walk(tile: Tile, coding: Coding) -> Walked:
    """Walk all packets of a tile.

    Raises
    ------
    OutOfPlaceError
        When a packet is not whole.
    """
    if count_packets(tile, coding) > len(tile.content):
        raise OutOfPlaceError
    precincts = _precincts(tile, coding)
    position = 0
    last: int | None = None
    for layer, precinct in _in_order(precincts, coding):
        position, lengths = precinct.read_header(tile.content, position, layer, coding.style)
        for length in lengths:
            position += length
            if length >= _SHORT_CODEWORD:
                last = position
        if position > len(tile.content):
            raise OutOfPlaceError
    return Walked(end=position, last_codeword=last)


@dataclass(slots=True)
class _Bits:
    """The bits of packet headers: behind FF, the first bit of a byte is stuffed (B.10.1)."""

    content: bytes
    position: int
    _byte: int = 0
    _left: int = 0

    def next(self) -> int:
        if not self._left:
            self._left = 7 if self._byte == 0xFF else 8
            if self.position >= len(self.content):
                raise OutOfPlaceError
            self._byte = self.content[self.position]
            self.position += 1
            if self._left == 7 and self._byte > 0x7F:
                raise OutOfPlaceError
        self._left -= 1
        return self._byte >> self._left & 1

    def number(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = value << 1 | self.next()
        return value

    def end(self) -> int:
        # A byte FF at the end of a header is followed by a stuffed one.
        return self.position + (self._byte == 0xFF)


class _TagTree:
    """B.10.2: the least value of each part of a grid is told once."""

    def __init__(self, width: int, height: int) -> None:
        self._sizes = [(width, height)]
        while self._sizes[-1] != (1, 1):
            across, down = self._sizes[-1]
            self._sizes.append((-(-across // 2), -(-down // 2)))
        self._low = [[0] * (across * down) for across, down in self._sizes]
        self._known = [[False] * (across * down) for across, down in self._sizes]

    def is_under(self, column: int, row: int, limit: int, bits: _Bits) -> bool:
        """Say whether the value of a leaf is less than `limit`."""
        low = 0
        for level in reversed(range(len(self._sizes))):
            place = (row >> level) * self._sizes[level][0] + (column >> level)
            low = max(low, self._low[level][place])
            while low < limit and not self._known[level][place]:
                if bits.next():
                    self._known[level][place] = True
                else:
                    low += 1
            self._low[level][place] = low
            if low >= limit:
                return False
        return True


@dataclass(slots=True)
class _Block:
    """A code-block, as far as it was met: passes so far and the bits of a length."""

    passes: int = 0
    length_bits: int = 3
    #: Passes in each codeword segment.
    segments: list[int] = field(default_factory=list)


class _Band:
    """The code-blocks of one precinct in one sub-band (B.7)."""

    def __init__(self, across: int, down: int) -> None:
        self._across, self._down = across, down
        self._included, self._planes = _TagTree(across, down), _TagTree(across, down)
        self._blocks: dict[int, _Block] = {}

    def lengths(self, bits: _Bits, layer: int, style: int) -> Iterator[int]:
        """Read what the header of a packet says of these blocks: how many bytes each has in its body."""
        for place in range(self._across * self._down):
            row, column = divmod(place, self._across)
            block = self._blocks.get(place)
            if block is None:
                if not self._included.is_under(column, row, layer + 1, bits):
                    continue
                planes = 1
                while not self._planes.is_under(column, row, planes, bits):
                    planes += 1
                    if planes > 80:
                        raise OutOfPlaceError
                block = self._blocks[place] = _Block()
            elif not bits.next():
                continue
            yield _contribution(block, bits, style)


def _contribution(block: _Block, bits: _Bits, style: int) -> int:
    # B.10.6 and B.10.7: passes, and the length of each codeword segment.
    left = _passes(bits)
    while bits.next():
        block.length_bits += 1
    if block.length_bits > 32:
        raise OutOfPlaceError
    length = 0
    while left:
        if not block.segments or block.segments[-1] >= _most_passes(len(block.segments) - 1, style):
            block.segments.append(0)
        room = _most_passes(len(block.segments) - 1, style) - block.segments[-1]
        taken = min(left, room)
        length += bits.number(block.length_bits + taken.bit_length() - 1)
        block.segments[-1] += taken
        left -= taken
    return length


def _most_passes(segment: int, style: int) -> int:
    # Table D.9 for the bypass; ISO/IEC 15444-15: a cleanup pass, then two refinements.
    if style & _HIGH_THROUGHPUT:
        return 1 if segment == 0 else 2
    if style & _TERMINATED:
        return 1
    if style & _BYPASS:
        return 10 if segment == 0 else 2 if segment % 2 else 1
    return 1000


def _passes(bits: _Bits) -> int:
    # Table B.4.
    if not bits.next():
        return 1
    if not bits.next():
        return 2
    for width, first, end in ((2, 3, 3), (5, 6, 31)):
        number = bits.number(width)
        if number != end:
            return first + number
    return 37 + bits.number(7)


class _Precinct:
    """One precinct of one resolution of one component, with the state between its layers."""

    def __init__(self, bands: list[_Band], order: tuple[int, int, int, int, int]) -> None:
        self._bands = bands
        #: Resolution, component, row and column on the reference grid, number.
        self.order = order

    def read_header(self, content: bytes, position: int, layer: int, style: int) -> tuple[int, list[int]]:
        """Return where the body of a packet begins whose header is at `position`, and how long its codewords are."""
        if content[position : position + 4] == b"\xff\x91\x00\x04":
            position += 6
        bits = _Bits(content, position)
        lengths = [one for band in self._bands for one in band.lengths(bits, layer, style)] if bits.next() else []
        position = bits.end()
        if content[position : position + 2] == b"\xff\x92":
            position += 2
        return position, lengths


def _in_order(precincts: list[_Precinct], coding: Coding) -> Iterator[tuple[int, _Precinct]]:
    # B.12.1
    keys = {
        0: lambda one: (one.order[0], one.order[1], one.order[4]),
        1: lambda one: (one.order[0], one.order[1], one.order[4]),
        2: lambda one: (one.order[0], one.order[2], one.order[3], one.order[1], one.order[4]),
        3: lambda one: (one.order[2], one.order[3], one.order[1], one.order[0], one.order[4]),
        4: lambda one: (one.order[1], one.order[2], one.order[3], one.order[0], one.order[4]),
    }
    if coding.progression not in keys:
        raise OutOfPlaceError
    ordered = sorted(precincts, key=keys[coding.progression])
    if coding.progression == 0:
        yield from ((layer, one) for layer in range(coding.layers) for one in ordered)
    elif coding.progression == 1:
        for level in range(len(coding.precincts)):
            here = [one for one in ordered if one.order[0] == level]
            yield from ((layer, one) for layer in range(coding.layers) for one in here)
    else:
        yield from ((layer, one) for one in ordered for layer in range(coding.layers))


def _precincts(tile: Tile, coding: Coding) -> list[_Precinct]:
    found: list[_Precinct] = []
    blocks = 0
    for level, (wide, high) in enumerate(coding.precincts):
        bounds = _resolution(tile, coding, level)
        across, down = _across(bounds, (wide, high)), _down(bounds, (wide, high))
        scale = len(coding.precincts) - 1 - level
        for number in range(across * down):
            row, column = (bounds[1] >> high) + number // across, (bounds[0] >> wide) + number % across
            grids = _grids(tile, coding, level, column, row)
            blocks += tile.components * sum(one * other for one, other in grids)
            if blocks * coding.layers > _MOST_LOOKS:
                raise OutOfPlaceError
            place = max(tile.top, row << high + scale), max(tile.left, column << wide + scale)
            found += [
                _Precinct([_Band(*grid) for grid in grids], (level, component, *place, number))
                for component in range(tile.components)
            ]
    return found


def _grids(tile: Tile, coding: Coding, level: int, column: int, row: int) -> list[tuple[int, int]]:
    # Code-blocks across and down of one precinct in each sub-band of its resolution that is not empty (B.5 to B.7).
    halved = int(level > 0)
    wide, high = (one - halved for one in coding.precincts[level])
    if wide < 0 or high < 0:
        raise OutOfPlaceError
    block = min(coding.block[0], wide), min(coding.block[1], high)
    grids = []
    for right, down in ((1, 0), (0, 1), (1, 1)) if halved else ((0, 0),):
        scale = len(coding.precincts) - 1 - level + halved
        left, top, end, bottom = (
            _up(bound - ((shifted << scale) >> 1), scale)
            for bound, shifted in ((tile.left, right), (tile.top, down), (tile.right, right), (tile.bottom, down))
        )
        begin_x, end_x = max(left, column << wide), min(end, (column + 1) << wide)
        begin_y, end_y = max(top, row << high), min(bottom, (row + 1) << high)
        if begin_x < end_x and begin_y < end_y:
            grids.append((_cells(begin_x, end_x, block[0]), _cells(begin_y, end_y, block[1])))
    return grids


def _resolution(tile: Tile, coding: Coding, level: int) -> tuple[int, int, int, int]:
    scale = len(coding.precincts) - 1 - level
    return _up(tile.left, scale), _up(tile.top, scale), _up(tile.right, scale), _up(tile.bottom, scale)


def _across(bounds: tuple[int, int, int, int], precinct: tuple[int, int]) -> int:
    return _cells(bounds[0], bounds[2], precinct[0])


def _down(bounds: tuple[int, int, int, int], precinct: tuple[int, int]) -> int:
    return _cells(bounds[1], bounds[3], precinct[1])


def _cells(begin: int, end: int, scale: int) -> int:
    return _up(end, scale) - (begin >> scale) if end > begin else 0


def _up(value: int, scale: int) -> int:
    return -(-value >> scale)
