"""The disk gate: closes before the disk is full, and does not flap."""

from multiprocessing import get_context
from pathlib import Path

import pytest

from casebook.errors import StorageFull
from dicom_node.storage.disk_gate import DiskGate, Reservation, ReservedBytes
from dicom_node.storage.file_system import FileSystem


class Disk(FileSystem):
    def __init__(self) -> None:
        self.fails = False
        self.free_bytes = 1_000_000_000
        self.free_inodes: int | None = 1_000_000

    def room(self, directory: Path) -> tuple[int, int | None]:
        if self.fails:
            raise OSError
        return self.free_bytes, self.free_inodes


class Bench:
    def __init__(self, tmp_path: Path, min_free_bytes: int = 100_000_000) -> None:
        self.disk, self.now = Disk(), 0.0
        self.gate = DiskGate(tmp_path, min_free_bytes, self.disk, lambda: self.now)

    def look(self) -> bool:
        self.now += 1.0
        return self.gate.is_open


def test_the_gate_closes_at_the_minimum_and_opens_a_little_above_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    seen = []
    for free in (200, 100, 99, 100, 109, 110, 100):
        bench.disk.free_bytes = free * 1_000_000
        seen.append(bench.look())

    assert seen == [True, True, False, False, False, True, True]


def test_the_gate_counts_inodes_where_the_file_system_does(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    seen = []
    for inodes in (1_000_000, 9_999, 15_000, 20_000, None):
        bench.disk.free_inodes = inodes
        seen.append(bench.look())

    assert seen == [True, False, False, True, True]


def test_bytes_on_their_way_are_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    reservation = Reservation(bench.gate)
    reservation.cover(950_000_000)
    assert not bench.look()

    reservation.end()
    assert bench.look()


def test_more_than_the_disk_has_cannot_be_reserved(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.disk.free_bytes = 20_000_000
    reservation = Reservation(bench.gate)
    reservation.cover(1)
    reservation.cover(10_000_000)
    with pytest.raises(StorageFull):
        reservation.cover(30_000_000)
    reservation.end()
    reservation.end()

    Reservation(bench.gate).cover(19_000_000)


def test_what_another_process_has_reserved_cannot_be_reserved_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.disk.free_bytes = 20_000_000
    reserved = ReservedBytes()
    gate = DiskGate(tmp_path, 0, bench.disk, lambda: bench.now, reserved)
    child = get_context("fork").Process(target=reserved.add, args=(15_000_000, 20_000_000))
    child.start()
    child.join()

    with pytest.raises(StorageFull):
        Reservation(gate).cover(10_000_000)
    assert reserved.count == 15_000_000


def test_a_disk_that_does_not_answer_is_full(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    bench.disk.fails = True
    assert not bench.look()
    with pytest.raises(StorageFull):
        bench.gate.require_open()
