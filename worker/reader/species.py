"""Whether a study is of a person: what its headers say of species, breed and owner, in attributes and in words."""

import re

from pydicom.dataset import Dataset

#: The attributes that tell (PS3.3 C.7.1.1 and C.2.2; animals have attributes of their own).
ATTRIBUTES = (
    "Modality", "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientSexNeutered",
    "PatientBreedDescription", "PatientBreedCodeSequence", "BreedRegistrationSequence", "StrainDescription",
    "StrainNomenclature", "StrainStockSequence", "ResponsiblePersonRole", "AnatomicalOrientationType",
    "PatientOrientation", "StudyDescription", "SeriesDescription", "ProtocolName", "BodyPartExamined",
    "RequestedProcedureDescription", "PerformedProcedureStepDescription", "InstitutionName",
    "InstitutionalDepartmentName",
)  # fmt: skip
#: What only an animal has: any value of these.
_OF_ANIMALS = (
    "PatientSexNeutered", "PatientBreedDescription", "PatientBreedCodeSequence", "BreedRegistrationSequence",
    "StrainDescription", "StrainNomenclature", "StrainStockSequence",
)  # fmt: skip
_DESCRIPTIONS = (
    "StudyDescription", "SeriesDescription", "ProtocolName", "RequestedProcedureDescription",
    "PerformedProcedureStepDescription", "BodyPartExamined",
)  # fmt: skip
_INSTITUTIONS = ("InstitutionName", "InstitutionalDepartmentName")
#: SNOMED CT, SRT and older SNOMED, NCBI and ITIS taxonomy.
_HUMAN_CODES = frozenset({"337915000", "L-85003", "L-85B00", "9606", "180092"})
_HUMAN = re.compile(
    r"(HOMO( SAPIENS){0,2}|H\.? ?SAPIENS|HUMANS?( BEING| PATIENT)?|PERSON|PEOPLE|MENSCH|HUMAIN|HUMANO|UMANO"
    r"|人类?|人體|人類|ヒト|사람)"
)
#: PS3.3 C.7.6.1.1.1: directions of a four-legged body.
_QUADRUPED_DIRECTION = re.compile(r"(LE|RT|D|V|CR|CD|R|M|L|PR|DI|PA|PL)+")
_QUADRUPED_ALONE = re.compile(r".*(LE|RT|^D|^V|CR|CD)")

#: A part of the body or a projection: what makes CANINE and CAT an animal and not a tooth or a scan.
_PART = (
    r"(THORAX|CHEST|ABDOMEN|PELVIS|HIPS?|SPINE|SKULL|HEAD|ELBOWS?|STIFLE|CARPUS|TARSUS|SHOULDERS?|KNEES?|LUNGS?"
    r"|LIMBS?|FORELIMB|HINDLIMB|FORELEG|HINDLEG|PAWS?|TAIL|HEART|WHOLE ?BODY|LATERAL|LAT|VD|DV"
    r"|FELINE|DOG|K9|ADULT|PUPPY)"
)
#: After an animal's word: what a person suffers from it, or a thing named after it.
_NOT_THE_ANIMAL = (
    r"(?!['’]?S?[\s-]*(BIT(E|ES|TEN)|SCRATCH\w*|KICK\w*|ATTACK\w*|RID(E|ER|ERS|ING)|RAC(E|ING)|FALL|FELL|ACCIDENT|INJUR\w*"
    r"|ALLERG\w*|DANDER|HAIR|FUR|FLU|INFLUENZA|POX|FEVER|LUNG|ARCH|VALV\w*|AORTIC|PERICARD\w*|GRAFT|PROSTHE\w*"
    r"|BIOPROSTHE\w*|HEPARIN|OWNER|EXPOSURE|CONTACT|MILK|TOOTH|TEETH|FOSSA|SPACE|EMINENCE|IMPACT\w*))"
)
#: Before an animal's word: it did something to a person.
_BY_THE_ANIMAL = (
    r"(?<!BY )(?<!BY A )(?<!FROM )(?<!FROM A )(?<!OFF )(?<!OFF A )(?<!OF A )(?<!WITH A )(?<!HORSE)(?<!SEA )"
    r"(?<!SCOTTIE )(?<!SCOTTY )"
)
_ANIMALS = re.compile(
    rf"{_BY_THE_ANIMAL}\b(VETERIN\w*|VET MED|ANIMALS?|DOGS?|K9|CANIS|PUPP(Y|IES)|FELINES?|FELIS|KITTENS?|KITTY|EQUINE"
    rf"|EQUUS|HORSES?|PON(Y|IES)|FOALS?|MARE|STALLION|BOVINE|CATTLE|COW|CALF ELBOW|OVINE|SHEEP|PORCINE|PIGLETS?|SWINE"
    rf"|MINIPIG|CAPRINE|GOATS?|AVIAN|PARROTS?|REPTILES?|TORTOISES?|TURTLES?|LAGOMORPH|LEPORINE|RABBITS?|FERRETS?|HAMSTERS?"
    rf"|GUINEA PIGS?|RODENTS?|MURINE|RATS?|MICE|MACAQUES?|PRIMATES?|EXOTIC PET|PETS|HUND|KATZE|PFERD|CHIEN|CHEVAL"
    rf"|PERRO|GATO|HUNDE|WELPEN?|KANINCHEN|MEERSCHWEINCHEN|KLEINTIERE?|LAPIN|CONEJO|FELIN|POODLES?|BEAGLES?"
    rf"|CHIHUAHUAS?|DACHSHUNDS?|LABRADORS?|HOND(EN)?|KÖPEK|KOIRA|IGUANAS?|BEARDED DRAGON|MARMOSETS?|PAPAGEI(EN)?"
    rf"|SCHILDKRÖTEN?)\b{_NOT_THE_ANIMAL}",
    re.ASCII,
)
_CANINE = re.compile(
    rf"\bCANIN(ES?)?[\s,/-]+(\w+[\s,/-]+){{0,2}}?{_PART}\b|\b{_PART}[\s,/-]+(\w+[\s,/-]+)?CANIN(ES?)?\b", re.ASCII
)
_CAT = re.compile(
    rf"{_BY_THE_ANIMAL}\bCATS?(?=\s*$|[\s,/-]+{_PART}\b){_NOT_THE_ANIMAL}(?!\s*-?\s*(SCAN|CT))"
    rf"|\bDOMESTIC (SHORT|LONG) ?HAIR|\b(CHAT|VET)[\s,/-]+{_PART}\b|\bTHORAX[\s,/-]+CHAT\b",
    re.ASCII,
)
#: 犬 is also the tooth 犬齿, and both bite; 马 and 牛 stand in too many names of diseases.
_CHINESE = re.compile(
    r"(?<!被)(?<!热)(?<!野)[犬狗](?!齿|牙|咬|抓|伤|吠|病毒)|(?<!被)(?<!熊)(?<!野)猫(?!抓|咬|伤|眼|叫)|宠物|兽医|动物医院|比格|赛马"
    r"|イヌ|ネコ|うさぎ|ウサギ|동물병원|고양이|강아지|반려|СОБАК|КОШК|КРОЛИК|ВЕТЕРИНАР"
)
_CHINESE_INSTITUTION = re.compile("宠物|兽医|动物医院")
_INSTITUTION = re.compile(
    r"\b(VETERIN\w*|VET CLINIC|VETS|ANIMAL (HOSPITAL|CLINIC)|TIERARZT\w*|TIERKLINIK|KLEINTIER\w*)\b"
)
#: A study by these modalities may be called a CAT scan.
_TOMOGRAPHY = frozenset({"CT", "PT", "NM", "MR"})


