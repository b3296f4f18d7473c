"""Where the file meta information of a Part 10 file ends (PS3.10 7.1): at its own length, whatever follows it.

Group 0002 inside of a data set is not allowed (PS3.5 7.1) and sent all the same. Readers that go by the group would
take it for the file's own, and with it another transfer syntax.
"""

import struct
from io import SEEK_CUR, BytesIO
from typing import BinaryIO

_META_GROUP = 0x0002
#: VRs with a length of 32 bits after two reserved bytes (PS3.5 7.1.2).
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_EXPLICIT_BIG_ENDIAN = b"1.2.840.10008.1.2.2"


def without_foreign_meta(file: BinaryIO) -> BinaryIO:
    """Hide group 0002 of the data set from a reader.

    Parameters
    ----------
    file
        A Part 10 file, at any place.

    Returns
    -------
        The same file at its beginning; or a copy in memory without those elements where it has them.
    """
    end = _end_of_meta(file)
    if end is None:
        file.seek(0)
        return file
    file.seek(0)
    meta = file.read(end)
    order = ">" if _EXPLICIT_BIG_ENDIAN + b"\0" in meta else "<"
    if not _is_at_group_2(file, order):
        file.seek(0)
        return file
    skip_foreign_meta(file, order)
    return BytesIO(meta + file.read())


def skip_foreign_meta(file: BinaryIO, order: str = "<") -> None:
    """Move past elements of group 0002 at the beginning of a data set; `order` is that of `struct`."""
    while _is_at_group_2(file, order):
        head = file.read(8)
        if head[4:6] in _LONG_VRS:
            length = struct.unpack(f"{order}L", file.read(4))[0]
        elif head[4:6].isalpha() and head[4:6].isupper():
            length = struct.unpack(f"{order}H", head[6:8])[0]
        else:
            length = struct.unpack(f"{order}L", head[4:8])[0]
        file.seek(length, SEEK_CUR)


def _end_of_meta(file: BinaryIO) -> int | None:
    file.seek(0)
    head = file.read(144)
    # (0002,0000) UL of four bytes, the first element.
    if head[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00" or len(head) < 144:
        return None
    return 144 + int(struct.unpack("<L", head[140:144])[0])


def _is_at_group_2(file: BinaryIO, order: str) -> bool:
    group = file.read(2)
    file.seek(-len(group), SEEK_CUR)
    return len(group) == 2 and struct.unpack(f"{order}H", group)[0] == _META_GROUP
