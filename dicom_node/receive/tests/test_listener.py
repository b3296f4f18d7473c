"""The listener on the wire of loopback: acknowledged means on disk, refused means nothing is left."""

import contextlib
import errno
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from pynetdicom import AE
from sqlalchemy.exc import OperationalError

from casebook import intake, tables
from casebook.database import write
from casebook.errors import InvalidObject, WetreadError
from casebook.settings import StowSettings
from dicom_node.index import indexer, recorder
from dicom_node.receive import listener, listener_main
from dicom_node.receive.acceptor import Acceptor
from dicom_node.receive.listener import serve
from dicom_node.receive.lobby import Lobby
from dicom_node.receive.stow import StowServer
from dicom_node.storage.journal import Journal
from dicom_node.tests.receiving import Receiving, a_database, a_settings, data_set_bytes, receiving, until
from dicom_node.tests.wire import (
    CT,
    EXPLICIT,
    VERIFICATION,
    Wire,
    associate_rq,
    command,
    data_set,
    pdu,
    store_rq,
)

ACCEPTED, REJECTED = b"\x02", b"\x03"
PRIVATE_STORAGE = "1.2.840.113619.4.30"
RETIRED_STORAGE = "1.2.840.10008.5.1.4.1.1.3"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Receiving]:
    with receiving(tmp_path) as found:
        yield found


def test_an_echo_is_answered(running: Receiving) -> None:
    with Wire(running.port, associate_rq()) as wire:
        wire.send(pdu((1, 3, command(0x0030, VERIFICATION))))
        assert wire.status() == 0
        wire.release()


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        JPEG2000Lossless,
        RLELossless,
    ],
)
def test_what_pynetdicom_sends_is_stored_byte_for_byte(running: Receiving, syntax: Any) -> None:
    entity = AE("CT01")
    entity.add_requested_context(CT, syntax)
    dataset = _dataset(syntax)
    association = entity.associate("127.0.0.1", running.port, ae_title="WETREAD")
    assert association.is_established

    assert association.send_c_store(dataset).Status == 0x0000
    association.release()

    (path,) = running.files()
    assert dcmread(path).file_meta.TransferSyntaxUID == syntax
    assert dcmread(path).file_meta.SourceApplicationEntityTitle == "CT01"
    if not syntax.is_deflated:
        from pynetdicom.dsutils import encode

        assert data_set_bytes(path) == encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian)
    (row,) = running.settle(1)
    assert (row.calling_ae_title, row.peer_address, row.path) == (
        "CT01",
        "127.0.0.1",
        str(path.relative_to(running.settings.data_directory)),
    )


def _dataset(syntax: Any) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    dataset.PatientID, dataset.Modality = "P1", "CT"
    dataset.file_meta = Dataset()  # type: ignore[assignment]
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
    return dataset


@pytest.mark.parametrize("sop_class_uid", [CT, RETIRED_STORAGE, PRIVATE_STORAGE])
def test_every_storage_class_is_taken_private_ones_too(running: Receiving, sop_class_uid: str) -> None:
    with Wire(running.port, associate_rq(contexts=[(sop_class_uid, [EXPLICIT])])) as wire:
        content = data_set(sop_class_uid=sop_class_uid)
        wire.send(store_rq(content, "1.2.3.4", context=1, sop_class_uid=sop_class_uid))
        assert wire.status() == 0
        wire.release()

    assert running.stored_data_sets() == {"1.2.3.4": content}


def test_explicit_vr_is_chosen_before_implicit_and_compressed_before_both(running: Receiving) -> None:
    proposed = [
        (CT, [ImplicitVRLittleEndian, EXPLICIT]),
        (CT, [EXPLICIT, RLELossless, ImplicitVRLittleEndian]),
        (CT, ["1.2.3.99"]),
    ]
    with Wire(running.port, associate_rq(contexts=proposed)) as wire:
        answer = wire.answer
        wire.release()

    assert _accepted(answer) == {1: (0, EXPLICIT), 3: (0, RLELossless), 5: (4, "")}


def _accepted(answer: bytes) -> dict[int, tuple[int, str]]:
    found, at = {}, 74
    while at < len(answer):
        kind, length = answer[at], int.from_bytes(answer[at + 2 : at + 4], "big")
        content = answer[at + 4 : at + 4 + length]
        if kind == 0x21:
            found[content[0]] = (content[2], content[8:].decode().rstrip("\x00") if content[2] == 0 else "")
        at += 4 + length
    return found


