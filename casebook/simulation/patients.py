"""What a modality sends: studies with everything that goes wrong with studies, drawn from a seed."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from casebook.study import ReceivedInstance
from casebook.testing import a_received_instance

#: Stands in every header and every foreign error; must never be found in what an operator sees.
PLANTED_NAME = "PLANTED^PATIENT"
QUIET_PERIOD_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One object as a modality sends it."""

    study_instance_uid: str
    sop_instance_uid: str
    patient_id: str
    pixels: str
    #: Differs in what identity and pixels do not tell: transfer syntax, header edits.
    edition: int = 0
    modality: str = "DX"
    #: The comparison of its copies fails for good.
    is_incomparable: bool = False

    @property
    def sha256(self) -> str:
        """SHA-256 of its bytes."""
        return hashlib.sha256(self._content()).hexdigest()

    def _content(self) -> bytes:
        return f"{self.sop_instance_uid}|{self.patient_id}|{self.pixels}|{self.edition}".encode()

    def received(self, *, path: str, at: float, is_own: bool = False, place: int = 0) -> ReceivedInstance:
        """Describe it as the indexer does; `place` is that in the order of acknowledgements."""
        return a_received_instance(
            study=self.study_instance_uid,
            sop_instance_uid=self.sop_instance_uid,
            content=self._content(),
            patient_id=self.patient_id,
            modality=self.modality,
            path=path,
            received_at=at,
            quiet_period_s=QUIET_PERIOD_S,
            is_own=is_own,
            acknowledged_ns=place,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One study: which image is sent how many seconds after the first, and how its steps go."""

    study_instance_uid: str
    begins_at_s: float
    sends: tuple[tuple[float, Image], ...]
    #: Images the archive knows from the beginning; late ones are made later.
    first_images: int
    is_refused: bool
    #: Attempts of `read` that end in an error, or in the death of the worker.
    failing_reads: int
    deadly_reads: int
    read_takes_s: float
    #: Destinations that refuse its results until a person has retried.
    rejected_by: frozenset[str]
    #: Seconds after the first image at which the archive moves the study to another patient; None: never.
    moved_after_s: float | None
    #: Whether its results wait for an archive that does not answer, or go on without it.
    is_check_required: bool
    #: A person looks after it when it is held or dead; nobody does for the others.
    has_a_friend: bool
    #: What is wrong with what is sent.
    troubles: tuple[str, ...]


def plan_studies(random: Random, count: int, during_s: float) -> Iterator[Plan]:
    """Draw the studies of one seed."""
    shared: Image | None = None
    for number in range(1, count + 1):
        uid = f"1.2.826.{number}"
        plan = _plan(random, uid, random.uniform(0.0, during_s), shared)
        shared = plan.sends[0][1]
        yield plan


def _plan(random: Random, uid: str, begins_at_s: float, other: Image | None) -> Plan:
    patient_id = f"P-{uid}"
    modality = "MR" if random.random() < 0.05 else "DX"

    def image(number: int, **changes: object) -> Image:
        values = {
            "study_instance_uid": uid,
            "sop_instance_uid": f"{uid}.1.{number}",
            "patient_id": patient_id,
            "pixels": f"pixels {number}",
            "modality": modality,
            **changes,
        }
        return Image(**values)  # type: ignore[arg-type]

    count = random.randint(1, 4)
    sends = [(random.uniform(0.0, 15.0), image(number)) for number in range(1, count + 1)]
    sends.sort(key=lambda one: one[0])
    troubles = []
    late = random.choice((0, 0, 0, 1, 1, 2)) if random.random() < 0.6 else 0
    sends += [(random.uniform(16.0, 400.0), image(count + number)) for number in range(1, late + 1)]
    troubles += ["late image"] * late
    if random.random() < 0.3:
        troubles.append("equal bytes sent again")
        sends.append((random.uniform(0.0, 300.0), random.choice(sends)[1]))  # equal bytes
    if random.random() < 0.12:
        troubles.append("variant under one UID")
        sends.append((random.uniform(1.0, 300.0), image(1, edition=2)))  # a variant
    if random.random() < 0.25:
        troubles.append("two copies at one moment")
        sends.append((sends[0][0] + 0.05, replace(sends[0][1], edition=4)))
    if random.random() < 0.06:
        troubles.append("other pixels under one UID")
        sends.append((random.uniform(1.0, 300.0), image(1, pixels="other pixels")))
    if random.random() < 0.03:
        troubles.append("copies that cannot be compared")
        sends.append((random.uniform(1.0, 300.0), image(1, edition=3, is_incomparable=True)))
    if random.random() < 0.06:
        troubles.append("two patients in one study")
        sends.append((random.uniform(0.0, 200.0), image(9, patient_id=f"{patient_id}-other")))
    if other is not None and random.random() < 0.04:
        troubles.append("one UID in two studies")
        sends.append((random.uniform(0.0, 100.0), image(8, sop_instance_uid=other.sop_instance_uid)))
    return Plan(
        study_instance_uid=uid,
        begins_at_s=begins_at_s,
        sends=tuple(sends),
        first_images=count,
        is_refused=random.random() < 0.05,
        failing_reads=random.choice((0, 0, 0, 0, 0, 1, 2, 6)),
        deadly_reads=random.choice((0,) * 12 + (1, 9)),
        read_takes_s=random.choice((0.5, 1.0, 2.0, 5.0, 90.0 if random.random() < 0.3 else 3.0)),
        moved_after_s=random.uniform(10.0, 120.0) if random.random() < 0.08 else None,
        is_check_required=random.random() < 0.5,
        rejected_by=frozenset(name for name in ("pacs", "ris") if random.random() < 0.03),
        has_a_friend=random.random() < 0.6,
        troubles=tuple(troubles),
    )
