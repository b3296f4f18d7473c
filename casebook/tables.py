"""The tables, for SQLite and PostgreSQL; rows never leave `store.py`, `queue.py` and `audit.py`.

Times are seconds since the epoch, UTC.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnClause,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
)
from sqlalchemy import String as DatabaseString
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DontWrapMixin

from casebook.case import JobState
from casebook.study import CompletionReason, InstanceStatus, StudyState

# Alembic needs stable constraint names to change them on either database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class TooLong(DontWrapMixin, ValueError):
    """A value is longer than its column."""


class String(TypeDecorator[str]):
    """A text of a largest length, in characters, on every database: SQLite itself would take any."""

    impl = DatabaseString
    cache_ok = True

    def __init__(self, longest: int) -> None:
        """Take how many characters it may have."""
        super().__init__(longest)
        self.longest = longest

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return what is written.

        Raises
        ------
        TooLong
            Says how long it may be; never the value.
        """
        _ = dialect
        if value is not None and len(value) > self.longest:
            raise TooLong(f"a text of {len(value)} characters for a column of {self.longest}")
        return value


# SQLite counts rows only in a column declared INTEGER.
_BIG = BigInteger().with_variant(Integer, "sqlite")
_UID = String(64)


def _one_of(column: str, values: type[StudyState] | type[InstanceStatus] | type[JobState]) -> CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=f"{column}_is_known")


