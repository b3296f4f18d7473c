"""From the bytes of a value to its text, by SpecificCharacterSet (PS3.3 C.12.1.1.2)."""

import re
import warnings
from functools import lru_cache

from pydicom import charset
from pydicom.valuerep import PersonName

_LONGEST_TEXT = 1024
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@lru_cache(maxsize=64)
def codecs_of(character_sets: str) -> list[str]:
    """Turn defined terms into codec names; an unknown term counts as the default repertoire."""
    known = [term.strip() if term.strip() in charset.python_encoding else "" for term in character_sets.split("\\")]
    # pydicom warns about combinations it mends itself.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(charset.convert_encodings(known))


def decode_text(value: bytes, encodings: list[str]) -> str:
    """Decode a text value."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    try:
        return charset.decode_bytes(value, encodings, {0x09, 0x0A, 0x0C, 0x0D, 0x5C})
    except (LookupError, UnicodeError, ValueError, Warning):
        return value.decode("latin-1")


def decode_person_name(value: bytes, encodings: list[str]) -> str:
    """Decode a person name, whose groups may differ in their character sets (PS3.5 6.2.1)."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    try:
        return str(PersonName(value, encodings))
    except (LookupError, UnicodeError, ValueError, Warning):
        return value.decode("latin-1")


def decode_ascii(value: bytes) -> str:
    """Decode a value that no character set rules, such as a UID."""
    return value.decode("latin-1").strip(" \x00")


def clean_value(text: str) -> str:
    """Return a value as the database can keep it."""
    # PS3.5 6.2: spaces around a value are padding. Control characters and lone surrogates cannot be stored.
    return _CONTROL.sub("", text).strip(" ")[:_LONGEST_TEXT]
