"""A study as Wetread sees it: its states, its instances and whose it is."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar


class StudyState(StrEnum):
    """Where the current generation of a study stands."""

    #: Images arrive.
    RECEIVED = "received"
    #: All images are believed to be here; the read job waits or runs.
    COMPLETE = "complete"
    #: The model has read it; the outputs are being rendered.
    READ = "read"
    #: Every output is frozen; the sends wait or run.
    READY = "ready"
    #: Every destination has acknowledged.
    DELIVERED = "delivered"
    #: Nothing more is done: the radiologist's final report has arrived, or a person dismissed the study.
    CLOSED = "closed"
    #: The reader declined, with its reason.
    REFUSED = "refused"
    #: No pipeline wants this study.
    UNMATCHED = "unmatched"
    #: A person has to decide.
    HELD = "held"
    #: A step failed for good or too often.
    DEAD = "dead"


class CompletionReason(StrEnum):
    """Why a study was believed to be complete."""

    #: No image arrived for the quiet period.
    QUIET = "quiet"
    #: The count of the PACS equals ours.
    COUNTED = "counted"
    #: A person closed it.
    FORCED = "forced"


class InstanceStatus(StrEnum):
    """What a stored object means for its study."""

    #: Part of the study.
    CURRENT = "current"
    #: Other bytes under a known SOP Instance UID, not yet compared.
    UNCLASSED = "unclassed"
    #: Other bytes, same identity and same pixels: kept, never read.
    VARIANT = "variant"
    #: Other bytes that contradict the first copy: the study is held.
    CONFLICT = "conflict"
    #: Left out by a person or by a rejection note.
    EXCLUDED = "excluded"
    #: One of our own results that came back.
    OWN = "own"


class RejectionReason(StrEnum):
    """Why a rejection note takes objects out of their study (IHE RAD IOCM; PS3.16 CID 7010)."""

    #: DCM 113001, "Rejected for Quality Reasons".
    QUALITY = "rejected_for_quality"
    #: DCM 113037, "Rejected for Patient Safety Reasons".
    PATIENT_SAFETY = "rejected_for_patient_safety"
    #: DCM 113038, "Incorrect Modality Worklist Entry".
    WRONG_WORKLIST_ENTRY = "incorrect_worklist_entry"
    #: DCM 113039, "Data Retention Policy Expired".
    RETENTION_EXPIRED = "data_retention_expired"


class Fault(StrEnum):
    """Why a value that identifies cannot be used."""

    #: Bytes that are no characters of the character set it came under.
    UNDECODABLE = "undecodable"
    #: A control character (C0 or DEL) inside; no character set makes it a text.
    CONTROL_CHARACTER = "control_character"
    #: U+FFFD: a character was lost before the value came here.
    LOST_CHARACTER = "lost_character"
    #: A backslash separates values (PS3.5 6.2), and an attribute that identifies has one; so does an element that
    #: stands there twice.
    SEVERAL_VALUES = "several_values"


#: What a person is told, after the keyword.
FAULT_WORDS = {
    Fault.UNDECODABLE: "has bytes that are no characters of its character set",
    Fault.CONTROL_CHARACTER: "holds a control character",
    Fault.LOST_CHARACTER: "holds a replacement character: a letter was lost before it came here",
    Fault.SEVERAL_VALUES: (
        "holds a backslash, which separates values, or stands there twice with different values, and may have one "
        "value only"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifyingText:
    """A value that says whose an object is: the bytes that were received, and the text they are, if they are one."""

    #: JSON knows no bytes.
    __pydantic_config__: ClassVar[dict[str, str]] = {"ser_json_bytes": "hex", "val_json_bytes": "hex"}

    keyword: str
    raw: bytes
    #: What it was decoded with: the SpecificCharacterSet of its object, or the one set for its sender.
    character_set: str = ""
    #: AE title of the sender that this character set was set for; empty where the object's own counts.
    set_for: str = ""
    #: Exact, without padding; None where the bytes are no text.
    text: str | None
    fault: Fault | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientIdentity:
    """Whose the study is: the attributes on which no two instances may contradict each other.

    Exact texts without padding, neither cut nor cleaned; empty also where the bytes received are no text, which
    `StudyHeader.identifying` tells apart.
    """

    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_birth_date: str = ""
    accession_number: str = ""


#: What identifies, by its name in a header -> DICOM keyword.
KEYWORDS = {
    "patient_id": "PatientID",
    "issuer_of_patient_id": "IssuerOfPatientID",
    "patient_birth_date": "PatientBirthDate",
    "accession_number": "AccessionNumber",
    "patient_name": "PatientName",
    "referring_physician_name": "ReferringPhysicianName",
}
#: What two instances of a study must not contradict each other in.
IDENTITY = tuple(PatientIdentity.__dataclass_fields__)
#: Of those, what says who the patient is; other studies of the patient have other accession numbers.
PATIENT = ("patient_id", "issuer_of_patient_id", "patient_birth_date")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedConcept:
    """A code with its scheme and meaning (PS3.3 8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyHeader:
    """The study-level attributes that results copy (facts: single truth is the received header).

    Text is decoded; person names keep their component groups (``=``) and components (``^``).
    """

    identity: PatientIdentity = field(default_factory=PatientIdentity)
    patient_name: str = ""
    patient_sex: str = ""
    patient_age: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    referring_physician_name: str = ""
    admission_id: str = ""
    timezone_offset_from_utc: str = ""
    procedure_codes: tuple[CodedConcept, ...] = ()
    #: What identifies, as received; empty in a Reading, in rows of earlier versions and where nothing was received.
    identifying: tuple[IdentifyingText, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedInstance:
    """One durable object, as the indexer describes it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    #: Attributes pipelines match on, by keyword: BodyPartExamined, StationName, SeriesDescription, ...
    attributes: dict[str, str] = field(default_factory=dict)
    header: StudyHeader = field(default_factory=StudyHeader)
    #: Path relative to the data directory.
    path: str
    size_bytes: int
    #: SHA-256 of the data set bytes, without file meta information; empty while nothing has to be compared with it.
    sha256: str = ""
    calling_ae_title: str
    peer_address: str = ""
    received_at: float
    #: Its place in the order of acknowledgements, see `dicom_node.storage.acknowledgements`; 0 where not known.
    acknowledged_ns: int = 0
    #: Seconds without an image after which this sender and modality count as quiet.
    quiet_period_s: float
    #: One of our own results (issued UID or device UID): stored, starts nothing.
    is_own: bool = False
    #: Of a rejection note: SOP Instance UIDs of its study that count no longer, whether they are here yet or not.
    rejects: tuple[str, ...] = ()
    #: Of a rejection note: why.
    rejection_reason: RejectionReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A stored object, as one that repeats its SOP Instance UID is compared with it."""

    sop_instance_uid: str
    study_instance_uid: str
    #: Relative to the data directory.
    path: str
    #: Empty until something was compared with it.
    sha256: str
    status: InstanceStatus
    #: 0 where not known.
    acknowledged_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An attribute in which two sides name another patient; the values are patient data."""

    #: DICOM keyword.
    keyword: str
    ours: str = field(default="", repr=False)
    theirs: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One reason for which a study, or one destination of it, waits for a person."""

    #: Empty where nothing of the study may go on.
    destination: str
    reason: str
    detail: str
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A stored object of a study, as the steps see it."""

    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    attributes: dict[str, str]
    header: StudyHeader
    path: str
    status: InstanceStatus
    calling_ae_title: str = ""


class PriorKind(StrEnum):
    """What an object of an earlier study is."""

    #: A picture.
    IMAGE = "image"
    #: A structured report; its text is known.
    REPORT = "report"
    #: An encapsulated PDF; that it exists is all that is known.
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """One object of an earlier study of the same patient, fetched for the reader."""

    prior_study_instance_uid: str
    #: YYYYMMDD.
    study_date: str
    modality: str
    sop_instance_uid: str
    sop_class_uid: str
    kind: PriorKind
    #: Path relative to the data directory.
    path: str
    #: Of a report: its headings and texts, one a line.
    report_text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The current generation of a study."""

    study_instance_uid: str
    generation: int
    state: StudyState
    #: Static snake_case reason of the state, empty where none is needed.
    reason: str = ""
    #: Plain sentence for the operator; may name DICOM keywords and UIDs, never patient data.
    detail: str = ""
    pipeline: str = ""
    completion_reason: CompletionReason | None = None
    #: Images the PACS says exist, None where it was not asked.
    expected_instances: int | None = None
    instance_count: int = 0
    calling_ae_title: str = ""
    first_received_at: float = 0.0
    last_received_at: float = 0.0
    quiet_at: float = 0.0
    changed_at: float = 0.0


# ---- the one comparison of identities ----------------------------------------------------------------------

_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f]")
#: C1 controls, halves of surrogate pairs and code points that are no characters, in any character set.
_NO_CHARACTER = re.compile("[\x80-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def without_padding(text: str) -> str:
    """Return a text without what pads it (PS3.5 6.2): blanks around it, and NULs at its end."""
    return text.rstrip(" \x00").lstrip(" ")


def holds_control_character(text: str) -> bool:
    """Say whether a text holds a C0 control character or DEL."""
    return _CONTROL_CHARACTER.search(text) is not None


def holds_no_character(text: str) -> bool:
    """Say whether a text holds a code point that no character set has a letter for."""
    return _NO_CHARACTER.search(text) is not None


def holds_lost_character(text: str) -> bool:
    """Say whether a text holds U+FFFD, which stands where a character was lost."""
    return "\ufffd" in text


def separates_values(text: str) -> bool:
    """Say whether a text holds a backslash, which separates values (PS3.5 6.2)."""
    return "\\" in text


def fault_of(keyword: str, text: str) -> Fault | None:
    """Say why a decoded text cannot identify anybody, None where it can."""
    if holds_control_character(text):
        return Fault.CONTROL_CHARACTER
    if holds_no_character(text):
        return Fault.UNDECODABLE
    if holds_lost_character(text):
        return Fault.LOST_CHARACTER
    # Several referring physicians are no other patient: the attribute is left out.
    if keyword != "ReferringPhysicianName" and separates_values(text):
        return Fault.SEVERAL_VALUES
    return None


def agree(one: str | None, other: str | None) -> bool:
    """Say whether two values that identify are one: both exact, and their texts equal without padding.

    Nothing is folded: no case, no width, no normal form of Unicode.

    Parameters
    ----------
    one, other
        None where the bytes are no exact text; that agrees with nothing, not even with itself.
    """
    return one is not None and other is not None and without_padding(one) == without_padding(other)


def exact_text(header: StudyHeader, name: str) -> str | None:
    """Return what a header says under a name of `KEYWORDS`; None where the bytes received are no exact text."""
    received = _received(header, name)
    if received is not None and received.text is None:
        return None
    text: str = getattr(header.identity if name in IDENTITY else header, name)
    return None if fault_of(KEYWORDS[name], text) else text


def _received(header: StudyHeader, name: str) -> IdentifyingText | None:
    return next((one for one in header.identifying if one.keyword == KEYWORDS[name]), None)


def contradictions(headers: Iterable[StudyHeader], names: Sequence[str] = IDENTITY) -> tuple[str, ...]:
    """Name the identity attributes in which headers contradict one another, in a fixed order.

    A value that is no exact text contradicts everything. An empty AccessionNumber, issuer or birth date says
    nothing and contradicts nobody; an empty PatientID contradicts one that is there.
    """
    compared = tuple(headers)
    return tuple(name for name in names if _contradict(name, [exact_text(one, name) for one in compared]))


def _contradict(name: str, texts: Sequence[str | None]) -> bool:
    stated = [one for one in texts if not says_nothing(name, one)]
    return any(not agree(stated[0], one) for one in stated)


def says_nothing(name: str, text: str | None) -> bool:
    """Say whether a value is empty where that is no statement: a capture without an order is nobody else's."""
    return name != "patient_id" and text is not None and not without_padding(text)


def changes(first: StudyHeader, repeated: StudyHeader) -> bool:
    """Say whether a repeated copy carries another identity than the first, or one that the first lacks.

    A copy of one that is no exact text may be the mended one, so a person has to see it.
    """
    return bool(contradictions((first, repeated)) or inexact((first,))) or any(
        says_nothing(name, exact_text(first, name)) and not says_nothing(name, exact_text(repeated, name))
        for name in IDENTITY
    )


def with_identity_of(header: StudyHeader, others: Iterable[StudyHeader]) -> StudyHeader:
    """Return a header with what it lacks of the identity, from headers that do not contradict it."""
    found = {name: exact_text(header, name) for name in IDENTITY}
    for other in others:
        found |= {
            name: exact_text(other, name)
            for name, text in found.items()
            if text is not None and says_nothing(name, text)
        }
    identity = replace(header.identity, **{name: text for name, text in found.items() if text})
    return replace(header, identity=identity)


def unvouched(header: StudyHeader, vouching: Iterable[StudyHeader]) -> tuple[str, ...]:
    """Name what identifies in a header and stands in none of the others."""
    every = tuple(vouching)
    return tuple(
        name
        for name in KEYWORDS
        if exact_text(header, name) != ""
        and not any(agree(exact_text(header, name), exact_text(one, name)) for one in every)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inexact:
    """A value that identifies and is no exact text."""

    keyword: str
    fault: Fault
    #: What it was decoded with.
    character_set: str = ""


def inexact(headers: Iterable[StudyHeader]) -> tuple[Inexact, ...]:
    """Return what identifies and is no exact text, each kind once."""
    found = (_inexact(header, name) for header in headers for name in KEYWORDS)
    return tuple(dict.fromkeys(one for one in found if one is not None))


def _inexact(header: StudyHeader, name: str) -> Inexact | None:
    if exact_text(header, name) is not None:
        return None
    received = _received(header, name)
    text: str = getattr(header.identity if name in IDENTITY else header, name)
    fault = (received.fault if received else None) or fault_of(KEYWORDS[name], text) or Fault.UNDECODABLE
    return Inexact(keyword=KEYWORDS[name], fault=fault, character_set=received.character_set if received else "")


def say_inexact(found: Sequence[Inexact]) -> str:
    """Say in words which attributes cannot be read exactly and why, without their values."""
    said = (
        f"{one.keyword} {FAULT_WORDS[one.fault]}"
        + (f" ({one.character_set})" if one.character_set and one.fault is Fault.UNDECODABLE else "")
        for one in found
    )
    return "; ".join(dict.fromkeys(said))
