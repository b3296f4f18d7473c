"""The draft as an HL7 v2.5.1 ORU^R01 message, written by our own encoder.

The library that checks it (structure_check.py) is not used to write it: it escapes line breaks twice and lets a
carriage return in a text begin a new segment. Same purity as sr_document.py: same Reading, same bytes.
"""

import hashlib
import re

from casebook.errors import UnencodableText, UnwritableText
from casebook.identity import FAULT_WORDS, IDENTITY, KEYWORDS, exact_text, fault_of
from casebook.reading import Reading
from casebook.settings import DeviceSettings, Hl7Destination
from casebook.study import CodedConcept, StudyHeader
from dicom_node.hl7.er7 import (
    COMPONENT,
    SEGMENT_END,
    SUBCOMPONENT,
    Encoded,
    components,
    escape,
    escape_lines,
    repetitions,
    segment,
)
from dicom_node.results.clean_text import clean_line, is_plain
from dicom_node.results.derived_uids import message_control_id
from dicom_node.results.draft_text import DraftText, compose
from dicom_node.results.report_codes import OTHER_TITLE, TITLES, in_language, own, procedure_codes
from dicom_node.results.timestamps import date_or_empty, moment

MESSAGE_TYPE = "ORU^R01^ORU_R01"
#: MSH-18 -> Python codec.
CODECS = {"UNICODE UTF-8": "utf-8", "GB 18030-2000": "gb18030", "8859/1": "latin-1"}
#: Names the observation that repeats the disclaimer; some archives drop NTE.
DISCLAIMER_CODE = "DISC"

#: Names the observation that carries the StudyInstanceUID.
STUDY = CodedConcept(value="113014", scheme="DCM", meaning="DICOM Study")
_FINDINGS = CodedConcept(value="59776-5", scheme="LN", meaning="Procedure findings")
_IMPRESSION = CodedConcept(value="19005-8", scheme="LN", meaning="Radiology Impression")
#: HL7 v2.5.1 2A.77: a TX holds 65,536 characters.
_LONGEST_TEXT = 65_536
#: HL7 v2.5.1 2A.36.1 and 2A.75: an IS here holds 20 characters, an ST 199.
_LONGEST_NAMESPACE, _LONGEST_STRING = 20, 199
_OID = re.compile(r"[0-2](\.(0|[1-9]\d*))+")
#: HL7 table 0465 (name/address representation) of the DICOM name groups (PS3.5 6.2.1.2).
_REPRESENTATIONS = ("A", "I", "P")
_TIME = re.compile(r"([01]\d|2[0-3])[0-5]\d([0-5]\d)?")


def build(
    reading: Reading,
    destination: Hl7Destination,
    device: DeviceSettings,
    *,
    revision: int,
    replaces_earlier: bool = False,
) -> tuple[bytes, str]:
    """Build the message of one draft, without MLLP framing.

    Parameters
    ----------
    reading
        Gives the text, the identity and the one timestamp.
    destination
        States the result status, the character set and the names in the header.
    device
        How the observing machine names itself.
    revision
        Counts the drafts of the study, from 1.
    replaces_earlier
        An earlier draft may have reached this destination.

    Returns
    -------
        The exact bytes in the destination's character set, and MSH-10.

    Raises
    ------
    UnwritableText
        When a text or an attribute of the patient cannot be carried as it is.
    UnencodableText
        When only the character set of the destination forbids it.
    """
    refuse_unencodable_identity(reading.header, destination)
    text = compose(reading, revision=revision, replaces_earlier=replaces_earlier)
    body = [
        _pid(reading.header, destination),
        *_visit(reading.header, destination),
        *_order(reading, text, destination, device),
        *_observations(reading, text, destination, device),
    ]
    unnamed = _encode([_msh(reading, destination, device, ""), *body], destination)
    control_id = message_control_id(reading.sha256, hashlib.sha256(unnamed).hexdigest())
    return _encode([_msh(reading, destination, device, control_id), *body], destination), control_id


