"""The supervisor with a role that only sleeps."""

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy.exc import OperationalError

from casebook import database, presence
from casebook.errors import UnsafeStorage
from casebook.presence import Presence
from casebook.settings import SHIPPED_CONFIG_DIRECTORY, QueueSettings, Settings, load_settings
from console.supervisor import Role, Supervisor, sole_supervisor

SLEEPER = Role(name="sleeper", module="console.tests.sleeper")
BROKEN = Role(name="broken", module="console.tests.no_such_module")
pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings on an empty data directory."""
    return load_settings(SHIPPED_CONFIG_DIRECTORY, tmp_path)


class Running:
    """A supervisor in a thread; its signals are not needed here."""

    def __init__(self, settings: Settings, *roles: Role) -> None:
        self.settings = settings
        self.supervisor = Supervisor(settings, roles, grace_s=20.0)
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.supervisor.run, args=(self._on_ready,))
        self.thread.start()

    def _on_ready(self, _found: tuple[Presence, ...]) -> None:
        self.ready.set()

    def sleepers(self) -> list[int]:
        return [one.pid for one in present(self.settings) if one.role == "sleeper"]

    def stop(self) -> None:
        self.supervisor.stop()
        self.thread.join(60)


@pytest.fixture
def start(settings: Settings) -> Iterator[Callable[..., Running]]:
    """Start a supervisor that is ended with the test."""
    started: list[Running] = []

    def make(*roles: Role, settings: Settings = settings) -> Running:
        started.append(Running(settings, *roles))
        return started[-1]

    yield make
    for one in started:
        one.stop()


def present(settings: Settings) -> tuple[Presence, ...]:
    if not (settings.data_directory / "wetread.sqlite").exists():
        return ()
    engine = database.open_database(settings.database_url)
    try:
        with database.read(engine) as connection:
            return presence.present(connection, now=time.time())
    except OperationalError:
        return ()  # Not migrated yet.
    finally:
        engine.dispose()


def _until(look: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    done = threading.Event()
    waited_s = 0.0
    while not look() and waited_s < timeout_s:
        done.wait(0.05)
        waited_s += 0.05
    return look()


def test_a_killed_role_is_started_again_and_all_end_with_the_supervisor(start: Callable[..., Running]) -> None:
    running = start(SLEEPER)
    assert running.ready.wait(60)
    first = running.sleepers()[0]

    os.kill(first, signal.SIGKILL)

    assert _until(lambda: running.sleepers() not in ([], [first]))
    second = running.sleepers()[0]
    running.stop()
    assert not psutil.pid_exists(second)
    assert present(running.settings) == ()


def test_a_role_that_stays_stopped_is_started_again(settings: Settings, start: Callable[..., Running]) -> None:
    impatient = settings.model_copy(update={"queue": QueueSettings(hard_limit_s=1.0)})
    running = start(SLEEPER, settings=impatient)
    assert running.ready.wait(60)
    first = running.sleepers()[0]

    os.kill(first, signal.SIGSTOP)

    assert _until(lambda: running.sleepers() not in ([], [first]))


def test_a_role_that_cannot_start_does_not_stop_the_others_and_is_not_ready(start: Callable[..., Running]) -> None:
    running = start(SLEEPER, BROKEN)

    assert _until(lambda: len(running.sleepers()) == 1)
    assert not running.ready.is_set()


def test_a_data_directory_has_one_supervisor(settings: Settings) -> None:
    with sole_supervisor(settings), pytest.raises(UnsafeStorage, match="another `wetread up`"):
        Supervisor(settings).run(lambda _: None)
    with sole_supervisor(settings, "gpu"), sole_supervisor(settings, "io-listener-sweeper"):
        pass


def test_a_machine_that_cannot_start_a_process_for_a_moment_ends_nothing(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(errno.EAGAIN, "told to fail"), OSError(errno.ENOMEM, "told to fail")]
    real = subprocess.Popen

    def choosy(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*arguments, **options)

    monkeypatch.setattr("console.supervisor.subprocess.Popen", choosy)
    running = start(SLEEPER)

    assert running.ready.wait(60)
    assert failures == []
