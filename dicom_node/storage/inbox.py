"""Where received objects land: durable, or not there at all.

``inbox/<2 hex digits>/<SOP Instance UID>_<unique>_<size>.dcm``. The order is: temporary file in the same directory,
every byte, rename, fsync(file), and fsync(directory) where the file system needs it. A small object is durable as soon
as the journal holds it; its sender is answered then, and its file written at once afterwards. The file is a DICOM file
(PS3.10) that names its sender in the file meta information, so the index can be rebuilt from the folder alone. The size
in the name tells a whole file from one that a power cut shortened between rename and fsync. A repeated SOP Instance UID
gets a name of its own: the first file is never touched.
"""

import fcntl
import hashlib
import itertools
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from casebook.errors import InvalidObject, UnsafeStorage
from casebook.logs import get_logger
from casebook.mounts import kind_of_file_system
from codestreams.stored_file import open_bytes
from dicom_node.objects.file_meta import Envelope, build_file_meta, require_uid
from dicom_node.storage.acknowledgements import AcknowledgementClock
from dicom_node.storage.block_file import BlockFile, Blocks
from dicom_node.storage.file_system import ONE_FLUSH_IS_ENOUGH, FileSystem, ReadBack, of_os_error, write_all
from dicom_node.storage.journal import Journal

#: The processes of a listener that was killed hold the inbox until they have noticed.
_LONGEST_FAREWELL_S = 2.0
_TEMPORARY = ".tmp"
#: `place` is that in the order of acknowledgements, which names of earlier releases do not tell.
_NAME = re.compile(
    r"(?P<uid>[0-9.]{1,64})_(?:(?P<place>[0-9a-f]{16})(?=[0-9a-f]{18}_))?(?P<unique>[0-9a-f]+)_(?P<size>[0-9a-f]+)\.dcm"
)
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInstance:
    """One durable object that has no row yet."""

    #: Relative to the data directory.
    path: str
    #: Of the whole file.
    size_bytes: int
    #: Seconds since the epoch.
    received_at: float
    #: Its place in the order of acknowledgements; 0 where nobody knows it any more.
    acknowledged_ns: int = 0
    envelope: Envelope | None = None
    #: Where its data set begins in the file; zero where the file has to tell.
    data_set_offset: int = 0
    #: The start of the data set of an object that has just come, so that nobody reads it back; otherwise empty.
    head: bytes = field(default=b"", repr=False)


