"""Small objects become durable in a journal, while their files are still on the way to the device.

To flush a file of 20 KB takes ten times as long as to write it. So a small object is written to its file, which
everyone reads, and once more into a segment of the journal, in one write that returns when it is on the device. Soon
after, one flush of the whole file system (syncfs(2)) covers every file, and the segment is wiped. A killed process
loses nothing of either; after a power cut the start writes out again what a segment holds and a file lacks.

What the journal does not take (both segments are full, the disk failed), its caller flushes as a file of its own.
"""

import errno
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from casebook.logs import get_logger
from dicom_node.block_file import BLOCK_BYTES, Blocks
from dicom_node.file_system import FileSystem

#: Of each of the two segments; several hundred small objects.
SEGMENT_BYTES = 16 << 20
#: Files are flushed, and the journal wiped, about this long after an acknowledgement.
CHECKPOINT_INTERVAL_S = 1.0
#: With less free space than so many times its own size the journal does not run.
_LEAST_ROOM = 20
#: Records begin at multiples of this: direct writes want it, and no block of the device holds two. A block that is
#: being written when the power fails may come out damaged, and the record before was promised already.
_ALIGNMENT = 4096
#: A segment begins with a block that holds its magic and its token. Every wipe makes a new token, so that neither an
#: old record nor bytes that a sender made up pass for one.
_SEGMENT = struct.Struct("<8s16s")
_MAGIC = b"WETREADJ"
#: Token, length of the path, length of the content, CRC-32 of both.
_HEADER = struct.Struct("<16sHII")
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_DSYNC
_log = get_logger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class _Segment:
    descriptor: int
    token: bytes = b""
    #: Where the next record begins.
    end: int = _ALIGNMENT
    #: Records that are being written.
    writers: int = 0


