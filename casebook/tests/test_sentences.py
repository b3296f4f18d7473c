"""Where a sentence ends, in English and in Chinese."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casebook.sentences import fold, split_sentences

SPLIT = {
    "two sentences": (
        "The heart is enlarged. There is no effusion.",
        ["The heart is enlarged.", "There is no effusion."],
    ),
    "a decimal": ("A nodule of 1.5 cm is seen. It is new.", ["A nodule of 1.5 cm is seen.", "It is new."]),
    "a decimal at the end": ("CTR is 0.5. Stable.", ["CTR is 0.5.", "Stable."]),
    "a decimal with a blank": ("It measures 1. 5 cm.", ["It measures 1. 5 cm."]),
    "no last full stop": ("Heart normal. Lungs clear", ["Heart normal.", "Lungs clear"]),
    "abbreviations": (
        "Compared with Dr. Li's film no. 3 (approx. 2 cm vs. 3 cm). Unchanged.",
        ["Compared with Dr. Li's film no. 3 (approx. 2 cm vs. 3 cm).", "Unchanged."],
    ),
    "an initial": ("The L. Lower lobe is clear. J. Smith agrees.", ["The L. Lower lobe is clear.", "J. Smith agrees."]),
    "a lower-case word after the stop": ("Seen in the r.u.l. and hilum.", ["Seen in the r.u.l. and hilum."]),
    "a question and an exclamation": ("Mass? Yes! Urgent.", ["Mass?", "Yes!", "Urgent."]),
    "an ellipsis": ("The lung ... Is clear.", ["The lung ... Is clear."]),
    "a numbered list": ("1. Nodule. 2. Effusion.", ["1. Nodule.", "2. Effusion."]),
    "brackets": (
        "Heart normal (CTR 0.48. Stable.) and clear. Next.",
        ["Heart normal (CTR 0.48. Stable.) and clear.", "Next."],
    ),
    "a bracket never closed": ("Heart (normal. Lungs clear.", ["Heart (normal.", "Lungs clear."]),
    "quotation": ('He said "Stop." Then left.', ['He said "Stop."', "Then left."]),
    "a blank line": ("No full stop\n\nNext", ["No full stop", "Next"]),
    "a single line break": ("One sentence on\ntwo lines.", ["One sentence on\ntwo lines."]),
    "a break after the stop": ("One.\nTwo.", ["One.", "Two."]),
    "chinese": ("心影增大。右侧胸腔积液；左侧气胸。", ["心影增大。", "右侧胸腔积液；", "左侧气胸。"]),
    "a chinese decimal": ("结节约1.5 cm，边界清。未见积液。", ["结节约1.5 cm，边界清。", "未见积液。"]),
    "a full-width decimal": ("约1．5厘米。", ["约1．5厘米。"]),
    "a western stop between chinese": ("心影增大.左侧气胸.", ["心影增大.", "左侧气胸."]),
    "chinese after a number": ("大小约1.5厘米。", ["大小约1.5厘米。"]),
    "chinese brackets": ("心影（心胸比0.5。稳定）正常。双肺清。", ["心影（心胸比0.5。稳定）正常。", "双肺清。"]),
    "a chinese list": ("1．左侧气胸。2．心影增大。", ["1．左侧气胸。", "2．心影增大。"]),
    "a vertebra": ("T2.w1 image of L1.5 level. Fine.", ["T2.w1 image of L1.5 level.", "Fine."]),
    "nothing": ("  \n\n ", []),
}


@pytest.mark.parametrize("name", SPLIT)
def test_a_text_is_split_where_its_sentences_end(name: str) -> None:
    text, sentences = SPLIT[name]

    assert list(split_sentences(text)) == sentences


@given(st.text(alphabet="aB1 .。；!?()（）“”\n心.", max_size=80))
def test_nothing_is_lost_but_blanks(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


@pytest.mark.parametrize("text", ["(", "“", "“a。", "a.", "a. ", "1 ", "。", "?!", "““a. b””", "心"])
def test_no_text_takes_long(text: str) -> None:
    long = text * (20_000 // len(text)) + "”" * 100
    began = time.monotonic()

    fold("".join(split_sentences(long)), 80)

    assert time.monotonic() - began < 5


def test_a_long_line_is_broken_at_blanks() -> None:
    folded = fold("The cardiac silhouette is at the upper limit of normal and more is said.", 30)

    assert folded == "The cardiac silhouette is at\nthe upper limit of normal and\nmore is said."


def test_a_long_chinese_line_is_broken_and_no_line_begins_with_a_closing_mark() -> None:
    folded = fold("心影大小形态未见明显异常改变，双肺纹理清晰。", 28)

    assert folded == "心影大小形态未见明显异常改\n变，双肺纹理清晰。"
    assert not any(line.startswith("，") for line in folded.split("\n"))


def test_a_short_line_and_its_breaks_stay() -> None:
    assert fold("A\n  B", 10) == "A\n  B"


@given(st.text(alphabet="aB1 .，。心x", max_size=200), st.integers(min_value=4, max_value=40))
def test_no_line_is_wider_and_nothing_is_lost(text: str, columns: int) -> None:
    folded = fold(text, columns)

    assert all(sum(1 + (one > "\u2e7f") for one in line) <= columns for line in folded.split("\n"))
    assert "".join(folded.split()) == "".join(text.split())
