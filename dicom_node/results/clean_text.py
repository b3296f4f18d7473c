"""Text from a model or a received header, made safe once for every output.

Model text may hold anything: MLLP framing bytes, segment breaks, escape characters, bidirectional
overrides that reorder what a person reads, halves of characters. What has no meaning in a report is
dropped here; what would have to be cut is refused, because a report is never shortened silently.
"""

import re
import unicodedata

from casebook.errors import UnwritableText
from casebook.identity import holds_lost_character

#: Longest paragraph we write, in characters; an answer beyond it is a model that does not stop.
LONGEST_PARAGRAPH = 20_000

# Control characters except line feed (PS3.5 6.1.3 allows few, HL7 none inside a field), zero-width and
# bidirectional controls, byte order marks, interlinear marks, halves of surrogate pairs, non-characters.
_MEANINGLESS = re.compile(
    "[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff"
    "\ufff9-\ufffc\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)
_LINE_BREAKS = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


def clean(text: str, longest: int = LONGEST_PARAGRAPH) -> str:
    """Return the text as it may be written anywhere: normal form C, line feeds only, nothing invisible.

    Parameters
    ----------
    text
        Anything.
    longest
        Characters that the result may have.

    Raises
    ------
    UnwritableText
        When the result is longer, or the text has lost a character; it is never cut or mended.
    """
    if holds_lost_character(text):
        raise UnwritableText("a text holds U+FFFD: a character was lost before it came here")
    text = _LINE_BREAKS.sub("\n", text).replace("\t", " ")
    text = unicodedata.normalize("NFC", _MEANINGLESS.sub("", text))
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    text = re.sub("\n{3,}", "\n\n", text).strip()
    if len(text) > longest:
        raise UnwritableText(f"a text has {len(text)} characters, more than the {longest} an output can carry")
    return text


def clean_line(text: str, longest: int = LONGEST_PARAGRAPH) -> str:
    """Return the text cleaned and on one line."""
    return " ".join(clean(text, longest).split())


def is_plain(text: str) -> bool:
    """Say whether a received value can be copied as it is: no control character, no half character.

    Bidirectional and zero-width characters are let through: they may belong to a person's name, and what is
    copied has to stay equal to what the archive holds.
    """
    return not any(unicodedata.category(character) in {"Cc", "Cs"} for character in text)
