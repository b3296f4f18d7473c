"""The count against a scripted archive: one that fails, lies, lists little, or sends what nobody asked for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from casebook.case import Case, Job
from casebook.errors import PeerUnavailable, Retryable, SettingsError
from casebook.outcomes import Counted, Held
from casebook.settings import Settings
from casebook.study import Instance, InstanceStatus, StudyHeader, StudyState
from casebook.study import Study as StudyRecord
from dicom_node.archive.count import count

STUDY = "1.2.826.0.1.3680043.10.1561.6"


@dataclass
class Script:
    """What the archive says."""

    images: list[str] = field(default_factory=list)
    #: NumberOfStudyRelatedInstances; absent where None.
    total: int | None = None
    studies: int = 1
    sends: list[Dataset] = field(default_factory=list)
    lists_classes: bool = True
    sop_class_uid: str = CTImageStorage
    find_status: int = 0x0000
    get_status: int | None = None
    aborts: bool = False
    asked: list[str] = field(default_factory=list)


def image(uid: str, study: str = STUDY) -> Dataset:
    """Return an object that the archive may send."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, UID(uid)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
    ds.PatientID, ds.Modality = "P-6", "CT"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


@contextmanager
def archive(script: Script) -> Iterator[Settings]:
    """Run the archive on loopback and return settings that name it."""

    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        level = str(event.identifier.QueryRetrieveLevel)
        script.asked.append(level)
        if script.aborts:
            event.assoc.abort()
            return
        if script.find_status:
            yield script.find_status, None
            return
        for answer in answers(level):
            yield 0xFF00, answer

    def answers(level: str) -> Iterator[Dataset]:
        for number in range({"STUDY": script.studies, "SERIES": 1}.get(level, len(script.images))):
            ds = Dataset()
            ds.QueryRetrieveLevel, ds.StudyInstanceUID = level, STUDY
            if level == "STUDY" and script.total is not None:
                ds.NumberOfStudyRelatedInstances = script.total
            if level != "STUDY":
                ds.SeriesInstanceUID, ds.Modality = f"{STUDY}.1", "CT"
            if level == "IMAGE":
                ds.SOPInstanceUID = script.images[number]
                if script.lists_classes:
                    ds.SOPClassUID = script.sop_class_uid
            yield ds

    def get(event: Any) -> Iterator[Any]:
        script.asked.append("GET")
        yield len(script.sends)
        if script.get_status is not None:
            yield script.get_status, None
            return
        for ds in script.sends:
            yield 0xFF00, ds

    entity = AE("PACS")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
    entity.add_supported_context(CTImageStorage, ExplicitVRLittleEndian, scu_role=False, scp_role=True)
    server: Any = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find), (evt.EVT_C_GET, get)]
    )
    port = server.socket.getsockname()[1]
    try:
        yield Settings.model_validate(
            {
                "archive": {
                    "host": "127.0.0.1",
                    "port": port,
                    "ae_title": "PACS",
                    "pull": "c_get",
                    "timeout_s": 5,
                },
                "listener": {"min_free_bytes": 0},
            }
        )
    finally:
        server.shutdown()
        server.server_close()


def a_case(*uids: str, set_aside: Sequence[str] = (), issued: Sequence[str] = ()) -> Case:
    """Return a count job of a study that holds these images."""
    return Case(
        job=Job(
            id=1,
            step="count",
            queue="io",
            study_instance_uid=STUDY,
            generation=1,
            subject="1",
            attempt=1,
            max_attempts=1,
            fence=1,
        ),
        study=StudyRecord(study_instance_uid=STUDY, generation=1, state=StudyState.RECEIVED),
        instances=tuple(
            Instance(
                series_instance_uid=f"{STUDY}.1",
                sop_instance_uid=uid,
                sop_class_uid=CTImageStorage,
                transfer_syntax_uid=ExplicitVRLittleEndian,
                modality="CT",
                attributes={},
                header=StudyHeader(),
                path=f"{uid}.dcm",
                status=InstanceStatus.CURRENT,
            )
            for uid in uids
        ),
        set_aside_uids=tuple(set_aside),
        issued_uids=tuple(issued),
    )


