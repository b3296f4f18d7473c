"""The codes of a report: titles, headings, languages (PS3.16), and the procedure codes that can be copied."""

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
