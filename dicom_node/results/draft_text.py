"""The sentences of a draft, composed once for DICOM and HL7 so that both say the same."""

import math
from dataclasses import dataclass

from casebook.errors import UnwritableText
from casebook.reading import CheckAnswer, Reading, SectionKind
from casebook.study import CompletionReason
from dicom_node.results.clean_text import clean, clean_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Every fixed phrase of a draft in one language; braces are filled by this module."""

    #: What each disclaimer begins with; the guards look for it in the bytes, so it never changes.
    mark: str
    #: Who wrote this and what it must not be used for.
    disclaimer: str
    #: Added where the model is not cleared for clinical use.
    research: str
    undetermined: str
    #: Between a question and its answer.
    gap: str
    #: A probability in whole percent.
    probability: str
    #: A probability that would round to 100 %.
    nearly_certain: str
    #: How much of the study was read, and by what.
    basis: str
    completion: dict[CompletionReason, str]
    replaces: str
    #: Headings of the HL7 observations, where no standard code has a meaning in this language.
    checks_heading: str


ENGLISH = Wording(
    mark="AI DRAFT - NOT VERIFIED.",
    disclaimer=(
        "This preliminary text was written by software (Wetread {software}, model {model} {version}) and no physician "
        "has reviewed it. Not for diagnosis before review."
    ),
    research="The model is for research and not cleared for clinical use.",
    undetermined="undetermined",
    gap=" ",
    probability=" ({percent} %)",
    nearly_certain=" (> 99 %)",
    basis="Based on {read} of {known} images ({reason}), model {model} version {version}.",
    completion={
        CompletionReason.QUIET: "no further image arrived",
        CompletionReason.COUNTED: "number confirmed by the archive",
        CompletionReason.FORCED: "study closed by a person",
    },
    replaces="This draft (revision {revision}) replaces the earlier AI draft of this study.",
    checks_heading="AI preset checks",
)

CHINESE = Wording(
    mark="人工智能草稿，未经审核。",
    disclaimer="本初步文本由软件生成（Wetread {software}，模型 {model} {version}），尚无医师审阅。审阅前不得用于诊断。",
    research="该模型仅供研究，未获准用于临床。",
    undetermined="无法确定",
    gap="",
    probability="（{percent} %）",
    nearly_certain="（> 99 %）",
    basis="依据 {known} 幅图像中的 {read} 幅（{reason}），模型 {model}，版本 {version}。",
    completion={
        CompletionReason.QUIET: "未再收到图像",
        CompletionReason.COUNTED: "图像数量已由存档系统确认",
        CompletionReason.FORCED: "检查由人工关闭",
    },
    replaces="本草稿（第 {revision} 版）取代本次检查先前的人工智能草稿。",
    checks_heading="人工智能预设问题",
)

WORDINGS = {"en": ENGLISH, "zh-CN": CHINESE}


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftText:
    """What a person reads, cleaned, in the order in which it stands."""

    disclaimer: str
    findings: tuple[str, ...]
    impression: tuple[str, ...]
    #: One row per preset check.
    checks: tuple[str, ...]
    #: What the draft is based on, the notes, what it replaces.
    basis: tuple[str, ...]


def wording_of(reading: Reading) -> Wording:
    """Return the phrases in the language of the draft.

    Raises
    ------
    UnwritableText
        When we have none in that language.
    """
    try:
        return WORDINGS[reading.language]
    except KeyError:
        raise UnwritableText("the draft is in a language without wording for its disclaimer") from None


def compose(reading: Reading, *, revision: int, replaces_earlier: bool) -> DraftText:
    """Compose every sentence of a draft.

    Parameters
    ----------
    reading
        What the model said.
    revision
        Counts the drafts of the study, from 1.
    replaces_earlier
        An earlier draft may have reached the same destination.

    Raises
    ------
    UnwritableText
        When a text cannot be carried, or there is nothing to say.
    """
    wording = wording_of(reading)
    made_by = {
        "software": clean_line(reading.provenance.software_version),
        "model": clean_line(reading.provenance.model_name),
        "version": clean_line(reading.provenance.model_version),
    }
    basis = [
        wording.basis.format(
            read=reading.based_on_images,
            known=reading.known_images,
            reason=wording.completion[reading.completion_reason],
            **made_by,
        ),
        *_written(reading.notes),
    ]
    if replaces_earlier:
        basis.append(wording.replaces.format(revision=revision))
    text = DraftText(
        disclaimer=_disclaimer(reading, wording, made_by),
        findings=_section(reading, SectionKind.FINDINGS),
        impression=_section(reading, SectionKind.IMPRESSION),
        checks=tuple(_row(answer, wording) for answer in reading.answers),
        basis=tuple(basis),
    )
    if not (text.findings or text.impression or text.checks):
        raise UnwritableText("the reading has neither text nor answers, so there is no draft to send")
    return text


def _disclaimer(reading: Reading, wording: Wording, made_by: dict[str, str]) -> str:
    sentences = [wording.mark, wording.disclaimer.format(**made_by)]
    if reading.provenance.content_qualification == "RESEARCH":
        sentences.append(wording.research)
    return wording.gap.join(sentences)


def _section(reading: Reading, kind: SectionKind) -> tuple[str, ...]:
    return _written([text for one in reading.sections if one.kind is kind for text in one.paragraphs])


def _written(texts: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    # An empty paragraph would be an empty TEXT item, which is not legal (PS3.3 C.17.3.2, type 1C).
    return tuple(text for text in map(clean, texts) if text)


def _row(answer: CheckAnswer, wording: Wording) -> str:
    if not (math.isfinite(answer.probability) and 0 <= answer.probability <= 1):
        raise UnwritableText(f"check {answer.check_id} has a probability outside 0 to 1")
    question = clean_line(answer.question)
    if answer.undetermined:
        return f"{question}{wording.gap}{wording.undetermined}"
    percent = round(100 * answer.probability)
    # A model is never certain: "100 %" would read as if it were.
    certainty = wording.nearly_certain if percent == 100 else wording.probability.format(percent=percent)
    return f"{question}{wording.gap}{clean_line(answer.answer)}{certainty}"
