"""A film is frontal when something says so and nothing says otherwise."""

from typing import Any

import pytest
from pydicom.dataset import Dataset

from worker.reader.projection import FRONTAL, Projection, projection_of


def header(**attributes: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, meaning: str = "", *, modifier: str = "") -> list[Dataset]:
    item = header(CodeValue=value, CodeMeaning=meaning, CodingSchemeDesignator="SCT")
    item.ViewModifierCodeSequence = [header(CodeValue=modifier, CodeMeaning="")] if modifier else []
    return [item]


@pytest.mark.parametrize(
    "position",
    [
        "PA",
        "AP",
        "PA CHEST",
        "AP SUPINE",
        "AP PORTABLE",
        "FRONTAL",
        "CHEST PA ERECT",
        "AP SEMIUPRIGHT",
        "AP LIEGEND",
        "PA STEHEND",
        "TORAX PA",
        "THORAX DE FACE",
    ],
)
def test_a_frontal_position_is_frontal(position: str) -> None:
    assert projection_of(header(ViewPosition=position)).projection in FRONTAL


@pytest.mark.parametrize(
    ("position", "projection"),
    [
        ("LL", Projection.LATERAL),
        ("RL", Projection.LATERAL),
        ("LATERAL", Projection.LATERAL),
        ("LAT CHEST", Projection.LATERAL),
        ("XTABLE LATERAL", Projection.LATERAL),
        ("SWIMMERS", Projection.LATERAL),
        ("LAO", Projection.OBLIQUE),
        ("RAO", Projection.OBLIQUE),
        ("LLO", Projection.OBLIQUE),
        ("RLO", Projection.OBLIQUE),
        ("PA OBLIQUE", Projection.OBLIQUE),
        ("AP AXIAL", Projection.AXIAL),
        ("AP LORDOTIC", Projection.AXIAL),
        ("LLD", Projection.DECUBITUS),
        ("RLD", Projection.DECUBITUS),
        ("LATERAL DECUB", Projection.DECUBITUS),
        ("AP LATERAL", Projection.UNKNOWN),
        ("ERECT", Projection.UNKNOWN),
        ("VD", Projection.UNKNOWN),
        ("CC", Projection.UNKNOWN),
        ("PA NOTCH", Projection.UNKNOWN),
        ("SOMETHING", Projection.UNKNOWN),
        ("PA SOMETHING", Projection.UNKNOWN),
    ],
)
def test_every_other_position_is_not_frontal(position: str, projection: Projection) -> None:
    stated = projection_of(header(ViewPosition=position))

    assert stated.projection is projection
    assert stated.reason.endswith("by ViewPosition")


@pytest.mark.parametrize(
    ("description", "projection"),
    [
        ("Thorax seitl.", Projection.LATERAL),
        ("Seitenaufnahme", Projection.LATERAL),
        ("Thorax laterolateral", Projection.LATERAL),
        ("Thorax links anliegend", Projection.LATERAL),
        ("TRANSTHORACIC", Projection.LATERAL),
        ("LATCHEST", Projection.LATERAL),
        ("CHEST AP/PA", Projection.FRONTAL),
        ("胸部側位", Projection.LATERAL),
        ("穿胸位", Projection.LATERAL),
        ("Schrägaufnahme", Projection.OBLIQUE),
        ("CHEST LATERAL", Projection.LATERAL),
        ("Chest_LAT", Projection.LATERAL),
        ("ThoraxLAT", Projection.LATERAL),
        ("Thorax seitlich", Projection.LATERAL),
        ("胸部侧位", Projection.LATERAL),
        ("胸部側面", Projection.LATERAL),
        ("흉부 측면", Projection.LATERAL),
        ("Грудная клетка, боковая проекция", Projection.LATERAL),
        ("Klatka piersiowa boczna", Projection.LATERAL),
        ("Thorax dwars", Projection.LATERAL),
        ("Chest side view", Projection.LATERAL),
        ("Thorax OAD", Projection.OBLIQUE),
        ("胸部正面", Projection.FRONTAL),
        ("胸部斜位", Projection.OBLIQUE),
        ("左侧卧位", Projection.DECUBITUS),
        ("胸部正位", Projection.FRONTAL),
        ("胸部PA", Projection.POSTERO_ANTERIOR),
        ("W033 Chest P.A.", Projection.POSTERO_ANTERIOR),
        ("PA and LAT", Projection.UNKNOWN),
        ("胸部正侧位", Projection.UNKNOWN),
        ("Bilateral hands", Projection.UNSTATED),
        ("Chest 2 views", Projection.UNSTATED),
        ("", Projection.UNSTATED),
    ],
)
def test_a_description_speaks_where_nothing_else_does(description: str, projection: Projection) -> None:
    assert projection_of(header(SeriesDescription=description)).projection is projection


