"""One hospital, one seed: listeners, workers, sweepers and a person around the real store, queue and flow."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from casebook import decisions, intake, queue, store
from casebook.case import Case, Job
from casebook.errors import (
    IdentityConflict,
    InvalidObject,
    LostLease,
    PatientNotConfirmed,
    PeerUnavailable,
    WrongState,
)
from casebook.identity import contradictions
from casebook.leaps import Leaps
from casebook.outcomes import Classed, Cleared, Counted, Drafted, Held, Note, Outcome, Prepared, Refused
from casebook.runner import Runner, is_away
from casebook.settings import ArchiveSettings, QueueSettings, Settings
from casebook.simulation.ends import End
from casebook.simulation.patients import PLANTED_NAME, Image, Plan, plan_studies
from casebook.simulation.promises import Promises
from casebook.simulation.world import BrokenPromise, Crash, Process, SimulatedWiring, Steps, World
from casebook.study import Difference, ReceivedInstance, StudyState
from casebook.sweeper import sweep
from casebook.testing import a_pipeline, a_reading

#: Virtual seconds in which the studies of a seed begin, for each study.
_SECONDS_PER_STUDY = 12.0
#: Virtual seconds of faults after the last study began.
_AFTERMATH_S = 700.0
#: Virtual seconds after which a hospital without faults must have come to its end.
_CALM_S = 1800.0
#: Virtual seconds between two sweeps long after the last study came: only an outage is left to wait for.
_IDLE_SWEEP_INTERVAL_S = 60.0
_LIMITS = QueueSettings(
    lease_s=20.0,
    sweep_interval_s=5.0,
    max_attempts=4,
    hard_limit_s=300.0,
    backoff_first_s=2.0,
    backoff_cap_s=60.0,
    ask_again_s=15.0,
)
_ARCHIVE = ArchiveSettings(host="127.0.0.1", port=104, ae_title="ARCHIVE", max_questions=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one seed showed."""

    seed: int
    studies: int
    #: Virtual seconds.
    lasted_s: float
    steps: int
    deaths: int
    drafts_sent: int
    endings: dict[str, int]
    #: How often each fault happened.
    faults: dict[str, int]


def simulate(seed: int, studies: int, engine: Engine) -> Report:
    """Play one hospital on a fresh, migrated database.

    Raises
    ------
    BrokenPromise
        When one of the promises does not hold.
    """
    with quiet_logs():
        return Hospital(seed, studies, engine).play()


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Keep what the roles log to themselves."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


@dataclass(slots=True, kw_only=True)
class Listener:
    """What a listener holds in memory: objects whose rows are not written yet."""

    process: Process
    #: Seconds by which the clock of its host is wrong.
    skew_s: float
    waiting: list[ReceivedInstance] = field(default_factory=list)


