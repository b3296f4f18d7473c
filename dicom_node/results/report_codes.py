"""The codes of a report: titles, headings, languages (PS3.16), and the procedure codes that can be copied."""

from dataclasses import replace
from types import MappingProxyType

from casebook.study import CodedConcept, StudyHeader
from dicom_node.results.sr_elements import is_writable

#: PS3.16 CID 7000: document title by modality; OTHER_TITLE for the rest.
TITLES = {
    **dict.fromkeys(("CR", "DX", "RF"), CodedConcept(value="18782-3", scheme="LN", meaning="X-Ray Report")),
    "CT": CodedConcept(value="18747-6", scheme="LN", meaning="CT Report"),
    "MR": CodedConcept(value="18755-9", scheme="LN", meaning="MRI Report"),
    "US": CodedConcept(value="18760-9", scheme="LN", meaning="Ultrasound Report"),
    "NM": CodedConcept(value="18757-5", scheme="LN", meaning="Nuclear Medicine Report"),
    "PT": CodedConcept(value="18758-3", scheme="LN", meaning="PET Scan Report"),
}
OTHER_TITLE = CodedConcept(value="18748-4", scheme="LN", meaning="Diagnostic Imaging Report")
#: PS3.16 CID 5000, with its exact meanings.
LANGUAGES = {
    "en": CodedConcept(value="en", scheme="RFC5646", meaning="English"),
    "zh-CN": CodedConcept(value="zh-CN", scheme="RFC5646", meaning="Chinese (S)"),
}


def dcm(value: str, meaning: str) -> CodedConcept:
    """Return a concept of the DICOM Controlled Terminology."""
    return CodedConcept(value=value, scheme="DCM", meaning=meaning)


SUMMARY = dcm("121111", "Summary")
FINDINGS = dcm("121070", "Findings")
FINDING = dcm("121071", "Finding")
IMPRESSIONS = dcm("121072", "Impressions")
IMPRESSION = dcm("121073", "Impression")
PROCEDURE_DESCRIPTIONS = dcm("121064", "Current Procedure Descriptions")
PROCEDURE_DESCRIPTION = dcm("121065", "Procedure Description")
LANGUAGE = dcm("121049", "Language of Content Item and Descendants")
PROCEDURE_REPORTED = dcm("121058", "Procedure reported")
OBSERVER_TYPE = dcm("121005", "Observer Type")
DEVICE = dcm("121007", "Device")
DEVICE_OBSERVER_UID = dcm("121012", "Device Observer UID")

#: PS3.3 8.3: a code may have several meanings, translations among them; codes decide and meanings are read. The
#: meanings in a language other than English, by scheme and code.
_MEANINGS = MappingProxyType(
    {
        "zh-CN": {
            ("LN", "18782-3"): "X线检查报告",
            ("LN", "18747-6"): "CT检查报告",
            ("LN", "18755-9"): "MRI检查报告",
            ("LN", "18760-9"): "超声检查报告",
            ("LN", "18757-5"): "核医学检查报告",
            ("LN", "18758-3"): "PET检查报告",
            ("LN", "18748-4"): "影像检查报告",
            ("LN", "59776-5"): "影像所见",
            ("LN", "19005-8"): "影像诊断",
            ("RFC5646", "zh-CN"): "简体中文",
            ("DCM", "113014"): "DICOM 检查",
            ("DCM", "121005"): "观察者类型",
            ("DCM", "121007"): "设备",
            ("DCM", "121012"): "设备 UID",
            ("DCM", "121049"): "语言",
            ("DCM", "121058"): "检查项目",
            ("DCM", "121064"): "说明",
            ("DCM", "121065"): "说明",
            ("DCM", "121070"): "影像所见",
            ("DCM", "121071"): "所见",
            ("DCM", "121072"): "影像诊断",
            ("DCM", "121073"): "诊断",
            ("DCM", "121111"): "声明",
            ("", "DISC"): "AI 声明",
            ("", "AICHK"): "AI 预设问题",
            ("", "AICHKROW"): "预设问题",
            ("", "AIBASIS"): "说明",
            ("", "AI"): "机器生成，未经医师审核",
        }
    }
)
#: Of our own scheme: code and English meaning.
_OWN_MEANINGS = MappingProxyType(
    {
        "DISC": "AI disclaimer",
        "AICHK": "AI preset checks",
        "AICHKROW": "Preset check",
        "AIBASIS": "AI draft basis",
        "AI": "Machine generated, not verified",
    }
)


def own(value: str, organization: str) -> CodedConcept:
    """Return a concept of our own, in the private scheme of the organization (PS3.16 8.2)."""
    return CodedConcept(value=value, scheme=private_scheme(organization), meaning=_OWN_MEANINGS[value])


def private_scheme(organization: str) -> str:
    """Return the designator of the organization's private coding scheme."""
    return f"99{organization}"


def in_language(concept: CodedConcept, language: str) -> CodedConcept:
    """Return a concept with its meaning in the language of the draft, where we have one."""
    scheme = "" if concept.scheme.startswith("99") else concept.scheme
    meaning = _MEANINGS.get(language, {}).get((scheme, concept.value))
    return concept if meaning is None else replace(concept, meaning=meaning)


def procedure_codes(header: StudyHeader) -> tuple[CodedConcept, ...]:
    """Return the received procedure codes that can be written as they are."""
    return tuple(
        one
        for one in header.procedure_codes
        if one.value
        and one.scheme
        and one.meaning
        and is_writable("CodeValue", one.value)
        and is_writable("CodingSchemeDesignator", one.scheme)
        and is_writable("CodeMeaning", one.meaning)
    )
