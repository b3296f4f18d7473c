"""Where stored objects are opened, by whoever reads them again: one place, one way of failing.

A file is read as the plain Part 10 file it stands for, whatever lies on the disk: a deflated data set inflated under a
limit, and without group 0002 in the data set. A reader that keeps what it reads asks for it within bounds.
"""

import errno
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from casebook.errors import OverBounds
from codestreams.bounds import HEADER_BOUNDS
from codestreams.elements import DEFLATED, NotUnderstood, encoding_of
from codestreams.header import require_bounded
from codestreams.inflate import inflated
from codestreams.part10 import find_meta, spliced, without_foreign_meta

#: What a deflated data set is once it is inflated (PS3.5 A.5), as long as the UID it takes the place of.
_EXPLICIT = b"1.2.840.10008.1.2.1".ljust(len(DEFLATED), b"\0")


_ERRORS_OF_DAMAGE = frozenset({errno.EINVAL, errno.EOVERFLOW, errno.EFBIG})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainFile:
    """A stored object as a plain Part 10 file (PS3.10 7.1)."""

    file: BinaryIO
    #: Where its data set begins; None where its meta information does not say it.
    data_set_at: int | None
    #: Empty where its meta information does not say it.
    transfer_syntax_uid: str


def system_open(path: Path) -> BufferedReader:
    """Ask the system for a file; tests put one in its place that fails."""
    return path.open("rb")


def open_bytes(path: Path) -> BufferedReader:
    """Open a stored file as it lies; every reading of one begins here.

    Raises
    ------
    OSError
        When the disk does not give it out.
    """
    return system_open(path)


@contextmanager
def open_plain(path: Path, *, with_pixels: bool) -> Iterator[PlainFile]:
    """Open a stored file as the plain Part 10 file that it stands for.

    Parameters
    ----------
    with_pixels
        Whether more than its header is read, so that more of a deflated one may be inflated.

    Raises
    ------
    OSError
        When the disk does not give it out.
    InvalidObject
        Also while it is read: when it is deflated and cannot be inflated, or inflates to more than the bounds.
    """
    with open_bytes(path) as file:
        yield as_plain(file, with_pixels=with_pixels)


def as_plain(file: BinaryIO, *, with_pixels: bool) -> PlainFile:
    """Return a file as the plain Part 10 file that it stands for; nobody else may move it."""
    found = find_meta(file)
    if found is None:
        file.seek(0)
        return PlainFile(file=file, data_set_at=None, transfer_syntax_uid="")
    end, meta = found
    if DEFLATED.encode() in meta:
        file.seek(end)
        meta = meta.replace(DEFLATED.encode(), _EXPLICIT)
        longest_bytes = HEADER_BOUNDS.longest_inflated_bytes if with_pixels else HEADER_BOUNDS.longest_bytes
        file = spliced(meta, inflated(file, longest_bytes))
    return PlainFile(file=without_foreign_meta(file), data_set_at=end, transfer_syntax_uid=_transfer_syntax(meta))


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedFile:
    """A stored object for a reader that keeps what it reads."""

    #: At its beginning. To read more of it than the bounds allow raises `OverBounds`.
    file: BinaryIO
    #: A longer value has to be left in the file.
    longest_value_bytes: int


def bounded(plain: PlainFile, *, sequences: Collection[int]) -> BoundedFile:
    """Return a file for a reader that keeps what it reads: its header, or the whole object where it has no pixels.

    Parameters
    ----------
    sequences
        Tags that are sequences by the dictionary.

    Raises
    ------
    OverBounds
        When the header is too large.
    """
    bounds = HEADER_BOUNDS
    longest_bytes, longest_value_bytes = bounds.longest_uncounted_bytes, bounds.longest_uncounted_bytes // 8
    if plain.data_set_at is not None and plain.transfer_syntax_uid:
        plain.file.seek(plain.data_set_at)
        # What is not understood here a reader that forgives more may understand: nobody has counted what that holds.
        with suppress(NotUnderstood):
            require_bounded(plain.file, encoding_of(plain.transfer_syntax_uid), sequences=sequences)
            # Looked at twice in places.
            longest_bytes, longest_value_bytes = 2 * bounds.longest_bytes, bounds.longest_value_bytes
    plain.file.seek(0)
    return BoundedFile(file=counted(plain.file, longest_bytes), longest_value_bytes=longest_value_bytes)


def counted(file: BinaryIO, longest_bytes: int) -> BinaryIO:
    """Return a file that gives out no more than so many bytes in all, nor more pieces than elements are allowed."""
    return _Counted(file, longest_bytes)  # type: ignore[return-value]


class _Counted:
    """A file for a foreign reader: it has no name, so that nobody opens it again behind our back."""

    def __init__(self, file: BinaryIO, longest_bytes: int) -> None:
        self._file = file
        self._bytes_left = longest_bytes
        # A reader takes an element in up to three pieces, and looks at the next one before.
        self._pieces_left = 4 * HEADER_BOUNDS.most_elements
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        self._pieces_left -= 1
        if self._pieces_left < 0 or count > self._bytes_left:
            raise OverBounds
        data = self._file.read(count if count >= 0 else self._bytes_left + 1)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise OverBounds
        return data


def is_trouble_of_the_machine(error: BaseException) -> bool:
    """Say whether reading failed because of the disk or this machine: a verdict would be one about neither.

    A damaged file makes pydicom raise an OSError of its own, which carries no number, and seek to places that do not
    exist, which the system refuses as an invalid argument.
    """
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _ERRORS_OF_DAMAGE
    return isinstance(error, MemoryError)


def _transfer_syntax(meta: bytes) -> str:
    # (0002,0010) UI: tag, VR, 16-bit length (PS3.5 7.1.2).
    at = meta.find(b"\x02\x00\x10\x00UI", 132)
    if at < 0:
        return ""
    length = int.from_bytes(meta[at + 6 : at + 8], "little")
    return meta[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")
