"""The header: what the index knows of an object, from its bytes."""

import io
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from casebook.errors import InvalidObject
from casebook.study import CodedConcept, ReceivedInstance
from dicom_node.index import description
from dicom_node.index.description import MATCHING_KEYWORDS, describe
from dicom_node.objects.file_meta import Envelope
from dicom_node.objects.identification import DataSet, identify
from dicom_node.storage.inbox import Inbox, StoredInstance
from dicom_node.tests.wire import CT, EXPLICIT

IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"


def a_dataset() -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CT
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.1"
    dataset.Modality = "CT"
    dataset.PatientName = "Müller^Jörg=山田^太郎"
    dataset.PatientID = "P-1"
    dataset.PatientBirthDate = "19600102"
    dataset.AccessionNumber = "A1"
    dataset.StudyDescription = "Thorax nativ"
    dataset.BodyPartExamined = "CHEST"
    dataset.Rows, dataset.Columns = 512, 256
    dataset.NumberOfFrames = 3
    dataset.TimezoneOffsetFromUTC = "+0100"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "24627-2", "LN", "CT Thorax"
    dataset.ProcedureCodeSequence = Sequence([code])
    dataset.AdmissionID = "V1"
    return dataset


def encoded(dataset: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax == IMPLICIT
    buffer.is_little_endian = syntax != BIG_ENDIAN
    dataset.set_original_encoding(buffer.is_implicit_VR, buffer.is_little_endian)
    write_dataset(buffer, dataset)
    content = bytes(buffer.getvalue())
    if syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        content = deflater.compress(content) + deflater.flush()
    return content


def a_data_set(content: bytes, syntax: str = EXPLICIT, head: bytes | None = None) -> DataSet:
    return DataSet(
        head=content if head is None else head,
        size_bytes=len(content),
        transfer_syntax_uid=syntax,
        opened=lambda: io.BytesIO(content),
    )


def land(tmp_path: Path, content: bytes, syntax: str = EXPLICIT, uid: str = "1.2.3.4") -> StoredInstance:
    inbox = Inbox(tmp_path)
    envelope = Envelope(sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=syntax, calling_ae_title="CT01")
    incoming = inbox.incoming(envelope)
    incoming.write([content])
    stored = incoming.commit()
    inbox.close()
    return stored


def described(tmp_path: Path, content: bytes, syntax: str = EXPLICIT, uid: str = "1.2.3.4") -> ReceivedInstance:
    return describe(tmp_path, land(tmp_path, content, syntax, uid), lambda _ae, _modality: 30.0)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
@pytest.mark.parametrize("undefined_length", [False, True])
def test_the_header_is_the_same_in_every_encoding(tmp_path: Path, syntax: str, undefined_length: bool) -> None:
    dataset = a_dataset()
    dataset.ProcedureCodeSequence.is_undefined_length = undefined_length
    dataset.ProcedureCodeSequence[0].is_undefined_length_sequence_item = undefined_length

    found = described(tmp_path, encoded(dataset, syntax), syntax)

    assert found.header.patient_name == "Müller^Jörg=山田^太郎"
    assert found.header.identity.patient_id == "P-1"
    assert found.header.identity.accession_number == "A1"
    assert found.header.procedure_codes == (CodedConcept(value="24627-2", scheme="LN", meaning="CT Thorax"),)
    assert found.header.admission_id == "V1"
    assert found.attributes["Rows"] == "512"
    assert found.attributes["Columns"] == "256"
    assert found.attributes["NumberOfFrames"] == "3"
    assert found.attributes["BodyPartExamined"] == "CHEST"
    assert (found.modality, found.series_instance_uid) == ("CT", "1.2.3.1")


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "1.2/3", "9" * 65])
def test_an_object_without_its_uids_is_refused_before_it_is_acknowledged(keyword: str, value: str | None) -> None:
    dataset = a_dataset()
    if value is None:
        delattr(dataset, keyword)
    else:
        dataset[keyword]._value = value
    content = encoded(dataset, EXPLICIT)

    with pytest.raises(InvalidObject):
        identify(a_data_set(content))


def test_the_uids_are_found_behind_a_long_private_header() -> None:
    dataset = a_dataset()
    dataset.add_new(0x00090010, "LO", "VENDOR")
    dataset.add_new(0x00091001, "OB", bytes(200_000))
    content = encoded(dataset, EXPLICIT)

    found = identify(a_data_set(content, head=content[:16384]))

    assert found.study_instance_uid == "1.2.3"


def test_the_uids_are_found_without_reading_back_in_the_usual_case() -> None:
    content = encoded(a_dataset(), EXPLICIT) + b"\xe0\x7f\x10\x00OW\x00\x00" + (1 << 20).to_bytes(4, "little")

    def opened() -> NoReturn:
        raise AssertionError("read back")

    data_set = replace(a_data_set(content), size_bytes=len(content) + (1 << 20), opened=opened)
    assert identify(data_set).sop_instance_uid == "1.2.3.4"


def test_a_private_sequence_of_unknown_vr_is_stepped_over(tmp_path: Path) -> None:
    # PS3.5 6.2.2: UN of undefined length holds items in implicit VR little endian.
    inner = b"\x08\x00\x05\x01\x04\x00\x00\x00" + b"abcd"
    private = b"\x09\x00\x10\x10UN\x00\x00\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner
    private += b"\xfe\xff\x0d\xe0\x00\x00\x00\x00" + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    content = encoded(a_dataset(), EXPLICIT)
    at = content.index(b"\x10\x00\x10\x00PN")

    assert described(tmp_path, content[:at] + private + content[at:]).header.patient_name.startswith("Müller")


