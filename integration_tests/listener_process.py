"""Our listener as a process of its own: started, looked at from outside, killed, and its inbox read back.

Run as a program it is the listener's process with a fresh embedded database and no other role beside it:
``python -m integration_tests.listener_process DATA_DIRECTORY JSON``.
"""

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from benchmarks.raw_sender import KINDS, Association, Refused, associate_request
from casebook import database, logs
from casebook.settings import Settings
from dicom_node.receive.listener import serve
from integration_tests import foreign
from integration_tests.settings import REPOSITORY

#: Our AE title in every test.
AE_TITLE = "WETREAD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the listener's processes hold."""

    threads: int
    descriptors: int
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerProcess:
    """A running listener of ours."""

    port: int
    data_directory: Path
    log: Path
    running: subprocess.Popen[bytes] = field(repr=False)

    def resources(self) -> Resources:
        """Count threads, descriptors and memory of the process and the children that receive now."""
        family = [psutil.Process(self.running.pid), *self.receiving()]
        return Resources(
            threads=sum(one.num_threads() for one in family),
            descriptors=sum(one.num_fds() for one in family),
            rss_bytes=sum(one.memory_info().rss for one in family),
        )

    def family(self) -> list[psutil.Process]:
        """Return the process and its children."""
        process = psutil.Process(self.running.pid)
        return [process, *process.children(recursive=True)]

    def associate(self, *, called: str = AE_TITLE, calling: str = "CT01", timeout_s: float = 20.0) -> Association:
        """Open an association by hand."""
        return Association(self.port, request=associate_request(called=called, calling=calling), timeout_s=timeout_s)

    def receiving(self) -> list[psutil.Process]:
        """Return the children that receive; the recorder is a program of its own."""
        return [child for child in self.family()[1:] if "dicom_node.index.recorder_process" not in child.cmdline()]

    def temporaries(self) -> list[Path]:
        """List what lies in the inbox and is no finished object."""
        return temporaries(self.data_directory)

    def wait_until_idle(self, base: Resources, *, timeout_s: float = 30.0) -> Resources:
        """Wait until threads and descriptors are back to a base, and return what is held then.

        Raises
        ------
        TimeoutError
            When they never came back: something leaked.
        """
        latest = self.resources()

        def idle() -> bool:
            nonlocal latest
            latest = self.resources()
            return latest.threads <= base.threads and latest.descriptors <= base.descriptors

        try:
            foreign.wait_until(idle, timeout_s=timeout_s)
        except TimeoutError:
            raise TimeoutError(f"started with {base}, still holds {latest}") from None
        return latest

    def kill(self) -> None:
        """End the process as a power cut of the process would, by SIGKILL; its children have to notice.

        Raises
        ------
        TimeoutError
            When one of them is still there.
        """
        children = self.family()[1:]
        self.running.kill()
        self.running.wait()
        # Whoever inherits them may take a while to collect what is left of them.
        foreign.wait_until(lambda: not any(map(_runs, children)), timeout_s=10.0, what="the end of the children")


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


@contextmanager
def listener(
    data_directory: Path, *, options: Mapping[str, object] | None = None, database_url: str | None = None
) -> Iterator[ListenerProcess]:
    """Run our listener in its own process until the block ends.

    Parameters
    ----------
    data_directory
        Made where absent; one that was used before is taken up again.
    options
        Listener settings over the tests' (short timeouts, no minimum of free space).
    database_url
        Another database than SQLite in the data directory.

    Yields
    ------
        The process, ready for associations.
    """
    port = foreign.free_port()
    chosen = {
        "port": port,
        "ae_title": AE_TITLE,
        "min_free_bytes": 0,
        "acse_timeout_s": 2.0,
        "network_timeout_s": 3.0,
    } | dict(options or {})
    content: dict[str, object] = {"listener": chosen}
    if database_url is not None:
        content["database"] = {"url": database_url}
    data_directory.mkdir(parents=True, exist_ok=True)
    log = data_directory.parent / f"{data_directory.name}.log"
    command: list[str | Path] = [sys.executable, "-m", __name__, data_directory, json.dumps(content)]
    with foreign.process(command, log=log, ports=[port], extra={"PYTHONPATH": str(REPOSITORY)}) as running:
        yield ListenerProcess(port=port, data_directory=data_directory, log=log, running=running)


