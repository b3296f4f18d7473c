"""A draft falls into its sections, and a report text can be asked the preset checks."""

import pytest

from casebook.checks import Check, load_checks
from casebook.errors import ModelRefused
from casebook.reading import SectionKind
from casebook.settings import SHIPPED_CONFIG_DIRECTORY
from worker.reader.report import ask_report, order_impression, split_report
from worker.reader.writer import Draft, refuse_unusable


def sections(text: str) -> dict[SectionKind, tuple[str, ...]]:
    return {one.kind: one.paragraphs for one in split_report(text)}


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("FINDINGS: The heart is enlarged. IMPRESSION: Cardiomegaly.", "The heart is enlarged.", "Cardiomegaly."),
        ("Findings :\nA.\nImpression :\nB.", "A.", "B."),
        ("检查所见：心影增大。 印象：心影增大。", "心影增大。", "心影增大。"),
        ("影像所见: 甲 诊断意见: 乙", "甲", "乙"),
        ("IMPRESSION: B. FINDINGS: A.", "A.", "B."),
        ("A, without a heading.", "A, without a heading.", None),
        ("Before. IMPRESSION: B.", "Before.", "B."),
        ("IMPRESSION: B.", None, "B."),
    ],
)
def test_a_draft_falls_into_findings_and_impression(text: str, findings: str | None, impression: str | None) -> None:
    found = sections(text)

    assert found.get(SectionKind.FINDINGS) == ((findings,) if findings else None)
    assert found.get(SectionKind.IMPRESSION) == ((impression,) if impression else None)


def test_paragraphs_are_kept_and_their_line_breaks_and_blanks_are_not() -> None:
    found = sections("FINDINGS: One\ttwo.\n\n  Three.\nIMPRESSION: Four.")

    assert found[SectionKind.FINDINGS] == ("One two.", "Three.")
    assert found[SectionKind.IMPRESSION] == ("Four.",)


def test_a_heading_that_comes_twice_continues_its_section() -> None:
    assert sections("FINDINGS: A. IMPRESSION: B. FINDINGS: C.")[SectionKind.FINDINGS] == ("A.", "C.")


def test_the_word_findings_inside_a_sentence_is_no_heading() -> None:
    assert list(sections("No acute findings are present.")) == [SectionKind.FINDINGS]


SIDE = Check.model_validate(
    {
        "id": "effusion_side",
        "label": "Effusion side",
        "kind": "choice",
        "question": {"en": "Which side?"},
        "answers": [
            {"id": "none", "text": {"en": "none"}},
            {"id": "left", "text": {"en": "left"}},
            {"id": "right", "text": {"en": "right"}},
        ],
        "in_report": {
            "en": {"none": ["(?i)no effusion"], "left": ["(?i)left effusion"], "right": ["(?i)right effusion"]}
        },
    }
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("No effusion.", "none"),
        ("There is a left effusion.", "left"),
        ("Left effusion. No effusion on the other side.", None),
        ("The heart is normal.", None),
    ],
)
def test_a_report_is_asked_and_a_contradiction_is_no_answer(text: str, answer: str | None) -> None:
    assert ask_report(text, SIDE, "en") == answer
    assert ask_report(text, SIDE, "zh") is None


@pytest.mark.parametrize(
    ("text", "ended", "language", "reason"),
    [
        ("  ", True, "en", "wrote nothing"),
        ("The heart is", False, "en", "come to an end"),
        ("No effusion. " * 7, True, "en", "repeated itself"),
        ("The heart is normal.", True, "zh", "another language"),
        ("心影正常。", True, "en", "another language"),
    ],
)
def test_a_draft_that_nobody_should_see_is_refused(text: str, ended: bool, language: str, reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        refuse_unusable(Draft(text=text, token_logprobs=(), ended=ended), language)


def test_an_ordinary_draft_is_accepted() -> None:
    refuse_unusable(Draft(text="No effusion. No pneumothorax. No nodule.", token_logprobs=(), ended=True), "en")
    refuse_unusable(Draft(text="检查所见：心影正常。", token_logprobs=(), ended=True), "zh")


PRESET = load_checks(SHIPPED_CONFIG_DIRECTORY / "checks" / "chest_xray.yaml")


@pytest.mark.parametrize(
    ("language", "written", "ordered"),
    [
        (
            "en",
            "Cardiomegaly. Right pneumothorax. Right lung nodule.",
            ("Right pneumothorax.", "Right lung nodule.", "Cardiomegaly."),
        ),
        ("zh", "心影增大。右侧胸腔积液。左侧气胸。", ("左侧气胸。", "右侧胸腔积液。", "心影增大。")),
        # What no check knows may refer to the sentence before it.
        (
            "en",
            "Cardiomegaly. It is new. Left pneumothorax. Please review at once.",
            ("Left pneumothorax.", "Please review at once.", "Cardiomegaly.", "It is new."),
        ),
        ("en", "Compared with 2024. Cardiomegaly.", ("Compared with 2024.", "Cardiomegaly.")),
        # What is denied comes after what is there.
        ("en", "No pneumothorax. Left pleural effusion.", ("Left pleural effusion.", "No pneumothorax.")),
        ("en", "No acute abnormality. Clear lungs.", ("No acute abnormality. Clear lungs.",)),
    ],
)
def test_the_most_urgent_sentence_of_an_impression_comes_first(
    language: str, written: str, ordered: tuple[str, ...]
) -> None:
    report = split_report(f"FINDINGS: Heart large. Left pneumothorax. IMPRESSION: {written}")

    found = {one.kind: one.paragraphs for one in order_impression(report, PRESET.checks, language)}

    assert found[SectionKind.IMPRESSION] == ordered
    assert found[SectionKind.FINDINGS] == ("Heart large. Left pneumothorax.",)
