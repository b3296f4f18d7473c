"""A listener in the test's own process, and disks that fail at a named step."""

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import Engine, select

from casebook import tables
from casebook.database import migrate, open_database, read
from casebook.settings import ListenerSettings, Settings
from codestreams import stored_file
from dicom_node.index.indexer import Indexer
from dicom_node.index.recorder import Recorder
from dicom_node.receive.acceptor import Acceptor
from dicom_node.receive.admission import Register
from dicom_node.receive.associations import Associations
from dicom_node.receive.storage_service import StorageService
from dicom_node.storage.disk_gate import DiskGate
from dicom_node.storage.file_system import FileSystem, StrPath
from dicom_node.storage.inbox import Inbox


class FailingDisk(FileSystem):
    """A real disk on which one step fails, or on which writes come up short."""

    def __init__(self) -> None:
        self.fails_at = ""
        self.error = errno.ENOSPC
        self.longest_write_bytes: int | None = None
        self.fails_after_bytes: int | None = None
        self.free_bytes: int | None = None

    def _step(self, name: str) -> None:
        if self.fails_at == name:
            raise OSError(self.error, "told to fail")

    def create(self, path: StrPath) -> int:
        self._step("create")
        return super().create(path)

    def write(self, descriptor: int, buffers: Sequence[bytes | memoryview]) -> int:
        self._step("write")
        if self.fails_after_bytes is not None:
            if self.fails_after_bytes <= 0:
                raise OSError(self.error, "told to fail")
            taken = b"".join(buffers)[: self.fails_after_bytes]
            self.fails_after_bytes -= len(taken)
            return super().write(descriptor, [taken])
        if self.longest_write_bytes is not None:
            return super().write(descriptor, [b"".join(buffers)[: self.longest_write_bytes]])
        return super().write(descriptor, buffers)

    def rename(self, source: StrPath, target: StrPath) -> None:
        self._step("rename")
        super().rename(source, target)

    def flush(self, descriptor: int) -> None:
        self._step("flush")
        super().flush(descriptor)

    def write_at(self, descriptor: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        self._step("write_at")
        return super().write_at(descriptor, buffers, offset)

    def flush_directory(self, directory: Path) -> None:
        self._step("flush_directory")
        super().flush_directory(directory)

    def room(self, directory: Path) -> tuple[int, int | None]:
        if self.free_bytes is not None:
            return self.free_bytes, None
        return super().room(directory)


@dataclass(slots=True)
class Receiving:
    """A running listener with what lies behind it."""

    settings: Settings
    engine: Engine
    disk: FailingDisk
    inbox: Inbox
    indexer: Indexer
    acceptor: Acceptor
    associations: Associations
    register: Register
    clock: list[float] = field(default_factory=lambda: [0.0])

    @property
    def port(self) -> int:
        return self.acceptor.port

    def files(self) -> list[Path]:
        return sorted(self.inbox.directory.glob("??/*.dcm"))

    def leftovers(self) -> list[Path]:
        return sorted(self.inbox.directory.glob("??/.*"))

    def rows(self) -> list[Any]:
        with read(self.engine) as connection:
            return list(connection.execute(select(tables.instance).order_by(tables.instance.c.id)))

    def settle(self, count: int) -> list[Any]:
        """Return the rows once there are as many as that."""
        until(lambda: len(self.rows()) >= count and self.indexer.lag_s == 0.0)
        return self.rows()

    def stored_data_sets(self) -> dict[str, bytes]:
        """Return the bytes of each stored data set, without file meta information, by SOP Instance UID."""
        return {path.name.split("_")[0]: data_set_bytes(path) for path in self.files()}


def data_set_bytes(path: Path) -> bytes:
    """Return the data set of a file, without its file meta information."""
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.01)


def a_settings(tmp_path: Path, **listener: Any) -> Settings:
    """Return settings for a listener on a free port of loopback."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    values = {
        "port": 0,
        "processes": 1,
        "min_free_bytes": 0,
        "acse_timeout_s": 2.0,
        "network_timeout_s": 2.0,
        "longest_delay_s": 0.2,
        **listener,
    }
    return Settings(data_directory=tmp_path, listener=ListenerSettings(**values))


def a_database(settings: Settings) -> Engine:
    """Return the database of the data directory, made when it is not there."""
    path = settings.data_directory / "wetread.sqlite"
    if not path.exists():
        path.write_bytes(_empty_database())
    return open_database(settings.database_url)


@cache
def _empty_database() -> bytes:
    # Migrating takes a second; every test but the first copies the outcome.
    with TemporaryDirectory() as folder:
        engine = open_database(f"sqlite:///{folder}/empty.sqlite")
        migrate(engine)
        engine.dispose()
        return Path(folder, "empty.sqlite").read_bytes()


@contextlib.contextmanager
def receiving(tmp_path: Path, **listener: Any) -> Iterator[Receiving]:
    """Run a listener for the length of a block."""
    settings = a_settings(tmp_path, **listener)
    engine = a_database(settings)
    disk = FailingDisk()
    with contextlib.closing(Inbox(tmp_path, disk)) as inbox:
        clock = [0.0]
        gate = DiskGate(inbox.directory, settings.listener.min_free_bytes, disk, lambda: clock[0])
        indexer = Indexer(inbox, Recorder(inbox, engine, settings), settings)
        indexer.take_up(engine)
        indexer.start()
        register = Register(settings.listener)
        associations = Associations(
            settings, StorageService(inbox, gate, indexer, settings.listener.longest_delay_s), register
        )
        acceptor = Acceptor(settings.listener, register, associations)
        acceptor.start()
        try:
            yield Receiving(settings, engine, disk, inbox, indexer, acceptor, associations, register, clock)
        finally:
            acceptor.stop()
            associations.stop()
            indexer.stop()
            engine.dispose()


def is_readable(path: Path) -> bool:
    """Whether pydicom reads a stored file."""
    return bool(dcmread(path, stop_before_pixels=True).SOPInstanceUID)


@contextlib.contextmanager
def failing_to_open(*paths: Path, error: int) -> Iterator[None]:
    """Let the one place where stored files are opened fail for some of them."""
    real = stored_file.system_open

    def choosy(path: Path) -> BufferedReader:
        if path in paths:
            raise OSError(error, "told to fail")
        return real(path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stored_file, "system_open", choosy)
        yield
