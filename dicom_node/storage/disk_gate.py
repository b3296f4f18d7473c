"""Whether there is room for more: free bytes and inodes, with bytes on their way reserved, and with hysteresis."""

import threading
from collections.abc import Callable
from ctypes import c_int64
from mmap import mmap
from multiprocessing import get_context
from pathlib import Path

from casebook.errors import StorageFull
from casebook.logs import get_logger
from dicom_node.storage.file_system import FileSystem

#: Fewer free inodes than this close the gate; it opens again at twice as many.
_MIN_FREE_INODES = 10_000
#: A closed gate opens when this share of the minimum is free, so that it does not flap.
_REOPEN_PERCENT = 110
#: The file system is asked at most this often.
_ASK_INTERVAL_S = 0.2
#: Reservations grow in steps, because a C-STORE does not say how long its object is.
_RESERVATION_STEP_BYTES = 8 * 1024 * 1024
_log = get_logger(__name__)


class ReservedBytes:
    """What is set aside on one disk, by this process and by those that are forked from it afterwards."""

    def __init__(self) -> None:
        self._lock = get_context("fork").Lock()
        self._count = c_int64.from_buffer(mmap(-1, 8))

    @property
    def count(self) -> int:
        """Bytes."""
        return self._count.value

    def add(self, size_bytes: int, most: int) -> bool:
        """Set bytes aside, unless there would be more than the most; return whether they are."""
        with self._lock:
            if self._count.value + size_bytes > most:
                return False
            self._count.value += size_bytes
            return True

    def give_back(self, size_bytes: int) -> None:
        """Set them aside no longer."""
        with self._lock:
            self._count.value -= size_bytes


class DiskGate:
    """Closes before the disk is full, so that what is half received can still be finished."""

    def __init__(
        self,
        directory: Path,
        min_free_bytes: int,
        files: FileSystem,
        monotonic: Callable[[], float],
        reserved: ReservedBytes | None = None,
    ) -> None:
        self._directory = directory
        self._min_free_bytes = min_free_bytes
        self._files = files
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._reserved = reserved or ReservedBytes()
        self._asked_at = float("-inf")
        self._free_bytes = 0
        self._free_inodes: int | None = None
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Whether new objects may come."""
        with self._lock:
            return self._look()

    def require_open(self) -> None:
        """Refuse new objects while the gate is closed.

        Raises
        ------
        StorageFull
        """
        if not self.is_open:
            raise StorageFull

    def reserve(self, size_bytes: int) -> None:
        """Set bytes aside for an object that is arriving.

        Raises
        ------
        StorageFull
            When they would eat the last of the disk; the minimum itself is there to be used up by objects
            whose first bytes were let in.
        """
        with self._lock:
            self._look()
        if not self._reserved.add(size_bytes, self._free_bytes):
            raise StorageFull

    def release(self, size_bytes: int) -> None:
        """Give reserved bytes back: they are written now, or never will be."""
        self._reserved.give_back(size_bytes)

    def _look(self) -> bool:
        now = self._monotonic()
        if now - self._asked_at < _ASK_INTERVAL_S:
            return self._is_open
        self._asked_at = now
        try:
            self._free_bytes, self._free_inodes = self._files.room(self._directory)
        except OSError:
            self._free_bytes, self._free_inodes = 0, 0
        percent = 100 if self._is_open else _REOPEN_PERCENT
        enough_bytes = self._free_bytes - self._reserved.count >= self._min_free_bytes * percent // 100
        inodes_wanted = _MIN_FREE_INODES * (1 if self._is_open else 2)
        enough_inodes = self._free_inodes is None or self._free_inodes >= inodes_wanted
        if (enough_bytes and enough_inodes) != self._is_open:
            self._is_open = not self._is_open
            _log.warning("disk_gate_opened" if self._is_open else "disk_gate_closed", free_bytes=self._free_bytes)
        return self._is_open


class Reservation:
    """What one arriving object has set aside."""

    __slots__ = ("_gate", "_reserved_bytes")

    def __init__(self, gate: DiskGate) -> None:
        self._gate = gate
        self._reserved_bytes = 0

    def cover(self, size_bytes: int) -> None:
        """Have at least this much set aside.

        Raises
        ------
        StorageFull
        """
        if size_bytes > self._reserved_bytes:
            step = max(_RESERVATION_STEP_BYTES, size_bytes - self._reserved_bytes)
            self._gate.reserve(step)
            self._reserved_bytes += step

    def end(self) -> None:
        """Give everything back; may be called again."""
        reserved, self._reserved_bytes = self._reserved_bytes, 0
        if reserved:
            self._gate.release(reserved)
