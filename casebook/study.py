"""A study as Wetread sees it: its states, its instances and whose it is."""

from dataclasses import dataclass, field
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


class Demographic(StrEnum):
    """What is usually the same in all images of a study, and may be written otherwise without another patient."""

    PATIENT_NAME = "patient_name"
    PATIENT_SEX = "patient_sex"

    @property
    def keyword(self) -> str:
        """Its DICOM keyword."""
        return {"patient_name": "PatientName", "patient_sex": "PatientSex"}[self]


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
