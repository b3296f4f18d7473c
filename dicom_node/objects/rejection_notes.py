"""Rejection notes: key object documents that take images out of a study (IHE RAD IOCM; PS3.16 CID 7010).

A note is believed only for its own study: a document that also rejects images of another one is stored there too,
as an identical document (PS3.3 C.17.2.1), and counts there when it arrives.
"""

from pathlib import Path
from types import MappingProxyType

from pydicom.dataset import Dataset

from casebook.errors import InvalidObject
from casebook.study import RejectionReason
from codestreams.stored_file import is_trouble_of_the_machine
from dicom_node.objects.stored_header import read_stored_header

#: Document titles of the scheme DCM.
_REASON_OF_TITLE = MappingProxyType(
    {
        "113001": RejectionReason.QUALITY,
        "113037": RejectionReason.PATIENT_SAFETY,
        "113038": RejectionReason.WRONG_WORKLIST_ENTRY,
        "113039": RejectionReason.RETENTION_EXPIRED,
    }
)


def read_rejection(path: Path, study_instance_uid: str) -> tuple[RejectionReason | None, tuple[str, ...]]:
    """Return why and what a key object document rejects; no reason for one with another title.

    Parameters
    ----------
    path
        The document, a DICOM file.
    study_instance_uid
        Of the document.

    Returns
    -------
        The reason and the SOP Instance UIDs, in the order of the evidence.

    Raises
    ------
    OverBounds
        When it is too large.
    InvalidObject
        When it cannot be understood, or rejects nothing that it names.
    OSError, MemoryError
        When the disk or this machine does not give it out now.
    """
    try:
        ds = read_stored_header(path)
        reason = _reason(ds)
        return reason, () if reason is None else _rejected(ds, study_instance_uid)
    except InvalidObject:
        raise
    # pydicom names no common ancestor of what damaged data makes it raise.
    except Exception as error:
        if is_trouble_of_the_machine(error):
            # It says nothing about the document, which may be read a moment later.
            raise
        raise InvalidObject("the key object document cannot be read") from None


def _reason(ds: Dataset) -> RejectionReason | None:
    title = next(iter(ds.get("ConceptNameCodeSequence") or ()), Dataset())
    if str(title.get("CodingSchemeDesignator", "")) != "DCM":
        return None
    return _REASON_OF_TITLE.get(str(title.get("CodeValue", "")))


def _rejected(ds: Dataset, study_instance_uid: str) -> tuple[str, ...]:
    # PS3.3 C.17.6.2.1: Current Requested Procedure Evidence Sequence lists everything the content tree refers to.
    found: dict[str, None] = {}
    for study in ds.get("CurrentRequestedProcedureEvidenceSequence") or ():
        if str(study.get("StudyInstanceUID", "")) != study_instance_uid:
            continue
        for series in study.get("ReferencedSeriesSequence") or ():
            for one in series.get("ReferencedSOPSequence") or ():
                found[str(one.ReferencedSOPInstanceUID)] = None
    if not found:
        raise InvalidObject("the rejection note names no object of its study")
    return tuple(found)
