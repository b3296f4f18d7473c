"""A stored file as the plain file that it stands for."""

import errno
import struct
import zlib
from io import BytesIO
from pathlib import Path

import pytest

from casebook.errors import OverBounds
from codestreams.bounds import HEADER_BOUNDS
from codestreams.stored_file import as_plain, bounded, counted, is_trouble_of_the_machine, open_plain
from codestreams.tests.test_part10 import LITTLE, explicit, part10

DEFLATED = b"1.2.840.10008.1.2.1.99"
FOREIGN = explicit(2, 0x10, b"UI", b"1.2.840.10008.1.2.4.70")
OWN = explicit(8, 0x60, b"CS", b"CR") + explicit(0x10, 0x20, b"LO", b"P1")


def deflate(content: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(content) + deflater.flush()


@pytest.mark.parametrize("foreign", [b"", FOREIGN])
def test_a_deflated_file_is_read_as_the_explicit_one_that_it_stands_for(tmp_path: Path, foreign: bytes) -> None:
    path = tmp_path / "deflated.dcm"
    path.write_bytes(part10(DEFLATED, deflate(foreign + OWN)))

    with open_plain(path, with_pixels=True) as plain:
        assert plain.transfer_syntax_uid == "1.2.840.10008.1.2.1"
        plain.file.seek(plain.data_set_at or 0)
        assert plain.file.read() == OWN
        plain.file.seek(0)
        # PS3.5 9.1: a UID may be padded.
        assert plain.file.read() == part10(LITTLE.ljust(len(DEFLATED), b"\0"), OWN)


def test_a_plain_file_stays_as_it_is() -> None:
    file = BytesIO(part10(LITTLE, OWN))

    assert as_plain(file, with_pixels=False).file is file


def test_a_deflated_header_may_inflate_to_less_than_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "deflated.dcm"
    long = explicit(0x29, 0x1010, b"UN", b"")[:8] + struct.pack("<L", HEADER_BOUNDS.longest_bytes)
    path.write_bytes(part10(DEFLATED, deflate(long + bytes(HEADER_BOUNDS.longest_bytes) + OWN)))

    with open_plain(path, with_pixels=False) as plain, pytest.raises(OverBounds):
        bounded(plain, sequences=frozenset())
    with open_plain(path, with_pixels=True) as plain:
        bounded(plain, sequences=frozenset())


def test_a_file_that_nobody_understands_is_given_out_in_a_smaller_measure() -> None:
    odd = explicit(8, 0x60, b"ZZ", b"CR") + bytes(HEADER_BOUNDS.longest_uncounted_bytes)
    within = bounded(as_plain(BytesIO(part10(LITTLE, odd)), with_pixels=False), sequences=frozenset())

    with pytest.raises(OverBounds):
        within.file.read()


def test_a_reader_gets_so_many_bytes_and_no_more() -> None:
    file = counted(BytesIO(bytes(100)), 60)

    assert len(file.read(50)) == 50
    file.seek(0)
    with pytest.raises(OverBounds):
        file.read(20)


@pytest.mark.parametrize(
    ("error", "is_trouble"),
    [
        (OSError(errno.EIO, ""), True),
        (OSError(errno.EACCES, ""), True),
        (OSError(errno.ENOENT, ""), True),
        (MemoryError(), True),
        (OSError("made up by a parser"), False),
        (OSError(errno.EINVAL, ""), False),
        (ValueError(), False),
    ],
)
def test_trouble_of_the_machine_is_told_from_damage(error: Exception, is_trouble: bool) -> None:
    assert is_trouble_of_the_machine(error) is is_trouble
