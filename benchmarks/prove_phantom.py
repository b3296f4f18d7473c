"""The proof of the shipped phantom model at its full size: ``python -m benchmarks.prove_phantom``."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence

from benchmarks.evidence import REPOSITORY, NoProof, Run, write_evidence
from casebook.checks import load_checks
from training.evaluate_phantom import FIRST_SEED, Tally, evaluate, tell
from training.options import FIRST_TRAINING_SEED
from worker.reader.loaders import open_writer
from worker.reader.registry import ModelEntry, load_entry

#: Phantoms the promise is about; fewer are a look, never evidence.
REQUIRED_N = 500
ENTRY = REPOSITORY / "config" / "models" / "phantom-cxr.yaml"
CHECKS = REPOSITORY / "config" / "checks" / "chest_xray.yaml"


def main(arguments: Sequence[str]) -> int:
    """Ask the shipped model about unseen phantoms; 0 when the evidence was written, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prove_phantom", description=__doc__)
    parser.add_argument("--n", type=int, default=REQUIRED_N, help="phantoms to ask about; fewer are no proof")
    chosen = parser.parse_args(arguments)
    try:
        entry = load_entry(ENTRY)
        if entry.directory is None or not entry.directory.is_relative_to(REPOSITORY / "models"):
            raise NoProof("phantom: the entry does not name the model that ships with the project")
        began = time.monotonic()
        result = measure("phantom", entry, unseen(chosen.n))
        run = Run(
            name="phantom",
            command="make prove phantom",
            seeds=unseen(chosen.n),
            n=chosen.n,
            required_n=REQUIRED_N,
            result=result,
            duration_s=time.monotonic() - began,
        )
        print(write_evidence(run))
    except NoProof as reason:
        print(reason)
        return 1
    return 0


def unseen(n: int) -> range:
    """Return the seeds of the first `n` phantoms nobody trained on."""
    if not 0 < n <= FIRST_TRAINING_SEED - FIRST_SEED:
        raise NoProof(f"{n} phantoms: the seeds from {FIRST_TRAINING_SEED} on are trained on")
    return range(FIRST_SEED, FIRST_SEED + n)


def measure(name: str, entry: ModelEntry, seeds: range) -> dict[str, object]:
    """Ask a model about phantoms and return its numbers.

    Raises
    ------
    NoProof
        When they are less than the card promises.
    """
    preset = load_checks(CHECKS)
    writer = open_writer(entry, threads=1)
    tallies = evaluate(writer, preset, seeds)
    if not tell(tallies, preset):
        raise NoProof(f"{name}: the promise of the model's card is not kept")
    return {**numbers(tallies), "model": f"{entry.name} {entry.version}", "model_sha256": writer.sha256}


def numbers(tallies: Mapping[str, Tally]) -> dict[str, object]:
    """Return the numbers of each language and way by name."""
    return {name: tally.summary() for name, tally in tallies.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
