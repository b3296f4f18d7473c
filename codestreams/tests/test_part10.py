"""Group 0002 inside of a data set is no meta information of the file."""

import struct
from io import BytesIO

import pytest

from codestreams.part10 import without_foreign_meta


def explicit(group: int, element: int, vr: bytes, value: bytes, order: str = "<") -> bytes:
    head = struct.pack(f"{order}HH", group, element) + vr
    if vr in {b"OB", b"UN", b"UT"}:
        return head + b"\0\0" + struct.pack(f"{order}L", len(value)) + value
    return head + struct.pack(f"{order}H", len(value)) + value


def implicit(group: int, element: int, value: bytes) -> bytes:
    return struct.pack("<HHL", group, element, len(value)) + value


def part10(transfer_syntax_uid: bytes, dataset: bytes) -> bytes:
    meta = explicit(2, 0x10, b"UI", transfer_syntax_uid + b"\0" * (len(transfer_syntax_uid) % 2))
    return bytes(128) + b"DICM" + explicit(2, 0, b"UL", struct.pack("<L", len(meta))) + meta + dataset


def read(content: bytes) -> bytes:
    return without_foreign_meta(BytesIO(content)).read()


LITTLE, IMPLICIT, BIG = b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.2"
OTHER = b"1.2.840.10008.1.2.4.70"


@pytest.mark.parametrize(
    ("uid", "foreign", "own"),
    [
        (LITTLE, explicit(2, 0x10, b"UI", OTHER), explicit(8, 0x60, b"CS", b"CR")),
        (
            LITTLE,
            explicit(2, 0, b"UL", b"\x20\0\0\0") + explicit(2, 1, b"OB", b"\0\1") + explicit(2, 0x10, b"UI", OTHER),
            explicit(8, 0x60, b"CS", b"CR"),
        ),
        (IMPLICIT, implicit(2, 0x10, OTHER), implicit(8, 0x60, b"CR")),
        (LITTLE, implicit(2, 0x10, OTHER), explicit(8, 0x60, b"CS", b"CR")),
        (BIG, explicit(2, 0x10, b"UI", OTHER, ">"), explicit(8, 0x60, b"CS", b"CR", ">")),
        (LITTLE, explicit(2, 0x13, b"SH", b"SENDER"), b""),
    ],
)
def test_group_2_of_a_data_set_is_hidden(uid: bytes, foreign: bytes, own: bytes) -> None:
    assert read(part10(uid, foreign + own)) == part10(uid, own)


@pytest.mark.parametrize(
    "content",
    [
        part10(LITTLE, explicit(8, 0x60, b"CS", b"CR")),
        part10(LITTLE, b""),
        b"",
        b"no DICOM at all",
        bytes(128) + b"DICM" + explicit(2, 0x10, b"UI", LITTLE + b"\0"),
    ],
)
def test_any_other_file_stays_as_it_is(content: bytes) -> None:
    file = BytesIO(content)

    assert without_foreign_meta(file) is file
    assert file.tell() == 0
