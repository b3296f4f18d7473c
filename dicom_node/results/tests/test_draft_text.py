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
    assert text.checks == ("Is there a pneumothorax? No (97 %)", "Is there a pleural effusion? undetermined")
    assert text.basis == ("Based on 1 of 1 images (no further image arrived), model phantom-cxr version 1.0.",)


def test_a_chinese_draft_says_the_same() -> None:
    text = composed(drafts.reading("zh-CN"), revision=3, replaces_earlier=True)

    assert text.disclaimer.startswith("人工智能草稿，未经审核。")
    assert text.checks == ("是否存在气胸？否（97 %）", "是否存在胸腔积液？无法确定")
    assert text.basis == (
        "依据 1 幅图像中的 1 幅（未再收到图像），模型 phantom-cxr，版本 1.0。",
        "本草稿（第 3 版）取代本次检查先前的人工智能草稿。",
    )


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
    [(0.0, "0 %"), (0.504, "50 %"), (0.9949, "99 %"), (0.9951, "> 99 %"), (1.0, "> 99 %")],
)
def test_a_probability_is_never_shown_as_certainty(probability: float, shown: str) -> None:
    said = drafts.reading(answers=(drafts.answer("Is it?", "Yes", probability),))

    assert composed(said).checks == (f"Is it? Yes ({shown})",)


def test_every_language_has_every_phrase() -> None:
    assert len(WORDINGS) == 2
    for wording in WORDINGS.values():
        assert set(wording.completion) == set(CompletionReason)


def test_a_language_without_a_disclaimer_is_refused() -> None:
    with pytest.raises(UnwritableText):
        composed(replace(drafts.reading(), language="de"))