def temporaries(data_directory: Path) -> list[Path]:
    """List what lies in an inbox and is no finished object."""
    return sorted(path for path in (data_directory / "inbox").glob("??/*") if path.suffix != ".dcm")


def rows(data_directory: Path, database_url: str | None = None) -> dict[str, Path]:
    """Return the latest file of each indexed object by its SOP Instance UID, from the database."""
    return dict(_indexed(data_directory, database_url))


def _indexed(data_directory: Path, database_url: str | None = None) -> list[tuple[str, Path]]:
    url = database_url or f"sqlite:///{data_directory / 'wetread.sqlite'}"
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT sop_instance_uid, path FROM instance ORDER BY id")).all()
    finally:
        engine.dispose()
    return [(uid, data_directory / path) for uid, path in found]


def wait_until_indexed(data_directory: Path, *, timeout_s: float = 30.0) -> set[Path]:
    """Wait until every finished file has its row, and return those that never got one.

    A repeated object that equals the one we hold disappears again once it was compared.
    """
    left: set[Path] = set()

    def all_indexed() -> bool:
        nonlocal left
        files = {path for paths in finished(data_directory).values() for path in paths}
        with suppress(OperationalError):
            left = files - {path for _, path in _indexed(data_directory)}
            return not left
        return False

    with suppress(TimeoutError):
        foreign.wait_until(all_indexed, timeout_s=timeout_s)
    return left


def wait_for_rows(data_directory: Path, count: int, *, timeout_s: float = 30.0) -> dict[str, Path]:
    """Wait until so many objects are indexed, and return them as `rows` does."""

    def enough() -> dict[str, Path]:
        try:
            found = rows(data_directory)
        except OperationalError:
            # The writer holds the database, or has not made it yet.
            return {}
        return found if len(found) >= count else {}

    return foreign.wait_until(enough, timeout_s=timeout_s, what=f"{count} rows") if count else rows(data_directory)


def data_set_of(path: Path) -> tuple[str, bytes]:
    """Return transfer syntax and data set of a DICOM file as they lie there (PS3.10 7.1), read without any library."""
    content = path.read_bytes()
    if content[128:132] != b"DICM":
        raise ValueError(f"{path.name} has no DICM prefix")
    length = int.from_bytes(content[140:144], "little")
    meta = content[144 : 144 + length]
    found = re.search(rb"\x02\x00\x10\x00UI(..)", meta, re.DOTALL)
    if found is None:
        raise ValueError(f"{path.name} names no transfer syntax")
    size_bytes = int.from_bytes(found[1], "little")
    syntax = meta[found.end() : found.end() + size_bytes].rstrip(b"\0 ").decode("ascii")
    return syntax, content[144 + length :]


def finished(data_directory: Path) -> dict[str, list[Path]]:
    """Return the finished files of an inbox by the SOP Instance UID in their names."""
    found: dict[str, list[Path]] = {}
    for path in sorted((data_directory / "inbox").rglob("*.dcm")):
        found.setdefault(path.name.split("_")[0], []).append(path)
    return found


def stores_one(port: int, number: int) -> bool:
    """Say whether a listener takes one small object in an association of its own."""
    try:
        association = Association(port, timeout_s=20.0)
    except (Refused, OSError):
        return False
    status = association.store(KINDS["small"], number)
    association.release()
    return status == 0


def main(arguments: list[str]) -> int:
    """Be the listener's process until SIGTERM."""
    data_directory, content = Path(arguments[0]), json.loads(arguments[1])
    settings = Settings(data_directory=data_directory.resolve(), **content)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    logs.configure_logs("listener")
    engine = database.open_database(settings.database_url)
    database.migrate(engine)
    serve(settings, engine, stop)
    engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
