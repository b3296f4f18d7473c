"""The identity gate: whether this Reading may go out under this patient's name.

Asked before an output is frozen and again before each send. The answer is yes or held; never a guess.

==========================================  ======  ======
case                                        SR      ORU
==========================================  ======  ======
a text that identifies is not exact         held    held
instances disagree with the Reading         held    held
no instance says what the Reading says      held    held
PatientID empty                             held    held
AccessionNumber empty                       sent    held
an image that was read is no longer valid   held    held
==========================================  ======  ======
"""

from casebook.case import Case
from casebook.identity import (
    KEYWORDS,
    contradictions,
    exact_text,
    inexact,
    say_inexact,
    says_nothing,
    unvouched,
    without_padding,
)
from casebook.outcomes import Held
from casebook.reading import Reading
from casebook.study import InstanceStatus


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
    headers = [one.header for one in current]
    if unread := inexact([reading.header, *headers]):
        return Held(reason="identity_not_exact", detail=f"{say_inexact(unread)}, so nothing is sent.")
    if differing := contradictions([reading.header, *headers]) or unvouched(reading.header, headers):
        return Held(
            reason="identity_changed",
            detail=f"The draft was read under another {_names(differing)} than the images carry now.",
        )
    if not without_padding(exact_text(reading.header, "patient_id") or ""):
        return Held(reason="patient_id_empty", detail="PatientID is empty, so nobody can say whose draft this is.")
    if not {one.sop_instance_uid for one in reading.images} <= {one.sop_instance_uid for one in current}:
        return Held(
            reason="read_image_withdrawn",
            detail="An image that the draft is based on is no longer a valid part of the study.",
        )
    if kind == "oru" and says_nothing("accession_number", exact_text(reading.header, "accession_number")):
        return Held(
            reason="accession_number_empty",
            detail="AccessionNumber is empty, so the RIS could not file the report.",
            only_this_output=True,
        )
    return None


def _names(differing: tuple[str, ...]) -> str:
    return ", ".join(KEYWORDS[one] for one in differing)
