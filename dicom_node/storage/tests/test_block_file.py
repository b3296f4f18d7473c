"""Files that go past the page cache: whole, whatever the device does."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from dicom_node.storage.block_file import BLOCK_BYTES, SMALL_FILE_BYTES, BlockFile, Blocks
from dicom_node.storage.file_system import FileSystem

SIZES = (
    1,
    SMALL_FILE_BYTES,
    SMALL_FILE_BYTES + 1,
    BLOCK_BYTES - 1,
    BLOCK_BYTES,
    BLOCK_BYTES + 1,
    2 * BLOCK_BYTES + 4096,
    3 * BLOCK_BYTES + 4097,
)


class Device(FileSystem):
    """A real disk that notes how it is written to, and that can be as awkward as some are."""

    def __init__(self) -> None:
        self.direct: set[int] = set()
        #: Length of each write, and whether it went past the page cache.
        self.writes: list[tuple[int, bool]] = []
        self.offers_direct = True
        self.multiple = 1
        self.longest_write_bytes = BLOCK_BYTES

    def set_direct(self, descriptor: int, *, direct: bool) -> bool:
        if direct and not self.offers_direct:
            return False
        self.direct.discard(descriptor)
        if super().set_direct(descriptor, direct=direct):
            self.direct.add(descriptor)
        return direct

    def write(self, descriptor: int, buffers: Sequence[bytes | memoryview]) -> int:
        (buffer,) = buffers
        is_direct = descriptor in self.direct
        if is_direct and len(buffer) % self.multiple:
            raise OSError(errno.EINVAL, "not a multiple of the logical block")
        written = super().write(descriptor, [memoryview(buffer)[: self.longest_write_bytes]])
        self.writes.append((written, is_direct))
        return written


def pieces(content: bytes) -> list[memoryview]:
    random, found, position = Random(7), [], 0
    while position < len(content):
        count = random.choice((1, 100, 16_374, 65_530, 262_138))
        found.append(memoryview(content)[position : position + count])
        position += count
    return found


def written(tmp_path: Path, device: Device, size_bytes: int) -> tuple[bytes, bytes]:
    """Write a file, and return what was wanted and what is there."""
    content = Random(size_bytes).randbytes(size_bytes)
    file = BlockFile(device, Blocks(), tmp_path / "file")
    for piece in pieces(content):
        file.append([piece])
    file.settle()
    assert file.size_bytes == size_bytes
    file.close()
    return content, (tmp_path / "file").read_bytes()


@pytest.mark.parametrize("size_bytes", SIZES)
def test_a_file_of_any_length_has_the_bytes_that_came(tmp_path: Path, size_bytes: int) -> None:
    wanted, found = written(tmp_path, Device(), size_bytes)

    assert found == wanted


@pytest.mark.parametrize("size_bytes", SIZES)
def test_where_the_file_system_offers_no_direct_writes_the_bytes_are_the_same(tmp_path: Path, size_bytes: int) -> None:
    device = Device()
    device.offers_direct = False

    wanted, found = written(tmp_path, device, size_bytes)

    assert found == wanted
    assert not any(is_direct for _, is_direct in device.writes)


@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("longest", [4096, 10_000, 65_536])
def test_short_writes_are_continued(tmp_path: Path, size_bytes: int, longest: int) -> None:
    device = Device()
    device.longest_write_bytes = longest

    wanted, found = written(tmp_path, device, size_bytes)

    assert found == wanted


def test_a_device_with_larger_blocks_than_ours_is_written_through_the_page_cache(tmp_path: Path) -> None:
    device = Device()
    device.multiple = 64 * 1024

    wanted, found = written(tmp_path, device, BLOCK_BYTES + 5 * 4096)

    assert found == wanted


def test_all_but_the_end_of_a_large_file_goes_past_the_page_cache_and_a_small_one_through_it(tmp_path: Path) -> None:
    if not _offers_direct(tmp_path):
        pytest.skip("the file system of the temporary folder offers no direct writes")
    device = Device()
    written(tmp_path, device, 2 * BLOCK_BYTES + 4097)
    assert device.writes == [(BLOCK_BYTES, True), (BLOCK_BYTES, True), (4096, True), (1, False)]

    (tmp_path / "file").unlink()
    device.writes.clear()
    written(tmp_path, device, SMALL_FILE_BYTES)
    assert device.writes == [(SMALL_FILE_BYTES, False)]


def _offers_direct(folder: Path) -> bool:
    descriptor = os.open(folder / "probe", os.O_RDWR | os.O_CREAT)
    try:
        return FileSystem().set_direct(descriptor, direct=True)
    finally:
        os.close(descriptor)


def test_an_error_of_the_disk_is_passed_on(tmp_path: Path) -> None:
    class Full(Device):
        def write(self, descriptor: int, buffers: Sequence[bytes | memoryview]) -> int:
            raise OSError(errno.ENOSPC, "full")

    file = BlockFile(Full(), Blocks(), tmp_path / "file")

    with pytest.raises(OSError, match="full"):
        file.append([bytes(BLOCK_BYTES)])
    file.close()


def test_nothing_is_on_the_disk_before_a_block_is_full(tmp_path: Path) -> None:
    file = BlockFile(FileSystem(), Blocks(), tmp_path / "file")
    file.append([bytes(BLOCK_BYTES - 1)])
    assert not (tmp_path / "file").exists()

    file.append([b"x"])

    assert (tmp_path / "file").stat().st_size == BLOCK_BYTES
    file.close()


def test_files_that_are_written_at_the_same_time_share_no_block(tmp_path: Path) -> None:
    blocks = Blocks()
    one, other = (BlockFile(FileSystem(), blocks, tmp_path / name) for name in "ab")
    one.append([b"a" * 5000])
    other.append([b"b" * 5000])
    for file in (one, other):
        file.settle()
        file.close()

    assert (tmp_path / "a").read_bytes() == b"a" * 5000
    assert (tmp_path / "b").read_bytes() == b"b" * 5000


def test_the_content_of_a_small_file_is_at_hand_and_that_of_a_large_one_is_not(tmp_path: Path) -> None:
    small, large = (BlockFile(FileSystem(), Blocks(), tmp_path / name) for name in "ab")
    small.append([b"small"])
    large.append([bytes(SMALL_FILE_BYTES + 1)])
    for file in (small, large):
        file.settle()

    assert bytes(small.content) == b"small"
    assert not large.content
    small.close()
    large.close()
