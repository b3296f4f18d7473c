"""The PACS moves a study to another patient while its draft is under way: Orthanc, asked by C-FIND."""

import copy
import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import select

from casebook import audit, flow, intake, store, tables
from casebook.case import Case, JobState
from casebook.outcomes import Drafted, Outcome
from casebook.runner import Runner
from casebook.settings import DicomDestination, Hl7Destination, IdentityCheck, QuerySettings, ResultStatus, Settings
from casebook.study import Study, StudyState
from casebook.sweeper import sweep
from casebook.testing import FrozenClock, a_pipeline, a_reading, a_wiring, sqlite_database
from casebook.wiring import Wiring
from console.explain import Explanation, explain
from dicom_node.index.description import describe
from dicom_node.objects.file_meta import Envelope
from dicom_node.storage.inbox import StoredInstance
from dicom_node.tests.peers import Receiver, acknowledge
from integration_tests import foreign
from training.phantom.dicom import Modality, Photometric, Storage, build_study

pytestmark = [pytest.mark.peers, pytest.mark.slow]

CHECKS = (IdentityCheck.REQUIRED, IdentityCheck.BEST_EFFORT)
OTHER = "MOVED-7"
PHANTOM = build_study(
    42_500_001,
    storage=Storage(
        modality=Modality.DX,
        photometric=Photometric.MONOCHROME2,
        bits_stored=12,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    ),
)
UID = PHANTOM.study_instance_uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A node between Orthanc and a RIS; its steps, gates and database are the real ones, its reader is not."""

    wiring: Wiring
    clock: FrozenClock
    pacs: foreign.Orthanc
    ris: Receiver
    image: Path

    def forward(self) -> None:
        """Let the archive have the image."""
        assert foreign.dcmsend([self.image], port=self.pacs.port, called=self.pacs.ae_title).returncode == 0

    def move_patient(self) -> None:
        """Move the study to another patient in the archive; its UIDs stay."""
        (study,) = self.pacs.ask("/studies")
        self.pacs.delete(f"/studies/{study}")
        moved = copy.deepcopy(PHANTOM.dataset)
        moved.PatientID = OTHER
        path = self.image.with_name("moved.dcm")
        moved.save_as(path, enforce_file_format=True)
        assert foreign.dcmsend([path], port=self.pacs.port, called=self.pacs.ae_title).returncode == 0

    def receive(self) -> None:
        """Have the image here, and read."""
        size = self.image.stat().st_size
        envelope = Envelope(
            sop_class_uid=PHANTOM.dataset.SOPClassUID,
            sop_instance_uid=PHANTOM.dataset.SOPInstanceUID,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            calling_ae_title="CT01",
            peer_address="127.0.0.1",
        )
        stored = StoredInstance(path=self.image.name, size_bytes=size, received_at=self.clock.now(), envelope=envelope)
        described = describe(self.image.parent, stored, lambda *_: 1.0)
        with self.wiring.write() as connection:
            intake.record_instances(connection, [described], self.clock.now())
        self.clock.advance(2)
        sweep(self.wiring)
        assert self.runner().run_one("gpu")

    def runner(self) -> Runner:
        bodies = {"read": _read}
        gates = {}
        for step in flow.STEPS:
            if step.queue == "io":
                bodies[step.name] = _at(step.body)
                if step.gate:
                    gates[step.name] = _at(step.gate)
        return Runner(self.wiring, bodies, heartbeat=lambda *_: nullcontext(), gates=gates)

    def prepare(self) -> None:
        """Freeze the one result, and do not send it."""
        assert self.runner().run_one("io")
        assert self.study().state is StudyState.READY

    def work(self) -> Study:
        """Do what is due."""
        self.runner().drain("io")
        return self.study()

    def study(self) -> Study:
        with self.wiring.read() as connection:
            return store.get_study(connection, UID)

    def sent(self) -> tuple[int, int]:
        """Count the reports in the archive and the messages at the RIS."""
        return len(self.pacs.instances(UID, "SR")), len(self.ris.frames)

    def may_have_left(self) -> bool:
        column = tables.output.c
        with self.wiring.read() as connection:
            return any(row.first_sent_at for row in connection.execute(select(column.first_sent_at)))

    def waiting(self) -> set[str]:
        column = tables.job.c
        with self.wiring.read() as connection:
            return {
                row.reason for row in connection.execute(select(column.reason).where(column.state == JobState.RETRY))
            }

    def actions(self) -> list[str]:
        with self.wiring.read() as connection:
            return [one.action for one in audit.timeline(connection, UID)]

    def why(self, *, show_patient_ids: bool = False) -> Explanation:
        with self.wiring.read() as connection:
            return explain(
                connection,
                UID,
                settings=self.wiring.settings,
                now=self.clock.now(),
                show_patient_ids=show_patient_ids,
            )


def _read(case: Case, _settings: Settings) -> Outcome:
    header = case.instances[0].header
    images = [one.sop_instance_uid for one in case.instances]
    return Drafted(reading=a_reading(UID, case.job.generation, images=images, header=header))


def _at(place: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - bodies and gates differ
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)


@pytest.fixture
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[foreign.Orthanc]:
    with foreign.orthanc(tmp_path_factory.mktemp("orthanc"), OverwriteInstances=True) as peer:
        yield peer


@contextmanager
def site(
    folder: Path,
    pacs: foreign.Orthanc,
    check: IdentityCheck,
    *,
    asked_port: int = 0,
    destinations: Sequence[str] = ("pacs", "ris"),
) -> Iterator[Site]:
    """Run a node that may send to Orthanc and to a RIS."""
    image = folder / "image.dcm"
    PHANTOM.dataset.save_as(image, enforce_file_format=True)
    query = QuerySettings(host=foreign.LOOPBACK, port=asked_port or pacs.port, ae_title="ORTHANC", timeout_s=5)
    clock = FrozenClock()
    with ExitStack() as stack:
        ris = stack.enter_context(Receiver(acknowledge))
        engine = stack.enter_context(sqlite_database(folder))
        settings = Settings(
            data_directory=folder,
            destinations=(
                DicomDestination(
                    name="pacs",
                    kind="dicom",
                    host=foreign.LOOPBACK,
                    port=pacs.port,
                    ae_title="ORTHANC",
                    identity_check=check,
                    query=query,
                ),
                Hl7Destination(
                    name="ris",
                    kind="hl7",
                    host=foreign.LOOPBACK,
                    port=ris.port,
                    result_status=ResultStatus.STORED,
                    identity_check=check,
                    query=query,
                ),
            ),
        )
        pipelines = [a_pipeline(destinations=destinations)]
        yield Site(
            wiring=a_wiring(engine, clock=clock, settings=settings, pipelines=pipelines),
            clock=clock,
            pacs=pacs,
            ris=ris,
            image=image,
        )


@pytest.mark.parametrize("check", CHECKS)
def test_a_study_that_stays_with_its_patient_is_delivered(
    tmp_path: Path, orthanc: foreign.Orthanc, check: IdentityCheck
) -> None:
    with site(tmp_path, orthanc, check) as node:
        node.forward()
        node.receive()

        assert node.work().state is StudyState.DELIVERED
        assert node.sent() == (1, 1)
        assert "archive_did_not_answer" not in node.actions()


@pytest.mark.parametrize("check", CHECKS)
def test_a_study_that_was_moved_after_it_was_forwarded_is_held_and_nothing_is_sent(
    tmp_path: Path, orthanc: foreign.Orthanc, check: IdentityCheck
) -> None:
    with site(tmp_path, orthanc, check) as node:
        node.forward()
        node.receive()
        node.move_patient()
        study = node.work()

        assert (study.state, study.reason) == (StudyState.HELD, "archive_names_another_patient")
        assert node.sent() == (0, 0)
        assert not node.may_have_left()
        said = node.why()
        assert "PatientID" in said.sentence
        assert "have it withdrawn" not in said.sentence
        assert OTHER not in repr(said)
        assert (
            f"PatientID is {PHANTOM.dataset.PatientID} here and {OTHER} there"
            in node.why(show_patient_ids=True).sentence
        )


@pytest.mark.parametrize("destination", ["pacs", "ris"])
@pytest.mark.parametrize("check", CHECKS)
def test_a_study_that_is_moved_between_freezing_and_sending_is_held_and_nothing_is_sent(
    tmp_path: Path, orthanc: foreign.Orthanc, check: IdentityCheck, destination: str
) -> None:
    with site(tmp_path, orthanc, check, destinations=[destination]) as node:
        node.forward()
        node.receive()
        node.prepare()
        node.move_patient()
        study = node.work()

        assert (study.state, study.reason) == (StudyState.HELD, "archive_names_another_patient")
        assert node.sent() == (0, 0)
        assert not node.may_have_left()


def test_a_study_that_the_archive_does_not_know_yet_waits_where_that_is_required(
    tmp_path: Path, orthanc: foreign.Orthanc
) -> None:
    with site(tmp_path, orthanc, IdentityCheck.REQUIRED) as node:
        node.receive()

        assert node.work().state is StudyState.READ
        assert node.waiting() == {"patient_not_confirmed"}
        assert "does not know this study" in node.why().sentence
        assert "nothing was sent" in node.why().advice

        node.forward()
        node.clock.advance(1000)
        assert node.work().state is StudyState.DELIVERED
        assert node.sent() == (1, 1)


def test_a_study_that_the_archive_does_not_know_is_noted_and_delivered_otherwise(
    tmp_path: Path, orthanc: foreign.Orthanc
) -> None:
    with site(tmp_path, orthanc, IdentityCheck.BEST_EFFORT) as node:
        node.receive()

        assert node.work().state is StudyState.DELIVERED
        assert node.actions().count("archive_did_not_know_the_study") >= 2


# pynetdicom leaves a socket whose connection was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("check", CHECKS)
def test_an_archive_that_is_silent_is_waited_for_or_noted(
    tmp_path: Path, orthanc: foreign.Orthanc, check: IdentityCheck
) -> None:
    with site(tmp_path, orthanc, check, asked_port=foreign.free_port()) as node:
        node.forward()
        node.receive()
        study = node.work()

        if check is IdentityCheck.REQUIRED:
            assert study.state is StudyState.READ
            assert node.waiting() == {"patient_not_confirmed"}
            assert node.sent() == (0, 0)
        else:
            assert study.state is StudyState.DELIVERED
            assert "archive_did_not_answer" in node.actions()
