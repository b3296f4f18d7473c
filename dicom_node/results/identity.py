"""The identity gate: whether this Reading may go out under this patient's name.

Asked before an output is frozen and again before each send. The answer is yes or held; never a guess.

==========================================  ======  ======
case                                        SR      ORU
==========================================  ======  ======
instances disagree with the Reading         held    held
PatientID empty                             held    held
AccessionNumber empty                       sent    held
an image that was read is no longer valid   held    held
==========================================  ======  ======
"""

from casebook.case import Case
from casebook.outcomes import Held
from casebook.reading import Reading
from casebook.study import InstanceStatus, contradictions


def examine(case: Case, reading: Reading, kind: str) -> Held | None:
    """Say why an output must not go out now, or None.

    Parameters
    ----------
    case
        The study as it stands at this moment.
    reading
        What the output says, with the identity it was read under.
    kind
        "sr" or "oru".
    """
    current = [one for one in case.instances if one.status is InstanceStatus.CURRENT]
    if not reading.study_instance_uid == case.study.study_instance_uid == case.job.study_instance_uid:
        return Held(reason="study_differs", detail="The draft belongs to another StudyInstanceUID than the job.")
    if not current:
        return Held(reason="no_current_instances", detail="No valid image of the study is left to vouch for the draft.")
    keywords = contradictions([reading.header, *(one.header for one in current)])
    if keywords:
        return Held(
            reason="identity_changed",
            detail=f"The draft was read under another {_names(keywords)} than the images carry now.",
        )
    if not reading.header.identity.patient_id.strip():
        return Held(reason="patient_id_empty", detail="PatientID is empty, so nobody can say whose draft this is.")
    if not {one.sop_instance_uid for one in reading.images} <= {one.sop_instance_uid for one in current}:
        return Held(
            reason="read_image_withdrawn",
            detail="An image that the draft is based on is no longer a valid part of the study.",
        )
    if kind == "oru" and not reading.header.identity.accession_number.strip():
        return Held(
            reason="accession_number_empty",
            detail="AccessionNumber is empty, so the RIS could not file the report.",
            only_this_output=True,
        )
    return None


#: Field of PatientIdentity -> DICOM keyword.
_KEYWORDS = {
    "patient_id": "PatientID",
    "issuer_of_patient_id": "IssuerOfPatientID",
    "patient_birth_date": "PatientBirthDate",
    "accession_number": "AccessionNumber",
}


def _names(fields: tuple[str, ...]) -> str:
    return ", ".join(_KEYWORDS[one] for one in fields)
