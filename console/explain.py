"""What a study waits for and what to do about it, in one plain sentence: the words of `wetread why`.

Everything shown is an identifier the operator needs (UIDs, AE titles, destinations, pipelines) or a reason of
our own. PatientIDs are shown only where they are asked for, because they are what a person has to choose between.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, select
from sqlalchemy.sql.elements import ColumnElement

from casebook import audit, destinations, generations, store, tables
from casebook.audit import AuditEvent
from casebook.case import JobState
from casebook.destinations import Destination
from casebook.flow import STEPS
from casebook.identity import IDENTITY, contradictions, differing_demographics, exact_text, inexact, says_nothing
from casebook.settings import Settings
from casebook.study import Demographic, Fault, Hold, Instance, InstanceStatus, PatientIdentity, Study, StudyState

#: States that need a person.
NEEDS_A_PERSON = (StudyState.HELD, StudyState.DEAD)
#: States in which no draft of the current generation follows by itself.
_WITHOUT_A_DRAFT = (StudyState.HELD, StudyState.REFUSED, StudyState.UNMATCHED)
_job = tables.job.c
_output = tables.output.c
_QUEUE_OF_STEP = {step.name: step.queue for step in STEPS}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """A job as an operator sees it."""

    step: str
    subject: str
    state: JobState
    attempt: int
    max_attempts: int
    owner: str
    run_after: float
    #: Since when it waits for somebody who does not answer; zero where it does not.
    failing_since: float
    lease_until: float
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFacts:
    """A result as an operator sees it."""

    destination: str
    kind: str
    object_uid: str
    #: SHA-256 of the frozen bytes.
    sha256: str
    first_sent_at: float | None
    delivered_at: float | None
    acknowledgement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a study stands where it stands."""

    study: Study
    #: One plain sentence.
    sentence: str
    #: What a person may do; empty where nothing has to be done.
    advice: str
    needs_a_person: bool
    #: Every reason for which the study, or one of its destinations, is held.
    holds: tuple[Hold, ...]
    jobs: tuple[JobFacts, ...]
    outputs: tuple[OutputFacts, ...]
    timeline: tuple[AuditEvent, ...]


def explain(
    connection: Connection,
    study_instance_uid: str,
    *,
    settings: Settings,
    now: float,
    show_patient_ids: bool = False,
) -> Explanation:
    """Explain one study.

    Parameters
    ----------
    show_patient_ids
        Name the PatientIDs of a study that is held because of them, and what an archive says instead.

    Raises
    ------
    KeyError
        When the study is not known.
    """
    study = store.get_study(connection, study_instance_uid)
    jobs = _jobs(connection, study)
    outputs = _outputs(connection, study)
    holds: tuple[Hold, ...] = ()
    if study.state is StudyState.HELD:
        holds = store.holds(connection, study, with_values=show_patient_ids)
        sentence, advice = _say_holds(
            connection, study, holds, outputs, strict=settings.identity.strict, show_patient_ids=show_patient_ids
        )
        advice = f"{advice.rstrip('.')}. {_dismissal(study)}"
        sentence += _say_failing(connection, jobs, now)
    else:
        sentence, advice = _say(connection, study, jobs, outputs, settings=settings, now=now)
    if study.state in _WITHOUT_A_DRAFT:
        outdated = _say_outdated(connection, study)
        sentence = sentence.replace("no draft", "no new draft") + outdated if outdated else sentence
    return Explanation(
        study=study,
        sentence=sentence,
        advice=advice,
        needs_a_person=study.state in NEEDS_A_PERSON,
        holds=holds,
        jobs=jobs,
        outputs=outputs,
        timeline=audit.timeline(connection, study_instance_uid),
    )


def _say(
    connection: Connection,
    study: Study,
    jobs: Sequence[JobFacts],
    outputs: Sequence[OutputFacts],
    *,
    settings: Settings,
    now: float,
) -> tuple[str, str]:
    match study.state:
        case StudyState.RECEIVED:
            return _say_received(connection, study, jobs, settings, now)
        case StudyState.COMPLETE | StudyState.READ | StudyState.READY:
            return _say_working(connection, study, jobs, settings, now)
        case StudyState.DELIVERED:
            return _say_delivered(outputs), ""
        case StudyState.CLOSED if generations.is_dismissed(study):
            return _say_dismissed(connection, study)
        case StudyState.CLOSED:
            return "Closed: the radiologist's final report has arrived, so nothing more is done for this study.", ""
        case StudyState.REFUSED:
            return (
                f"Refused, so there is no draft: {(study.detail or study.reason).rstrip('.')} ({study.reason}).",
                (
                    "Nothing has to be done; a new image of the study has it looked at again, and so does: "
                    f"wetread retry {study.study_instance_uid}"
                ),
            )
        case StudyState.UNMATCHED:
            return _say_unmatched(connection, study, settings)
        case StudyState.DEAD:
            sentence, advice = _say_dead(study, jobs, settings)
            return sentence + _say_failing(connection, jobs, now), f"{advice}. {_dismissal(study)}"
        case StudyState.HELD:
            raise AssertionError("a held study has its reasons")


