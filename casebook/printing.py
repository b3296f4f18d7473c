"""Texts that strangers chose, such as those of a header, made harmless for a terminal or a log."""

import re

#: What moves the cursor, changes the order in which a person reads, or breaks a line unseen: control characters but
#: line feed and tab (also C1, which a terminal obeys as it obeys ESC), bidirectional controls, line and paragraph
#: separators, byte order marks, halves of surrogate pairs, and tags, which are invisible.
_HARMFUL = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def harmless(text: str) -> str:
    """Return a text in which what a terminal would obey, or nobody would see, stands as its code."""
    return _HARMFUL.sub(_code_of, text)


def _code_of(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
