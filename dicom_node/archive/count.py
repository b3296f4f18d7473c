"""The step `count`: how many images the archive has of a quiet study, and those we miss.

NumberOfStudyRelatedInstances (PS3.4 C.6.2.1.2) counts everything: reports, key objects, our own drafts. It is
believed only where it equals what is here and all of that is pictures; otherwise the archive lists the study
object by object, and only pictures that we never saw are missing.
"""

from collections.abc import Sequence
from dataclasses import replace

from casebook.case import Case
from casebook.errors import PeerUnavailable, Retryable, SettingsError
from casebook.logs import get_logger
from casebook.outcomes import Counted, Held
from casebook.settings import ArchiveSettings, PullMethod, Settings
from casebook.study import ReceivedInstance
from dicom_node.archive import query_retrieve as pacs
from dicom_node.archive.fetched_instances import open_fetched_instances
from dicom_node.archive.priors import fetch_priors
from dicom_node.archive.query_retrieve import Listed
from dicom_node.objects.sop_classes import is_picture

#: Series of these modalities hold no pictures (PS3.3 C.7.3.1.1.1); asked only where no SOP class is listed.
_MODALITIES_WITHOUT_PICTURES = frozenset(
    {"SR", "KO", "PR", "DOC", "REG", "SEG", "AU", "ECG", "RWV", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "PLAN"}
)
_log = get_logger(__name__)


def count(case: Case, settings: Settings) -> Counted | Held:
    """Ask the archive for the images of a study, and fetch what is missing where that is allowed.

    Returns
    -------
        The objects that have to be here (those that are, and the missing pictures), and what was fetched; or that
        the archive knows the study under several patients.

    Raises
    ------
    PeerUnavailable
        When the archive does not answer.
    Retryable
        When the archive does not have the whole of what is here yet.
    SettingsError
        When no archive is configured.
    """
    archive = settings.archive
    if archive is None:
        raise SettingsError("A study can only be counted where an archive is configured.")
    study = case.study.study_instance_uid
    keys = {"StudyInstanceUID": study, "NumberOfStudyRelatedInstances": ""}
    matches = [one for one in pacs.find_studies(archive, keys) if pacs.text(one, "StudyInstanceUID") == study]
    if not matches:
        raise Retryable("The archive does not know the study yet.")
    if len(matches) > 1:
        return Held(
            reason="archive_has_study_twice",
            detail="The archive has this StudyInstanceUID more than once, so it may be on more than one patient.",
        )
    held = len(case.instances)
    pictures = {one.sop_instance_uid for one in case.instances if is_picture(one.sop_class_uid)}
    total = pacs.text(matches[0], "NumberOfStudyRelatedInstances")
    if total == str(held) and len(pictures) == held:
        return Counted(expected=held, priors=fetch_priors(case, settings))
    listed = pacs.list_objects(archive, study)
    missing = _missing(case, listed)
    if not missing and pictures - {one.sop_instance_uid for one in listed}:
        raise Retryable("The archive has fewer images of the study than are here.")
    pulled = _pull(case, missing, archive, settings)
    goes_on = len(pulled) >= len(missing) or int(case.job.subject) >= archive.max_questions
    return Counted(expected=held + len(missing), pulled=pulled, priors=fetch_priors(case, settings) if goes_on else ())


def _missing(case: Case, listed: Sequence[Listed]) -> list[Listed]:
    known = {one.sop_instance_uid for one in case.instances} | set(case.issued_uids) | set(case.set_aside_uids)
    unknown = {one.sop_instance_uid: one for one in listed if one.sop_instance_uid not in known}
    return [one for one in unknown.values() if _may_be_picture(one)]


def _may_be_picture(one: Listed) -> bool:
    if one.sop_class_uid:
        return is_picture(one.sop_class_uid)
    return one.modality not in _MODALITIES_WITHOUT_PICTURES


def _pull(
    case: Case, missing: Sequence[Listed], archive: ArchiveSettings, settings: Settings
) -> tuple[ReceivedInstance, ...]:
    if not missing or archive.pull is PullMethod.NEVER:
        return ()
    study = case.study.study_instance_uid
    try:
        if archive.pull is PullMethod.C_MOVE:
            # They come to the listener like any other object; the next question finds them here.
            pacs.move(archive, study, missing, settings.listener.ae_title)
            return ()
        return _get(case, missing, archive, settings)
    except PeerUnavailable:
        # The count itself is known and stays: the next question asks for the images again.
        _log.warning("archive_sent_nothing", count=len(missing))
        return ()


def _get(
    case: Case, missing: Sequence[Listed], archive: ArchiveSettings, settings: Settings
) -> tuple[ReceivedInstance, ...]:
    study = case.study.study_instance_uid
    with open_fetched_instances(settings, study) as fetched:
        try:
            pacs.get(archive, study, [_with_class(one, case) for one in missing], fetched.take)
        except PeerUnavailable:
            # What came before that is durable and counts.
            _log.warning("archive_stopped_sending", count=len(fetched.received))
        return tuple(fetched.received)


def _with_class(one: Listed, case: Case) -> Listed:
    if one.sop_class_uid:
        return one
    # An archive that does not list classes: the object is taken for what its neighbours are.
    neighbours = sorted(case.instances, key=lambda other: other.series_instance_uid != one.series_instance_uid)
    return replace(one, sop_class_uid=neighbours[0].sop_class_uid)
