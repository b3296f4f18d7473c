"""The inbox: durable under a name, or not there at all."""

import errno
from pathlib import Path

import pytest
from pydicom import dcmread

from casebook.errors import InvalidObject, StorageFull, UnsafeStorage
from dicom_node.header import read_file_meta
from dicom_node.inbox import Envelope, Inbox, build_file_meta
from dicom_node.tests.receiving import FailingDisk, data_set_bytes
from dicom_node.tests.wire import CT, EXPLICIT, data_set


def an_envelope(uid: str = "1.2.3.4", peer: str = "10.1.2.3") -> Envelope:
    return Envelope(
        sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT, calling_ae_title="CT01", peer_address=peer
    )


def everything(inbox: Inbox) -> list[Path]:
    return [path for folder in inbox.directory.iterdir() if folder.is_dir() for path in folder.iterdir()]


def test_a_committed_object_is_a_dicom_file_with_the_bytes_that_came(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    arrival = inbox.arrival(an_envelope())
    content = data_set()
    arrival.write([content[:7], memoryview(content)[7:]])

    landed = arrival.commit()

    path = tmp_path / landed.path
    assert data_set_bytes(path) == content
    assert path.stat().st_size == landed.size_bytes
    stored = dcmread(path)
    assert stored.PatientID == "P1"
    assert stored.file_meta.SourceApplicationEntityTitle == "CT01"
    assert everything(inbox) == [path]


def test_the_sender_is_read_back_from_the_file_alone() -> None:
    for peer in ("10.1.2.3", "fe80::1", ""):
        found, offset = read_file_meta(build_file_meta(an_envelope(peer=peer)) + b"rest")

        assert found == an_envelope(peer=peer)
        assert build_file_meta(an_envelope(peer=peer))[offset:] == b""


def test_a_repeated_uid_never_touches_the_first_file(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    landed = []
    for patient in ("P1", "P2"):
        arrival = inbox.arrival(an_envelope())
        arrival.write([data_set(patient_id=patient)])
        landed.append(arrival.commit())

    assert landed[0].path != landed[1].path
    assert [dcmread(tmp_path / one.path).PatientID for one in landed] == ["P1", "P2"]


@pytest.mark.parametrize(
    "uid", ["", "../../../etc/passwd", "1" * 200, "1.2.3/4", "1.2.3\x00", "..", ".", "1.2\n", "a.b"]
)
def test_a_hostile_uid_is_never_part_of_a_path(tmp_path: Path, uid: str) -> None:
    with pytest.raises(InvalidObject):
        Inbox(tmp_path).arrival(an_envelope(uid))


@pytest.mark.parametrize("step", ["create", "write", "rename", "flush", "flush_directory"])
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, UnsafeStorage)]
)
def test_a_failure_at_any_step_leaves_nothing(tmp_path: Path, step: str, number: int, kind: type[Exception]) -> None:
    disk = FailingDisk()
    inbox = Inbox(tmp_path, disk)
    inbox.flushes_directory = True
    disk.fails_at, disk.error = step, number
    arrival = inbox.arrival(an_envelope())

    with pytest.raises(kind):
        _write_and_commit(arrival)
    arrival.discard()

    assert everything(inbox) == []


def _write_and_commit(arrival: object) -> None:
    arrival.write([data_set(pixels=bytes(100_000))])  # type: ignore[attr-defined]
    arrival.commit()  # type: ignore[attr-defined]


def test_short_writes_are_continued_to_the_last_byte(tmp_path: Path) -> None:
    disk = FailingDisk()
    disk.longest_write_bytes = 1000
    arrival = Inbox(tmp_path, disk).arrival(an_envelope())
    content = data_set(pixels=bytes(range(256)) * 100)
    arrival.write([content[at : at + 300] for at in range(0, len(content), 300)])

    assert data_set_bytes(tmp_path / arrival.commit().path) == content


def test_a_disk_that_fills_in_the_middle_is_told_apart_from_a_short_write(tmp_path: Path) -> None:
    disk = FailingDisk()
    disk.fails_after_bytes = 5000
    inbox = Inbox(tmp_path, disk)
    arrival = inbox.arrival(an_envelope())

    with pytest.raises(StorageFull):
        arrival.write([data_set(pixels=bytes(20_000))])
    arrival.discard()

    assert everything(inbox) == []


def test_more_buffers_than_one_call_takes_are_all_written(tmp_path: Path) -> None:
    arrival = Inbox(tmp_path).arrival(an_envelope())
    content = data_set(pixels=bytes(range(256)) * 20)
    arrival.write([content[at : at + 1] for at in range(len(content))])

    assert data_set_bytes(tmp_path / arrival.commit().path) == content


def test_orphaned_temporaries_are_swept_at_start_and_whole_files_stay(tmp_path: Path) -> None:
    first = Inbox(tmp_path)
    kept = first.arrival(an_envelope())
    kept.write([data_set()])
    landed = kept.commit()
    first.arrival(an_envelope("1.2.3.5")).write([b"half of it"])
    assert len(everything(first)) == 2
    first.close()

    second = Inbox(tmp_path)

    assert everything(second) == [tmp_path / landed.path]


def test_two_listeners_cannot_own_one_inbox(tmp_path: Path) -> None:
    first = Inbox(tmp_path)

    with pytest.raises(UnsafeStorage):
        Inbox(tmp_path)
    first.close()
    Inbox(tmp_path).close()


def test_a_scan_finds_what_has_no_row_in_the_order_of_arrival(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    paths = []
    for number in range(5):
        arrival = inbox.arrival(an_envelope(f"1.2.3.{number}"))
        arrival.write([data_set(f"1.2.3.{number}")])
        paths.append(arrival.commit().path)

    assert [one.path for one in inbox.scan({paths[2]})] == [paths[0], paths[1], paths[3], paths[4]]


def test_a_file_that_a_power_cut_shortened_is_set_aside_with_its_reason(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    arrival = inbox.arrival(an_envelope())
    arrival.write([data_set(pixels=bytes(1000))])
    path = tmp_path / arrival.commit().path
    path.write_bytes(path.read_bytes()[:-1])

    assert list(inbox.scan(set())) == []

    assert not path.exists()
    assert {one.name for one in inbox.refused_directory.iterdir()} == {path.name, f"{path.name}.reason"}
