"""HL7 v2 in its ER7 encoding, as much of it as we write and read (HL7 v2.5.1 chapter 2).

Every leaf is escaped exactly once and the type says so: what is `Encoded` has been, a plain string has not
and cannot be put into a field. A text can therefore never open a field, a segment or an MLLP frame.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NewType

from casebook.errors import InvalidObject

Encoded = NewType("Encoded", str)

#: MSH-1 and MSH-2, the only ones we write.
FIELD, COMPONENT, REPETITION, ESCAPE, SUBCOMPONENT = "|", "^", "~", "\\", "&"
SEGMENT_END = "\r"
#: HL7 v2.5.1 2.7.1: begin a new line in formatted text.
NEW_LINE = Encoded("\\.br\\")
EMPTY = Encoded("")

_ESCAPES = {ESCAPE: "\\E\\", FIELD: "\\F\\", COMPONENT: "\\S\\", REPETITION: "\\R\\", SUBCOMPONENT: "\\T\\"}
_UNESCAPES = {escaped[1]: plain for plain, escaped in _ESCAPES.items()}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_SEQUENCE = re.compile(r"\\([^\\]*)\\")


def escape(text: str) -> Encoded:
    """Escape a leaf: delimiters become escape sequences, control characters one blank."""
    return Encoded("".join(_ESCAPES.get(character, character) for character in _CONTROL.sub(" ", text)))


def escape_lines(texts: Sequence[str]) -> Encoded:
    """Escape paragraphs as one field of type TX, each line on a line of its own."""
    return Encoded(NEW_LINE.join(escape(line) for text in texts for line in text.split("\n")))


def unescape(field: str) -> str:
    """Return the text of a leaf; a line break escape becomes a line feed, an unknown one stays."""
    return _SEQUENCE.sub(
        lambda found: "\n" if found[1] == ".br" else _UNESCAPES.get(found[1], found[0]),
        field,
    )


def components(*parts: str) -> Encoded:
    """Join the components of a field, without the empty ones at its end."""
    return Encoded(COMPONENT.join(escape(part) for part in parts).rstrip(COMPONENT))


def repetitions(fields: Sequence[Encoded]) -> Encoded:
    """Join the repetitions of a field."""
    return Encoded(REPETITION.join(fields))


def segment(name: str, fields: Mapping[int, Encoded]) -> str:
    """Write one segment from its fields by number, without the empty ones at its end.

    MSH counts from 3: its first two fields are the delimiters.
    """
    first = 3 if name == "MSH" else 1
    head = f"MSH{FIELD}{COMPONENT}{REPETITION}{ESCAPE}{SUBCOMPONENT}" if name == "MSH" else name
    values = [fields.get(number, EMPTY) for number in range(first, max(fields) + 1)]
    return FIELD.join([head, *values]).rstrip(FIELD)


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment as received: its name and its fields, still escaped."""

    name: str
    fields: tuple[str, ...]

    def field(self, number: int) -> str:
        """Return a field by its HL7 number, empty where it is absent."""
        return self.fields[number] if number < len(self.fields) else ""


def parse(text: str) -> tuple[Segment, ...]:
    """Split a message into segments and fields; nothing is unescaped.

    Raises
    ------
    InvalidObject
        When it does not begin with an MSH segment.
    """
    lines = [line for line in re.split("\r\n|\r|\n", text) if line]
    if not lines or not re.match(r"MSH[^\w\s]", lines[0]) or len(lines[0]) < 8:
        raise InvalidObject("not an HL7 v2 message")
    delimiter = lines[0][3]
    segments = []
    for line in lines:
        fields = line.split(delimiter)
        # MSH-1 is the delimiter itself, so that the numbers of the other fields are right.
        numbered = ("MSH", delimiter, *fields[1:]) if fields[0] == "MSH" else tuple(fields)
        segments.append(Segment(fields[0], numbered))
    return tuple(segments)
