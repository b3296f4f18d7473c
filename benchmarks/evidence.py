"""What a benchmark or a proof leaves behind: one line of JSON, or one file in docs/evidence that cannot flatter."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
EVIDENCE = REPOSITORY / "docs" / "evidence"


class NoProof(Exception):
    """The run happened, but it proves nothing that may be written down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished run of a proof.

    Parameters
    ----------
    name
        Of the proof; also of the file.
    command
        What a reader types to repeat it.
    seeds
        Every seed the run drew from; empty when nothing was random.
    n
        How many cases were run.
    required_n
        How many the proof demands.
    result
        The numbers, by name.
    duration_s
        Seconds the run took.
    """

    name: str
    command: str
    seeds: Sequence[int]
    n: int
    required_n: int
    result: Mapping[str, object]
    duration_s: float


def commit() -> str:
    """Name the commit that is checked out, with ``+dirty`` when tracked files differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return f"{head}+dirty" if is_dirty() else head


def is_dirty() -> bool:
    """Say whether a tracked file differs from the commit; proofs themselves do not count."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs/evidence")
    return bool(changed)


def machine() -> str:
    """Describe the machine as far as numbers depend on it: cores, memory, architecture, system, Python."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.machine()}, "
        f"{platform.system()}, Python {platform.python_version()}"
    )


def write_evidence(run: Run, *, folder: Path = EVIDENCE) -> Path:
    """Write a proof down, if it is one.

    Parameters
    ----------
    run
        The finished run.
    folder
        Where the file goes.

    Returns
    -------
        The file, ``NAME.json``.

    Raises
    ------
    NoProof
        When fewer cases ran than the proof demands, or the code that ran is in no commit.
    """
    if run.n < run.required_n:
        raise NoProof(f"{run.name}: {run.n} of {run.required_n} cases; a reduced number is no proof")
    if is_dirty():
        raise NoProof(f"{run.name}: tracked files differ from the commit, so nobody could repeat this run")
    content = {
        "proof": run.name,
        "commit": commit(),
        "command": run.command,
        "seeds": spans(run.seeds),
        "N": run.n,
        "result": dict(run.result),
        "duration_s": round(run.duration_s, 1),
        "machine": machine(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run.name}.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def spans(seeds: Sequence[int]) -> list[list[int]]:
    """Return seeds as pairs of the first and the last of each unbroken row of them."""
    found: list[list[int]] = []
    for seed in sorted(seeds):
        if found and seed == found[-1][1] + 1:
            found[-1][1] = seed
        else:
            found.append([seed, seed])
    return found


def print_report(
    name: str, *, columns: Sequence[str], rows: Sequence[Sequence[object]], ratios: Mapping[str, float]
) -> None:
    """Print a benchmark's table for people and, as the last line, its numbers for machines.

    Parameters
    ----------
    name
        Of the benchmark.
    columns
        Headings, with their units.
    rows
        One per line of the table.
    ratios
        What is compared: ours divided by the peer's in the same run, so that a slow machine changes little.
    """
    table = Table(*columns, title=name)
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=None if Console().is_terminal else 160).print(table)
    print(last_line(name, ratios))


def last_line(name: str, ratios: Mapping[str, float]) -> str:
    """Return the line of JSON that ends each benchmark's output.

    Parameters
    ----------
    name
        Of the benchmark.
    ratios
        As in `print_report`.

    Returns
    -------
        One line, without its end.
    """
    numbers = {key: round(value, 4) for key, value in ratios.items()}
    return json.dumps({"benchmark": name, "ratios": numbers, "commit": commit(), "machine": machine()})


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()
