"""What the verbs share: where the configuration and the data lie, and the study a verb is about."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from casebook import queue
from casebook.wiring import Wiring, wire

Command = TypeVar("Command", bound=Callable[..., Any])

_FOLDER = click.Path(file_okay=False, path_type=Path)


def directories(command: Command) -> Command:
    """Add ``--config`` and ``--data``; both default to the environment, then to node.yaml."""
    with_data = click.option("--data", "data_directory", type=_FOLDER, help="Folder of studies and database.")(command)
    return click.option("--config", "config_directory", type=_FOLDER, help="Folder with node.yaml.")(with_data)


def wire_with_wakeups(config_directory: Path | None, data_directory: Path | None) -> Wiring:
    """Open the database with a bus, for verbs after which a worker should look at once."""
    # Celery is not needed by the verbs that only look.
    from casebook.wakeups import build_app, waker

    wiring = wire(config_directory, data_directory)
    return wire(config_directory, data_directory, wake=waker(build_app(wiring.settings), wiring.settings))


def wake_all(wiring: Wiring) -> None:
    """Tell the workers of every queue in which something is due."""
    with wiring.read() as connection:
        due = queue.due_queues(connection, now=wiring.clock.now(connection))
    for name in due:
        wiring.wake(name)


def no_such_study(study_instance_uid: str) -> click.UsageError:
    """Return the error for a UID that names nothing here: wrong usage, exit code 2."""
    return click.UsageError(f"no study {study_instance_uid} is known here (wetread status names the oldest)")
