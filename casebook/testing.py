"""Fakes beside the real things, for the tests of every package: a frozen clock, a recording waker, builders, databases.

Nothing here replaces the store, the queue or the flow: those are always the real ones, on a real database.
"""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from casebook import database
from casebook.clock import Clock
from casebook.pipelines import Pipeline
from casebook.reading import (
    CheckAnswer,
    InstanceReference,
    Provenance,
    Reading,
    Section,
    SectionKind,
)
from casebook.settings import Settings, environment
from casebook.study import CompletionReason, PatientIdentity, ReceivedInstance, StudyHeader
from casebook.wiring import Wiring, settle_device

#: 2026-01-05 08:00:00 UTC: where every frozen clock starts.
MORNING = 1_767_600_000.0
#: Digital X-Ray Image Storage - For Presentation (PS3.4 B.5).
DX_SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.1.1"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
POSTGRESQL_VARIABLE = "WETREAD_TEST_POSTGRESQL_URL"
_POSTGRESQL_URL = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
#: A folder in memory, where Linux has one: a durable commit costs nothing there.
_MEMORY = Path("/dev/shm")  # noqa: S108 - only a faster parent for a private temporary directory


class FrozenClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, at: float = MORNING) -> None:
        """Take the first time, in seconds since the epoch, UTC."""
        self.at = at

    def now(self, connection: Connection | None = None) -> float:
        """Return seconds since the epoch, UTC."""
        _ = connection
        return self.at

    def advance(self, seconds: float) -> None:
        """Go on by some seconds."""
        self.at += seconds


@dataclass(slots=True)
class RecordingWaker:
    """Remembers which queues were woken, in order."""

    woken: list[str] = field(default_factory=list)

    def __call__(self, queue: str) -> None:
        """Wake the workers of a queue."""
        self.woken.append(queue)


# ---- builders ----------------------------------------------------------------------------------------------


def a_header(patient_id: str = "P-1", **values: str) -> StudyHeader:
    """Return a header; identity attributes and others are given by keyword."""
    inside = {name: values.pop(name) for name in list(values) if name in PatientIdentity.__dataclass_fields__}
    return StudyHeader(identity=PatientIdentity(patient_id=patient_id, **inside), **values)  # type: ignore[arg-type]


def a_received_instance(
    number: int = 1,
    *,
    study: str = "1.2.3",
    content: bytes | None = None,
    patient_id: str = "P-1",
    received_at: float = MORNING,
    quiet_period_s: float = 30.0,
    modality: str = "DX",
    is_own: bool = False,
    sop_instance_uid: str | None = None,
    path: str | None = None,
    header: StudyHeader | None = None,
    calling_ae_title: str = "MODALITY",
    acknowledged_ns: int = 0,
) -> ReceivedInstance:
    """Return one durable object: the `number`-th image of a study.

    Parameters
    ----------
    content
        The bytes of the data set; other bytes under one number are a repeated object that differs.
    """
    uid = sop_instance_uid or f"{study}.1.{number}"
    sha256 = hashlib.sha256(content if content is not None else uid.encode()).hexdigest()
    return ReceivedInstance(
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        sop_instance_uid=uid,
        sop_class_uid=DX_SOP_CLASS_UID,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        modality=modality,
        attributes={"BodyPartExamined": "CHEST"},
        header=header or a_header(patient_id),
        path=path or f"received/{study}/{uid}-{sha256[:12]}.dcm",
        size_bytes=len(content or b""),
        sha256=sha256,
        calling_ae_title=calling_ae_title,
        received_at=received_at,
        acknowledged_ns=acknowledged_ns,
        quiet_period_s=quiet_period_s,
        is_own=is_own,
    )