class Journal:
    """The journal of one inbox; `append` may be called from every thread."""

    def __init__(self, directory: Path, files: FileSystem, blocks: Blocks, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Take the inbox's folder and the memory records are made in; `append` takes nothing before `start`."""
        self._directory = directory
        self._files = files
        self._blocks = blocks
        self._segment_bytes = segment_bytes
        self._paths = (directory / ".journal-0", directory / ".journal-1")
        self._segments: list[_Segment] = []
        self._changed = threading.Condition()
        #: Of the segments: the empty ones, the one that is being filled, and those that the next checkpoint empties.
        self._clean: list[_Segment] = []
        self._active: _Segment | None = None
        self._used: list[_Segment] = []
        #: Between start and stop, as long as nothing failed.
        self._takes_objects = False
        self._is_used = threading.Event()
        self._is_urgent = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    # ---- for whoever receives ----

    def append(self, path: str, content: memoryview) -> bool:
        """Return True once an object is durable here, False when it has to be flushed as a file.

        Parameters
        ----------
        path
            Of its file, relative to the inbox; it has been written already, under its final name.
        content
            The whole file, a small one.
        """
        name = path.encode("ascii")
        size_bytes = _aligned(_HEADER.size + len(name) + len(content))
        place = self._reserve(size_bytes)
        if place is None:
            return False
        segment, offset = place
        block = self._blocks.take()
        try:
            checksum = zlib.crc32(content, zlib.crc32(name))
            _fill(block, _HEADER.pack(segment.token, len(name), len(content), checksum), name, content)
            self._write_at(segment.descriptor, block[:size_bytes], offset)
        except OSError as error:
            self._give_up(error)
            return False
        finally:
            self._blocks.give_back(block)
            self._leave(segment)
        return True

    def _reserve(self, size_bytes: int) -> tuple[_Segment, int] | None:
        with self._changed:
            if not self._takes_objects or size_bytes > min(self._segment_bytes - _ALIGNMENT, BLOCK_BYTES):
                return None
            if self._active is not None and self._active.end + size_bytes > self._segment_bytes:
                self._active = None
                self._is_urgent.set()
            if self._active is None:
                if not self._clean:
                    return None
                self._active = self._clean.pop()
                self._used.append(self._active)
                self._is_used.set()
            offset = self._active.end
            self._active.end += size_bytes
            self._active.writers += 1
            return self._active, offset

    def _leave(self, segment: _Segment) -> None:
        with self._changed:
            segment.writers -= 1
            self._changed.notify_all()

    def _write_at(self, descriptor: int, content: bytes | memoryview, offset: int) -> None:
        if self._files.write_at(descriptor, [content], offset) != len(content):
            raise OSError(errno.EIO, "a short write")

    def _give_up(self, error: OSError) -> None:
        # For good: whatever fails once may report success the next time, and has lost what it was given before.
        self._takes_objects = False
        _log.error("journal_given_up", error=type(error).__name__)

    # ---- the checkpoint ----

    def checkpoint(self) -> None:
        """Make every file durable that the journal stands for, and wipe it; the body of the thread."""
        with self._changed:
            self._active, used, self._used = None, self._used, []
            self._changed.wait_for(lambda: not any(segment.writers for segment in used))
        if not used:
            return
        try:
            # The file of each record was written before the record: this covers them all.
            self._files.flush_everything(used[0].descriptor)
            for segment in used:
                self._wipe(segment, segment.end)
        except OSError as error:
            # What was not wiped stays for the next start, which compares it with the files.
            self._give_up(error)
            return
        with self._changed:
            self._clean += used

    def _wipe(self, segment: _Segment, count: int) -> None:
        # With zeros and not by forgetting: the objects of a study that is deleted must not linger here.
        block = self._blocks.take()
        try:
            _fill(block)
            for offset in range(0, count, len(block)):
                self._write_at(segment.descriptor, block[: count - offset], offset)
            segment.token, segment.end = secrets.token_bytes(16), _ALIGNMENT
            _fill(block, _SEGMENT.pack(_MAGIC, segment.token))
            self._write_at(segment.descriptor, block[:_ALIGNMENT], 0)
        finally:
            self._blocks.give_back(block)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._is_used.wait()
            self._is_urgent.wait(CHECKPOINT_INTERVAL_S)
            self._is_used.clear()
            self._is_urgent.clear()
            self.checkpoint()

    # ---- start and end ----

    def records(self) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of what an earlier process left here, and perhaps nowhere else."""
        for path in self._paths:
            if path.exists():
                yield from _records(path)

    def forget(self) -> None:
        """Make durable whatever was restored, and wipe what `records` had to say.

        Raises
        ------
        OSError
        """
        for path in self._paths:
            if path.exists():
                with path.open("r+b") as file:
                    self._files.flush_everything(file.fileno())
                    file.write(bytes(path.stat().st_size))
                    file.flush()
                    self._files.flush(file.fileno())

    def start(self) -> None:
        """Take objects from now on, where the disk has room for a journal."""
        if self._files.room(self._directory)[0] < _LEAST_ROOM * len(self._paths) * self._segment_bytes:
            _log.info("journal_not_used", reason="too_little_free_space")
            return
        try:
            for path in self._paths:
                self._segments.append(_Segment(descriptor=os.open(path, _FLAGS, 0o640)))
                self._files.set_direct(self._segments[-1].descriptor, direct=True)
                # Written in full: a block that was only reserved costs more when it is written for the first time.
                self._wipe(self._segments[-1], self._segment_bytes)
                self._files.flush(self._segments[-1].descriptor)
            self._files.flush_directory(self._directory)
        except OSError as error:
            _log.warning("journal_not_used", reason="disk", error=type(error).__name__)
            return
        self._clean = list(self._segments)
        self._takes_objects = True
        self._thread.start()

    def stop(self) -> None:
        """Take nothing more, flush every file, and end; may be called again."""
        if self._thread.is_alive():
            self._stopping.set()
            self._is_urgent.set()
            self._is_used.set()
            self._thread.join()
        self._takes_objects = False
        self.checkpoint()
        while self._segments:
            self._files.close(self._segments.pop().descriptor)


def _aligned(count: int) -> int:
    return count + -count % _ALIGNMENT


def _fill(block: memoryview, *parts: bytes | memoryview) -> None:
    """Put parts at the start of a block, and zeros up to the next multiple of the alignment, or to its end."""
    end = 0
    for part in parts:
        block[end : end + len(part)] = part
        end += len(part)
    rest = (_aligned(end) if parts else len(block)) - end
    block[end : end + rest] = bytes(rest)


def _records(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        start = file.read(_ALIGNMENT)
        if len(start) < _ALIGNMENT or not start.startswith(_MAGIC):
            return
        _, token = _SEGMENT.unpack_from(start)
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            begin = file.tell() - _HEADER.size
            found, name_bytes, content_bytes, checksum = _HEADER.unpack(header)
            if found == token:
                name, content = file.read(name_bytes), file.read(content_bytes)
                if zlib.crc32(content, zlib.crc32(name)) == checksum:
                    yield name.decode("ascii", "replace"), content
                    file.seek(_aligned(file.tell()))
                    continue
            # Not written to its end, and so never acknowledged; what lies behind it may be.
            file.seek(begin + _ALIGNMENT)
