"""Ask a model about phantoms it has never seen: ``python -m training.evaluate_phantom --n 500``.

Each phantom goes two ways. As a DICOM study it is decoded, rendered, drafted and checked exactly as a study
that arrives by network; as an array the checks alone are asked again, so that a difference between the two
would show. An answer is right when it is the truth and is not given as "undetermined"; a finding on the wrong
side is wrong. A report is asked the same checks by the patterns of the preset.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casebook.checks import ABSENT, CheckPreset, load_checks
from training.options import FIRST_TRAINING_SEED
from training.phantom.dicom import build_study
from training.phantom.phantom import draw_phantom
from worker.reader.loaders import open_writer
from worker.reader.pixels import frames
from worker.reader.registry import load_entry
from worker.reader.report import ask_report
from worker.reader.scoring import answer_checks
from worker.reader.writer import Writer

REPOSITORY = Path(__file__).resolve().parent.parent
#: Seed of the first unseen phantom; the others follow it.
FIRST_SEED = 500_000
#: What the model's card promises, per language.
PROMISED_ACCURACY = 0.97
PROMISED_ACCURACY_OF_EACH_CHECK = 0.93
PROMISED_REPORT_F1 = 0.95


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one language, asked one way, came to."""

    asked: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    undetermined: int = 0
    #: Findings with their side: said and true, said and untrue, true and not said.
    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    reports: int = 0
    reports_agree: int = 0

    def accuracy(self, check_id: str) -> float:
        """Return the share of right answers to one check."""
        return self.right[check_id] / self.asked[check_id]

    def overall(self) -> float:
        """Return the share of right answers to all checks."""
        return self.right.total() / self.asked.total()

    def report_f1(self) -> float:
        """Return F1 over the findings, with their sides, that the reports state."""
        found = 2 * self.true_positive
        return found / max(1, found + self.false_positive + self.false_negative)

    def summary(self) -> dict[str, Any]:
        """Return the numbers by name, shares from 0 to 1."""
        summary: dict[str, Any] = {
            "accuracy": round(self.overall(), 4),
            "accuracy_by_check": {check_id: round(self.accuracy(check_id), 4) for check_id in self.asked},
            "undetermined": round(self.undetermined / self.asked.total(), 4),
        }
        if self.reports:
            summary |= {
                "report_f1": round(self.report_f1(), 4),
                "reports_in_full_agreement": round(self.reports_agree / self.reports, 4),
            }
        return summary

    def keeps_promise(self) -> bool:
        """Tell whether this is what the card promises."""
        return (
            self.overall() >= PROMISED_ACCURACY
            and min(map(self.accuracy, self.asked)) >= PROMISED_ACCURACY_OF_EACH_CHECK
            and (not self.reports or self.report_f1() >= PROMISED_REPORT_F1)
        )


