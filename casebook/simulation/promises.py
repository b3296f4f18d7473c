"""The promises of Wetread, checked while a hospital runs and once more at its end."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, func, select

from casebook import database, generations, leaps, store, tables
from casebook.case import Case, JobState
from casebook.simulation.ends import End
from casebook.simulation.patients import PLANTED_NAME, QUIET_PERIOD_S, Image
from casebook.simulation.world import BrokenPromise
from casebook.study import CompletionReason, InstanceStatus, ReceivedInstance, StudyState

#: Reasons that last for hours, and of which nothing dies.
_ENDS_BY_ITSELF = ("peer_unavailable", "patient_not_confirmed", "not_compared")
_LIVE = (JobState.READY, JobState.RETRY, JobState.RUNNING)
_OUTCOMES = (
    StudyState.DELIVERED,
    StudyState.REFUSED,
    StudyState.UNMATCHED,
    StudyState.HELD,
    StudyState.DEAD,
    StudyState.CLOSED,
)
_job = tables.job.c
_study = tables.study.c
_output = tables.output.c


# Built once: they are asked after every sweep.
_UNLEASED = (
    select(_job.id)
    .where((_job.state == JobState.RUNNING) != (_job.lease_until.is_not(None) & _job.owner.is_not(None)))
    .limit(1)
)
_OUTLIVED = (
    select(_job.id, _job.study_instance_uid)
    .join(tables.study, _study.study_instance_uid == _job.study_instance_uid)
    .where(
        _job.state.in_(_LIVE),
        _job.step.in_(generations.GENERATION_STEPS),
        (_job.generation != _study.generation) | _study.state.in_((StudyState.HELD, StudyState.CLOSED)),
    )
    .limit(1)
)


_QUIET = select(_study.study_instance_uid, _study.generation).where(_study.completion_reason == CompletionReason.QUIET)


@dataclass(slots=True, kw_only=True)
class Promises:
    """Watches one hospital."""

    engine: Engine
    ends: dict[str, End]
    #: Every object that was answered 0x0000.
    acknowledged: list[Image] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)
    #: Study -> when it had another image, by the time that passed.
    _last_row_at: dict[str, float] = field(default_factory=dict)
    _completed: set[tuple[str, int]] = field(default_factory=set)
    #: (study, destination) -> generation of the newest send that began.
    _newest_send: dict[tuple[str, str], int] = field(default_factory=dict)

    def rows_written(self, batch: Iterable[ReceivedInstance], now: float) -> None:
        """Note that rows were written, and which studies had another image by it."""
        uids = {one.study_instance_uid for one in batch}
        with database.read(self.engine) as connection:
            counts = {uid: store.get_study(connection, uid).instance_count for uid in uids}
        for uid, count in counts.items():
            if count != self._counts.get(uid):
                self._last_row_at[uid] = now
                self._counts[uid] = count

    def nothing_was_completed_early(self, now: float, decided: Collection[str], *, is_excused: bool) -> None:
        """Check that every study that counts as quiet was so, by the time that passed and not by any clock.

        Parameters
        ----------
        decided
            Studies about which a person said something, who may end a quiet period.
        is_excused
            Whether what is new is only taken note of.
        """
        with database.read(self.engine) as connection:
            rows = connection.execute(_QUIET).all()
        for row in rows:
            if (row.study_instance_uid, row.generation) in self._completed:
                continue
            self._completed.add((row.study_instance_uid, row.generation))
            quiet_s = now - self._last_row_at.get(row.study_instance_uid, 0.0)
            if quiet_s < QUIET_PERIOD_S - leaps.SLACK_S and row.study_instance_uid not in decided and not is_excused:
                raise BrokenPromise(f"{row.study_instance_uid}: complete after {quiet_s:.1f} quiet seconds")

    def send_begins(self, case: Case) -> None:
        """Look at a send whose first byte is about to leave."""
        job = case.job
        where = f"{job.study_instance_uid} generation {job.generation} to {job.subject}"
        newest = self._newest_send.get((job.study_instance_uid, job.subject), 0)
        if job.generation < newest:
            raise BrokenPromise(f"{where}: a superseded generation starts a send after generation {newest}")
        with database.read(self.engine) as connection:
            study = store.get_study(connection, job.study_instance_uid)
            before = store.predecessor(connection, job.study_instance_uid, job.generation, job.subject)
        if study.state in (StudyState.HELD, StudyState.CLOSED):
            raise BrokenPromise(f"{where}: something is sent for a study that is {study.state}")
        if study.generation != job.generation:
            raise BrokenPromise(f"{where}: something is sent for another generation than {study.generation}")
        if case.output is None:
            raise BrokenPromise(f"{where}: a send without frozen bytes")
        named = case.output.content.decode().split("|")[2]
        expected = before.object_uid if before else ""
        if named != expected:
            raise BrokenPromise(f"{where}: names {named or 'no'} predecessor, not {expected or 'none'}")
        if newest and newest < job.generation and not named:
            raise BrokenPromise(f"{where}: names no predecessor although generation {newest} was sent")
        self._newest_send[job.study_instance_uid, job.subject] = job.generation

    def patient_is_not_contradicted(self, case: Case, moved: Collection[str]) -> None:
        """Look at an output that was cleared to leave for the first time."""
        if case.output is None or case.output.first_sent_at is not None:
            return
        if case.job.study_instance_uid in moved:
            raise BrokenPromise(
                f"{case.job.study_instance_uid}: something leaves for a patient the archive contradicts"
            )

    def hold_now(self) -> None:
        """Check what has to hold at every moment."""
        with database.read(self.engine) as connection:
            self._leases(connection)

    def _leases(self, connection: Connection) -> None:
        lost = connection.execute(_UNLEASED).first()
        if lost is not None:
            raise BrokenPromise(f"job {lost.id}: running and leased are not the same")
        old = connection.execute(_OUTLIVED).first()
        if old is not None:
            raise BrokenPromise(f"job {old.id} of {old.study_instance_uid} lives on after its generation or in a hold")

    def is_quiescent(self) -> bool:
        """Say whether nothing is left to do."""
        with database.read(self.engine) as connection:
            live = connection.execute(select(_job.id).where(_job.state.in_(_LIVE)).limit(1)).first()
            open_study = connection.execute(
                select(_study.study_instance_uid).where(_study.state.not_in(_OUTCOMES)).limit(1)
            ).first()
        return live is None and open_study is None

    def what_is_stuck(self) -> str:
        """Name what keeps a hospital from coming to its end."""
        with database.read(self.engine) as connection:
            jobs = connection.execute(
                select(_job.step, _job.state, _job.study_instance_uid).where(_job.state.in_(_LIVE)).limit(3)
            ).all()
            studies = connection.execute(
                select(_study.study_instance_uid, _study.state, _study.reason)
                .where(_study.state.not_in(_OUTCOMES))
                .limit(3)
            ).all()
        return f"jobs {[tuple(one) for one in jobs]}, studies {[tuple(one) for one in studies]}"

    def hold_at_the_end(self, planned: Iterable[str]) -> dict[str, int]:
        """Check what has to hold when everything has come to its end; return how many studies ended how."""
        self.hold_now()
        if not self.is_quiescent():
            raise BrokenPromise(f"stuck: {self.what_is_stuck()}")
        with database.read(self.engine) as connection:
            self._nothing_is_lost(connection)
            self._first_copies_stand(connection)
            self._no_patient_data(connection)
            endings: dict[str, int] = {}
            for study_instance_uid in planned:
                state = self._one_outcome(connection, study_instance_uid)
                endings[str(state)] = endings.get(str(state), 0) + 1
        return dict(sorted(endings.items()))

    def _nothing_is_lost(self, connection: Connection) -> None:
        columns = tables.instance.c
        known = {
            (row.study_instance_uid, row.sop_instance_uid, row.sha256)
            for row in connection.execute(select(columns.study_instance_uid, columns.sop_instance_uid, columns.sha256))
        }
        for image in self.acknowledged:
            if (image.study_instance_uid, image.sop_instance_uid, image.sha256) not in known:
                raise BrokenPromise(f"{image.sop_instance_uid} was acknowledged and is lost")

    def _first_copies_stand(self, connection: Connection) -> None:
        later = tables.instance.alias("later")
        first = tables.instance.alias("first")
        found = connection.execute(
            select(later.c.path)
            .join(
                first,
                (first.c.study_instance_uid == later.c.study_instance_uid)
                & (first.c.sop_instance_uid == later.c.sop_instance_uid),
            )
            .where(
                later.c.status == InstanceStatus.CURRENT,
                first.c.status.in_((InstanceStatus.UNCLASSED, InstanceStatus.VARIANT)),
                first.c.acknowledged_ns < later.c.acknowledged_ns,
            )
            .limit(1)
        ).first()
        if found is not None:
            raise BrokenPromise(f"{found.path} stands for its UID, and another copy was acknowledged first")

    def _no_patient_data(self, connection: Connection) -> None:
        for table, column in (
            ("job", "detail"),
            ("job", "reason"),
            ("study", "detail"),
            ("audit", "detail"),
            ("hold", "detail"),
        ):
            texts = tables.metadata.tables[table].c[column]
            if connection.execute(select(func.count()).where(texts.contains(PLANTED_NAME))).scalar_one():
                raise BrokenPromise(f"{table}.{column} carries a patient's name")

    def _one_outcome(self, connection: Connection, study_instance_uid: str) -> StudyState:
        study = store.get_study(connection, study_instance_uid)
        if (
            study.state in (StudyState.REFUSED, StudyState.UNMATCHED, StudyState.HELD, StudyState.CLOSED)
            and not study.reason
        ):
            raise BrokenPromise(f"{study_instance_uid}: {study.state} without a reason")
        dead = connection.execute(
            select(_job.reason).where(_job.study_instance_uid == study_instance_uid, _job.state == JobState.DEAD)
        ).all()
        if study.state is StudyState.DEAD and not all(row.reason for row in dead):
            raise BrokenPromise(f"{study_instance_uid}: dead without a reason")
        if any(row.reason in _ENDS_BY_ITSELF for row in dead):
            raise BrokenPromise(f"{study_instance_uid}: dead because somebody did not answer")
        if (study.state is StudyState.DEAD) != bool(dead) and study.state is not StudyState.HELD:
            raise BrokenPromise(f"{study_instance_uid}: {study.state} with {len(dead)} dead jobs")
        if study.state is StudyState.DELIVERED:
            self._is_delivered(connection, study_instance_uid, study.generation)
        return study.state

    def _is_delivered(self, connection: Connection, study_instance_uid: str, generation: int) -> None:
        where = f"{study_instance_uid} generation {generation}"
        found = store.get_reading(connection, study_instance_uid, generation)
        if found is None:
            raise BrokenPromise(f"{where}: delivered without a reading")
        read = {one.sop_instance_uid for one in found[0].images}
        current = {one.sop_instance_uid for one in store.instances(connection, study_instance_uid)}
        if read != current:
            raise BrokenPromise(f"{where}: the draft was not made from the images of the study")
        if store.instances(connection, study_instance_uid, statuses=(InstanceStatus.UNCLASSED,)):
            raise BrokenPromise(f"{where}: delivered while a repeated image is not compared")
        for end in self.ends.values():
            output = store.get_output(connection, study_instance_uid, generation, end.name)
            if output is None or end.contents.get(output.object_uid) != output.content:
                raise BrokenPromise(f"{where}: {end.name} does not hold what was frozen for it")
