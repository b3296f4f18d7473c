"""The few disk operations an acknowledgement rests on, and what each file system promises about them."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Sequence
from io import SEEK_CUR, SEEK_SET, RawIOBase
from pathlib import Path
from typing import Any

from casebook.errors import StorageFull, UnsafeStorage, WetreadError

#: Objects come by the thousand, and a `Path` is made ten times more slowly than a string.
StrPath = str | Path
#: One writev takes at most this many buffers (IOV_MAX of Linux).
_MAX_BUFFERS = 1024
#: File systems on which fsync(file) after the rename also makes the new name durable, so that one flush is enough.
#: ext4: the rename and the new inode are in the journal transaction that fsync commits; without a journal fsync
#: writes the directory of a new entry itself. XFS: fsync forces the log up to the inode's last change, which the
#: rename is. On every other one, known or not, the directory is flushed too, as POSIX wants it.
ONE_FLUSH_IS_ENOUGH = frozenset({"ext4", "xfs"})


_libc = ctypes.CDLL(None, use_errno=True)
#: Linux only.
_DIRECT: int = getattr(os, "O_DIRECT", 0)


def of_os_error(error: OSError) -> WetreadError:
    """Turn a failed disk operation into an error of the house."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
        return StorageFull()
    return UnsafeStorage()


class FileSystem:
    """The operating system's files; tests hand in one that fails at a named step."""

    def create(self, path: StrPath) -> int:
        """Open a new file for writing and reading back; the descriptor is the caller's to close."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, buffers: Sequence[bytes | memoryview]) -> int:
        """Write once; may write less than asked for (a nearly full disk, a signal)."""
        return os.writev(descriptor, buffers)

    def set_direct(self, descriptor: int, *, direct: bool) -> bool:
        """Let writes go past the page cache, or through it again; return which of the two now holds."""
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, _DIRECT if direct else 0)
        except OSError:
            # Not every file system offers it.
            return False
        return direct

    def read(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        """Read back from a file that is being written."""
        return os.pread(descriptor, size_bytes, offset)

    def rename(self, source: StrPath, target: StrPath) -> None:
        """Give a file its name, within one directory."""
        os.rename(source, target)  # noqa: PTH104 - see StrPath

    def write_at(self, descriptor: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        """Write once at an offset; may write less than asked for."""
        return os.pwritev(descriptor, buffers, offset)

    def flush_everything(self, descriptor: int) -> None:
        """Return when all that was written to the file system of a descriptor is on the device (syncfs(2))."""
        if _libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), "syncfs")

    def flush(self, descriptor: int) -> None:
        """Return when the file is on the device."""
        os.fsync(descriptor)

    def flush_directory(self, directory: Path) -> None:
        """Return when the names of a directory are on the device."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def remove(self, path: StrPath) -> None:
        """Remove a file; one that is gone already is no error."""
        Path(path).unlink(missing_ok=True)

    def room(self, directory: Path) -> tuple[int, int | None]:
        """Return free bytes and free inodes for an unprivileged process; None where inodes are not counted."""
        found = os.statvfs(directory)
        return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None


class ReadBack(RawIOBase):
    """A file that is being written, from a place on, for a reader that moves about in it."""

    def __init__(self, files: FileSystem, descriptor: int, start: int) -> None:
        self._files = files
        self._descriptor = descriptor
        self._start = start
        self._position = 0

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def seekable(self) -> bool:
        """Whether its place can be chosen, from its beginning or from here."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move to a place, counted from the start or from here."""
        self._position = max(0, offset + (self._position if whence == SEEK_CUR else 0))
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        data = self._files.read(self._descriptor, len(buffer), self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def write_all(files: FileSystem, descriptor: int, buffers: Sequence[bytes | memoryview]) -> int:
    """Write every byte, however often it takes, and return their number.

    A single write on a nearly full disk is short without an error; the next one says so.
    """
    total = 0
    for start in range(0, len(buffers), _MAX_BUFFERS):
        part: list[bytes | memoryview] = list(buffers[start : start + _MAX_BUFFERS])
        wanted = sum(map(len, part))
        written = files.write(descriptor, part)
        total += wanted
        while written < wanted:
            rest = memoryview(b"".join(part))[written:]
            part, wanted = [rest], len(rest)
            written = files.write(descriptor, part)
    return total
