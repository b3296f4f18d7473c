"""Which images of a study the model sees, in which order and window; every choice has its reason.

Chest films: the frontal view, then the lateral one. Cross-sections and other stacks: evenly spaced slices of
the longest series. What is no picture of the patient is left out.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from casebook.errors import UnreadablePixels
from worker.reader import picture_kind, projection, species
from worker.reader.decode import Fault, plain_faults, read_header
from worker.reader.picture_kind import FILM_MODALITIES, why_no_picture
from worker.reader.pixels import Window
from worker.reader.projection import FRONTAL, NOTHING_STATED, Projection, Stated, projection_of
from worker.reader.registry import Captures, ImageEntry, Unstated

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

#: Digital X-Ray, Mammography and Intra-Oral "For Processing" (PS3.4 B.5): raw detector data, not for reading.
_FOR_PROCESSING = frozenset({f"1.2.840.10008.5.1.4.1.1.1.{number}.1" for number in (1, 2, 3)})
#: The attributes a choice needs; nothing else of a header is read.
_ATTRIBUTES = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "BodyPartExamined", "SeriesNumber",
    "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient",
    "SpecificCharacterSet", *projection.ATTRIBUTES, *species.ATTRIBUTES, *picture_kind.ATTRIBUTES,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One object of the study, as far as choosing needs it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    modality: str
    body_part: str = ""
    #: Of a film.
    stated: Stated = NOTHING_STATED
    #: Why it shows no patient; empty where it may.
    no_patient: str = ""
    #: Why it shows no person; empty where it may.
    no_person: str = ""
    #: What it was made from others of its study; empty for a source image.
    derived: str = ""
    #: Its header says where it lies in the patient.
    has_place: bool = False
    #: Its values are Hounsfield units, so that the named windows mean something.
    is_in_hounsfield_units: bool = False
    series_number: int = 0
    instance_number: int = 0
    #: Place along the normal of the slice, in mm; None where the header does not say.
    position_mm: float | None = None
    frame_count: int = 1
    #: Zero-based frames among them that show no slice.
    unwanted_frames: frozenset[int] = frozenset()

    @property
    def is_film(self) -> bool:
        """Whether it is a whole film and not a slice of a stack."""
        return self.modality in FILM_MODALITIES

    @property
    def frames(self) -> tuple[int, ...]:
        """Zero-based frames that may be shown."""
        return tuple(number for number in range(self.frame_count) if number not in self.unwanted_frames)


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
    #: It is a film whose header says nothing of its projection, which the reader of the draft should know.
    is_unstated: bool = False


class Why(StrEnum):
    """Why the model does not see an object."""

    #: It is a picture that could not be read, which the reader of the draft should know.
    UNREADABLE = "unreadable"
    #: Its picture does not look like what the model was made for, which the reader should know too.
    IMPLAUSIBLE = "implausible"
    #: It is a film of a projection the model was not made for.
    OTHER_PROJECTION = "other_projection"
    #: It is a picture of another kind than the model was made for.
    FOREIGN = "foreign"
    #: It is no picture of the patient.
    NO_PICTURE = "no_picture"
    #: Better ones were there.
    SURPLUS = "surplus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """One object the model does not see."""

    sop_instance_uid: str
    reason: str
    why: Why = Why.SURPLUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the model sees of a study and what it does not."""

    views: tuple[View, ...]
    skipped: tuple[Skipped, ...]


def describe(path: Path, *, sop_instance_uid: str = "", image: ImageEntry | None = None) -> Candidate:
    """Read what choosing needs from the header of one object.

    Parameters
    ----------
    path
        A DICOM file.
    sop_instance_uid
        What the index knows the object as; counts more than the header.
    image
        What the model expects; says whether digitised films are among it.

    Raises
    ------
    UnreadablePixels
        When the file is no DICOM file or its header cannot be used.
    """
    takes_films = image is not None and image.secondary_captures is Captures.FILMS
    with plain_faults(Fault.BAD_HEADER):
        header = read_header(path, list(dict.fromkeys(_ATTRIBUTES)))
        frame_count = max(int(header.get("NumberOfFrames") or 1), 1)
        unwanted = picture_kind.unwanted_frames(header)
        no_patient = picture_kind.why_not_the_patient(header, takes_digitised_films=takes_films)
        if not no_patient and len(unwanted) >= frame_count:
            no_patient = "a localizer or a page of text in every frame"
        return Candidate(
            path=path,
            sop_class_uid=str(header.get("SOPClassUID", "")),
            sop_instance_uid=sop_instance_uid or str(header.get("SOPInstanceUID", "")),
            series_instance_uid=str(header.get("SeriesInstanceUID", "")),
            modality=str(header.get("Modality") or "").strip(),
            body_part=str(header.get("BodyPartExamined") or "").upper(),
            stated=projection_of(header),
            no_patient=no_patient,
            no_person=species.why_no_person(header),
            derived=picture_kind.why_derived(header),
            has_place=picture_kind.has_place(header),
            is_in_hounsfield_units=picture_kind.is_in_hounsfield_units(header),
            series_number=int(header.get("SeriesNumber") or 0),
            instance_number=int(header.get("InstanceNumber") or 0),
            position_mm=_position(header),
            frame_count=frame_count,
            unwanted_frames=unwanted,
        )