def _dismissal(study: Study) -> str:
    return f"If nobody can mend it: wetread dismiss {study.study_instance_uid} --reason TEXT"


def _say_dismissed(connection: Connection, study: Study) -> tuple[str, str]:
    events = audit.timeline(connection, study.study_instance_uid)
    why = next((one.detail for one in reversed(events) if one.action == generations.DISMISSED), "")
    sent = store.sent_outputs(connection, study.study_instance_uid)
    named = ", ".join(f"{destination} ({uid})" for destination, (_, uid) in sorted(sent.items()))
    stays = f" What was sent before stays where it is: {named}." if named else ""
    return (
        f"Dismissed by a person, so nothing more is done for this study: {why.rstrip('.')}.{stays}",
        (
            "Nothing has to be done; a new image of the study has it looked at again, and so does: "
            f"wetread retry {study.study_instance_uid}"
        ),
    )


def _say_outdated(connection: Connection, study: Study) -> str:
    sent = store.sent_outputs(connection, study.study_instance_uid)
    # Where one destination alone cannot be served, the drafts of this generation are right.
    if generations.holds_one_output(study):
        sent = {to: (generation, uid) for to, (generation, uid) in sent.items() if generation < study.generation}
    named = [f"{destination} ({uid})" for destination, (_, uid) in sorted(sent.items())]
    return f" A draft was already sent to {', '.join(named)}; have it withdrawn." if named else ""


def _say_received(
    connection: Connection, study: Study, jobs: Sequence[JobFacts], settings: Settings, now: float
) -> tuple[str, str]:
    uid = study.study_instance_uid
    repeated = store.instances(connection, uid, statuses=(InstanceStatus.UNCLASSED,))
    if repeated:
        job = next((one for one in jobs if one.step == "classify" and one.subject == repeated[0].path), None)
        so_far = f"; the comparison {_stand(job, now)}" if job else ""
        return (
            (
                f"Waits until {_count(len(repeated), 'image')} that arrived twice with other bytes "
                f"({repeated[0].sop_instance_uid}) is compared with the first copy{so_far}."
            ),
            _worker_advice(job, settings),
        )
    if study.reason == store.COUNTING:
        job = next((one for one in jobs if one.step == "count"), None)
        so_far = f"; the question {_stand(job, now)}" if job else ""
        return (
            f"Waits until the archive has said how many images the study has; {study.instance_count} are here{so_far}.",
            _worker_advice(job, settings),
        )
    left_s = study.quiet_at - now
    if left_s > 0:
        missing = ""
        if study.expected_instances is not None and study.expected_instances > study.instance_count:
            missing = f" The archive has {study.expected_instances} and is asked again then."
        return (
            (
                f"Receives images: {study.instance_count} so far from {study.calling_ae_title}, the last one "
                f"{_seconds(now - study.last_received_at)} ago; the quiet period ends in {_seconds(left_s)}.{missing}"
            ),
            f"To have it read at once: wetread close {uid}",
        )
    return (
        f"The quiet period ended {_seconds(-left_s)} ago; the next sweep completes the study.",
        "If this stays, the sweeper does not run: see wetread status."
        if -left_s > _TOO_LATE_SWEEPS * settings.queue.sweep_interval_s
        else "",
    )


#: A study this many sweeps overdue was not swept.
_TOO_LATE_SWEEPS = 5


