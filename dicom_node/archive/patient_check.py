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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from casebook.case import Case
from casebook.errors import PatientNotConfirmed, PeerUnavailable
from casebook.identity import IDENTITY, KEYWORDS, agree, exact_text, inexact, without_padding
from casebook.logs import get_logger
from casebook.outcomes import Cleared, Held, Note
from casebook.settings import IdentityCheck, QuerySettings, Settings
from casebook.study import Difference, InstanceStatus, PatientIdentity
from dicom_node.archive import query_retrieve as pacs
from dicom_node.objects.identification import whose

#: What is compared. Many archives do not return IssuerOfPatientID.
_KEYS = tuple(KEYWORDS[name] for name in IDENTITY)
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
    keys = {"StudyInstanceUID": study_instance_uid} | dict.fromkeys(_KEYS, "")
    try:
        found = pacs.find_studies(archive, keys)
        return tuple(archived_identity(one) for one in found if is_about(one, study_instance_uid))
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
            for name in IDENTITY:
                pair = without_padding(getattr(mine, name)), without_padding(getattr(other, name))
                if says_something(*pair) and not agree(*pair):
                    found.setdefault(name, Difference(keyword=KEYWORDS[name], ours=pair[0], theirs=pair[1]))
    return tuple(found[name] for name in IDENTITY if name in found)


def says_something(ours: str, theirs: str) -> bool:
    """Say whether both sides state a value: a key that is not returned, or is empty, contradicts nobody."""
    return bool(ours and theirs)


def _ours(case: Case) -> list[PatientIdentity]:
    headers = [one.header for one in case.instances if one.status is InstanceStatus.CURRENT]
    if case.reading is not None:
        headers.insert(0, case.reading.header)
    return [one.identity for one in headers]


def _decoded_or_not(check: IdentityCheck, archive: QuerySettings, found: Sequence[ArchivedIdentity]) -> Cleared | Held:
    not_decoded = [keyword for keyword in _KEYS if any(keyword in one.not_decoded for one in found)]
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


def archived_identity(answer: Dataset) -> ArchivedIdentity:
    """Return whose a study is by one answer, its values not looked at yet; what is no exact text is empty and named."""
    header = whose(answer)
    return ArchivedIdentity(
        identity=PatientIdentity(**{name: exact_text(header, name) or "" for name in IDENTITY}),
        not_decoded=tuple(one.keyword for one in inexact((header,))),
    )
