"""Evaluation: what counts as right, and that only unseen phantoms are asked about."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from casebook.checks import load_checks
from training.evaluate_phantom import Tally, count_checks, count_report, evaluate, main
from training.phantom.dicom import build_study
from training.phantom.findings import Findings, Side
from training.phantom.report import write_report
from worker.reader.registry import ModelEntry, load_entry
from worker.reader.writer import ClosedQuestion, Draft, Image

REPOSITORY = Path(__file__).resolve().parents[2]
PRESET = load_checks(REPOSITORY / "config/checks/chest_xray.yaml")
ENTRY = load_entry(REPOSITORY / "config/models/phantom-cxr.yaml")
PICTURE = np.zeros((8, 8), dtype=np.float32)


class Oracle:
    """A writer that says what it was told, as surely as it was told."""

    sha256 = "0" * 64
    entry: ModelEntry = ENTRY

    def __init__(self, findings: Findings, probability: float = 0.99) -> None:
        self.findings = findings
        self.probability = probability

    def write(self, images: Sequence[Image], instruction: str) -> Draft:
        language = next(name for name, text in ENTRY.prompts.draft.items() if text == instruction)
        return Draft(text=write_report(self.findings, language), token_logprobs=(), ended=True)

    def score(self, images: Sequence[Image], questions: Sequence[ClosedQuestion]) -> list[tuple[float, ...]]:
        scores = []
        for question in questions:
            check = next(one for one in PRESET.checks if question.text in one.question.values())
            said = [answer.id == self.findings.answers()[check.id] for answer in check.answers]
            rest = (1 - self.probability) / (len(said) - 1)
            scores.append(tuple(float(np.log(self.probability if right else rest)) for right in said))
        return scores


def test_a_finding_on_the_wrong_side_is_wrong() -> None:
    truth, tally = Findings(nodule=Side.LEFT), Tally()

    count_checks(tally, Oracle(Findings(nodule=Side.RIGHT)), PICTURE, PRESET, truth.answers(), "en")

    assert tally.accuracy("nodule") == 1
    assert tally.accuracy("nodule_side") == 0
    assert tally.overall() == pytest.approx(0.9)
    assert not tally.keeps_promise()


def test_an_undetermined_answer_is_not_right() -> None:
    truth, tally = Findings(pacemaker=True), Tally()

    count_checks(tally, Oracle(truth, probability=0.55), PICTURE, PRESET, truth.answers(), "zh")

    assert tally.undetermined == len(PRESET.checks)
    assert tally.overall() == 0


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_report_is_measured_by_its_findings_with_their_sides(language: str) -> None:
    truth = Findings(cardiomegaly=True, nodule=Side.LEFT, pleural_effusion=Side.BILATERAL)
    said = Findings(cardiomegaly=True, nodule=Side.RIGHT)
    tally = Tally()

    count_report(tally, write_report(said, language), PRESET, truth.answers(), language)

    assert (tally.true_positive, tally.false_positive, tally.false_negative) == (1, 1, 2)
    assert tally.report_f1() == pytest.approx(0.4)
    assert tally.reports_agree == 0


def test_a_report_that_says_nothing_finds_nothing() -> None:
    tally = Tally()

    count_report(tally, "", PRESET, Findings(cardiomegaly=True).answers(), "en")

    assert tally.report_f1() == 0


def test_a_model_that_is_right_keeps_its_promise_both_ways() -> None:
    study = build_study(21)

    tallies = evaluate(Oracle(study.findings), PRESET, range(21, 22))

    assert set(tallies) == {"en dicom", "en array", "zh dicom", "zh array"}
    assert all(tally.keeps_promise() for tally in tallies.values())
    assert tallies["zh dicom"].reports_agree == 1


def test_trained_phantoms_are_never_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--n", "10", "--seed", "999995"])

    assert "trained on" in capsys.readouterr().err


def test_the_committed_model_answers_unseen_phantoms() -> None:
    """A small size of `make prove phantom`: twelve phantoms, so one wrong answer in ten is not yet alarming."""
    from worker.reader.loaders import open_writer

    tallies = evaluate(open_writer(ENTRY), PRESET, range(400_000, 400_012))

    for name, tally in tallies.items():
        assert tally.overall() >= 0.93, name
        if tally.reports:
            assert tally.report_f1() >= 0.9, name