def _say_working(
    connection: Connection, study: Study, jobs: Sequence[JobFacts], settings: Settings, now: float
) -> tuple[str, str]:
    repeated = [one for one in jobs if one.step == "classify" and one.state not in (JobState.DONE, JobState.SUPERSEDED)]
    open_jobs = [one for one in jobs if one.step != "classify" and one.state not in (JobState.DONE, JobState.DEAD)]
    doing = {StudyState.COMPLETE: "Complete", StudyState.READ: "Read", StudyState.READY: "Ready to be sent"}
    head = doing[study.state]
    if not open_jobs:
        return f"{head}, but no job is left for it, which should not happen.", "Report it with wetread why --json."
    known = {one.name: one for one in destinations.every(connection)}
    sentences = [f"{_job_name(one)} {_stand(one, now, known)}" for one in open_jobs]
    waits = f" An image that arrived twice is compared first ({_stand(repeated[0], now)})." if repeated else ""
    advice = dict.fromkeys(text for text in (_worker_advice(one, settings, known) for one in open_jobs) if text)
    return f"{head}: {'; '.join(sentences)}.{waits}", " ".join(advice)


def _say_failing(connection: Connection, jobs: Sequence[JobFacts], now: float) -> str:
    """Name each failing destination that holds a study which also needs a person."""
    known = {one.name: one for one in destinations.every(connection)}
    waiting = [one for one in jobs if _failing_destination(one, known)]
    return "".join(f" Also {_job_name(one)} {_stand(one, now, known)}." for one in waiting)


def _failing_destination(job: JobFacts, known: Mapping[str, Destination]) -> Destination | None:
    found = known.get(job.subject) if job.step == "send" and job.state in (JobState.READY, JobState.RETRY) else None
    return found if found is not None and found.failing_since is not None else None


def _say_destination(found: Destination, job: JobFacts, now: float) -> str:
    since_s = now - (found.failing_since or now)
    next_try_s = max(found.next_try, job.run_after) - now
    again = f"it is tried again in {_seconds(next_try_s)}" if next_try_s > 0 else "it is tried again now"
    last = f"{found.reason} ({found.detail.rstrip('.')})" if found.detail else found.reason
    more = found.backlog - 1
    others = f", as {'does' if more == 1 else 'do'} {_count(more, 'other result')}" if more > 0 else ""
    return f"waits{others}: the destination fails since {_seconds(since_s)}, last with {last}; {again}"


def _job_name(job: JobFacts) -> str:
    return {
        "read": "the reading",
        "prepare": f"the result for {job.subject}",
        "send": f"sending to {job.subject}",
        "classify": "comparing a repeated image",
        "count": "asking the archive for its count",
    }.get(job.step, job.step)


def _stand(job: JobFacts, now: float, known: Mapping[str, Destination] | None = None) -> str:
    failing = _failing_destination(job, known or {})
    if failing is not None:
        return _say_destination(failing, job, now)
    last = f" after {_error(job)}" if job.reason else ""
    again = f" again{last}" if job.reason else ""
    match job.state:
        case JobState.RUNNING:
            return (
                f"is in work{again} (attempt {job.attempt} of {job.max_attempts}, lease held by {job.owner} "
                f"for another {_seconds(job.lease_until - now)})"
            )
        case JobState.RETRY if job.run_after > now:
            so_far = (
                f"waits since {_seconds(now - job.failing_since)}"
                if job.failing_since
                else f"attempt {job.attempt} of {job.max_attempts} failed"
            )
            return f"is tried again in {_seconds(job.run_after - now)}{last} ({so_far})"
        case JobState.READY | JobState.RETRY if job.step == "send":
            return f"waits since {_seconds(now - job.run_after)} for its turn{last}"
        case JobState.READY | JobState.RETRY:
            queue = _QUEUE_OF_STEP.get(job.step, job.step)
            return f"waits for a free {queue} worker since {_seconds(now - job.run_after)}{last}"
        case JobState.DEAD:
            return f"failed for good{last}"
        case _:
            return "is done"


def _error(job: JobFacts) -> str:
    return f"{job.reason} ({job.detail.rstrip('.')})" if job.detail else job.reason


def _worker_advice(job: JobFacts | None, settings: Settings, known: Mapping[str, Destination] | None = None) -> str:
    if job is None:
        return ""
    if _failing_destination(job, known or {}):
        return (
            f"Nothing is lost; the same bytes are sent again. Look at {_address(job.subject, settings)}: "
            f"wetread test-destination {job.subject}"
        )
    if job.state is JobState.RETRY and job.reason == _NOT_CONFIRMED:
        return f"Nothing is lost and nothing was sent; see that the archive answers and has the study. {_ASKED_AGAIN}"
    if job.step == "send" and job.state in (JobState.READY, JobState.RETRY):
        return f"If this stays while {job.subject} answers, no io worker runs: see wetread status."
    if job.state in (JobState.READY, JobState.RETRY):
        return f"If this stays, no {_QUEUE_OF_STEP.get(job.step, '')} worker runs: see wetread status."
    return ""


