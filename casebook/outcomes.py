"""What a step body says of its job: frozen records that `flow.advance` turns into rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from casebook.reading import Reading
from casebook.study import Difference, Prior, ReceivedInstance


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """`read` ended with a draft."""

    reading: Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """`read` declined: the study is not what the model was made for, or nothing of it can be read."""

    #: Static snake_case reason.
    reason: str
    #: Plain sentence for the operator, without patient data.
    detail: str


#: Reasons of `Held.only_this_output`: the study itself is in order, so a new image of it is read all the same.
ONE_OUTPUT = frozenset({"accession_number_empty", "text_unencodable", "text_unwritable"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A person has to decide before anything goes on."""

    reason: str
    detail: str
    #: Only this destination cannot be served; the other outputs of the study are as right as before.
    only_this_output: bool = False
    #: What the two sides say, where they differ.
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`prepare` rendered one output for one destination: the exact bytes that will be sent."""

    #: "sr" or "oru".
    kind: str
    content: bytes
    #: SOP Instance UID of an SR, MSH-10 of an HL7 message.
    object_uid: str
    #: SOP Class UID of an SR, message type of an HL7 message.
    object_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """`send` was acknowledged."""

    #: DIMSE status ("0x0000") or MSA-1.
    acknowledgement: str
    #: What the destination accepted in this association: SOP Class UID to transfer syntaxes; empty for HL7.
    negotiated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


#: Reasons of `Classed`: a copy is damaged, so that nobody can say what it shows.
UNREADABLE, FIRST_COPY_UNREADABLE = "unreadable", "first_copy_unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Classed:
    """`classify` compared a repeated SOP Instance UID with the first copy."""

    #: True where identity and decoded pixels agree.
    is_variant: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """`count` asked the archive how many images the study has."""

    #: Images the archive has, without our own results.
    expected: int
    #: Objects fetched from the archive, already durable.
    pulled: tuple[ReceivedInstance, ...] = ()
    #: Earlier studies of the patient, fetched for the reader.
    priors: tuple[Prior, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A line for the timeline of a study."""

    #: Static name in the past tense.
    action: str
    #: Without patient data.
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """What stands before a step let it begin."""

    notes: tuple[Note, ...] = ()


Outcome = Drafted | Refused | Held | Prepared | Delivered | Classed | Counted
