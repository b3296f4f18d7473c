"""The verdict of the demonstration: good only when everything came back and is true."""

from dataclasses import replace
from pathlib import Path

import pytest

from casebook.checks import load_checks
from casebook.reading import CheckAnswer, Section, SectionKind
from casebook.settings import SHIPPED_CONFIG_DIRECTORY
from casebook.study import Study, StudyState
from casebook.testing import a_reading
from console.demo_result import Returned, verdict, write_pages
from training.phantom.dicom import build_study

PRESET = load_checks(SHIPPED_CONFIG_DIRECTORY / "checks" / "chest_xray.yaml")
FILE = Path("x")


def _perfect(seed: int) -> Returned:
    truth = build_study(seed)
    answers = tuple(
        CheckAnswer(
            check_id=check.id,
            label=check.label,
            question=check.question["en"],
            answer_id=truth.answers[check.id],
            answer="",
            probability=0.99,
            undetermined=False,
        )
        for check in PRESET.checks
    )
    sections = (Section(kind=SectionKind.FINDINGS, paragraphs=(truth.reports["en"].replace("\n", " "),)),)
    return Returned(
        truth=truth,
        study=Study(study_instance_uid="1", generation=1, state=StudyState.DELIVERED),
        preset=PRESET,
        reading=replace(a_reading(study="1"), answers=answers, sections=sections),
        images=(),
        outputs=(),
        sr=FILE,
        message=FILE,
        delivery_s=1.0,
    )


@pytest.fixture(scope="module")
def perfect() -> list[Returned]:
    """Eight studies that came back as they should."""
    return [_perfect(seed) for seed in range(1, 9)]


def test_everything_true_and_back_is_good(perfect: list[Returned]) -> None:
    sentences, is_good = verdict(perfect)

    assert is_good, sentences


@pytest.mark.parametrize("lost", ["sr", "message", "reading"])
def test_one_study_that_did_not_come_back_whole_is_not_good(perfect: list[Returned], lost: str) -> None:
    study = replace(perfect[0].study, state=StudyState.HELD) if lost == "reading" else perfect[0].study  # type: ignore[type-var]

    _, is_good = verdict([replace(perfect[0], study=study, **{lost: None}), *perfect[1:]])  # type: ignore[arg-type]

    assert not is_good


def test_more_wrong_answers_than_the_card_allows_are_not_good(perfect: list[Returned]) -> None:
    reading = perfect[0].reading
    assert reading is not None
    undetermined = tuple(replace(answer, undetermined=True) for answer in reading.answers)

    _, is_good = verdict([replace(perfect[0], reading=replace(reading, answers=undetermined)), *perfect[1:]])

    assert not is_good


def test_drafts_that_say_nothing_are_not_good(perfect: list[Returned]) -> None:
    silent = [
        replace(one, reading=replace(one.reading, sections=())) if one.reading is not None else one for one in perfect
    ]

    assert not verdict(silent)[1]


def test_the_page_of_a_study_that_did_not_come_back_can_be_written(perfect: list[Returned], tmp_path: Path) -> None:
    page = write_pages([replace(perfect[0], sr=None, message=None, reading=None)], tmp_path)

    assert "no draft" in page.read_text()