def ask(script: Script, case: Case, folder: Path) -> Counted | Held:
    with archive(script) as settings:
        return count(case, settings.model_copy(update={"data_directory": folder}))


def test_an_equal_count_is_believed_without_listing(tmp_path: Path) -> None:
    script = Script(images=["1.1", "1.2"], total=2)

    assert ask(script, a_case("1.1", "1.2"), tmp_path) == Counted(expected=2)
    assert script.asked == ["STUDY"]


def test_an_archive_that_does_not_count_is_asked_for_a_list(tmp_path: Path) -> None:
    script = Script(images=["1.1", "1.2"])

    assert ask(script, a_case("1.1", "1.2"), tmp_path) == Counted(expected=2)
    assert script.asked == ["STUDY", "SERIES", "IMAGE"]


def test_our_own_results_and_rejected_images_are_not_missing(tmp_path: Path) -> None:
    script = Script(images=["1.1", "1.2", "1.3"], total=3)

    assert ask(script, a_case("1.1", set_aside=["1.2"], issued=["1.3"]), tmp_path) == Counted(expected=1)


@pytest.mark.parametrize("lists_classes", [True, False])
def test_a_missing_image_is_fetched_and_durable(tmp_path: Path, lists_classes: bool) -> None:
    script = Script(images=["1.1", "1.2"], total=2, sends=[image("1.2")], lists_classes=lists_classes)

    outcome = ask(script, a_case("1.1"), tmp_path)

    assert isinstance(outcome, Counted)
    assert (outcome.expected, [one.sop_instance_uid for one in outcome.pulled]) == (2, ["1.2"])
    (pulled,) = outcome.pulled
    assert (pulled.calling_ae_title, pulled.study_instance_uid) == ("PACS", STUDY)
    assert (tmp_path / pulled.path).stat().st_size == pulled.size_bytes


@pytest.mark.parametrize("sent", [image("1.9"), image("1.2", study="1.2.3")])
def test_an_object_that_nobody_asked_for_or_of_another_study_is_not_kept(tmp_path: Path, sent: Dataset) -> None:
    script = Script(images=["1.1", "1.2"], total=2, sends=[sent])

    assert ask(script, a_case("1.1"), tmp_path) == Counted(expected=2)
    assert list((tmp_path / "inbox").rglob("*.dcm")) == []


def test_an_archive_that_cannot_send_still_counts(tmp_path: Path) -> None:
    script = Script(images=["1.1", "1.2"], total=2, get_status=0xA702)

    assert ask(script, a_case("1.1"), tmp_path) == Counted(expected=2)


@pytest.mark.parametrize("script", [Script(find_status=0xA700), Script(aborts=True)])
def test_an_archive_that_fails_is_asked_later(tmp_path: Path, script: Script) -> None:
    with pytest.raises(PeerUnavailable):
        ask(script, a_case("1.1"), tmp_path)


@pytest.mark.parametrize("script", [Script(studies=0), Script(images=["1.1"], total=1)])
def test_an_archive_that_has_less_than_is_here_is_asked_later(tmp_path: Path, script: Script) -> None:
    with pytest.raises(Retryable):
        ask(script, a_case("1.1", "1.2"), tmp_path)


def test_a_study_that_the_archive_has_twice_is_held(tmp_path: Path) -> None:
    outcome = ask(Script(studies=2, total=1), a_case("1.1"), tmp_path)

    assert isinstance(outcome, Held)
    assert outcome.reason == "archive_has_study_twice"


# pynetdicom leaves a socket that could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_port_where_nobody_listens_is_unavailable(tmp_path: Path) -> None:
    with archive(Script()) as settings:
        pass

    with pytest.raises(PeerUnavailable):
        count(a_case("1.1"), settings)


def test_without_an_archive_nothing_can_be_counted() -> None:
    with pytest.raises(SettingsError):
        count(a_case("1.1"), Settings())
