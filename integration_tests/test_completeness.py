"""A study is complete when the archive says so: Orthanc as PACS, a CT series of 28 images of which 27 were sent."""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
)

from casebook import database, flow, store
from casebook.case import Case
from casebook.outcomes import Outcome
from casebook.pipelines import Pipeline
from casebook.runner import Runner
from casebook.settings import Settings
from casebook.study import CompletionReason, InstanceStatus, Study, StudyState
from casebook.sweeper import sweep
from casebook.wiring import Wiring, settle_device
from dicom_node.archive.count import count
from dicom_node.objects import sop_classes
from dicom_node.results.prepare import prepare
from dicom_node.results.send import send
from integration_tests import foreign
from integration_tests.listener_process import AE_TITLE, listener, wait_for_rows
from integration_tests.settings import REPOSITORY
from worker.read import read_with
from worker.reader import picture_kind
from worker.reader.loaders import open_writer
from worker.reader.registry import ModelEntry, find_entry, load_registry
from worker.reader.writer import ClosedQuestion, Draft, Image, Writer
from worker.tests.fakes import ENTRY, PRESET, FakeWriter

pytestmark = [pytest.mark.peers, pytest.mark.slow]

STUDY = "1.2.826.0.1.3680043.10.1561.28"
SLICES = 28
PIPELINE = Pipeline(
    name="ct", match={"Modality": ("CT",)}, model="fake", checks="chest", language="en", destinations=("pacs",)
)
#: Only for this test: no model of the project was made for CT, and this one says so of itself.
CT_ENTRY = ENTRY.model_copy(
    update={
        "name": "test-only-ct",
        "modalities": ("CT",),
        "body_parts": (),
        "image": ENTRY.image.model_copy(update={"max_images": SLICES}),
    }
)


# ---- the hospital ------------------------------------------------------------------------------------------


def slices(folder: Path, count_of: int = SLICES) -> list[Path]:
    """Write an axial CT series of a made-up patient."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(28)
    paths = []
    for number in range(count_of):
        ds = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(f"{STUDY}.1.{number + 1}")
        ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, f"{STUDY}.1"
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "CT-28", "Made^Up", "19600101", "O"
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20260105", "080000", "A28", "28"
        ds.ReferringPhysicianName = ""
        ds.Modality, ds.BodyPartExamined, ds.SeriesNumber, ds.InstanceNumber = "CT", "CHEST", 1, number + 1
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [0, 0, 5.0 * number]
        ds.PixelSpacing, ds.SliceThickness = [1, 1], 5
        ds.Rows = ds.Columns = 64
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 0
        ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth = 1, -1024, 40, 400
        ds.PixelData = np.kron(
            rng.integers(0, 2048, (8, 8), dtype=np.uint16), np.ones((8, 8), dtype=np.uint16)
        ).tobytes()
        paths.append(folder / f"{number + 1:02}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A node of ours with its listener, an archive beside it, and all roles but the sweeper's clock."""

    wiring: Wiring
    pacs: foreign.Orthanc
    port: int
    writer: Writer

    def arrive(self, paths: list[Path]) -> None:
        """Send images to the node, as a modality does, and wait for their rows."""
        assert foreign.dcmsend(paths, port=self.port, called=AE_TITLE).returncode == 0
        wait_for_rows(self.wiring.settings.data_directory, len(paths))

    def work_until(self, done: Callable[[Study], bool]) -> Study:
        """Sweep and do jobs until the study is as wanted."""
        bodies = {"count": count, "read": self._read, "prepare": prepare, "send": send}
        runner = Runner(self.wiring, bodies)

        def look() -> Study | None:
            sweep(self.wiring)
            for queue in flow.QUEUES:
                runner.drain(queue)
            study = self.study()
            return study if done(study) else None

        found = foreign.wait_until(look, timeout_s=60, what="the study to go on")
        assert found is not None
        return found

    def study(self) -> Study:
        with self.wiring.read() as connection:
            return store.get_study(connection, STUDY)

    def statuses(self) -> list[InstanceStatus]:
        with self.wiring.read() as connection:
            return [one.status for one in store.instances(connection, STUDY, statuses=InstanceStatus)]

    def draft(self) -> str:
        """Return every text of the one SR that the archive received."""
        (content,) = self.pacs.instances(STUDY, modality="SR")
        return texts(dcmread(BytesIO(content)))

    def _read(self, case: Case, settings: Settings) -> Outcome:
        return read_with(self.writer, case, PRESET, settings, now=1_767_600_000.0)


def texts(ds: Dataset) -> str:
    """Return the text values of a content tree in their order."""
    own = str(ds.get("TextValue", ""))
    return "\n".join([own, *(texts(item) for item in ds.get("ContentSequence", []))])


