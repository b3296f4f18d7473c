"""What happens to a study, on one page.

::

    received --quiet, counted--> complete --gpu: read--> read --io: prepare--> ready --io: send--> delivered
    any step -> refused | unmatched | held | dead, each with its reason; delivered --final report--> closed
    held | dead --a person dismisses it--> closed, until a new image comes

The result of a step and the jobs of the next step are committed in the one transaction that marks its job
done. The state of a study between `complete` and `delivered` is derived from its rows, so a step that ends
twice, late or in another order than its siblings cannot leave it wrong.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from sqlalchemy import Connection

from casebook import audit, destinations, device, generations, intake, queue, store
from casebook.case import Case, Job
from casebook.errors import (
    IdentityConflict,
    LostLease,
    NotCompared,
    PatientNotConfirmed,
    PeerUnavailable,
    RejectedByPeer,
    Retryable,
    SettingsError,
    WetreadError,
)
from casebook.identity import why_unclear
from casebook.outcomes import (
    FIRST_COPY_UNREADABLE,
    UNREADABLE,
    Classed,
    Cleared,
    Counted,
    Delivered,
    Drafted,
    Held,
    Outcome,
    Prepared,
    Refused,
)
from casebook.pipelines import Pipeline, choose
from casebook.settings import ArchiveSettings
from casebook.study import CompletionReason, Instance, InstanceStatus, ReceivedInstance, Study, StudyState
from casebook.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One kind of job."""

    name: str
    #: Queue its workers listen to.
    queue: str
    #: Function that does it, as `module:function`.
    body: str
    #: Function that has to clear it first, where there is one; nothing has left when it is asked.
    gate: str = ""


_PATIENT_CHECK = "dicom_node.archive.patient_check:check_patient"
STEPS: tuple[Step, ...] = (
    Step(name="read", queue="gpu", body="worker.read:read"),
    # What goes out knows nothing of the archive; whether the study is still this patient's is asked before it begins.
    Step(name="prepare", queue="io", body="dicom_node.results.prepare:prepare", gate=_PATIENT_CHECK),
    Step(name="send", queue="io", body="dicom_node.results.send:send", gate=_PATIENT_CHECK),
    # Beside the line: the archive is asked how many images there are, before a quiet study counts as complete.
    Step(name="count", queue="io", body="dicom_node.archive.count:count"),
    # Beside the line: a repeated SOP Instance UID is compared with the first copy.
    Step(name="classify", queue="io", body="dicom_node.objects.classify:classify"),
)
QUEUES: tuple[str, ...] = ("gpu", "io")

#: States that the rows of jobs and outputs decide; the others are decisions that stay until somebody undoes them.
_DERIVED = (StudyState.COMPLETE, StudyState.READ, StudyState.READY, StudyState.DELIVERED, StudyState.DEAD)


# ---- completion --------------------------------------------------------------------------------------------


def settle_quiet(
    connection: Connection,
    study_instance_uid: str,
    *,
    terms: Terms,
    archive: ArchiveSettings | None,
) -> bool:
    """Complete a quiet study, or first ask the archive how many images it has; say whether it is complete.

    An archive that does not answer, or never agrees, is asked `max_questions` times; then the study is read as
    it is, and the draft says "n of m".
    """
    study = store.lock_study(connection, study_instance_uid)
    if study.state is not StudyState.RECEIVED or study.quiet_at > terms.now or study.reason == store.COUNTING:
        return False
    asked = store.questions(connection, study_instance_uid, study.generation)
    if archive is None or asked >= archive.max_questions:
        return complete(connection, study_instance_uid, terms=terms, reason=CompletionReason.QUIET)
    store.set_counting(connection, study_instance_uid, counting=True, quiet_at=study.quiet_at)
    _enqueue(connection, study, "count", terms=terms, priority=0, subject=str(asked + 1))
    return False


