"""The proof of the flow at its full size: ``python -m benchmarks.prove_simulation``.

50 seeds of 100 studies on SQLite in less than two minutes, and two of the seeds on PostgreSQL.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from benchmarks.evidence import NoProof, Run, write_evidence
from casebook.simulation.games import Game, Played
from casebook.simulation.score import endings, faults, is_clean, play_all, tell

SEEDS = 50
STUDIES = 100
POSTGRESQL_SEEDS = 2
#: Seconds the seeds on SQLite may take together on two cores.
LIMIT_S = 120.0


def main(arguments: Sequence[str]) -> int:
    """Play, and write the evidence down; 0 when it was written, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prove_simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds on SQLite; fewer are no proof")
    parser.add_argument("--studies", type=int, default=STUDIES, help="studies of each seed; fewer are no proof")
    parser.add_argument("--postgresql-seeds", type=int, default=POSTGRESQL_SEEDS, help="fewer are no proof")
    parser.add_argument("--processes", type=int, default=2, help="seeds at one time")
    chosen = parser.parse_args(arguments)

    began = time.monotonic()
    seeds = range(1, chosen.seeds + 1)
    on_sqlite = play_all(_games(seeds, chosen.studies, "sqlite"), processes=chosen.processes)
    sqlite_s = time.monotonic() - began
    print(f"{sqlite_s:.1f} s on SQLite")
    again = range(1, chosen.postgresql_seeds + 1)
    on_postgresql = play_all(_games(again, chosen.studies, "postgresql"), processes=chosen.processes)
    tell([*on_sqlite, *on_postgresql])
    try:
        run = proof(
            on_sqlite, on_postgresql, studies=chosen.studies, sqlite_s=sqlite_s, took_s=time.monotonic() - began
        )
        print(write_evidence(run))
    except NoProof as reason:
        print(reason)
        return 1
    return 0


def proof(
    on_sqlite: Sequence[Played], on_postgresql: Sequence[Played], *, studies: int, sqlite_s: float, took_s: float
) -> Run:
    """Make a proof of the games that were played.

    Parameters
    ----------
    studies
        Of each seed.
    sqlite_s
        Seconds the seeds on SQLite took together.
    took_s
        Seconds everything took.

    Raises
    ------
    NoProof
        When a promise broke, too few seeds met PostgreSQL, or SQLite took too long.
    """
    played = [*on_sqlite, *on_postgresql]
    if not is_clean(played):
        raise NoProof("simulation: a promise broke")
    if len(on_postgresql) < POSTGRESQL_SEEDS:
        raise NoProof(f"simulation: {len(on_postgresql)} of {POSTGRESQL_SEEDS} seeds on PostgreSQL")
    if sqlite_s > LIMIT_S:
        raise NoProof(f"simulation: {sqlite_s:.0f} s on SQLite are more than {LIMIT_S:.0f} s")
    return Run(
        name="simulation",
        command="make prove simulation",
        seeds=[one.game.seed for one in on_sqlite],
        n=min(len(on_sqlite), SEEDS) * min(studies, STUDIES),
        required_n=SEEDS * STUDIES,
        result={
            "broken_promises": 0,
            "sqlite_seeds": len(on_sqlite),
            "postgresql_seeds": len(on_postgresql),
            "studies_of_a_seed": studies,
            "sqlite_s": round(sqlite_s, 1),
            "endings": endings(played),
            "faults": faults(played),
        },
        duration_s=took_s,
    )


def _games(seeds: Sequence[int], studies: int, database: str) -> list[Game]:
    return [Game(seed=seed, studies=studies, database=database) for seed in seeds]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
