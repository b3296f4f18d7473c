"""A second opinion on our ORU^R01 before it is frozen: hl7apy parses and validates it strictly.

hl7apy neither writes nor changes the message.
"""

import re
import warnings

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message

from casebook.errors import UnwritableText
from dicom_node.hl7.er7 import FIELD, SEGMENT_END, parse

#: A TX value without anything that HL7 gives a meaning; only line breaks and escaped delimiters.
_TEXT = re.compile(r"([^\x00-\x1f\x7f|^~&\\]|\\[EFSRT]\\|\\\.br\\)*")
_OBX_VALUE = 5


def check_structure(text: str) -> None:
    """Pass a message whose segments, cardinalities, lengths and data types are those of HL7 v2.5.1.

    Raises
    ------
    UnwritableText
        When they are not; the reason is named by type only, because hl7apy's own text may quote the patient.
    """
    short = _with_short_texts(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            message = parse_message(short, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
            is_valid = message.validate()
            written = message.to_er7()
    except (HL7apyException, ValueError) as error:
        raise UnwritableText(f"the HL7 message is not valid HL7 v2.5.1 ({type(error).__name__})") from None
    if not is_valid or written.count(SEGMENT_END) != short.rstrip(SEGMENT_END).count(SEGMENT_END):
        # hl7apy drops what it has no place for; a lost segment is a message it understood otherwise.
        raise UnwritableText("the HL7 message is not valid HL7 v2.5.1")


def _with_short_texts(text: str) -> str:
    # hl7apy takes every OBX-5 for an ST of 199 characters, whatever OBX-2 says. So texts are checked here,
    # and hl7apy sees the rest of the message with a word in their place.
    lines = []
    for one in parse(text):
        fields = [one.name, *one.fields[2:]] if one.name == "MSH" else list(one.fields)
        if one.name == "OBX" and one.field(2) == "TX":
            if not _TEXT.fullmatch(one.field(_OBX_VALUE)):
                raise UnwritableText("a text of the HL7 message is not escaped as HL7 v2.5.1 asks")
            fields[_OBX_VALUE] = "text"
        lines.append(FIELD.join(fields))
    return SEGMENT_END.join(lines) + SEGMENT_END