def main(arguments: Sequence[str]) -> int:
    """Evaluate and print; 0 when the promise is kept, 1 when it is not, 2 on wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate_phantom", description=__doc__)
    parser.add_argument("--n", type=int, default=500, help="phantoms to ask about")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="seed of the first phantom; the others follow it")
    parser.add_argument("--model", type=Path, help="model directory, in place of the entry's")
    parser.add_argument("--entry", type=Path, default=REPOSITORY / "config/models/phantom-cxr.yaml")
    parser.add_argument("--checks", type=Path, default=REPOSITORY / "config/checks/chest_xray.yaml")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model")
    chosen = parser.parse_args(arguments)
    if chosen.n < 1 or chosen.seed < 0 or chosen.seed + chosen.n > FIRST_TRAINING_SEED:
        parser.error(f"seeds from {FIRST_TRAINING_SEED} on are trained on; choose a lower --seed or --n")

    entry = load_entry(chosen.entry)
    if chosen.model is not None:
        entry = entry.model_copy(update={"directory": chosen.model.resolve()})
    preset = load_checks(chosen.checks)
    writer = open_writer(entry, threads=chosen.threads)
    tallies = evaluate(writer, preset, range(chosen.seed, chosen.seed + chosen.n))
    return 0 if tell(tallies, preset) else 1


def tell(tallies: dict[str, Tally], preset: CheckPreset) -> bool:
    """Print the numbers and whether they keep the promise of the card; return that."""
    print_table(tallies, preset)
    kept = all(tally.keeps_promise() for tally in tallies.values())
    print(
        f"{'kept' if kept else 'NOT kept'}: at least {PROMISED_ACCURACY:.0%} of all answers, "
        f"{PROMISED_ACCURACY_OF_EACH_CHECK:.0%} of each check, report F1 {PROMISED_REPORT_F1}, in each language"
    )
    return kept


def evaluate(writer: Writer, preset: CheckPreset, seeds: range) -> dict[str, Tally]:
    """Ask about the phantoms of `seeds` in every language of the model.

    Returns
    -------
        One tally per language and way: ``en dicom``, ``en array`` and so on.
    """
    languages = writer.entry.languages
    tallies = {f"{language} {way}": Tally() for language in languages for way in ("dicom", "array")}
    began = time.monotonic()
    for done, seed in enumerate(seeds, start=1):
        study = build_study(seed)
        ways = {"dicom": next(iter(frames(study.dataset))), "array": draw_phantom(seed).picture}
        for way, picture in ways.items():
            for language in languages:
                tally = tallies[f"{language} {way}"]
                count_checks(tally, writer, picture, preset, study.answers, language)
                if way == "dicom":
                    draft = writer.write([picture], writer.entry.prompts.draft[language])
                    count_report(tally, draft.text, preset, study.answers, language)
        if done % max(1, len(seeds) // 10) == 0:
            minutes = (time.monotonic() - began) / 60
            left = minutes / done * (len(seeds) - done)
            print(f"{done} of {len(seeds)} phantoms in {minutes:.1f} min, {left:.1f} min left", flush=True)
    return tallies


def count_checks(
    tally: Tally,
    writer: Writer,
    picture: NDArray[np.float32],
    preset: CheckPreset,
    truth: dict[str, str],
    language: str,
) -> None:
    """Ask every check about one picture and count the right answers."""
    for answer in answer_checks(writer, [picture], preset.checks, language):
        tally.asked[answer.check_id] += 1
        tally.undetermined += answer.undetermined
        tally.right[answer.check_id] += answer.answer_id == truth[answer.check_id] and not answer.undetermined


def count_report(tally: Tally, text: str, preset: CheckPreset, truth: dict[str, str], language: str) -> None:
    """Ask one report every check and count its findings against the true ones."""
    said = {check.id: ask_report(text, check, language) for check in preset.checks}
    # A finding with a side is one finding: its yes-or-no check is left to the check of its side.
    whole = [check_id for check_id in truth if f"{check_id}_side" not in truth]
    stated = {(check_id, said[check_id]) for check_id in whole if said[check_id] not in {None, *ABSENT}}
    present = {(check_id, truth[check_id]) for check_id in whole if truth[check_id] not in ABSENT}
    tally.true_positive += len(stated & present)
    tally.false_positive += len(stated - present)
    tally.false_negative += len(present - stated)
    tally.reports += 1
    tally.reports_agree += said == truth


def print_table(tallies: dict[str, Tally], preset: CheckPreset) -> None:
    """Print one row per check and one column per language and way."""
    print(f"{'':24}" + "".join(f"{name:>10}" for name in tallies))
    rows: list[tuple[str, Iterable[float]]] = [
        (check.id, [tally.accuracy(check.id) for tally in tallies.values()]) for check in preset.checks
    ]
    rows.append(("all checks", [tally.overall() for tally in tallies.values()]))
    rows.append(("undetermined", [tally.undetermined / tally.asked.total() for tally in tallies.values()]))
    written = [tally for tally in tallies.values() if tally.reports]
    for name, values in rows:
        print(f"{name:24}" + "".join(f"{value:>10.2%}" for value in values))
    print(f"{'report F1':24}" + "".join(f"{tally.report_f1():>10.4f}{'':10}" for tally in written))
    agree = "".join(f"{tally.reports_agree / tally.reports:>10.2%}{'':10}" for tally in written)
    print(f"{'report agrees in full':24}{agree}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
