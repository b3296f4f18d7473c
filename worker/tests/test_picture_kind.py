"""What shows no patient is known whatever it calls itself; what does stays a picture."""

from typing import Any

import pytest
from pydicom.dataset import Dataset

from worker.reader.picture_kind import (
    has_place,
    is_in_hounsfield_units,
    unwanted_frames,
    why_derived,
    why_not_the_patient,
)

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def header(**attributes: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def axial(**attributes: Any) -> Dataset:
    content = {"SOPClassUID": CT_IMAGE, "Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}
    return header(**(content | {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]} | attributes))


def film(**attributes: Any) -> Dataset:
    return header(**({"SOPClassUID": CR_IMAGE, "Modality": "CR", "ImageType": ["ORIGINAL", "PRIMARY"]} | attributes))


def enhanced(*frame_types: list[str]) -> Dataset:
    groups = [header(CTImageFrameTypeSequence=[header(FrameType=one)]) for one in frame_types]
    return axial(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", PerFrameFunctionalGroupsSequence=groups)


@pytest.mark.parametrize(
    "image",
    [
        axial(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        axial(ImageType=["ORIGINAL", "PRIMARY", "REF_SURVIEW"]),
        axial(ImageType=["DERIVED", "SECONDARY", "DOSE_INFO"]),
        axial(ImageType=["DERIVED", "SECONDARY", "PATIENT_INFO"]),
        axial(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]),
        axial(ImageType=["DERIVED", "SECONDARY", "SCREENSHOT"]),
        axial(ImageType=["DERIVED", "SECONDARY", "OTHER", "EXAM SUMMARY"]),
        axial(SeriesDescription="Dose Report"),
        axial(SeriesDescription="Exam Summary"),
        axial(ImageType=["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]),
        axial(ImageType=["ORIGINAL", "PRIMARY", "OTHER", "CT_SOM5 TOP"]),
        axial(ImageType=["ORIGINAL", "PRIMARY", "CT_LOCALIZER"]),
        axial(ImageType=["DERIVED", "SECONDARY", "SECONDARYCAPTURE"]),
        axial(ImageType=["DERIVED", "SECONDARY", "SNAPSHOT"]),
        axial(SeriesDescription="Dose"),
        axial(SeriesDescription="Rapport de dose"),
        axial(SeriesDescription="Informe de dosis"),
        axial(SeriesDescription="Dosisinformation"),
        axial(SeriesDescription="剂量"),
        axial(SeriesDescription="扫描协议"),
        axial(SeriesDescription="LOCALIZADOR"),
        axial(SeriesDescription="Repérage"),
        axial(SeriesDescription="AAHScout"),
        axial(SeriesDescription="Patient Protocol"),
        axial(SeriesDescription="剂量报告"),
        axial(SeriesDescription="Scout"),
        axial(SeriesDescription="Topogram 0.6"),
        axial(SeriesDescription="定位像"),
        axial(PhotometricInterpretation="RGB", SamplesPerPixel=3),
        axial(PhotometricInterpretation="PALETTE COLOR"),
        axial(BurnedInAnnotation="YES"),
        axial(SOPClassUID=SECONDARY_CAPTURE),
        axial(SOPClassUID=f"{SECONDARY_CAPTURE}.4"),
        axial(RescaleSlope=None, RescaleIntercept=None),
        axial(
            SharedFunctionalGroupsSequence=[
                header(CTImageFrameTypeSequence=[header(FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"])])
            ]
        ),
        film(ImageType=["DERIVED", "SECONDARY", "SCREEN CAPTURE"]),
        film(PhotometricInterpretation="RGB", SamplesPerPixel=3),
        film(BurnedInAnnotation="YES"),
        film(SOPClassUID=SECONDARY_CAPTURE),
    ],
)
def test_what_shows_no_patient_is_known(image: Dataset) -> None:
    assert why_not_the_patient(image, takes_digitised_films=False)


@pytest.mark.parametrize(
    "image",
    [
        axial(SeriesDescription="LOW DOSE CHEST"),
        axial(SeriesDescription="低剂量肺"),
        axial(SeriesDescription="SnapShot Freeze 75%"),
        axial(),
        axial(ImageType=[]),
        axial(ImageType=["DERIVED", "SECONDARY", "MPR"]),
        axial(RescaleIntercept=0, RescaleSlope=None),
        film(),
        film(ImageType=["DERIVED", "PRIMARY", ""]),
        film(SeriesDescription="Skeletal survey"),
        film(SeriesDescription="KUB scout"),
        film(BurnedInAnnotation="NO"),
        header(Modality="US", BurnedInAnnotation="YES", PhotometricInterpretation="RGB", SamplesPerPixel=3),
    ],
)
def test_a_picture_of_the_patient_stays_one(image: Dataset) -> None:
    assert why_not_the_patient(image, takes_digitised_films=False) == ""


@pytest.mark.parametrize(
    ("attributes", "is_taken"),
    [
        ({"ConversionType": "DF"}, True),
        ({}, True),
        ({"ConversionType": "WSD"}, False),
        ({"ConversionType": "SD"}, False),
        ({"ConversionType": "DF", "PhotometricInterpretation": "RGB"}, False),
        ({"ConversionType": "DF", "Modality": "OT"}, False),
        ({"ConversionType": "DF", "BurnedInAnnotation": "YES"}, False),
        ({"ConversionType": "DF", "ImageType": ["DERIVED", "SECONDARY", "SCREENSHOT"]}, False),
    ],
)
def test_a_digitised_film_is_taken_where_the_entry_takes_it(attributes: dict[str, Any], *, is_taken: bool) -> None:
    image = film(**({"SOPClassUID": SECONDARY_CAPTURE} | attributes))

    assert (why_not_the_patient(image, takes_digitised_films=True) == "") is is_taken


@pytest.mark.parametrize(
    "image",
    [
        axial(ImageType=["DERIVED", "SECONDARY", "MPR"]),
        axial(ImageType=["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]),
        axial(ImageType=["DERIVED", "PRIMARY", "AXIAL", "MIP"]),
        axial(ImageType=["DERIVED", "SECONDARY", "AXIAL"]),
        axial(SeriesDescription="COR MPR"),
        axial(SeriesDescription="三维重建"),
    ],
)
def test_what_was_made_from_other_images_is_known(image: Dataset) -> None:
    assert why_derived(image)


@pytest.mark.parametrize(
    "image",
    [axial(), axial(SeriesDescription="T1 3D MPRAGE"), film(ImageType=["DERIVED", "SECONDARY"])],
)
def test_a_source_image_is_not_derived(image: Dataset) -> None:
    assert why_derived(image) == ""


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (axial(), True),
        (axial(RescaleType="HU"), True),
        (axial(RescaleType="US"), False),
        (axial(RescaleType="Z_EFF"), False),
        (axial(Modality="MR"), False),
        (axial(Modality="PT", RescaleType="HU"), True),
        (axial(SOPClassUID=SECONDARY_CAPTURE), False),
        (
            axial(SharedFunctionalGroupsSequence=[header(PixelValueTransformationSequence=[header(RescaleType="US")])]),
            False,
        ),
    ],
)
def test_hounsfield_units_are_stated_or_those_of_ct(image: Dataset, *, expected: bool) -> None:
    assert is_in_hounsfield_units(image) is expected


def test_frames_of_an_enhanced_image_are_judged_one_by_one() -> None:
    image = enhanced(["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"], ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])

    assert unwanted_frames(image) == {0}


def test_a_place_stands_in_the_image_or_in_its_frames() -> None:
    framed = header(PerFrameFunctionalGroupsSequence=[header(PlanePositionSequence=[header()])])

    assert not has_place(axial())
    assert has_place(axial(ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    assert has_place(framed)
