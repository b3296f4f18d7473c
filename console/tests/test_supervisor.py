"""The supervisor with a role that only sleeps."""

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from casebook import presence
from casebook.errors import UnsafeStorage
from casebook.presence import Presence
from casebook.settings import SHIPPED_CONFIG_DIRECTORY, Settings, load_settings
from console.supervisor import Role, Supervisor

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
        return [one.pid for one in presence.present(self.settings) if one.role == "sleeper"]

    def stop(self) -> None:
        self.supervisor.stop()
        self.thread.join(60)


@pytest.fixture
def start(settings: Settings) -> Iterator[Callable[..., Running]]:
    """Start a supervisor that is ended with the test."""
    started: list[Running] = []

    def make(*roles: Role) -> Running:
        started.append(Running(settings, *roles))
        return started[-1]

    yield make
    for one in started:
        one.stop()


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
    assert presence.present(running.settings) == ()


def test_a_role_that_cannot_start_does_not_stop_the_others_and_is_not_ready(start: Callable[..., Running]) -> None:
    running = start(SLEEPER, BROKEN)

    assert _until(lambda: len(running.sleepers()) == 1)
    assert not running.ready.is_set()


def test_a_data_directory_has_one_supervisor(settings: Settings) -> None:
    with presence.sole_supervisor(settings), pytest.raises(UnsafeStorage, match="another `wetread up`"):
        Supervisor(settings).run(lambda _: None)
    with presence.sole_supervisor(settings, "gpu"), presence.sole_supervisor(settings, "io-listener-sweeper"):
        pass


def test_a_file_of_a_process_that_is_gone_is_not_believed(settings: Settings) -> None:
    presence.announce(settings, "gpu", {"models": "m"})
    assert [one.facts for one in presence.present(settings)] == [{"models": "m"}]
    path = next((settings.data_directory / "run").glob("gpu.*.json"))

    # The same pid in another life.
    created_at = psutil.Process().create_time()
    path.write_text(path.read_text().replace(str(created_at), str(created_at - 100)))

    assert presence.present(settings) == ()
    presence.forget_the_dead(settings)
    assert not path.exists()


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