study = Table(
    "study",
    metadata,
    Column("study_instance_uid", _UID, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("state", String(12), nullable=False),
    Column("reason", String(64), nullable=False, default=""),
    Column("detail", Text, nullable=False, default=""),
    Column("pipeline", String(64), nullable=False, default=""),
    Column("completion_reason", String(max(len(value) for value in CompletionReason))),
    Column("expected_instances", Integer),
    Column("instance_count", Integer, nullable=False, default=0),
    Column("calling_ae_title", String(16), nullable=False, default=""),
    Column("first_received_at", Float, nullable=False),
    Column("last_received_at", Float, nullable=False),
    Column("quiet_at", Float, nullable=False),
    # What `quiet_at` was reckoned with; absent in rows of an earlier schema.
    Column("quiet_period_s", Float),
    Column("changed_at", Float, nullable=False),
    _one_of("state", StudyState),
    Index(None, "state", "quiet_at"),
    # What an operator asks for: who has waited longest, and what happened in the last hour; likewise below.
    Index(None, "state", "changed_at"),
    Index(None, "last_received_at"),
)

instance = Table(
    "instance",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("study_instance_uid", _UID, ForeignKey("study.study_instance_uid"), nullable=False),
    Column("series_instance_uid", _UID, nullable=False),
    Column("sop_instance_uid", _UID, nullable=False),
    Column("sop_class_uid", _UID, nullable=False),
    Column("transfer_syntax_uid", _UID, nullable=False),
    Column("modality", String(16), nullable=False),
    Column("attributes", Text, nullable=False),
    Column("header", Text, nullable=False),
    Column("path", String(255), nullable=False, unique=True),
    Column("size_bytes", _BIG, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("status", String(12), nullable=False),
    Column("reason", String(64), nullable=False, default=""),
    Column("calling_ae_title", String(16), nullable=False),
    Column("peer_address", String(64), nullable=False, default=""),
    Column("received_at", Float, nullable=False),
    # The place in the order of acknowledgements: of two copies of one UID, the first counts. Zero where not known.
    Column("acknowledged_ns", _BIG, nullable=False, default=0, server_default="0"),
    _one_of("status", InstanceStatus),
    UniqueConstraint("sop_instance_uid", "study_instance_uid", "sha256"),
    Index(None, "study_instance_uid", "status"),
    Index(None, "received_at", "size_bytes"),
)

# What rejection notes took out of a study; kept apart from the instances, because a note may come before them.
rejection = Table(
    "rejection",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("study_instance_uid", _UID, ForeignKey("study.study_instance_uid"), nullable=False),
    Column("sop_instance_uid", _UID, nullable=False),
    Column("note_sop_instance_uid", _UID, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("received_at", Float, nullable=False),
    UniqueConstraint("study_instance_uid", "sop_instance_uid"),
)

# Earlier studies of the same patient, fetched for the reader of one study; they are no studies of their own here.
prior = Table(
    "prior",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("study_instance_uid", _UID, ForeignKey("study.study_instance_uid"), nullable=False),
    Column("prior_study_instance_uid", _UID, nullable=False),
    Column("study_date", String(8), nullable=False),
    Column("modality", String(16), nullable=False),
    Column("sop_instance_uid", _UID, nullable=False),
    Column("sop_class_uid", _UID, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("path", String(255), nullable=False),
    Column("report_text", Text, nullable=False, default=""),
    Column("fetched_at", Float, nullable=False),
    UniqueConstraint("study_instance_uid", "sop_instance_uid"),
)

# Why a person has to decide: one row for each reason, of the whole study or of one destination.
hold = Table(
    "hold",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("study_instance_uid", _UID, ForeignKey("study.study_instance_uid"), nullable=False),
    Column("generation", Integer, nullable=False),
    # Empty where nothing of the study may go on.
    Column("destination", String(64), nullable=False, default=""),
    Column("reason", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    # Patient data, for the person who asks for it; JSON, empty where the reason is no difference between two sides.
    Column("differences", Text, nullable=False, default=""),
    Column("held_at", Float, nullable=False),
    UniqueConstraint("study_instance_uid", "generation", "destination", "reason"),
)

reading = Table(
    "reading",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("study_instance_uid", _UID, ForeignKey("study.study_instance_uid"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("study_instance_uid", "generation"),
    UniqueConstraint("study_instance_uid", "revision"),
)

output = Table(
    "output",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("study_instance_uid", _UID, ForeignKey("study.study_instance_uid"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("destination", String(64), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("object_uid", _UID, nullable=False),
    Column("object_class", _UID, nullable=False),
    Column("frozen_at", Float, nullable=False),
    # Set before the first byte leaves, so that a successor knows whom it may have to replace.
    Column("first_sent_at", Float),
    Column("delivered_at", Float),
    Column("acknowledgement", String(64)),
    UniqueConstraint("study_instance_uid", "generation", "destination"),
    UniqueConstraint("destination", "object_uid"),
    Index(None, "object_uid"),
)

# Where results go, and how it stood with each when it was last tried. Claims of its jobs lock its row.
destination = Table(
    "destination",
    metadata,
    Column("name", String(64), primary_key=True),
    # "dicom" or "hl7".
    Column("kind", String(8), nullable=False),
    # Since when nothing could be sent to it; empty while it works.
    Column("failing_since", Float),
    # Before this moment nobody tries a failing destination.
    Column("next_try", Float, nullable=False, default=0.0, server_default="0"),
    # The one job that failed last while nobody knows yet whether another one fails too.
    Column("suspect_job_id", _BIG),
    Column("reason", String(64), nullable=False, default="", server_default=""),
    Column("detail", Text, nullable=False, default="", server_default=""),
    # What it accepted in its last association: JSON, SOP Class UID to transfer syntaxes. Empty where there was none.
    Column("negotiated", Text, nullable=False, default="", server_default=""),
    Column("negotiated_at", Float),
)

#: The words in which the queue asks for jobs that wait or run. A database uses a partial index only where the question
#: says these very words, and does not see them in a bound value.
IS_WAITING = "state IN ('ready', 'retry')"
IS_RUNNING = "state = 'running'"
HAS_LOCK = "lock <> ''"
HAS_NO_LOCK = "lock = ''"
MAY_BE_ON_WIRE = "on_wire_until IS NOT NULL"


def _partial_index(name: str, *columns: str, where: str) -> Index:
    condition: ColumnClause[bool] = literal_column(where)
    return Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


job = Table(
    "job",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("step", String(16), nullable=False),
    Column("idempotency_key", String(255), nullable=False, unique=True),
    Column("queue", String(32), nullable=False),
    Column("study_instance_uid", _UID, ForeignKey("study.study_instance_uid"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("subject", String(255), nullable=False, default=""),
    # Of jobs with one lock only some may run at one time: the destination of a send, empty for every other job.
    Column("lock", String(64), nullable=False, default="", server_default=""),
    Column("state", String(12), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("run_after", Float, nullable=False),
    Column("attempt", Integer, nullable=False, default=0),
    Column("max_attempts", Integer, nullable=False),
    Column("fence", _BIG, nullable=False, default=0),
    Column("owner", String(80)),
    Column("lease_until", Float),
    Column("reason", String(64), nullable=False, default=""),
    Column("detail", Text, nullable=False, default=""),
    # Since when it waits for somebody else who does not answer; empty where it does not.
    Column("failing_since", Float),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    _one_of("state", JobState),
    _partial_index("ix_job_waiting", "queue", "run_after", where=f"{IS_WAITING} AND {HAS_NO_LOCK}"),
    _partial_index("ix_job_waiting_for_lock", "lock", "id", where=f"{IS_WAITING} AND {HAS_LOCK}"),
    _partial_index("ix_job_holding_lock", "lock", where=f"{IS_RUNNING} AND {HAS_LOCK}"),
    Index(None, "state", "lease_until"),
    Index(None, "study_instance_uid", "generation"),
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("job_id", _BIG, ForeignKey("job.id"), nullable=False),
    Column("fence", _BIG, nullable=False),
    Column("owner", String(80), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("result", String(16), nullable=False, default=""),
    Column("reason", String(64), nullable=False, default=""),
    # Until then bytes of this attempt may still be on their way; empty before the first and after the last.
    Column("on_wire_until", Float),
    UniqueConstraint("job_id", "fence"),
    Index(None, "ended_at"),
    _partial_index("ix_attempt_on_wire", "on_wire_until", where=MAY_BE_ON_WIRE),
)

# Who runs, on every machine: a row per process, which it writes again while it lives.
presence = Table(
    "presence",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("role", String(16), nullable=False),
    Column("host", String(64), nullable=False),
    Column("pid_namespace", _BIG, nullable=False),
    Column("pid", Integer, nullable=False),
    # When the process was created; tells it from a later one with the same pid.
    Column("born_ticks", _BIG, nullable=False),
    Column("queue", String(32), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("progressed_at", Float, nullable=False),
    # No foreign key: a job may go while somebody still has it in hand.
    Column("job_id", _BIG),
    Column("facts", Text, nullable=False),
    UniqueConstraint("host", "pid_namespace", "pid"),
)

# One row: which machine this installation is, whatever the number of its nodes.
installation = Table(
    "installation",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("device_uid", _UID, nullable=False),
    CheckConstraint("id = 1", name="is_one"),
)

# Every DeviceUID under which this installation made results.
known_device = Table(
    "known_device",
    metadata,
    Column("device_uid", _UID, primary_key=True),
    Column("known_since", Float, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("actor", String(80), nullable=False),
    Column("action", String(64), nullable=False),
    Column("study_instance_uid", _UID, nullable=False, default=""),
    Column("detail", Text, nullable=False, default=""),
    Index(None, "study_instance_uid", "id"),
    Index(None, "action", "at"),
)
