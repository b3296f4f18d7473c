"""Sentences of a report, English or Chinese: where one ends, and lines for viewers that break none themselves."""

import re
import unicodedata

#: What ends a sentence wherever it stands.
_FULL_STOPS = "。！？；"
#: What ends one only before a blank or the end: inside a number or a name it is something else.
_STOPS = ".!?．"
_CLOSING = "”’」』）】〉》)]\"'"
_PAIRS = {"(": ")", "（": "）", "[": "]", "【": "】", "“": "”", "「": "」", "《": "》"}
#: A full stop after these does not end a sentence. Single letters (initials, "L. lung") never do.
_ABBREVIATIONS = frozenset(
    {
        *("dr", "mr", "mrs", "ms", "prof", "st", "al", "etc", "e.g", "i.e", "a.m", "p.m", "vs", "cf", "ca", "approx"),
        *("no", "nos", "fig", "figs", "ser", "im", "sec", "vol", "max", "min", "resp", "incl", "excl"),
        *("lt", "rt", "ant", "post", "sup", "inf", "lat", "med", "bilat"),
    }
)
#: A list's own number: "1." or "2．" before the first word.
_NUMBERING = re.compile(r"\d{1,2}[.．]")
#: A sentence that ends inside a quotation.
_INNER_END = re.compile(r"[。！？；].|[.!?]\s")
#: Characters in which a bracket has to be closed to be one, and in which an abbreviation is looked for.
_LONGEST_BRACKET, _LONGEST_WORD = 300, 40
#: What may not begin a line.
_NOT_FIRST = frozenset("，。、；：！？）】」』》”’,.;:!?)]%")


def split_sentences(text: str) -> tuple[str, ...]:
    """Split a text into its sentences; nothing is lost but the blanks between them.

    Decimals ("1.5 cm"), abbreviations, numbered items, ellipses and what stands in brackets stay whole. A blank
    line ends a sentence, a single line break does not.
    """
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        start = 0
        for end in _ends(paragraph):
            found.append(paragraph[start:end].strip())
            start = end
        found.append(paragraph[start:].strip())
    return tuple(one for one in found if one)


def _ends(text: str) -> list[int]:
    ends: list[int] = []
    start = place = 0
    while place < len(text):
        closed = _bracket_end(text, place)
        if closed:
            place = closed
            continue
        stop = text[place]
        place += 1
        if stop not in _FULL_STOPS and stop not in _STOPS:
            continue
        # "?!", "..." and the quotation mark after it belong to the sentence.
        while place < len(text) and (text[place] in _FULL_STOPS or text[place] in _STOPS or text[place] in _CLOSING):
            place += 1
        if stop in _FULL_STOPS or _is_end(text[start:place], text[place:]):
            ends.append(place)
            start = place
    return ends


def _bracket_end(text: str, place: int) -> int:
    """Return where the bracket that opens here is closed, or 0."""
    closing = _PAIRS.get(text[place])
    if closing is None:
        return 0
    depth = 0
    for at in range(place, min(len(text), place + _LONGEST_BRACKET)):
        depth += (text[at] == text[place]) - (text[at] == closing)
        if not depth:
            # Whole sentences in quotation marks are sentences of their own right.
            is_quotation = text[place] in "“「" and _INNER_END.search(text, place + 1, at) is not None
            return 0 if is_quotation else at + 1
    return 0


def _is_end(sentence: str, rest: str) -> bool:
    following = next((one for one in rest if not one.isspace()), "")
    if not following:
        return True
    last = sentence.strip().rstrip(_CLOSING)
    if _NUMBERING.fullmatch(last):
        return False
    if not rest[0].isspace():
        # No blank: "1.5", "T2.w", "www.x.y"; but Chinese text needs none around a Western full stop.
        return _is_wide(following) and not last[-2:-1].isdigit()
    if last[-1] in "!?":
        return True
    if last.endswith("..") or following.islower() or (last[-2:-1].isdigit() and following.isdigit()):
        return False
    word = last[-_LONGEST_WORD:].split()[-1].lstrip("".join(_PAIRS)).rstrip(_STOPS).lower()
    return word not in _ABBREVIATIONS and not (len(word) == 1 and word.isalpha() and not _is_wide(word))


def fold(text: str, columns: int) -> str:
    """Break lines that are wider than `columns`; wide (Chinese) characters count twice.

    Lines are broken at blanks, and inside Chinese text, where no line begins with a closing mark. A word that is
    wider than a line is broken too: everything has to be seen.
    """
    return "\n".join(broken for line in text.split("\n") for broken in _broken(line, columns))


def _broken(line: str, columns: int) -> list[str]:
    lines: list[str] = []
    while (end := _break(line, columns)) < len(line):
        lines.append(line[:end].rstrip())
        line = line[end:].lstrip()
    return [*lines, line]


def _break(line: str, columns: int) -> int:
    """Return where the line has to be broken; its length where it fits."""
    widest = width = 0
    for character in line:
        width += _width(character)
        if width > columns:
            break
        widest += 1
    if widest == len(line):
        return widest
    for end in range(widest, max(0, widest - columns // 2), -1):
        before, after = line[end - 1], line[end]
        if after.isspace() or before.isspace():
            return end
        if (_is_wide(before) or _is_wide(after)) and after not in _NOT_FIRST and not unicodedata.combining(after):
            return end
    return max(1, widest)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if _is_wide(character) else 1


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
