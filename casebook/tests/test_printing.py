"""What strangers wrote, at a terminal."""

import pytest

from casebook.printing import harmless


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Doe^Jo=王^小明=", "Doe^Jo=王^小明="),
        ("Müller", "Müller"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        # A zero-width non-joiner belongs to Persian words.
        ("می‌خواهم", "می‌خواهم"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x9b2Jgone", "\\x9b2Jgone"),
        ("\x85next", "\\x85next"),
        ("a\rb\x7f", "a\\x0db\\x7f"),
        ("left\u202eright", "left\\u202eright"),
        ("\u2066\u2069\u200f\u061c", "\\u2066\\u2069\\u200f\\u061c"),
        ("\u2028\ufeff\ud800", "\\u2028\\ufeff\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_a_terminal_obeys_stands_as_its_code(text: str, shown: str) -> None:
    assert harmless(text) == shown
