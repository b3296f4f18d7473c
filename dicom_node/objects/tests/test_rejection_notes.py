"""Reading of rejection notes: only the four titles of IOCM, only the own study, damage rejects nothing."""

import errno
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from casebook.errors import InvalidObject
from casebook.study import RejectionReason
from dicom_node.index.description import describe
from dicom_node.objects.rejection_notes import read_rejection
from dicom_node.objects.sop_classes import KEY_OBJECT_SELECTION
from dicom_node.storage.inbox import StoredInstance

STUDY = "1.2.826.0.1.3680043.10.1561.5"


def item(**values: object) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def evidence(study: str, *uids: str) -> Dataset:
    references = [item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=uid) for uid in uids]
    series = item(SeriesInstanceUID=f"{study}.1", ReferencedSOPSequence=references)
    return item(StudyInstanceUID=study, ReferencedSeriesSequence=[series])


def write_note(path: Path, *studies: Dataset, title: str = "113001", scheme: str = "DCM") -> Path:
    """Write a key object document about the given evidence."""
    ds = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID(KEY_OBJECT_SELECTION)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(f"{STUDY}.9.1")
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = STUDY, f"{STUDY}.9", "KO"
    ds.PatientID, ds.PatientName, ds.PatientBirthDate = "P-5", "Made^Up", ""
    ds.ValueType = "CONTAINER"
    ds.ConceptNameCodeSequence = [item(CodeValue=title, CodingSchemeDesignator=scheme, CodeMeaning="a title")]
    ds.CurrentRequestedProcedureEvidenceSequence = list(studies)
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("title", "reason"),
    [
        ("113001", RejectionReason.QUALITY),
        ("113037", RejectionReason.PATIENT_SAFETY),
        ("113038", RejectionReason.WRONG_WORKLIST_ENTRY),
        ("113039", RejectionReason.RETENTION_EXPIRED),
    ],
)
def test_each_title_of_iocm_rejects_what_the_evidence_lists(
    tmp_path: Path, title: str, reason: RejectionReason
) -> None:
    path = write_note(tmp_path / "note.dcm", evidence(STUDY, "1.2.1", "1.2.2"), title=title)

    assert read_rejection(path, STUDY) == (reason, ("1.2.1", "1.2.2"))


@pytest.mark.parametrize(("title", "scheme"), [("113000", "DCM"), ("113001", "99LOCAL")])
def test_other_key_object_documents_reject_nothing(tmp_path: Path, title: str, scheme: str) -> None:
    path = write_note(tmp_path / "note.dcm", evidence(STUDY, "1.2.1"), title=title, scheme=scheme)

    assert read_rejection(path, STUDY) == (None, ())


def test_only_objects_of_the_own_study_are_rejected(tmp_path: Path) -> None:
    path = write_note(tmp_path / "note.dcm", evidence("1.2.9", "1.2.9.1"), evidence(STUDY, "1.2.1"))

    assert read_rejection(path, STUDY) == (RejectionReason.QUALITY, ("1.2.1",))


def test_a_note_that_names_nothing_is_not_understood(tmp_path: Path) -> None:
    with pytest.raises(InvalidObject):
        read_rejection(write_note(tmp_path / "note.dcm"), STUDY)


def test_a_damaged_note_is_stored_and_rejects_nothing(tmp_path: Path) -> None:
    path = write_note(tmp_path / "note.dcm", evidence(STUDY, "1.2.1"))
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    stored = StoredInstance(path="note.dcm", size_bytes=len(content) - 20, received_at=0.0)

    described = describe(tmp_path, stored, lambda _title, _modality: 30.0)

    assert (described.study_instance_uid, described.rejects) == (STUDY, ())


def test_the_index_knows_what_a_note_rejects(tmp_path: Path) -> None:
    path = write_note(tmp_path / "note.dcm", evidence(STUDY, "1.2.1"))
    stored = StoredInstance(path="note.dcm", size_bytes=path.stat().st_size, received_at=0.0)

    described = describe(tmp_path, stored, lambda _title, _modality: 30.0)

    assert (described.rejection_reason, described.rejects) == (RejectionReason.QUALITY, ("1.2.1",))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "told to fail"), MemoryError()])
def test_a_note_that_cannot_be_read_for_a_moment_is_not_taken_for_one_that_rejects_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = write_note(tmp_path / "note.dcm", evidence(STUDY, "1.2.1"))

    def fail(_path: Path) -> None:
        raise error

    monkeypatch.setattr("dicom_node.objects.rejection_notes.read_stored_header", fail)

    with pytest.raises(type(error)):
        read_rejection(path, STUDY)
