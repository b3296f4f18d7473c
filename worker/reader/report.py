"""From the words of a model to a report: its sections, and what it says about the preset checks."""

import re
from collections.abc import Sequence
from dataclasses import replace

from casebook.checks import ABSENT, Check
from casebook.reading import Section, SectionKind
from casebook.sentences import split_sentences

#: Headings as models write them, in English and Chinese, upper or lower case, with either colon.
_HEADING = re.compile(
    r"(?P<findings>\bfindings\b|影像所见|检查所见|所见)\s*[:：]"
    r"|(?P<impression>\b(?:impression|conclusion)\b|诊断印象|诊断意见|印象|结论)\s*[:：]",
    re.IGNORECASE,
)


def split_report(text: str) -> tuple[Section, ...]:
    """Split a draft into findings and impression.

    A text without headings is all findings; what stands before the first heading belongs to the findings; a
    heading that comes twice continues its section.

    Returns
    -------
        The sections that are not empty, findings first, each paragraph without line breaks.
    """
    paragraphs: dict[SectionKind, list[str]] = {SectionKind.FINDINGS: [], SectionKind.IMPRESSION: []}
    kind, start = SectionKind.FINDINGS, 0
    for heading in _HEADING.finditer(text):
        paragraphs[kind] += _paragraphs(text[start : heading.start()])
        kind = SectionKind.FINDINGS if heading["findings"] else SectionKind.IMPRESSION
        start = heading.end()
    paragraphs[kind] += _paragraphs(text[start:])
    return tuple(Section(kind=kind, paragraphs=tuple(found)) for kind, found in paragraphs.items() if found)


def ask_report(text: str, check: Check, language: str) -> str | None:
    """Ask a report text a preset check by the patterns of its `in_report`.

    Returns
    -------
        The id of the one answer the text gives, or None where it gives none or contradicts itself.
    """
    patterns = check.in_report.get(language, {})
    said = [
        answer_id
        for answer_id, expressions in patterns.items()
        if any(re.search(expression, text) for expression in expressions)
    ]
    return said[0] if len(said) == 1 else None


def order_impression(sections: Sequence[Section], checks: Sequence[Check], language: str) -> tuple[Section, ...]:
    """Put the most urgent sentence of the impression first, by the checks of the preset; the words stay as they are.

    A sentence that no check knows stays behind the one before it, which it may refer to; what a sentence denies
    comes after what is there. An impression of which no check knows anything keeps its paragraphs.
    """
    return tuple(
        replace(one, paragraphs=_by_urgency(one.paragraphs, checks, language))
        if one.kind is SectionKind.IMPRESSION
        else one
        for one in sections
    )


def _by_urgency(paragraphs: tuple[str, ...], checks: Sequence[Check], language: str) -> tuple[str, ...]:
    sentences = [sentence for paragraph in paragraphs for sentence in split_sentences(paragraph)]
    ranks: list[tuple[int, int]] = []
    # What stands before everything that is known introduces it.
    rank = (-1, 0)
    for sentence in sentences:
        known = [_rank(check, sentence, language) for check in checks]
        rank = min((one for one in known if one is not None), default=rank)
        ranks.append(rank)
    if not any(known >= 0 for known, _ in ranks):
        return paragraphs
    return tuple(sentences[place] for place in sorted(range(len(sentences)), key=ranks.__getitem__))


def _rank(check: Check, sentence: str, language: str) -> tuple[int, int] | None:
    said = ask_report(sentence, check, language)
    return None if said is None else (int(said in ABSENT), check.urgency)


def _paragraphs(text: str) -> list[str]:
    found = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n|\n", text)]
    return [paragraph for paragraph in found if paragraph]