def _encode(segments: list[str], destination: Hl7Destination) -> bytes:
    text = "".join(one + SEGMENT_END for one in segments)
    try:
        return text.encode(CODECS[destination.charset])
    except UnicodeEncodeError as error:
        raise UnencodableText(
            f"a character (U+{ord(text[error.start]):04X}) does not exist in {destination.charset}, "
            f"the character set of destination {destination.name}"
        ) from None


def refuse_unencodable_identity(header: StudyHeader, destination: Hl7Destination) -> None:
    """Refuse what identifies and cannot be written in the character set of a destination, by its keyword.

    Raises
    ------
    UnencodableText
    """
    for name in (*IDENTITY, "patient_name"):
        try:
            (exact_text(header, name) or "").encode(CODECS[destination.charset])
        except UnicodeEncodeError:
            raise UnencodableText(
                f"{KEYWORDS[name]} has a character that does not exist in {destination.charset}, "
                f"the character set of destination {destination.name}"
            ) from None


def _msh(reading: Reading, destination: Hl7Destination, device: DeviceSettings, control_id: str) -> str:
    return segment(
        "MSH",
        {
            3: escape(destination.sending_application),
            4: escape(destination.sending_facility),
            5: escape(destination.receiving_application),
            6: escape(destination.receiving_facility),
            7: _stated_at(reading, device),
            9: components(*MESSAGE_TYPE.split("^")),
            10: escape(control_id),
            11: escape("P"),  # a message of the productive system; says nothing about the report
            12: escape("2.5.1"),
            18: escape(destination.charset),
        },
    )


def _pid(header: StudyHeader, destination: Hl7Destination) -> str:
    identity = header.identity
    authority = identity.issuer_of_patient_id or destination.patient_id_namespace
    return segment(
        "PID",
        {
            3: Encoded(
                COMPONENT.join(
                    (escape(_exact("PatientID", identity.patient_id)), "", "", _assigning_authority(authority), "MR")
                )
            ),
            5: _person_name(_exact("PatientName", header.patient_name)),
            7: escape(date_or_empty(identity.patient_birth_date)),
            8: escape({"": "", "M": "M", "F": "F", "O": "O"}.get(header.patient_sex, "U")),  # HL7 table 0001
        },
    )


def _assigning_authority(issuer: str) -> Encoded:
    """Return an HD (HL7 v2.5.1 2A.36): a namespace holds 20 characters, a universal id all that DICOM allows."""
    encoded = escape(_exact("IssuerOfPatientID", issuer))
    if len(encoded) <= _LONGEST_NAMESPACE:
        return encoded
    kind = escape("ISO" if _OID.fullmatch(issuer) else "L")
    return Encoded(SUBCOMPONENT.join(("", encoded, kind)))


def _person_name(name: str) -> Encoded:
    """Turn a DICOM person name into XPN repetitions, one for each of its groups."""
    if not name.strip("^= "):
        # PID-5 is required; HL7 table 0200 has U for a name nobody knows.
        return components("", "", "", "", "", "", "U")
    parts = [group.split("^") for group in name.split("=")]
    if any(group.strip("^ ") for group in name.split("=")[3:]) or any("".join(one[5:]).strip(" ") for one in parts):
        raise UnwritableText("PatientName has more than three groups or five components, which HL7 has no place for")
    groups = [
        (code, group) for code, group in zip(_REPRESENTATIONS, name.split("="), strict=False) if group.strip("^ ")
    ]
    return repetitions([_name_group(group, code if "=" in name else "") for code, group in groups])


def _name_group(group: str, representation: str) -> Encoded:
    # PN has prefix before suffix (PS3.5 6.2.1.2), XPN has suffix before prefix (HL7 v2.5.1 2A.88).
    family, given, middle, prefix, suffix = (*(part.strip(" ") for part in group.split("^")), *[""] * 5)[:5]
    return components(family, given, middle, suffix, prefix, "", "L", representation)


