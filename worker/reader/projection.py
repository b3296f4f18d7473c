"""From where a film was taken: what its header states, in codes, in letters and in words, and what stated it.

A film is frontal when something says so and nothing says otherwise. What is stated and not understood, and
what contradicts itself, is `UNKNOWN`, which is never frontal.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from pydicom.dataset import Dataset

#: The attributes a projection is read from.
ATTRIBUTES = (
    "ViewPosition", "ViewCodeSequence", "PatientOrientation", "SeriesDescription", "ProtocolName",
    "AcquisitionDeviceProcessingDescription", "PerformedProcedureStepDescription", "RequestedProcedureDescription",
    "StudyDescription",
)  # fmt: skip
#: Words about this one film, after its code and its position.
_DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
#: Words about the whole examination: they may warn, they never make a film frontal.
_EXAMINATION = ("PerformedProcedureStepDescription", "RequestedProcedureDescription", "StudyDescription")


class Projection(StrEnum):
    """From where a film was taken, in the order in which a reader wants to see the films."""

    #: From behind: the standing patient.
    POSTERO_ANTERIOR = "pa"
    #: From the front: often the lying patient.
    ANTERO_POSTERIOR = "ap"
    #: From behind or from the front; which of them is not stated.
    FRONTAL = "frontal"
    #: Nothing at all is stated.
    UNSTATED = "unstated"
    #: From the side.
    LATERAL = "lateral"
    #: At an angle between frontal and lateral.
    OBLIQUE = "oblique"
    #: Along the body, or tilted towards it: axial, lordotic, apical.
    AXIAL = "axial"
    #: Of a patient who lies on one side.
    DECUBITUS = "decubitus"
    #: Something is stated that is not understood or contradicts itself.
    UNKNOWN = "unknown"


#: Frontal for certain.
FRONTAL = frozenset({Projection.POSTERO_ANTERIOR, Projection.ANTERO_POSTERIOR, Projection.FRONTAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """A projection and what decided it."""

    projection: Projection
    #: Plain words for the reference in the draft: "frontal, PA, by ViewPosition".
    reason: str


NOTHING_STATED = Stated(projection=Projection.UNSTATED, reason="no projection stated, taken as frontal")

_NAMES = MappingProxyType(
    {
        Projection.POSTERO_ANTERIOR: "frontal, PA",
        Projection.ANTERO_POSTERIOR: "frontal, AP",
        Projection.FRONTAL: "frontal",
        Projection.LATERAL: "lateral",
        Projection.OBLIQUE: "oblique",
        Projection.AXIAL: "axial or lordotic",
        Projection.DECUBITUS: "decubitus",
        Projection.UNKNOWN: "of a projection that is not understood",
    }
)

_P = Projection
#: PS3.16 CID 4010 DX View and CID 4014 View for Mammography, by SNOMED CT and by the older SRT value.
_VIEW_CODES = MappingProxyType(
    {
        _P.POSTERO_ANTERIOR: ("272479007", "R-40888", "399001007", "G-5216"),
        _P.ANTERO_POSTERIOR: ("399348003", "R-10206", "399321004", "G-5215"),
        _P.FRONTAL: ("399033003", "R-10202", "81654009", "G-A138"),
        _P.LATERAL: (
            "399067008", "R-102CD", "399173006", "R-10236", "399198007", "R-10232", "399118008", "G-5223",
            "399297009", "G-5222", "399260004", "R-10224", "399012007", "G-5220", "399352003", "R-10228",
            "30730003", "G-A145", "49370004", "G-A104",
        ),
        _P.OBLIQUE: (
            "399182000", "R-102C1", "399038007", "R-10210", "399059000", "R-10216", "399099002", "R-10230",
            "399135007", "R-10220", "260427002", "R-40783", "399236003", "R-10234", "399368009", "R-10226",
            "399356000", "R-40985", "399312000", "R-10208", "399184004", "R-10238", "260426006", "R-40782",
            "399160007", "R-10204", "399006002", "R-10212", "399136008", "G-5209", "399074003", "G-5207",
            "399108003", "G-5206", "399075002", "G-5208", "399159002", "G-5225", "21114003", "G-A472",
        ),
        _P.AXIAL: (
            "399061009", "R-10241", "399225005", "R-10250", "399162004", "R-10242", "399288005", "R-10248",
            "399196006", "R-10244", "399132005", "R-10252", "399325008", "R-10254", "399004004", "R-10246",
            "24422004", "G-A147", "399273000", "G-5212", "399089007", "G-5210", "3583002", "G-A108",
            "66787007", "G-A107", "62824007", "G-A117",
        ),
        _P.UNKNOWN: (
            "399110001", "R-102C2", "399242004", "R-102C6", "399351005", "R-102C7", "260499007", "R-40810",
            "399071006", "R-102C3", "399360002", "R-10257", "119376003", "G-8300", "399272005", "R-102C5",
            "399255003", "R-10256", "399335002", "R-102C4", "399316002", "R-102C8", "111069", "118438002",
            "G-D00B", "272466003", "R-4087B", "272476000", "R-40885", "278318001", "R-40554",
        ),
    }
)  # fmt: skip
_PROJECTION_OF_CODE = MappingProxyType({code: name for name, codes in _VIEW_CODES.items() for code in codes})

#: Words of every free text, English and what else is common, Chinese, in the order in which they decide.
_WORDS = (
    (_P.DECUBITUS, r"\b(DECUB\w*|DECUBITUS|LLD|RLD|SEITENLAGE)\b|侧卧|側臥"),
    (
        _P.UNKNOWN,
        r"\b(CALDWELL|WATERS?|TOWNES?|NOTCH|TUNNEL|SKYLINE|MERCHANT|SUNRISE|ODONTOID|AXILLARY|TANGENTIAL|JUDET|FROG)\b",
    ),
    (_P.OBLIQUE, r"\b(OBL\w*|LAO|RAO|LPO|RPO|LLO|RLO|SCHR(AE|Ä|A)G\w*|OAD|OAG|OPG|OPD)\b|斜|КОС(АЯ|ОЙ) ПРОЕК"),
    (_P.AXIAL, r"\b(AX|AXIAL\w*|LORDOT\w*|LORDOSE|APICAL|APICES|CEPHALAD|CAUDAD)\b|轴位|前弓|前凸|肺尖"),
    (
        _P.LATERAL,
        (
            r"\b(LAT|LATERAL|LATERALE|LATERALIS|LATERO\w*|LATCHEST|LATTHORAX|LL|LLAT|RLAT|LTLAT|RTLAT|LATL|LATR"
            r"|X ?TABLE|CROSS ?TABLE|XTL"
            r"|SHOOT ?THROUGH|SWIMMER\w*|SAGITTAL|SEITL|SEITLICHE?S?|SEITE|SEITBILD|SEIT(EN)?AUFNAHME"
            r"|(LI|RE|LINKS|RECHTS) ANLIEGEND|HBL|HORIZONTAL BEAM|TRANSTHORACIC|TRANSLATERAL\w*|PROFILE?|PERFIL"
            r"|SIDE ?VIEW|BOCZN[AEY]|BOCNA|ZIJDELINGS\w*|DWARS\w*)\b"
            r"|侧位|側位|侧片|側片|左侧胸|右侧胸|穿胸|側面|측면|측위|БОКОВ|BOČN|YAN GRAF"
        ),
    ),
)
#: Letters that mean a side view in a view position, and too much else in a description.
_LATERAL_LETTERS = re.compile(r"\b(RL|ML|LM)\b", re.ASCII)
_PA = re.compile(r"\b(PA|POSTERO ?ANTERIOR|POSTERIOR (TO )?ANTERIOR)\b|后前", re.ASCII)
_AP = re.compile(r"\b(AP|ANTERO ?POSTERIOR|ANTERIOR (TO )?POSTERIOR)\b|前后", re.ASCII)
_FRONTAL = re.compile(r"\b(FRONTAL\w*|FACE)\b|正位|正片|正侧|正面|정면|ПРЯМ(АЯ|ОЙ) ПРОЕК", re.ASCII)
_DECIDING = tuple((projection, re.compile(pattern, re.ASCII)) for projection, pattern in _WORDS)
#: Between the names of two films.
_SEPARATORS = re.compile(r"[,;/\\+&|、，和及与]|\b(?:AND|UND|ET|Y)\b", re.ASCII)
#: What may stand beside a projection in a view position without changing it.
_BESIDE = re.compile(
    r"\b(CHEST|TH?[OÓ]RAX|LUNGS?|CXR|ERECT|UPRIGHT|STANDING|SITTING|SEATED|SEMI|SEMIERECT|SEMIUPRIGHT|UPRT"
    r"|SUPINE|PRONE|LYING|PORTABLE|PORT|MOBILE"
    r"|BED|BEDSIDE|BUCKY|WALL|TABLE|GRID|NO|NON|W|WO|WITH|WITHOUT|INSP\w*|EXP\w*|FULL|DEEP|VIEW|PROJECTION|POSITION"
    r"|IM|DE|STEHEND|STEHEN|LIEGEND|LIEGEN|SITZEND|SITZEN|DEBOUT|COUCH(E|É)|PIE|RADIOGRAF(I|Í)A|XR|DX|CR|RX"
    r"|IN|OF|ADULT|CHILD|PEDIATRIC|LEFT|RIGHT|L|R|\d+)\b|胸部?|站立?位?|立位|坐位|仰?平?卧位?|床旁|吸气|呼气|位|片",
    re.ASCII,
)


def projection_of(header: Dataset) -> Stated:
    """Read the projection of a film from its header.

    The view code (PS3.3 C.8.11.5), the view position and the descriptions of the series are heard together:
    what is not frontal outweighs what is, a film that is frontal to one and lateral to another is `UNKNOWN`,
    and a view position that is not understood is `UNKNOWN` whatever else is said.
    """
    said = _said_of_the_film(header)
    stated = [one for one in said if one is not None]
    orientation = _by_orientation(header)
    if orientation and (not stated or orientation.projection not in FRONTAL):
        # L\F is what many devices always write: it decides only where nothing else does.
        stated.append(orientation)
    warning = _by_examination(header)
    if warning and not any(one.projection in FRONTAL for one in stated if one is not orientation):
        stated.append(warning)
    return _together(stated)


def _said_of_the_film(header: Dataset) -> list[Stated | None]:
    position, code = _by_position(header), _by_code(header)
    described = [_by_description(header, keyword) for keyword in _DESCRIPTIONS]
    clear = [one for one in (position, code, *described) if one and one.projection is not Projection.UNKNOWN]
    if not clear:
        return [position, code, *described]
    # A code or a description that is not understood says nothing beside one that is; a view position does.
    unclear = [position] if position and position.projection is Projection.UNKNOWN else []
    return [*clear, *unclear]


def _together(stated: list[Stated]) -> Stated:
    if not stated:
        return NOTHING_STATED
    frontal = [one for one in stated if one.projection in FRONTAL]
    others = [one for one in stated if one.projection not in FRONTAL]
    lateral = [one for one in others if one.projection is Projection.LATERAL]
    if frontal and lateral and len(lateral) == len(others):
        return Stated(projection=Projection.UNKNOWN, reason="frontal by one attribute and lateral by another")
    if others:
        return next((one for one in others if one.projection is not Projection.UNKNOWN), others[0])
    return next((one for one in frontal if one.projection is not Projection.FRONTAL), frontal[0])


def _by_position(header: Dataset) -> Stated | None:
    # (0018,5101), PS3.3 C.8.7.1 and C.8.1.1: PA, AP, LL, RL, RLD, LLD, RLO, LLO; many devices write words.
    text = _normal(_readable(" ".join(_values(header, "ViewPosition"))))
    if not text:
        return None
    found = _named(text) | ({Projection.LATERAL} if _LATERAL_LETTERS.search(text) else set())
    left = _BESIDE.sub(" ", _without_names(text)).strip()
    understood = len(found) == 1 and not left
    return _stated(found.pop() if understood else Projection.UNKNOWN, "ViewPosition")


def _by_code(header: Dataset) -> Stated | None:
    found: list[Projection] = []
    for item in header.get("ViewCodeSequence") or ():
        view = _of_code(item)
        modifiers = [_of_code(one) for one in item.get("ViewModifierCodeSequence") or ()]
        # A modifier that is not understood (mouth closed) leaves the view as it is.
        turned = [one for one in modifiers if one not in FRONTAL and one is not None]
        found.append(turned[0] if turned and view in FRONTAL else view or Projection.UNKNOWN)
    if not found:
        return None
    return _stated(found[0] if len(set(found)) == 1 else Projection.UNKNOWN, "ViewCodeSequence")


def _of_code(item: Dataset) -> Projection | None:
    value = str(item.get("CodeValue") or item.get("LongCodeValue") or "").strip().upper()
    if value in _PROJECTION_OF_CODE:
        return _PROJECTION_OF_CODE[value]
    named = _named(_normal(str(item.get("CodeMeaning") or "")))
    return named.pop() if len(named) == 1 else None


def _by_description(header: Dataset, keyword: str) -> Stated | None:
    named = _named(_normal(" ".join(_values(header, keyword))))
    if not named:
        return None
    return _stated(named.pop() if len(named) == 1 else Projection.UNKNOWN, keyword)


def _by_examination(header: Dataset) -> Stated | None:
    for keyword in _EXAMINATION:
        one = _by_description(header, keyword)
        if one and one.projection not in FRONTAL and one.projection is not Projection.UNKNOWN:
            return one
    return None


def _by_orientation(header: Dataset) -> Stated | None:
    # (0020,0020), PS3.3 C.7.6.1.1.1: where the rows and the columns of the picture run to.
    values = [value.upper().strip() for value in _values(header, "PatientOrientation")]
    if len(values) != 2 or not all(re.fullmatch("[LRAPFH]{1,3}", value) for value in values):
        return None
    sides, ends = {"L", "R"}, {"F", "H"}
    axes = ["side" if one[0] in sides else "end" if one[0] in ends else "depth" for one in values]
    if sorted(axes) == ["end", "side"]:
        across = values[axes.index("side")]
        turned = len(across) > 1 and across[1] in {"A", "P"}
        if not turned and (values[0][0], values[1][0]) != ("L", "F"):
            # Left and right of a draft would be those of the picture and not of the patient.
            reason = "mirrored or turned on its side, by PatientOrientation"
            return Stated(projection=Projection.UNKNOWN, reason=reason)
        return _stated(Projection.OBLIQUE if turned else Projection.FRONTAL, "PatientOrientation")
    if sorted(axes) == ["depth", "end"]:
        return _stated(Projection.LATERAL, "PatientOrientation")
    if sorted(axes) == ["depth", "side"]:
        return _stated(Projection.AXIAL, "PatientOrientation")
    return None


def _stated(projection: Projection, keyword: str) -> Stated:
    return Stated(projection=projection, reason=f"{_NAMES[projection]}, by {keyword}")


def _named(text: str) -> set[Projection]:
    # One name for each part of an enumeration: "PA OBLIQUE" is one film, "PA, LAT" are two.
    named: set[Projection] = set()
    for part in _SEPARATORS.split(text):
        named |= _named_in_part(part)
    # "AP/PA" is frontal either way.
    return {Projection.FRONTAL} if len(named) > 1 and named <= FRONTAL else named


def _named_in_part(part: str) -> set[Projection]:
    frontal = _frontal_in(part)
    for projection, pattern in _DECIDING:
        if pattern.search(part):
            return {projection, *frontal} if projection is Projection.LATERAL else {projection}
    return frontal


def _frontal_in(part: str) -> set[Projection]:
    found = {
        projection
        for projection, pattern in ((Projection.POSTERO_ANTERIOR, _PA), (Projection.ANTERO_POSTERIOR, _AP))
        if pattern.search(part)
    }
    if len(found) > 1 or (not found and _FRONTAL.search(part)):
        return {Projection.FRONTAL}
    return found


def _without_names(text: str) -> str:
    for pattern in (*(pattern for _, pattern in _DECIDING), _LATERAL_LETTERS, _PA, _AP, _FRONTAL, _SEPARATORS):
        text = pattern.sub(" ", text)
    return text


def _normal(text: str) -> str:
    # "ChestPA" and "PA1" are words and numbers; "A.P." and "P-A" are letters of one word.
    text = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", text).upper()
    text = re.sub(r"\bA\s?[./-]\s?P\b", "AP", re.sub(r"\bP\s?[./-]\s?A\b", "PA", text))
    return " ".join(re.sub(r"[_.:()\[\]<>\"'*#=-]", " ", text).split())


def _readable(text: str) -> str:
    # PS3.5 6.2: no character set applies to CS, so Chinese words in it arrive as single bytes.
    if text.isascii():
        return text
    for encoding in ("utf-8", "gb18030"):
        with suppress(UnicodeError):
            return text.encode("latin-1").decode(encoding)
    return text


def _values(header: Dataset, keyword: str) -> list[str]:
    value = header.get(keyword)
    if value is None or value == "":
        return []
    several: Iterable[object] = [value] if isinstance(value, str) else value
    return [str(one) for one in several]
