"""The real chain in one process: receiving, index, store, flow, pixels, builders and guards; no socket and no model.

What a modality would send is handed to the storage service, what a model would see is recorded, and what would leave
for the archive and the RIS is kept as bytes. Everything between is the code that runs in a hospital.
"""

import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from casebook import database, device, tables
from casebook.case import Case
from casebook.checks import CheckPreset, load_checks
from casebook.flow import STEPS
from casebook.outcomes import Outcome
from casebook.pipelines import load_pipelines
from casebook.reading import from_bytes
from casebook.runner import Body, Gate, Runner
from casebook.settings import SHIPPED_CONFIG_DIRECTORY, Settings
from casebook.study import StudyState
from casebook.sweeper import sweep
from casebook.testing import FrozenClock, sqlite_database
from casebook.wiring import Wiring
from dicom_node.index.recorder import Recorded, Recorder
from dicom_node.objects.file_meta import Envelope
from dicom_node.receive.storage_service import StorageService
from dicom_node.results import send as sending
from dicom_node.results import store_scu
from dicom_node.storage.disk_gate import DiskGate
from dicom_node.storage.inbox import Inbox, StoredInstance
from integration_tests.odd_studies.names import SENDERS
from integration_tests.odd_studies.study import OddStudy
from training.phantom.findings import Findings
from training.phantom.report import write_report
from worker.read import read_with
from worker.reader.registry import ModelEntry, find_entry, load_registry
from worker.reader.writer import ClosedQuestion, Draft, Image

