"""Start every role of one machine, restart what dies, end everything on SIGTERM."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from casebook import database, presence
from casebook.logs import get_logger
from casebook.settings import CONFIG_DIRECTORY_VARIABLE, Settings, inherited_environment

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
#: A role that lived this long has started well; its next death counts as the first.
_STEADY_AFTER_S = 60.0
#: Seconds the roles have to end by themselves; jobs in hand are given back before (`celery_role.GIVE_BACK_AFTER_S`).
GRACE_S = 30.0
_POLL_S = 0.1
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
        with presence.sole_supervisor(self._settings, part):
            presence.forget_the_dead(self._settings)
            self._migrate()
            presence.announce(self._settings, presence.SUPERVISOR, {"roles": " ".join(names)})
            try:
                self._watch(on_ready)
            finally:
                self._end_all()
                presence.withdraw(self._settings, presence.SUPERVISOR)

    def _migrate(self) -> None:
        engine = database.open_database(self._settings.database_url)
        try:
            database.migrate(engine)
        finally:
            engine.dispose()

    def _watch(self, on_ready: Callable[[tuple[presence.Presence, ...]], None]) -> None:
        told = False
        while not self._stopping.is_set():
            now = time.monotonic()
            for child in self._children:
                self._look_after(child, now)
            if not told:
                found = presence.present(self._settings)
                if {child.role.name for child in self._children} <= {one.role for one in found}:
                    on_ready(found)
                    told = True
            self._stopping.wait(_POLL_S)

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
        presence.forget_the_dead(self._settings)

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

    def _end_all(self) -> None:
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


def _back_off(child: _Child, now: float) -> None:
    child.restart_at = now + child.pause_s
    child.pause_s = min(_LONGEST_PAUSE_S, child.pause_s * 2)


def _family(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []
