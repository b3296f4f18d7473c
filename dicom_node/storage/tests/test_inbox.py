"""The inbox: durable under a name, or not there at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from pydicom import dcmread

from casebook.errors import InvalidObject, StorageFull, UnsafeStorage
from codestreams import stored_file
from dicom_node.objects.file_meta import Envelope, build_file_meta, read_file_meta
from dicom_node.storage.block_file import BLOCK_BYTES, SMALL_FILE_BYTES
from dicom_node.storage.inbox import Inbox, SharedInbox, StoredInstance
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
    incoming = inbox.incoming(an_envelope())
    content = data_set()
    incoming.write([content[:7], memoryview(content)[7:]])

    stored = incoming.commit()

    path = tmp_path / stored.path
    assert data_set_bytes(path) == content
    assert path.stat().st_size == stored.size_bytes
    dataset = dcmread(path)
    assert dataset.PatientID == "P1"
    assert dataset.file_meta.SourceApplicationEntityTitle == "CT01"
    assert everything(inbox) == [path]


def test_the_sender_is_read_back_from_the_file_alone() -> None:
    for peer in ("10.1.2.3", "fe80::1", ""):
        found, offset = read_file_meta(build_file_meta(an_envelope(peer=peer)) + b"rest")

        assert found == an_envelope(peer=peer)
        assert build_file_meta(an_envelope(peer=peer))[offset:] == b""


def test_a_repeated_uid_never_touches_the_first_file(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    stored = []
    for patient in ("P1", "P2"):
        incoming = inbox.incoming(an_envelope())
        incoming.write([data_set(patient_id=patient)])
        stored.append(incoming.commit())

    assert stored[0].path != stored[1].path
    assert [dcmread(tmp_path / one.path).PatientID for one in stored] == ["P1", "P2"]


@pytest.mark.parametrize(
    "uid", ["", "../../../etc/passwd", "1" * 200, "1.2.3/4", "1.2.3\x00", "..", ".", "1.2\n", "a.b"]
)
def test_a_hostile_uid_is_never_part_of_a_path(tmp_path: Path, uid: str) -> None:
    with pytest.raises(InvalidObject):
        Inbox(tmp_path).incoming(an_envelope(uid))


@pytest.mark.parametrize("step", ["create", "write", "rename", "flush", "flush_directory"])
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, UnsafeStorage)]
)
def test_a_failure_at_any_step_leaves_nothing(tmp_path: Path, step: str, number: int, kind: type[Exception]) -> None:
    disk = FailingDisk()
    inbox = Inbox(tmp_path, disk)
    inbox.flushes_directory = True
    disk.fails_at, disk.error = step, number
    incoming = inbox.incoming(an_envelope())

    with pytest.raises(kind):
        _write_and_commit(incoming)
    incoming.discard()

    assert everything(inbox) == []


def _write_and_commit(incoming: object) -> None:
    incoming.write([data_set(pixels=bytes(100_000))])  # type: ignore[attr-defined]
    incoming.commit()  # type: ignore[attr-defined]


def test_short_writes_are_continued_to_the_last_byte(tmp_path: Path) -> None:
    disk = FailingDisk()
    disk.longest_write_bytes = 1000
    incoming = Inbox(tmp_path, disk).incoming(an_envelope())
    content = data_set(pixels=bytes(range(256)) * 100)
    incoming.write([content[at : at + 300] for at in range(0, len(content), 300)])

    assert data_set_bytes(tmp_path / incoming.commit().path) == content


def test_a_disk_that_fills_in_the_middle_is_told_apart_from_a_short_write(tmp_path: Path) -> None:
    disk = FailingDisk()
    disk.fails_after_bytes = 5000
    inbox = Inbox(tmp_path, disk)
    incoming = inbox.incoming(an_envelope())

    with pytest.raises(StorageFull):
        _write_and_commit(incoming)
    incoming.discard()

    assert everything(inbox) == []


def test_more_buffers_than_one_call_takes_are_all_written(tmp_path: Path) -> None:
    incoming = Inbox(tmp_path).incoming(an_envelope())
    content = data_set(pixels=bytes(range(256)) * 20)
    incoming.write([content[at : at + 1] for at in range(len(content))])

    assert data_set_bytes(tmp_path / incoming.commit().path) == content


def test_orphaned_temporaries_are_swept_at_start_and_whole_files_stay(tmp_path: Path) -> None:
    first = Inbox(tmp_path)
    kept = first.incoming(an_envelope())
    kept.write([data_set()])
    stored = kept.commit()
    first.incoming(an_envelope("1.2.3.5")).write([bytes(BLOCK_BYTES)])
    assert len(everything(first)) == 2
    first.close()

    second = Inbox(tmp_path)

    assert everything(second) == [tmp_path / stored.path]


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
        incoming = inbox.incoming(an_envelope(f"1.2.3.{number}"))
        incoming.write([data_set(f"1.2.3.{number}")])
        paths.append(incoming.commit().path)

    assert [one.path for one in inbox.scan({paths[2]})] == [paths[0], paths[1], paths[3], paths[4]]


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ENOENT])
def test_a_start_goes_past_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    with contextlib.closing(Inbox(tmp_path)) as inbox:
        stored = [_landed(inbox, f"1.2.3.{number}") for number in range(20)]
        bad = (tmp_path / stored[0].path).parent
        real = os.scandir

        def choosy(path: Path) -> object:
            if path == bad:
                raise OSError(error, "told to fail")
            return real(path)

        monkeypatch.setattr("dicom_node.storage.inbox.os.scandir", choosy)

        found = {one.path for one in inbox.scan(set())}

    assert found == {one.path for one in stored if (tmp_path / one.path).parent != bad}


def test_a_start_goes_past_a_file_that_can_neither_be_used_nor_moved(tmp_path: Path) -> None:
    disk = FailingDisk()
    with contextlib.closing(Inbox(tmp_path, disk)) as inbox:
        stored = _landed(inbox, "1.2.3.4")
        (tmp_path / stored.path).with_name("foreign.dcm").write_bytes(b"x")
        disk.fails_at, disk.error = "rename", errno.EIO

        assert [one.path for one in inbox.scan(set())] == [stored.path]


def _landed(inbox: Inbox, uid: str) -> StoredInstance:
    incoming = inbox.incoming(an_envelope(uid))
    incoming.write([data_set(uid)])
    return incoming.commit()


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_is_restored_from_the_journal(
    journalled: tuple[Inbox, FailingDisk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    inbox, _ = journalled
    incoming = inbox.incoming(an_envelope())
    incoming.write([data_set()])
    stored = incoming.commit()
    incoming.complete()
    os.close(inbox._owner)
    inbox._owner = -1

    def fail(_path: Path) -> NoReturn:
        raise OSError(error, "told to fail")

    with monkeypatch.context() as patched:
        patched.setattr(stored_file, "system_open", fail)
        with contextlib.closing(Inbox(tmp_path)):
            assert data_set_bytes(tmp_path / stored.path) == data_set()


def test_a_file_that_a_power_cut_shortened_is_set_aside_with_its_reason(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    incoming = inbox.incoming(an_envelope())
    incoming.write([data_set(pixels=bytes(1000))])
    path = tmp_path / incoming.commit().path
    path.write_bytes(path.read_bytes()[:-1])

    assert list(inbox.scan(set())) == []

    assert not path.exists()
    assert {one.name for one in inbox.refused_directory.iterdir()} == {path.name, f"{path.name}.reason"}


# ------------------------------------------------------------------------------------------------- the journal


@pytest.fixture
def journalled(tmp_path: Path) -> Iterator[tuple[Inbox, FailingDisk]]:
    """An inbox whose journal takes objects, on a disk that refuses every flush of a file from now on."""
    disk = FailingDisk()
    with contextlib.closing(Inbox(tmp_path, disk)) as inbox:
        inbox.journal.start()
        disk.fails_at = "flush"
        yield inbox, disk
        disk.fails_at = ""


def commit(inbox: Inbox, uid: str, content: bytes) -> Path:
    incoming = inbox.incoming(an_envelope(uid))
    incoming.write([content])
    path = inbox.data_directory / incoming.commit().path
    incoming.complete()
    return path


def lose_power(inbox: Inbox) -> None:
    """Leave the inbox as a process does that ends at once."""
    os.close(inbox._owner)
    inbox._owner = -1


def test_a_small_object_becomes_durable_in_the_journal_and_a_large_one_as_a_file(
    journalled: tuple[Inbox, FailingDisk],
) -> None:
    inbox, _ = journalled

    path = commit(inbox, "1.2.3.4", data_set())

    assert data_set_bytes(path) == data_set()
    with pytest.raises(StorageFull):
        commit(inbox, "1.2.3.5", data_set("1.2.3.5", pixels=bytes(SMALL_FILE_BYTES)))


def test_a_process_that_ends_before_it_writes_the_file_of_what_it_promised_writes_it_at_its_next_start(
    journalled: tuple[Inbox, FailingDisk], tmp_path: Path
) -> None:
    inbox, _ = journalled
    incoming = inbox.incoming(an_envelope())
    incoming.write([data_set()])
    path = tmp_path / incoming.commit().path
    assert not path.exists()
    lose_power(inbox)

    with contextlib.closing(Inbox(tmp_path)) as after:
        assert data_set_bytes(path) == data_set()
        assert [tmp_path / one.path for one in after.scan(set())] == [path]


def test_a_file_that_was_half_written_when_the_process_ended_is_whole_after_its_next_start(
    journalled: tuple[Inbox, FailingDisk], tmp_path: Path
) -> None:
    inbox, disk = journalled
    incoming = inbox.incoming(an_envelope())
    incoming.write([data_set()])
    path = tmp_path / incoming.commit().path
    disk.fails_after_bytes = 100
    with pytest.raises(StorageFull):
        incoming.complete()
    assert path.stat().st_size == 100
    lose_power(inbox)

    with contextlib.closing(Inbox(tmp_path)) as after:
        assert data_set_bytes(path) == data_set()
        assert [tmp_path / one.path for one in after.scan(set())] == [path]


def test_an_unforeseen_error_after_the_promise_leaves_the_object_to_the_next_start(
    journalled: tuple[Inbox, FailingDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, disk = journalled
    incoming = inbox.incoming(an_envelope())
    incoming.write([data_set()])
    incoming.commit()

    def fail(_path: object) -> int:
        raise MemoryError

    monkeypatch.setattr(disk, "create", fail)
    with pytest.raises(UnsafeStorage):
        incoming.complete()

    assert not inbox.journal.is_alive


@pytest.mark.parametrize("step", ["create", "write"])
def test_what_was_promised_and_cannot_be_written_is_kept_for_the_next_start(
    journalled: tuple[Inbox, FailingDisk], tmp_path: Path, step: str
) -> None:
    inbox, disk = journalled
    incoming = inbox.incoming(an_envelope())
    incoming.write([data_set()])
    path = tmp_path / incoming.commit().path
    lives = [inbox.journal.is_alive]
    disk.fails_at = step

    with pytest.raises(StorageFull):
        incoming.complete()
    incoming.discard()
    lives.append(inbox.journal.is_alive)
    assert lives == [True, False]
    disk.fails_at = ""
    inbox.close()

    with contextlib.closing(Inbox(tmp_path)):
        assert data_set_bytes(path) == data_set()


def test_what_a_power_cut_took_is_back_after_the_start(journalled: tuple[Inbox, FailingDisk], tmp_path: Path) -> None:
    inbox, _ = journalled
    contents = {f"1.2.3.{number}": data_set(f"1.2.3.{number}", pixels=bytes([number])) for number in range(4)}
    removed, emptied, zeroed, whole = paths = [commit(inbox, uid, content) for uid, content in contents.items()]
    removed.unlink()
    emptied.write_bytes(b"")
    zeroed.write_bytes(bytes(zeroed.stat().st_size))
    untouched_at = whole.stat().st_mtime_ns
    permissions = whole.stat().st_mode
    lose_power(inbox)

    with contextlib.closing(Inbox(tmp_path)) as after:
        assert [data_set_bytes(path) for path in paths] == list(contents.values())
        assert whole.stat().st_mtime_ns == untouched_at
        assert {path.stat().st_mode for path in paths} == {permissions}
        assert {one.path for one in after.scan(set())} == {str(path.relative_to(tmp_path)) for path in paths}
        assert list(after.journal.records()) == []


def test_an_object_that_was_deleted_does_not_come_back_with_a_later_start(
    journalled: tuple[Inbox, FailingDisk], tmp_path: Path
) -> None:
    inbox, disk = journalled
    path = commit(inbox, "1.2.3.4", data_set())
    disk.fails_at = ""
    inbox.journal.checkpoint()
    path.unlink()
    lose_power(inbox)

    with contextlib.closing(Inbox(tmp_path)):
        assert not path.exists()


def test_a_disk_that_is_full_at_the_start_keeps_the_journal(
    journalled: tuple[Inbox, FailingDisk], tmp_path: Path
) -> None:
    inbox, disk = journalled
    path = commit(inbox, "1.2.3.4", data_set())
    path.unlink()
    lose_power(inbox)
    disk.fails_at = "rename"

    with pytest.raises(StorageFull):
        Inbox(tmp_path, disk)

    disk.fails_at = ""
    with contextlib.closing(Inbox(tmp_path, disk)):
        assert data_set_bytes(path) == data_set()


@pytest.mark.parametrize("path", ["../evil.dcm", "00/evil", "00/../../evil.dcm", "/evil.dcm", "zz/1.2_a_b.dcm"])
def test_a_record_that_is_not_ours_is_written_nowhere(tmp_path: Path, path: str) -> None:
    inbox = Inbox(tmp_path)
    inbox.journal.start()
    assert inbox.journal.append(path, memoryview(b"evil"))
    before = everything(inbox)
    lose_power(inbox)

    with contextlib.closing(Inbox(tmp_path)) as after:
        assert everything(after) == before
    assert not list(tmp_path.rglob("*evil*"))


def test_when_the_journal_fails_small_objects_are_flushed_as_files(tmp_path: Path) -> None:
    disk = FailingDisk()
    with contextlib.closing(Inbox(tmp_path, disk)) as inbox:
        inbox.journal.start()
        disk.fails_at = "write_at"

        path = commit(inbox, "1.2.3.4", data_set())
        assert data_set_bytes(path) == data_set()

        disk.fails_at = "flush"
        with pytest.raises(StorageFull):
            commit(inbox, "1.2.3.5", data_set("1.2.3.5"))
        disk.fails_at = ""


def test_another_process_that_adds_objects_leaves_the_owners_journal_alone(tmp_path: Path) -> None:
    owner = Inbox(tmp_path)
    owner.journal.start()
    commit(owner, "1.2.3.4", data_set())

    with contextlib.closing(SharedInbox(tmp_path)) as shared:
        commit(shared, "1.2.3.5", data_set("1.2.3.5"))

    assert len(list(owner.journal.records())) == 1
    owner.close()


@pytest.mark.parametrize(("kind", "runs"), [("ext4", True), ("xfs", True), ("nfs4", False), ("", False)])
def test_the_journal_runs_only_where_its_file_system_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, runs: bool
) -> None:
    with contextlib.closing(Inbox(tmp_path)) as inbox:
        monkeypatch.setattr("dicom_node.storage.inbox.kind_of_file_system", lambda _: kind)
        inbox.start_journal()

        assert inbox.journal.append("00/1_a_b.dcm", memoryview(b"x")) is runs
        inbox.journal.filed("00/1_a_b.dcm")