Plane = NDArray[np.float32]
#: Seconds after which every study is quiet and every retry due.
_LATER_S = 600.0
#: Attempts after which a job that fails is dead.
_ROUNDS = 8
_NO_ANSWERS = frozenset({"no", "none", "否", "无"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output of a study."""

    kind: str
    content: bytes = field(repr=False)
    #: It left.
    was_sent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of one study."""

    #: None where no row of it exists.
    state: StudyState | None
    reason: str
    #: Sentence for the operator.
    detail: str
    #: DIMSE status of each instance.
    statuses: Sequence[int]
    outputs: Sequence[Output]
    #: What a model would have seen, as rendered.
    shown: Sequence[Plane] = field(repr=False)
    #: SOP Instance UIDs of the images in the reading.
    shown_uids: frozenset[str]

    @property
    def has_sent(self) -> bool:
        """Whether anything left."""
        return any(one.was_sent for one in self.outputs)


class RecordingWriter:
    """A model that says the same of every picture and keeps what it was shown."""

    sha256 = "0" * 64

    def __init__(self, entry: ModelEntry) -> None:
        self.entry = entry
        #: Study Instance UID -> images.
        self.shown: dict[str, tuple[Image, ...]] = {}
        self.study_instance_uid = ""
        self._text = write_report(Findings(), "en")

    def write(self, images: Sequence[Image], instruction: str) -> Draft:
        """Keep the images and say that nothing is to be seen."""
        self.shown[self.study_instance_uid] = tuple(images)
        return Draft(text=self._text, token_logprobs=(-0.1,), ended=True)

    def score(self, images: Sequence[Image], questions: Sequence[ClosedQuestion]) -> list[tuple[float, ...]]:
        """Answer every check in the negative."""
        return [tuple(-0.01 if text in _NO_ANSWERS else -9.0 for text in one.answers) for one in questions]


class _Line:
    """Takes stored instances where the indexer would."""

    may_refuse = False
    keeps_up = True

    def __init__(self) -> None:
        self.stored: list[StoredInstance] = []

    def submit(self, stored: StoredInstance) -> None:
        """Take over a durable object."""
        self.stored.append(stored)

    def touch(self, study_instance_uid: str, calling_ae_title: str) -> None:
        """Learn that more of a study is on its way."""


class Chain:
    """One node in this process."""

    def __init__(self, settings: Settings, wiring: Wiring, clock: FrozenClock, service: StorageService) -> None:
        self.settings = settings
        self._wiring = wiring
        self._clock = clock
        self._service = service
        self._line = _Line()
        service._index = self._line
        self._inbox = service._inbox
        self._recorder = Recorder(self._inbox, wiring.engine, settings, clock)
        entry = find_entry(load_registry(settings.config_directory / "models"), "phantom-cxr")
        self._writer = RecordingWriter(entry)
        self._preset = load_preset(settings.config_directory)
        bodies, gates = _io_steps()
        bodies["read"] = self._read
        self._runner = Runner(wiring, bodies, lambda _wiring, _job: nullcontext(), gates=gates)

    def run(self, studies: Sequence[OddStudy]) -> list[Ended]:
        """Receive studies, let the flow do everything, and say what became of each."""
        statuses = {study.study_instance_uid: self._receive(study) for study in studies}
        left = self._recorder.record(self._line.stored)
        assert left == Recorded(), "the index took an instance only later"
        paths = [one.path for one in self._line.stored]
        self._line.stored.clear()
        with _peers_that_take_everything():
            for _ in range(_ROUNDS):
                self._clock.advance(_LATER_S)
                sweep(self._wiring)
                self._runner.drain("gpu")
                self._runner.drain("io")
                if not self._open_jobs():
                    break
        ended = [self._ended(study, statuses[study.study_instance_uid]) for study in studies]
        for path in paths:
            (self.settings.data_directory / path).unlink(missing_ok=True)
        self._writer.shown.clear()
        return ended

    def _receive(self, study: OddStudy) -> list[int]:
        statuses = []
        for one in study.instances:
            envelope = Envelope(
                sop_class_uid=one.sop_class_uid,
                sop_instance_uid=one.sop_instance_uid,
                transfer_syntax_uid=one.transfer_syntax_uid,
                calling_ae_title=study.sender,
                peer_address="127.0.0.1",
            )
            operation = self._service.begin(envelope)
            operation.write([one.data_set])
            statuses.append(operation.finish())
        return statuses

    def _read(self, case: Case, settings: Settings) -> Outcome:
        self._writer.study_instance_uid = case.study.study_instance_uid
        return read_with(self._writer, case, self._preset, settings, now=self._clock.at)

    def _open_jobs(self) -> bool:
        job = tables.job
        with self._wiring.read() as connection:
            query = select(job.c.id).where(job.c.state.in_(("ready", "running", "retry")))
            return connection.execute(query).first() is not None

    def _ended(self, study: OddStudy, statuses: Sequence[int]) -> Ended:
        uid = study.study_instance_uid
        with self._wiring.read() as connection:
            row = connection.execute(tables.study.select().where(tables.study.c.study_instance_uid == uid)).first()
            outputs = connection.execute(tables.output.select().where(tables.output.c.study_instance_uid == uid)).all()
            readings = connection.execute(
                tables.reading.select().where(tables.reading.c.study_instance_uid == uid)
            ).all()
        return Ended(
            state=StudyState(row.state) if row is not None else None,
            reason=row.reason if row is not None else "not_received",
            detail=row.detail if row is not None else "",
            statuses=statuses,
            outputs=[
                Output(kind=one.kind, content=one.content, was_sent=one.first_sent_at is not None) for one in outputs
            ],
            shown=self._writer.shown.get(uid, ()),
            shown_uids=frozenset(
                image.sop_instance_uid for one in readings for image in from_bytes(one.content).images
            ),
        )


@contextmanager
def open_chain(folder: Path | None = None) -> Iterator[Chain]:
    """Open a node of its own with the shipped configuration; in memory-backed files unless a folder is given."""
    memory = Path("/dev/shm")  # noqa: S108 - only a faster parent for a private temporary directory
    with TemporaryDirectory(dir=folder or (memory if memory.is_dir() else None), prefix="wetread-odd-") as made:
        data = Path(made)
        settings = Settings.model_validate(
            {
                "data_directory": data,
                "config_directory": SHIPPED_CONFIG_DIRECTORY,
                "listener": {"min_free_bytes": 0, "quiet_period_s": 1.0, "senders": senders()},
                "destinations": [
                    {"name": "pacs", "kind": "dicom", "host": "127.0.0.1", "port": 4242, "ae_title": "PACS"},
                    {"name": "ris", "kind": "hl7", "host": "127.0.0.1", "port": 2575, "result_status": "R"},
                ],
            }
        )
        with sqlite_database(data) as engine:
            inbox = Inbox(data)
            clock = FrozenClock(time.time())
            with database.write(engine) as connection:
                device.settle(connection, stated="", now=clock.at)
            wiring = Wiring(
                settings=settings,
                engine=engine,
                pipelines=load_pipelines(settings.config_directory / "pipelines"),
                clock=clock,
                random=Random(0),
            )
            gate = DiskGate(inbox.directory, 0, inbox.files, lambda: clock.at)
            try:
                yield Chain(settings, wiring, clock, StorageService(inbox, gate, _Line()))
            finally:
                inbox.close()


def senders() -> list[dict[str, object]]:
    """Return the settings of senders whose texts are in another character set than they say."""
    return [
        {"ae_title": title, "character_set": name, "character_set_applies": "always"} for title, name in SENDERS.items()
    ]


@cache
def load_preset(config_directory: Path) -> CheckPreset:
    """Load what every chest film is asked."""
    return load_checks(config_directory / "checks" / "chest_xray.yaml")


def _io_steps() -> tuple[dict[str, Body], dict[str, Gate]]:
    steps = [step for step in STEPS if step.queue == "io"]
    bodies = {step.name: _function_at(step.body) for step in steps}
    return bodies, {step.name: _function_at(step.gate) for step in steps if step.gate}


def _function_at(place: str) -> Any:
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)


@contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Put other functions in the places of these for a while: owner, name, function."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, other in changes:
            setattr(owner, name, other)
        yield
    finally:
        for owner, name, former in reversed(before):
            setattr(owner, name, former)


@contextmanager
def _peers_that_take_everything() -> Iterator[None]:
    with replaced(
        (store_scu, "store", lambda *_, **__: store_scu.Stored(status=0x0000, negotiated={})),
        (sending, "_exchange", lambda *_, **__: "AA"),
    ):
        yield