@pytest.mark.parametrize("keyword", ["ProtocolName", "AcquisitionDeviceProcessingDescription"])
def test_the_protocol_and_the_processing_are_heard_too(keyword: str) -> None:
    assert projection_of(header(**{keyword: "CHEST LAT"})).projection is Projection.LATERAL


def test_chinese_words_in_a_code_string_are_read() -> None:
    arrived = "侧位".encode("gb18030").decode("latin-1")
    dataset = Dataset()
    dataset.add_new("ViewPosition", "LO", arrived)

    assert projection_of(dataset).projection is Projection.LATERAL


@pytest.mark.parametrize(
    ("sequence", "projection"),
    [
        (code("272479007"), Projection.POSTERO_ANTERIOR),
        (code("R-10206"), Projection.ANTERO_POSTERIOR),
        (code("399173006", "left lateral"), Projection.LATERAL),
        (code("R-10236"), Projection.LATERAL),
        (code("399135007"), Projection.OBLIQUE),
        (code("399061009"), Projection.AXIAL),
        (code("272479007", modifier="399196006"), Projection.AXIAL),
        (code("272479007", modifier="111069"), Projection.UNKNOWN),
        (code("LOCAL1", "Chest lateral"), Projection.LATERAL),
        (code("LOCAL1", "Chest PA"), Projection.POSTERO_ANTERIOR),
        (code("LOCAL1", "Thorax"), Projection.UNKNOWN),
        (code("272479007") + code("399173006"), Projection.UNKNOWN),
    ],
)
def test_a_view_code_decides(sequence: list[Dataset], projection: Projection) -> None:
    assert projection_of(header(ViewPosition="", ViewCodeSequence=sequence)).projection is projection


def test_a_code_that_is_not_understood_says_nothing_beside_a_position_that_is() -> None:
    stated = projection_of(header(ViewPosition="PA", ViewCodeSequence=code("LOCAL1", "Thorax")))

    assert stated.projection is Projection.POSTERO_ANTERIOR


@pytest.mark.parametrize(
    ("orientation", "projection"),
    [
        (["L", "F"], Projection.FRONTAL),
        (["L", "FR"], Projection.FRONTAL),
        (["R", "F"], Projection.UNKNOWN),
        (["L", "H"], Projection.UNKNOWN),
        (["R", "H"], Projection.UNKNOWN),
        (["F", "L"], Projection.UNKNOWN),
        (["A", "F"], Projection.LATERAL),
        (["P", "F"], Projection.LATERAL),
        (["LA", "F"], Projection.OBLIQUE),
        (["L", "P"], Projection.AXIAL),
        (["L"], Projection.UNSTATED),
        (["", ""], Projection.UNSTATED),
    ],
)
def test_the_directions_of_rows_and_columns_decide_where_nothing_else_does(
    orientation: list[str], projection: Projection
) -> None:
    assert projection_of(header(PatientOrientation=orientation)).projection is projection


@pytest.mark.parametrize(
    "attributes",
    [
        {"ViewPosition": "PA", "ViewCodeSequence": code("399173006")},
        {"ViewPosition": "LATERAL", "ViewCodeSequence": code("272479007")},
        {"ViewPosition": "PA", "SeriesDescription": "Chest LAT"},
        {"ViewPosition": "PA", "PatientOrientation": ["A", "F"]},
        {"ViewPosition": "PA", "PatientOrientation": ["R", "F"]},
        {"ViewPosition": "SOMETHING", "ViewCodeSequence": code("272479007")},
    ],
)
def test_attributes_that_disagree_are_not_frontal(attributes: dict[str, Any]) -> None:
    assert projection_of(header(**attributes)).projection is Projection.UNKNOWN


@pytest.mark.parametrize(
    ("attributes", "projection"),
    [
        ({"ViewPosition": "PA", "SeriesDescription": "PA and LAT"}, Projection.POSTERO_ANTERIOR),
        ({"ViewPosition": "AP", "ViewCodeSequence": code("272479007")}, Projection.ANTERO_POSTERIOR),
        ({"ViewPosition": "LL", "PatientOrientation": ["L", "F"]}, Projection.LATERAL),
        ({"ViewPosition": "AP AXIAL", "ViewCodeSequence": code("272479007")}, Projection.AXIAL),
        ({"StudyDescription": "Chest PA"}, Projection.UNSTATED),
        ({"StudyDescription": "Chest lateral"}, Projection.LATERAL),
        ({"StudyDescription": "Chest lateral", "ViewPosition": "PA"}, Projection.POSTERO_ANTERIOR),
    ],
)
def test_weaker_words_give_way_to_stronger_ones(attributes: dict[str, Any], projection: Projection) -> None:
    assert projection_of(header(**attributes)).projection is projection