def a_reading(
    study: str = "1.2.3",
    generation: int = 1,
    *,
    findings: str = "The lungs are clear.",
    images: Sequence[str] = ("1.2.3.1.1",),
    header: StudyHeader | None = None,
    created_at: float = MORNING,
    language: str = "en",
) -> Reading:
    """Return a draft with findings, an impression and one answered check."""
    return Reading(
        study_instance_uid=study,
        generation=generation,
        language=language,
        modality="DX",
        header=header or a_header(),
        sections=(
            Section(kind=SectionKind.FINDINGS, paragraphs=(findings,)),
            Section(kind=SectionKind.IMPRESSION, paragraphs=("No acute finding.",)),
        ),
        answers=(
            CheckAnswer(
                check_id="pneumothorax",
                label="Pneumothorax",
                question="Is there a pneumothorax?",
                answer_id="no",
                answer="no",
                probability=0.98,
                undetermined=False,
            ),
        ),
        images=tuple(
            InstanceReference(
                series_instance_uid=f"{study}.1", sop_instance_uid=uid, sop_class_uid=DX_SOP_CLASS_UID, role="frontal"
            )
            for uid in images
        ),
        based_on_images=len(images),
        known_images=len(images),
        completion_reason=CompletionReason.QUIET,
        provenance=Provenance(
            software_version="0.0.0",
            model_name="fake",
            model_version="1",
            model_sha256="0" * 64,
            prompt_sha256="1" * 64,
            check_preset="chest_xray",
            check_preset_version="1",
            check_preset_sha256="2" * 64,
            pipeline="chest",
        ),
        created_at=created_at,
    )


def a_pipeline(name: str = "chest", *, destinations: Sequence[str] = ("pacs", "ris"), modality: str = "DX") -> Pipeline:
    """Return a pipeline that wants one modality."""
    return Pipeline(
        name=name,
        match={"Modality": (modality,)},
        model="fake",
        checks="chest_xray",
        language="en",
        destinations=tuple(destinations),
    )


# ---- databases ---------------------------------------------------------------------------------------------


@contextmanager
def sqlite_database(folder: Path | None = None) -> Iterator[Engine]:
    """Open a fresh, migrated SQLite database; in memory-backed files unless a folder is given."""
    with TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None, prefix="wetread-") as made:
        path = (folder or Path(made)) / "wetread.sqlite"
        path.write_bytes(_migrated_sqlite())
        engine = database.open_database(f"sqlite:///{path}")
        try:
            yield engine
        finally:
            engine.dispose()


@cache
def _migrated_sqlite() -> bytes:
    # Migrating takes longer than most tests: it is done once and copied.
    with TemporaryDirectory() as made:
        path = Path(made) / "wetread.sqlite"
        engine = database.open_database(f"sqlite:///{path}")
        database.migrate(engine)
        engine.dispose()
        return path.read_bytes()


@contextmanager
def empty_postgresql() -> Iterator[str | None]:
    """Create an empty PostgreSQL database and drop it afterwards; yields its URL, or None where no server answers."""
    url = make_url(environment(POSTGRESQL_VARIABLE) or _POSTGRESQL_URL)
    administrator = create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
    name = f"wetread_{uuid.uuid4().hex[:12]}"
    try:
        try:
            with administrator.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
                # Nobody pulls the plug during a test; waiting for the disk at each commit would only be slow.
                connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
        except OperationalError:
            yield None
            return
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            with administrator.connect() as connection:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        administrator.dispose()


@contextmanager
def postgresql_database() -> Iterator[Engine | None]:
    """Open a fresh, migrated PostgreSQL database and drop it afterwards; yields None where no server answers."""
    with empty_postgresql() as url:
        if url is None:
            yield None
            return
        engine = database.open_database(url)
        try:
            database.migrate(engine)
            yield engine
        finally:
            engine.dispose()


def a_wiring(
    engine: Engine,
    *,
    settings: Settings | None = None,
    pipelines: Sequence[Pipeline] | None = None,
    clock: Clock | None = None,
    waker: RecordingWaker | None = None,
    seed: int = 1,
    owner: str = "test",
) -> Wiring:
    """Return a wiring on a real database with a frozen clock and a recording waker."""
    wiring = Wiring(
        settings=settings or Settings(),
        engine=engine,
        pipelines=tuple(pipelines) if pipelines is not None else (a_pipeline(),),
        clock=clock or FrozenClock(),
        random=Random(seed),  # noqa: S311 - seeded on purpose: a test is repeatable
        wake=waker or RecordingWaker(),
        owner=owner,
    )
    settle_device(wiring)
    return wiring
