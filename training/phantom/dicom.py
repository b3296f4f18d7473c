"""A phantom as a DICOM study: one frontal radiograph, DX or CR, with the headers a PACS would send.

Everything follows from the seed: patient, study, UIDs, stored values and codec, so that the same seed always
gives the same bytes. The patients do not exist.
"""

import uuid
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from training.phantom.codecs import compress
from training.phantom.film import Plane
from training.phantom.findings import Findings
from training.phantom.phantom import draw_phantom
from training.phantom.report import LANGUAGES, write_report

#: Root of every name-based UID of a phantom.
_NAMESPACE = uuid.UUID("6f0a7c57-6a35-5f0f-9d5e-3b1f7d6a90c2")
#: Long side of the detector, in millimetres.
_DETECTOR_MM = 430.0
#: Transfer syntaxes a phantom can be stored in; all of them keep every stored value.
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLosslessSV1,
)
BITS_STORED = (12, 14, 16)

_FAMILY_NAMES = (
    ("Fantom", ""),
    ("Specimen", ""),
    ("Sample", ""),
    ("Müller-Probe", ""),
    ("O'Model", ""),
    ("Wang", "王"),
    ("Li", "李"),
    ("Chen", "陈"),
)
_GIVEN_NAMES = (
    ("Ada", "爱达", "F"),
    ("Bruno", "博诺", "M"),
    ("Chloé", "可莉", "F"),
    ("Daniel", "丹", "M"),
    ("Elif", "艾丽", "F"),
    ("Farid", "法立", "M"),
    ("Mei", "梅", "F"),
    ("Jun", "军", "M"),
)


class Modality(StrEnum):
    """What made the film."""

    #: A digital detector; Digital X-Ray Image, for presentation.
    DX = "DX"
    #: A storage plate; Computed Radiography Image.
    CR = "CR"


class Photometric(StrEnum):
    """(0028,0004) Photometric Interpretation of a grey image (PS3.3 C.7.6.3.1.2)."""

    #: The lowest value is white.
    MONOCHROME1 = "MONOCHROME1"
    #: The lowest value is black.
    MONOCHROME2 = "MONOCHROME2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How the film is stored."""

    modality: Modality
    photometric: Photometric
    #: (0028,0101) Bits Stored: 12, 14 or 16, of 16 allocated.
    bits_stored: int
    transfer_syntax_uid: UID


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomStudy:
    """A study with the truth about it."""

    seed: int
    storage: Storage
    #: One frontal image, complete with file meta information.
    dataset: FileDataset
    findings: Findings
    #: Right answer id of every check.
    answers: dict[str, str]
    #: Report per language.
    reports: dict[str, str]

    @property
    def study_instance_uid(self) -> str:
        """Return the Study Instance UID."""
        return str(self.dataset.StudyInstanceUID)


