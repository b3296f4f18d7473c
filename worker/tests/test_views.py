"""Which images the model sees, in which order, and why."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from casebook.errors import UnreadablePixels
from worker.reader.projection import NOTHING_STATED, Projection, Stated
from worker.reader.registry import Captures, ImageEntry, Unstated
from worker.reader.views import Candidate, Choice, Why, choose, describe, evenly_spaced
from worker.tests.pictures import BASIC_TEXT_SR_STORAGE, CT_IMAGE_STORAGE, picture, ramp, write

CR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"


def takes(max_images: int, **windows: tuple[str, ...]) -> ImageEntry:
    return ImageEntry(size=112, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3), max_images=max_images, windows=windows)


def stated(projection: Projection) -> Stated:
    if projection is Projection.UNSTATED:
        return NOTHING_STATED
    return Stated(projection=projection, reason=f"{projection.value}, by ViewPosition")


def film(number: int, projection: Projection, **changes: Any) -> Candidate:
    content: dict[str, Any] = {
        "path": Path("film"),
        "sop_class_uid": CR_IMAGE_STORAGE,
        "sop_instance_uid": f"2.25.{number}",
        "series_instance_uid": "2.25.900",
        "modality": "CR",
        "stated": stated(projection),
        "instance_number": number,
    }
    return Candidate(**(content | changes))


def axial(number: int, **changes: Any) -> Candidate:
    content: dict[str, Any] = {"modality": "CT", "sop_class_uid": CT_IMAGE_STORAGE, "position_mm": number * 5.0}
    content |= {"has_place": True, "is_in_hounsfield_units": True}
    return film(number, Projection.UNSTATED, **(content | changes))


def seen(choice: Choice) -> list[str]:
    return [view.sop_instance_uid for view in choice.views]


def test_the_frontal_view_comes_before_the_lateral_one() -> None:
    films = [film(1, Projection.LATERAL), film(2, Projection.ANTERO_POSTERIOR), film(3, Projection.POSTERO_ANTERIOR)]

    assert seen(choose(films, takes(1))) == ["2.25.3"]
    assert seen(choose(films, takes(2))) == ["2.25.3", "2.25.1"]
    assert seen(choose(films, takes(9))) == ["2.25.3", "2.25.1", "2.25.2"]


def test_a_film_without_a_view_position_is_taken_as_frontal_and_says_so() -> None:
    choice = choose([film(1, Projection.UNSTATED), film(2, Projection.LATERAL)], takes(1))

    assert seen(choice) == ["2.25.1"]
    assert choice.views[0].reason == "no projection stated, taken as frontal"


def test_a_film_that_states_nothing_is_not_read_beside_one_that_is_frontal() -> None:
    choice = choose([film(1, Projection.UNSTATED), film(2, Projection.POSTERO_ANTERIOR)], takes(2))

    assert seen(choice) == ["2.25.2"]
    assert [one.reason for one in choice.skipped] == ["no projection stated, beside a film that states it is frontal"]


def test_an_entry_may_refuse_films_that_state_nothing() -> None:
    strict = takes(1).model_copy(update={"unstated_projection": Unstated.REFUSE})

    choice = choose([film(1, Projection.UNSTATED)], strict)

    assert seen(choice) == []
    assert [(one.reason, one.why) for one in choice.skipped] == [("no projection stated", Why.OTHER_PROJECTION)]


@pytest.mark.parametrize(
    "projection",
    [Projection.UNKNOWN, Projection.OBLIQUE, Projection.AXIAL, Projection.DECUBITUS, Projection.LATERAL],
)
def test_what_is_not_frontal_never_leads(projection: Projection) -> None:
    assert seen(choose([film(1, projection)], takes(2))) == []


def test_a_projection_an_entry_names_is_read() -> None:
    tilted = takes(1).model_copy(update={"projections": (Projection.POSTERO_ANTERIOR, Projection.AXIAL)})
    sideways = takes(1).model_copy(update={"projections": (Projection.LATERAL,)})
    films = [film(1, Projection.LATERAL), film(2, Projection.AXIAL)]

    assert seen(choose(films, tilted)) == ["2.25.2"]
    assert seen(choose(films, sideways)) == ["2.25.1"]


def test_an_entry_cannot_name_what_is_not_known() -> None:
    with pytest.raises(ValueError, match="projections are"):
        ImageEntry(size=1, mean=(0, 0, 0), std=(1, 1, 1), projections=(Projection.UNKNOWN,))


def test_reformats_and_pages_never_beat_slices() -> None:
    objects = [
        *(axial(number, series_instance_uid="2.25.801") for number in range(5)),
        *(axial(number, series_instance_uid="2.25.802", derived="a reformat") for number in range(10, 20)),
        *(axial(number, series_instance_uid="2.25.803", has_place=False) for number in range(20, 40)),
        *(axial(number, series_instance_uid="2.25.804", no_patient="a page of text") for number in range(40, 60)),
    ]

    choice = choose(objects, takes(8))

    assert {view.series_instance_uid for view in choice.views} == {"2.25.801"}
    assert {one.reason for one in choice.skipped} == {
        "a reformat",
        "a page of text",
        "no slice with a place in the patient, beside such ones",
    }


def test_reformats_alone_are_shown() -> None:
    assert len(seen(choose([axial(number, derived="a reformat") for number in range(3)], takes(8)))) == 3


def test_named_windows_are_for_hounsfield_units_alone() -> None:
    slices = [axial(number, is_in_hounsfield_units=False) for number in range(4)]

    assert {view.window for view in choose(slices, takes(4, CT=("lung", "soft_tissue"))).views} == {"own"}


def test_frames_that_show_no_slice_are_passed_over() -> None:
    choice = choose([axial(1, frame_count=4, unwanted_frames=frozenset({0, 1}))], takes(4))

    assert [view.frame_number for view in choice.views] == [3, 4]


def test_an_image_of_localizer_frames_alone_is_no_picture(tmp_path: Path) -> None:
    kind = Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    group = Dataset()
    group.CTImageFrameTypeSequence = [kind]
    dataset = picture(np.stack([ramp()] * 2), Modality="CT", PerFrameFunctionalGroupsSequence=[group, group])

    assert "localizer" in describe(write(dataset, tmp_path / "enhanced.dcm")).no_patient


def test_a_digitised_film_is_described_by_the_rule_of_the_entry(tmp_path: Path) -> None:
    path = write(picture(ramp(), SOPClassUID="1.2.840.10008.5.1.4.1.1.7", ConversionType="DF"), tmp_path / "film.dcm")
    open_minded = takes(1).model_copy(update={"secondary_captures": Captures.FILMS})

    assert describe(path, image=takes(1)).no_patient == "a secondary capture"
    assert describe(path, image=open_minded).no_patient == ""


def test_every_object_is_either_seen_or_skipped_with_a_reason() -> None:
    films = [
        film(1, Projection.POSTERO_ANTERIOR),
        film(2, Projection.POSTERO_ANTERIOR),
        film(3, Projection.UNSTATED, sop_class_uid=BASIC_TEXT_SR_STORAGE, modality="SR"),
    ]

    choice = choose(films, takes(1))

    assert {one.sop_instance_uid: one.reason for one in choice.skipped} == {
        "2.25.2": "the model takes no more images",
        "2.25.3": "a structured report, not an image",
    }


def test_raw_detector_data_is_left_out_only_beside_its_picture() -> None:
    raw = film(1, Projection.POSTERO_ANTERIOR, sop_class_uid=DX_FOR_PROCESSING)

    assert seen(choose([raw, film(2, Projection.UNSTATED)], takes(1))) == ["2.25.2"]
    assert seen(choose([raw], takes(1))) == ["2.25.1"]


def test_slices_are_evenly_spaced_along_the_body_whatever_their_order() -> None:
    slices = [axial(number) for number in (7, 3, 9, 1, 5, 0, 8, 2, 4, 6)]

    assert seen(choose(slices, takes(5))) == ["2.25.1", "2.25.3", "2.25.5", "2.25.7", "2.25.9"]


def test_each_slice_is_shown_in_each_named_window() -> None:
    slices = [axial(number) for number in range(4)]

    choice = choose(slices, takes(4, CT=("lung", "soft_tissue")))

    assert [(view.sop_instance_uid, view.window) for view in choice.views] == [
        ("2.25.1", "lung"),
        ("2.25.1", "soft_tissue"),
        ("2.25.3", "lung"),
        ("2.25.3", "soft_tissue"),
    ]
    assert choice.views[0].reason == "slice 2 of 4, window lung"


def test_the_longest_series_is_shown_and_localizers_never() -> None:
    slices = [
        *(axial(number, no_patient="a localizer", series_instance_uid="2.25.800") for number in range(20, 30)),
        *(axial(number, series_instance_uid="2.25.801") for number in range(3)),
        *(axial(number, series_instance_uid="2.25.802") for number in range(10, 14)),
    ]

    assert {view.series_instance_uid for view in choose(slices, takes(8)).views} == {"2.25.802"}


def test_frames_of_one_object_are_slices_too() -> None:
    choice = choose([axial(1, frame_count=100)], takes(4))

    assert [view.frame_number for view in choice.views] == [13, 38, 63, 88]


def test_the_order_of_arrival_changes_nothing() -> None:
    slices = [axial(number) for number in range(9)]

    assert choose(slices, takes(3)).views == choose(slices[::-1], takes(3)).views


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (1, 8), (5, 5), (300, 8), (7, 3), (0, 4)])
def test_evenly_spaced_places_are_different_and_inside(count: int, wanted: int) -> None:
    places = evenly_spaced(count, wanted)

    assert len(places) == min(count, wanted) == len(set(places))
    assert all(0 <= place < count for place in places)
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("attributes", "projection"),
    [
        ({"ViewPosition": "PA"}, Projection.POSTERO_ANTERIOR),
        ({"ViewPosition": "AP"}, Projection.ANTERO_POSTERIOR),
        ({"ViewPosition": "LL"}, Projection.LATERAL),
        ({"ViewPosition": "LATERAL"}, Projection.LATERAL),
        ({"SeriesDescription": "Chest LAT"}, Projection.LATERAL),
        ({"SeriesDescription": "胸部侧位", "SpecificCharacterSet": "ISO_IR 192"}, Projection.LATERAL),
        ({"SeriesDescription": "Bilateral hands"}, Projection.UNSTATED),
        ({"ViewPosition": "PA", "SeriesDescription": "PA and LAT"}, Projection.POSTERO_ANTERIOR),
        ({}, Projection.UNSTATED),
    ],
)
def test_the_projection_is_read_from_the_header(
    attributes: dict[str, Any], projection: Projection, tmp_path: Path
) -> None:
    path = write(picture(ramp(), **attributes), tmp_path / "film.dcm")

    assert describe(path).stated.projection is projection


def test_the_place_of_a_slice_is_measured_along_its_normal(tmp_path: Path) -> None:
    # A sagittal slice: rows run along y, columns along -z, so the normal is -x.
    dataset = picture(ramp(), ImagePositionPatient=[12.5, 3, 4], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])

    assert describe(write(dataset, tmp_path / "slice.dcm")).position_mm == -12.5


def test_a_header_that_cannot_be_read_is_an_error_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "noise.dcm"
    path.write_bytes(b"no such thing")

    with pytest.raises(UnreadablePixels, match="not a DICOM file"):
        describe(path)
