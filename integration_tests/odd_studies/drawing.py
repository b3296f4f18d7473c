"""A study in the making: the header of a phantom, its pixels, and what is changed in the bytes afterwards."""

import copy
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import numpy as np
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from integration_tests.odd_studies.data_set import RawDataSet, take_apart
from integration_tests.odd_studies.pictures import Film, Pixels, draw_pixels, film_of
from integration_tests.odd_studies.study import Expected, Identity, OddStudy, SentInstance, Side
from training.phantom.dicom import Modality, Photometric, Storage, build_study

T = TypeVar("T")
_NAMESPACE = uuid.UUID("2f3e9a4e-7c7f-5c39-9d0c-6f0e2b1f6f11")


def pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    """Draw one of several values."""
    return values[int(rng.integers(len(values)))]


@dataclass(slots=True, kw_only=True)
class DraftInstance:
    """One instance in the making."""

    header: Dataset
    pixels: Pixels | None
    #: Keyword -> VR and bytes to write, None to leave out; applied to the encoded data set.
    changes: dict[str, tuple[str, bytes] | None] = field(default_factory=dict)
    #: Takes the whole data set as it would be sent.
    finish: list[Callable[[RawDataSet], None]] = field(default_factory=list)
    may_be_shown: bool = True
    #: Says it is in another transfer syntax than it is in.
    syntax: str = ""

    def change(self, keyword: str, value: bytes, vr: str = "") -> None:
        """Write these bytes as the value of an element."""
        self.changes[keyword] = (vr, value)

    def leave_out(self, *keywords: str) -> None:
        """Leave elements out."""
        self.changes |= dict.fromkeys(keywords)

    def build(self) -> SentInstance:
        """Encode it."""
        syntax = str(self.pixels.syntax if self.pixels is not None else ExplicitVRLittleEndian)
        raw = take_apart(self.header, syntax)
        if self.pixels is not None:
            self.pixels.write(raw)
        for keyword, change in self.changes.items():
            if change is None:
                raw.remove(keyword)
            else:
                raw.set(keyword, change[1], change[0])
        for edit in self.finish:
            edit(raw)
        return SentInstance(
            sop_class_uid=str(self.header.SOPClassUID),
            sop_instance_uid=str(self.header.SOPInstanceUID),
            transfer_syntax_uid=self.syntax or syntax,
            data_set=raw.encode(),
        )


@dataclass(slots=True, kw_only=True)
class DraftStudy:
    """One study in the making."""

    side: Side
    seed: int
    rng: np.random.Generator
    film: Film
    instances: list[DraftInstance]
    identity: Identity
    expected: Expected
    done: list[str] = field(default_factory=list)
    sender: str = "CT01"

    @property
    def first(self) -> DraftInstance:
        """Return the film."""
        return self.instances[0]

    @property
    def pixels(self) -> Pixels:
        """Return the pixels of the film."""
        assert self.first.pixels is not None
        return self.first.pixels

    def set_pixels(self, pixels: Pixels) -> None:
        """Store the film in another way."""
        self.first.pixels = pixels

    def add(self, *, pixels: bool = False, **values: object) -> DraftInstance:
        """Add another instance of the same patient and study, without pixels unless asked for."""
        header = copy.deepcopy(self.first.header)
        number = len(self.instances) + 1
        header.SOPInstanceUID = uid_of(self.side, self.seed, f"instance {number}")
        header.SeriesInstanceUID = uid_of(self.side, self.seed, f"series {number}")
        header.InstanceNumber = header.SeriesNumber = number
        for keyword, value in values.items():
            setattr(header, keyword, value)
        added = DraftInstance(
            header=header,
            pixels=draw_pixels(self.film, self.rng, syntax=ExplicitVRLittleEndian, form="window") if pixels else None,
            changes=dict(self.first.changes),
            may_be_shown=pixels,
        )
        self.instances.append(added)
        return added

    def build(self, kind: str) -> OddStudy:
        """Encode the study."""
        instances = tuple(one.build() for one in self.instances)
        shown = [one.pixels for one in self.instances if one.pixels is not None]
        meant = [one.pixels for one in self.instances if one.pixels is not None and one.may_be_shown]
        pixels = (meant or shown)[0]
        return OddStudy(
            side=self.side,
            seed=self.seed,
            kind=kind,
            done="; ".join(self.done),
            expected=self.expected,
            study_instance_uid=str(self.first.header.StudyInstanceUID),
            instances=instances,
            identity=self.identity,
            picture=pixels.shown,
            may_be_shown=frozenset(
                one.sop_instance_uid for one, draft in zip(instances, self.instances, strict=True) if draft.may_be_shown
            ),
            sender=self.sender,
            tolerance=pixels.tolerance,
        )


def uid_of(side: Side, seed: int, what: str) -> str:
    """Return a UID of its own (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, f'{side}/{seed}/{what}').int}"


def begin(side: Side, seed: int) -> DraftStudy:
    """Begin a study with a sound film of a patient of its own, plainly stored."""
    rng = np.random.default_rng([seed, list(Side).index(side), 8])
    film = film_of(int(rng.integers(10_000)))
    header = copy.deepcopy(_header(seed % 2))
    header.SOPInstanceUID = uid_of(side, seed, "instance")
    header.SeriesInstanceUID = uid_of(side, seed, "series")
    header.StudyInstanceUID = uid_of(side, seed, "study")
    sign = "O" if side is Side.ODD else "S"
    identity = Identity(
        patient_id=f"{sign}{seed:07d}",
        issuer_of_patient_id="WETREAD-PHANTOM",
        patient_birth_date=f"{1930 + seed % 70}{1 + seed % 12:02d}{1 + seed % 28:02d}",
        accession_number=f"{sign}{seed:09d}",
        patient_name=f"Fantom^{sign}{seed}",
    )
    header.PatientID = identity.patient_id
    header.IssuerOfPatientID = identity.issuer_of_patient_id
    header.PatientBirthDate = identity.patient_birth_date
    header.AccessionNumber = identity.accession_number
    header.PatientName = identity.patient_name
    draft = DraftStudy(
        side=side,
        seed=seed,
        rng=rng,
        film=film,
        instances=[],
        identity=identity,
        expected=Expected.RIGHT,
    )
    syntax = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)[int(rng.integers(2))]
    draft.instances.append(DraftInstance(header=header, pixels=draw_pixels(film, rng, syntax=syntax, form="window")))
    return draft


@lru_cache(maxsize=2)
def _header(number: int) -> Dataset:
    storage = Storage(
        modality=(Modality.DX, Modality.CR)[number],
        photometric=Photometric.MONOCHROME2,
        bits_stored=12,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    dataset = build_study(78_000_001 + number, storage=storage).dataset
    header = Dataset({element.tag: element for element in dataset if element.tag < 0x7FE00000})
    # What carries our name is taken for a result of ours.
    header.Manufacturer = "Example Works"
    # Written with the pixels.
    for keyword in ("PresentationLUTShape", "PixelIntensityRelationshipSign"):
        if keyword in header:
            delattr(header, keyword)
    return header
