"""The duplicate rule, on real files: variant or conflict."""

import errno
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from casebook.case import Case, Job
from casebook.errors import InvalidObject, Retryable
from casebook.settings import Settings
from casebook.study import Instance, InstanceStatus, Study, StudyState
from casebook.testing import a_header
from codestreams.tests.streams import NAMES, Sample, sample
from dicom_node.objects.classify import classify
from dicom_node.tests.wire import CT

Edit = Callable[[Dataset], None]


def an_image(edit: Edit | None = None) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(CT)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID("1.2.3.4")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.PatientID = "1.2.3", "1.2.3.1", "P-1"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 8, 8, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PhotometricInterpretation, dataset.RescaleSlope, dataset.RescaleIntercept = "MONOCHROME2", "1", "-1024"
    dataset.PixelData = np.arange(64, dtype="<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    if edit is not None:
        edit(dataset)
    return dataset


def a_document(text: str, edit: Edit | None = None) -> Dataset:
    dataset = an_image(edit)
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, keyword)
    dataset.TextValue = text
    return dataset


def verdict(tmp_path: Path, first: Dataset | bytes, second: Dataset | bytes, **other: str) -> tuple[bool, str]:
    instances = []
    for name, content in (("first", first), ("second", second)):
        path = tmp_path / f"{name}.dcm"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            dcmwrite(path, content, enforce_file_format=True)
        instances.append(_instance(path.name))
    repeated = replace(instances[1], header=a_header(**other), status=InstanceStatus.UNCLASSED)
    job = Job(
        id=1,
        step="classify",
        queue="io",
        study_instance_uid="1.2.3",
        generation=1,
        subject=repeated.path,
        attempt=1,
        max_attempts=5,
        fence=1,
    )
    study = Study(study_instance_uid="1.2.3", generation=1, state=StudyState.RECEIVED)
    case = Case(job=job, study=study, instances=(instances[0],), repeated=repeated)
    found = classify(case, Settings(data_directory=tmp_path))
    return found.is_variant, found.reason


def _instance(path: str) -> Instance:
    return Instance(
        series_instance_uid="1.2.3.1", sop_instance_uid="1.2.3.4", sop_class_uid=CT, transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="CT", attributes={}, header=a_header(), path=path, status=InstanceStatus.CURRENT,
    )  # fmt: skip


def _renamed(dataset: Dataset) -> None:
    dataset.SeriesDescription = "corrected later"
    dataset.RescaleSlope = "1.0"


