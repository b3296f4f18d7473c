"""What is shown and of whom: projections, species, and objects that are no pictures of the patient."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from integration_tests.odd_studies.drawing import DraftInstance, DraftStudy, pick
from integration_tests.odd_studies.pictures import draw_pixels
from integration_tests.odd_studies.study import Expected

Kind = Callable[[DraftStudy], None]

#: ViewPosition as senders write it, of films from the side or at an angle.
_SIDEWAYS = (
    "LATERAL", "LAT", "LL", "RL", "L LAT", "LT LAT", "LEFT LATERAL", "RLAT", "LLAT", "XTABLE LATERAL", "XTABLE", "X-TABLE LAT",
    "CROSS TABLE LATERAL", "LAO", "RAO", "LPO", "RPO", "OBLIQUE", "LATERAL DECUB", "SWIMMERS", "LLO", "RLO", "SITTING LATERAL",
)  # fmt: skip
#: Words of a series description of films from the side, where no ViewPosition stands.
_SIDEWAYS_SERIES = (
    "Thorax lateral",
    "CHEST LAT",
    "Chest Lateral",
    "胸部侧位",
    "LL Thorax",
    "Thorax seitlich",
    "XTABLE LAT",
    "胸部側面",
    "Klatka piersiowa boczna",
    "Грудная клетка, боковая",
    "흉부 측면",
    "Thorax OAD",
)
#: View codes of films from the side (PS3.16 CID 4010), SCT and the older SRT.
_SIDEWAYS_CODES = (
    ("399198007", "SCT", "left lateral"),
    ("399173006", "SCT", "right lateral"),
    ("399067008", "SCT", "lateral projection"),
    ("R-10236", "SRT", "left lateral"),
    ("R-10232", "SRT", "right lateral"),
    ("399089002", "SCT", "left anterior oblique"),
)
_FRONTAL = ("PA", "AP", "pa", "AP SUPINE", "PA ERECT", "AP PORTABLE", "AP SITTING")
_FRONTAL_CODES = (
    ("272479007", "SCT", "postero-anterior"),
    ("399348003", "SCT", "antero-posterior"),
    ("R-10214", "SRT", "postero-anterior"),
    ("R-10206", "SRT", "antero-posterior"),
)


def _say_nothing_of_the_view(instance: DraftInstance) -> None:
    instance.leave_out("ViewCodeSequence", "PatientOrientation")
    instance.change("ViewPosition", b"")
    instance.change("SeriesDescription", b"")
    instance.change("StudyDescription", b"Chest")


def _code(value: str, scheme: str, meaning: str) -> Sequence:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    code.ViewModifierCodeSequence = Sequence([])
    return Sequence([code])


def _sideways_position(draft: DraftStudy) -> None:
    word = str(pick(draft.rng, _SIDEWAYS))
    _say_nothing_of_the_view(draft.first)
    draft.first.change("ViewPosition", word.encode("ascii"))
    draft.expected = Expected.NO_DRAFT
    draft.done.append(f"ViewPosition {word!r}")


def _sideways_series(draft: DraftStudy) -> None:
    words = str(pick(draft.rng, _SIDEWAYS_SERIES))
    _say_nothing_of_the_view(draft.first)
    draft.first.change("SeriesDescription", words.encode())
    draft.expected = Expected.NO_DRAFT
    draft.done.append(f"SeriesDescription {words!r}")


def _sideways_code(draft: DraftStudy) -> None:
    value, scheme, meaning = pick(draft.rng, _SIDEWAYS_CODES)
    draft.first.header.ViewCodeSequence = _code(value, scheme, meaning)
    draft.first.change("ViewPosition", b"")
    draft.first.change("SeriesDescription", b"")
    draft.first.leave_out("PatientOrientation")
    draft.expected = Expected.NO_DRAFT
    draft.done.append(f"ViewCodeSequence {value} {scheme}")


def _sideways_orientation(draft: DraftStudy) -> None:
    orientation = pick(draft.rng, ("A\\F", "P\\F", "A\\H", "AL\\F", "P\\FR"))
    _say_nothing_of_the_view(draft.first)
    draft.first.change("PatientOrientation", orientation.encode("ascii"))
    draft.expected = Expected.NO_DRAFT
    draft.done.append(f"PatientOrientation {orientation!r}")


def _unknown_position(draft: DraftStudy) -> None:
    word = pick(draft.rng, ("SPECIAL", "XYZ", "VIEW 2", "TUNNEL", "AXIAL", "ZZ"))
    _say_nothing_of_the_view(draft.first)
    draft.first.change("ViewPosition", word.encode("ascii"))
    draft.expected = Expected.RIGHT_OR_NONE
    draft.done.append(f"ViewPosition {word!r}, which nobody knows")


def _sideways_beside(draft: DraftStudy) -> None:
    """Put a film from the side beside the frontal one, in either order."""
    other = draft.add(pixels=True)
    word = str(pick(draft.rng, _SIDEWAYS))
    other.change("ViewPosition", word.encode("ascii"))
    other.leave_out("ViewCodeSequence", "PatientOrientation")
    other.change("SeriesDescription", b"LATERAL")
    # Another film, so that its picture is another one.
    assert other.pixels is not None
    other.pixels.values = np.ascontiguousarray(other.pixels.values[::-1, ::-1])
    other.may_be_shown = False
    if draft.rng.random() < 0.5:
        draft.first.header.InstanceNumber, other.header.InstanceNumber = 2, 1
        draft.first.header.SeriesNumber, other.header.SeriesNumber = 2, 1
    draft.done.append(f"a film of ViewPosition {word!r} beside the frontal one")


def _frontal_words(draft: DraftStudy) -> None:
    _say_nothing_of_the_view(draft.first)
    if draft.rng.random() < 0.5:
        word = str(pick(draft.rng, _FRONTAL))
        draft.first.change("ViewPosition", word.encode("ascii"))
        draft.done.append(f"ViewPosition {word!r}")
    else:
        value, scheme, meaning = pick(draft.rng, _FRONTAL_CODES)
        del draft.first.changes["ViewCodeSequence"]
        draft.first.header.ViewCodeSequence = _code(value, scheme, meaning)
        draft.done.append(f"ViewCodeSequence {value} {scheme}")


#: Attributes that say that the patient is no person: keyword, VR, value.
_ANIMALS = (
    ("PatientSpeciesDescription", "LO", b"Canine"),
    ("PatientSpeciesDescription", "LO", b"Felis catus"),
    ("PatientSpeciesDescription", "LO", b"EQUINE"),
    ("PatientBreedDescription", "LO", b"Labrador retriever"),
    ("PatientSexNeutered", "CS", b"ALTERED"),
    ("PatientSexNeutered", "CS", b"UNALTERED"),
    ("ResponsiblePersonRole", "CS", b"OWNER"),
    ("SeriesDescription", "LO", b"CANINE THORAX VD"),
    ("SeriesDescription", "LO", b"Dog thorax"),
    ("SeriesDescription", "LO", b"Feline chest"),
    ("SeriesDescription", "LO", b"Thorax Labrador"),
    ("SeriesDescription", "LO", "イヌ胸部".encode()),
    ("SeriesDescription", "LO", "Собака, грудная клетка".encode()),
)


def _animal(draft: DraftStudy) -> None:
    keyword, vr, value = pick(draft.rng, _ANIMALS)
    draft.first.change(keyword, value, vr)
    draft.expected = Expected.RIGHT_OR_NONE if keyword == "PatientBreedDescription" else Expected.NO_DRAFT
    draft.done.append(f"{keyword} {value!r}")


def _animal_by_code(draft: DraftStudy) -> None:
    value, scheme, meaning = pick(
        draft.rng,
        (
            ("448771007", "SCT", "Canis lupus subspecies familiaris"),
            ("L-80700", "SRT", "Canine species"),
            ("448169003", "SCT", "Felis catus"),
        ),
    )
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    draft.first.header.PatientSpeciesCodeSequence = Sequence([code])
    draft.expected = Expected.NO_DRAFT
    draft.done.append(f"PatientSpeciesCodeSequence {value}")


def _person_by_code(draft: DraftStudy) -> None:
    if draft.rng.random() < 0.5:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "337915000", "SCT", "homo sapiens"
        draft.first.header.PatientSpeciesCodeSequence = Sequence([code])
    else:
        draft.first.change("PatientSpeciesDescription", b"Homo sapiens", "LO")
        draft.first.change("PatientSexNeutered", b"", "CS")
    draft.done.append("said to be a person")


def _as_capture(draft: DraftStudy, instance: DraftInstance, image_type: str, **values: object) -> None:
    instance.header.SOPClassUID = SecondaryCaptureImageStorage
    instance.header.ConversionType = "WSD"
    for keyword, value in values.items():
        setattr(instance.header, keyword, value)
    instance.change("ImageType", image_type.encode("ascii"), "CS")
    instance.pixels = draw_pixels(draft.film, draft.rng, syntax=ExplicitVRLittleEndian, form="no window")
    # A page: mostly black, with letters.
    instance.pixels.values[:] = instance.pixels.values.min()
    instance.pixels.values[::9, ::3] = 2**7 - 1
    instance.may_be_shown = False


#: ImageType of objects that are no pictures of the patient.
_NO_PICTURES = (
    "DERIVED\\SECONDARY\\DOSE_INFO", "DERIVED\\SECONDARY\\SCREEN SAVE", "DERIVED\\SECONDARY\\PATIENT_INFO",
    "DERIVED\\SECONDARY\\OTHER", "ORIGINAL\\PRIMARY\\LOCALIZER",
)  # fmt: skip


def _capture_alone(draft: DraftStudy) -> None:
    image_type = str(pick(draft.rng, _NO_PICTURES))
    _as_capture(draft, draft.first, image_type)
    draft.expected = Expected.NO_DRAFT
    draft.done.append(f"only a secondary capture, ImageType {image_type!r}")


def _capture_beside(draft: DraftStudy) -> None:
    image_type = str(pick(draft.rng, _NO_PICTURES))
    other = draft.add(pixels=True)
    _as_capture(draft, other, image_type, Modality=pick(draft.rng, ("OT", "DX", "CR", "SC")))
    if draft.rng.random() < 0.5:
        draft.instances.reverse()
        draft.first.header.InstanceNumber = 1
    draft.done.append(f"a secondary capture beside the film, ImageType {image_type!r}")


def _burned_in(draft: DraftStudy) -> None:
    draft.first.change("BurnedInAnnotation", b"YES", "CS")
    draft.first.change("ImageType", str(pick(draft.rng, _NO_PICTURES[:3])).encode("ascii"), "CS")
    draft.expected = Expected.NO_DRAFT
    draft.done.append("BurnedInAnnotation YES and an ImageType of no picture")


#: Legal: a person's frontal film, however it is said.
SOUND: Mapping[str, Kind] = MappingProxyType({"frontal words": _frontal_words, "a person": _person_by_code})

#: Odd: another view, another species, no picture.
ODD: Mapping[str, Kind] = MappingProxyType(
    {
        "ViewPosition from the side": _sideways_position,
        "SeriesDescription from the side": _sideways_series,
        "ViewCodeSequence from the side": _sideways_code,
        "PatientOrientation from the side": _sideways_orientation,
        "unknown ViewPosition": _unknown_position,
        "film from the side beside": _sideways_beside,
        "animal": _animal,
        "animal by code": _animal_by_code,
        "capture alone": _capture_alone,
        "capture beside": _capture_beside,
        "burned in": _burned_in,
    }
)
