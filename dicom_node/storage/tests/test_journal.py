"""The journal: what it has promised is there at the next start, and what is deleted does not linger in it."""

import errno
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_node.storage.block_file import Blocks
from dicom_node.storage.file_system import FileSystem
from dicom_node.storage.journal import Journal
from dicom_node.tests.receiving import until

SEGMENT = 64 * 1024
OBJECT = memoryview(b"an object of Doe^John " * 100)


class Disk(FileSystem):
    """A real disk with steps that fail when told to, and writes that wait when told to."""

    def __init__(self) -> None:
        self.fails_at: set[str] = set()
        self.writes = 0
        self.may_write = threading.Event()
        self.may_write.set()
        self.room_bytes = 1 << 40

    def _step(self, name: str) -> None:
        if name in self.fails_at:
            raise OSError(errno.EIO, "told to fail")

    def write_at(self, descriptor: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        self._step("write_at")
        self.writes += 1
        self.may_write.wait(10)
        return super().write_at(descriptor, buffers, offset)

    def flush_everything(self, descriptor: int) -> None:
        self._step("flush_everything")
        super().flush_everything(descriptor)

    def room(self, directory: Path) -> tuple[int, int | None]:
        return self.room_bytes, None


class Idle(Journal):
    """A journal whose checkpoints come only when the test asks for one."""

    def _run(self) -> None:
        self._stopping.wait()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def journal(tmp_path: Path, disk: Disk) -> Journal:
    started = Idle(tmp_path, disk, Blocks(), SEGMENT)
    started.start()
    return started


def store(journal: Journal, path: str, content: memoryview = OBJECT) -> bool:
    """Append an object and say that its file is written."""
    is_taken = journal.append(path, content)
    if is_taken:
        journal.filed(path)
    return is_taken


def left(folder: Path) -> list[tuple[str, bytes]]:
    """Return what the next start would find."""
    return list(Journal(folder, FileSystem(), Blocks()).records())


def test_what_was_appended_is_found_by_the_next_start(tmp_path: Path, journal: Journal) -> None:
    for number in range(5):
        assert store(journal, f"0{number}/1.2.{number}_a_b.dcm", OBJECT[number:])

    assert left(tmp_path) == [(f"0{number}/1.2.{number}_a_b.dcm", bytes(OBJECT[number:])) for number in range(5)]


def test_nothing_is_taken_before_the_start_and_after_the_end(tmp_path: Path, disk: Disk) -> None:
    journal = Journal(tmp_path, disk, Blocks(), SEGMENT)
    assert not store(journal, "00/1_a_b.dcm")
    journal.start()
    assert store(journal, "00/1_a_b.dcm")
    journal.stop()
    journal.stop()
    assert not store(journal, "00/1_a_b.dcm")


def test_a_checkpoint_wipes_every_byte(tmp_path: Path, journal: Journal) -> None:
    while store(journal, "00/1_a_b.dcm"):
        pass
    assert b"Doe^John" in b"".join(path.read_bytes() for path in tmp_path.iterdir())

    journal.checkpoint()

    assert left(tmp_path) == []
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {bytes(SEGMENT)}


def test_the_end_is_a_checkpoint(tmp_path: Path, disk: Disk) -> None:
    journal = Journal(tmp_path, disk, Blocks(), SEGMENT)
    journal.start()
    assert store(journal, "00/1_a_b.dcm")

    journal.stop()

    assert left(tmp_path) == []


def test_the_thread_makes_a_checkpoint_by_itself(tmp_path: Path, disk: Disk) -> None:
    journal = Journal(tmp_path, disk, Blocks(), SEGMENT)
    journal.start()
    assert store(journal, "00/1_a_b.dcm")
    assert left(tmp_path)

    until(lambda: not left(tmp_path))
    journal.stop()


def test_a_full_journal_takes_nothing_until_its_next_checkpoint(tmp_path: Path, journal: Journal) -> None:
    count = 0
    while store(journal, f"00/{count}_a_b.dcm"):
        count += 1

    # Both segments, with 4 KiB a record.
    assert count == len(left(tmp_path)) == 2 * SEGMENT // 4096
    journal.checkpoint()
    assert store(journal, "00/1_a_b.dcm")


def test_an_object_that_fits_no_segment_is_not_taken_and_later_ones_are(journal: Journal) -> None:
    assert not store(journal, "00/1_a_b.dcm", memoryview(bytes(SEGMENT)))
    journal.checkpoint()

    assert store(journal, "00/1_a_b.dcm")


def test_what_comes_while_another_is_written_is_not_taken(tmp_path: Path, disk: Disk, journal: Journal) -> None:
    with being_written(disk, journal):
        assert not store(journal, "00/2_a_b.dcm")

    assert left(tmp_path) == [("00/1_a_b.dcm", bytes(OBJECT))]
    assert store(journal, "00/2_a_b.dcm")


def test_a_checkpoint_waits_for_the_record_that_is_being_written(tmp_path: Path, disk: Disk, journal: Journal) -> None:
    checkpoint = threading.Thread(target=journal.checkpoint)
    with being_written(disk, journal):
        checkpoint.start()
        checkpoint.join(0.05)
        assert checkpoint.is_alive()
    checkpoint.join()

    # Written after the wipe it would have stayed, for the next start to bring back.
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {bytes(SEGMENT)}


def test_a_checkpoint_waits_for_the_file_that_is_being_written(tmp_path: Path, journal: Journal) -> None:
    journal.append("00/1_a_b.dcm", OBJECT)
    checkpoint = threading.Thread(target=journal.checkpoint)
    checkpoint.start()
    checkpoint.join(0.05)
    assert checkpoint.is_alive()

    journal.filed("00/1_a_b.dcm")
    checkpoint.join()

    assert left(tmp_path) == []


def test_a_file_that_takes_long_keeps_its_record_until_a_later_checkpoint(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.storage.journal._LONGEST_FILING_S", 0.0)
    journal.append("00/1_a_b.dcm", OBJECT)

    journal.checkpoint()
    assert [name for name, _ in left(tmp_path)] == ["00/1_a_b.dcm"]
    assert store(journal, "00/2_a_b.dcm")

    journal.filed("00/1_a_b.dcm")
    journal.checkpoint()
    assert left(tmp_path) == []


def test_a_file_that_cannot_be_written_keeps_its_record(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.storage.journal._LONGEST_FILING_S", 0.0)
    journal.append("00/1_a_b.dcm", OBJECT)
    lives = [journal.is_alive]

    journal.cannot_file(OSError(errno.ENOSPC, "told to fail"))
    lives.append(journal.is_alive)
    assert lives == [True, False]
    assert not journal.append("00/2_a_b.dcm", OBJECT)
    journal.checkpoint()
    journal.stop()

    assert left(tmp_path) == [("00/1_a_b.dcm", bytes(OBJECT))]


@contextmanager
def being_written(disk: Disk, journal: Journal) -> Iterator[None]:
    """Hold up one record while the disk writes it."""
    disk.may_write.clear()
    writes = disk.writes
    appending = threading.Thread(target=store, args=(journal, "00/1_a_b.dcm"))
    appending.start()
    until(lambda: disk.writes == writes + 1)
    yield
    disk.may_write.set()
    appending.join()


def test_after_a_failure_nothing_is_promised_any_more(disk: Disk, journal: Journal) -> None:
    assert store(journal, "00/1_a_b.dcm")
    disk.fails_at.add("write_at")
    assert not store(journal, "00/2_a_b.dcm")
    disk.fails_at.clear()

    assert not store(journal, "00/3_a_b.dcm")
    journal.checkpoint()
    assert not store(journal, "00/4_a_b.dcm")


def test_files_that_could_not_be_flushed_keep_their_records(tmp_path: Path, disk: Disk, journal: Journal) -> None:
    assert store(journal, "00/1_a_b.dcm")
    disk.fails_at.add("flush_everything")

    journal.checkpoint()
    disk.fails_at.clear()
    journal.stop()

    assert left(tmp_path) == [("00/1_a_b.dcm", bytes(OBJECT))]
    assert not store(journal, "00/2_a_b.dcm")


@pytest.mark.parametrize("position", [0, 9, 11, 15, 20, 40, 1000])
def test_reading_ends_at_the_first_damaged_record(tmp_path: Path, journal: Journal, position: int) -> None:
    for number in range(3):
        store(journal, f"00/{number}_a_b.dcm")
    path = filled(tmp_path)
    content = bytearray(path.read_bytes())
    # The second record: each takes 4 KiB here.
    content[4096 + position] ^= 0xFF
    path.write_bytes(content)

    assert left(tmp_path) == [("00/0_a_b.dcm", bytes(OBJECT))]


@pytest.mark.parametrize("length", [0, 5, 17, 18, 100, 4096, 4100, 5000])
def test_a_journal_that_was_cut_short_gives_out_whole_records_only(
    tmp_path: Path, journal: Journal, length: int
) -> None:
    store(journal, "00/1_a_b.dcm")
    store(journal, "00/2_a_b.dcm")
    path = filled(tmp_path)
    path.write_bytes(path.read_bytes()[:length])

    assert [name for name, _ in left(tmp_path)] == (["00/1_a_b.dcm"] if length >= 4096 else [])


def filled(folder: Path) -> Path:
    """Return the segment that is being filled."""
    return next(path for path in folder.iterdir() if any(path.read_bytes()))


def test_with_little_free_space_the_journal_does_not_run(tmp_path: Path, disk: Disk) -> None:
    disk.room_bytes = 39 * SEGMENT
    journal = Journal(tmp_path, disk, Blocks(), SEGMENT)

    journal.start()

    assert not store(journal, "00/1_a_b.dcm")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_does_not_take_the_segments_leaves_the_inbox_without_a_journal(tmp_path: Path, disk: Disk) -> None:
    disk.fails_at.add("write_at")
    journal = Journal(tmp_path, disk, Blocks(), SEGMENT)

    journal.start()

    assert not store(journal, "00/1_a_b.dcm")
    journal.stop()


def test_what_was_restored_is_forgotten(tmp_path: Path, journal: Journal) -> None:
    store(journal, "00/1_a_b.dcm")
    next_start = Journal(tmp_path, FileSystem(), Blocks(), SEGMENT)
    assert list(next_start.records())

    next_start.forget()

    assert list(next_start.records()) == []
