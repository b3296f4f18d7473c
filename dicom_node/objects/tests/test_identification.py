"""Whose a data set is, from its bytes."""

import io

import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from casebook.errors import InvalidObject
from casebook.identity import exact_text, inexact
from dicom_node.objects.identification import DataSet, forgiving_values, raw_value, whose

EXPLICIT = "1.2.840.10008.1.2.1"


def an_element(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    tag = group.to_bytes(2, "little") + element.to_bytes(2, "little")
    return tag + vr + len(value).to_bytes(2, "little") + value


def a_data_set(patient_id: bytes, character_set: bytes = b"ISO_IR 192") -> bytes:
    return (
        an_element(0x0008, 0x0005, b"CS", character_set)
        + an_element(0x0008, 0x0050, b"SH", b"A1")
        + an_element(0x0010, 0x0010, b"PN", "Doe^Jo=王".encode())
        + an_element(0x0010, 0x0020, b"LO", patient_id)
    )


def lying(content: bytes) -> DataSet:
    return DataSet(
        head=content,
        size_bytes=len(content),
        transfer_syntax_uid=EXPLICIT,
        opened=lambda: io.BytesIO(content),
    )


def read(content: bytes) -> Dataset:
    return read_dataset(io.BytesIO(content), is_implicit_VR=False, is_little_endian=True)


def test_the_header_of_a_data_set_is_read_from_its_bytes() -> None:
    header = whose(read(a_data_set(b"P1 ")))

    assert (header.identity.patient_id, header.identity.accession_number) == ("P1", "A1")
    assert header.patient_name == "Doe^Jo=王"
    assert exact_text(header, "issuer_of_patient_id") == ""
    assert {one.keyword for one in header.identifying} == {"PatientID", "AccessionNumber", "PatientName"}


@pytest.mark.parametrize("patient_id", [b"\xc4123", b"P\x071", b"P\\1"])
def test_what_pydicom_would_mend_is_not_exact(patient_id: bytes) -> None:
    header = whose(read(a_data_set(patient_id)))

    assert [one.keyword for one in inexact([header])] == ["PatientID"]
    assert header.identity.patient_id == ""


def test_a_value_that_pydicom_has_decoded_has_lost_its_bytes() -> None:
    ds = read(a_data_set("王1".encode()))
    assert ds.PatientID == "王1"
    assert ds.AccessionNumber == "A1"

    assert raw_value(ds, "AccessionNumber") == b"A1"
    assert raw_value(ds, "IssuerOfPatientID") == b""
    with pytest.raises(InvalidObject, match="the bytes of PatientID are lost"):
        whose(ds)


def test_what_is_found_by_pydicom_alone_keeps_its_bytes_too() -> None:
    found = forgiving_values(lying(a_data_set(b"\xc4123")), ("PatientID", "SpecificCharacterSet", "Modality"))

    assert found.raw == {"PatientID": b"\xc4123 "[:4], "SpecificCharacterSet": b"ISO_IR 192"}


@pytest.mark.parametrize("vr", [b"??", b"ZZ", b"  ", b"\x00\x01", b"lo"])
@pytest.mark.parametrize("patient_id", [b"", b"P1"])
def test_an_unknown_vr_hides_no_bytes_and_never_ends_who_reads_it(vr: bytes, patient_id: bytes) -> None:
    content = a_data_set(patient_id)
    place = content.index(b"\x10\x00\x20\x00LO") + 4
    content = content[:place] + vr + content[place + 2 :]

    assert forgiving_values(lying(content), ("PatientID",)).raw == {"PatientID": patient_id}
