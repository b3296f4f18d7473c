"""A study of an animal is known by its attributes and its words; a bitten person stays a person."""

from typing import Any

import pytest
from pydicom.dataset import Dataset

from worker.reader.species import why_no_person


def header(**attributes: Any) -> Dataset:
    dataset = Dataset()
    dataset.Modality = "DX"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def species(value: str, meaning: str) -> list[Dataset]:
    return [header(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=meaning)]


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientSpeciesDescription": "Canine"},
        {"PatientSpeciesDescription": "unknown"},
        {"PatientSpeciesCodeSequence": species("448771007", "Canis lupus familiaris")},
        {"PatientSpeciesCodeSequence": species("L-88124", "dog")},
        {"PatientSexNeutered": "ALTERED"},
        {"PatientSexNeutered": "UNALTERED"},
        {"PatientBreedDescription": "Beagle"},
        {"PatientBreedCodeSequence": species("1", "Beagle")},
        {"StrainDescription": "C57BL/6"},
        {"ResponsiblePersonRole": "OWNER"},
        {"AnatomicalOrientationType": "QUADRUPED"},
        {"PatientOrientation": ["CD", "V"]},
        {"PatientOrientation": ["LE", "CD"]},
        {"SeriesDescription": "CANINE THORAX"},
        {"SeriesDescription": "Thorax, canine"},
        {"StudyDescription": "Dog thorax"},
        {"StudyDescription": "Feline lateral"},
        {"StudyDescription": "Equine fetlock"},
        {"ProtocolName": "CAT THORAX"},
        {"StudyDescription": "cat"},
        {"StudyDescription": "犬胸部"},
        {"StudyDescription": "猫 胸片"},
        {"BodyPartExamined": "DOG"},
        {"StudyDescription": "DogThorax"},
        {"StudyDescription": "VET THORAX"},
        {"StudyDescription": "Thorax Kaninchen"},
        {"StudyDescription": "Kleintier Thorax"},
        {"StudyDescription": "Hunde Thorax"},
        {"StudyDescription": "Thorax Labrador"},
        {"StudyDescription": "Hond thorax"},
        {"StudyDescription": "Köpek toraks"},
        {"StudyDescription": "イヌ胸部"},
        {"StudyDescription": "고양이 흉부"},
        {"StudyDescription": "Собака, грудная клетка"},
        {"StudyDescription": "THORAX CHAT"},
        {"StudyDescription": "thorax lapin"},
        {"StudyDescription": "Thorax canin"},
        {"StudyDescription": "torax conejo"},
        {"StudyDescription": "MINIATURE POODLE THORAX"},
        {"InstitutionName": "Veterinary Clinic"},
        {"InstitutionName": "动物医院"},
    ],
)
def test_an_animal_is_known(attributes: dict[str, Any]) -> None:
    assert why_no_person(header(**attributes))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PatientSpeciesDescription": "H. sapiens"},
        {"PatientSpeciesDescription": "Homo sapiens sapiens"},
        {"PatientSpeciesDescription": "HUMAN PATIENT"},
        {"StudyDescription": "scottie dog sign"},
        {"StudyDescription": "COW'S MILK allergy"},
        {"StudyDescription": "CANINE"},
        {"StudyDescription": "chat"},
        {"PatientSpeciesDescription": ""},
        {"PatientSpeciesDescription": "Homo sapiens"},
        {"PatientSpeciesDescription": "HUMAN"},
        {"PatientSpeciesCodeSequence": species("337915000", "homo sapiens")},
        {"PatientSpeciesCodeSequence": species("L-85B00", "homo sapiens")},
        {"PatientSpeciesCodeSequence": []},
        {"PatientSexNeutered": ""},
        {"ResponsiblePersonRole": "PARENT"},
        {"AnatomicalOrientationType": "BIPED"},
        {"PatientOrientation": ["L", "F"]},
        {"PatientOrientation": ["R", "F"]},
        {"PatientOrientation": ["P", "F"]},
        {"PatientOrientation": ["L", "P"]},
        {"BodyPartExamined": "CANINE"},
        {"SeriesDescription": "Right upper canine"},
        {"StudyDescription": "Dog bite hand"},
        {"StudyDescription": "Kicked by a horse"},
        {"StudyDescription": "Cat scratch disease"},
        {"StudyDescription": "CAT scan", "Modality": "CT"},
        {"StudyDescription": "CAT chest", "Modality": "CT"},
        {"StudyDescription": "CT CAT 1"},
        {"StudyDescription": "Bovine arch"},
        {"StudyDescription": "Cauda equina", "Modality": "MR"},
        {"StudyDescription": "Horseshoe kidney"},
        {"StudyDescription": "Avian influenza"},
        {"StudyDescription": "狗咬伤"},
        {"StudyDescription": "犬齿"},
        {"StudyDescription": "猫抓病"},
        {"StudyDescription": "马蹄肾"},
        {"InstitutionName": "Veterans Hospital"},
    ],
)
def test_a_person_stays_a_person(attributes: dict[str, Any]) -> None:
    assert why_no_person(header(**attributes)) == ""