class Inbox:
    """The folder of received objects; one process at a time owns it, with those that are forked from it."""

    #: Whether this is the process that sweeps and restores.
    is_owner = True

    def __init__(
        self,
        data_directory: Path,
        files: FileSystem | None = None,
        journal_name: str = "0",
        acknowledgements: AcknowledgementClock | None = None,
    ) -> None:
        """Take the folder, sweep what a death left half written, and write what only the journal holds.

        Parameters
        ----------
        acknowledgements
            The clock of all who receive into this folder; one of its own where nobody else does.

        Raises
        ------
        UnsafeStorage
            When another process owns it.
        StorageFull
            When the disk has no room for what the journal holds; it keeps it.
        """
        self.data_directory = data_directory
        self.directory = data_directory / "inbox"
        self.refused_directory = data_directory / "inbox-refused"
        self.files = files or FileSystem()
        self.acknowledgements = acknowledgements or AcknowledgementClock()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._owner = self._take_ownership() if self.is_owner else -1
        self.flushes_directory = kind_of_file_system(self.directory) not in ONE_FLUSH_IS_ENOUGH
        self._folders = [self.directory / f"{number:02x}" for number in range(256)]
        for folder in self._folders:
            folder.mkdir(exist_ok=True)
        self.files.flush_directory(self.directory)
        self.files.flush_directory(data_directory)
        self._process_token = secrets.token_hex(4)
        self._numbers = itertools.count()
        self.blocks = Blocks()
        self.journal = Journal(self.directory, self.files, self.blocks, name=journal_name)
        if self.is_owner:
            self._sweep()
            self._restore()

    def close(self) -> None:
        """Give the folder back."""
        self.journal.stop()
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    def incoming(self, envelope: Envelope) -> "IncomingInstance":
        """Prepare to receive one object; nothing is on disk before its first byte.

        Raises
        ------
        InvalidObject
            When the SOP Instance UID cannot be part of a name.
        """
        uid = require_uid(envelope.sop_instance_uid)
        number = hashlib.blake2b(uid.encode("ascii"), digest_size=1).digest()[0]
        unique = f"{self._process_token}{next(self._numbers):010x}"
        return IncomingInstance(self, envelope, self._folders[number], unique)

    def scan(self, known: set[str]) -> Iterator[StoredInstance]:
        """Yield what lies here without a row, oldest first; a shortened file is set aside.

        Parameters
        ----------
        known
            Paths that have a row, relative to the data directory.
        """
        found: list[tuple[int, str, StoredInstance]] = []
        for folder in self._folders:
            try:
                with os.scandir(folder) as entries:
                    found += filter(None, [self._scanned(folder, entry, known) for entry in entries])
            except OSError as error:
                # What is not seen now, a later start sees; what comes meanwhile must not wait for the disk.
                _log.error("folder_not_scanned", path=f"inbox/{folder.name}", error=type(error).__name__)
        for _, _, stored in sorted(found, key=itemgetter(0, 1)):
            yield stored

    def _scanned(
        self, folder: Path, entry: "os.DirEntry[str]", known: set[str]
    ) -> tuple[int, str, StoredInstance] | None:
        relative = f"inbox/{folder.name}/{entry.name}"
        try:
            if relative in known or not entry.is_file(follow_symlinks=False):
                return None
            status = entry.stat(follow_symlinks=False)
            name = _NAME.fullmatch(entry.name)
            if name is None or int(name["size"], 16) != status.st_size:
                # Never acknowledged: an acknowledged file was flushed with its whole length, or was restored.
                self.set_aside(relative, "cut_short_before_acknowledgement" if name else "not_one_of_ours")
                return None
        except OSError as error:
            _log.error("object_not_read", path=relative, error=type(error).__name__)
            return None
        place = int(name["place"] or "0", 16)
        stored = StoredInstance(
            path=relative,
            size_bytes=status.st_size,
            received_at=status.st_mtime,
            acknowledged_ns=place,
        )
        # The clock of the file system may be coarse; the number of the object is not.
        return place or status.st_mtime_ns, name["unique"], stored

    def set_aside(self, path: str, reason: str) -> None:
        """Move a file that cannot be indexed out of the inbox, with its reason beside it; it is never lost.

        Parameters
        ----------
        path
            Relative to the data directory.
        reason
            Static snake_case name.
        """
        self.refused_directory.mkdir(exist_ok=True)
        source = self.data_directory / path
        target = self.refused_directory / source.name
        self.files.rename(source, target)
        target.with_name(f"{target.name}.reason").write_text(f"{reason}\n", encoding="utf-8")
        self.files.flush_directory(self.refused_directory)
        self.files.flush_directory(source.parent)
        _log.error("object_set_aside", path=f"{self.refused_directory.name}/{target.name}", reason=reason)

    def start_journal(self) -> None:
        """Let small objects become durable in the journal, where what it rests on is known of the file system."""
        if kind_of_file_system(self.directory) in ONE_FLUSH_IS_ENOUGH:
            self.journal.start()

    def _take_ownership(self) -> int:
        descriptor = os.open(self.directory / ".owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _LONGEST_FAREWELL_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                os.close(descriptor)
                raise UnsafeStorage("Another listener already receives into this data directory.") from None
            return descriptor

    def _restore(self) -> None:
        count = 0
        try:
            for path, content in self.journal.records():
                count += self._restore_one(path, content)
            self.journal.forget()
        except OSError as error:
            self.close()
            raise of_os_error(error) from None
        if count:
            _log.warning("objects_restored_from_the_journal", count=count)

    def _restore_one(self, path: str, content: bytes) -> bool:
        target = self.directory / path
        if target.parent not in self._folders or not _NAME.fullmatch(target.name):
            _log.error("journal_record_not_understood")
            return False
        is_whole = _holds(target, content)
        # Also then: after a disk error the bytes that are read may be in memory alone, and count as written there.
        temporary = target.with_name(f".{secrets.token_hex(8)}{_TEMPORARY}")
        descriptor = self.files.create(temporary)
        try:
            write_all(self.files, descriptor, [content])
        finally:
            self.files.close(descriptor)
        if is_whole:
            shutil.copystat(target, temporary)
        self.files.rename(temporary, target)
        return not is_whole

    def _sweep(self) -> None:
        # Temporary files belong to objects that were never acknowledged, or that the journal holds.
        count = 0
        for folder in self._folders:
            for path in folder.glob(f".*{_TEMPORARY}"):
                try:
                    self.files.remove(path)
                except OSError as error:
                    _log.error("temporary_left_for_the_next_sweep", error=type(error).__name__)
                else:
                    count += 1
        if count:
            _log.warning("orphaned_temporaries_removed", count=count)


def _holds(path: Path, content: bytes) -> bool:
    """Say whether a file is there and has this content; one that cannot be read has not."""
    try:
        with open_bytes(path) as file:
            return file.read() == content
    except OSError:
        return False


class SharedInbox(Inbox):
    """The inbox as a process sees it that does not own it: it adds objects and sweeps nothing.

    Names are unique to a process, and the owner's next start takes up what got no row, so both may write at once.
    """

    is_owner = False


class IncomingInstance:
    """One object on its way to disk: write, then commit and complete, or discard."""

    __slots__ = ("_file", "_folder", "_inbox", "_name", "_temporary", "_unique", "data_set_offset", "envelope")

    def __init__(self, inbox: Inbox, envelope: Envelope, folder: Path, unique: str) -> None:
        self._inbox = inbox
        self._folder = folder
        self._unique = unique
        self._temporary = f"{folder}/.{unique}{_TEMPORARY}"
        #: In its folder; known when it is whole.
        self._name = ""
        self._file: BlockFile | None = None
        self.envelope = envelope
        self.data_set_offset = 0

    @property
    def size_bytes(self) -> int:
        """Of the file so far."""
        return self._file.size_bytes if self._file is not None else 0

    def write(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Append the next bytes of the data set.

        Raises
        ------
        StorageFull
            When the disk is full.
        UnsafeStorage
            When the disk fails otherwise. After either, only `discard` is left.
        """
        if self._file is None:
            meta = build_file_meta(self.envelope)
            self.data_set_offset = len(meta)
            self._file = BlockFile(self._inbox.files, self._inbox.blocks, self._temporary)
            buffers = [meta, *buffers]
        try:
            self._file.append(buffers)
        except OSError as error:
            raise of_os_error(error) from None

    @contextmanager
    def opened_again(self) -> Iterator[BinaryIO]:
        """Open the data set as written so far, at its first byte, when the kept head was not enough.

        Raises
        ------
        StorageFull, UnsafeStorage
            When the disk fails, also while it is read.
        """
        file = self._require_file()
        try:
            file.settle()
            yield BufferedReader(ReadBack(self._inbox.files, file.descriptor, self.data_set_offset))
        except OSError as error:
            raise of_os_error(error) from None

    def commit(self, head: bytes = b"") -> StoredInstance:
        """Return when the object is durable; `complete` has to follow.

        Parameters
        ----------
        head
            The start of the data set, for whoever makes its row.

        Raises
        ------
        StorageFull, UnsafeStorage
            When any step fails; then nothing of the object is left.
        """
        file = self._require_file()
        size_bytes = file.size_bytes
        # The name tells the next start, should this process end before the row is there.
        place = self._inbox.acknowledgements.now_ns()
        self._name = f"{self.envelope.sop_instance_uid}_{place:016x}{self._unique}_{size_bytes:x}.dcm"
        if not file.content or not self._inbox.journal.append(self._relative, file.content):
            self._flush(file)
        return StoredInstance(
            path=f"inbox/{self._relative}",
            size_bytes=size_bytes,
            received_at=time.time(),
            # Durable now, and the answer comes next: of two that come at the same time, the first to be durable counts.
            acknowledged_ns=self._inbox.acknowledgements.now_ns(),
            envelope=self.envelope,
            data_set_offset=self.data_set_offset,
            head=head,
        )

    def complete(self) -> None:
        """Write the file of an object that only the journal holds; may be called again.

        Raises
        ------
        StorageFull, UnsafeStorage
            When the disk does not take it; then the journal keeps the object for the next start.
        """
        file, self._file = self._file, None
        if file is None:
            return
        if file.descriptor < 0:
            # Nobody may take a half for a whole, and here nobody does: the next start compares it with its record.
            file.path = self._target
        try:
            self._place(file)
        except Exception as error:  # noqa: BLE001 - whatever it was, only the next start brings the object out
            self._inbox.journal.cannot_file(error)
            raise (of_os_error(error) if isinstance(error, OSError) else UnsafeStorage()) from None
        finally:
            file.close()
        self._inbox.journal.filed(self._relative)

    @property
    def _relative(self) -> str:
        return f"{self._folder.name}/{self._name}"

    @property
    def _target(self) -> str:
        return f"{self._folder}/{self._name}"

    def _place(self, file: BlockFile) -> None:
        file.settle()
        if file.path != self._target:
            self._inbox.files.rename(file.path, self._target)

    def _flush(self, file: BlockFile) -> None:
        files = self._inbox.files
        try:
            # The name goes first: one flush then makes data and name durable (see ONE_FLUSH_IS_ENOUGH).
            self._place(file)
            try:
                files.flush(file.descriptor)
                if self._inbox.flushes_directory:
                    files.flush_directory(self._folder)
            except OSError:
                files.remove(self._target)
                raise
        except OSError as error:
            self.discard()
            raise of_os_error(error) from None
        self._file = None
        file.close()

    def discard(self) -> None:
        """Leave nothing behind of an object that is not durable; may be called again."""
        file, self._file = self._file, None
        if file is None:
            return
        was_made = file.descriptor >= 0
        file.close()
        try:
            if was_made:
                self._inbox.files.remove(self._temporary)
        except OSError:
            _log.exception("temporary_left_for_the_next_sweep")

    def _require_file(self) -> BlockFile:
        if self._file is None:
            raise InvalidObject("the object has no data set")
        return self._file