def why_no_person(header: Dataset) -> str:
    """Say which attribute of an object states an animal, or return nothing where it may be a person."""
    if _species_is_not_human(header):
        return "its species is not human"
    if any(_has(header, keyword) for keyword in _OF_ANIMALS):
        return "it states a breed, a strain or neutering, which only animals have"
    if {one.upper().strip() for one in _texts(header, "ResponsiblePersonRole")} & {"OWNER", "VETERINARIAN"}:
        return "the patient has an owner or a veterinarian"
    if _stands_on_four_legs(header):
        return "the patient is described as four-legged"
    if any(_names_an_animal(text, str(header.get("Modality") or "")) for text in _all_texts(header, _DESCRIPTIONS)):
        return "a description names an animal"
    if any(_is_veterinary(text) for text in _all_texts(header, _INSTITUTIONS)):
        return "it comes from a veterinary institution"
    return ""


def _species_is_not_human(header: Dataset) -> bool:
    described = [text.upper().strip() for text in _texts(header, "PatientSpeciesDescription") if text.strip()]
    if any(not _HUMAN.fullmatch(text) for text in described):
        return True
    return any(not _is_human_code(item) for item in header.get("PatientSpeciesCodeSequence") or ())


def _is_human_code(item: Dataset) -> bool:
    code = str(item.get("CodeValue") or item.get("LongCodeValue") or "").strip().upper()
    meaning = str(item.get("CodeMeaning") or "").strip().upper()
    # An item without anything in it is an empty value.
    return code in _HUMAN_CODES or bool(_HUMAN.fullmatch(meaning)) or not (code or meaning)


def _stands_on_four_legs(header: Dataset) -> bool:
    # (0010,2210), PS3.3 C.7.6.1.1.1
    if str(header.get("AnatomicalOrientationType") or "").upper().strip() == "QUADRUPED":
        return True
    directions = [text.upper().strip() for text in _texts(header, "PatientOrientation") if text.strip()]
    return (
        bool(directions)
        and all(_QUADRUPED_DIRECTION.fullmatch(one) for one in directions)
        and any(_QUADRUPED_ALONE.match(one) for one in directions)
    )


def _names_an_animal(text: str, modality: str) -> bool:
    # "DogThorax" is two words.
    words = re.sub(r"[_^.]|(?<=[a-z])(?=[A-Z])", " ", text).upper()
    if _ANIMALS.search(words) or _CANINE.search(words) or _CHINESE.search(words):
        return True
    return modality not in _TOMOGRAPHY and bool(_CAT.search(words))


def _is_veterinary(text: str) -> bool:
    return bool(_INSTITUTION.search(text.upper()) or _CHINESE_INSTITUTION.search(text))


def _has(header: Dataset, keyword: str) -> bool:
    value = header.get(keyword)
    return bool(value) and any(str(one).strip() for one in ([value] if isinstance(value, str) else value))


def _texts(header: Dataset, keyword: str) -> list[str]:
    value = header.get(keyword)
    if not value:
        return []
    return [value] if isinstance(value, str) else [str(one) for one in value]


def _all_texts(header: Dataset, keywords: tuple[str, ...]) -> list[str]:
    return [text for keyword in keywords for text in _texts(header, keyword)]
