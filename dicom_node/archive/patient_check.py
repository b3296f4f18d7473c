"""The gate before a result is made and before it is first sent: whose is the study in the archive now.

What is here compares the draft with the images as they came. An archive may have moved the study to another patient
since. So the archive that vouches for a destination is asked by one C-FIND (PS3.4 C.4.1, study root):

======================================  =================  ==============
the archive                             required           best_effort
======================================  =================  ==============
names another patient                   held               held
does not answer, or does not know it    waits              noted, goes on
answers in letters nobody can decode    held               noted, goes on
leaves a key out, or empty              goes on            goes on
======================================  =================  ==============
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom import charset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from casebook.case import Case
from casebook.errors import PatientNotConfirmed, PeerUnavailable
from casebook.logs import get_logger
from casebook.outcomes import Cleared, Held, Note
from casebook.settings import IdentityCheck, QuerySettings, Settings
from casebook.study import Difference, InstanceStatus, PatientIdentity
from dicom_node.archive import query_retrieve as pacs

#: What is compared: the field of an identity, and its keyword. Many archives do not return IssuerOfPatientID.
KEYS = {
    "patient_id": "PatientID",
    "issuer_of_patient_id": "IssuerOfPatientID",
    "patient_birth_date": "PatientBirthDate",
    "accession_number": "AccessionNumber",
}
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedIdentity:
    """Whose a study is in the archive, by one of its answers."""

    #: Empty fields: the archive does not say.
    identity: PatientIdentity
    #: Keywords of values that no stated character set decodes exactly.
    not_decoded: tuple[str, ...] = ()


#: Asks an archive for a study; none where it does not know it.
Ask = Callable[[QuerySettings, str], Sequence[ArchivedIdentity]]


def ask_archive(archive: QuerySettings, study_instance_uid: str) -> tuple[ArchivedIdentity, ...]:
    """Ask an archive whose a study is.

    Raises
    ------
    PeerUnavailable
        When it does not answer, or its answer cannot be read.
    """
    keys = {"StudyInstanceUID": study_instance_uid} | dict.fromkeys(KEYS.values(), "")
    try:
        found = pacs.find_studies(archive, keys)
        return tuple(_archived(one) for one in found if is_about(one, study_instance_uid))
    except PeerUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - pydicom names no common ancestor of what damaged data makes it raise
        _log.warning("archive_answer_not_read", error=type(error).__name__)
        raise PeerUnavailable("the archive gave an answer that cannot be read") from None


def check_patient(case: Case, settings: Settings, ask: Ask = ask_archive) -> Cleared | Held:
    """Let a result be made, or sent for the first time, unless the archive says that the patient is another one.

    Parameters
    ----------
    case
        A prepare or send job; its subject is the name of the destination.
    settings
        Of this node.

    Returns
    -------
        That it may go on, with what has to be noted, or why a person has to decide.

    Raises
    ------
    PatientNotConfirmed
        When the archive has to vouch for the patient and cannot say yet.
    SettingsError
        When the destination is not configured.
    """
    check, archive = settings.identity_check(case.job.subject)
    if archive is None or check is IdentityCheck.OFF or not is_due(case):
        return Cleared()
    try:
        found = ask(archive, case.study.study_instance_uid)
    except PeerUnavailable as error:
        return _not_confirmed(check, archive, "did_not_answer", f"does not answer: {error}")
    if not found:
        return _not_confirmed(check, archive, "did_not_know_the_study", "does not know this study")
    differences = differences_of(_ours(case), [one.identity for one in found])
    if differences:
        return Held(
            reason="archive_names_another_patient",
            detail=(
                f"The archive {archive.ae_title} and the images that were read disagree about "
                f"{', '.join(one.keyword for one in differences)}, so nothing is sent."
            ),
            differences=differences,
        )
    return _decoded_or_not(check, archive, found)


def is_due(case: Case) -> bool:
    """Say whether the archive has to be asked: bytes that may have left once already are sent again as they are."""
    return case.reading is not None and (case.output is None or case.output.first_sent_at is None)


def is_about(answer: Dataset, study_instance_uid: str) -> bool:
    """Say whether an answer is one to our question, and not about another study."""
    return pacs.text(answer, "StudyInstanceUID") == study_instance_uid


def differences_of(ours: Iterable[PatientIdentity], theirs: Iterable[PatientIdentity]) -> tuple[Difference, ...]:
    """Name what any of two sides contradicts in the other, each attribute once; an empty value contradicts nobody."""
    found: dict[str, Difference] = {}
    answers = list(theirs)
    for mine in ours:
        for other in answers:
            for name in mine.differences(other):
                pair = getattr(mine, name).strip(), getattr(other, name).strip()
                if says_something(*pair):
                    found.setdefault(name, Difference(keyword=KEYS[name], ours=pair[0], theirs=pair[1]))
    return tuple(found[name] for name in KEYS if name in found)


def says_something(ours: str, theirs: str) -> bool:
    """Say whether both sides state a value: a key that is not returned, or is empty, contradicts nobody."""
    return bool(ours and theirs)


def _ours(case: Case) -> list[PatientIdentity]:
    headers = [one.header for one in case.instances if one.status is InstanceStatus.CURRENT]
    if case.reading is not None:
        headers.insert(0, case.reading.header)
    return [one.identity for one in headers]


def _decoded_or_not(check: IdentityCheck, archive: QuerySettings, found: Sequence[ArchivedIdentity]) -> Cleared | Held:
    not_decoded = [keyword for keyword in KEYS.values() if any(keyword in one.not_decoded for one in found)]
    if not not_decoded:
        return Cleared()
    detail = (
        f"The archive {archive.ae_title} answers with a {', '.join(not_decoded)} that its own character set does not "
        "decode, so nobody can compare it."
    )
    if check is IdentityCheck.REQUIRED:
        return Held(reason="archive_answer_not_decoded", detail=detail)
    return Cleared(notes=(Note(action="archive_answer_not_decoded", detail=detail),))


def _not_confirmed(check: IdentityCheck, archive: QuerySettings, what: str, sentence: str) -> Cleared:
    detail = f"The archive {archive.ae_title} {sentence}"
    if check is IdentityCheck.REQUIRED:
        raise PatientNotConfirmed(detail)
    _log.warning("patient_not_confirmed", ae_title=archive.ae_title, reason=what)
    return Cleared(notes=(Note(action=f"archive_{what}", detail=detail),))


def _archived(answer: Dataset) -> ArchivedIdentity:
    values: dict[str, str] = {}
    not_decoded = []
    character_sets = _character_sets(answer)
    for name, keyword in KEYS.items():
        value = decode_exactly(_bytes_of(answer, keyword), character_sets)
        if value is None:
            not_decoded.append(keyword)
        values[name] = value or ""
    return ArchivedIdentity(identity=PatientIdentity(**values), not_decoded=tuple(not_decoded))


def _bytes_of(answer: Dataset, keyword: str) -> bytes:
    element: Any = answer.get_item(keyword)
    if isinstance(element, RawDataElement):
        return element.value or b""
    return b"" if element is None else str(element.value or "").encode("utf-8")


def _character_sets(answer: Dataset) -> list[str]:
    value = answer.get("SpecificCharacterSet") or ""
    terms = [value] if isinstance(value, str) else list(value)
    return [str(term).strip() for term in terms]


def decode_exactly(value: bytes, character_sets: Sequence[str]) -> str | None:
    """Decode a value by the character sets of its data set (PS3.3 C.12.1.1.2); None where they do not fit it."""
    value = value.strip(b" \x00")
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    if not any(character_sets) or any(term not in charset.python_encoding for term in character_sets):
        return None
    if set(character_sets) <= _ASCII_ONLY:
        return None
    try:
        # pydicom warns where it replaces what it cannot decode.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            text = charset.decode_bytes(value, charset.convert_encodings(list(character_sets)), set())
    except (LookupError, UnicodeError, ValueError, Warning):
        return None
    return None if "\ufffd" in text else text


_ASCII_ONLY = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})
