"""Whether an object is a picture of the patient: never one are captures of a screen, pages of text and localizers.

What is made from other pictures of the study (reformats, projections, maps) counts only where its source is absent.
"""

import re
from collections.abc import Iterable
from types import MappingProxyType

from pydicom.dataset import Dataset

#: The attributes that tell.
ATTRIBUTES = (
    "SOPClassUID", "Modality", "ImageType", "ConversionType", "BurnedInAnnotation", "SamplesPerPixel",
    "PhotometricInterpretation", "SeriesDescription", "ImagePositionPatient",
    "ImageOrientationPatient", "SliceLocation", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip

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
#: Secondary Capture, single-frame and the four multi-frame classes (PS3.4 B.5).
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
#: Modalities whose images are whole films; DR is no defined term, and written all the same.
FILM_MODALITIES = frozenset({"CR", "DX", "DR", "RG", "XR"})
#: Digitised film, scanned picture and digital interface (PS3.3 C.8.6.1): what carries a film; empty says nothing.
_CONVERSIONS_OF_FILMS = frozenset({"", "DF", "SI", "DI"})
#: Colour in these is a map, a fusion or a page, never what the detector measured.
_GREY_MODALITIES = frozenset({"CT", "MR", "CR", "DX", "DR", "RG", "XR", "MG", "IO", "PX", "PT"})
#: Text is part of every picture of these (PS3.3 C.7.6.1.1.3 asks them to say YES).
_LABELLED_MODALITIES = frozenset({"US", "IVUS", "ES", "GM", "SM", "OP", "XC", "OPT", "ECHO"})

#: Values of Image Type (PS3.3 C.7.6.1.1.2) as manufacturers write them, blanks and dashes as underscores.
_PAGE_TYPES = re.compile(
    r"(\w*_)?(DOSE_?(INFO|REPORT|SR|SUMMARY|PAGE)?|PATIENT_?(INFO|PROTOCOL|DATA)|SCREEN_?(SAVED?|SHOT|CAPTURE|DUMP)S?"
    r"|EXAM_?(SUMMARY|INFO)|SUMMARY|SUMMARIES|PROTOCOL_?(PAGE|INFO|SHEET)|REPORT|TEXT|TEXT_?PAGE|INFO_?PAGE"
    r"|COVER_?(PAGE|SHEET)|WORKSHEET|FORM|GRAPH|CURVE|CHART|HISTOGRAM|TIC|PIE_?CHART|SCANNED_?DOCUMENT|DOCUMENT|PAPER"
    r"|PAGE|PROT|PROTOCOL|SNAP_?SHOTS?|SECONDARY_?CAPTURE|LEGEND|LOGO|RDSR)"
    r"(_\w*)?"
)
_LOCALIZER_TYPES = re.compile(
    r"(\w*_)?(REF_?)?(LOCALIZER|LOCALISER|SCOUT|TOPOGRAM|SURVIEW|SCANOGRAM|SCANOSCOPE|PILOT|SURVEY)(_\w*)?|CT_SOM\d_TOP"
)
_DERIVED_TYPES = re.compile(
    r"(CSA_)?(MPR|MIP|MINIP|MIN_IP|CPR|VR|VRT|SSD|3D|3D_?(REFORMAT|RENDERING)|VOLUME_?RENDER\w*|REFORMAT\w*|RENDERED"
    r"|PROJECTION_?IMAGE|MAXIMUM|MINIMUM|MEAN|AVERAGE|AVG|STDDEV|THICK_?SLAB|FUSION|FUSED|SUBTRACTION|SUB|MAP|PARAMETRIC\w*"
    r"|BATCH_?MOVIE|CURVED\w*|RESAMPLED|ENDOSCOPY|SEGMENTED|MONITORING|BOLUS\w*)(_\w*)?"
)
#: Series named as pages of text.
_PAGE_SERIES = re.compile(
    r"\b(DOSE (REPORT|INFO\w*|RECORD|SUMMARY|PAGE|SHEET)|(REPORT|INFO\w*) DOSE|PATIENT (PROTOCOL|INFO\w*|DATA)|SUMMARY"
    r"|SCREEN ?(SAVE|SAVES|SAVED|SHOTS?|CAPTURES?|DUMP)|PROTOCOL (PAGE|SHEET)|SCANNED (DOCUMENT|FORM)S?|REQUISITION"
    r"|CONSENT FORM|WORKSHEET|DOSISPROTOKOLL|DOSISBERICHT|DOSISINFO\w*|PATIENTENPROTOKOLL"
    r"|DOSE STRUCTURED REPORT|RAPPORT (DE )?DOSE|INFORME (DE )?DOSIS)\b"
    r"|^(DOSE|DOSIS|剂量|劑量)$|检查信息|扫描协议|剂量报告|剂量信息|患者信息|病人信息|检查总结|截图|截屏|申请单",
    re.ASCII,
)
_LOCALIZER_SERIES = re.compile(
    r"\b(LOCALI[SZ]ERS?|LOCALIZADOR|LOCALISATEUR|REP(E|É)RAGE|\w*SCOUTS?|TOPOGRAMM?|SURVIEW"
    r"|SCANOGRAM|PLANE LOC|3PL LOC|LOC|SURVEY|PILOT)\b|定位",
    re.ASCII,
)
_DERIVED_SERIES = re.compile(
    r"\b(MPRS?|MIPS?|MINIP|CPR|VRT?|VOLUME RENDER\w*|3D (VRT?|RENDER\w*|REFORMAT\w*)"
    r"|REFORMAT\w*|FUSION|FUSED"
    r"|SUBTRACTION|PREMONITORING|MONITORING|BOLUS|SMART ?PREP|TRACKER)\b|三维重建|多平面|冠状位?重[建组]"
    r"|矢状位?重[建组]|融合",
    re.ASCII,
)


def why_no_picture(sop_class_uid: str) -> str | None:
    """Say what an object is that carries no picture of the patient, or None for one that may carry it."""
    return next((name for beginning, name in _NO_PICTURES.items() if sop_class_uid.startswith(beginning)), None)


def why_not_the_patient(header: Dataset, *, takes_digitised_films: bool) -> str:
    """Say why an image does not show the patient to a reader, or return nothing where it may.

    Parameters
    ----------
    header
        Of an image.
    takes_digitised_films
        Whether the model takes films that a scanner sent as secondary captures.
    """
    checks = (
        _page_by_type(header),
        _page_by_series(header),
        _localizer(header),
        _secondary_capture(header, takes_digitised_films=takes_digitised_films),
        _burned_in(header),
        _colour(header),
        _slice_without_scale_and_place(header),
    )
    return next((reason for reason in checks if reason), "")


def why_derived(header: Dataset) -> str:
    """Say what an image was made from others of its study, or return nothing for a source image."""
    types = _image_types(header)
    if any(_DERIVED_TYPES.fullmatch(one) for one in types[2:]):
        return "a reformat or projection of other images, beside them"
    if _is_film(header):
        return ""
    if _DERIVED_SERIES.search(_described(header)):
        return "a reformat or projection of other images, beside them"
    if len(types) > 1 and types[1] == "SECONDARY":
        return "made after the examination, beside its source images"
    return ""


def has_place(header: Dataset) -> bool:
    """Tell whether an image says where it lies in the patient (PS3.3 C.7.6.2), frame by frame or as a whole."""
    if header.get("ImagePositionPatient") and header.get("ImageOrientationPatient"):
        return True
    groups = [*(header.get("SharedFunctionalGroupsSequence") or ()), *_first_group(header)]
    return any(group.get("PlanePositionSequence") for group in groups)


def is_in_hounsfield_units(header: Dataset) -> bool:
    """Tell whether the values are Hounsfield units: stated, or not denied in a CT image (PS3.3 C.8.2.1)."""
    stated = _rescale_type(header)
    if stated:
        return stated == "HU"
    return str(header.get("Modality") or "").strip() == "CT" and not _is_secondary_capture(header)


def unwanted_frames(header: Dataset) -> frozenset[int]:
    """Return the zero-based frames of an enhanced image that are localizers or pages (PS3.3 C.8.16.1)."""
    unwanted = set()
    for number, group in enumerate(header.get("PerFrameFunctionalGroupsSequence") or ()):
        types = _frame_types(group)
        if any(_LOCALIZER_TYPES.fullmatch(one) or _PAGE_TYPES.fullmatch(one) for one in types):
            unwanted.add(number)
    return frozenset(unwanted)


def _page_by_type(header: Dataset) -> str:
    if any(_PAGE_TYPES.fullmatch(one) for one in _all_types(header)):
        return "a page of text or a capture of a screen, by its ImageType"
    return ""


def _page_by_series(header: Dataset) -> str:
    if _PAGE_SERIES.search(_described(header)):
        return "a page of text or a capture of a screen, by the name of its series"
    return ""


def _localizer(header: Dataset) -> str:
    if any(_LOCALIZER_TYPES.fullmatch(one) for one in _all_types(header)):
        return "a localizer"
    # A scout or a survey of bones may be a film; in a stack it is where the slices were planned.
    if not _is_film(header) and _LOCALIZER_SERIES.search(_described(header)):
        return "a localizer, by the name of its series"
    return ""


def _secondary_capture(header: Dataset, *, takes_digitised_films: bool) -> str:
    if not _is_secondary_capture(header):
        return ""
    conversion = str(header.get("ConversionType") or "").upper().strip()
    is_digitised = (
        str(header.get("Modality") or "").strip() in FILM_MODALITIES
        and conversion in _CONVERSIONS_OF_FILMS
        and not _is_coloured(header)
    )
    if takes_digitised_films and is_digitised:
        return ""
    return "a secondary capture"


def _burned_in(header: Dataset) -> str:
    if str(header.get("Modality") or "").strip() in _LABELLED_MODALITIES:
        return ""
    if str(header.get("BurnedInAnnotation") or "").upper().strip() == "YES":
        return "text is burned into it"
    return ""


def _colour(header: Dataset) -> str:
    if str(header.get("Modality") or "").strip() in _GREY_MODALITIES and _is_coloured(header):
        return "a colour image of a modality that measures grey"
    return ""


def _slice_without_scale_and_place(header: Dataset) -> str:
    # PS3.3 C.8.2.1 and C.7.6.2 require both of a CT image; a page of text that calls itself one has neither.
    if str(header.get("SOPClassUID") or "") != "1.2.840.10008.5.1.4.1.1.2":
        return ""
    place_and_scale = ("ImagePositionPatient", "SliceLocation", "RescaleSlope", "RescaleIntercept")
    if any(str(header.get(keyword, "")).strip() not in {"", "None"} for keyword in place_and_scale):
        return ""
    return "a CT image with neither a place nor a scale, so no slice of the patient"


def _is_secondary_capture(header: Dataset) -> bool:
    uid = str(header.get("SOPClassUID") or "")
    return uid == _SECONDARY_CAPTURE or uid.startswith(f"{_SECONDARY_CAPTURE}.")


def _is_coloured(header: Dataset) -> bool:
    photometric = str(header.get("PhotometricInterpretation") or "").upper().strip()
    return int(header.get("SamplesPerPixel") or 1) > 1 or photometric.startswith(("RGB", "YBR", "PALETTE"))


def _is_film(header: Dataset) -> bool:
    return str(header.get("Modality") or "").strip() in FILM_MODALITIES


def _described(header: Dataset) -> str:
    return " ".join(re.sub(r"[_\-./,;:()+]", " ", str(header.get("SeriesDescription") or "")).split()).upper()


def _image_types(header: Dataset) -> list[str]:
    return _normal(header.get("ImageType") or ())


def _all_types(header: Dataset) -> list[str]:
    # What every frame of an enhanced image is, the image is.
    shared = [one for group in header.get("SharedFunctionalGroupsSequence") or () for one in _frame_types(group)]
    return [*_image_types(header), *shared]


def _frame_types(group: Dataset) -> list[str]:
    # CT, MR, XA, PET ... each have a macro of their own (CTImageFrameTypeSequence); FrameType stands in all of them.
    return [
        one
        for element in group
        if element.keyword.endswith("FrameTypeSequence")
        for item in element.value or ()
        for one in _normal(item.get("FrameType") or ())
    ]


def _normal(value: str | Iterable[object]) -> list[str]:
    several = [value] if isinstance(value, str) else value
    return [re.sub(r"[\s\-]+", "_", str(one).upper().strip()) for one in several]


def _first_group(header: Dataset) -> list[Dataset]:
    return list(header.get("PerFrameFunctionalGroupsSequence") or ())[:1]


def _rescale_type(header: Dataset) -> str:
    groups = [*_first_group(header), *(header.get("SharedFunctionalGroupsSequence") or ()), header]
    for group in groups:
        for item in group.get("PixelValueTransformationSequence") or ():
            if item.get("RescaleType"):
                return str(item.RescaleType).upper().strip()
    return str(header.get("RescaleType") or "").upper().strip()
