"""Small objects become durable in a journal, before their files are on the device.

To flush a file of 20 KB takes eight times as long as to write it. So a small object is written into a segment of the
journal, in one write that returns when it is on the device, its sender is answered, and only then it is written to its
file, which everyone reads. Soon after, one flush of the whole file system (syncfs(2)) covers every file, and the
segment is wiped. After the end of the process or of the power, the next start writes out what a segment holds and a
file lacks.

Each process that receives has a journal of its own, and one object at a time goes this way. What comes meanwhile, and
what finds both segments full or the disk failed, its caller flushes as a file of its own: parallel flushes of files
are as fast as a queue for the journal.
"""

import errno
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from casebook.logs import get_logger
from dicom_node.storage.block_file import ALIGNMENT, BLOCK_BYTES, SMALL_FILE_BYTES, Blocks
from dicom_node.storage.file_system import FileSystem, write_all

#: Of each of the two segments; several hundred small objects.
SEGMENT_BYTES = 16 << 20
#: Files are flushed, and the journal wiped, about this long after an acknowledgement.
CHECKPOINT_INTERVAL_S = 1.0
#: A file is written as soon as its sender is answered; a checkpoint waits this long for one.
_LONGEST_FILING_S = 1.0
#: With less free space than so many times its own size the journal does not run.
_LEAST_ROOM = 20
#: Magic, length of the path, length of the content, CRC-32 of both.
_HEADER = struct.Struct("<8sHII")
_PREFIX = ".journal-"
_MAGIC = b"WETREADJ"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_DSYNC
_log = get_logger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class _Segment:
    descriptor: int
    #: Where the next record begins.
    end: int = 0