_NOT_CONFIRMED = "patient_not_confirmed"
_ASKED_AGAIN = "It is asked again by itself."


def _address(destination: str, settings: Settings) -> str:
    found = next((one for one in settings.destinations if one.name == destination), None)
    if found is None:
        return f"destination {destination}, which is no longer configured"
    return f"destination {destination} ({found.kind} {found.host}:{found.port})"


def _say_delivered(outputs: Sequence[OutputFacts]) -> str:
    if not outputs:
        return "Delivered."
    parts = [f"{one.destination} acknowledged the {one.kind.upper()} with {one.acknowledgement}" for one in outputs]
    return f"Delivered: {', '.join(parts)}."


def _say_unmatched(connection: Connection, study: Study, settings: Settings) -> tuple[str, str]:
    if study.reason == "only_own_results":
        return "Only results of our own came under this study, so there is nothing to read.", ""
    modalities = sorted({one.modality for one in store.instances(connection, study.study_instance_uid)})
    return (
        f"No pipeline wants this study ({', '.join(modalities) or 'no modality'}), so it is kept and not read.",
        (
            f"If it should be read, mend {settings.config_directory / 'pipelines'}; "
            f"then: wetread retry {study.study_instance_uid}"
        ),
    )


def _say_holds(
    connection: Connection,
    study: Study,
    holds: Sequence[Hold],
    outputs: Sequence[OutputFacts],
    *,
    strict: Sequence[Demographic],
    show_patient_ids: bool,
) -> tuple[str, str]:
    """Say every reason of a hold: of the study first, then of each destination."""
    of_outputs = [one for one in holds if one.destination]
    if generations.holds_one_output(study):
        # A study that was held by an earlier release has its last reason alone.
        return _say_held_outputs(study, of_outputs or [_only_hold(study)], outputs)
    sentence, advice = _say_held(connection, study, holds, strict=strict, show_patient_ids=show_patient_ids)
    others = [one for one in holds if one.destination or one.reason != study.reason]
    if others:
        sentence += f" Held also because: {'; '.join(_say_hold(one) for one in others)}."
    return sentence, advice


def _only_hold(study: Study) -> Hold:
    return Hold(destination="", reason=study.reason, detail=study.detail)


def _say_held_outputs(study: Study, holds: Sequence[Hold], outputs: Sequence[OutputFacts]) -> tuple[str, str]:
    held = {one.destination for one in holds}
    delivered = [one for one in outputs if one.delivered_at is not None and one.destination not in held]
    sentence = f"Held for a person: {'; '.join(_say_hold(one) for one in holds)}."
    if delivered:
        sentence += f" {_say_delivered(delivered)}"
    mended = {one.destination: _mend_one_output(study.study_instance_uid, one.reason) for one in holds}
    if len(mended) == 1:
        return sentence, next(iter(mended.values()))
    return sentence, " ".join(f"For {destination}: {advice}" for destination, advice in mended.items())


def _say_hold(one: Hold) -> str:
    whom = f"nothing goes to {one.destination}: " if one.destination else ""
    return f"{whom}{one.detail.rstrip('.')} ({one.reason})"


