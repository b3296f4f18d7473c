"""What becomes of a durable object: a row, a generation, a comparison, a study held, or nothing new.

Everything runs inside the caller's transaction, and no two transactions record at the same time.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
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
    ordered = sorted(received, key=lambda one: (one.study_instance_uid, one.acknowledged_ns, one.received_at))
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
        twins = [copy for copy in held if copy.study_instance_uid == study_instance_uid and _is_equal(one, copy)]
        if twins:
            # One that has its row already comes again when nobody could be told so.
            if one.path not in {twin.path for twin in twins}:
                equal[one.path] = twins[0].path
                if was_acknowledged_before(one, twins[0]):
                    store.set_acknowledged(connection, twins[0].path, one.acknowledged_ns)
            continue
        status = _status_of(one, held)
        if status is InstanceStatus.CONFLICT and _take_place_in_other_studies(connection, one, held, now):
            status = InstanceStatus.CURRENT
        reason = rejected.get(one.sop_instance_uid, "") if status is InstanceStatus.CURRENT else ""
        if reason:
            status = InstanceStatus.EXCLUDED
        held.append(
            Copy(
                sop_instance_uid=one.sop_instance_uid,
                study_instance_uid=study_instance_uid,
                path=one.path,
                sha256=one.sha256,
                status=status,
                acknowledged_ns=one.acknowledged_ns,
            )
        )
        judged.append((one, status, reason))
        if status is InstanceStatus.CURRENT:
            fresh.append(one)
        elif status is InstanceStatus.UNCLASSED:
            _enqueue_classify(connection, one, study.generation, now)
        elif status is InstanceStatus.CONFLICT:
            problem = _TWO_STUDIES
    if judged:
        store.add_instances(connection, judged)
    repeated = {one.sop_instance_uid for one in group if len(known[one.sop_instance_uid]) > 1 or one.path in equal}
    put_first = put_first_copies_first(connection, study, repeated, now)
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
    elif put_first and study.state not in _STATES_THAT_STAY:
        # The draft was made from a copy that turns out to be the second.
        generations.start_generation(connection, study, now=now, action="earlier_copy_received")
    elif created and all(one.is_own for one in group):
        store.set_state(connection, study_instance_uid, StudyState.UNMATCHED, now=now, reason="only_own_results")
    if problem:
        generations.hold(
            connection,
            study_instance_uid,
            now=now,
            reason=problem,
            detail=_TWO_STUDIES_DETAIL,
        )
    return equal


def _is_equal(one: ReceivedInstance, copy: Copy) -> bool:
    # A copy that could not be read has no digest, and nobody knows what it is equal to.
    return one.path == copy.path or (one.sha256 != "" and one.sha256 == copy.sha256)


_TWO_STUDIES = "sop_instance_uid_in_two_studies"
_TWO_STUDIES_DETAIL = "An image of this study carries the SOP Instance UID of an image of another study."


def was_acknowledged_before(one: ReceivedInstance | Copy, other: Copy) -> bool:
    """Say whether an object was acknowledged before another one; False where that is not known of both."""
    return 0 < one.acknowledged_ns < other.acknowledged_ns


def put_first_copies_first(
    connection: Connection, study: Study, sop_instance_uids: Collection[str], now: float
) -> bool:
    """Let the copy that was acknowledged first stand for its UID, in whatever order the rows came; say if any moved.

    Where several processes receive, the row of a later copy may be written first. The copy that stood there until now
    is compared with the first one like any other repetition.
    """
    moved = False
    copies: dict[str, list[Copy]] = defaultdict(list)
    for copy in store.copies(connection, sop_instance_uids):
        if copy.study_instance_uid == study.study_instance_uid and copy.status in _MAY_STAND:
            copies[copy.sop_instance_uid].append(copy)
    for held in copies.values():
        standing = next((copy for copy in held if copy.status is InstanceStatus.CURRENT), None)
        if standing is None:
            continue
        first = min(held, key=lambda copy: copy.acknowledged_ns or standing.acknowledged_ns)
        if not was_acknowledged_before(first, standing):
            continue
        queue.supersede(
            connection,
            study_instance_uid=study.study_instance_uid,
            now=now,
            steps=("classify",),
            reason="acknowledged_first",
            subject=first.path,
        )
        store.set_instance_status(connection, first.path, InstanceStatus.CURRENT)
        store.set_instance_status(connection, standing.path, InstanceStatus.UNCLASSED)
        _enqueue_classify(connection, standing, study.generation, now, first=first)
        moved = True
    return moved


#: Of a copy with another status something was decided that its place does not change.
_MAY_STAND = (InstanceStatus.CURRENT, InstanceStatus.UNCLASSED, InstanceStatus.VARIANT)


def _take_place_in_other_studies(
    connection: Connection, one: ReceivedInstance, held: Sequence[Copy], now: float
) -> bool:
    """Hold the studies whose image of this UID was acknowledged later; False where one was not."""
    standing = [copy for copy in held if copy.status in _MAY_STAND]
    if not standing or not all(was_acknowledged_before(one, copy) for copy in standing):
        return False
    for copy in standing:
        store.lock_study(connection, copy.study_instance_uid)
        store.set_instance_status(connection, copy.path, InstanceStatus.CONFLICT)
    for uid in sorted({copy.study_instance_uid for copy in standing}):
        store.recount(connection, uid)
        generations.hold(connection, uid, now=now, reason=_TWO_STUDIES, detail=_TWO_STUDIES_DETAIL)
    return True


def _status_of(one: ReceivedInstance, held: Sequence[Copy]) -> InstanceStatus:
    if one.is_own:
        return InstanceStatus.OWN
    if any(copy.study_instance_uid == one.study_instance_uid for copy in held):
        return InstanceStatus.UNCLASSED
    return InstanceStatus.CONFLICT if held else InstanceStatus.CURRENT


def _enqueue_classify(
    connection: Connection, one: ReceivedInstance | Copy, generation: int, now: float, first: Copy | None = None
) -> None:
    key = f"classify:{one.study_instance_uid}:{one.sop_instance_uid}:{one.sha256}"
    queue.enqueue(
        connection,
        step="classify",
        queue="io",
        # One that was compared before, or was to be, is compared with the new first copy.
        idempotency_key=f"{key}:{first.sha256}" if first else key,
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
    # From the moment of the row, by the clock that decides when it is over: that of the receiving host may be another.
    quiet_period_s = max(one.quiet_period_s for one in fresh)
    store.set_received(
        connection,
        study.study_instance_uid,
        instance_count=study.instance_count + len(fresh),
        last_received_at=max(study.last_received_at, last),
        quiet_at=max(study.quiet_at, now + quiet_period_s),
        quiet_period_s=quiet_period_s,
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