class Journal:
    """The journal of one inbox; `append` may be called from every thread."""

    def __init__(
        self,
        directory: Path,
        files: FileSystem,
        blocks: Blocks,
        segment_bytes: int = SEGMENT_BYTES,
        name: str = "0",
    ) -> None:
        """Take the inbox's folder, aligned memory, and a name of its own; `append` takes nothing before `start`."""
        self._directory = directory
        self._files = files
        self._blocks = blocks
        self._segment_bytes = segment_bytes
        self._paths = [directory / f"{_PREFIX}{name}-{number}" for number in range(2)]
        self._segments: list[_Segment] = []
        #: Held while a record is written.
        self._lock = threading.Lock()
        #: Of the segments: the empty ones, the one that is being filled, and those that the next checkpoint empties.
        self._clean: list[_Segment] = []
        self._active: _Segment | None = None
        self._used: list[_Segment] = []
        #: Between start and stop, as long as nothing failed.
        self._takes_objects = False
        #: Paths of records whose files are still to be written.
        self._unfiled: set[str] = set()
        self._filing = threading.Condition()
        self._owes_files = False
        self._is_used = threading.Event()
        self._is_urgent = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    @property
    def is_alive(self) -> bool:
        """False when a file could not be written, or nobody empties the segments: only a new start mends that.

        What is owed is durable here, and the new start brings it out.
        """
        return not self._owes_files and (self._thread.ident is None or self._thread.is_alive())

    # ---- for whoever receives ----

    def append(self, path: str, content: memoryview) -> bool:
        """Return True once an object is durable here, False when it has to be flushed as a file.

        Parameters
        ----------
        path
            Of its file, relative to the inbox; it is written next, and `filed` or `cannot_file` called.
        content
            The whole file, a small one.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            name = path.encode("ascii")
            size_bytes = _aligned(_HEADER.size + len(name) + len(content))
            segment = self._with_room_for(size_bytes)
            if segment is None:
                return False
            self._append(segment, size_bytes, name, content)
            with self._filing:
                self._unfiled.add(path)
            return True
        except OSError as error:
            self._give_up(error)
            return False
        finally:
            self._lock.release()

    def filed(self, path: str) -> None:
        """Learn that the file of a record is written."""
        with self._filing:
            self._unfiled.discard(path)
            self._filing.notify_all()

    def cannot_file(self, error: Exception) -> None:
        """Learn that the file of a record could not be written: its segment is not wiped any more."""
        self._owes_files = True
        _log.error("object_without_file", error=type(error).__name__)
        self._give_up(error)

    def _append(self, segment: _Segment, size_bytes: int, name: bytes, content: memoryview) -> None:
        header = _HEADER.pack(_MAGIC, len(name), len(content), zlib.crc32(content, zlib.crc32(name)))
        with self._blocks.borrowed() as block:
            end = 0
            for part in (header, name, content, bytes(size_bytes - len(header) - len(name) - len(content))):
                block[end : end + len(part)] = part
                end += len(part)
            self._write_at(segment, block[:end], segment.end)
        segment.end += size_bytes

    def _with_room_for(self, size_bytes: int) -> _Segment | None:
        if not self._takes_objects or size_bytes > min(self._segment_bytes, BLOCK_BYTES):
            return None
        if self._active is not None and self._active.end + size_bytes > self._segment_bytes:
            self._active = None
            self._is_urgent.set()
        if self._active is None and self._clean:
            self._active = self._clean.pop()
            self._used.append(self._active)
            self._is_used.set()
        return self._active

    def _write_at(self, segment: _Segment, content: memoryview, offset: int) -> None:
        if self._files.write_at(segment.descriptor, [content], offset) != len(content):
            raise OSError(errno.EIO, "a short write")

    def _give_up(self, error: Exception) -> None:
        # For good: whatever fails once may report success the next time, and has lost what it was given before.
        self._takes_objects = False
        _log.error("journal_given_up", error=type(error).__name__)

    # ---- the checkpoint ----

    def checkpoint(self) -> None:
        """Make every file durable that the journal stands for, and wipe it; the body of the thread.

        Nothing is wiped while a file is still to be written.
        """
        with self._lock:
            self._active, used, self._used = None, self._used, []
            with self._filing:
                promised = set(self._unfiled)
        if not used:
            return
        if not self._are_filed(promised):
            with self._lock:
                self._used += used
            # Tried again.
            self._is_used.set()
            return
        try:
            # The file of each record is written: this covers them all.
            self._files.flush_everything(used[0].descriptor)
            for segment in used:
                self._wipe(segment)
        except OSError as error:
            # What was not wiped stays for the next start, which compares it with the files.
            self._give_up(error)
            return
        with self._lock:
            self._clean += used

    def _are_filed(self, promised: set[str]) -> bool:
        with self._filing:
            return not self._owes_files and self._filing.wait_for(
                lambda: promised.isdisjoint(self._unfiled), _LONGEST_FILING_S
            )

    def _wipe(self, segment: _Segment) -> None:
        # With zeros and not by forgetting: the objects of a study that is deleted must not linger here. From the end,
        # so that a segment that begins with zeros is known to hold nothing else.
        self._write_zeros(segment, reversed(range(0, segment.end, BLOCK_BYTES)), segment.end)
        segment.end = 0

    def _write_zeros(self, segment: _Segment, offsets: Iterable[int], end: int) -> None:
        with self._blocks.borrowed() as block:
            block[:] = bytes(BLOCK_BYTES)
            for offset in offsets:
                self._write_at(segment, block[: end - offset], offset)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._is_used.wait()
            self._is_urgent.wait(CHECKPOINT_INTERVAL_S)
            self._is_used.clear()
            self._is_urgent.clear()
            self.checkpoint()

    # ---- start and end ----

    def records(self) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of what earlier processes left in any journal here, and perhaps nowhere else."""
        for path in _segments(self._directory):
            yield from _records(path)

    def forget(self) -> None:
        """Make durable whatever was restored, and wipe what `records` had to say.

        Raises
        ------
        OSError
        """
        for path in _segments(self._directory):
            if not _is_wiped(path):
                with path.open("r+b", buffering=0) as file:
                    self._files.flush_everything(file.fileno())
                    # The beginning last, as in `_wipe`.
                    for offset in (BLOCK_BYTES, 0):
                        file.seek(offset)
                        write_all(self._files, file.fileno(), [bytes(max(0, path.stat().st_size - offset))])
                        self._files.flush(file.fileno())

    def start(self) -> None:
        """Take objects from now on, where the disk has room for a journal."""
        if self._files.room(self._directory)[0] < _LEAST_ROOM * len(self._paths) * self._segment_bytes:
            _log.info("journal_not_used", reason="too_little_free_space")
            return
        try:
            for path in self._paths:
                segment = _Segment(descriptor=os.open(path, _FLAGS, 0o600))
                self._segments.append(segment)
                self._files.set_direct(segment.descriptor, direct=True)
                if path.stat().st_size != self._segment_bytes or not _is_wiped(path):
                    # In full: a block that was only reserved costs more when it is written for the first time.
                    os.truncate(path, 0)
                    self._write_zeros(segment, range(0, self._segment_bytes, BLOCK_BYTES), self._segment_bytes)
                self._files.flush(segment.descriptor)
            self._files.flush_directory(self._directory)
        except OSError as error:
            _log.warning("journal_not_used", reason="disk", error=type(error).__name__)
            return
        self._clean = list(self._segments)
        self._takes_objects = True
        self._thread.start()

    def stop(self) -> None:
        """End with a last checkpoint, and take nothing more; may be called again."""
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
    # Not only for direct writes: no block of the device may hold two records. One that is being written when the power
    # fails may come out damaged, and the record before was promised already.
    return count + -count % ALIGNMENT


def _segments(directory: Path) -> list[Path]:
    """Return those of all journals of an inbox: of other names, or of an earlier number of processes."""
    return sorted(directory.glob(f"{_PREFIX}*"))


def _is_wiped(path: Path) -> bool:
    # Longer than any record: of the first one a power cut may have left the end without the beginning.
    with path.open("rb") as file:
        return not any(file.read(2 * SMALL_FILE_BYTES))


def _records(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            magic, name_bytes, content_bytes, checksum = _HEADER.unpack(header)
            if magic != _MAGIC:
                return
            name, content = file.read(name_bytes), file.read(content_bytes)
            if zlib.crc32(content, zlib.crc32(name)) != checksum:
                # Not written to its end, and so the last: the next one was begun only when this one was durable.
                return
            yield name.decode("ascii", "replace"), content
            file.seek(_aligned(file.tell()))