def _take_count(connection: Connection, study: Study, job: Job, counted: Counted, *, terms: Terms) -> None:
    _note(connection, job, terms.now, "archive_counted", f"{counted.expected} images")
    # What was fetched just now extends the quiet period; what the sender still sends did so before.
    was_quiet = study.quiet_at <= terms.now
    intake.record_instances(connection, _not_sent_meanwhile(connection, study, counted), terms.now)
    store.add_priors(connection, study.study_instance_uid, counted.priors, now=terms.now)
    held = store.recount(connection, study.study_instance_uid)
    store.set_expected(connection, study.study_instance_uid, counted.expected)
    study = store.get_study(connection, study.study_instance_uid)
    if study.state is not StudyState.RECEIVED:
        return  # What was fetched contradicts what was here: the study is held now.
    if held < counted.expected or not was_quiet:
        _ask_later(connection, study, terms)
        return
    store.set_counting(connection, study.study_instance_uid, counting=False, quiet_at=min(study.quiet_at, terms.now))
    complete(connection, study.study_instance_uid, terms=terms, reason=CompletionReason.COUNTED)


def _not_sent_meanwhile(connection: Connection, study: Study, counted: Counted) -> list[ReceivedInstance]:
    # The sender's copy stands. The fetched one is compared with it at the listener's next start, as every file
    # without a row.
    sent = {
        one.sop_instance_uid
        for one in store.copies(connection, {one.sop_instance_uid for one in counted.pulled})
        if one.study_instance_uid == study.study_instance_uid
    }
    return [one for one in counted.pulled if one.sop_instance_uid not in sent]


def _ask_later(connection: Connection, study: Study, terms: Terms) -> None:
    if study.state is not StudyState.RECEIVED:
        return  # A person closed it during the question; what came of that keeps its reason.
    again_at = max(study.quiet_at, terms.now + terms.limits.ask_again_s)
    store.set_counting(connection, study.study_instance_uid, counting=False, quiet_at=again_at)


def complete(connection: Connection, study_instance_uid: str, *, terms: Terms, reason: CompletionReason) -> bool:
    """Decide what becomes of a study whose images are all here; say whether there was anything to decide."""
    study = store.lock_study(connection, study_instance_uid)
    if study.state is not StudyState.RECEIVED:
        return False
    if reason is CompletionReason.QUIET and study.quiet_at > terms.now:
        return False
    if store.has_unclassed(connection, study_instance_uid):
        return False  # The next sweep looks again once the copies are compared.
    current = store.instances(connection, study_instance_uid)
    _note_set_character_sets(connection, study, current, terms.now)
    if _hold_unclear_identity(connection, study, current, terms):
        return True
    if _has_undecided_copies(connection, study_instance_uid):
        generations.hold(
            connection,
            study_instance_uid,
            now=terms.now,
            reason="repeated_image_differs",
            detail="An image of this study contradicts another one under its SOP Instance UID, and nobody has decided.",
        )
        return True
    notes = store.rejection_notes(connection, study_instance_uid)
    if notes and all(one.sop_instance_uid in notes for one in current):
        store.set_state(
            connection,
            study_instance_uid,
            StudyState.REFUSED,
            now=terms.now,
            reason="every_image_rejected",
            detail="A rejection note took every image out of this study.",
            completion_reason=reason,
        )
        return True
    pipeline = choose(terms.pipelines, current)
    if pipeline is None:
        store.set_state(
            connection,
            study_instance_uid,
            StudyState.UNMATCHED,
            now=terms.now,
            reason="no_pipeline_matches",
            detail="No pipeline wants this study.",
            completion_reason=reason,
        )
        return True
    store.set_state(
        connection,
        study_instance_uid,
        StudyState.COMPLETE,
        now=terms.now,
        pipeline=pipeline.name,
        completion_reason=reason,
    )
    _enqueue(connection, study, "read", terms=terms, priority=pipeline.priority)
    return True


def _has_undecided_copies(connection: Connection, study_instance_uid: str) -> bool:
    # A release decides about each of them. A study that was dismissed with one and gets a new image has it still.
    return bool(store.instances(connection, study_instance_uid, statuses=(InstanceStatus.CONFLICT,)))


