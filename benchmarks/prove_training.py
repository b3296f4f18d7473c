"""The proof of the training: a model made from nothing by the committed configuration keeps the promise of the card.

``python -m benchmarks.prove_training`` trains in a fresh clone of the commit; ``--run FOLDER`` takes an uninterrupted
run that was made in a clean clone of an earlier commit, if nothing that a training depends on was changed since.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.evidence import REPOSITORY, NoProof, Run, write_evidence
from benchmarks.prove_phantom import ENTRY, REQUIRED_N, measure, unseen
from training.finetune import DEPENDS_ON
from training.options import load_options
from worker.reader.registry import load_entry

CONFIG = "config/training/phantom.yaml"
#: Inside `DEPENDS_ON`, but no part of a training.
_NOT_TRAINING = (":(exclude)training/evaluate_phantom.py", ":(exclude)training/tests")
#: What a run leaves, in the order in which one uninterrupted run writes it. A run that is taken up again writes its
#: first file anew and finds the second one drawn.
_IN_ORDER = ("config.yaml", "pictures.npy", "run.json", "tower.pt", "language.pt", "metrics.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One finished training.

    Parameters
    ----------
    code_revision
        Commit of the clean checkout it ran in.
    data_sha256
        Of the pictures and their findings.
    minutes
        From nothing to the finished directory.
    curve
        Last loss of each stage.
    model
        The finished directory.
    """

    code_revision: str
    data_sha256: str
    minutes: float
    curve: dict[str, float]
    model: Path


def main(arguments: Sequence[str]) -> int:
    """Train or take a run, ask its model about unseen phantoms; 0 when the evidence was written, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prove_training", description=__doc__)
    parser.add_argument("--run", type=Path, help="run folder of a finished training, in place of training now")
    parser.add_argument("--n", type=int, default=REQUIRED_N, help="phantoms to ask about; fewer are no proof")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.run is not None:
            _prove(chosen.run.resolve(), chosen.n, command="python -m benchmarks.prove_training --run FOLDER")
            return 0
        with tempfile.TemporaryDirectory(prefix="wetread-training-") as folder:
            run = train(Path(folder) / "clone")
            _prove(run, chosen.n, command="make prove training")
    except NoProof as reason:
        print(reason)
        return 1
    return 0


def _prove(run: Path, n: int, *, command: str) -> None:
    training = read_run(run)
    began = time.monotonic()
    entry = load_entry(ENTRY).model_copy(update={"directory": training.model})
    result = measure("training", entry, unseen(n))
    made = {
        "code_revision": training.code_revision,
        "seed": load_options(REPOSITORY / CONFIG).seed,
        "data_sha256": training.data_sha256,
        "minutes": training.minutes,
        "last_loss": training.curve,
    }
    evidence = Run(
        name="training",
        command=command,
        seeds=unseen(n),
        n=n,
        required_n=REQUIRED_N,
        result={"training": made, **result},
        duration_s=training.minutes * 60 + time.monotonic() - began,
    )
    print(write_evidence(evidence))


def train(clone: Path) -> Path:
    """Clone the commit and train there from nothing; returns the run folder."""
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    done = subprocess.run([sys.executable, "training/finetune.py", CONFIG], cwd=clone, check=False)
    if done.returncode != 0:
        raise NoProof(f"training: it ended with {done.returncode}")
    options = load_options(clone / CONFIG)
    return clone / options.runs_directory / options.name


def read_run(run: Path, *, repository: Path = REPOSITORY) -> Training:
    """Read what a training left behind.

    Parameters
    ----------
    run
        Its run folder.
    repository
        Where its commit is known.

    Raises
    ------
    NoProof
        When the run is unfinished, was interrupted, or ran with other code or options than the commit's.
    """
    absent = [name for name in (*_IN_ORDER, "curve.csv", "model") if not (run / name).exists()]
    if absent:
        raise NoProof(f"training: the run has no {absent[0]}, so it did not end")
    written = [(run / name).stat().st_mtime_ns for name in _IN_ORDER]
    curve = _curve(run / "curve.csv")
    if written != sorted(written) or any(
        before[0] == after[0] and after[1] <= before[1] for before, after in pairwise(curve)
    ):
        raise NoProof("training: the run was interrupted and taken up again, so its minutes are not those of one run")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    revision = str(json.loads((run / "run.json").read_text(encoding="utf-8"))["code_revision"])
    if revision != metrics["code_revision"] or not _is_ancestor(repository, revision):
        raise NoProof("training: the run's code is in no commit of this history")
    depends_on = ["--", *DEPENDS_ON, *_NOT_TRAINING]
    if _git(repository, "diff", "--quiet", revision, "HEAD", *depends_on):
        raise NoProof("training: what a training depends on was changed since this run")
    if load_options(run / "config.yaml") != load_options(repository / CONFIG):
        raise NoProof(f"training: the run's options are not those of {CONFIG}")
    return Training(
        code_revision=revision,
        data_sha256=str(metrics["data_sha256"]),
        minutes=float(metrics["minutes"]),
        curve={stage: loss for stage, _, loss in curve},
        model=run / "model",
    )


def _curve(path: Path) -> list[tuple[str, int, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["stage"], int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


def _is_ancestor(repository: Path, revision: str) -> bool:
    # "... with changes" and an empty revision are no commits either.
    return bool(revision) and _git(repository, "merge-base", "--is-ancestor", revision, "HEAD") == 0


def _git(repository: Path, *arguments: str) -> int:
    return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
