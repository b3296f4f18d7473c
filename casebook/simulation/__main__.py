"""Play hospitals and say which promise broke: `python -m casebook.simulation`.

A look, and the replay of a seed; the proof at its full size is `make prove simulation`.
"""

import sys

import click

from casebook.simulation.games import Game, play
from casebook.simulation.score import is_clean, play_all, tell


@click.command()
@click.option("--seeds", default=10, show_default=True, help="How many seeds, from 1 on.")
@click.option("--studies", default=100, show_default=True, help="Studies of each seed.")
@click.option("--seed", type=int, help="Play this one seed and nothing else.")
@click.option("--database", type=click.Choice(["sqlite", "postgresql"]), default="sqlite", show_default=True)
@click.option("--processes", default=2, show_default=True, help="Seeds at one time.")
def main(*, seeds: int, studies: int, seed: int | None, database: str, processes: int) -> None:
    """Play seeded hospitals on the real store, queue and flow, and check every promise."""
    if seed is not None:
        played = [play(Game(seed=seed, studies=studies, database=database))]
    else:
        games = [Game(seed=number, studies=studies, database=database) for number in range(1, seeds + 1)]
        played = play_all(games, processes=processes)
    tell(played)
    sys.exit(0 if is_clean(played) else 1)


if __name__ == "__main__":
    main()
