"""Elements of an SR, written exactly or not at all."""

from pydicom import DataElement, config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.valuerep import validate_value

from casebook.errors import UnwritableText
from casebook.identity import FAULT_WORDS, IDENTITY, KEYWORDS, fault_of, separates_values
from casebook.study import CodedConcept
from dicom_node.objects import own_results
from dicom_node.results.clean_text import is_plain

MANUFACTURER = own_results.MANUFACTURER
MODEL_NAME = "Wetread"
#: Identifiers are copied as they were received and not judged: another value would name something else.
COPIED = frozenset(
    {
        *(KEYWORDS[name] for name in (*IDENTITY, "patient_name")),
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "ReferencedSOPInstanceUID",
        "ReferencedSOPClassUID",
    }
)


def code_item(concept: CodedConcept) -> Dataset:
    """Build the item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    put(item, "CodeValue", concept.value)
    put(item, "CodingSchemeDesignator", concept.scheme)
    put(item, "CodeMeaning", concept.meaning)
    return item


def put(ds: Dataset, keyword: str, value: str | int) -> None:
    """Set an element that its VR allows; a text that it does not allow is refused, never replaced or cut."""
    if isinstance(value, str) and not is_writable(keyword, value):
        raise UnwritableText(f"{keyword} {_why_not(keyword, value)}, so it cannot be copied")
    if keyword in COPIED:
        tag = tag_for_keyword(keyword) or 0
        ds[tag] = DataElement(tag, dictionary_VR(keyword), value, validation_mode=config.IGNORE)
    else:
        setattr(ds, keyword, value)


def _why_not(keyword: str, value: str) -> str:
    fault = fault_of(keyword, value)
    return FAULT_WORDS[fault] if fault else "holds a value that DICOM does not allow for it"


def is_writable(keyword: str, value: str) -> bool:
    """Say whether the VR of an element allows a value as it is."""
    # A backslash would split the value in two, equal signs beyond two would make a fourth name group.
    if not is_plain(value) or separates_values(value) or fault_of(keyword, value):
        return False
    if keyword in COPIED:
        return True
    try:
        validate_value(dictionary_VR(keyword), value, config.RAISE)
    except ValueError:
        return False
    return True
