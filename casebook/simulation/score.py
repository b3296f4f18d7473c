"""Many games at one time, and what came of them in numbers."""

import multiprocessing
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor

import click
from rich.console import Console
from rich.table import Table

from casebook.simulation.games import Game, Played, play


def play_all(games: Sequence[Game], *, processes: int) -> list[Played]:
    """Play games, `processes` at one time, and say at once which one breaks a promise."""
    played = []
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for one in pool.map(play, games):
            played.append(one)
            click.echo(f"\r{one.game.database}: {len(played)} of {len(games)} seeds", nl=False, err=True)
            if one.report is None:
                click.echo(f"\n{one.problem}\n  replay: {one.game.replay}", err=True)
    click.echo("", err=True)
    return played


def is_clean(played: Sequence[Played]) -> bool:
    """Say whether every promise held in every game."""
    return bool(played) and all(one.report is not None for one in played)


def faults(played: Sequence[Played]) -> dict[str, int]:
    """Count what happened to the hospitals, by its name."""
    return dict(sorted(_sum(one.report.faults for one in played if one.report is not None).items()))


def endings(played: Sequence[Played]) -> dict[str, int]:
    """Count how the studies ended."""
    return dict(_sum(one.report.endings for one in played if one.report is not None))


def tell(played: Sequence[Played]) -> None:
    """Print what happened, how the studies ended, and each game that broke a promise."""
    reports = [one.report for one in played if one.report is not None]
    table = Table("what happened", "times", title=f"{len(reports)} hospitals")
    for name, count in faults(played).items():
        table.add_row(name, str(count))
    Console().print(table)
    ended = ", ".join(f"{count} {name}" for name, count in endings(played).items())
    click.echo(f"{sum(report.studies for report in reports)} studies: {ended}")
    for one in played:
        if one.report is None:
            click.echo(f"seed {one.game.seed} on {one.game.database}: {one.problem}\n  replay: {one.game.replay}")


def _sum(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total
