"""Elements of an SR, written exactly or not at all."""

from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.valuerep import validate_value

from casebook.errors import UnwritableText
from casebook.study import CodedConcept
from dicom_node.objects import own_results
from dicom_node.results.clean_text import is_plain

MANUFACTURER = own_results.MANUFACTURER
MODEL_NAME = "Wetread"


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
        raise UnwritableText(f"{keyword} holds a value that DICOM does not allow for it, so it cannot be copied")
    setattr(ds, keyword, value)


def is_writable(keyword: str, value: str) -> bool:
    """Say whether the VR of an element allows a value as it is."""
    # A backslash would split the value in two, equal signs beyond two would make a fourth name group.
    if not is_plain(value) or "\\" in value:
        return False
    try:
        validate_value(dictionary_VR(keyword), value, config.RAISE)
    except ValueError:
        return False
    return True
