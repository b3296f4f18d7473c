"""Model text is made harmless, and never shortened."""

import pytest

from casebook.errors import UnwritableText
from dicom_node.results.clean_text import clean, clean_line, is_plain
from dicom_node.results.tests.hostile import CORPUS


@pytest.mark.parametrize("name", CORPUS)
def test_hostile_text_becomes_what_a_person_should_read(name: str) -> None:
    written, expected = CORPUS[name]

    assert clean(written) == expected


@pytest.mark.parametrize("name", CORPUS)
def test_cleaning_twice_changes_nothing(name: str) -> None:
    once = clean(CORPUS[name][0])

    assert clean(once) == once


def test_chinese_text_stays_as_it_is() -> None:
    text = "双肺纹理清晰，未见明显实变影。（CTR＜0.5）"

    assert clean(text) == text


def test_blank_lines_are_joined_and_blanks_at_line_ends_dropped() -> None:
    assert clean("  a  \n\n\n\n b ") == "a\n\n b"
    assert clean_line(" a \n b\tc ") == "a b c"


def test_a_text_too_long_is_refused_with_its_length() -> None:
    assert clean("x" * 10, longest=10) == "x" * 10
    with pytest.raises(UnwritableText, match="11 characters"):
        clean("x" * 11, longest=10)


@pytest.mark.parametrize("text", ["P\x00", "P\x1b1", "P\n", "\ud800"])
def test_a_received_value_with_control_characters_is_not_plain(text: str) -> None:
    assert not is_plain(text)


@pytest.mark.parametrize("text", ["", "P0001", "王^小东", "a|b\\c", "نام\u200cخانوادگی"])
def test_a_received_value_without_them_is_plain(text: str) -> None:
    assert is_plain(text)
