"""The content of a draft as TID 2000, Basic Diagnostic Imaging Report: every item a row of the template (PS3.16)."""

from collections.abc import Sequence

from pydicom.dataset import Dataset

from casebook.reading import Reading
from casebook.sentences import fold
from casebook.settings import DeviceSettings
from casebook.study import CodedConcept
from dicom_node.results.draft_text import DraftText
from dicom_node.results.report_codes import (
    DEVICE,
    DEVICE_OBSERVER_UID,
    FINDING,
    FINDINGS,
    IMPRESSION,
    IMPRESSIONS,
    LANGUAGE,
    LANGUAGES,
    OBSERVER_TYPE,
    OTHER_TITLE,
    PROCEDURE_DESCRIPTION,
    PROCEDURE_DESCRIPTIONS,
    PROCEDURE_REPORTED,
    SUMMARY,
    TITLES,
    in_language,
    own,
    procedure_codes,
)
from dicom_node.results.sr_elements import code_item, put

#: OHIF shows a finding as preformatted text and breaks no line itself: a longer sentence would run off the screen. Its
#: viewport has so many columns on a screen of 1024 pixels, or beside an image on one of 1920.
FINDING_COLUMNS = 64

_CONTAINS = "CONTAINS"
_MODIFIER = "HAS CONCEPT MOD"
_CONTEXT = "HAS OBS CONTEXT"


def add_content(ds: Dataset, reading: Reading, device: DeviceSettings, text: DraftText) -> None:
    """Add the tree (TID 2000, TID 2002): all shown content is a direct child of a heading, as old viewers need."""
    template = Dataset()
    put(template, "MappingResource", "DCMR")
    put(template, "MappingResourceUID", "1.2.840.10008.8.1.1")
    put(template, "TemplateIdentifier", "2000")
    put(ds, "ValueType", "CONTAINER")
    language = reading.language
    ds.ConceptNameCodeSequence = [code_item(in_language(TITLES.get(reading.modality, OTHER_TITLE), language))]
    put(ds, "ContinuityOfContent", "SEPARATE")
    ds.ContentTemplateSequence = [template]
    findings = [fold(one, FINDING_COLUMNS) for one in text.findings]
    # PS3.16 CID 7001 is extensible: the checks are no findings of an observer and have a heading of their own.
    checks, check = own("AICHK", device.organization), own("AICHKROW", device.organization)
    sections = (
        _section(SUMMARY, SUMMARY, [text.disclaimer], language),
        _section(FINDINGS, FINDING, findings, language),
        _section(IMPRESSIONS, IMPRESSION, text.impression, language),
        _section(checks, check, text.checks, language),
        _section(PROCEDURE_DESCRIPTIONS, PROCEDURE_DESCRIPTION, text.basis, language),
    )
    ds.ContentSequence = [*_context(reading, device), *(one for one in sections if one is not None)]


def _context(reading: Reading, device: DeviceSettings) -> list[Dataset]:
    """State language, procedure and observer (TID 1204, 1210, 1002, 1004).

    Of the observer only what TID 1004 requires: everything here stands before the disclaimer.
    """
    said = _item(_MODIFIER, "CODE", in_language(LANGUAGE, reading.language))
    said.ConceptCodeSequence = [code_item(in_language(LANGUAGES[reading.language], reading.language))]
    items = [said]
    for one in procedure_codes(reading.header):
        procedure = _item(_MODIFIER, "CODE", in_language(PROCEDURE_REPORTED, reading.language))
        procedure.ConceptCodeSequence = [code_item(one)]
        items.append(procedure)
    observer_type = _item(_CONTEXT, "CODE", in_language(OBSERVER_TYPE, reading.language))
    observer_type.ConceptCodeSequence = [code_item(in_language(DEVICE, reading.language))]
    observer_uid = _item(_CONTEXT, "UIDREF", in_language(DEVICE_OBSERVER_UID, reading.language))
    put(observer_uid, "UID", device.device_uid)
    return [*items, observer_type, observer_uid]


def _section(heading: CodedConcept, name: CodedConcept, texts: Sequence[str], language: str) -> Dataset | None:
    if not texts:
        return None
    section = _item(_CONTAINS, "CONTAINER", in_language(heading, language))
    put(section, "ContinuityOfContent", "SEPARATE")
    section.ContentSequence = [_text(in_language(name, language), one) for one in texts]
    return section


def _text(name: CodedConcept, value: str) -> Dataset:
    item = _item(_CONTAINS, "TEXT", name)
    # PS3.5 6.2, UT: a new line is CR LF.
    item.TextValue = value.replace("\n", "\r\n")
    return item


def _item(relationship: str, value_type: str, name: CodedConcept) -> Dataset:
    item = Dataset()
    put(item, "RelationshipType", relationship)
    put(item, "ValueType", value_type)
    item.ConceptNameCodeSequence = [code_item(name)]
    return item
