"""What is drawn: a study, what was done to it, and what may become of it."""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

#: A picture whose model input differs more than this in the mean, in [0, 1], is wrong.
TOLERANCE = 0.02


class Expected(StrEnum):
    """What may become of a study."""

    #: It is delivered: the right picture was read, and the draft carries the right name.
    RIGHT = "delivered, and right"
    #: It is delivered and right, or it is refused or held with a reason.
    RIGHT_OR_NONE = "delivered and right, or no draft"
    #: It is refused or held, and nothing is sent.
    NO_DRAFT = "no draft"


class Side(StrEnum):
    """Which half of the proof a study belongs to."""

    #: Legal variation: none of these may be refused or held.
    SOUND = "sound"
    #: Damaged, contradictory or odd: none of these may go out wrong.
    ODD = "odd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What has to stand in the outputs, as text."""

    patient_id: str
    issuer_of_patient_id: str = ""
    patient_birth_date: str = ""
    accession_number: str = ""
    patient_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentInstance:
    """One instance as it goes over the wire."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OddStudy:
    """One study with the truth about it."""

    side: Side
    seed: int
    #: Name of its kind.
    kind: str
    #: What was done, in words.
    done: str
    expected: Expected
    study_instance_uid: str
    #: In the order in which they are sent.
    instances: tuple[SentInstance, ...]
    identity: Identity
    #: What the undamaged film shows, in [0, 1], shape (rows, columns).
    picture: NDArray[np.float32] = field(repr=False)
    #: SOP Instance UIDs a model may be shown.
    may_be_shown: frozenset[str]
    #: Calling AE title.
    sender: str = "CT01"
    #: How far the model's input may be from that of `picture`, in the mean.
    tolerance: float = TOLERANCE
