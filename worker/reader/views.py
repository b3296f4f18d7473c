"""Which images of a study the model sees, in which order and window; every choice has its reason.

Chest films: the frontal view, then the lateral one. Cross-sections and other stacks: evenly spaced slices of
the longest series. Objects that are no pictures of the patient are left out by their class.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from casebook.errors import UnreadablePixels
from worker.reader.decode import Fault, plain_faults, read_header
from worker.reader.pixels import Window
from worker.reader.registry import ImageEntry

#: Windows a model entry may name, over Hounsfield units.
NAMED_WINDOWS = MappingProxyType(
    {
        "lung": Window(center=-600, width=1500),
        "soft_tissue": Window(center=40, width=400),
        "bone": Window(center=400, width=1800),
        "brain": Window(center=40, width=80),
        "subdural": Window(center=75, width=215),
        "liver": Window(center=60, width=160),
    }
)
#: The window the image itself carries.
OWN_WINDOW = "own"

#: PS3.4 B.5: objects that carry no picture of the patient, by the beginning of their SOP Class UID.
_NO_PICTURES = MappingProxyType(
    {
        "1.2.840.10008.5.1.4.1.1.9.": "a waveform",
        "1.2.840.10008.5.1.4.1.1.11.": "a presentation state",
        "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
        "1.2.840.10008.5.1.4.1.1.66": "a registration or segmentation",
        "1.2.840.10008.5.1.4.1.1.67": "a real world value mapping",
        "1.2.840.10008.5.1.4.1.1.68.": "a surface scan",
        "1.2.840.10008.5.1.4.1.1.88.": "a structured report",
        "1.2.840.10008.5.1.4.1.1.91.": "annotations",
        "1.2.840.10008.5.1.4.1.1.104.": "an encapsulated document",
        "1.2.840.10008.5.1.4.1.1.481.": "a radiotherapy object",
        "1.2.840.10008.5.1.4.1.1.200.": "a protocol or display object",
        "1.2.840.10008.5.1.4.34.": "a radiotherapy or procedure object",
    }
)
_FILM_MODALITIES = frozenset({"CR", "DX", "RG", "XR"})
#: Digital X-Ray, Mammography and Intra-Oral "For Processing" (PS3.4 B.5): raw detector data, not for reading.
_FOR_PROCESSING = frozenset({f"1.2.840.10008.5.1.4.1.1.1.{number}.1" for number in (1, 2, 3)})
_LATERAL_WORDS = re.compile(r"\b(lat|lateral|ll|侧位)\b|侧位", re.IGNORECASE)
#: The attributes a choice needs; nothing else of a header is read.
_ATTRIBUTES = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "BodyPartExamined", "ViewPosition",
    "SeriesDescription", "ImageType", "SeriesNumber", "InstanceNumber", "NumberOfFrames", "Rows", "Columns",
    "ImagePositionPatient", "ImageOrientationPatient",
)  # fmt: skip


class Projection(IntEnum):
    """What a film shows, in the order in which a reader wants to see it."""

    #: PA: the standing patient.
    POSTERO_ANTERIOR = 0
    #: AP: the lying patient.
    ANTERO_POSTERIOR = 1
    #: Nothing says: most films without a view position are frontal.
    UNKNOWN = 2
    #: From the side.
    LATERAL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One object of the study, as far as choosing needs it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    modality: str
    body_part: str = ""
    projection: Projection = Projection.UNKNOWN
    is_localizer: bool = False
    series_number: int = 0
    instance_number: int = 0
    #: Place along the normal of the slice, in mm; None where the header does not say.
    position_mm: float | None = None
    frame_count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One image the model sees."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    #: One-based.
    frame_number: int
    #: Whether the object has more than one frame.
    is_multi_frame: bool
    #: Whether it is a whole film and not a slice of a stack.
    is_film: bool
    #: A name of `NAMED_WINDOWS` or `OWN_WINDOW`.
    window: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """One object the model does not see."""

    sop_instance_uid: str
    reason: str
    #: It is a picture that could not be read, which the reader of the draft should know.
    is_unreadable: bool = False
    #: It is a picture of another kind than the model was made for.
    is_foreign: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the model sees of a study and what it does not."""

    views: tuple[View, ...]
    skipped: tuple[Skipped, ...]


