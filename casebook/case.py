"""What a step is given: its job and everything of the study that the job may look at."""

from dataclasses import dataclass
from enum import StrEnum

from casebook.pipelines import Pipeline
from casebook.reading import Reading
from casebook.study import Instance, Prior, Study


class JobState(StrEnum):
    """Where a job stands in the queue of record."""

    #: Waits for a worker.
    READY = "ready"
    #: A worker holds its lease.
    RUNNING = "running"
    #: Waits for its next attempt.
    RETRY = "retry"
    #: Finished; its result is committed.
    DONE = "done"
    #: Failed for good or too often; only a person retries it.
    DEAD = "dead"
    #: A newer generation or a hold made it pointless.
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A claimed job; every later write carries its fence."""

    id: int
    #: Name of its step in `flow.STEPS`.
    step: str
    queue: str
    study_instance_uid: str
    generation: int
    #: Destination of a prepare or send job, path of the repeated object of a classify job, number of a count job.
    subject: str
    attempt: int
    max_attempts: int
    fence: int
    #: Destination of a send, of which only some may run at one time; empty for every other job.
    lock: str = ""
    #: Since when it waits for somebody else who does not answer, in seconds since the epoch; None where it does not.
    failing_since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenOutput:
    """The exact bytes of one output, as they are sent however often."""

    #: "sr" or "oru".
    kind: str
    content: bytes
    sha256: str
    object_uid: str
    object_class: str
    #: Seconds since the epoch; None while not a byte of it has left.
    first_sent_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One job with what belongs to it, read in one transaction."""

    job: Job
    study: Study
    #: Current instances, in the order of their arrival.
    instances: tuple[Instance, ...]
    pipeline: Pipeline | None = None
    reading: Reading | None = None
    #: Counts the drafts of the study, from 1.
    revision: int = 0
    #: SOP Instance UID of the last output that may have reached this destination; empty for the first.
    predecessor_uid: str = ""
    #: Its SOP Class UID.
    predecessor_class: str = ""
    #: Its exact bytes.
    predecessor_content: bytes = b""
    output: FrozenOutput | None = None
    #: UIDs of our own results for this study: the archive may hold them, they are no images.
    issued_uids: tuple[str, ...] = ()
    #: Of a count job: UIDs of stored objects that count no longer (rejected, left out, copies): they are not missing.
    #: Of a read job: those of which no copy is read, because a person or a rejection note left them out.
    set_aside_uids: tuple[str, ...] = ()
    #: Of a read job: earlier studies of the patient, newest first; for comparison, never evidence of this study.
    priors: tuple[Prior, ...] = ()
    #: Of a prepare job: DeviceUID of this installation.
    device_uid: str = ""
    #: Of a count job: every DeviceUID under which this installation made results.
    own_device_uids: frozenset[str] = frozenset()
    #: Of a classify job: the repeated object; the first copy is among `instances`.
    repeated: Instance | None = None
