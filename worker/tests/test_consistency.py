"""A draft that contradicts itself is stopped; one that agrees with itself never is."""

from pathlib import Path

import pytest

from casebook.checks import CheckPreset, load_checks
from casebook.reading import CheckAnswer
from casebook.settings import SHIPPED_CONFIG_DIRECTORY
from worker.reader.consistency import find_contradiction
from worker.reader.report import split_report


@pytest.fixture(scope="module")
def preset() -> CheckPreset:
    return load_checks(Path(SHIPPED_CONFIG_DIRECTORY) / "checks" / "chest_xray.yaml")


def answer(check_id: str, answer_id: str, *, undetermined: bool = False) -> CheckAnswer:
    return CheckAnswer(
        check_id=check_id,
        label="",
        question="",
        answer_id=answer_id,
        answer="",
        probability=0.9,
        undetermined=undetermined,
    )


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "FINDINGS: There is a right pneumothorax. IMPRESSION: Left pneumothorax."),
        ("en", "FINDINGS: Right-sided apical pneumothorax. IMPRESSION: Pneumothorax on the left."),
        ("en", "FINDINGS: Consolidation in the left lower lobe. IMPRESSION: Right lung consolidation."),
        ("en", "FINDINGS: Nodule in the right upper lobe, no effusion. IMPRESSION: Left lung nodule."),
        ("en", "FINDINGS: There is a left pleural effusion. IMPRESSION: Bilateral pleural effusions."),
        ("en", "FINDINGS: Pneumothorax, right. IMPRESSION: Pneumothorax, left."),
        ("en", "FINDINGS: Pneumothorax, on the right side. IMPRESSION: Lt pneumothorax."),
        ("en", "FINDINGS: Rt pneumothorax. IMPRESSION: Left-sided pneumothorax."),
        ("en", "FINDINGS: Right pleural effusion. IMPRESSION: Left effusion."),
        ("zh", "检查所见：气胸，位于右侧。 印象：气胸，位于左侧。"),
        ("zh", "检查所见：右侧气胸。 印象：左侧气胸。"),
        ("zh", "检查所见：右侧胸腔可见气胸影。 印象：左侧气胸。"),
        ("zh", "检查所见：左肺可见结节影。 印象：右肺结节。"),
    ],
)
def test_another_side_in_the_impression_stops_a_draft(language: str, text: str, preset: CheckPreset) -> None:
    assert "another side" in find_contradiction(split_report(text), (), preset.checks, language)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "FINDINGS: There is no pneumothorax. IMPRESSION: Right pneumothorax."),
        ("en", "FINDINGS: There is a right pneumothorax. IMPRESSION: No pneumothorax."),
        ("en", "FINDINGS: The heart is enlarged. IMPRESSION: Normal heart size."),
        ("zh", "检查所见：未见气胸。 印象：左侧气胸。"),
        ("zh", "检查所见：心影增大。 印象：心影大小正常。"),
    ],
)
def test_a_finding_stated_here_and_denied_there_stops_a_draft(language: str, text: str, preset: CheckPreset) -> None:
    assert "disagree whether" in find_contradiction(split_report(text), (), preset.checks, language)


@pytest.mark.parametrize(
    ("language", "text", "side"),
    [
        ("en", "FINDINGS: There is a right pneumothorax. IMPRESSION: Right pneumothorax.", "left"),
        ("zh", "检查所见：右侧气胸。 印象：右侧气胸。", "left"),
    ],
)
def test_a_check_that_names_the_other_side_stops_a_draft(
    language: str, text: str, side: str, preset: CheckPreset
) -> None:
    sections = split_report(text)

    stopped = find_contradiction(sections, [answer("pneumothorax_side", side)], preset.checks, language)
    unsure = [answer("pneumothorax_side", side, undetermined=True)]

    assert "its check name another side" in stopped
    assert find_contradiction(sections, unsure, preset.checks, language) == ""
    assert find_contradiction(sections, [answer("pneumothorax_side", "right")], preset.checks, language) == ""


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "FINDINGS: Right pneumothorax, left effusion. IMPRESSION: Right pneumothorax and left effusion."),
        ("en", "FINDINGS: Right pleural effusion, left lung clear. IMPRESSION: Right effusion."),
        ("en", "FINDINGS: Right pleural effusion. Pericardial effusion on the left. IMPRESSION: Right effusion."),
        ("zh", "检查所见：右侧气胸，左侧胸腔积液。 印象：右侧气胸，左侧胸腔积液。"),
        ("en", "FINDINGS: A. IMPRESSION: B."),
        ("en", "FINDINGS: No left pneumothorax. IMPRESSION: Right pneumothorax."),
        ("en", "FINDINGS: Right pneumothorax and left pleural effusion. IMPRESSION: Left pleural effusion."),
        ("en", "FINDINGS: There are bilateral pleural effusions. IMPRESSION: Left pleural effusion."),
        ("en", "FINDINGS: Nodule in the left lung. Nodule in the right lung. IMPRESSION: Bilateral nodules."),
        ("en", "FINDINGS: Right pneumothorax with shift of the heart to the left. IMPRESSION: Right pneumothorax."),
        ("en", "FINDINGS: Small pleural effusion. IMPRESSION: Left pleural effusion."),
        ("en", "FINDINGS: Right pleural effusion. No left pleural effusion. IMPRESSION: Right pleural effusion."),
        ("zh", "检查所见：右侧胸腔积液，左侧未见胸腔积液。 印象：右侧胸腔积液。"),
        ("zh", "检查所见：双肺未见实变。左侧气胸。 印象：左侧气胸。"),
    ],
)
def test_a_draft_that_agrees_with_itself_passes(language: str, text: str, preset: CheckPreset) -> None:
    assert find_contradiction(split_report(text), (), preset.checks, language) == ""