def _implicit(dataset: Dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def _compressed(dataset: Dataset) -> None:
    dataset.compress(RLELossless, generate_instance_uid=False)


@pytest.mark.parametrize("edit", [_renamed, _implicit, _compressed])
def test_the_same_picture_of_the_same_patient_is_a_variant(tmp_path: Path, edit: Edit) -> None:
    assert verdict(tmp_path, an_image(), an_image(edit)) == (True, "")


def _coded(one: Sample, stream: bytes | None = None) -> Edit:
    def edit(dataset: Dataset) -> None:
        dataset.Rows, dataset.Columns = one.values.shape
        dataset.BitsAllocated, dataset.BitsStored = one.described.bits_allocated, one.described.bits_stored
        dataset.HighBit = one.described.high_bit
        dataset.PixelData = one.values.tobytes()
        if stream is not None:
            dataset.file_meta.TransferSyntaxUID = UID(one.transfer_syntax_uid)
            dataset.PixelData = encapsulate([stream])
            dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True

    return edit


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.startswith(("lossless", "JPEG-LS", "JPEG 2000", "RLE"))]
)
def test_a_copy_in_another_codec_is_a_variant_and_one_cut_off_in_it_is_not(tmp_path: Path, name: str) -> None:
    one = sample(name)
    cut = one.stream[: len(one.stream) // 2 * 2 - 200]

    assert verdict(tmp_path, an_image(_coded(one)), an_image(_coded(one, one.stream))) == (True, "")
    assert verdict(tmp_path, an_image(_coded(one)), an_image(_coded(one, cut))) == (False, "other_pixels")


def test_group_2_inside_of_a_copy_does_not_change_its_transfer_syntax(tmp_path: Path) -> None:
    dcmwrite(tmp_path / "plain.dcm", an_image(_renamed), enforce_file_format=True)
    content = (tmp_path / "plain.dcm").read_bytes()
    end = 144 + int.from_bytes(content[140:144], "little")
    foreign = b"\x02\0\x10\0UI\x12\0" + b"1.2.840.10008.1.2\0"

    assert verdict(tmp_path, an_image(), content[:end] + foreign + content[end:]) == (True, "")


def _brighter(dataset: Dataset) -> None:
    dataset.PixelData = np.arange(1, 65, dtype="<u2").tobytes()


def _negative(dataset: Dataset) -> None:
    dataset.PhotometricInterpretation = "MONOCHROME1"


def _rescaled(dataset: Dataset) -> None:
    dataset.RescaleIntercept = "0"


def _reshaped(dataset: Dataset) -> None:
    dataset.Rows, dataset.Columns = 4, 16


@pytest.mark.parametrize("edit", [_brighter, _negative, _rescaled, _reshaped])
def test_another_picture_is_a_conflict(tmp_path: Path, edit: Edit) -> None:
    assert verdict(tmp_path, an_image(), an_image(edit)) == (False, "other_pixels")


@pytest.mark.parametrize(
    "other", [{"patient_id": "P-2"}, {"accession_number": "A2"}, {"patient_birth_date": "19700101"}]
)
def test_another_identity_is_a_conflict_whatever_the_pixels(tmp_path: Path, other: dict[str, str]) -> None:
    assert verdict(tmp_path, an_image(), an_image(_renamed), **other) == (False, "other_identity")


def _of_another_study(dataset: Dataset) -> None:
    dataset.StudyInstanceUID = "9.9"


def test_another_study_is_a_conflict(tmp_path: Path) -> None:
    assert verdict(tmp_path, an_image(), an_image(_of_another_study)) == (False, "other_study")


def _file_of(dataset: Dataset) -> bytes:
    file = BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def _with_another_vr(content: bytes) -> bytes:
    # Explicit VR: tag, VR. No such value representation exists.
    return content.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00ZZ")


#: What a disk or a hand does to a file, and pydicom answers with an error of another kind each.
DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda _content: b"no dicom",
    lambda _content: b"",
    lambda content: content[:100],
    lambda content: content[:200],
    lambda content: content[: content.index(b"\x28\x00\x10\x00") + 9],
    lambda content: content[:-40],
    lambda content: content[:132] + bytes(len(content) - 132),
    lambda content: content[:132] + b"\xff" * (len(content) - 132),
    _with_another_vr,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_a_verdict_and_no_failure_of_the_disk(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    whole = _file_of(an_image())
    damaged = damage(whole)
    assert damaged != whole

    assert verdict(tmp_path, whole, damaged) == (False, "unreadable")
    assert verdict(tmp_path, damaged, whole) == (False, "first_copy_unreadable")


@pytest.mark.parametrize("error", [OSError("made up by a parser"), OSError(errno.EINVAL, "seek"), EOFError()])
def test_an_error_that_a_parser_makes_of_damage_is_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("dicom_node.objects.stored_header.dcmread", fail)

    assert verdict(tmp_path, an_image(), an_image(_renamed)) == (False, "first_copy_unreadable")


def test_a_document_is_compared_by_its_content_and_not_by_its_header(tmp_path: Path) -> None:
    assert verdict(tmp_path, a_document("normal"), a_document("normal", _renamed_header)) == (True, "")
    assert verdict(tmp_path, a_document("normal"), a_document("abnormal")) == (False, "other_content")
    assert verdict(tmp_path, an_image(), a_document("normal")) == (False, "other_pixels")


def _renamed_header(dataset: Dataset) -> None:
    dataset.SeriesDescription = "corrected later"


def _undecodable(dataset: Dataset) -> None:
    dataset.PixelData = b"\x00" * 10


def test_pixels_that_nobody_can_decode_are_compared_byte_by_byte(tmp_path: Path) -> None:
    def otherwise(dataset: Dataset) -> None:
        dataset.PixelData = b"\x01" * 10

    assert verdict(tmp_path, an_image(_undecodable), an_image(_undecodable)) == (True, "")
    assert verdict(tmp_path, an_image(_undecodable), an_image(otherwise)) == (False, "other_pixels")


def test_a_case_without_its_first_copy_is_an_error(tmp_path: Path) -> None:
    job = Job(
        id=1,
        step="classify",
        queue="io",
        study_instance_uid="1.2.3",
        generation=1,
        subject="x",
        attempt=1,
        max_attempts=5,
        fence=1,
    )
    study = Study(study_instance_uid="1.2.3", generation=1, state=StudyState.RECEIVED)
    for repeated in (None, _instance("second.dcm")):
        with pytest.raises(InvalidObject):
            classify(Case(job=job, study=study, instances=(), repeated=repeated), Settings(data_directory=tmp_path))


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "told to fail"), MemoryError()])
def test_a_copy_that_cannot_be_read_for_a_moment_is_compared_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("dicom_node.objects.stored_header.dcmread", fail)

    with pytest.raises(Retryable):
        verdict(tmp_path, an_image(), an_image(_renamed))


def test_pixels_that_cannot_be_read_for_a_moment_are_compared_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ESTALE, "told to fail")

    monkeypatch.setattr("dicom_node.objects.classify.get_decoder", fail)

    with pytest.raises(Retryable):
        verdict(tmp_path, an_image(), an_image(_implicit))