class Hospital:
    """Everything of one seed."""

    def __init__(self, seed: int, studies: int, engine: Engine, *, is_rough: bool = True) -> None:
        """Draw the studies and put the roles in their places.

        Parameters
        ----------
        is_rough
            Whether processes die, messages are lost and databases go away.
        """
        self.seed = seed
        self.world = World(seed)
        self.world.is_calm = not is_rough
        self.engine = engine
        self.plans = {
            plan.study_instance_uid: plan
            for plan in plan_studies(self.world.random, studies, studies * _SECONDS_PER_STUDY)
        }
        self.ends = {name: End(name=name, world=self.world) for name in ("pacs", "ris")}
        self.promises = Promises(engine=engine, ends=self.ends)
        self.settings = Settings(queue=_LIMITS, archive=_ARCHIVE if seed % 2 else None)
        #: Durable files: path -> object.
        self.disk: dict[str, Image] = {}
        #: Place of each in the order of acknowledgements.
        self.places: dict[str, int] = {}
        #: Studies that the archive has moved to another patient.
        self.moved: set[str] = set()
        #: SOP Instance UIDs the archive has, by study.
        self.archived: dict[str, dict[str, Image]] = {uid: {} for uid in self.plans}
        self.reads: dict[str, int] = dict.fromkeys(self.plans, 0)
        #: Studies whose rejecting destinations a person has talked to.
        self.talked_about: set[str] = set()
        #: Draws which studies a person dismisses; apart, so that a seed without one stays the game it was.
        self.dismissals = Random(seed)  # noqa: S311 - seeded on purpose: a game is repeatable
        #: Draws by how much clocks are wrong, apart for the same reason.
        self.leaps = Random(seed)  # noqa: S311 - likewise
        self.expected_sends = 0
        self.workers = {
            name: [self._process(f"{name}-{number}", self._worker(name)) for number in range(count)]
            for name, count in (("gpu", 2), ("io", 4))
        }
        self.listeners = [self._listener(number) for number in range(2)]
        self.sweepers = [self._process(f"sweeper-{number}", self._sweeper) for number in range(2)]
        self.person = self._process("person", self._person)

    def play(self) -> Report:
        """Let the hospital run, with faults and then without, and check the promises."""
        world = self.world
        begun = world.now
        self.start()
        self._schedule_trouble(self._lasts_s)
        world.run(until=lambda: world.now >= begun + self._lasts_s)
        world.is_calm = True
        calm = world.now
        world.run(until=lambda: self._is_over or world.now >= calm + _CALM_S)
        endings = self.promises.hold_at_the_end(self.plans)
        return Report(
            seed=self.seed,
            studies=len(self.plans),
            lasted_s=world.now - begun,
            steps=world.steps,
            deaths=sum(process.deaths for process in self._processes()),
            drafts_sent=sum(len(end.contents) for end in self.ends.values()),
            endings=endings,
            faults=dict(sorted(self.world.faults.items())),
        )

    def start(self) -> None:
        """Start every process, and let the studies come."""
        for process in self._processes():
            process.start()
        for plan in self.plans.values():
            self.world.faults.update(plan.troubles)
            self._schedule(plan)

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until a condition holds, or nothing is left to do."""
        self.world.run(until=lambda: condition() or self._is_over)

    # ---- roles ---------------------------------------------------------------------------------------------

    @property
    def _lasts_s(self) -> float:
        return len(self.plans) * _SECONDS_PER_STUDY + _AFTERMATH_S

    @property
    def _is_over(self) -> bool:
        return self._seen_quiescent and not self.expected_sends and not any(one.waiting for one in self.listeners)

    _seen_quiescent = False

    def _processes(self) -> list[Process]:
        return [
            *(process for workers in self.workers.values() for process in workers),
            *(listener.process for listener in self.listeners),
            *self.sweepers,
            self.person,
        ]

    def _process(self, name: str, begin: Callable[[Process], Steps]) -> Process:
        return Process(name=name, world=self.world, begin=begin)

    def _wiring(self, owner: str) -> SimulatedWiring:
        return SimulatedWiring(
            settings=self.settings,
            engine=self.engine,
            pipelines=(a_pipeline(),),
            clock=self.world.database_clock,
            random=self.world.random,
            wake=self._wake,
            owner=owner,
            world=self.world,
        )

    def _wake(self, queue_name: str) -> None:
        # The bus: a message goes to one worker; some are lost, some come twice, and they overtake one another.
        world = self.world
        if world.happens("wake-up lost", world.odds.wake_up_lost):
            return
        for _ in range(2 if world.happens("wake-up repeated", world.odds.wake_up_repeated) else 1):
            world.after(world.random.uniform(0.01, world.odds.wake_up_s), lambda: self._deliver_wake_up(queue_name))

    def _deliver_wake_up(self, queue_name: str) -> None:
        # A worker that is busy takes no message.
        workers = self.workers[queue_name]
        self.world.random.choice([one for one in workers if one.is_idle] or workers).poke()

    def _sweeper(self, process: Process) -> Steps:
        wiring = self._wiring(process.name)
        clock_leaps = Leaps(clock=wiring.clock, passed_s=lambda: self.world.now)
        is_first = True
        begun = self.world.now
        yield self.world.random.uniform(0.0, _LIMITS.sweep_interval_s)
        while True:
            try:
                sweep(wiring, clock_leaps)
            except DBAPIError as error:
                if not is_away(error):
                    raise BrokenPromise("a sweep broke off") from error
            self.promises.hold_now()
            # A sweeper that just began cannot know of a leap of the clock before.
            self.promises.nothing_was_completed_early(self.world.now, self.talked_about, is_excused=is_first)
            is_first = False
            if self.world.is_calm:
                self._seen_quiescent = self.promises.is_quiescent()
            yield _LIMITS.sweep_interval_s if self.world.now < begun + 2 * self._lasts_s else _IDLE_SWEEP_INTERVAL_S

    def _person(self, process: Process) -> Steps:
        wiring = self._wiring(process.name)
        while True:
            yield self.world.random.uniform(20.0, 60.0)
            if self.world.is_calm:
                return
            try:
                with wiring.read() as connection:
                    waiting = store.studies(connection, states=(StudyState.DEAD, StudyState.HELD))
                waiting = [one for one in waiting if self.plans[one.study_instance_uid].has_a_friend]
                if waiting:
                    self._decide(wiring, self.world.random.choice(waiting).study_instance_uid)
            except DBAPIError:
                continue

    def _decide(self, wiring: SimulatedWiring, study_instance_uid: str) -> None:
        self.talked_about.add(study_instance_uid)
        if self.dismissals.random() < 0.1:
            self._dismiss(wiring, study_instance_uid)
            return
        patient_id = f"P-{study_instance_uid}" + self.world.random.choice(("", "", "-other"))
        with wiring.write() as connection:
            now = wiring.clock.now(connection)
            if store.get_study(connection, study_instance_uid).state is StudyState.DEAD:
                decisions.retry_dead(connection, study_instance_uid, now=now, actor="person")
                return
        try:
            with wiring.write() as connection:
                now = wiring.clock.now(connection)
                decisions.release(connection, study_instance_uid, patient_id=patient_id, now=now, actor="person")
        except IdentityConflict:
            return

    def _dismiss(self, wiring: SimulatedWiring, study_instance_uid: str) -> None:
        try:
            with wiring.write() as connection:
                now = wiring.clock.now(connection)
                decisions.dismiss(connection, study_instance_uid, reason="Nobody can mend it.", now=now, actor="person")
        except WrongState:
            return
        self.world.faults["study dismissed"] += 1

    def _schedule_trouble(self, lasts_s: float) -> None:
        world = self.world
        for end in self.ends.values():
            for _ in range(3):
                seconds = world.random.choice((5.0, 40.0, 150.0))
                world.after(world.random.uniform(0.0, lasts_s), lambda end=end, s=seconds: end.goes_down(s))  # type: ignore[misc]
            seconds = world.random.choice((100.0, 600.0))
            world.after(world.random.uniform(0.0, lasts_s), lambda end=end, s=seconds: end.goes_silent(s))  # type: ignore[misc]
        for _ in range(3):
            seconds = world.random.uniform(1.0, 30.0)
            world.after(world.random.uniform(0.0, lasts_s), lambda s=seconds: world.database_goes_away(s))  # type: ignore[misc]
        for _ in range(4):
            seconds = self.leaps.choice((-86_400.0, -3600.0, -60.0, 60.0, 3600.0, 86_400.0))
            world.after(self.leaps.uniform(0.0, lasts_s), lambda s=seconds: world.clock_leaps(s))  # type: ignore[misc]
        mortal = [process for process in self._processes() if process is not self.person]
        for _ in range(len(self.plans) // 3):
            process = world.random.choice(mortal)
            seconds = world.random.choice((0.0, 0.0, 5.0, 45.0, 90.0))
            world.after(world.random.uniform(0.0, lasts_s), lambda p=process, s=seconds: self._hurt(p, s))  # type: ignore[misc]

    def _hurt(self, process: Process, seconds: float) -> None:
        if not process.is_alive:
            return
        if seconds:
            process.stand_still(seconds)
        else:
            self.world.faults["killed at any moment"] += 1
            process.die()

    # ---- receiving -----------------------------------------------------------------------------------------

    def _schedule(self, plan: Plan) -> None:
        for number, (delay_s, image) in enumerate(plan.sends):
            self.expected_sends += 1
            is_first = number < plan.first_images
            self.world.after(plan.begins_at_s + (0.0 if is_first else delay_s), lambda i=image: self._archive(i))  # type: ignore[misc]
            self.world.after(plan.begins_at_s + delay_s, lambda i=image: self._send(i))  # type: ignore[misc]
        if plan.moved_after_s is not None:
            uid = plan.study_instance_uid
            self.world.after(plan.begins_at_s + plan.moved_after_s, lambda: self._move_patient(uid))

    def _move_patient(self, study_instance_uid: str) -> None:
        self.world.faults["patient moved in the archive"] += 1
        self.moved.add(study_instance_uid)

    def _archive(self, image: Image) -> None:
        self.archived[image.study_instance_uid].setdefault(image.sop_instance_uid, image)

    def _listener(self, number: int) -> Listener:
        listener: Listener

        def begin(process: Process) -> Steps:
            # Start-up: whatever is durable and has no row is indexed now.
            listener.waiting.clear()
            wiring = self._wiring(process.name)
            while True:
                try:
                    with wiring.read() as connection:
                        known = store.known_paths(connection)
                    break
                except DBAPIError:
                    yield 1.0
            listener.waiting += [
                image.received(path=path, at=self.world.now + listener.skew_s, place=self.places[path])
                for path, image in self.disk.items()
                if path.startswith(f"{process.name}/") and path not in known
            ]
            yield from self._index(listener, wiring)

        listener = Listener(
            process=self._process(f"listener-{number}", begin),
            skew_s=self.leaps.choice((-60.0, -30.0, 0.0, 30.0, 60.0)),
        )
        return listener

    def _index(self, listener: Listener, wiring: SimulatedWiring) -> Steps:
        while True:
            if not listener.waiting:
                yield None
                yield 0.1
                continue
            batch = list(listener.waiting)
            try:
                with wiring.write() as connection:
                    own = store.is_issued(connection, {one.sop_instance_uid for one in batch})
                    intake.record_instances(
                        connection, [_marked(one, own) for one in batch], wiring.clock.now(connection)
                    )
            except DBAPIError as error:
                if not is_away(error):
                    raise BrokenPromise("a batch of received objects has no rows") from error
                yield 1.0
                continue
            self.promises.rows_written(batch, self.world.now)
            del listener.waiting[: len(batch)]

    def _send(self, image: Image) -> None:
        """Send an object to a listener, again and again until it answers 0x0000."""
        world = self.world
        listener = world.random.choice(self.listeners)
        if not listener.process.is_alive or listener.process.is_stopped or world.is_database_away:
            world.after(5.0, lambda: self._send(image))
            return
        path = f"{listener.process.name}/{len(self.disk) + 1}.dcm"
        self._keep(path, image)
        if world.happens("listener died before its answer", 0.01):
            # Durable, without a row and without an answer: the modality sends it again.
            listener.process.die()
            world.after(5.0, lambda: self._send(image))
            return
        self.promises.acknowledged.append(image)
        listener.waiting.append(image.received(path=path, at=world.now, place=self.places[path]))
        self.expected_sends -= 1
        if world.happens("listener died between file and row", 0.01):
            listener.process.die()  # acknowledged, durable, without a row
            return
        # A line that is handed on late: another listener records what it acknowledged later.
        world.after(
            world.random.uniform(0.0, 20.0) if world.happens("row written late", 0.3) else 0.0, listener.process.poke
        )

    def _keep(self, path: str, image: Image) -> None:
        self.disk[path] = image
        self.places[path] = len(self.places) + 1

    # ---- work ----------------------------------------------------------------------------------------------

    def _worker(self, queue_name: str) -> Callable[[Process], Steps]:
        def begin(process: Process) -> Steps:
            runner = Runner(self._wiring(process.name), {})
            while True:
                try:
                    job = runner.claim(queue_name)
                except DBAPIError:
                    job = None
                if job is None:
                    yield None
                    continue
                yield from self._do(process, runner, job)
                process.job = None

        return begin

    def _do(self, process: Process, runner: Runner, job: Job) -> Steps:
        # What `Runner.run_one` does, with time passing between its transactions.
        world = self.world
        process.job = job
        if not world.happens("lease never renewed", world.odds.deaf):
            world.after(_LIMITS.lease_s / 3, lambda: self._beat(process, job))
        yield world.random.uniform(0.0, 0.3)
        try:
            case = runner.load(job)
            outcomes: list[Outcome] = []
            cleared = self._ask_whose_it_is(case)
            if isinstance(cleared, Held):
                outcomes.append(cleared)
            else:
                if job.step == "send":
                    self.promises.patient_is_not_contradicted(case, self.moved)
                runner.begin(job, cleared)
                if job.step == "send":
                    self.promises.send_begins(case)
                yield from self._body(job.step)(case, outcomes)
            yield world.random.uniform(0.0, 0.3)
            yield from self._commit(runner, job, outcomes[0])
        except LostLease:
            self._is_fenced_off(runner, job)
        except Exception as error:  # noqa: BLE001 - as the runner does
            yield world.random.uniform(0.0, 0.1)
            try:
                runner.fail(job, error)
            except LostLease:
                self._is_fenced_off(runner, job)
            except DBAPIError:
                return  # The lease expires.
        else:
            try:
                runner.wake_next()
            except DBAPIError:
                return

    def _is_fenced_off(self, runner: Runner, job: Job) -> None:
        self.world.faults["late commit fenced off"] += 1
        runner.leave_wire(job)

    def _ask_whose_it_is(self, case: Case) -> Cleared | Held:
        # What the gate of the node does, against an archive that may be silent.
        if case.job.step not in ("prepare", "send") or (case.output and case.output.first_sent_at is not None):
            return Cleared()
        uid = case.job.study_instance_uid
        if self.world.happens("archive did not say whose it is", 0.1):
            if self.plans[uid].is_check_required:
                raise PatientNotConfirmed
            if uid not in self.moved:
                return Cleared(notes=(Note(action="archive_did_not_answer", detail="The archive does not answer."),))
        if uid in self.moved:
            return Held(
                reason="archive_names_another_patient",
                detail="The archive and the images disagree about PatientID.",
                differences=(Difference(keyword="PatientID", ours=PLANTED_NAME, theirs=PLANTED_NAME),),
            )
        return Cleared()

    def _commit(self, runner: Runner, job: Job, outcome: Outcome) -> Steps:
        deadline = self.world.now + _LIMITS.lease_s
        while True:
            try:
                runner.commit(job, outcome)
            except DBAPIError as error:
                if not is_away(error):
                    raise BrokenPromise(f"the outcome of {job.step} could not be written") from error
                if self.world.now > deadline:
                    raise
                yield 1.0
            else:
                return

    def _beat(self, process: Process, job: Job) -> None:
        if process.job is not job:
            return
        self.world.after(_LIMITS.lease_s / 3, lambda: self._beat(process, job))
        if process.is_stopped:
            return
        try:
            with self._wiring(process.name).write() as connection:
                queue.renew(connection, job, lease_until=self.world.database_clock.now() + _LIMITS.lease_s)
        except (LostLease, DBAPIError):
            return
        except Crash:
            process.die()

    def _body(self, step: str) -> Callable[[Case, list[Outcome]], Steps]:
        return {
            "read": self._read,
            "prepare": self._prepare,
            "send": self._send_output,
            "classify": self._classify,
            "count": self._count,
        }[step]

    def _read(self, case: Case, outcomes: list[Outcome]) -> Steps:
        plan = self.plans[case.study.study_instance_uid]
        yield plan.read_takes_s
        attempt = self.reads[plan.study_instance_uid] = self.reads[plan.study_instance_uid] + 1
        if not self.world.is_calm and attempt <= plan.deadly_reads:
            self.world.faults["model killed its worker"] += 1
            raise Crash
        if attempt <= plan.failing_reads:
            self.world.faults["model failed"] += 1
            raise ValueError(f"tag (0010,0010) {PLANTED_NAME} is broken")
        if plan.is_refused:
            outcomes.append(Refused(reason="not_a_chest", detail="The picture does not show a chest."))
            return
        outcomes.append(
            Drafted(
                reading=a_reading(
                    plan.study_instance_uid,
                    case.job.generation,
                    images=[one.sop_instance_uid for one in case.instances],
                    created_at=self.world.now,  # another attempt is another reading: only one may live
                )
            )
        )

    def _prepare(self, case: Case, outcomes: list[Outcome]) -> Steps:
        yield self.world.random.uniform(0.05, 0.5)
        reading = case.reading
        if reading is None:
            raise BrokenPromise(f"{case.job.study_instance_uid}: prepared without a reading")
        if contradictions([one.header for one in case.instances]):
            raise IdentityConflict
        key = f"{reading.sha256}{case.job.subject}"
        outcomes.append(
            Prepared(
                kind="sr" if case.job.subject == "pacs" else "oru",
                content=f"{reading.sha256}|{case.revision}|{case.predecessor_uid}".encode(),
                object_uid=f"2.25.{int(hashlib.sha256(key.encode()).hexdigest()[:24], 16)}",
                object_class="1.2.840.10008.5.1.4.1.1.88.22",
            )
        )

    def _send_output(self, case: Case, outcomes: list[Outcome]) -> Steps:
        plan = self.plans[case.job.study_instance_uid]
        is_rejected = case.job.subject in plan.rejected_by and plan.study_instance_uid not in self.talked_about
        end = self.ends[case.job.subject]
        yield from end.take(case, is_rejected=is_rejected, answers=outcomes)
        if case.output is not None and end.name == "pacs" and self.world.happens("own result came back", 0.1):
            # Auto-forwarded back to us: must start nothing.
            self.expected_sends += 1
            own = Image(
                study_instance_uid=plan.study_instance_uid,
                sop_instance_uid=case.output.object_uid,
                patient_id=f"P-{plan.study_instance_uid}",
                pixels="",
                modality="SR",
            )
            self.world.after(2.0, lambda: self._send(own))

    def _classify(self, case: Case, outcomes: list[Outcome]) -> Steps:
        yield self.world.random.uniform(0.1, 30.0)
        if case.repeated is None or not case.instances:
            raise BrokenPromise(f"{case.job.study_instance_uid}: nothing to compare")
        repeated, first = self.disk[case.repeated.path], self.disk[case.instances[0].path]
        if repeated.is_incomparable:
            raise InvalidObject
        if self.world.happens("comparison failed", 0.2):
            raise OSError(f"/data/{PLANTED_NAME}.dcm")
        is_variant = (repeated.patient_id, repeated.pixels) == (first.patient_id, first.pixels)
        outcomes.append(Classed(is_variant=is_variant, reason="" if is_variant else "identity_or_pixels_differ"))

    def _count(self, case: Case, outcomes: list[Outcome]) -> Steps:
        yield self.world.random.uniform(0.1, 2.0)
        if self.world.happens("archive did not count", 0.15):
            raise PeerUnavailable
        archived = self.archived[case.job.study_instance_uid]
        missing = set(archived) - {one.sop_instance_uid for one in case.instances}
        pulled: Sequence[ReceivedInstance] = ()
        if missing and self.world.happens("missing images fetched", 0.5):
            pulled = [self._pull(archived[uid]) for uid in sorted(missing)]
        outcomes.append(Counted(expected=len(archived), pulled=tuple(pulled)))

    def _pull(self, image: Image) -> ReceivedInstance:
        path = f"pulled/{len(self.disk) + 1}.dcm"
        self._keep(path, image)
        return image.received(path=path, at=self.world.now, place=self.places[path])


def _marked(one: ReceivedInstance, own: set[str]) -> ReceivedInstance:
    return one if one.sop_instance_uid not in own else _own(one)


def _own(one: ReceivedInstance) -> ReceivedInstance:
    values = {name: getattr(one, name) for name in one.__dataclass_fields__}
    return ReceivedInstance(**{**values, "is_own": True})