def _say_held(
    connection: Connection,
    study: Study,
    holds: Sequence[Hold],
    *,
    strict: Sequence[Demographic],
    show_patient_ids: bool,
) -> tuple[str, str]:
    uid = study.study_instance_uid
    if study.reason == "archive_names_another_patient":
        return _say_archive_differs(study, holds, show_patient_ids=show_patient_ids)
    # What was left out before, by a person or a rejection note, contradicts nobody any more.
    counting = (InstanceStatus.CURRENT, InstanceStatus.CONFLICT, InstanceStatus.UNCLASSED)
    instances = store.instances(connection, uid, statuses=counting)
    if study.reason == "identity_not_exact":
        return f"Held for a person: {study.detail.rstrip('.')} ({study.reason}).", _mend_texts(uid, instances)
    headers = [one.header for one in instances]
    differing = (*contradictions(headers), *(one for one in differing_demographics(headers) if one in strict))
    options = "".join(f" {option}" for name, option in _RELEASE_OPTIONS.items() if name in differing)
    release = f"Mend it in the PACS and send the study again, or: wetread release {uid} --as PATIENT_ID{options}"
    if "patient_id" in differing:
        ranges = _patient_ranges(instances, show_patient_ids=show_patient_ids)
        names = "" if show_patient_ids else f" (which ones: wetread why {uid} --show-patient-ids)"
        return (
            f"Held for a person: {ranges}, so no draft is written for either{names}.",
            f"{release} (the draft then reads only the images that carry this, and says so; no image is re-labelled).",
        )
    if study.reason in _ABOUT_A_REPEATED_IMAGE:
        conflicting = _of_status(instances, (InstanceStatus.CONFLICT, InstanceStatus.UNCLASSED))
        which = f" ({conflicting[0].sop_instance_uid})" if conflicting else ""
        chosen = [name for name in IDENTITY if _only_some_state(name, instances)]
        added = "".join(f" {_RELEASE_OPTIONS[name]}" for name in chosen if name in _RELEASE_OPTIONS)
        read = "the copy that carries all of this is read; with the PatientID alone the first one" if added else ""
        return (
            f"Held for a person: {study.detail.rstrip('.')}{which}.",
            f"{release}{added} ({read or 'the first copy is read'}).",
        )
    detail = (study.detail or study.reason).rstrip(".")
    if study.reason == "patient_id_empty":
        release = f"Mend PatientID in the PACS and send the study again; then: wetread release {uid} --as PATIENT_ID"
    return f"Held for a person: {detail} ({study.reason}).", f"{release}."


def _only_some_state(name: str, instances: Sequence[Instance]) -> bool:
    return len({says_nothing(name, exact_text(one.header, name)) for one in instances}) > 1


_ABOUT_A_REPEATED_IMAGE = ("repeated_image_differs", "repeated_image_not_compared", "repeated_image_unreadable")
#: What a person has to choose beside the PatientID where the images disagree about it too.
_RELEASE_OPTIONS = {
    "issuer_of_patient_id": "--issuer ISSUER",
    "patient_birth_date": "--birth-date YYYYMMDD",
    "accession_number": "--accession-number NUMBER",
    Demographic.PATIENT_NAME: "--patient-name NAME",
    Demographic.PATIENT_SEX: "--sex SEX",
}


def _mend_texts(study_instance_uid: str, instances: Sequence[Instance]) -> str:
    faulty = [(one.calling_ae_title, fault) for one in instances for fault in inexact((one.header,))]
    if faulty and not any(fault.fault is Fault.UNDECODABLE for _, fault in faulty):
        keywords = ", ".join(sorted({fault.keyword for _, fault in faulty}))
        return (
            f"No character set mends this: mend {keywords} where it comes from and send the study again; "
            f"then: wetread release {study_instance_uid} --as PATIENT_ID."
        )
    titles = sorted({title for title, fault in faulty if title and fault.fault is Fault.UNDECODABLE})
    return (
        f"Name the character set that {' and '.join(titles) or 'the sender'} really writes, in node.yaml, for instance "
        f"listener.senders: [{{ae_title: {titles[0] if titles else 'SENDER'}, character_set: GB18030}}], with "
        "character_set_applies: always where its objects state a false one; then, without sending anything again: "
        f"wetread retry {study_instance_uid}"
    )


def _say_archive_differs(study: Study, holds: Sequence[Hold], *, show_patient_ids: bool) -> tuple[str, str]:
    uid = study.study_instance_uid
    values = ""
    differences = next((one.differences for one in holds if one.reason == study.reason), ())
    if show_patient_ids and differences:
        values = "; ".join(f"{one.keyword} is {one.ours} here and {one.theirs} there" for one in differences)
    shown = values or f"the values: wetread why {uid} --show-patient-ids"
    release = f"wetread release {uid} --as PATIENT_ID"
    return (
        f"Held for a person: {study.detail.rstrip('.')} ({shown}).",
        (
            "If the archive is right, have it send the study again; if it is wrong, correct it there. "
            f"Then, with the PatientID that is right: {release} (the archive is asked again before anything is sent)."
        ),
    )


def _mend_one_output(uid: str, reason: str) -> str:
    if reason == "accession_number_empty":
        return (
            "Mend AccessionNumber in the PACS and send the study again; where the copies then differ: "
            f"wetread release {uid} --as PATIENT_ID --accession-number NUMBER."
        )
    if reason == "text_unencodable":
        return f"Give this destination a charset in node.yaml that has the character; then: wetread retry {uid}"
    return (
        "No character set of a destination mends this: mend what is named here where it comes from and send the study "
        f"again, or where the draft is at fault have it read again: wetread retry {uid}"
    )


