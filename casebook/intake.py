"""What becomes of a durable object: a row, a generation, a comparison, a study held, or nothing new.

Everything runs inside the caller's transaction, and no two transactions record at the same time.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby

from sqlalchemy import Connection

from casebook import audit, generations, queue, store
from casebook.study import Copy, InstanceStatus, ReceivedInstance, Study, StudyState

_CLASSIFY_ATTEMPTS = 5
#: A late image starts nothing new here: nobody may decide for the person, and a final report ends the case.
_STATES_THAT_STAY = (StudyState.RECEIVED, StudyState.HELD, StudyState.CLOSED)


def record_instances(
    connection: Connection,
    received: Sequence[ReceivedInstance],
    now: float,
    held: Iterable[Copy] | None = None,
) -> dict[str, str]:
    """Add rows for durable objects; an object that is already known changes nothing.

    A new SOP Instance UID in a study that was already complete starts its next generation. Other bytes under
    a known UID are kept beside the first copy and compared by a `classify` job.

    Parameters
    ----------
    held
        Every stored object with one of their SOP Instance UIDs; looked up where None. Where a UID occurs twice, objects
        are compared by their digests.

    Returns
    -------
        Path of each object that got no row, to the path of the one that holds the same.
    """
    if not received:
        # A caller with nothing to record may hold the lock of a study, and comes too late for this one.
        return {}
    store.lock_recording(connection)
    known: dict[str, list[Copy]] = defaultdict(list)
    for copy in store.copies(connection, {one.sop_instance_uid for one in received}) if held is None else held:
        known[copy.sop_instance_uid].append(copy)
    ordered = sorted(received, key=lambda one: (one.study_instance_uid, one.received_at))
    equal: dict[str, str] = {}
    for study_instance_uid, group in groupby(ordered, key=lambda one: one.study_instance_uid):
        equal |= _record_study(connection, study_instance_uid, list(group), known, now)
    return equal


def _record_study(
    connection: Connection,
    study_instance_uid: str,
    group: list[ReceivedInstance],
    known: dict[str, list[Copy]],
    now: float,
) -> dict[str, str]:
    created = store.add_study(connection, group[0], now=now)
    study = store.lock_study(connection, study_instance_uid)
    rejected = store.rejections(connection, study_instance_uid)
    fresh: list[ReceivedInstance] = []
    judged: list[tuple[ReceivedInstance, InstanceStatus, str]] = []
    problem = ""
    equal: dict[str, str] = {}
    for one in group:
        held = known[one.sop_instance_uid]
        twins = [
            copy.path for copy in held if copy.study_instance_uid == study_instance_uid and copy.sha256 == one.sha256
        ]
        if twins:
            # One that has its row already comes again when nobody could be told so.
            if one.path not in twins:
                equal[one.path] = twins[0]
            continue
        status = _status_of(one, held)
        reason = rejected.get(one.sop_instance_uid, "") if status is InstanceStatus.CURRENT else ""
        if reason:
            status = InstanceStatus.EXCLUDED
        held.append(
            Copy(
                sop_instance_uid=one.sop_instance_uid,
                study_instance_uid=study_instance_uid,
                path=one.path,
                sha256=one.sha256,
            )
        )
        judged.append((one, status, reason))
        if status is InstanceStatus.CURRENT:
            fresh.append(one)
        elif status is InstanceStatus.UNCLASSED:
            _enqueue_classify(connection, one, study.generation, now)
        elif status is InstanceStatus.CONFLICT:
            problem = "sop_instance_uid_in_two_studies"
    if judged:
        store.add_instances(connection, judged)
    if created:
        audit.record(
            connection,
            at=group[0].received_at,
            actor=group[0].calling_ae_title,
            action="first_image_received",
            study_instance_uid=study_instance_uid,
        )
    if fresh:
        _count_fresh(connection, study, fresh, now)
        _apply_rejections(connection, study_instance_uid, [one for one in fresh if one.rejects])
    elif created and all(one.is_own for one in group):
        store.set_state(connection, study_instance_uid, StudyState.UNMATCHED, now=now, reason="only_own_results")
    if problem:
        generations.hold(
            connection,
            study_instance_uid,
            now=now,
            reason=problem,
            detail="An image of this study carries the SOP Instance UID of an image of another study.",
        )
    return equal


def _status_of(one: ReceivedInstance, held: Sequence[Copy]) -> InstanceStatus:
    if one.is_own:
        return InstanceStatus.OWN
    if any(copy.study_instance_uid == one.study_instance_uid for copy in held):
        return InstanceStatus.UNCLASSED
    return InstanceStatus.CONFLICT if held else InstanceStatus.CURRENT


def _enqueue_classify(connection: Connection, one: ReceivedInstance, generation: int, now: float) -> None:
    queue.enqueue(
        connection,
        step="classify",
        queue="io",
        idempotency_key=f"classify:{one.study_instance_uid}:{one.sop_instance_uid}:{one.sha256}",
        study_instance_uid=one.study_instance_uid,
        generation=generation,
        subject=one.path,
        max_attempts=_CLASSIFY_ATTEMPTS,
        now=now,
    )


def _count_fresh(connection: Connection, study: Study, fresh: list[ReceivedInstance], now: float) -> None:
    last = max(one.received_at for one in fresh)
    if _begins_anew(study):
        is_note = any(one.rejects for one in fresh)
        generations.start_generation(
            connection, study, now=now, action="rejection_note_received" if is_note else "late_image_received"
        )
    store.set_received(
        connection,
        study.study_instance_uid,
        instance_count=study.instance_count + len(fresh),
        last_received_at=max(study.last_received_at, last),
        quiet_at=max(study.quiet_at, *(one.received_at + one.quiet_period_s for one in fresh)),
        now=now,
    )


def _begins_anew(study: Study) -> bool:
    # Who waits for one destination only has no reason to keep an outdated draft at the others; and a study that was
    # dismissed was so as it stood then.
    return (
        study.state not in _STATES_THAT_STAY or generations.holds_one_output(study) or generations.is_dismissed(study)
    )


def _apply_rejections(connection: Connection, study_instance_uid: str, notes: list[ReceivedInstance]) -> None:
    if not notes:
        return
    for note in notes:
        reason = str(note.rejection_reason or "rejected")
        store.add_rejections(connection, study_instance_uid, note, reason=reason)
        audit.record(
            connection,
            at=note.received_at,
            actor=note.calling_ae_title,
            action="objects_rejected",
            study_instance_uid=study_instance_uid,
            detail=f"{reason}: {len(note.rejects)} objects",
        )
    store.recount(connection, study_instance_uid)