def draw_storage(seed: int) -> Storage:
    """Draw how the phantom of `seed` is stored; consecutive seeds go through all combinations in turn."""
    modalities, photometrics = tuple(Modality), tuple(Photometric)
    # The codec changes with every seed, so eight studies in a row show all codecs and every other choice.
    codecs = len(TRANSFER_SYNTAXES)
    return Storage(
        modality=modalities[(seed + seed // codecs) % 2],
        photometric=photometrics[(seed // 2 + seed // codecs) % 2],
        bits_stored=BITS_STORED[(seed + seed // codecs) % 3],
        transfer_syntax_uid=TRANSFER_SYNTAXES[seed % codecs],
    )


def build_study(
    seed: int,
    *,
    findings: Findings | None = None,
    storage: Storage | None = None,
    performed_at: datetime | None = None,
) -> PhantomStudy:
    """Build the study of one phantom.

    Parameters
    ----------
    seed
        Gives everything that is not given here.
    findings
        What the phantom has.
    storage
        How it is stored.
    performed_at
        When the study was performed, local time of the department.

    Returns
    -------
        The study; the same arguments give the same bytes.
    """
    phantom = draw_phantom(seed, findings)
    chosen = storage or draw_storage(seed)
    rng = np.random.default_rng([seed, 2])
    dataset = _empty_file(seed, chosen)
    _add_patient_and_study(dataset, seed, rng, performed_at)
    _add_equipment_and_series(dataset, seed, chosen, rng)
    _add_image(dataset, phantom.film, chosen, rng)
    if chosen.transfer_syntax_uid.is_compressed:
        compress(dataset, chosen.transfer_syntax_uid)
    return PhantomStudy(
        seed=seed,
        storage=chosen,
        dataset=dataset,
        findings=phantom.findings,
        answers=phantom.findings.answers(),
        reports={language: write_report(phantom.findings, language) for language in LANGUAGES},
    )


def write_study(study: PhantomStudy, directory: Path) -> list[Path]:
    """Write every image of the study below `directory` and return the paths, named by SOP Instance UID."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{study.dataset.SOPInstanceUID}.dcm"
    study.dataset.save_as(path, enforce_file_format=True)
    return [path]


def store(film: Plane, storage: Storage, rng: np.random.Generator) -> tuple[NDArray[np.uint16], float, float]:
    """Turn display values into stored values and the window that shows them again (PS3.3 C.11.2.1.2.1).

    Returns
    -------
        Stored values of the shape of `film`, window centre and window width. What lies outside [0, 1] on the
        film lies outside the window, as far as the stored bits reach.
    """
    full = 2**storage.bits_stored - 1
    span = round(full * rng.uniform(0.55, 0.75))
    black = round(full * rng.uniform(0.08, 0.18))
    shown = film if storage.photometric is Photometric.MONOCHROME2 else 1.0 - film
    stored = np.clip(np.rint(black + span * shown), 0, full).astype(np.uint16)
    # The standard's linear window runs from centre - 0.5 - (width - 1) / 2 over width - 1.
    return stored, black + span / 2 + 0.5, span + 1.0


def _empty_file(seed: int, storage: Storage) -> FileDataset:
    meta = FileMetaDataset()
    dx = storage.modality is Modality.DX
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation if dx else ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = _uid(seed, "instance")
    # A compressed object is built plain first; `compress` then sets the transfer syntax.
    plain = ExplicitVRLittleEndian if storage.transfer_syntax_uid.is_compressed else storage.transfer_syntax_uid
    meta.TransferSyntaxUID = plain
    meta.ImplementationClassUID = _uid(0, "implementation")
    meta.ImplementationVersionName = "WETREAD_PHANTOM"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    return dataset


def _add_patient_and_study(
    dataset: Dataset, seed: int, rng: np.random.Generator, performed_at: datetime | None
) -> None:
    family, family_zh = _FAMILY_NAMES[int(rng.integers(len(_FAMILY_NAMES)))]
    given, given_zh, sex = _GIVEN_NAMES[int(rng.integers(len(_GIVEN_NAMES)))]
    drawn = datetime(2026, 1, 5, 7, 30) + timedelta(  # noqa: DTZ001 (DICOM dates are local without a zone)
        days=int(rng.integers(0, 300)), minutes=int(rng.integers(0, 600))
    )
    performed = performed_at or drawn
    born = date(1930, 1, 1) + timedelta(days=int(rng.integers(0, 27_000)))
    age = performed.year - born.year - ((performed.month, performed.day) < (born.month, born.day))

    dataset.PatientName = f"{family}^{given}" + (f"={family_zh}^{given_zh}" if family_zh else "")
    dataset.PatientID = f"PHANTOM{seed:07d}"
    dataset.IssuerOfPatientID = "WETREAD-PHANTOM"
    dataset.PatientBirthDate = f"{born:%Y%m%d}"
    dataset.PatientSex = sex
    dataset.PatientAge = f"{age:03d}Y"

    dataset.StudyInstanceUID = _uid(seed, "study")
    dataset.StudyDate = dataset.SeriesDate = f"{performed:%Y%m%d}"
    dataset.StudyTime = f"{performed:%H%M%S}"
    taken = performed + timedelta(minutes=4)
    dataset.SeriesTime = f"{taken:%H%M%S}"
    dataset.AcquisitionDate = dataset.ContentDate = f"{taken:%Y%m%d}"
    dataset.AcquisitionTime = dataset.ContentTime = f"{taken:%H%M%S}"
    dataset.AccessionNumber = f"A{seed:09d}"
    dataset.StudyID = f"{seed % 100_000:05d}"
    dataset.ReferringPhysicianName = "Referrer^Synthetic"
    dataset.StudyDescription = "Chest PA"
    dataset.ProcedureCodeSequence = Sequence([_code("168537006", "SCT", "Plain radiography")])


def _add_equipment_and_series(dataset: Dataset, seed: int, storage: Storage, rng: np.random.Generator) -> None:
    dataset.Modality = storage.modality.value
    dataset.SeriesInstanceUID = _uid(seed, "series")
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = "PA"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.Manufacturer = "Wetread"
    dataset.ManufacturerModelName = "Phantom"
    dataset.InstitutionName = "Synthetic Hospital"
    dataset.StationName = f"{storage.modality.value}{1 + seed % 3:02d}"
    dataset.SoftwareVersions = "1"
    dataset.DeviceSerialNumber = "1"
    dataset.KVP = round(rng.uniform(80, 130))
    if storage.modality is Modality.CR:
        dataset.PlateType = ""
        return
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.AnatomicRegionSequence = Sequence([_code("51185008", "SCT", "Chest")])
    view = _code("272479007", "SCT", "postero-anterior")
    view.ViewModifierCodeSequence = Sequence([])
    dataset.ViewCodeSequence = Sequence([view])
    dataset.DetectorType = "DIRECT"
    dataset.PositionerType = "COLUMN"
    dataset.AcquisitionContextSequence = Sequence([])


def _add_image(dataset: Dataset, film: Plane, storage: Storage, rng: np.random.Generator) -> None:
    stored, center, width = store(film, storage, rng)
    rows, columns = stored.shape
    spacing_mm = _DETECTOR_MM / rows
    inverted = storage.photometric is Photometric.MONOCHROME1
    dataset.InstanceNumber = 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY"] + ([""] if storage.modality is Modality.DX else [])
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageLaterality = "U"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = storage.photometric.value
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = 16
    dataset.BitsStored = storage.bits_stored
    dataset.HighBit = storage.bits_stored - 1
    dataset.PixelRepresentation = 0
    dataset.ImagerPixelSpacing = [round(spacing_mm, 4)] * 2
    dataset.WindowCenter, dataset.WindowWidth = center, width
    if storage.modality is Modality.DX:  # PS3.3 C.8.11.3 asks for these, the CR image has no place for them
        dataset.PixelIntensityRelationship = "LOG"
        dataset.PixelIntensityRelationshipSign = 1 if inverted else -1
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
        dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.PixelData = stored.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _uid(seed: int, kind: str) -> UID:
    # PS3.5 B.2: a UID below 2.25 is the decimal value of a UUID.
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, f'{seed}/{kind}').int}")
