"""Start every role of one machine, restart what dies or stays stopped, end everything on SIGTERM."""

import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
from sqlalchemy.exc import SQLAlchemyError

from casebook import presence
from casebook.errors import UnsafeStorage
from casebook.heartbeat import Heartbeat
from casebook.logs import get_logger
from casebook.settings import CONFIG_DIRECTORY_VARIABLE, Settings, inherited_environment
from casebook.wiring import Wiring, wire
from console.stopped import StoppedProcesses

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
#: A role that lived this long has started well; its next death counts as the first.
_STEADY_AFTER_S = 60.0
#: Seconds the roles have to end by themselves; jobs in hand are given back before (`celery_role.GIVE_BACK_AFTER_S`).
GRACE_S = 30.0
_POLL_S = 0.1
#: Seconds for which a process may be stopped (SIGSTOP, a debugger) before it is killed and started again.
LONGEST_STOP_S = 30.0
#: Seconds between two looks at every process that the roles have started.
_LOOK_AT_FAMILY_S = 1.0
_log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One kind of process."""

    name: str
    #: Module whose `main` runs it.
    module: str


ROLES = (
    Role(name="listener", module="dicom_node.receive.listener_main"),
    Role(name="sweeper", module="casebook.sweeper_main"),
    Role(name="io", module="dicom_node.io_worker"),
    Role(name="gpu", module="worker.gpu_worker"),
)


@dataclass(slots=True, kw_only=True)
class _Child:
    role: Role
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    restart_at: float = 0.0


class Supervisor:
    """The parent of all roles of one data directory."""

    def __init__(self, settings: Settings, roles: Sequence[Role] = ROLES, grace_s: float = GRACE_S) -> None:
        """Take what to start."""
        self._settings = settings
        self._children = [_Child(role=role) for role in roles]
        self._grace_s = grace_s
        self._stopped = StoppedProcesses(longest_s=min(LONGEST_STOP_S, settings.queue.hard_limit_s))
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End everything; `run` then returns."""
        self._stopping.set()

    def run(self, on_ready: Callable[[tuple[presence.Presence, ...]], None]) -> None:
        """Bring the schema up to date, start the roles and keep them running until `stop`.

        Parameters
        ----------
        on_ready
            Told once, when every role is ready for work.

        Raises
        ------
        UnsafeStorage
            When another supervisor works in the data directory.
        """
        names = [child.role.name for child in self._children]
        part = "" if {role.name for role in ROLES} <= set(names) else "-".join(sorted(names))
        with sole_supervisor(self._settings, part):
            wiring = self._open()
            heartbeat = Heartbeat(wiring, presence.SUPERVISOR, facts={"roles": " ".join(names)})
            heartbeat.start()
            try:
                self._watch(wiring, on_ready)
            finally:
                self._end_all(wiring)
                heartbeat.stop()
                wiring.engine.dispose()

    def _open(self) -> Wiring:
        return wire(self._settings.config_directory, self._settings.data_directory, migrate=True)

    def _watch(self, wiring: Wiring, on_ready: Callable[[tuple[presence.Presence, ...]], None]) -> None:
        told = False
        looked_at = 0.0
        while not self._stopping.is_set():
            now = time.monotonic()
            for child in self._children:
                self._look_after(child, now)
            if now - looked_at > _LOOK_AT_FAMILY_S:
                looked_at = now
                self._stopped.look(_family(os.getpid()))
            if not told and (found := self._ready(wiring)):
                on_ready(found)
                told = True
            self._stopping.wait(_POLL_S)

    def _ready(self, wiring: Wiring) -> tuple[presence.Presence, ...]:
        """Return the processes once every role has one; none before, nor while the database is away."""
        try:
            with wiring.read() as connection:
                found = presence.present(connection, now=wiring.clock.now(connection))
        except SQLAlchemyError:
            return ()
        here = [one for one in found if presence.is_here(one)]
        me = next((one for one in here if one.pid == os.getpid()), None)
        # What is left of an earlier supervisor started before us.
        ours = tuple(one for one in here if me is not None and one.started_at >= me.started_at)
        return ours if {child.role.name for child in self._children} <= {one.role for one in ours} else ()

    def _look_after(self, child: _Child, now: float) -> None:
        if child.process is None:
            if now >= child.restart_at:
                try:
                    self._start(child, now)
                except OSError as error:
                    # Out of memory, processes or descriptors: the roles that run must not end for it.
                    _log.error("role_not_started", state=child.role.name, error=error, wait_s=child.pause_s)
                    _back_off(child, now)
            return
        status = child.process.poll()
        if status is None:
            return
        if now - child.started > _STEADY_AFTER_S:
            child.pause_s = _FIRST_PAUSE_S
        _log.error("role_ended", state=child.role.name, exit_code=status, wait_s=child.pause_s)
        child.process = None
        _back_off(child, now)

    def _start(self, child: _Child, now: float) -> None:
        settings = self._settings
        child.started = now
        child.process = subprocess.Popen(
            [sys.executable, "-m", "console.child", child.role.module, str(psutil.Process().pid)],
            stdin=subprocess.DEVNULL,
            # Ctrl-C at the terminal reaches the supervisor alone, which then ends its children in order.
            start_new_session=True,
            env=inherited_environment(
                {
                    CONFIG_DIRECTORY_VARIABLE: str(settings.config_directory),
                    "WETREAD_DATA_DIRECTORY": str(settings.data_directory),
                }
            ),
        )

    def _end_all(self, wiring: Wiring) -> None:
        running = [child.process for child in self._children if child.process is not None]
        # Whatever a role started ends with it, also where the role has to be killed.
        families = [one for process in running for one in _family(process.pid)]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + self._grace_s
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.error("role_killed", pid=process.pid)
                process.kill()
                process.wait()
        for one in families:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        try:
            with wiring.write() as connection:
                presence.withdraw_all(connection, {one.pid for one in (*running, *families)})
        except SQLAlchemyError as error:
            # Then they are silent for those who look from elsewhere, until this machine starts again.
            _log.warning("heartbeat_not_written", exc_info=error)


def _back_off(child: _Child, now: float) -> None:
    child.restart_at = now + child.pause_s
    child.pause_s = min(_LONGEST_PAUSE_S, child.pause_s * 2)


def _family(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


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
    folder = settings.data_directory / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"lock.{socket.gethostname()}.{part}" if part else "lock"
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UnsafeStorage(f"{settings.data_directory}: another `wetread up` works in this data directory.") from None
    try:
        yield
    finally:
        os.close(descriptor)