@contextmanager
def site(
    folder: Path, *, pull: str, writer: Writer | None = None, max_questions: int = 5, silent: bool = False
) -> Iterator[Site]:
    with (
        # Takes connections and never says a word.
        socket.create_server((foreign.LOOPBACK, 0)) as mute,
        listener(folder / "data", options={"quiet_period_s": 0.5}) as ours,
        foreign.orthanc(folder / "pacs", modalities={AE_TITLE: (foreign.LOOPBACK, ours.port)}) as pacs,
    ):
        peer = {"host": foreign.LOOPBACK, "port": pacs.port, "ae_title": pacs.ae_title}
        asked = {"port": mute.getsockname()[1], "timeout_s": 1} if silent else {}
        settings = Settings.model_validate(
            {
                "data_directory": folder / "data",
                "listener": {"ae_title": AE_TITLE, "quiet_period_s": 0.5, "min_free_bytes": 0},
                "queue": {"ask_again_s": 0.2},
                "archive": peer | {"pull": pull, "max_questions": max_questions, "timeout_s": 5} | asked,
                "destinations": [peer | {"name": "pacs", "kind": "dicom"}],
            }
        )
        engine = database.open_database(settings.database_url)
        try:
            wiring = Wiring(settings=settings, engine=engine, pipelines=(PIPELINE,))
            settle_device(wiring)
            chosen = writer or FakeWriter(entry=CT_ENTRY)
            yield Site(wiring=wiring, pacs=pacs, port=ours.port, writer=chosen)
        finally:
            engine.dispose()


def fill(pacs: foreign.Orthanc, paths: list[Path]) -> None:
    """Give the archive its images."""
    assert foreign.dcmsend(paths, port=pacs.port, called=pacs.ae_title).returncode == 0


def is_delivered(study: Study) -> bool:
    return study.state is StudyState.DELIVERED


# ---- the count ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pull", ["c_get", "c_move"])
def test_a_missing_image_is_pulled_and_the_draft_says_28_of_28(tmp_path: Path, pull: str) -> None:
    every = slices(tmp_path / "modality")
    with site(tmp_path, pull=pull) as hospital:
        fill(hospital.pacs, every)
        hospital.arrive(every[:-1])

        study = hospital.work_until(is_delivered)

        assert (study.completion_reason, study.expected_instances) == (CompletionReason.COUNTED, SLICES)
        assert "Based on 28 of 28 images (the archive counted 28)" in hospital.draft()
        assert len(wait_for_rows(hospital.wiring.settings.data_directory, SLICES)) == SLICES


def test_with_pulling_forbidden_the_draft_says_27_of_28(tmp_path: Path) -> None:
    every = slices(tmp_path / "modality")
    with site(tmp_path, pull="never", max_questions=2) as hospital:
        fill(hospital.pacs, every)
        hospital.arrive(every[:-1])

        study = hospital.work_until(is_delivered)

        assert (study.completion_reason, study.expected_instances) == (CompletionReason.QUIET, SLICES)
        assert "Based on 27 of 28 images (no further image arrived)" in hospital.draft()


def test_a_silent_archive_delays_the_draft_and_does_not_prevent_it(tmp_path: Path) -> None:
    every = slices(tmp_path / "modality", 3)
    with site(tmp_path, pull="c_get", max_questions=2, silent=True) as hospital:
        hospital.arrive(every)

        study = hospital.work_until(is_delivered)

        assert (study.completion_reason, study.expected_instances) == (CompletionReason.QUIET, None)
        assert "Based on 3 of 3 images (no further image arrived)" in hospital.draft()


def test_objects_of_the_archive_that_are_no_pictures_are_not_missed(tmp_path: Path) -> None:
    every = slices(tmp_path / "modality", 3)
    report = dcmread(every[0])
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = BasicTextSRStorage
    report.file_meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID = UID(f"{STUDY}.2.1")
    report.SeriesInstanceUID, report.Modality = f"{STUDY}.2", "SR"
    del report.PixelData
    report.save_as(tmp_path / "modality" / "report.dcm", enforce_file_format=True)
    with site(tmp_path, pull="c_get") as hospital:
        fill(hospital.pacs, [*every, tmp_path / "modality" / "report.dcm"])
        hospital.arrive(every)

        study = hospital.work_until(lambda one: one.state is StudyState.DELIVERED)

        assert (study.completion_reason, study.expected_instances) == (CompletionReason.COUNTED, 3)
        assert hospital.statuses() == [InstanceStatus.CURRENT] * 3


def test_an_archive_that_has_fewer_images_is_asked_again(tmp_path: Path) -> None:
    every = slices(tmp_path / "modality", 3)
    with site(tmp_path, pull="c_get", max_questions=1000) as hospital:
        fill(hospital.pacs, every[:2])
        hospital.arrive(every)

        hospital.work_until(lambda _: questions(hospital) >= 2)
        assert hospital.study().state is StudyState.RECEIVED
        fill(hospital.pacs, every[2:])
        study = hospital.work_until(is_delivered)

        assert study.completion_reason is CompletionReason.COUNTED


