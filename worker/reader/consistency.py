"""Whether a draft agrees with itself: what findings, impression and check answers say of a finding and its side.

Only plain contradictions count: a finding stated here and denied there, a finding right here and left there. A
section that does not mention a finding, or mentions it without a side, contradicts nobody.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from casebook.checks import Check
from casebook.reading import CheckAnswer, Section, SectionKind

_SIDES = frozenset({"left", "right"})
#: Answer ids that say a finding is absent, and those that say it is there on both sides.
_ABSENT = frozenset({"no", "none"})
_BOTH = frozenset({"bilateral", "both"})
#: A side that stands alone after a comma belongs to what stands before it: "Pneumothorax, left."
_ALONE_EN = (
    r"(?!(?:(?:on|in) )?(?:the )?(?:left|right|lt|rt|bilateral|both)(?:[- ]sided?)?(?: sides?)?\s*(?:[.;:,\n]|$))"
)
_ALONE_ZH = r"(?!(?:位于|在|见于)?(?:左|右|双|两)[侧肺]?(?:[。；：，,;.\n]|$))"
#: Where one statement ends and the next begins.
_CLAUSES = MappingProxyType(
    {
        "en": re.compile(rf"[.;:!?\n]+\s*|,\s*+{_ALONE_EN}|\b(?:and|but|while|with|whereas)\b", re.IGNORECASE),
        "zh": re.compile(rf"[。；：！？，、,;.\n]+{_ALONE_ZH}"),
    }
)
_SIDE_WORDS = MappingProxyType(
    {
        "en": (
            (re.compile(r"\b(bilateral|both)\b", re.IGNORECASE), frozenset(_SIDES)),
            (re.compile(r"\b(?:left(?:[- ]sided)?|lt)\b", re.IGNORECASE), frozenset({"left"})),
            (re.compile(r"\b(?:right(?:[- ]sided)?|rt)\b", re.IGNORECASE), frozenset({"right"})),
        ),
        "zh": (
            (re.compile("双|两侧|两肺"), frozenset(_SIDES)),
            (re.compile("左"), frozenset({"left"})),
            (re.compile("右"), frozenset({"right"})),
        ),
    }
)
_DENIALS = MappingProxyType(
    {
        "en": re.compile(
            r"\b(no|not|without|absent|absence|negative|free of|resolved|resolution|excluded)\b", re.IGNORECASE
        ),
        "zh": re.compile("未见|未|无|没有|排除|消失"),
    }
)  # fmt: skip
#: How a question of a preset asks for a finding, around its name.
_QUESTIONS = MappingProxyType(
    {
        "en": re.compile(
            r"^(?:is|are) there (?:an? |any )?(?P<name>.+?)\?$|^which side is (?:the )?(?P<sided>.+?) on\?$",
            re.IGNORECASE,
        ),
        "zh": re.compile(
            r"^(?:是否有|有无|是否可见)(?P<name>.+?)(?:吗)?[？?]$|^(?P<sided>.+?)(?:在|位于)哪一?侧[？?]$"
        ),
    }
)


@dataclass(slots=True, kw_only=True)
class Said:
    """What one part of a draft says of one finding."""

    sides: set[str] = field(default_factory=set)
    is_stated: bool = False
    is_denied: bool = False


def find_contradiction(
    sections: Sequence[Section], answers: Sequence[CheckAnswer], checks: Sequence[Check], language: str
) -> str:
    """Say in one plain sentence about which finding a draft contradicts itself; nothing where it does not.

    Parameters
    ----------
    sections
        The draft, split.
    answers
        The answers to the checks; undetermined ones contradict nobody.
    checks
        The preset the answers belong to.
    language
        The language of the draft: a key of `Check.in_report`.
    """
    for checks_of_one in _by_finding(checks):
        found = {section.kind: said_of(checks_of_one, section, language) for section in sections}
        findings = found.get(SectionKind.FINDINGS, Said())
        impression = found.get(SectionKind.IMPRESSION, Said())
        label = checks_of_one[0].label.removesuffix(" side")
        if _disagree_about_side(findings, impression):
            return f"The draft contradicts itself: findings and impression name another side for {label.lower()}."
        if _disagree_about_presence(findings, impression):
            return f"The draft contradicts itself: findings and impression disagree whether there is {label.lower()}."
        if _answer_disagrees_about_side(checks_of_one, answers, (findings, impression)):
            return f"The draft contradicts itself: its text and its check name another side for {label.lower()}."
    return ""


def said_of(checks: Sequence[Check], section: Section, language: str) -> Said:
    """Gather what a section says of the finding of these checks: by their patterns and by words of side."""
    said = Said()
    text = "\n".join(section.paragraphs)
    for clause in _clauses(text, language):
        _hear(said, _by_patterns(checks, clause, language))
        _hear(said, _by_words(checks, clause, language))
    return said


def _hear(said: Said, more: Said) -> None:
    said.sides |= more.sides
    said.is_stated |= more.is_stated
    said.is_denied |= more.is_denied


def _by_finding(checks: Sequence[Check]) -> Iterator[tuple[Check, ...]]:
    # A finding is asked by a check and, where it has sides, by another of its name.
    names = {check.id for check in checks}
    for check in checks:
        if not (check.id.endswith("_side") and check.id.removesuffix("_side") in names):
            yield tuple(one for one in checks if one.id in {check.id, f"{check.id}_side"})


def _by_patterns(checks: Sequence[Check], clause: str, language: str) -> Said:
    said = Said()
    for check in checks:
        for answer_id, patterns in check.in_report.get(language, {}).items():
            if any(re.search(pattern, clause) for pattern in patterns):
                said.is_denied |= answer_id in _ABSENT
                said.is_stated |= answer_id not in _ABSENT
                said.sides |= _sides_of(answer_id)
    if said.is_denied:
        # "No left effusion" fits the pattern of the left one too, and says nothing of the right.
        return Said(is_denied=not _words_of_side(clause, language) or not said.sides)
    return said


def _by_words(checks: Sequence[Check], clause: str, language: str) -> Said:
    names = {_name(check, language) for check in checks} - {""}
    place = next((found for name in names if (found := _place(name, clause, language))), None)
    if place is None or not _has_sides(checks):
        return Said()
    before, after = clause[: place.start()], clause[place.end() :]
    if _DENIALS[language].search(before) or (language == "en" and _DENIALS[language].search(after)):
        # "No right effusion" says nothing of the left.
        return Said(is_denied=not _words_of_side(clause, language))
    sides = _last_side(before, language) or _words_of_side(after, language)
    return Said(sides=set(sides), is_stated=bool(sides))


def _place(name: str, clause: str, language: str) -> re.Match[str] | None:
    pattern = re.escape(name) if language == "zh" else rf"\b{re.escape(name)}(?:s|es)?\b"
    if language == "en" and name.lower().startswith("pleural "):
        # An effusion without a place is a pleural one.
        pattern = rf"(?<!pericardial )\b(?:pleural )?{re.escape(name[len('pleural ') :])}(?:s|es)?\b"
    return re.search(pattern, clause, re.IGNORECASE)


def _name(check: Check, language: str) -> str:
    asked = _QUESTIONS[language].match(check.question.get(language, "")) if language in _QUESTIONS else None
    return (asked["name"] or asked["sided"]).strip() if asked else ""


def _has_sides(checks: Sequence[Check]) -> bool:
    return any(_SIDES.issubset(answer.id for answer in check.answers) for check in checks)


def _last_side(text: str, language: str) -> frozenset[str]:
    # "Left effusion, right pneumothorax": the word of side nearest to the finding is its own.
    places = [(found.start(), sides) for pattern, sides in _SIDE_WORDS[language] for found in pattern.finditer(text)]
    return max(places, key=lambda place: place[0])[1] if places else frozenset()


def _words_of_side(text: str, language: str) -> frozenset[str]:
    return frozenset().union(*(sides for pattern, sides in _SIDE_WORDS[language] if pattern.search(text)))


def _clauses(text: str, language: str) -> list[str]:
    return [clause for clause in _CLAUSES[language].split(text) if clause.strip()] if language in _CLAUSES else [text]


def _sides_of(answer_id: str) -> frozenset[str]:
    if answer_id in _BOTH:
        return _SIDES
    return _SIDES & {answer_id}


def _disagree_about_side(findings: Said, impression: Said) -> bool:
    # An impression may leave a side out; it may not bring one that the findings do not have.
    return bool(findings.sides) and bool(impression.sides) and not impression.sides <= findings.sides


def _disagree_about_presence(findings: Said, impression: Said) -> bool:
    denied_then_stated = findings.is_denied and not findings.is_stated and impression.is_stated
    stated_then_denied = findings.is_stated and impression.is_denied and not impression.is_stated
    return denied_then_stated or stated_then_denied


def _answer_disagrees_about_side(
    checks: Sequence[Check], answers: Sequence[CheckAnswer], parts: Sequence[Said]
) -> bool:
    ids = {check.id for check in checks}
    for answer in answers:
        sides = _sides_of(answer.answer_id) if answer.check_id in ids and not answer.undetermined else frozenset()
        if sides and any(part.sides and not sides & part.sides for part in parts):
            return True
    return False
