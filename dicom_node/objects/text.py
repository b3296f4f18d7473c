"""From the bytes of a value to its text, exactly or not at all (PS3.3 C.12.1.1.2, PS3.5 6.1).

pydicom is not used for this: it replaces what it cannot decode, takes the first character set where an escape
sequence is missing, and keeps the sequence of ISO 2022 IR 58 as text. The tables are those of Python's codecs,
strictly; only the switching between them is done here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from casebook.character_sets import DEFAULT_REPERTOIRE, STANDALONE, codec_of, defined_terms, name_of
from casebook.identity import fault_of, without_padding
from casebook.study import Fault, IdentifyingText

_LONGEST_TEXT = 1024
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_ESCAPE = 0x1B
_FIRST_GRAPHIC = 0x21
_FIRST_UPPER = 0x80
_FIRST_UPPER_GRAPHIC = 0xA0

#: PS3.5 6.1.2.5.3: before these, the sets of value 1 are active again.
_RESETS = frozenset(b"\\\r\n\f\t")
#: In a person name these too.
_NAME_RESETS = _RESETS | frozenset(b"^=")
#: Their VR is PN.
NAME_KEYWORDS = frozenset({"PatientName", "ReferringPhysicianName"})


class NotExact(ValueError):
    """The bytes are no text in their character set."""


@dataclass(frozen=True, slots=True)
class _CodeTable:
    """A registered set of characters, as it is designated to the lower (G0) or the upper half (G1)."""

    decode: Callable[[bytes], str]
    is_upper: bool
    is_multi_byte: bool = False


@dataclass(frozen=True, slots=True)
class CharacterSet:
    """How the texts of an object are decoded."""

    #: As a message may name it.
    name: str
    #: Decodes a whole value by itself; None where sets are switched.
    codec: str | None = None
    #: Active at first and after every delimiter; None where nothing is designated.
    lower: _CodeTable | None = None
    upper: _CodeTable | None = None
    #: What may be designated, by its escape sequence without ESC.
    designations: Mapping[bytes, _CodeTable] | None = None


def _by_codec(codec: str, before: bytes = b"") -> Callable[[bytes], str]:
    return lambda run: (before + run).decode(codec)


def _romaji(run: bytes) -> str:
    # ISO-IR 14 has a yen sign and an overline; as delimiter, 05/12 stays what it is (PS3.5 6.1.2.5.3).
    return run.decode("ascii").replace("~", "\u203e")


def _katakana(run: bytes) -> str:
    if not all(0xA1 <= byte <= 0xDF for byte in run):
        raise NotExact
    return "".join(chr(0xFF61 + byte - 0xA1) for byte in run)


_ASCII = _CodeTable(_by_codec("ascii"), is_upper=False)
_ROMAJI = _CodeTable(_romaji, is_upper=False)
#: PS3.3 tables C.12-3 and C.12-4: registration number -> escape sequences, without ESC, and what they designate.
_TABLES: dict[int, dict[bytes, _CodeTable]] = {
    6: {b"(B": _ASCII},
    13: {b"(J": _ROMAJI, b")I": _CodeTable(_katakana, is_upper=True)},
    **{
        number: {sequence: _CodeTable(_by_codec(codec), is_upper=True)}
        for number, sequence, codec in (
            (100, b"-A", "iso8859-1"),
            (101, b"-B", "iso8859-2"),
            (109, b"-C", "iso8859-3"),
            (110, b"-D", "iso8859-4"),
            (144, b"-L", "iso8859-5"),
            (127, b"-G", "iso8859-6"),
            (126, b"-F", "iso8859-7"),
            (138, b"-H", "iso8859-8"),
            (148, b"-M", "iso8859-9"),
            (203, b"-b", "iso8859-15"),
            (166, b"-T", "tis-620"),
        )
    },
    87: {b"$B": _CodeTable(_by_codec("iso2022_jp", b"\x1b$B"), is_upper=False, is_multi_byte=True)},
    159: {b"$(D": _CodeTable(_by_codec("iso2022_jp_1", b"\x1b$(D"), is_upper=False, is_multi_byte=True)},
    149: {b"$)C": _CodeTable(_by_codec("euc_kr"), is_upper=True, is_multi_byte=True)},
    58: {b"$)A": _CodeTable(_by_codec("gb2312"), is_upper=True, is_multi_byte=True)},
}
#: They end a run of another lower half wherever sets are switched at all; Japanese senders mix the two.
_BACK_TO_SINGLE_BYTE = {b"(B": _ASCII, b"(J": _ROMAJI}
#: Codecs that are such a set in the upper half from the start: for senders that leave out some of the escape sequences
#: and write the others, which then change nothing.
_EXTENDED_CODES = {"euc_kr": 149, "gb2312": 58}
_CODECS = {"ISO_IR 192": "utf-8", "GB18030": "gb18030", "GBK": "gbk"}


@lru_cache(maxsize=256)
def character_set(stated: str) -> CharacterSet:
    """Return how texts under a SpecificCharacterSet are decoded; stated may also be the name of a codec.

    Where nobody knows what is meant, nothing but ASCII is exact.
    """
    name, terms = name_of(stated), defined_terms(stated)
    if None in terms:
        codec = codec_of(stated) or "ascii"
        if codec not in _EXTENDED_CODES:
            return CharacterSet(name, codec)
        designations = _TABLES[_EXTENDED_CODES[codec]]
        (table,) = designations.values()
        return CharacterSet(name, None, _ASCII, table, {**_BACK_TO_SINGLE_BYTE, **designations})
    known = [one for one in terms if one is not None]
    alone = [one for one in known if one in STANDALONE]
    if alone:
        # PS3.3 C.12.1.1.2 allows no other beside it. Where the others add nothing, the meaning is still clear.
        clear = known[0] in STANDALONE or set(known) <= {DEFAULT_REPERTOIRE, "ISO 2022 IR 6", alone[0]}
        return CharacterSet(name, _CODECS[alone[0]] if clear else "ascii")
    stated_alone = [one for one in dict.fromkeys(known) if one not in {DEFAULT_REPERTOIRE, "ISO 2022 IR 6"}]
    if len(stated_alone) == 1 and stated_alone[0].startswith("ISO_IR"):
        # A set without code extension needs no escape sequence, and the default repertoire is part of it.
        known = stated_alone
    tables = [_TABLES[int(one.rsplit(" ", 1)[1])] for one in known]
    lower, upper = _ASCII, None
    # A multi-byte set is active only once it is designated, also as value 1.
    for table in tables[0].values():
        if table.is_multi_byte:
            continue
        lower, upper = (lower, table) if table.is_upper else (table, upper)
    if len(known) == 1 and known[0].startswith("ISO_IR"):
        return CharacterSet(name, None, lower, upper)
    designations = {**_BACK_TO_SINGLE_BYTE}
    for one in tables:
        designations |= one
    return CharacterSet(name, None, lower, upper, designations)


def decode(value: bytes, characters: CharacterSet, *, is_name: bool = False) -> str:
    """Decode a value exactly.

    Parameters
    ----------
    is_name
        Its VR is PN, so that the delimiters of its groups and components count (PS3.5 6.2.1).

    Raises
    ------
    NotExact
        When a byte is no character of the sets that are active where it stands.
    """
    try:
        if characters.codec is not None:
            return value.decode(characters.codec)
        return _switched(value, characters, _NAME_RESETS if is_name else _RESETS)
    except (UnicodeError, LookupError):
        raise NotExact from None


def _switched(value: bytes, characters: CharacterSet, resets: frozenset[int]) -> str:
    parts: list[str] = []
    lower, upper = characters.lower or _ASCII, characters.upper
    at, end, may_be_reset = 0, len(value), False
    while at < end:
        byte = value[at]
        if byte == _ESCAPE:
            length, table = _designated(value[at + 1 : at + 4], characters)
            lower, upper = (lower, table) if table.is_upper else (table, upper)
            at += 1 + length
            continue
        active = upper if byte >= _FIRST_UPPER else lower
        if byte < _FIRST_GRAPHIC or not active or not active.is_multi_byte:
            parts.append(_single(byte, active))
            at += 1
            if byte in resets:
                lower, upper = characters.lower or _ASCII, characters.upper
            continue
        stop = _end_of_run(value, at)
        parts.append(active.decode(value[at:stop]))
        may_be_reset |= active is lower and not resets.isdisjoint(value[at:stop])
        at = stop
    if lower.is_multi_byte and may_be_reset:
        # PS3.5 6.1.2.5.3 requires the way back before a delimiter and at the end. Where the one at the end is missing,
        # the others may be missing too, and a delimiter would be read as half of a letter.
        raise NotExact
    return "".join(parts)


def _single(byte: int, active: _CodeTable | None) -> str:
    if byte < _FIRST_GRAPHIC:
        return chr(byte)
    if active is None or _FIRST_UPPER <= byte < _FIRST_UPPER_GRAPHIC:
        raise NotExact
    return active.decode(bytes((byte,)))


def _end_of_run(value: bytes, start: int) -> int:
    is_upper = value[start] >= _FIRST_UPPER
    for at in range(start, len(value)):
        if value[at] < _FIRST_GRAPHIC or (value[at] >= _FIRST_UPPER) is not is_upper:
            return at
    return len(value)


def _designated(after_escape: bytes, characters: CharacterSet) -> tuple[int, _CodeTable]:
    for sequence, table in (characters.designations or {}).items():
        if after_escape.startswith(sequence):
            return len(sequence), table
    raise NotExact


def identifying_text(keyword: str, raw: bytes, characters: CharacterSet, *, set_for: str = "") -> IdentifyingText:
    """Return a value that identifies: its bytes, and the exact text they are, neither cut nor cleaned.

    Parameters
    ----------
    set_for
        AE title of the sender that the character set was set for.
    """
    # Nearly every value is plain ASCII, whatever its character set.
    if raw.isascii() and (text := raw.decode("ascii")).isprintable() and not set(text) & {"\\", "~"}:
        return IdentifyingText(keyword=keyword, raw=raw, character_set=characters.name, text=without_padding(text))
    found, fault = "", None
    try:
        found = without_padding(decode(raw, characters, is_name=keyword in NAME_KEYWORDS))
        fault = fault_of(keyword, found)
        if fault is Fault.CONTROL_CHARACTER and _ESCAPE in raw:
            fault = _fault_of_bytes(raw)
    except NotExact:
        fault = _fault_of_bytes(raw)
    return IdentifyingText(
        keyword=keyword,
        raw=raw,
        character_set=characters.name,
        set_for="" if raw.isascii() else set_for,
        text=None if fault else found,
        fault=fault,
    )


def _fault_of_bytes(raw: bytes) -> Fault:
    # A control character is none of a character set's making; a lone escape is.
    inside = raw.rstrip(b" \x00").replace(b"\x1b", b"")
    is_plain = inside.isascii() and fault_of("", inside.decode("ascii")) is Fault.CONTROL_CHARACTER
    return Fault.CONTROL_CHARACTER if is_plain else Fault.UNDECODABLE


def descriptive_text(value: bytes, characters: CharacterSet) -> str:
    """Return a value that describes, to be copied: exact, or empty."""
    if value.isascii() and (text := value.decode("ascii")).isprintable() and "~" not in text:
        return text.strip(" ")
    try:
        text = without_padding(decode(value, characters))
    except NotExact:
        return ""
    return "" if fault_of("", text) not in (None, Fault.SEVERAL_VALUES) else text


def matching_text(value: bytes, characters: CharacterSet) -> str:
    """Return a value that pipelines match on and nothing copies: what can be read of it."""
    try:
        text = decode(value, characters)
    except NotExact:
        text = value.decode("ascii", "ignore")
    return clean_value(text)


def decode_ascii(value: bytes) -> str:
    """Decode a value that no character set rules, such as a UID."""
    return value.decode("latin-1").strip(" \x00")


def clean_value(text: str) -> str:
    """Return a value that neither identifies nor is copied as the database can keep it."""
    # PS3.5 6.2: spaces around a value are padding. Control characters and lone surrogates cannot be stored.
    return _CONTROL.sub("", text).strip(" ")[:_LONGEST_TEXT]
