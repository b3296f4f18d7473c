"""The generations of a study: one begins anew with every change of its images, and a hold stops what is under way.

Everything runs inside the caller's transaction, which has locked the study.
"""

from sqlalchemy import Connection

from casebook import audit, queue, store
from casebook.outcomes import ONE_OUTPUT
from casebook.study import Difference, Hold, Study, StudyState

#: Steps that belong to one generation; classifying a repeated object does not.
GENERATION_STEPS = ("count", "read", "prepare", "send")


def start_generation(connection: Connection, study: Study, *, now: float, action: str) -> None:
    """Make every unfinished job of the study void and let it complete anew."""
    queue.supersede(
        connection, study_instance_uid=study.study_instance_uid, now=now, steps=GENERATION_STEPS, reason=action
    )
    store.set_next_generation(connection, study, now=now)
    audit.record(
        connection,
        at=now,
        actor="flow",
        action=action,
        study_instance_uid=study.study_instance_uid,
        detail=f"generation {study.generation + 1}",
    )


def hold(
    connection: Connection,
    study_instance_uid: str,
    *,
    now: float,
    reason: str,
    detail: str,
    destination: str = "",
    differences: tuple[Difference, ...] = (),
) -> None:
    """Stop everything of a study until a person decides, and keep the reason beside those it has already.

    Parameters
    ----------
    destination
        The one that cannot be served; the other outputs of the study go on.
    differences
        What the two sides say, where the reason is that they differ.
    """
    study = store.get_study(connection, study_instance_uid)
    one = Hold(destination=destination, reason=reason, detail=detail, differences=differences)
    store.add_hold(connection, study_instance_uid, study.generation, one, now=now)
    if destination and study.state is StudyState.HELD and not holds_one_output(study):
        return  # The study as a whole is held already; what stops it all comes first.
    if not destination:
        queue.supersede(
            connection, study_instance_uid=study_instance_uid, now=now, steps=GENERATION_STEPS, reason="held"
        )
    store.set_state(connection, study_instance_uid, StudyState.HELD, now=now, reason=reason, detail=detail)


#: Reason of a closed study that a person dismissed.
DISMISSED = "dismissed"


def is_dismissed(study: Study) -> bool:
    """Say whether a person ended what nobody can mend; a new image begins anew all the same."""
    return study.state is StudyState.CLOSED and study.reason == DISMISSED


def holds_one_output(study: Study) -> bool:
    """Say whether a study is held because one destination cannot be served, and for nothing else."""
    return study.state is StudyState.HELD and study.reason in ONE_OUTPUT
