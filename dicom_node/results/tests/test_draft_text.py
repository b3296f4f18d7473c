"""The sentences of a draft, in both languages."""

from dataclasses import replace

import pytest

from casebook.errors import UnwritableText
from casebook.reading import Reading
from casebook.study import CompletionReason
from dicom_node.results.draft_text import WORDINGS, DraftText, compose
from dicom_node.results.tests import drafts


def composed(said: Reading, *, revision: int = 1, replaces_earlier: bool = False) -> DraftText:
    return compose(said, revision=revision, replaces_earlier=replaces_earlier)


def test_an_english_draft_says_what_it_is_and_what_it_is_based_on() -> None:
    text = composed(drafts.reading())

    assert text.disclaimer == (
        "AI DRAFT - NOT VERIFIED. This preliminary text was written by software (Wetread 0.1.0, model phantom-cxr 1.0) "
        "and no physician has reviewed it. Not for diagnosis before review. "
        "The model is for research and not cleared for clinical use."
    )
    assert text.checks == ("Is there a pleural effusion? undetermined", "Is there a pneumothorax? No")
    assert text.basis == ("Based on the only image (no further image arrived), model phantom-cxr version 1.0.",)


def test_a_chinese_draft_says_the_same() -> None:
    text = composed(drafts.reading("zh-CN"), revision=3, replaces_earlier=True)

    assert text.disclaimer == (
        "AI 报告草稿，未经医师审核。本初步文本由软件生成（Wetread 0.1.0，模型 phantom-cxr 1.0），经医师审核前不得作为诊断依据。"
        "该模型仅限科研使用，未取得医疗器械注册，不得用于临床。"
    )
    assert text.checks == ("是否存在胸腔积液？无法确定", "是否存在气胸？否")
    assert text.basis == (
        "本草稿依据 1 幅图像（共 1 幅，此后未再收到图像），模型 phantom-cxr，版本 1.0。",
        "本草稿（第 3 版）取代本次检查先前的 AI 报告草稿。",
    )


@pytest.mark.parametrize(
    ("language", "reason", "said"),
    [
        ("en", CompletionReason.COUNTED, "Based on 27 of 28 images (the archive counted 28), model"),
        (
            "en",
            CompletionReason.FORCED,
            "Based on 27 of 28 images (a person confirmed that all images are here), model",
        ),
        ("zh-CN", CompletionReason.COUNTED, "本草稿依据 27 幅图像（共 28 幅，图像数量经存档系统确认），模型"),
        ("zh-CN", CompletionReason.FORCED, "本草稿依据 27 幅图像（共 28 幅，经人工确认图像已收齐），模型"),
    ],
)
def test_a_draft_says_how_much_it_is_based_on(language: str, reason: CompletionReason, said: str) -> None:
    reading = drafts.reading(language, based_on_images=27, known_images=28, completion_reason=reason)

    assert composed(reading).basis[0].startswith(said)


def test_one_image_of_several_is_not_called_the_only_one() -> None:
    assert composed(drafts.reading(known_images=2)).basis[0].startswith("Based on 1 of 2 images")


def test_each_sentence_stands_alone() -> None:
    said = drafts.reading(sections=drafts.sections(("A nodule of 1.5 cm. It is new.", "Clear."), ("One. Two.",)))

    text = composed(said)

    assert text.findings == ("A nodule of 1.5 cm.", "It is new.", "Clear.")
    assert text.impression == ("One.", "Two.")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("左侧气胸。右侧胸腔积液。心影增大。", ("1. 左侧气胸；", "2. 右侧胸腔积液；", "3. 心影增大。")),
        ("左侧气胸；心影增大", ("1. 左侧气胸；", "2. 心影增大。")),
        ("未见异常。", ("未见异常。",)),
        ("1．左侧气胸。2．心影增大。", ("1．左侧气胸。", "2．心影增大。")),
        ("左侧气胸？建议复查。", ("左侧气胸？", "建议复查。")),
    ],
)
def test_a_chinese_impression_of_several_sentences_is_numbered(written: str, shown: tuple[str, ...]) -> None:
    assert composed(drafts.reading("zh-CN", sections=drafts.sections((), (written,)))).impression == shown


def test_what_is_there_comes_first_then_what_is_undetermined() -> None:
    answers = tuple(
        drafts.answer(f"Q{number}?", answer_id, 0.9, answer_id=answer_id, undetermined=undetermined)
        for number, (answer_id, undetermined) in enumerate(
            [("no", False), ("yes", True), ("left", False), ("none", False), ("no", True), ("yes", False)]
        )
    )

    assert [one[:2] for one in composed(drafts.reading(answers=answers)).checks] == ["Q2", "Q5", "Q1", "Q4", "Q0", "Q3"]


def test_an_answer_that_another_one_rules_out_is_not_shown() -> None:
    side = drafts.answer("Which side?", "none", 0.9, answer_id="none", is_ruled_out=True)

    assert composed(drafts.reading(answers=(drafts.answer("Is it?", "no", 0.9), side))).checks == ("Is it? No",)


def test_notes_stand_between_the_basis_and_what_the_draft_replaces() -> None:
    said = drafts.reading(notes=("1 image could not be decoded.",), based_on_images=27, known_images=28)

    text = composed(said, revision=2, replaces_earlier=True)

    assert text.basis == (
        "Based on 27 of 28 images (no further image arrived), model phantom-cxr version 1.0.",
        "1 image could not be decoded.",
        "This draft (revision 2) replaces the earlier AI draft of this study.",
    )


def test_a_cleared_model_is_not_called_a_research_model() -> None:
    cleared = replace(drafts.PROVENANCE, content_qualification="PRODUCT")

    assert "research" not in composed(drafts.reading(provenance=cleared)).disclaimer


@pytest.mark.parametrize(
    ("probability", "shown"),
    [
        (0.0, "(model probability 0 %)"),
        (0.504, "(model probability 50 %)"),
        (0.9949, "(model probability 99 %)"),
        (0.9951, "(model probability > 99 %)"),
        (1.0, "(model probability > 99 %)"),
    ],
)
def test_a_probability_is_never_shown_as_certainty(probability: float, shown: str) -> None:
    said = drafts.reading(answers=(drafts.answer("Is it?", "yes", probability, calibrated=True),))

    assert composed(said).checks == (f"Is it? Yes {shown}",)


def test_a_chinese_probability_is_one_of_the_model() -> None:
    answers = tuple(drafts.answer("有无实变？", "无", probability, calibrated=True) for probability in (0.97, 1.0))

    assert composed(drafts.reading("zh-CN", answers=answers)).checks == (
        "有无实变？无（模型概率 97%）",
        "有无实变？无（模型概率＞99%）",
    )


def test_a_probability_that_nobody_compared_with_the_truth_is_not_shown() -> None:
    said = drafts.reading(answers=(drafts.answer("Is it?", "yes", 0.97),))

    assert composed(said).checks == ("Is it? Yes",)


def test_every_language_has_every_phrase() -> None:
    assert len(WORDINGS) == 2
    for wording in WORDINGS.values():
        assert set(wording.completion) == set(CompletionReason)


def test_a_language_without_a_disclaimer_is_refused() -> None:
    with pytest.raises(UnwritableText):
        composed(replace(drafts.reading(), language="de"))
