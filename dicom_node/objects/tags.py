"""Tags by their keywords, and which of them are sequences (PS3.6)."""

from collections.abc import Sequence

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

#: Tags whose VR is SQ.
SEQUENCES = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")


def tags_of(keywords: Sequence[str]) -> dict[int, str]:
    """Return the keyword by its tag."""
    return {int(tag_for_keyword(keyword) or 0): keyword for keyword in keywords}
