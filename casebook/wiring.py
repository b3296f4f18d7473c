"""The composition root: clock, randomness, database and wake-up bus are reached only through what stands here.

A simulation hands out a virtual clock, a seeded generator and a bus that loses messages; everything else
stays the real thing.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from sqlalchemy import Connection, Engine

from casebook import database, device
from casebook.clock import Clock, DatabaseClock
from casebook.pipelines import Pipeline, load_pipelines
from casebook.private_files import private_directory
from casebook.settings import Settings, load_settings
from casebook.terms import Terms


def _nobody(_queue: str) -> None:
    """Wake nobody: the next sweep finds the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Everything a role needs of the outside world."""

    settings: Settings
    engine: Engine
    pipelines: tuple[Pipeline, ...]
    clock: Clock = field(default_factory=DatabaseClock)
    random: Random = field(default_factory=Random)
    #: Tells the workers of a queue to look; best effort, never raises.
    wake: Callable[[str], None] = _nobody
    #: Names this process in leases and attempts.
    owner: str = field(default_factory=lambda: f"{socket.gethostname()[:40]}:{os.getpid()}")

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open one writing transaction."""
        with database.write(self.engine) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open one short reading transaction."""
        with database.read(self.engine) as connection:
            yield connection

    def terms(self, connection: Connection) -> Terms:
        """Return what the flow decides by in this transaction."""
        return Terms(
            pipelines=self.pipelines,
            limits=self.settings.queue,
            strict=self.settings.identity.strict,
            now=self.clock.now(connection),
        )


def wire(
    config_directory: Path | None = None,
    data_directory: Path | None = None,
    *,
    wake: Callable[[str], None] = _nobody,
    migrate: bool = False,
) -> Wiring:
    """Read the configuration and open the database.

    Parameters
    ----------
    migrate
        Bring the schema up to date first; otherwise another revision is refused.

    Raises
    ------
    SettingsError
        When the configuration is wrong.
    SchemaMismatch
        When the database is on another revision.
    UnsafeStorage
        When any user of the machine may look into the data directory.
    """
    settings = load_settings(config_directory, data_directory)
    private_directory(settings.data_directory)
    pipelines = load_pipelines(settings.config_directory / "pipelines")
    for pipeline in pipelines:
        for destination in pipeline.destinations:
            settings.destination(destination)
    engine = database.open_database(settings.database_url)
    if migrate:
        database.migrate(engine)
    database.require_current(engine)
    wiring = Wiring(settings=settings, engine=engine, pipelines=pipelines, wake=wake)
    settle_device(wiring)
    return wiring


def settle_device(wiring: Wiring) -> None:
    """See to it that this installation has its DeviceUID, and that it is the one the settings state, if they do."""
    stated = wiring.settings.device.device_uid
    with wiring.read() as connection:
        if device.is_settled(connection, stated=stated):
            return
    with wiring.write() as connection:
        device.settle(connection, stated=stated, now=wiring.clock.now(connection))
