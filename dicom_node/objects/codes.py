"""Coded concepts from the items of a code sequence (PS3.3 8.8)."""

import struct
from collections.abc import Mapping

from casebook.study import CodedConcept
from codestreams.elements import ITEM, UNDEFINED, Encoding, NotUnderstood, element_at, end_of_item, walk
from dicom_node.objects.tags import tags_of
from dicom_node.objects.text import CharacterSet, descriptive_text

CODE_KEYWORDS = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodeMeaning")
_CODE_TAGS = tags_of(CODE_KEYWORDS)


def read_codes(value: bytes, encoding: Encoding, characters: CharacterSet) -> tuple[CodedConcept, ...]:
    """Read the items of a code sequence (PS3.3 8.8); an item that cannot be read is left out."""
    concepts = []
    position = 0
    try:
        while position + 8 <= len(value):
            tag, item_at, length = element_at(value, position, encoding)
            if tag != ITEM:
                break
            if length == UNDEFINED:
                # The item ends where its delimiter stands: walk it as a data set of its own.
                position = end_of_item(value, item_at, encoding, 0)
                item = value[item_at : position - 8]
            else:
                position = item_at + length
                item = value[item_at:position]
            found = walk(item, encoding, _CODE_TAGS, 0x0040FFFF, whole=True)
            texts = {keyword: descriptive_text(code, characters) for keyword, code in found.items()}
            concepts.append(concept_of(texts))
    except (struct.error, NotUnderstood):
        pass
    return tuple(concept for concept in concepts if concept.value)


def concept_of(texts: Mapping[str, str]) -> CodedConcept:
    """Return the concept of one item, from its texts by keyword; its value is empty where the item has none."""
    value = texts.get("CodeValue") or texts.get("LongCodeValue") or texts.get("URNCodeValue") or ""
    return CodedConcept(
        value=value, scheme=texts.get("CodingSchemeDesignator", ""), meaning=texts.get("CodeMeaning", "")
    )