def describe(path: Path, *, sop_instance_uid: str = "") -> Candidate:
    """Read what choosing needs from the header of one object.

    Parameters
    ----------
    path
        A DICOM file.
    sop_instance_uid
        What the index knows the object as; counts more than the header.

    Raises
    ------
    UnreadablePixels
        When the file is no DICOM file or its header cannot be used.
    """
    with plain_faults(Fault.BAD_HEADER):
        header = read_header(path, _ATTRIBUTES)
        return Candidate(
            path=path,
            sop_class_uid=str(header.get("SOPClassUID", "")),
            sop_instance_uid=sop_instance_uid or str(header.get("SOPInstanceUID", "")),
            series_instance_uid=str(header.get("SeriesInstanceUID", "")),
            modality=str(header.get("Modality", "")),
            body_part=str(header.get("BodyPartExamined") or "").upper(),
            projection=_projection(header),
            is_localizer="LOCALIZER" in [str(value).upper() for value in header.get("ImageType") or ()],
            series_number=int(header.get("SeriesNumber") or 0),
            instance_number=int(header.get("InstanceNumber") or 0),
            position_mm=_position(header),
            frame_count=max(int(header.get("NumberOfFrames") or 1), 1),
        )


def why_no_picture(sop_class_uid: str) -> str | None:
    """Say what an object is that carries no picture of the patient, or None for one that may carry it."""
    return next((name for beginning, name in _NO_PICTURES.items() if sop_class_uid.startswith(beginning)), None)


def choose(candidates: Sequence[Candidate], image: ImageEntry) -> Choice:
    """Choose the images the model sees, at most `image.max_images`.

    Parameters
    ----------
    candidates
        Every object of the study that the model may see; the order does not matter.
    image
        How many images the model takes, and in which windows.

    Returns
    -------
        The views in the order in which the model sees them, and every other object with its reason.
    """
    pictures, skipped = _pictures(candidates)
    if not pictures:
        return Choice(views=(), skipped=tuple(skipped))
    films = [one for one in pictures if one.modality in _FILM_MODALITIES]
    views = _film_views(films, image) if films else _stack_views(pictures, image)
    seen = {view.sop_instance_uid for view in views}
    skipped += [
        Skipped(sop_instance_uid=one.sop_instance_uid, reason="the model takes no more images")
        for one in pictures
        if one.sop_instance_uid not in seen
    ]
    return Choice(views=tuple(views), skipped=tuple(skipped))


def _pictures(candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[Skipped]]:
    pictures: list[Candidate] = []
    skipped: list[Skipped] = []
    for one in candidates:
        what = why_no_picture(one.sop_class_uid)
        reason = f"{what}, not an image" if what else "a localizer" if one.is_localizer else ""
        if reason:
            skipped.append(Skipped(sop_instance_uid=one.sop_instance_uid, reason=reason))
        else:
            pictures.append(one)
    return _without(
        pictures, skipped, lambda one: one.sop_class_uid in _FOR_PROCESSING, "raw detector data beside its picture"
    )


def _without(
    pictures: list[Candidate], skipped: list[Skipped], unwanted: Callable[[Candidate], bool], reason: str
) -> tuple[list[Candidate], list[Skipped]]:
    # Left out only where something better remains.
    wanted = [one for one in pictures if not unwanted(one)]
    if not wanted or len(wanted) == len(pictures):
        return pictures, skipped
    left_out = [Skipped(sop_instance_uid=one.sop_instance_uid, reason=reason) for one in pictures if unwanted(one)]
    return wanted, skipped + left_out