def test_acknowledged_means_on_disk_and_a_row_follows(running: Receiving) -> None:
    contents = {f"1.2.3.{number}": data_set(f"1.2.3.{number}", pixels=bytes([number]) * 50_000) for number in range(10)}
    with Wire(running.port, associate_rq()) as wire:
        for uid, content in contents.items():
            assert wire.store(content, uid) == 0
            assert running.stored_data_sets()[uid] == content
        wire.release()

    assert {row.sop_instance_uid for row in running.settle(10)} == set(contents)
    assert running.leftovers() == []


@pytest.mark.parametrize(
    ("step", "number", "status"),
    [
        ("create", errno.ENOSPC, 0xA700),
        ("write", errno.ENOSPC, 0xA700),
        ("write", errno.EDQUOT, 0xA700),
        ("write", errno.EIO, 0x0110),
        ("rename", errno.ENOSPC, 0xA700),
        ("flush", errno.ENOSPC, 0xA700),
        ("flush", errno.EIO, 0x0110),
    ],
)
def test_a_failing_disk_is_told_and_the_association_survives(
    running: Receiving, step: str, number: int, status: int
) -> None:
    content = data_set(pixels=bytes(200_000))
    with Wire(running.port, associate_rq()) as wire:
        running.disk.fails_at, running.disk.error = step, number
        assert wire.store(content, "1.2.3.4") == status
        assert running.files() == []
        assert running.leftovers() == []
        running.disk.fails_at = ""
        assert wire.store(content, "1.2.3.4") == 0
        wire.release()

    assert running.stored_data_sets() == {"1.2.3.4": content}


def test_a_disk_that_fills_in_the_middle_of_an_object_leaves_nothing(running: Receiving) -> None:
    running.disk.fails_after_bytes = 100_000
    with Wire(running.port, associate_rq()) as wire:
        assert wire.store(data_set(pixels=bytes(3_000_000)), "1.2.3.4") == 0xA700
        assert running.leftovers() == running.files() == []
        wire.release()


def test_the_same_object_twice_is_acknowledged_twice_and_kept_once(running: Receiving) -> None:
    with Wire(running.port, associate_rq()) as wire:
        for _ in range(3):
            assert wire.store(data_set(), "1.2.3.4") == 0
        wire.release()

    running.settle(1)
    until(lambda: len(running.files()) == 1)
    assert len(running.rows()) == 1


def test_other_bytes_under_a_known_uid_are_kept_beside_the_first(running: Receiving) -> None:
    with Wire(running.port, associate_rq()) as wire:
        assert wire.store(data_set(patient_id="P1"), "1.2.3.4") == 0
        assert wire.store(data_set(patient_id="P2"), "1.2.3.4") == 0
        wire.release()

    rows = running.settle(2)
    assert [row.status for row in rows] == ["current", "unclassed"]
    assert len(running.files()) == 2


@pytest.mark.parametrize("uid", ["", "../../../../tmp/x", "1.2/3", "1.2.3 4", "1" * 64 + ".."])
def test_a_hostile_instance_uid_is_refused_and_leaves_nothing(tmp_path: Path, uid: str) -> None:
    with receiving(tmp_path / "data") as running, Wire(running.port, associate_rq()) as wire:
        assert wire.store(data_set(), uid) == 0xA900
        assert wire.store(data_set(), "1.2.3.4") == 0
        wire.release()
        assert len(running.files()) == 1
        assert list(tmp_path.rglob("*.dcm")) == running.files()


def test_a_data_set_without_its_uids_is_refused_before_acknowledgement(running: Receiving) -> None:
    with Wire(running.port, associate_rq()) as wire:
        assert wire.store(data_set(study=""), "1.2.3.4") == 0xA900
        assert wire.store(data_set("1.2.3.5"), "1.2.3.4") == 0xA900
        wire.release()

    assert running.files() == running.leftovers() == []


