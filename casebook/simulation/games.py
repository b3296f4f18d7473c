"""One game: a seed, a fresh database of one kind, and how it ended."""

import traceback
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy import Engine

from casebook.simulation.hospital import Report, simulate
from casebook.simulation.world import BrokenPromise
from casebook.testing import postgresql_database, sqlite_database


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """One seed on one kind of database."""

    seed: int
    studies: int
    database: str

    @property
    def replay(self) -> str:
        """The command that plays it again."""
        return f"python -m casebook.simulation --seed {self.seed} --studies {self.studies} --database {self.database}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """How a game ended."""

    game: Game
    report: Report | None = None
    problem: str = ""


def play(game: Game) -> Played:
    """Play one seed on a fresh database."""
    opened: AbstractContextManager[Engine | None] = (
        postgresql_database() if game.database == "postgresql" else sqlite_database()
    )
    with opened as engine:
        if engine is None:
            return Played(game=game, problem="no PostgreSQL answers (WETREAD_TEST_POSTGRESQL_URL)")
        try:
            return Played(game=game, report=simulate(game.seed, game.studies, engine))
        except BrokenPromise as broken:
            return Played(game=game, problem=str(broken))
        except Exception:  # noqa: BLE001 - the process edge of a game: a crash of the simulation is its result
            return Played(game=game, problem=traceback.format_exc())
