"""The names of character sets: how hospitals write the defined terms, and what a setting may say (PS3.3 C.12.1.1.2)."""

import codecs
import re

#: The default repertoire, PS3.5 6.1.1.
DEFAULT_REPERTOIRE = "ISO_IR 6"
#: Sets that stand alone: never together with others, and without escape sequences.
STANDALONE = frozenset({"ISO_IR 192", "GB18030", "GBK"})
_SINGLE_BYTE = frozenset({6, 13, 100, 101, 109, 110, 126, 127, 138, 144, 148, 166, 203})
_MULTI_BYTE = frozenset({58, 87, 149, 159})
#: Part of ISO 8859 -> registration number of its upper half.
_PARTS_OF_ISO_8859 = {1: 100, 2: 101, 3: 109, 4: 110, 5: 144, 6: 127, 7: 126, 8: 138, 9: 148, 11: 166, 15: 203}
#: Names without their separators that occur and have one meaning only. What says GB 2312 was written as GBK.
_OTHER_NAMES = {
    "": DEFAULT_REPERTOIRE,
    "ASCII": DEFAULT_REPERTOIRE,
    "USASCII": DEFAULT_REPERTOIRE,
    "LATIN1": "ISO_IR 100",
    "UTF8": "ISO_IR 192",
    "UNICODEUTF8": "ISO_IR 192",
    "GB18030": "GB18030",
    "GB180302000": "GB18030",
    "GB180302005": "GB18030",
    "ISO2022GB18030": "GB18030",
    "ISOIRGB18030": "GB18030",
    "GBK": "GBK",
    "CP936": "GBK",
    "GB2312": "GBK",
    "GB231280": "GBK",
    "ISO2022GBK": "GBK",
    "ISOIRGBK": "GBK",
}
_SEPARATORS = re.compile(r"[\s\x00_\-./\"']+")
_REGISTERED = re.compile(r"(?:ISO)?(?P<extended>2022)?(?:IR)?0*(?P<number>\d{1,3})")
_ISO_8859 = re.compile(r"(?:ISO|ISOIEC)?8859P?(?P<part>1[15]|[1-9])")
_LONGEST_NAME = 64


def defined_term(written: str) -> str | None:
    """Return the defined term that a hospital meant (PS3.3 tables C.12-2 to C.12-5), None where nobody knows.

    Blanks, underscores, dashes, quotes and the case of letters do not count: ``iso ir-192`` is ``ISO_IR 192``.
    """
    bare = _SEPARATORS.sub("", written[:_LONGEST_NAME]).upper()
    if bare in _OTHER_NAMES:
        return _OTHER_NAMES[bare]
    part = _ISO_8859.fullmatch(bare)
    if part:
        return f"ISO_IR {_PARTS_OF_ISO_8859[int(part['part'])]}"
    registered = _REGISTERED.fullmatch(bare)
    if registered is None or bare.isdigit():
        return None
    number = int(registered["number"])
    if number == 192:
        return "ISO_IR 192"
    if number in _MULTI_BYTE:
        # PS3.3 table C.12-4: these exist with code extension only.
        return f"ISO 2022 IR {number}"
    if number not in _SINGLE_BYTE:
        return None
    return f"ISO 2022 IR {number}" if registered["extended"] else f"ISO_IR {number}"


def defined_terms(stated: str) -> tuple[str | None, ...]:
    """Return the defined terms of a SpecificCharacterSet, value by value."""
    return tuple(defined_term(one) for one in stated.split("\\"))


def codec_of(name: str) -> str | None:
    """Return the Python codec of a name such as ``windows-1252``, None where none writes ASCII as ASCII."""
    ascii_text = "".join(map(chr, range(0x20, 0x7F)))
    try:
        found = codecs.lookup(name.strip())
        if ascii_text.encode("ascii").decode(found.name) == ascii_text == ascii_text.encode(found.name).decode("ascii"):
            return found.name
    # Codecs that are no text encodings raise what they like.
    except Exception:  # noqa: BLE001
        return None
    return None


def is_character_set(name: str) -> bool:
    """Say whether a setting may name this: defined terms with a backslash between them, or a codec."""
    if not _SEPARATORS.sub("", name):
        return False
    return None not in defined_terms(name) or codec_of(name) is not None


def name_of(stated: str) -> str:
    """Return how a message may name what an object states: never what the sender wrote where it is no name."""
    terms = defined_terms(stated)
    if not stated.strip(" \x00"):
        return "none stated, so ASCII"
    known = [one for one in terms if one is not None]
    if len(known) == len(terms):
        return "\\".join("" if one == DEFAULT_REPERTOIRE and len(terms) > 1 else one for one in known)
    return codec_of(stated) or "one that is not known"
