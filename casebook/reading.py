"""The Reading: what the model said of one generation of a study, frozen with its provenance.

Its canonical JSON is what is stored, hashed and rendered: every UID and message id of a result is derived
from the SHA-256 of these bytes, so the same Reading always gives the same objects.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from casebook.study import CodedConcept, CompletionReason, StudyHeader

#: Raised by one whenever a field changes its meaning.
READING_FORMAT = 1


class SectionKind(StrEnum):
    """The sections of a draft report."""

    #: What is seen.
    FINDINGS = "findings"
    #: What it means.
    IMPRESSION = "impression"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section of the draft: its paragraphs, without line breaks inside."""

    kind: SectionKind
    paragraphs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckAnswer:
    """The answer to one preset check."""

    check_id: str
    label: str
    #: In the words of the draft.
    question: str
    #: Id of the chosen answer, also where it is undetermined.
    answer_id: str
    #: In the words of the draft.
    answer: str
    #: Probability of the stated answer, 0 to 1.
    probability: float
    #: The model should not be trusted here: shown as "undetermined".
    undetermined: bool
    #: Such probabilities were compared with how often they are right; else none is shown.
    calibrated: bool = False
    finding_code: CodedConcept | None = None
    answer_code: CodedConcept | None = None
    #: Another answer takes the question its sense (`only_if`): kept, and not shown.
    is_ruled_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReference:
    """An instance the model was given or could have been given."""

    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    #: One-based frame numbers shown to the model; empty for a single-frame image.
    frame_numbers: tuple[int, ...] = ()
    #: Why it was chosen: "frontal", "lateral", "slice 3 of 8, window lung" ...
    role: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Which program, model and questions made this reading."""

    software_version: str
    model_name: str
    model_version: str
    #: SHA-256 over the model directory.
    model_sha256: str
    prompt_sha256: str
    check_preset: str
    check_preset_version: str
    check_preset_sha256: str
    pipeline: str
    decoding: str = "greedy"
    content_qualification: str = "RESEARCH"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A draft report with its checks, for one generation of one study."""

    study_instance_uid: str
    generation: int
    #: RFC 5646 language of the draft: "en" or "zh-CN".
    language: str
    #: Modality of the images read, for the document title.
    modality: str
    header: StudyHeader
    sections: tuple[Section, ...]
    answers: tuple[CheckAnswer, ...]
    #: The images the model saw, in the order it saw them.
    images: tuple[InstanceReference, ...]
    #: Images the draft is based on ("n of m"): n.
    based_on_images: int
    #: Images the study has as far as known: m.
    known_images: int
    completion_reason: CompletionReason
    #: Sentences the reader should know: unreadable images, left-out instances.
    notes: tuple[str, ...] = ()
    provenance: Provenance
    #: The one timestamp of every output, seconds since the epoch, UTC.
    created_at: float
    format: int = READING_FORMAT

    def to_bytes(self) -> bytes:
        """Return the canonical JSON, UTF-8: sorted keys, no blanks."""
        content = dataclasses.asdict(self)
        for answer in content["answers"]:
            # A field that came later is written where it says something: older bytes keep their digest.
            if not answer["is_ruled_out"]:
                del answer["is_ruled_out"]
        # The bytes that were received stay with the rows of the images; a Reading has the texts that they are.
        content["header"].pop("identifying")
        return canonical_json(content)

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Encode to one byte string for one value: sorted keys, no blanks, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


_ADAPTER = TypeAdapter(Reading)


def from_bytes(content: bytes) -> Reading:
    """Read a Reading back from its canonical JSON.

    Raises
    ------
    ValueError
        When the bytes are not a Reading.
    """
    return _ADAPTER.validate_json(content)
