"""The sentences of a draft, composed once for DICOM and HL7 so that both say the same."""

import math
from dataclasses import dataclass

from casebook.checks import ABSENT
from casebook.errors import UnwritableText
from casebook.reading import CheckAnswer, Reading, SectionKind
from casebook.sentences import split_sentences
from casebook.study import CompletionReason
from dicom_node.results.clean_text import clean, clean_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Every fixed phrase of a draft in one language; braces are filled by this module."""

    #: What each disclaimer begins with; the guards look for it in the bytes.
    mark: str
    #: What it began with in earlier versions: frozen bytes may still have to be sent.
    former_marks: tuple[str, ...] = ()
    #: Who wrote this and what it must not be used for.
    disclaimer: str
    #: Added where the model is not cleared for clinical use.
    research: str
    #: Who made it and that nobody reviewed it, in at most 64 characters.
    not_reviewed: str
    undetermined: str
    #: Between a question and its answer.
    gap: str
    #: A probability in whole percent.
    probability: str
    #: A probability that would round to 100 %.
    nearly_certain: str
    #: How much of the study was read, and by what.
    basis: str
    #: The same of a study of one image that was read.
    only_image: str
    completion: dict[CompletionReason, str]
    replaces: str
    #: What ends the items of a numbered impression but the last, and the last; empty: it is not numbered.
    item_ends: tuple[str, str] | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """Everything a disclaimer may begin with."""
        return (self.mark, *self.former_marks)


ENGLISH = Wording(
    mark="AI DRAFT - NOT VERIFIED.",
    disclaimer=(
        "This preliminary text was written by software (Wetread {software}, model {model} {version}) and no physician "
        "has reviewed it. Not for diagnosis before review."
    ),
    research="The model is for research and not cleared for clinical use.",
    not_reviewed="AI-generated draft, not reviewed by a physician",
    undetermined="undetermined",
    gap=" ",
    probability=" (model probability {percent} %)",
    nearly_certain=" (model probability > 99 %)",
    basis="Based on {read} of {known} images ({reason}), model {model} version {version}.",
    only_image="Based on the only image ({reason}), model {model} version {version}.",
    completion={
        CompletionReason.QUIET: "no further image arrived",
        CompletionReason.COUNTED: "the archive counted {known}",
        CompletionReason.FORCED: "a person confirmed that all images are here",
    },
    replaces="This draft (revision {revision}) replaces the earlier AI draft of this study.",
)

CHINESE = Wording(
    mark="AI 报告草稿，未经医师审核。",
    former_marks=("人工智能草稿，未经审核。",),
    disclaimer="本初步文本由软件生成（Wetread {software}，模型 {model} {version}），经医师审核前不得作为诊断依据。",
    research="该模型仅限科研使用，未取得医疗器械注册，不得用于临床。",
    not_reviewed="AI 报告草稿，未经医师审核",
    undetermined="无法确定",
    gap="",
    probability="（模型概率 {percent}%）",
    nearly_certain="（模型概率＞99%）",
    basis="本草稿依据 {read} 幅图像（共 {known} 幅，{reason}），模型 {model}，版本 {version}。",
    only_image="本草稿依据 1 幅图像（共 1 幅，{reason}），模型 {model}，版本 {version}。",
    completion={
        CompletionReason.QUIET: "此后未再收到图像",
        CompletionReason.COUNTED: "图像数量经存档系统确认",
        CompletionReason.FORCED: "经人工确认图像已收齐",
    },
    replaces="本草稿（第 {revision} 版）取代本次检查先前的 AI 报告草稿。",
    item_ends=("；", "。"),
)

WORDINGS = {"en": ENGLISH, "zh-CN": CHINESE}


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftText:
    """What a person reads, cleaned, in the order in which it stands."""

    disclaimer: str
    #: One sentence each.
    findings: tuple[str, ...]
    #: One sentence each.
    impression: tuple[str, ...]
    #: One row per preset check that the draft states: what is there, then what is undetermined, then what is not there.
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
    read, known = reading.based_on_images, reading.known_images
    basis = [
        (wording.only_image if read == known == 1 else wording.basis).format(
            read=read,
            known=known,
            reason=wording.completion[reading.completion_reason].format(known=known),
            **made_by,
        ),
        *_written(reading.notes),
    ]
    if replaces_earlier:
        basis.append(wording.replaces.format(revision=revision))
    text = DraftText(
        disclaimer=_disclaimer(reading, wording, made_by),
        findings=_section(reading, SectionKind.FINDINGS),
        impression=_numbered(_section(reading, SectionKind.IMPRESSION), wording),
        checks=tuple(_row(answer, wording) for answer in sorted(_stated(reading), key=_order)),
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
    written = _written([text for one in reading.sections if one.kind is kind for text in one.paragraphs])
    return tuple(sentence for text in written for sentence in split_sentences(text))


def _numbered(sentences: tuple[str, ...], wording: Wording) -> tuple[str, ...]:
    """Number the impression where the language does so, unless the model did, or wrote more than plain sentences."""
    if wording.item_ends is None or len(sentences) < 2:
        return sentences
    inner, last = wording.item_ends
    bare = [one.rstrip(f"{inner}{last}") for one in sentences]
    if not all(bare) or any("\n" in one or one[0].isdigit() or one[-1] in "！？：" for one in bare):
        return sentences
    ends = [inner] * (len(bare) - 1) + [last]
    return tuple(f"{number}. {one}{end}" for number, (one, end) in enumerate(zip(bare, ends, strict=True), start=1))


def _stated(reading: Reading) -> list[CheckAnswer]:
    return [one for one in reading.answers if not one.is_ruled_out]


def _order(answer: CheckAnswer) -> int:
    if answer.undetermined:
        return 1
    return 2 if answer.answer_id in ABSENT else 0


def _written(texts: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    # An empty paragraph would be an empty TEXT item, which is not legal (PS3.3 C.17.3.2, type 1C).
    return tuple(text for text in map(clean, texts) if text)


def _row(answer: CheckAnswer, wording: Wording) -> str:
    if not (math.isfinite(answer.probability) and 0 <= answer.probability <= 1):
        raise UnwritableText(f"check {answer.check_id} has a probability outside 0 to 1")
    question = clean_line(answer.question)
    if answer.undetermined:
        return f"{question}{wording.gap}{wording.undetermined}"
    said = clean_line(answer.answer)
    row = f"{question}{wording.gap}{said[:1].upper()}{said[1:]}"
    # A number that nobody compared with the truth would read as a certainty that nobody knows.
    if not answer.calibrated:
        return row
    percent = round(100 * answer.probability)
    # A model is never certain: "100 %" would read as if it were.
    return row + (wording.nearly_certain if percent == 100 else wording.probability.format(percent=percent))