def _hold_unclear_identity(connection: Connection, study: Study, current: Sequence[Instance], terms: Terms) -> bool:
    found = why_unclear([one.header for one in current], terms.strict)
    if found is not None:
        reason, detail = found
        generations.hold(connection, study.study_instance_uid, now=terms.now, reason=reason, detail=detail)
    return found is not None


def _note_set_character_sets(connection: Connection, study: Study, current: Sequence[Instance], now: float) -> None:
    # A name that is right because of a setting says so: nothing in the object does.
    used = {(one.character_set, one.set_for) for each in current for one in each.header.identifying if one.set_for}
    for character_set, ae_title in sorted(used):
        audit.record(
            connection,
            at=now,
            actor="flow",
            action="read_with_the_character_set",
            study_instance_uid=study.study_instance_uid,
            detail=f"{character_set}, set for the sender {ae_title}",
        )


def _enqueue(
    connection: Connection,
    study: Study,
    step: str,
    *,
    terms: Terms,
    priority: int,
    subject: str = "",
) -> None:
    found = next(one for one in STEPS if one.name == step)
    queue.enqueue(
        connection,
        step=step,
        queue=found.queue,
        idempotency_key=f"{step}:{study.study_instance_uid}:{study.generation}:{subject}",
        study_instance_uid=study.study_instance_uid,
        generation=study.generation,
        subject=subject,
        priority=priority,
        # The next question of a count is its next attempt.
        max_attempts=1 if step == "count" else terms.limits.max_attempts,
        lock=subject if step == "send" else "",
        now=terms.now,
    )


# ---- steps -------------------------------------------------------------------------------------------------


def load_case(connection: Connection, job: Job, pipelines: Sequence[Pipeline]) -> Case:
    """Read everything a step may look at.

    Raises
    ------
    NotCompared
        When a repeated object has to be compared before results may leave.
    SettingsError
        When the pipeline of a study to be read is no longer configured.
    """
    study = store.get_study(connection, job.study_instance_uid)
    if job.step == "classify":
        return _load_classify(connection, job, study)
    if job.step == "send" and store.has_unclassed(connection, job.study_instance_uid):
        raise NotCompared
    pipeline = next((one for one in pipelines if one.name == study.pipeline), None)
    if job.step == "read" and pipeline is None:
        raise SettingsError(f"The study was matched to the pipeline {study.pipeline}, which is no longer configured.")
    found = before = output = None
    if job.step in ("prepare", "send"):
        found = store.get_reading(connection, job.study_instance_uid, job.generation)
        before = store.predecessor(connection, job.study_instance_uid, job.generation, job.subject)
        output = store.get_output(connection, job.study_instance_uid, job.generation, job.subject)
    reading, revision = found or (None, 0)
    return Case(
        job=job,
        study=study,
        instances=store.instances(connection, job.study_instance_uid),
        issued_uids=store.issued_uids(connection, job.study_instance_uid),
        set_aside_uids=_set_aside_uids(connection, job),
        priors=store.priors(connection, job.study_instance_uid) if job.step == "read" else (),
        pipeline=pipeline,
        reading=reading,
        revision=revision,
        predecessor_uid=before.object_uid if before else "",
        predecessor_class=before.object_class if before else "",
        predecessor_content=before.content if before else b"",
        output=output,
        device_uid=device.current_uid(connection) if job.step == "prepare" else "",
        own_device_uids=device.known_uids(connection) if job.step == "count" else frozenset(),
    )


def _set_aside_uids(connection: Connection, job: Job) -> tuple[str, ...]:
    if job.step == "count":
        statuses = [one for one in InstanceStatus if one is not InstanceStatus.CURRENT]
        found = store.instances(connection, job.study_instance_uid, statuses=statuses)
        return tuple(one.sop_instance_uid for one in found)
    if job.step != "read":
        return ()
    # An image whose other copy is read is not missing from the draft.
    out = store.instances(
        connection, job.study_instance_uid, statuses=(InstanceStatus.EXCLUDED, InstanceStatus.CONFLICT)
    )
    current = {one.sop_instance_uid for one in store.instances(connection, job.study_instance_uid)}
    return tuple(dict.fromkeys(one.sop_instance_uid for one in out if one.sop_instance_uid not in current))


