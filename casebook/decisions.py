"""What a person decides about a study: try again, read anew, close, release, dismiss.

Everything runs inside the caller's transaction.
"""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection

from casebook import audit, flow, generations, queue, store
from casebook.errors import IdentityConflict, WrongState
from casebook.identity import agree, disagreements, exact_text, inexact, say_inexact
from casebook.study import (
    CompletionReason,
    Demographic,
    InstanceStatus,
    ReceivedInstance,
    Study,
    StudyHeader,
    StudyState,
)
from casebook.terms import Terms


def retry_dead(connection: Connection, study_instance_uid: str, *, now: float, actor: str) -> int:
    """Give the dead jobs of a study fresh attempts; say how many there were."""
    store.lock_study(connection, study_instance_uid)
    revived = queue.revive(connection, study_instance_uid=study_instance_uid, now=now)
    if revived:
        audit.record(connection, at=now, actor=actor, action="retried", study_instance_uid=study_instance_uid)
        flow.settle(connection, study_instance_uid, now)
    return revived


#: Holds that a character set set for the sender may end: the texts are read anew from the stored objects.
_ENDED_BY_A_CHARACTER_SET = frozenset({"identity_not_exact", "patient_identity_differs"})


def can_be_read_again(study: Study) -> bool:
    """Say whether a study ended unread or unserved, so that a mended cause may change that."""
    ended = (
        study.state in (StudyState.UNMATCHED, StudyState.REFUSED)
        or generations.holds_one_output(study)
        or generations.is_dismissed(study)
    )
    unclear = study.state is StudyState.HELD and study.reason in _ENDED_BY_A_CHARACTER_SET
    return bool(study.instance_count) and (ended or unclear)


def read_again(
    connection: Connection,
    study_instance_uid: str,
    *,
    now: float,
    actor: str,
    described: Sequence[ReceivedInstance] = (),
) -> bool:
    """Look anew at a study that was not read or not served, after its cause was mended; say whether it was one.

    That is one that no pipeline wanted, one that was refused, one held for one destination only, one held
    because of texts that a character set set for their sender may mend, and one that was dismissed by mistake.

    Parameters
    ----------
    described
        Its stored objects, described anew.
    """
    study = store.lock_study(connection, study_instance_uid)
    if not can_be_read_again(study):
        return False
    for one in described:
        store.set_description(connection, one)
    generations.start_generation(connection, study, now=now, action="read_again")
    store.set_state(connection, study_instance_uid, StudyState.RECEIVED, now=now, actor=actor, quiet_at=now)
    return True


def close(connection: Connection, study_instance_uid: str, *, terms: Terms, actor: str) -> StudyState:
    """Complete a study without its quiet period or the count of the archive; return its state then.

    Raises
    ------
    WrongState
        When the study does not receive images any more, or a repeated one has to be compared first.
    """
    study = store.lock_study(connection, study_instance_uid)
    if study.state is not StudyState.RECEIVED:
        raise WrongState(f"Only a study that still receives images can be closed; it is {study.state}.")
    if store.has_unclassed(connection, study_instance_uid):
        raise WrongState("A repeated image has to be compared first.")
    audit.record(
        connection, at=terms.now, actor=actor, action="declared_complete", study_instance_uid=study_instance_uid
    )
    flow.complete(connection, study_instance_uid, terms=terms, reason=CompletionReason.FORCED)
    return store.get_study(connection, study_instance_uid).state


