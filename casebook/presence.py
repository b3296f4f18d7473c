"""Who runs on this machine: one small file per process in ``data_directory/run``, for readiness and `wetread status`.

A file is believed only while its process lives, so a kill needs no clean-up.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from casebook.errors import UnsafeStorage
from casebook.settings import Settings

#: Role name of the process that starts all others.
SUPERVISOR = "supervisor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """One process that is ready for its work."""

    role: str
    pid: int
    #: When the process was created, seconds since the epoch: tells it from a later one with the same pid.
    created_at: float
    #: When it was ready, seconds since the epoch.
    ready_at: float
    host: str
    #: What an operator wants to know of it: port, model, version.
    facts: dict[str, str] = field(default_factory=dict)


def announce(settings: Settings, role: str, facts: dict[str, str] | None = None) -> None:
    """Write that this process is ready; the file is whole or not there."""
    folder = _folder(settings)
    pid = os.getpid()
    presence = Presence(
        role=role,
        pid=pid,
        created_at=psutil.Process(pid).create_time(),
        ready_at=time.time(),
        host=socket.gethostname(),
        facts=facts or {},
    )
    target = folder / f"{role}.{pid}.json"
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(presence)), encoding="utf-8")
    temporary.rename(target)


def withdraw(settings: Settings, role: str) -> None:
    """Remove what this process announced."""
    (_folder(settings) / f"{role}.{os.getpid()}.json").unlink(missing_ok=True)


def present(settings: Settings) -> tuple[Presence, ...]:
    """Return the processes of this machine that are ready and alive, by role."""
    found = (_read(path) for path in sorted((settings.data_directory / "run").glob("*.json")))
    return tuple(one for one in found if one is not None and _is_alive(one))


def forget_the_dead(settings: Settings) -> None:
    """Remove the files of processes of this machine that are gone."""
    for path in (settings.data_directory / "run").glob("*.json"):
        one = _read(path)
        if one is not None and one.host == socket.gethostname() and not _is_alive(one):
            path.unlink(missing_ok=True)


@contextmanager
def sole_supervisor(settings: Settings, part: str = "") -> Iterator[None]:
    """Hold the data directory against a second supervisor; the lock ends with the process, however it ends.

    Parameters
    ----------
    part
        Names the roles of a supervisor that runs only some: it leaves room for others, on this and other hosts.

    Raises
    ------
    UnsafeStorage
        When another supervisor holds it.
    """
    name = f"lock.{socket.gethostname()}.{part}" if part else "lock"
    descriptor = os.open(_folder(settings) / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UnsafeStorage(f"{settings.data_directory}: another `wetread up` works in this data directory.") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _folder(settings: Settings) -> Path:
    folder = settings.data_directory / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _read(path: Path) -> Presence | None:
    try:
        return Presence(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _is_alive(one: Presence) -> bool:
    if one.host != socket.gethostname():
        return False
    try:
        process = psutil.Process(one.pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - one.created_at) < 1.0)
    except psutil.Error:
        return False