def _load_classify(connection: Connection, job: Job, study: Study) -> Case:
    every = store.instances(connection, job.study_instance_uid, statuses=InstanceStatus)
    repeated = next(one for one in every if one.path == job.subject)
    return Case(
        job=job,
        study=study,
        instances=tuple(one for one in every if one.sop_instance_uid == repeated.sop_instance_uid and one != repeated),
        repeated=repeated,
    )


def note_cleared(connection: Connection, job: Job, cleared: Cleared, *, terms: Terms) -> None:
    """Write, under the fence, what was noted when a job was cleared.

    Raises
    ------
    LostLease
        When the job is no longer ours.
    """
    store.lock_study(connection, job.study_instance_uid)
    queue.renew(connection, job, lease_until=terms.now + terms.limits.lease_s)
    for note in cleared.notes:
        _note(connection, job, terms.now, note.action, note.detail)


def begin_send(connection: Connection, job: Job, *, terms: Terms) -> None:
    """Note, under the fence, that bytes are about to leave; commit before sending.

    Raises
    ------
    LostLease
        When the job is no longer ours.
    NotCompared
        When a repeated object arrived since and has to be compared first.
    """
    store.lock_study(connection, job.study_instance_uid)
    queue.renew(connection, job, lease_until=terms.now + terms.limits.lease_s)
    if store.has_unclassed(connection, job.study_instance_uid):
        raise NotCompared
    store.mark_sending(connection, job, now=terms.now)
    # Later than that its process has ended itself, so nothing of it is on its way any more.
    queue.put_on_wire(connection, job, until=terms.now + terms.limits.hard_limit_s)


def advance(connection: Connection, job: Job, outcome: Outcome, *, terms: Terms) -> None:
    """Commit the outcome of a step together with the jobs it asks for.

    Raises
    ------
    LostLease
        When the job is no longer ours: nothing may be written.
    """
    if isinstance(outcome, Counted) and outcome.pulled:
        store.lock_recording(connection)
    study = store.lock_study(connection, job.study_instance_uid)
    if isinstance(outcome, Delivered):
        destinations.note_answer(connection, job.lock, limits=terms.limits, now=terms.now)
        if outcome.negotiated:
            destinations.note_negotiated(connection, job.lock, outcome.negotiated, now=terms.now)
    queue.finish(connection, job, now=terms.now)
    match outcome:
        case Drafted():
            _take_draft(connection, study, job, outcome, terms=terms)
        case Refused():
            _refuse(connection, job, outcome, terms.now)
        case Held():
            _hold(connection, job, outcome, terms.now)
        case Prepared():
            _freeze(connection, study, job, outcome, terms=terms)
        case Delivered():
            _note_delivery(connection, job, outcome, terms.now)
        case Classed():
            _class_repeated(connection, job, outcome, terms.now)
        case Counted():
            _take_count(connection, study, job, outcome, terms=terms)
    settle(connection, job.study_instance_uid, terms.now)


def _take_draft(connection: Connection, study: Study, job: Job, outcome: Drafted, *, terms: Terms) -> None:
    if outcome.reading.generation != job.generation or study.generation != job.generation:
        raise LostLease
    store.add_reading(connection, outcome.reading, now=terms.now)
    pipeline = next(one for one in terms.pipelines if one.name == study.pipeline)
    for destination in pipeline.destinations:
        _enqueue(connection, study, "prepare", terms=terms, priority=pipeline.priority, subject=destination)
    _note(connection, job, terms.now, "drafted", f"sha256 {outcome.reading.sha256[:16]}")


def _refuse(connection: Connection, job: Job, outcome: Refused, now: float) -> None:
    store.set_state(
        connection,
        job.study_instance_uid,
        StudyState.REFUSED,
        now=now,
        reason=outcome.reason,
        detail=outcome.detail,
    )