def questions(hospital: Site) -> int:
    with hospital.wiring.read() as connection:
        return store.questions(connection, STUDY, 1)


def test_the_phantom_reads_the_whole_series_when_a_test_says_it_may(tmp_path: Path) -> None:
    every = slices(tmp_path / "modality")
    with site(tmp_path, pull="c_get", writer=phantom()) as hospital:
        fill(hospital.pacs, every)
        hospital.arrive(every[:-1])

        study = hospital.work_until(is_delivered)

        # A chest film model looks at noise: its text is worth nothing, what it was shown is counted all the same.
        assert (study.completion_reason, study.expected_instances) == (CompletionReason.COUNTED, SLICES)
        assert "Based on 28 of 28 images (the archive counted 28), model test-only-ct" in hospital.draft()


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """The real weights behind an entry that exists only here: every slice is taken, their mean is looked at."""

    phantom: Writer
    entry: ModelEntry

    @property
    def sha256(self) -> str:
        return self.phantom.sha256

    def write(self, images: Sequence[Image], instruction: str) -> Draft:
        return self.phantom.write([np.mean(images, axis=0)], instruction)

    def score(self, images: Sequence[Image], questions: Sequence[ClosedQuestion]) -> list[tuple[float, ...]]:
        return self.phantom.score([np.mean(images, axis=0)], questions)


def phantom() -> Writer:
    """Open the phantom's weights; they know one image, so a series is shown to them as one."""
    found = find_entry(load_registry(REPOSITORY / "config" / "models"), "phantom-cxr")
    changes = {"name": "test-only-ct", "modalities": ("CT",), "body_parts": ()}
    image = found.image.model_copy(update={"max_images": SLICES})
    entry = found.model_copy(update=changes | {"image": image})
    return Projection(phantom=open_writer(found, device="cpu", threads=1), entry=entry)


def test_the_node_and_the_reader_agree_on_what_is_no_picture() -> None:
    assert sorted(sop_classes.NO_PICTURES) == sorted(picture_kind._NO_PICTURES)


# ---- rejection notes ---------------------------------------------------------------------------------------


def test_a_rejection_note_on_the_wire_leads_to_a_new_draft_without_its_images(tmp_path: Path) -> None:
    every = slices(tmp_path / "modality", 3)
    note = write_rejection_note(tmp_path / "modality" / "note.dcm", dcmread(every[0]), rejected=2)
    with site(tmp_path, pull="c_get") as hospital:
        fill(hospital.pacs, every)
        hospital.arrive(every)
        hospital.work_until(is_delivered)

        assert foreign.dcmsend([note], port=hospital.port, called=AE_TITLE).returncode == 0
        study = hospital.work_until(lambda one: one.generation == 2 and is_delivered(one))

        # The archive here knows nothing of rejection notes and still lists all three.
        assert study.completion_reason is CompletionReason.COUNTED
        assert sorted(hospital.statuses()) == sorted([InstanceStatus.CURRENT] * 3 + [InstanceStatus.EXCLUDED])
        drafts = [texts(dcmread(BytesIO(one))) for one in hospital.pacs.instances(STUDY, modality="SR")]
        assert sum("Based on 2 of 2 images" in one for one in drafts) == 1


def write_rejection_note(path: Path, image: Dataset, rejected: int) -> Path:
    """Write a note that rejects one slice for quality reasons (DCM 113001)."""
    note = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    note.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    note.file_meta.MediaStorageSOPClassUID = note.SOPClassUID = KeyObjectSelectionDocumentStorage
    note.file_meta.MediaStorageSOPInstanceUID = note.SOPInstanceUID = UID(f"{STUDY}.9.1")
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
        setattr(note, keyword, image.get(keyword))
    note.StudyInstanceUID, note.SeriesInstanceUID, note.Modality = STUDY, f"{STUDY}.9", "KO"
    title, reference, series, study = Dataset(), Dataset(), Dataset(), Dataset()
    title.CodeValue, title.CodingSchemeDesignator = "113001", "DCM"
    title.CodeMeaning = "Rejected for Quality Reasons"
    reference.ReferencedSOPClassUID = CTImageStorage
    reference.ReferencedSOPInstanceUID = f"{STUDY}.1.{rejected}"
    series.SeriesInstanceUID, series.ReferencedSOPSequence = f"{STUDY}.1", [reference]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = STUDY, [series]
    note.ValueType, note.ConceptNameCodeSequence = "CONTAINER", [title]
    note.CurrentRequestedProcedureEvidenceSequence = [study]
    note.save_as(path, enforce_file_format=True)
    return path
