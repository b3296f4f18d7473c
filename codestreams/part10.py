"""Where the file meta information of a Part 10 file ends (PS3.10 7.1): at its own length, whatever follows it.

Group 0002 inside of a data set is not allowed (PS3.5 7.1) and sent all the same. Readers that go by the group would
take it for the file's own, and with it another transfer syntax.
"""

import struct
from io import SEEK_CUR, SEEK_END, SEEK_SET, BufferedReader, RawIOBase
from typing import Any, BinaryIO

from codestreams.elements import EXPLICIT_BIG_ENDIAN, LONG_VRS

_META_GROUP = 0x0002
#: Ours is under a kilobyte; what is longer is none.
_LONGEST_META_BYTES = 1 << 20


def without_foreign_meta(file: BinaryIO) -> BinaryIO:
    """Hide group 0002 of the data set from a reader.

    Parameters
    ----------
    file
        A Part 10 file, at any place.

    Returns
    -------
        The same file at its beginning; or a view of it without those elements where it has them.
    """
    found = find_meta(file)
    if found is None:
        file.seek(0)
        return file
    end, meta = found
    order = ">" if EXPLICIT_BIG_ENDIAN.encode() + b"\0" in meta else "<"
    file.seek(end)
    if not _is_at_group_2(file, order):
        file.seek(0)
        return file
    skip_foreign_meta(file, order)
    return spliced(meta, file)


def find_meta(file: BinaryIO) -> tuple[int, bytes] | None:
    """Return where the data set begins and what stands before it; None where the group length does not say it."""
    file.seek(0)
    head = file.read(144)
    # (0002,0000) UL of four bytes, the first element.
    if head[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00" or len(head) < 144:
        return None
    end = 144 + int(struct.unpack("<L", head[140:144])[0])
    file.seek(0)
    return end, file.read(min(end, _LONGEST_META_BYTES))


def spliced(start: bytes, rest: BinaryIO) -> BinaryIO:
    """Return a view of some bytes and, behind them, of a file from its place on; nobody else may move that file."""
    return BufferedReader(_Spliced(start, rest))


class _Spliced(RawIOBase):
    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start = start
        self._rest = rest
        #: Of the view in the file, behind the start.
        self._offset = rest.tell() - len(start)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        if whence == SEEK_CUR:
            offset += self._position
        elif whence == SEEK_END:
            offset += self._rest.seek(0, SEEK_END) - self._offset
        self._position = max(offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._start[self._position : self._position + len(buffer)]
        if not data:
            self._rest.seek(self._position + self._offset)
            data = self._rest.read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def skip_foreign_meta(file: BinaryIO, order: str = "<") -> None:
    """Move past elements of group 0002 at the beginning of a data set; `order` is that of `struct`."""
    while _is_at_group_2(file, order):
        head = file.read(8)
        if head[4:6] in LONG_VRS:
            length = struct.unpack(f"{order}L", file.read(4))[0]
        elif head[4:6].isalpha() and head[4:6].isupper():
            length = struct.unpack(f"{order}H", head[6:8])[0]
        else:
            length = struct.unpack(f"{order}L", head[4:8])[0]
        file.seek(length, SEEK_CUR)


def _is_at_group_2(file: BinaryIO, order: str) -> bool:
    group = file.read(2)
    file.seek(-len(group), SEEK_CUR)
    return len(group) == 2 and struct.unpack(f"{order}H", group)[0] == _META_GROUP