def _hold(connection: Connection, job: Job, outcome: Held, now: float) -> None:
    generations.hold(
        connection,
        job.study_instance_uid,
        now=now,
        reason=outcome.reason,
        detail=outcome.detail,
        destination=job.subject if outcome.only_this_output else "",
        differences=outcome.differences,
    )


def _freeze(connection: Connection, study: Study, job: Job, outcome: Prepared, *, terms: Terms) -> None:
    sha256 = hashlib.sha256(outcome.content).hexdigest()
    store.freeze_output(connection, job, outcome, sha256=sha256, now=terms.now)
    destinations.register(connection, job.subject, destinations.KIND_OF_OUTPUT[outcome.kind])
    _enqueue(connection, study, "send", terms=terms, priority=0, subject=job.subject)
    _note(connection, job, terms.now, "output_frozen", f"{job.subject} {outcome.object_uid}")


def _note_delivery(connection: Connection, job: Job, outcome: Delivered, now: float) -> None:
    store.mark_delivered(connection, job, acknowledgement=outcome.acknowledgement, now=now)
    _note(connection, job, now, "output_delivered", f"{job.subject} {outcome.acknowledgement}")


def _class_repeated(connection: Connection, job: Job, outcome: Classed, now: float) -> None:
    status = InstanceStatus.VARIANT if outcome.is_variant else InstanceStatus.CONFLICT
    store.set_instance_status(connection, job.subject, status, reason=outcome.reason)
    if outcome.is_variant:
        _note(connection, job, now, "repeated_image_is_variant", outcome.reason)
        return
    reason, detail = _CONFLICTS.get(outcome.reason, _CONFLICT)
    generations.hold(connection, job.study_instance_uid, now=now, reason=reason, detail=detail)


_CONFLICT = (
    "repeated_image_differs",
    "An image arrived twice under one SOP Instance UID with another patient or other pixels.",
)
#: Reason of a verdict -> why the study is held; any other is a plain difference.
_CONFLICTS = {
    UNREADABLE: (
        "repeated_image_unreadable",
        "An image arrived twice with other bytes, and the later copy is damaged, so they cannot be compared.",
    ),
    FIRST_COPY_UNREADABLE: (
        "repeated_image_unreadable",
        "An image arrived twice with other bytes, and the first copy is damaged, so they cannot be compared.",
    ),
}


def fail(connection: Connection, job: Job, error: BaseException, *, terms: Terms, random: Random) -> None:
    """Write a failed attempt: a later try, or the end of the job until a person retries it.

    Raises
    ------
    LostLease
        When the job is no longer ours.
    """
    store.lock_study(connection, job.study_instance_uid)
    reason = _reason(error)
    # Only our own errors speak in sentences that are safe to keep; a foreign one may quote a header.
    detail = str(error) if isinstance(error, WetreadError) else f"Unexpected {type(error).__name__}."
    if isinstance(error, IdentityConflict):
        queue.finish(connection, job, now=terms.now)
        generations.hold(connection, job.study_instance_uid, now=terms.now, reason=reason, detail=detail)
        return
    if job.step == "count":
        queue.finish(connection, job, now=terms.now)
        _note(connection, job, terms.now, "archive_did_not_count", reason)
        _ask_later(connection, store.get_study(connection, job.study_instance_uid), terms)
        return
    waits_since = _waits_since(job, error, terms.now)
    may_be_on_wire = isinstance(error, WorkerVanished)
    if isinstance(error, RejectedByPeer) and job.lock:
        destinations.note_answer(connection, job.lock, limits=terms.limits, now=terms.now)
    again_at = _again_at(connection, job, error, waits_since, reason, detail, terms=terms, random=random)
    if _is_over(job, error, waits_since, terms):
        queue.bury(connection, job, now=terms.now, reason=reason, detail=detail, may_be_on_wire=may_be_on_wire)
        _note(connection, job, terms.now, "job_died", f"{job.step} {reason}")
        if job.step == "classify":
            # Nobody could tell the copies apart, so nobody may read either.
            generations.hold(
                connection,
                job.study_instance_uid,
                now=terms.now,
                reason="repeated_image_not_compared",
                detail="An image arrived twice with other bytes and the copies could not be compared.",
            )
        settle(connection, job.study_instance_uid, terms.now)
        return
    queue.retry(
        connection,
        job,
        now=terms.now,
        wait_s=again_at - terms.now,
        failing_since=waits_since,
        reason=reason,
        detail=detail,
        may_be_on_wire=may_be_on_wire,
    )