def _visit(header: StudyHeader, destination: Hl7Destination) -> list[str]:
    fields = {2: escape("U")}  # HL7 table 0004: unknown, a DICOM header does not say
    if header.admission_id and is_plain(header.admission_id):
        fields[19] = components(header.admission_id, "", "", destination.patient_id_namespace, "VN")
    return [segment("PV1", fields)]


def _order(reading: Reading, text: DraftText, destination: Hl7Destination, device: DeviceSettings) -> list[str]:
    header = reading.header
    accession = escape(_exact("AccessionNumber", header.identity.accession_number))
    codes = procedure_codes(header)
    procedure = codes[0] if codes else in_language(TITLES.get(reading.modality, OTHER_TITLE), reading.language)
    return [
        segment("ORC", {1: escape("RE"), 3: accession, 5: escape("IP")}),
        segment(
            "OBR",
            {
                1: escape("1"),
                3: accession,
                4: components(procedure.value, procedure.meaning, procedure.scheme),
                7: escape(_study_time(header)),
                18: accession,
                22: _stated_at(reading, device),
                24: escape("RAD"),
                25: escape(destination.result_status.value),
            },
        ),
        segment(
            "NTE",
            {
                1: escape("1"),
                2: escape("L"),
                3: escape(text.disclaimer),
                4: escape("RE"),
            },
        ),
    ]


def _study_time(header: StudyHeader) -> str:
    """Return StudyDate and StudyTime to the second, as far as they are what they should be."""
    date, time = date_or_empty(header.study_date), header.study_time.split(".")[0]
    # HL7 v2.5.1 2A.22 has no hour without its minutes.
    return date + time if date and _TIME.fullmatch(time) else date


def _observations(reading: Reading, text: DraftText, destination: Hl7Destination, device: DeviceSettings) -> list[str]:
    # The sub-id names the section and not its place, so that a revision replaces section by section.
    sections = (
        (own(DISCLAIMER_CODE, device.organization), "0", (text.disclaimer,)),
        (_FINDINGS, "1", text.findings),
        (_IMPRESSION, "2", text.impression),
        (own("AICHK", device.organization), "3", text.checks),
        (own("AIBASIS", device.organization), "4", text.basis),
    )
    study = [("ST", _named(STUDY, reading), "", escape(reading.study_instance_uid))]
    texts = [("TX", _named(name, reading), sub_id, _text(lines)) for name, sub_id, lines in sections if lines]
    stated = {
        11: escape(destination.result_status.value),
        14: _stated_at(reading, device),
        17: _named(own("AI", device.organization), reading),
        18: components(clean_line(device.station_name), "", device.device_uid, "ISO"),
    }
    return [
        segment("OBX", {1: escape(str(number)), 2: escape(kind), 3: name, 4: escape(sub_id), 5: value, **stated})
        for number, (kind, name, sub_id, value) in enumerate(
            [*(study if destination.states_study_instance_uid else ()), *texts], start=1
        )
    ]


def _named(concept: CodedConcept, reading: Reading) -> Encoded:
    told = in_language(concept, reading.language)
    return components(told.value, told.meaning, told.scheme)


def _text(paragraphs: tuple[str, ...]) -> Encoded:
    encoded = escape_lines(paragraphs)
    if len(encoded) > _LONGEST_TEXT:
        raise UnwritableText(f"a section has {len(encoded)} characters, more than the {_LONGEST_TEXT} of an OBX-5")
    return encoded


def _stated_at(reading: Reading, device: DeviceSettings) -> Encoded:
    return escape(moment(reading.created_at, device.timezone).strftime("%Y%m%d%H%M%S%z"))


def _exact(keyword: str, value: str) -> str:
    if fault := fault_of(keyword, value):
        raise UnwritableText(f"{keyword} {FAULT_WORDS[fault]}, so it cannot be copied")
    if max(len(escape(part)) for part in re.split("[=^]", value)) > _LONGEST_STRING:
        raise UnwritableText(f"{keyword} is longer than the {_LONGEST_STRING} characters that HL7 has room for")
    return value
