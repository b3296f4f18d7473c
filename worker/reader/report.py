"""From the words of a model to a report: its sections, and what it says about the preset checks."""

import re

from casebook.checks import Check
from casebook.reading import Section, SectionKind

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


def _paragraphs(text: str) -> list[str]:
    found = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n|\n", text)]
    return [paragraph for paragraph in found if paragraph]