#: What is at fault elsewhere: it has hours to end, and uses up no attempts.
_ELSEWHERE = (PeerUnavailable, PatientNotConfirmed, NotCompared)


def _waits_since(job: Job, error: BaseException, now: float) -> float | None:
    """Return since when a job waits for somebody else; None where it failed itself."""
    if not isinstance(error, _ELSEWHERE):
        return None
    return now if job.failing_since is None else job.failing_since


def _is_over(job: Job, error: BaseException, waits_since: float | None, terms: Terms) -> bool:
    if isinstance(error, WetreadError) and not isinstance(error, Retryable):
        return True
    if waits_since is None:
        return job.attempt >= job.max_attempts
    return terms.now - waits_since >= terms.limits.give_up_after_h * _HOUR_S


_HOUR_S = 3600.0


def _again_at(
    connection: Connection,
    job: Job,
    error: BaseException,
    waits_since: float | None,
    reason: str,
    detail: str,
    *,
    terms: Terms,
    random: Random,
) -> float:
    limits = terms.limits
    if job.lock and isinstance(error, PeerUnavailable):
        return destinations.note_failure(
            connection, job, reason=reason, detail=detail, limits=limits, now=terms.now, random=random
        )
    if waits_since is not None:
        return terms.now + destinations.wait_s(limits, failing_since=waits_since, now=terms.now, random=random)
    longest_s = min(limits.backoff_cap_s, limits.backoff_first_s * 2.0 ** (job.attempt - 1))
    return terms.now + longest_s * random.uniform(0.5, 1.0)


def _reason(error: BaseException) -> str:
    name = type(error).__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


class WorkerVanished(Retryable):
    """The worker that held the job went silent."""


def expire(connection: Connection, job: Job, *, terms: Terms, random: Random) -> bool:
    """Give the job of a silent worker to another one, or end it when it keeps killing its workers.

    Returns
    -------
        False when the worker renewed its lease, or another sweep was first.
    """
    # The study before the job, as everywhere: two locks taken in two orders would be a deadlock.
    store.lock_study(connection, job.study_instance_uid)
    if not queue.is_expired(connection, job, now=terms.now):
        return False
    fail(connection, job, WorkerVanished(), terms=terms, random=random)
    return True


def settle(connection: Connection, study_instance_uid: str, now: float) -> None:
    """Derive the state of a study from its rows; see the module docstring."""
    study = store.get_study(connection, study_instance_uid)
    if study.state not in _DERIVED:
        return
    wanted, frozen, delivered, dead = store.progress(connection, study_instance_uid, study.generation)
    if dead:
        state = StudyState.DEAD
    elif not store.has_reading(connection, study_instance_uid, study.generation):
        state = StudyState.COMPLETE
    elif wanted and delivered == wanted:
        state = StudyState.DELIVERED
    else:
        state = StudyState.READY if frozen == wanted else StudyState.READ
    if state is not study.state:
        reason = "step_failed" if state is StudyState.DEAD else ""
        store.set_state(connection, study_instance_uid, state, now=now, reason=reason)


def _note(connection: Connection, job: Job, now: float, action: str, detail: str) -> None:
    audit.record(
        connection,
        at=now,
        actor=f"{job.step} attempt {job.attempt}",
        action=action,
        study_instance_uid=job.study_instance_uid,
        detail=detail,
    )
