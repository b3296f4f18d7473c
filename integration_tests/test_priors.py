"""Earlier studies of the patient: which are found at Orthanc, what is fetched, and that none of them is read."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    DigitalXRayImageStorageForPresentation,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
)
from sqlalchemy import Engine

from casebook import database, intake, queue, store
from casebook.case import Case
from casebook.errors import PeerUnavailable
from casebook.flow import load_case, settle_quiet
from casebook.runner import Runner
from casebook.settings import SHIPPED_DEVICE_UID, Settings
from casebook.study import InstanceStatus, PriorKind, StudyState
from casebook.testing import MORNING, a_pipeline, a_wiring, sqlite_database
from casebook.wiring import Wiring
from dicom_node.archive import query_retrieve as archive
from dicom_node.archive.count import count
from dicom_node.index.description import describe
from dicom_node.storage.inbox import StoredInstance
from integration_tests import foreign

pytestmark = [pytest.mark.peers, pytest.mark.slow]

ROOT = "1.2.826.0.1.3680043.10.1561.7"
DEVICE_UID = SHIPPED_DEVICE_UID


def film(folder: Path, number: int, **values: str) -> Path:
    """Write one chest film of the patient; another study for each number."""
    ds = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = UID(f"{ROOT}.{number}.1.1")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}.{number}", f"{ROOT}.{number}.1"
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P-7", "Made^Up", "19600101", "O"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "20260105", "080000", str(number)
    ds.Modality, ds.BodyPartExamined, ds.InstanceNumber = "DX", "CHEST", 1
    ds.Rows = ds.Columns = 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, bytes(64)
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    if ds.SOPClassUID != DigitalXRayImageStorageForPresentation:
        del ds.PixelData
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def report(folder: Path, number: int, text: str, *, instance: int = 1, **values: object) -> Path:
    """Write a structured report into the study of this number."""
    path = film(
        folder,
        number,
        SOPClassUID=BasicTextSRStorage,
        SOPInstanceUID=UID(f"{ROOT}.{number}.2.{instance}"),
        SeriesInstanceUID=f"{ROOT}.{number}.2",
        Modality="SR",
        StudyDate="20240101",
    )
    ds = dcmread(path)
    ds.ValueType, ds.ConceptNameCodeSequence = "CONTAINER", [code("18748-4", "Diagnostic imaging report")]
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
    item.ConceptNameCodeSequence, item.TextValue = [code("59776-5", "Findings")], text
    ds.ContentSequence = [item]
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    ds.save_as(path, enforce_file_format=True)
    return path


def code(value: str, meaning: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, "LN", meaning
    return ds


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[foreign.Orthanc]:
    folder = tmp_path_factory.mktemp("priors")
    sent = folder / "sent"
    sent.mkdir()
    film(sent, 1)
    film(sent, 2, StudyDate="20240101")
    report(sent, 2, "A small nodule.")
    report(sent, 2, "A draft of ours.", instance=2, DeviceUID=DEVICE_UID)
    film(
        sent,
        2,
        SOPClassUID=EncapsulatedPDFStorage,
        SOPInstanceUID=UID(f"{ROOT}.2.3.1"),
        SeriesInstanceUID=f"{ROOT}.2.3",
        Modality="DOC",
        StudyDate="20240101",
    )
    film(sent, 3, StudyDate="20250101", Modality="CR")
    film(sent, 4, StudyDate="20250201", BodyPartExamined="HAND")
    film(sent, 5, StudyDate="20250301", Modality="MR")
    film(sent, 6, StudyDate="20270101")
    film(sent, 7, StudyDate="20250401", PatientID="P-70")
    film(sent, 8, StudyDate="20250501", PatientBirthDate="19700101")
    film(sent, 9, StudyDate="20200101")
    with foreign.orthanc(folder / "pacs") as running:
        assert foreign.dcmsend([sent], port=running.port, called=running.ae_title).returncode == 0
        yield running


@pytest.fixture
def engine() -> Iterator[Engine]:
    with sqlite_database() as opened:
        yield opened


def wired(pacs: foreign.Orthanc, engine: Engine, folder: Path, max_studies: int) -> Wiring:
    settings = Settings.model_validate(
        {
            "data_directory": folder,
            "listener": {"min_free_bytes": 0},
            "archive": {
                "host": foreign.LOOPBACK,
                "port": pacs.port,
                "ae_title": pacs.ae_title,
                "timeout_s": 10,
                "priors": {"max_studies": max_studies},
            },
        }
    )
    wiring = a_wiring(engine, settings=settings, pipelines=[a_pipeline()])
    path = film(folder, 1)
    stored = StoredInstance(path=path.name, size_bytes=path.stat().st_size, received_at=MORNING)
    with wiring.write() as connection:
        described = describe(folder, stored, lambda _title, _modality: 1.0)
        intake.record_instances(connection, [replace(described, calling_ae_title="CT01")], MORNING)
        settle_quiet(
            connection,
            f"{ROOT}.1",
            terms=replace(wiring.terms(connection), now=MORNING + 5),
            archive=settings.archive,
        )
    wiring.clock.advance(10)  # type: ignore[attr-defined]
    return wiring


def case_of_reader(wiring: Wiring) -> Case:
    """Do the count job and return what the read job is given."""
    assert Runner(wiring, {"count": count}).drain("io") == 1
    with wiring.write() as connection:
        (job,) = queue.claim(connection, queue="gpu", owner="test", lease_s=60, now=MORNING + 20)
        return load_case(connection, job, wiring.pipelines)


def test_the_reader_gets_the_newest_relevant_priors_with_their_reports(
    pacs: foreign.Orthanc, engine: Engine, tmp_path: Path
) -> None:
    case = case_of_reader(wired(pacs, engine, tmp_path, max_studies=2))

    found = [(one.prior_study_instance_uid.rsplit(".", 1)[1], one.kind) for one in case.priors]
    assert found == [("3", PriorKind.IMAGE), ("2", PriorKind.IMAGE), ("2", PriorKind.REPORT), ("2", PriorKind.DOCUMENT)]
    (told,) = [one.report_text for one in case.priors if one.kind is PriorKind.REPORT]
    assert told == "Diagnostic imaging report\nFindings: A small nodule."
    assert all((tmp_path / one.path).is_file() for one in case.priors)


def test_priors_start_no_job_and_are_no_studies_of_their_own(
    pacs: foreign.Orthanc, engine: Engine, tmp_path: Path
) -> None:
    wiring = wired(pacs, engine, tmp_path, max_studies=9)
    case = case_of_reader(wiring)

    assert {one.prior_study_instance_uid for one in case.priors} == {f"{ROOT}.{number}" for number in (2, 3, 9)}
    with wiring.read() as connection:
        assert [one.study_instance_uid for one in store.studies(connection)] == [f"{ROOT}.1"]
        assert len(store.instances(connection, f"{ROOT}.1", statuses=InstanceStatus)) == 1


def test_nothing_is_fetched_unless_the_site_wants_priors(pacs: foreign.Orthanc, engine: Engine, tmp_path: Path) -> None:
    case = case_of_reader(wired(pacs, engine, tmp_path, max_studies=0))

    assert (case.priors, (tmp_path / "priors").exists()) == ((), False)


def test_an_archive_that_dies_between_count_and_priors_delays_nothing(
    pacs: foreign.Orthanc, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*_: object) -> None:
        raise PeerUnavailable

    monkeypatch.setattr(archive, "find_series", dead)
    wiring = wired(pacs, engine, tmp_path, max_studies=2)

    assert case_of_reader(wiring).priors == ()
    with database.read(engine) as connection:
        assert store.get_study(connection, f"{ROOT}.1").state is StudyState.COMPLETE