def test_a_damaged_value_costs_itself_and_not_the_object(tmp_path: Path) -> None:
    dataset = a_dataset()
    dataset.SpecificCharacterSet = "NO SUCH SET"
    content = encoded(a_dataset(), EXPLICIT).replace(b"ISO_IR 192", b"NO SUCH  S")

    found = described(tmp_path, content)

    assert found.header.identity.patient_id == "P-1"
    assert "\x00" not in found.header.patient_name


def test_control_characters_never_reach_the_index(tmp_path: Path) -> None:
    content = encoded(a_dataset(), EXPLICIT).replace(b"Thorax nativ", b"Tho\x00ax\x1bnat\x07.")

    assert described(tmp_path, content).header.study_description == ""


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidObject):
        described(tmp_path, b"\xff" * 5000)


def test_a_data_set_that_names_another_instance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidObject):
        described(tmp_path, encoded(a_dataset(), EXPLICIT), uid="1.2.3.99")


def test_the_checksum_is_of_the_data_set_alone(tmp_path: Path) -> None:
    content = encoded(a_dataset(), EXPLICIT)
    first = described(tmp_path / "a", content)
    inbox_path = land(tmp_path / "b", content)

    assert first.sha256 == describe(tmp_path / "b", inbox_path, lambda _ae, _modality: 1.0).sha256


@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")  # pydicom warns about what it forgives
def test_real_headers_read_as_pydicom_reads_them(corpus: Path, tmp_path: Path) -> None:
    count = 0
    for path in sorted((corpus / "dicom").rglob("*")):
        reference = _reference(path)
        if reference is None:
            continue
        dataset, content = reference
        syntax, uid = str(dataset.file_meta.TransferSyntaxUID), str(dataset.SOPInstanceUID)
        found = described(tmp_path / str(count), content, syntax, uid)
        count += 1
        for keyword in MATCHING_KEYWORDS:
            wanted = _text(dataset.get(keyword))
            assert found.attributes.get(keyword, "") == wanted, (path.name, keyword)
        assert found.header.identity.patient_id == _text(dataset.get("PatientID")), path.name
        assert found.header.identity.patient_birth_date == _text(dataset.get("PatientBirthDate")), path.name
        assert found.study_instance_uid == str(dataset.StudyInstanceUID), path.name
    assert count >= 250


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        value = "\\".join(map(str, value))
    return str(value).strip(" ")


def _reference(path: Path) -> tuple[Any, bytes] | None:
    if not path.is_file() or path.stat().st_size > 30_000_000:
        return None
    content = path.read_bytes()
    if content[128:132] != b"DICM":
        return None
    try:
        dataset = dcmread(io.BytesIO(content), stop_before_pixels=True)
        meta: FileMetaDataset = dataset.file_meta
        end = 144 + meta.FileMetaInformationGroupLength
        usable = all(dataset.get(keyword) for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"))
        # A DICOMDIR is no instance; a file whose own meta length is wrong cannot be cut.
        if (
            not usable
            or "TransferSyntaxUID" not in meta
            or "DirectoryRecordSequence" in dataset
            or content[end : end + 2] not in {b"\x08\x00", b"\x00\x08"}
        ):
            return None
    except Exception:
        return None
    return dataset, content[end:]


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_a_small_object_is_described_from_memory_as_from_its_file(tmp_path: Path, syntax: str) -> None:
    content = encoded(a_dataset(), syntax)
    stored = land(tmp_path, content, syntax)
    from_file = describe(tmp_path, stored, lambda _ae, _modality: 1.0)
    (tmp_path / stored.path).unlink()

    from_memory = describe(tmp_path, replace(stored, head=content), lambda _ae, _modality: 1.0)

    assert from_memory == from_file
    # What a log or a message shows of it holds nothing of the patient.
    assert "P-1" not in repr(replace(stored, head=content))


def test_what_differs_within_a_series_is_each_objects_own(tmp_path: Path) -> None:
    found = []
    for uid, number, patient_id in [("1.2.3.4", 1, "P-1"), ("1.2.3.5", 2, "P-1"), ("1.2.3.6", 3, "P-2")]:
        dataset = a_dataset()
        dataset.SOPInstanceUID, dataset.InstanceNumber, dataset.PatientID = uid, number, patient_id
        found.append(described(tmp_path, encoded(dataset, EXPLICIT), uid=uid))

    assert [one.sop_instance_uid for one in found] == ["1.2.3.4", "1.2.3.5", "1.2.3.6"]
    assert [one.attributes["InstanceNumber"] for one in found] == ["1", "2", "3"]
    assert [one.header.identity.patient_id for one in found] == ["P-1", "P-1", "P-2"]
    assert {one.attributes["BodyPartExamined"] for one in found} == {"CHEST"}


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_long_values_are_not_kept_for_the_next_object(tmp_path: Path, syntax: str) -> None:
    description._common_of.cache_clear()
    dataset = a_dataset()
    codes = []
    for number in range(1000):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = f"C{number}", "99X", "a long procedure " * 2
        codes.append(code)
    dataset.ProcedureCodeSequence = Sequence(codes)

    found = described(tmp_path, encoded(dataset, syntax), syntax)

    assert len(found.header.procedure_codes) == 1000
    assert description._common_of.cache_info().currsize == 0