def _film_views(films: Sequence[Candidate], image: ImageEntry) -> list[View]:
    ranked = sorted(films, key=lambda one: (one.projection, *_in_order(one)))
    frontal = [one for one in ranked if one.projection is not Projection.LATERAL]
    lateral = [one for one in ranked if one.projection is Projection.LATERAL]
    # The best frontal view, the lateral view, then what else there is.
    wanted = [*frontal[:1], *lateral[:1], *frontal[1:], *lateral[1:]]
    return [_view(one, 0, _window_names(one, image)[0], _film_reason(one)) for one in wanted[: image.max_images]]


def _film_reason(film: Candidate) -> str:
    return {
        Projection.POSTERO_ANTERIOR: "frontal, PA",
        Projection.ANTERO_POSTERIOR: "frontal, AP",
        Projection.UNKNOWN: "no view position, taken as frontal",
        Projection.LATERAL: "lateral",
    }[film.projection]


def _stack_views(pictures: Sequence[Candidate], image: ImageEntry) -> list[View]:
    series: dict[str, list[Candidate]] = {}
    for one in pictures:
        series.setdefault(one.series_instance_uid, []).append(one)
    # The longest series, the first of several.
    longest = min(
        series.values(),
        key=lambda group: (
            -sum(one.frame_count for one in group),
            group[0].series_number,
            group[0].series_instance_uid,
        ),
    )
    slices = [(one, frame) for one in sorted(longest, key=_in_order) for frame in range(one.frame_count)]
    windows = _window_names(longest[0], image)
    places = evenly_spaced(len(slices), max(image.max_images // len(windows), 1))
    views = [
        _view(*slices[place], window, f"slice {place + 1} of {len(slices)}, window {window}")
        for place in places
        for window in windows
    ]
    return views[: image.max_images]


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` places out of `count`, each in the middle of an equal part."""
    taken = min(count, wanted)
    return [(2 * number + 1) * count // (2 * taken) for number in range(taken)]


def _window_names(one: Candidate, image: ImageEntry) -> tuple[str, ...]:
    return image.windows.get(one.modality) or (OWN_WINDOW,)


def _in_order(one: Candidate) -> tuple[bool, float, int, str]:
    # By place where every header says it, else by the number the modality gave; the UID makes it one order.
    position = one.position_mm
    return (position is None, position or 0.0, one.instance_number, one.sop_instance_uid)


def _view(one: Candidate, frame: int, window: str, reason: str) -> View:
    return View(
        path=one.path,
        sop_class_uid=one.sop_class_uid,
        sop_instance_uid=one.sop_instance_uid,
        series_instance_uid=one.series_instance_uid,
        frame_number=frame + 1,
        is_multi_frame=one.frame_count > 1,
        is_film=one.modality in _FILM_MODALITIES,
        window=window,
        reason=reason,
    )


def _projection(header: Dataset) -> Projection:
    # (0018,5101), PS3.3 C.8.7.1: PA, AP, LL, RL, RLD, LLD, RLO, LLO; some devices write words.
    position = str(header.get("ViewPosition") or "").upper().strip()
    if position == "PA":
        return Projection.POSTERO_ANTERIOR
    if position in {"AP", "LLD", "RLD"}:  # decubitus: lying on the side, the beam is frontal
        return Projection.ANTERO_POSTERIOR
    if position in {"LL", "RL", "LAT", "LATERAL"}:
        return Projection.LATERAL
    if not position and _LATERAL_WORDS.search(str(header.get("SeriesDescription") or "")):
        return Projection.LATERAL
    return Projection.UNKNOWN


def _position(header: Dataset) -> float | None:
    # PS3.3 C.7.6.2.1.1: the part of the position along the normal of the slice.
    position: Any = header.get("ImagePositionPatient")
    orientation: Any = header.get("ImageOrientationPatient")
    if not position or not orientation or len(position) != 3 or len(orientation) != 6:
        return None
    rows, columns = (np.asarray(part, dtype=float) for part in (orientation[:3], orientation[3:]))
    return round(float(np.dot(np.cross(rows, columns), np.asarray(position, dtype=float))), 3)


def unreadable(sop_instance_uid: str, fault: UnreadablePixels) -> Skipped:
    """Record an object that could not be read."""
    return Skipped(sop_instance_uid=sop_instance_uid, reason=str(fault), is_unreadable=True)
