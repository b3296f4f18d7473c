"""A new file whose bytes go to the device past the page cache, once there are enough of them.

A large object is written once and read minutes later. Copied through the page cache, each of its pages is allocated,
filled, written back and waited for one by one, which costs several times what the transfer itself does. Here the bytes
gather in one aligned block that the device takes as it lies (O_DIRECT, open(2)). What a file system does not take so,
the ends of files, and small files go through the page cache: for them that is as fast or faster.
"""

import errno
import mmap
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dicom_node.storage.file_system import FileSystem, StrPath

#: What the device is given at once; half of it was slower.
BLOCK_BYTES = 1 << 20
#: Files that are no larger than this go through the page cache.
SMALL_FILE_BYTES = 128 * 1024
#: Address, offset and length of a direct write are multiples of this; no common device has larger logical blocks.
ALIGNMENT = 4096
#: Blocks that are kept for the files to come.
_MOST_SPARE_BLOCKS = 8


class Blocks:
    """Aligned memory that is handed from file to file; safe to use from every thread."""

    def __init__(self) -> None:
        self._spare: deque[memoryview] = deque(maxlen=_MOST_SPARE_BLOCKS)

    def take(self) -> memoryview:
        """Return a block that nobody else has."""
        try:
            return self._spare.pop()
        except IndexError:
            # An anonymous mapping begins at a page; pages that are never filled are never made.
            return memoryview(mmap.mmap(-1, BLOCK_BYTES))

    def give_back(self, block: memoryview) -> None:
        """Leave a block to another file."""
        self._spare.append(block)

    @contextmanager
    def borrowed(self) -> Iterator[memoryview]:
        """Take a block for the time of a with statement."""
        block = self.take()
        try:
            yield block
        finally:
            self.give_back(block)


class BlockFile:
    """One new file, written from its first byte to its last."""

    __slots__ = (
        "_block",
        "_blocks",
        "_files",
        "_filled_bytes",
        "_is_direct",
        "descriptor",
        "path",
        "size_bytes",
    )

    def __init__(self, files: FileSystem, blocks: Blocks, path: StrPath) -> None:
        self._files = files
        self._blocks = blocks
        #: Where it is made, once its first bytes go to the disk.
        self.path = path
        self._block = blocks.take()
        self._filled_bytes = 0
        self._is_direct = False
        #: Negative while nothing is on the disk.
        self.descriptor = -1
        #: Of all that was appended.
        self.size_bytes = 0

    def append(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Take the next bytes.

        Raises
        ------
        OSError
            When the disk refuses them; then only `close` is left.
        """
        for buffer in buffers:
            self.size_bytes += len(buffer)
            rest = memoryview(buffer)
            while rest:
                count = min(len(rest), BLOCK_BYTES - self._filled_bytes)
                self._block[self._filled_bytes : self._filled_bytes + count] = rest[:count]
                self._filled_bytes += count
                rest = rest[count:]
                if self._filled_bytes == BLOCK_BYTES:
                    self._write_block()

    def settle(self) -> None:
        """Hand every byte to the operating system; after it the file can be read and flushed.

        Raises
        ------
        OSError
        """
        self._write_block()
        self._leave_direct()

    @property
    def content(self) -> memoryview:
        """The whole file, if it is small; otherwise nothing."""
        return self._block[: self.size_bytes if self.size_bytes <= SMALL_FILE_BYTES else 0]

    def close(self) -> None:
        """Give back what the file holds of the system; the last call."""
        if self.descriptor >= 0:
            self._files.close(self.descriptor)
        self._blocks.give_back(self._block)

    def _write_block(self) -> None:
        if self.descriptor < 0:
            self.descriptor = self._files.create(self.path)
            if self.size_bytes > SMALL_FILE_BYTES:
                self._is_direct = self._files.set_direct(self.descriptor, direct=True)
        end, self._filled_bytes = self._filled_bytes, 0
        aligned = end - end % ALIGNMENT if self._is_direct else end
        self._write(self._block[:aligned])
        if aligned < end:
            self._leave_direct()
            self._write(self._block[aligned:end])

    def _write(self, rest: memoryview) -> None:
        while rest:
            try:
                written = self._files.write(self.descriptor, [rest])
            except OSError as error:
                if error.errno != errno.EINVAL or not self._is_direct:
                    raise
                # The device wants larger multiples than ours.
                written = 0
                self._leave_direct()
            rest = rest[written:]
            if written % ALIGNMENT:
                # A short write, on a nearly full disk for one: what follows begins inside a block of the device.
                self._leave_direct()

    def _leave_direct(self) -> None:
        if self._is_direct:
            self._files.set_direct(self.descriptor, direct=False)
            self._is_direct = False