@pytest.mark.parametrize("end", ["fin", "rst", "abort"])
def test_an_association_cut_in_mid_object_leaves_nothing(running: Receiving, end: str) -> None:
    stream = store_rq(data_set(pixels=bytes(5_000_000)), "1.2.3.4")
    wire = Wire(running.port, associate_rq())
    wire.send(stream[: len(stream) // 2])
    if end == "abort":
        wire.send(pdu((3, 0, b"")))
    if end == "rst":
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.socket.close()

    until(lambda: running.associations.running == 0)
    assert running.files() == running.leftovers() == []


def test_what_lies_on_disk_without_a_row_is_indexed_at_the_next_start(tmp_path: Path) -> None:
    with receiving(tmp_path) as running, Wire(running.port, associate_rq()) as wire:
        for number in range(5):
            wire.store(data_set(f"1.2.3.{number}"), f"1.2.3.{number}")
        wire.release()
        running.settle(5)
    (tmp_path / "wetread.sqlite").unlink()
    for path in tmp_path.glob("wetread.sqlite-*"):
        path.unlink()

    with receiving(tmp_path) as again:
        rows = again.settle(5)
        assert {row.path for row in rows} == {str(path.relative_to(tmp_path)) for path in again.files()}
        assert {row.calling_ae_title for row in rows} == {"SENDER"}
        assert {row.peer_address for row in rows} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("request_", "settings", "reason"),
    [
        (associate_rq(called="OTHER"), {}, (1, 1, 7)),
        (associate_rq(calling="STRANGER"), {"allowed_calling_ae_titles": ("CT01",)}, (1, 1, 3)),
        (associate_rq(), {"min_free_bytes": 1 << 60}, (2, 3, 1)),
    ],
)
def test_an_unwanted_association_is_rejected_with_its_reason(
    tmp_path: Path, request_: bytes, settings: dict[str, Any], reason: tuple[int, int, int]
) -> None:
    with receiving(tmp_path, **settings) as running, Wire(running.port, request_) as wire:
        assert wire.answer[:1] == REJECTED
        assert tuple(wire.answer[7:10]) == reason


@pytest.mark.parametrize("limit", [{"max_associations": 2}, {"max_associations_per_ae": 2}])
def test_associations_over_the_limit_are_rejected_until_one_ends(tmp_path: Path, limit: dict[str, int]) -> None:
    with receiving(tmp_path, **limit) as running, contextlib.ExitStack() as stack:
        first, _ = (stack.enter_context(Wire(running.port, associate_rq())) for _ in range(2))
        with Wire(running.port, associate_rq()) as third:
            assert third.answer[:1] == REJECTED
            assert tuple(third.answer[7:10]) == (2, 3, 2)
        first.release()
        first.socket.close()
        until(lambda: len(running.register) == 1)
        with Wire(running.port, associate_rq()) as fourth:
            assert fourth.answer[:1] == b"\x02"
            fourth.release()


def test_a_peer_outside_the_allowed_networks_is_not_spoken_to(tmp_path: Path) -> None:
    with receiving(tmp_path, allowed_networks=("10.0.0.0/8",)) as running:
        with contextlib.suppress(ConnectionError), Wire(running.port) as wire:
            wire.send(associate_rq())
            assert wire.receive() == b""
        assert running.associations.running == 0


def test_connections_that_say_nothing_cost_no_thread_and_lock_nobody_out(tmp_path: Path) -> None:
    with receiving(tmp_path, max_associations=2, acse_timeout_s=30.0) as running, contextlib.ExitStack() as stack:
        before = threading.active_count()
        for _ in range(50):
            stack.enter_context(Wire(running.port))
        with Wire(running.port, associate_rq()) as wire:
            assert wire.answer[:1] == b"\x02"
            assert threading.active_count() - before <= 2
            wire.release()


def test_a_silent_connection_is_closed_after_the_acse_timeout(tmp_path: Path) -> None:
    with receiving(tmp_path, acse_timeout_s=0.2) as running, Wire(running.port) as wire:
        assert wire.receive() == b""


def test_objects_are_refused_while_the_disk_is_nearly_full_and_taken_again_after(tmp_path: Path) -> None:
    with receiving(tmp_path, min_free_bytes=1000) as running, Wire(running.port, associate_rq()) as wire:
        running.disk.free_bytes = 500
        running.clock[0] += 1
        assert wire.store(data_set(), "1.2.3.4") == 0xA700
        running.disk.free_bytes = 1050
        running.clock[0] += 1
        assert wire.store(data_set(), "1.2.3.4") == 0xA700
        running.disk.free_bytes = 100_000_000
        running.clock[0] += 1
        assert wire.store(data_set(), "1.2.3.4") == 0
        wire.release()


def test_objects_are_refused_while_the_database_refuses_for_long(tmp_path: Path) -> None:
    with receiving(tmp_path) as running, Wire(running.port, associate_rq()) as wire:
        running.indexer._tell_refusal(refuses=True)
        began = time.monotonic()
        assert wire.store(data_set(), "1.2.3.4") == 0xA700
        assert time.monotonic() - began >= 0.2
        # What is known to be refused in the end is not held back first, and a new association is told at once.
        began = time.monotonic()
        assert [wire.store(data_set(), "1.2.3.4") for _ in range(20)] == [0xA700] * 20
        assert time.monotonic() - began < 2.0
        with Wire(running.port, associate_rq()) as other:
            assert other.answer[:1] == REJECTED
        running.indexer._tell_refusal(refuses=False)
        assert wire.store(data_set(), "1.2.3.4") == 0
        wire.release()


def test_a_database_that_refuses_for_a_moment_delays_the_answer_and_refuses_nobody(tmp_path: Path) -> None:
    with receiving(tmp_path, longest_delay_s=30.0) as running, Wire(running.port, associate_rq()) as wire:
        running.indexer._tell_refusal(refuses=True)
        with Wire(running.port, associate_rq()) as other:
            assert other.answer[:1] == ACCEPTED
        wire.send(store_rq(data_set(), "1.2.3.4"))
        wire.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            wire.receive()
        wire.socket.settimeout(10.0)
        running.indexer._tell_refusal(refuses=False)
        assert wire.status() == 0
        wire.release()


def test_a_burst_is_slowed_to_the_pace_of_a_slow_recorder_and_nothing_of_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every row takes longer than an object takes to come.
    monkeypatch.setattr(indexer, "MAX_LAG_S", 0.05)
    record = recorder.Recorder.record

    def record_slowly(self: Any, batch: Any) -> Any:
        time.sleep(0.01 * len(batch))
        return record(self, batch)

    monkeypatch.setattr(recorder.Recorder, "record", record_slowly)
    with receiving(tmp_path, longest_delay_s=10.0) as running, Wire(running.port, associate_rq()) as wire:
        uids = [f"1.2.3.{number}" for number in range(1, 101)]
        assert [wire.store(data_set(uid), uid) for uid in uids] == [0] * len(uids)
        wire.release()
        assert len(running.settle(len(uids))) == len(uids)


def test_an_object_of_another_class_than_announced_is_refused(running: Receiving) -> None:
    another = "1.2.840.10008.5.1.4.1.1.4"
    with Wire(running.port, associate_rq(contexts=[(another, [EXPLICIT])])) as wire:
        wire.send(store_rq(data_set(), "1.2.3.4", context=1, sop_class_uid=another))
        # PS3.4 B.2.3: data set does not match SOP class.
        assert wire.status() == 0xA900
        # One that leaves its class out is of the announced one.
        wire.send(store_rq(data_set(sop_class_uid=""), "1.2.3.4", context=1, sop_class_uid=another))
        assert wire.status() == 0
        wire.release()
    assert len(running.files()) == 1


def test_stopping_finishes_the_object_in_flight(tmp_path: Path) -> None:
    content = data_set(pixels=bytes(4_000_000))
    stream = store_rq(content, "1.2.3.4")
    settings = a_settings(tmp_path)
    stop, ports, ready = threading.Event(), [], threading.Event()

    def on_ready(port: int) -> None:
        ports.append(port)
        ready.set()

    service = threading.Thread(target=serve, args=(settings, a_database(settings), stop, on_ready))
    service.start()
    assert ready.wait(10)
    with Wire(ports[0], associate_rq()) as busy, Wire(ports[0], associate_rq()) as idle:
        busy.send(stream[:3_000_000])
        until(lambda: list(tmp_path.glob("inbox/??/.*.tmp")))
        stop.set()
        assert idle.receive()[:1] == b"\x07"
        busy.send(stream[3_000_000:])
        assert busy.status() == 0
        assert busy.receive()[:1] == b"\x07"
    service.join(10)
    assert not service.is_alive()
    (path,) = tmp_path.glob("inbox/??/*.dcm")
    assert data_set_bytes(path) == content


@pytest.fixture
def touched(running: Receiving, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Studies the index was told more is to come of."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(running.indexer, "touch", lambda study, sender: found.append((study, sender)))
    return found


@pytest.mark.parametrize("step", ["create", "write", "flush"])
def test_a_study_waits_for_an_object_that_we_refused_for_now(
    running: Receiving, touched: list[tuple[str, str]], step: str
) -> None:
    with Wire(running.port, associate_rq()) as wire:
        running.disk.fails_at = step
        assert wire.store(data_set(), "1.2.3.4") == 0xA700
        wire.release()

    assert touched == [("1.2.3", "SENDER")]


def test_a_study_waits_while_the_gate_is_closed_to_its_objects(
    running: Receiving, touched: list[tuple[str, str]]
) -> None:
    with Wire(running.port, associate_rq()) as wire:
        running.indexer._tell_refusal(refuses=True)
        assert wire.store(data_set(), "1.2.3.4") == 0xA700
        running.indexer._tell_refusal(refuses=False)
        wire.release()

    assert touched == [("1.2.3", "SENDER")]


def test_a_study_does_not_wait_for_an_object_that_can_never_be_used(
    running: Receiving, touched: list[tuple[str, str]]
) -> None:
    with Wire(running.port, associate_rq()) as wire:
        assert wire.store(data_set("1.2.3.5"), "1.2.3.4") == 0xA900
        wire.release()

    assert touched == []


def test_an_association_whose_thread_cannot_start_takes_no_place(
    running: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr("pynetdicom.association.Association.start", fail, raising=False)
        with Wire(running.port) as wire:
            wire.send(associate_rq())
            assert wire.receive() == b""

    assert running.associations.running == 0
    with Wire(running.port, associate_rq()) as wire:
        wire.release()


async def _serves_nobody(self: StowServer) -> None:
    self._ready.set()


@pytest.mark.parametrize("name", ["acceptor", "indexer", "journal", "lobby", "stow"])
def test_a_listener_that_lost_a_thread_ends_instead_of_looking_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(listener, "_HEARTBEAT_S", 0.05)
    places: dict[str, tuple[type, str, Callable[..., Any]]] = {
        "acceptor": (Acceptor, "_accept", lambda _self: None),
        "indexer": (indexer.Indexer, "_run", lambda _self: None),
        "journal": (Journal, "_run", lambda _self: None),
        "lobby": (Lobby, "_run", lambda _self: None),
        "stow": (StowServer, "_serve", _serves_nobody),
    }
    monkeypatch.setattr(*places[name])
    settings = a_settings(tmp_path)
    if name == "stow":
        settings = settings.model_copy(update={"stow": StowSettings(port=0, token=SecretStr("0123456789abcdef"))})
    engine = a_database(settings)

    with pytest.raises(WetreadError, match="a part of the listener"):
        serve(settings, engine, threading.Event())
    engine.dispose()


def test_a_site_may_have_each_row_before_its_acknowledgement(tmp_path: Path) -> None:
    with receiving(tmp_path, row_before_ack=True) as running, Wire(running.port, associate_rq()) as wire:
        for number in range(1, 6):
            assert wire.store(data_set(f"1.2.3.{number}"), f"1.2.3.{number}") == 0
            assert [row.sop_instance_uid for row in running.rows()][-1] == f"1.2.3.{number}"
        # An equal repetition gets no row of its own, and its answer all the same.
        assert wire.store(data_set("1.2.3.5"), "1.2.3.5") == 0
        wire.release()
        assert len(running.rows()) == 5


def test_an_object_without_its_row_in_time_is_refused_for_now_and_gets_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OperationalError("insert", {}, Exception("locked"))

    with receiving(tmp_path, row_before_ack=True) as running, Wire(running.port, associate_rq()) as wire:
        with monkeypatch.context() as patched:
            patched.setattr(intake, "record_instances", refuse)
            assert wire.store(data_set("1.2.3.1"), "1.2.3.1") == 0xA700
        running.settle(1)
        assert wire.store(data_set("1.2.3.1"), "1.2.3.1") == 0
        wire.release()
        assert [row.sop_instance_uid for row in running.rows()] == ["1.2.3.1"]
        assert len(running.files()) == 1


def test_a_start_does_not_wait_for_the_rows_of_what_it_finds(tmp_path: Path) -> None:
    with receiving(tmp_path) as running, Wire(running.port, associate_rq()) as wire:
        assert wire.store(data_set("1.2.3.1"), "1.2.3.1") == 0
        wire.release()
    with write(running.engine) as connection:
        connection.execute(tables.instance.delete())

    with receiving(tmp_path, row_before_ack=True) as again:
        assert [row.sop_instance_uid for row in again.settle(1)] == ["1.2.3.1"]


def test_an_object_that_never_gets_a_row_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise InvalidObject("unreadable")

    monkeypatch.setattr(recorder, "describe", refuse)
    with receiving(tmp_path, row_before_ack=True) as running, Wire(running.port, associate_rq()) as wire:
        # It is kept beside the inbox, with its reason.
        assert wire.store(data_set(), "1.2.3.4") == 0
        wire.release()
        assert [path.suffix for path in sorted(running.inbox.refused_directory.iterdir())] == [".dcm", ".reason"]


def test_the_listener_takes_as_many_descriptors_as_the_system_lets_it() -> None:
    given, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, most), most))
        listener_main._allow_many_connections()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (given, most))