def _of_status(instances: Iterable[Instance], statuses: Sequence[InstanceStatus]) -> list[Instance]:
    return [one for one in instances if one.status in statuses]


def _patient_ranges(instances: Sequence[Instance], *, show_patient_ids: bool) -> str:
    labels: dict[str, str] = {}
    runs: list[tuple[int, int, str]] = []
    for number, one in enumerate(instances, start=1):
        patient_id = _shown_id(one)
        labels.setdefault(patient_id, chr(ord("A") + len(labels) % 26))
        if runs and runs[-1][2] == patient_id:
            runs[-1] = (runs[-1][0], number, patient_id)
        else:
            runs.append((number, number, patient_id))
    shown = runs[:_MOST_RUNS]
    parts = [
        f"{_image_range(first, last)} PatientID {patient_id if show_patient_ids else labels[patient_id]}"
        for first, last, patient_id in shown
    ]
    more = ", and so on" if len(runs) > _MOST_RUNS else ""
    return f"of its images, in the order of arrival, {', '.join(parts)}{more}"


def _shown_id(instance: Instance) -> str:
    text = exact_text(instance.header, "patient_id")
    return "(not readable)" if text is None else text or "(empty)"


_MOST_RUNS = 6


def _image_range(first: int, last: int) -> str:
    return f"image {first} carries" if first == last else f"images {first}-{last} carry"


def patient_ids(connection: Connection, study_instance_uid: str) -> tuple[str, ...]:
    """Return the PatientIDs of a study in the order of arrival, for the person who has to choose."""
    found: dict[str, PatientIdentity] = {}
    for one in store.instances(connection, study_instance_uid, statuses=list(InstanceStatus)):
        found.setdefault(one.header.identity.patient_id, one.header.identity)
    return tuple(found)


def _say_dead(study: Study, jobs: Sequence[JobFacts], settings: Settings) -> tuple[str, str]:
    dead = [one for one in jobs if one.state is JobState.DEAD]
    if not dead:
        return f"A step failed for good ({study.reason}).", f"wetread retry {study.study_instance_uid}"
    parts = [f"{_job_name(one)} failed after {_count(one.attempt, 'attempt')} with {_error(one)}" for one in dead]
    where = {_address(one.subject, settings) for one in dead if one.step in ("send", "prepare")}
    look = f"Look at {', '.join(sorted(where))}; then: " if where else "When its cause is mended: "
    if any(one.reason == _NOT_CONFIRMED for one in dead):
        look = "See that the archive answers and has the study; then: "
    return f"Given up: {'; '.join(parts)}.", f"{look}wetread retry {study.study_instance_uid}"


def _jobs(connection: Connection, study: Study) -> tuple[JobFacts, ...]:
    rows = connection.execute(
        select(*tables.job.c)
        .where(_job.study_instance_uid == study.study_instance_uid, _of_interest(study))
        .order_by(_job.id)
    )
    return tuple(_job_facts(row) for row in rows)


def _of_interest(study: Study) -> ColumnElement[bool]:
    # Jobs of an earlier generation matter only where they died or compare a repeated image.
    return ((_job.generation == study.generation) & (_job.state != JobState.SUPERSEDED)) | (
        _job.state.in_((JobState.DEAD, JobState.READY, JobState.RETRY, JobState.RUNNING))
    )


def _job_facts(row: Row[tuple[object, ...]]) -> JobFacts:
    return JobFacts(
        step=row.step,
        subject=row.subject,
        state=JobState(row.state),
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        owner=row.owner or "",
        run_after=row.run_after,
        failing_since=row.failing_since or 0.0,
        lease_until=row.lease_until or 0.0,
        reason=row.reason,
        detail=row.detail,
    )


def _outputs(connection: Connection, study: Study) -> tuple[OutputFacts, ...]:
    rows = connection.execute(
        select(
            _output.destination,
            _output.kind,
            _output.object_uid,
            _output.sha256,
            _output.first_sent_at,
            _output.delivered_at,
            _output.acknowledgement,
        )
        .where(_output.study_instance_uid == study.study_instance_uid, _output.generation == study.generation)
        .order_by(_output.id)
    )
    return tuple(
        OutputFacts(
            destination=row.destination,
            kind=row.kind,
            object_uid=row.object_uid,
            sha256=row.sha256,
            first_sent_at=row.first_sent_at,
            delivered_at=row.delivered_at,
            acknowledgement=row.acknowledgement or "",
        )
        for row in rows
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _seconds(value: float) -> str:
    whole = max(0, round(value))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
