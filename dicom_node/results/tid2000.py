"""The content of a draft as TID 2000, Basic Diagnostic Imaging Report: every item a row of the template (PS3.16)."""

from collections.abc import Sequence

from pydicom.dataset import Dataset

from casebook.reading import Reading
from casebook.settings import DeviceSettings
from casebook.study import CodedConcept
from dicom_node.results.clean_text import clean_line
from dicom_node.results.draft_text import DraftText
from dicom_node.results.report_codes import (
    FINDING,
    FINDINGS,
    IMPRESSION,
    IMPRESSIONS,
    LANGUAGES,
    OTHER_TITLE,
    PROCEDURE_DESCRIPTION,
    PROCEDURE_DESCRIPTIONS,
    SUMMARY,
    TITLES,
    dcm,
    procedure_codes,
)
from dicom_node.results.sr_elements import MANUFACTURER, MODEL_NAME, code_item, put

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
    ds.ConceptNameCodeSequence = [code_item(TITLES.get(reading.modality, OTHER_TITLE))]
    put(ds, "ContinuityOfContent", "SEPARATE")
    ds.ContentTemplateSequence = [template]
    sections = (
        _section(SUMMARY, SUMMARY, [text.disclaimer]),
        _section(FINDINGS, FINDING, text.findings),
        _section(IMPRESSIONS, IMPRESSION, text.impression),
        # A second "Findings": the text layout stays inside the template, which has no heading for checks.
        _section(FINDINGS, FINDING, text.checks),
        _section(PROCEDURE_DESCRIPTIONS, PROCEDURE_DESCRIPTION, text.basis),
    )
    ds.ContentSequence = [*_context(reading, device), *(one for one in sections if one is not None)]


def _context(reading: Reading, device: DeviceSettings) -> list[Dataset]:
    """State language, procedure and observer (TID 1204, 1210, 1002, 1004)."""
    language = _item(_MODIFIER, "CODE", dcm("121049", "Language of Content Item and Descendants"))
    language.ConceptCodeSequence = [code_item(LANGUAGES[reading.language])]
    items = [language]
    for one in procedure_codes(reading.header):
        procedure = _item(_MODIFIER, "CODE", dcm("121058", "Procedure reported"))
        procedure.ConceptCodeSequence = [code_item(one)]
        items.append(procedure)
    observer_type = _item(_CONTEXT, "CODE", dcm("121005", "Observer Type"))
    observer_type.ConceptCodeSequence = [code_item(dcm("121007", "Device"))]
    observer_uid = _item(_CONTEXT, "UIDREF", dcm("121012", "Device Observer UID"))
    put(observer_uid, "UID", device.device_uid)
    return [
        *items,
        observer_type,
        observer_uid,
        _text(_CONTEXT, dcm("121013", "Device Observer Name"), device.station_name),
        _text(_CONTEXT, dcm("121014", "Device Observer Manufacturer"), MANUFACTURER),
        _text(_CONTEXT, dcm("121015", "Device Observer Model Name"), MODEL_NAME),
        _text(_CONTEXT, dcm("121016", "Device Observer Serial Number"), clean_line(device.device_serial_number)),
    ]


def _section(heading: CodedConcept, name: CodedConcept, texts: Sequence[str]) -> Dataset | None:
    if not texts:
        return None
    section = _item(_CONTAINS, "CONTAINER", heading)
    put(section, "ContinuityOfContent", "SEPARATE")
    section.ContentSequence = [_text(_CONTAINS, name, one) for one in texts]
    return section


def _text(relationship: str, name: CodedConcept, value: str) -> Dataset:
    item = _item(relationship, "TEXT", name)
    # PS3.5 6.2, UT: a new line is CR LF.
    item.TextValue = value.replace("\n", "\r\n")
    return item


def _item(relationship: str, value_type: str, name: CodedConcept) -> Dataset:
    item = Dataset()
    put(item, "RelationshipType", relationship)
    put(item, "ValueType", value_type)
    item.ConceptNameCodeSequence = [code_item(name)]
    return item