def why_no_person(path: Path) -> str:
    """Say why an object that carries no picture belongs to no person; nothing where it may, or cannot be read."""
    with suppress(UnreadablePixels), plain_faults(Fault.BAD_HEADER):
        return species.why_no_person(read_header(path, ["SpecificCharacterSet", *species.ATTRIBUTES]))
    return ""


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
    films = [one for one in pictures if one.is_film]
    if films:
        shown, left_out = _readable_films(films, image)
        views, skipped = _film_views(shown, image), skipped + left_out
    else:
        views = _stack_views(pictures, image) if pictures else []
    settled = {one.sop_instance_uid for one in views} | {one.sop_instance_uid for one in skipped}
    skipped += [
        Skipped(sop_instance_uid=one.sop_instance_uid, reason="the model takes no more images")
        for one in pictures
        if one.sop_instance_uid not in settled
    ]
    return Choice(views=tuple(views), skipped=tuple(skipped))


def _pictures(candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[Skipped]]:
    pictures: list[Candidate] = []
    skipped: list[Skipped] = []
    for one in candidates:
        what = why_no_picture(one.sop_class_uid)
        reason = f"{what}, not an image" if what else one.no_patient
        if reason:
            skipped.append(Skipped(sop_instance_uid=one.sop_instance_uid, reason=reason, why=Why.NO_PICTURE))
        else:
            pictures.append(one)
    pictures, skipped = _without(pictures, skipped, _is_raw, lambda _: "raw detector data beside its picture")
    pictures, skipped = _without(pictures, skipped, lambda one: bool(one.derived), lambda one: one.derived)
    return _without(
        pictures, skipped, _has_no_place, lambda _: "no slice with a place in the patient, beside such ones"
    )


def _is_raw(one: Candidate) -> bool:
    return one.sop_class_uid in _FOR_PROCESSING


def _has_no_place(one: Candidate) -> bool:
    # PS3.3 C.7.6.2 requires a place of every slice of these; a page of text has none.
    return one.modality in {"CT", "MR", "PT"} and not one.has_place


def _without(
    pictures: list[Candidate],
    skipped: list[Skipped],
    unwanted: Callable[[Candidate], bool],
    reason: Callable[[Candidate], str],
) -> tuple[list[Candidate], list[Skipped]]:
    # Left out only where something better remains.
    wanted = [one for one in pictures if not unwanted(one)]
    if not wanted or len(wanted) == len(pictures):
        return pictures, skipped
    left_out = [Skipped(sop_instance_uid=one.sop_instance_uid, reason=reason(one)) for one in pictures if unwanted(one)]
    return wanted, skipped + left_out


def _readable_films(films: Sequence[Candidate], image: ImageEntry) -> tuple[list[Candidate], list[Skipped]]:
    """Keep the films of the projections the model was made for; none where the one that leads is missing."""
    reasons = {one.sop_instance_uid: _why_not_this_projection(one, films, image) for one in films}
    readable = [one for one in films if not reasons[one.sop_instance_uid]]
    if not any(_can_lead(one, image) for one in readable):
        for one in readable:
            reasons[one.sop_instance_uid] = f"{one.stated.reason}, without a frontal film beside it"
        readable = []
    skipped = [
        Skipped(sop_instance_uid=uid, reason=reason, why=Why.OTHER_PROJECTION)
        for uid, reason in reasons.items()
        if reason
    ]
    return readable, skipped


def _why_not_this_projection(film: Candidate, films: Sequence[Candidate], image: ImageEntry) -> str:
    stated = film.stated
    if stated.projection is Projection.UNSTATED:
        if image.unstated_projection is Unstated.REFUSE:
            return "no projection stated"
        # Of two films of which one says that it is frontal, the other is likely the lateral one.
        beside = any(other.stated.projection in FRONTAL for other in films)
        return "no projection stated, beside a film that states it is frontal" if beside else ""
    return "" if stated.projection in image.projections else stated.reason


def _can_lead(film: Candidate, image: ImageEntry) -> bool:
    # A model of chest films reads the frontal view; on a lateral one alone it would guess.
    return film.stated.projection is not Projection.LATERAL or set(image.projections) == {Projection.LATERAL}


def _film_views(films: Sequence[Candidate], image: ImageEntry) -> list[View]:
    order = list(Projection)
    ranked = sorted(films, key=lambda one: (order.index(one.stated.projection), *_in_order(one)))
    leading = [one for one in ranked if one.stated.projection is not Projection.LATERAL]
    lateral = [one for one in ranked if one.stated.projection is Projection.LATERAL]
    # The best frontal view, the lateral view, then what else there is.
    wanted = [*leading[:1], *lateral[:1], *leading[1:], *lateral[1:]]
    return [_view(one, 0, OWN_WINDOW, one.stated.reason) for one in wanted[: image.max_images]]


def _stack_views(pictures: Sequence[Candidate], image: ImageEntry) -> list[View]:
    series: dict[str, list[Candidate]] = {}
    for one in pictures:
        series.setdefault(one.series_instance_uid, []).append(one)
    # The longest series, the first of several.
    longest = min(
        series.values(),
        key=lambda group: (
            -sum(len(one.frames) for one in group),
            group[0].series_number,
            group[0].series_instance_uid,
        ),
    )
    slices = [(one, frame) for one in sorted(longest, key=_in_order) for frame in one.frames]
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
    # The named windows are over Hounsfield units and mean nothing over other values.
    named = image.windows.get(one.modality) if one.is_in_hounsfield_units else None
    return named or (OWN_WINDOW,)


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
        is_film=one.is_film,
        window=window,
        reason=reason,
        is_unstated=one.is_film and one.stated.projection is Projection.UNSTATED,
    )


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
    return Skipped(sop_instance_uid=sop_instance_uid, reason=str(fault), why=Why.UNREADABLE)