def release(
    connection: Connection,
    study_instance_uid: str,
    *,
    patient_id: str,
    accession_number: str | None = None,
    patient_birth_date: str | None = None,
    issuer_of_patient_id: str | None = None,
    patient_name: str | None = None,
    patient_sex: str | None = None,
    strict: Sequence[Demographic] = (),
    now: float,
    actor: str,
) -> int:
    """Let a held study go on with only the images that carry one identity; say how many those are.

    No image is re-labelled: the first copy with this identity counts, every other one is left out. What a
    rejection note took out stays out.

    Parameters
    ----------
    patient_id
        PatientID of the images that may be read.
    accession_number, patient_birth_date, issuer_of_patient_id, patient_name, patient_sex
        What else they have to carry; empty for images that carry none, None where it does not matter.
    strict
        Of name and sex, in which of them they may not differ.

    Raises
    ------
    IdentityConflict
        When the study is not held or would be held again for the same reason, no image carries this identity,
        or the images that do still contradict one another. Nothing is written then.
    """
    study = store.lock_study(connection, study_instance_uid)
    if study.state is not StudyState.HELD:
        raise IdentityConflict("Only a held study can be released.")
    if generations.holds_one_output(study):
        raise IdentityConflict("Only one destination of this study cannot be served; no choice of images mends that.")
    wanted = {
        "patient_id": patient_id,
        "accession_number": accession_number,
        "patient_birth_date": patient_birth_date,
        "issuer_of_patient_id": issuer_of_patient_id,
        "patient_name": patient_name,
        "patient_sex": patient_sex,
    }
    kept: dict[str, StudyHeader] = {}
    unread: list[StudyHeader] = []
    decided: list[tuple[str, bool]] = []
    rejected = store.rejections(connection, study_instance_uid)
    statuses = [one for one in InstanceStatus if one is not InstanceStatus.OWN]
    for one in store.instances(connection, study_instance_uid, statuses=statuses):
        if one.sop_instance_uid in rejected:
            continue
        fits = one.sop_instance_uid not in kept and _carries(one.header, wanted)
        if fits and inexact((one.header,)):
            # Another copy may have been mended; without one, the image is left out.
            fits = False
            unread.append(one.header)
        if fits:
            kept[one.sop_instance_uid] = one.header
        decided.append((one.path, fits))
    _refuse_unclear(kept.values(), unread, strict)
    for path, fits in decided:
        status = InstanceStatus.CURRENT if fits else InstanceStatus.EXCLUDED
        store.set_instance_status(connection, path, status, reason="" if fits else "left_out_at_release")
    queue.supersede(connection, study_instance_uid=study_instance_uid, now=now, steps=("classify",), reason="released")
    store.recount(connection, study_instance_uid)
    generations.start_generation(connection, study, now=now, action="released")
    store.set_state(connection, study_instance_uid, StudyState.RECEIVED, now=now, actor=actor, quiet_at=now)
    return len(kept)


def dismiss(connection: Connection, study_instance_uid: str, *, reason: str, now: float, actor: str) -> None:
    """End a study that nobody can mend: nothing of it is tried, read or sent any more until a new image comes.

    Parameters
    ----------
    reason
        Why, in the words of the person; stands in the timeline and nowhere else.

    Raises
    ------
    WrongState
        When the study waits for nobody, or the reason says nothing. Nothing is written then.
    """
    words = require_reason(reason)
    study = store.lock_study(connection, study_instance_uid)
    if study.state not in (StudyState.HELD, StudyState.DEAD):
        raise WrongState(f"Only a study that waits for a person (held or dead) can be dismissed; it is {study.state}.")
    queue.supersede(
        connection,
        study_instance_uid=study_instance_uid,
        now=now,
        steps=(*generations.GENERATION_STEPS, "classify"),
        reason=generations.DISMISSED,
    )
    _keep_undecided(connection, study_instance_uid)
    store.set_state(
        connection,
        study_instance_uid,
        StudyState.CLOSED,
        now=now,
        reason=generations.DISMISSED,
        actor=actor,
        action=generations.DISMISSED,
        said=words,
    )


def require_reason(reason: str) -> str:
    """Return the words of a person on one line.

    Raises
    ------
    WrongState
        When there are none, or too many.
    """
    words = " ".join("".join(one if one.isprintable() else " " for one in reason).split())
    if not words or len(words) > LONGEST_REASON:
        raise WrongState(f"A reason has 1 to {LONGEST_REASON} characters; it stands in the timeline of the study.")
    return words


#: Characters of the reason of a dismissal.
LONGEST_REASON = 500


def _keep_undecided(connection: Connection, study_instance_uid: str) -> None:
    """Let a repeated image that nobody compared any more stand as one that contradicts: whoever comes next decides."""
    for one in store.instances(connection, study_instance_uid, statuses=(InstanceStatus.UNCLASSED,)):
        store.set_instance_status(connection, one.path, InstanceStatus.CONFLICT, reason="not_compared_at_dismissal")


def _carries(header: StudyHeader, wanted: Mapping[str, str | None]) -> bool:
    return all(value is None or _says(header, name, value) for name, value in wanted.items())


def _says(header: StudyHeader, name: str, value: str) -> bool:
    if name == "patient_sex":
        return header.patient_sex == value
    return agree(exact_text(header, name), value)


def _refuse_unclear(
    kept: Collection[StudyHeader], unread: Sequence[StudyHeader], strict: Sequence[Demographic]
) -> None:
    if not kept and unread:
        raise IdentityConflict(f"Of every image that carries it, {say_inexact(inexact(unread))}; nothing was changed.")
    if not kept:
        raise IdentityConflict("No image of this study carries that identity; nothing was changed.")
    if named := disagreements(kept, strict):
        raise IdentityConflict(f"The images still disagree about {named}; nothing was changed.")
