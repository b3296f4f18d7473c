"""The data phase: every packing, no trust in lengths, nothing left behind, and what it needs of pynetdicom."""

import contextlib
import fcntl
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.acse import ACSE
from pynetdicom.presentation import build_context

from dicom_node.receive import admission, associations, storage_service, upper_layer
from dicom_node.receive.inflow import Inflow
from dicom_node.tests.receiving import Receiving, receiving, until
from dicom_node.tests.wire import CT, VERIFICATION, Wire, associate_rq, command, data_set, pdu, store_rq

ABORT = b"\x07"
#: Study Root Query/Retrieve Information Model - FIND (PS3.4 C.4.1).
FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Receiving]:
    with receiving(tmp_path, network_timeout_s=1.0) as found:
        yield found


@pytest.mark.parametrize("seed", range(8))
def test_every_packing_and_segmentation_gives_the_same_bytes(running: Receiving, seed: int) -> None:
    random = Random(seed)
    contents = {
        f"1.2.3.{number}": data_set(f"1.2.3.{number}", pixels=random.randbytes(random.choice([0, 2, 4096, 300_000])))
        for number in range(4)
    }
    with Wire(running.port, associate_rq()) as wire:
        for uid, content in contents.items():
            stream = _oddly_packed(content, uid, random)
            while stream:
                count = random.choice([1, 5, 7, 1000, 4096, 60_000])
                wire.send(stream[:count])
                stream = stream[count:]
            assert wire.status() == 0
        wire.release()

    assert running.stored_data_sets() == contents


def _oddly_packed(content: bytes, uid: str, random: Random) -> bytes:
    said = command(0x0001, CT, uid)
    cut = random.randrange(1, len(said))
    fragments = [(3, 1, said[:cut]), (3, 3, said[cut:])]
    while content:
        count = random.choice([1, 2, 3, 100, 5000, 60_000])
        fragments.append((3, 0, content[:count]))
        content = content[count:]
    if random.random() < 0.5:
        fragments.append((3, 2, b""))
    else:
        fragments[-1] = (3, 2, fragments[-1][2])
    stream = b""
    while fragments:
        count = random.randint(1, 4)
        stream += pdu(*fragments[:count])
        fragments = fragments[count:]
    return stream


def test_an_object_larger_than_the_buffer_arrives_whole(running: Receiving) -> None:
    content = data_set(pixels=Random(1).randbytes(7_000_000))
    stream = store_rq(content, "1.2.3.4")
    with Wire(running.port, associate_rq()) as wire:
        wire.send(stream)
        assert wire.status() == 0
        wire.release()

    assert running.stored_data_sets() == {"1.2.3.4": content}


def test_requests_sent_without_waiting_are_answered_in_order(running: Receiving) -> None:
    uids = [f"1.2.3.{number}" for number in range(20)]
    with Wire(running.port, associate_rq()) as wire:
        wire.send(b"".join(store_rq(data_set(uid), uid) for uid in uids) + pdu((1, 3, command(0x0030, VERIFICATION))))
        assert [wire.status() for _ in range(21)] == [0] * 21
        wire.release()

    assert set(running.stored_data_sets()) == set(uids)


def _pdata(content: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBI", 4, 0, len(content) if length is None else length) + content


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(_pdata(struct.pack(">IBB", 1, 3, 3)), id="a fragment too short for its own header"),
        pytest.param(_pdata(struct.pack(">IBB", 5000, 3, 3) + b"1234"), id="a fragment longer than its PDU"),
        pytest.param(pdu((3, 2, b"data")), id="a data set without a command"),
        pytest.param(pdu((99, 3, command(0x0001, CT, "1.2.3.4"))), id="a context that was never accepted"),
        pytest.param(pdu((3, 3, b"\xff" * 20)), id="a command set that is none"),
        pytest.param(pdu((3, 3, b"")), id="an empty command set"),
        pytest.param(
            pdu((3, 3, command(0x0001, CT, "1.2.3.4"))) + pdu((3, 3, command(0x0001, CT, "1.2.3.4"))),
            id="a command inside a data set",
        ),
        pytest.param(
            pdu((3, 3, command(0x0001, CT, "1.2.3.4"))) + pdu((1, 0, b"data")), id="a data set on another context"
        ),
        pytest.param(_pdata(b"", 0xFFFFFFF0), id="a PDU of four gigabytes"),
        pytest.param(struct.pack(">BBI", 9, 0, 4) + b"1234", id="a PDU type that does not exist"),
        pytest.param(pdu(*[(3, 1, bytes(60_000))] * 3), id="a command set without end"),
    ],
)
def test_what_the_protocol_forbids_aborts_the_association_and_leaves_nothing(running: Receiving, stream: bytes) -> None:
    with Wire(running.port, associate_rq()) as wire:
        wire.send(stream)
        assert wire.receive()[:1] == ABORT

    until(lambda: running.associations.running == 0)
    assert running.files() == running.leftovers() == []


@pytest.mark.parametrize("share", [0.0, 0.00002, 0.001, 0.5, 0.99])
def test_a_sender_that_stalls_anywhere_is_aborted_after_the_network_timeout(running: Receiving, share: float) -> None:
    stream = store_rq(data_set(pixels=bytes(2_000_000)), "1.2.3.4", piece=60_000)
    with Wire(running.port, associate_rq()) as wire:
        wire.send(stream[: int(len(stream) * share)])
        began = time.monotonic()
        assert wire.receive()[:1] == ABORT
        assert 0.8 < time.monotonic() - began < 3.0

    until(lambda: running.associations.running == 0)
    assert running.files() == running.leftovers() == []


def test_a_message_on_a_context_of_another_service_is_served_by_pynetdicom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def on_find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        found.append(event.identifier.PatientID)
        answer = Dataset()
        answer.PatientID, answer.QueryRetrieveLevel = "P1", "STUDY"
        yield 0xFF00, answer

    monkeypatch.setattr(
        associations, "contexts_for", lambda proposed: [*admission.contexts_for(proposed), build_context(FIND)]
    )
    handlers = associations.Associations.handlers
    monkeypatch.setattr(
        associations.Associations, "handlers", lambda self: [*handlers(self), (evt.EVT_C_FIND, on_find)]
    )
    with receiving(tmp_path) as running:
        entity = AE("ASKER")
        entity.add_requested_context(FIND)
        entity.add_requested_context(CT, "1.2.840.10008.1.2.1")
        association = entity.associate("127.0.0.1", running.port, ae_title="WETREAD")
        query = Dataset()
        query.PatientID, query.QueryRetrieveLevel = "P1", "STUDY"
        answers = [(status.Status, bool(identifier)) for status, identifier in association.send_c_find(query, FIND)]
        association.release()

    assert found == ["P1"]
    assert answers == [(0xFF00, True), (0x0000, False)]


def test_an_idle_association_waits_without_working(tmp_path: Path) -> None:
    with receiving(tmp_path, network_timeout_s=60.0) as running:
        wires = [Wire(running.port, associate_rq()) for _ in range(40)]
        began, worked = time.monotonic(), time.process_time()
        time.sleep(1.0)
        share = (time.process_time() - worked) / (time.monotonic() - began)
        for wire in wires:
            wire.release()
            wire.socket.close()

    # Polling a thousand times a second, as pynetdicom does, costs more than half a core here.
    assert share < 0.2


def test_bytes_that_tls_has_decrypted_already_are_not_waited_for(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", "/CN=x", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    asking = ssl.create_default_context(cafile=str(certificate))
    asking.check_hostname = False
    ours, theirs = socket.socketpair()
    secured: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: secured.append(serving.wrap_socket(ours, server_side=True)))
    thread.start()
    peer = asking.wrap_socket(theirs)
    thread.join(5)
    server = secured[0]
    server.setblocking(False)
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    inflow = Inflow(server, wake, 5.0)
    peer.sendall(b"x" * 10_000)
    until(lambda: inflow.wait(1.0, in_message=False)[0])
    # Make the buffer nearly full, so that one call takes only a part of what TLS holds.
    inflow.end = inflow.position = len(inflow.buffer) - 100
    inflow.is_pinned = True
    assert inflow.receive()
    assert server.pending()

    began = time.monotonic()
    assert inflow.wait(5.0, in_message=False) == (True, False)
    assert time.monotonic() - began < 1.0
    for each in (server, peer):
        each.close()
    os.close(wake)


def test_an_answer_that_comes_after_the_association_is_lost_ends_it_by_an_abort_and_not_by_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = admission.contexts_for

    def late(proposed: Any) -> Any:
        (association,) = [one for one in threading.enumerate() if isinstance(one, upper_layer.FastAssociation)]
        until(lambda: association.dul.state_machine.current_state == "Sta13")
        return real(proposed)

    monkeypatch.setattr(associations, "contexts_for", late)
    with receiving(tmp_path) as running:
        with Wire(running.port) as wire:
            # The second PDU is damaged, and is read while the request is still being decided.
            wire.send(associate_rq() + struct.pack(">BBI", 9, 0, 4) + b"1234")
            assert wire.receive()[:1] == ABORT
            assert wire.receive() == b""
        until(lambda: running.associations.running == 0)

    said = capsys.readouterr()
    assert "association_failed" not in said.out + said.err


@pytest.mark.parametrize("state", ["Sta6", "Sta8"])
def test_an_event_that_the_state_does_not_know_aborts_the_association(
    running: Receiving, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Wire(running.port, associate_rq()) as wire:
        association: Any = next(one for one in threading.enumerate() if isinstance(one, upper_layer.FastAssociation))
        association.dul.state_machine.current_state = state
        association.dul.event_queue.put("Evt18")
        association.dul.wake()
        assert wire.receive()[:1] == ABORT

    until(lambda: running.associations.running == 0)
    assert "association_failed" not in capsys.readouterr().out


def test_a_study_waits_for_an_object_that_arrives_slowly(running: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[str] = []
    monkeypatch.setattr(running.indexer, "touch", lambda study, _sender: touched.append(study))
    monkeypatch.setattr(upper_layer, "_LONGEST_UNWRITTEN_S", 0.05)
    monkeypatch.setattr(storage_service, "_TOUCH_INTERVAL_S", 0.05)
    monkeypatch.setattr(upper_layer, "_LONGEST_WAIT_S", 0.05)
    content = data_set(pixels=bytes(100_000))
    stream = store_rq(content, "1.2.3.4")
    with Wire(running.port, associate_rq()) as wire:
        # Far less than a buffer, and then nothing for a while.
        wire.send(stream[:40_000])
        until(lambda: len(touched) >= 2)
        wire.send(stream[40_000:])
        assert wire.status() == 0
        wire.release()

    assert set(touched) == {"1.2.3"}
    assert running.stored_data_sets() == {"1.2.3.4": content}


OTHER_REQUESTS = {
    "C-GET": 0x0010,
    "C-FIND": 0x0020,
    "C-MOVE": 0x0021,
    "N-EVENT-REPORT": 0x0100,
    "N-GET": 0x0110,
    "N-SET": 0x0120,
    "N-ACTION": 0x0130,
    "N-CREATE": 0x0140,
    "N-DELETE": 0x0150,
}


@pytest.mark.parametrize("field", OTHER_REQUESTS.values(), ids=OTHER_REQUESTS)
@pytest.mark.parametrize("context", [1, 3], ids=["verification", "storage"])
@pytest.mark.parametrize("identifier", [None, b"", b"x" * 100_000], ids=["no data set", "an empty one", "a long one"])
def test_a_request_of_another_service_is_answered(
    running: Receiving, field: int, context: int, identifier: bytes | None
) -> None:
    with Wire(running.port, associate_rq()) as wire:
        wire.send(pdu((context, 3, command(field, CT, None if identifier is None else "1.2.3.4"))))
        if identifier is not None:
            for at in range(0, len(identifier) or 1, 16000):
                wire.send(pdu((context, 2 if at + 16000 >= len(identifier) else 0, identifier[at : at + 16000])))
        # PS3.7 C.5, unrecognized operation.
        assert wire.status() == 0x0211
        assert wire.store(data_set(), "1.2.3.4") == 0
        wire.release()


def test_the_answer_to_another_service_is_the_response_of_that_service(running: Receiving) -> None:
    body = b"".join(
        struct.pack("<HHI", 0, number, len(value)) + value
        for number, value in [(0x0003, b"1.2.4\0"), (0x0100, b"\x30\x01"), (0x0110, b"\7\0"), (0x0800, b"\1\1"),
                              (0x1001, b"1.2.5\0")]
    )  # fmt: skip
    with Wire(running.port, associate_rq()) as wire:
        wire.send(pdu((3, 3, body)))
        answer = wire.receive()
        wire.release()

    # N-ACTION-RSP, its message, and the instance that was requested (PS3.7 10.3.5).
    for number, value in [(0x0002, b"1.2.4\0"), (0x0100, b"\x30\x81"), (0x0120, b"\7\0"), (0x1000, b"1.2.5\0")]:
        assert struct.pack("<HHI", 0, number, len(value)) + value in answer


@pytest.mark.parametrize(
    ("context", "sop_class_uid"),
    [
        (1, CT),
        (1, VERIFICATION),
        (3, "1.2.840.10008.5.1.4.1.1.4"),
        (3, VERIFICATION),
        (3, ""),
        (3, CT + "\x1b\x00\x1b"),
        (3, CT + ".1"),
    ],
    ids=["over verification", "of verification", "another", "verification over storage", "none", "no UID", "longer"],
)
def test_an_object_of_another_class_than_its_context_is_refused_whole(
    running: Receiving, context: int, sop_class_uid: str
) -> None:
    content = data_set(pixels=bytes(3_000_000))
    with Wire(running.port, associate_rq()) as wire:
        wire.send(store_rq(content, "1.2.3.4", context=context, sop_class_uid=sop_class_uid))
        assert wire.status() == 0x0122
        assert running.files() == running.leftovers() == []
        assert wire.store(data_set(), "1.2.3.4") == 0
        wire.release()


def test_a_refused_object_that_only_trickles_is_given_up(running: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upper_layer, "MIN_RATE_BYTES_PER_S", 1 << 30)
    with Wire(running.port, associate_rq()) as wire:
        wire.send(pdu((1, 3, command(0x0001, CT, "1.2.3.4"))))
        ended = threading.Event()

        def trickle() -> None:
            while not ended.wait(0.05):
                wire.send(pdu((1, 0, b"xx")))

        with contextlib.suppress(OSError):
            thread = threading.Thread(target=trickle, daemon=True)
            thread.start()
            try:
                assert wire.receive()[:1] == ABORT
            finally:
                ended.set()
                thread.join()


def test_an_echo_with_a_data_set_is_refused(running: Receiving) -> None:
    with Wire(running.port, associate_rq()) as wire:
        wire.send(pdu((1, 3, command(0x0030, VERIFICATION, "1.2.3.4")), (1, 2, b"xx")))
        assert wire.status() == 0x0212
        wire.release()


@pytest.mark.parametrize("field", [0x8001, 0x8020, 0x0000, 0x1234], ids=hex)
def test_what_is_no_request_aborts_the_association(running: Receiving, field: int) -> None:
    with structlog.testing.capture_logs() as logged, Wire(running.port, associate_rq()) as wire:
        wire.send(pdu((3, 3, command(field, CT))))
        assert wire.receive()[:1] == ABORT

    said = str(logged)
    assert all(one in said for one in ("command_unknown", "SENDER", "WETREAD", "127.0.0.1"))


def test_a_cancel_of_nothing_is_let_pass(running: Receiving) -> None:
    with Wire(running.port, associate_rq()) as wire:
        wire.send(pdu((3, 3, command(0x0FFF, CT))))
        assert wire.store(data_set(), "1.2.3.4") == 0
        wire.release()


@pytest.mark.parametrize(
    ("owner", "name", "answer"),
    # Rejected for now without a reason (PS3.8 table 9-21); aborted.
    [(associations, "contexts_for", b"\x03"), (ACSE, "negotiate_association", ABORT)],
)
def test_a_fault_of_ours_in_the_negotiation_lets_nobody_in_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, answer: bytes
) -> None:
    def fail(_anything: Any) -> Any:
        raise IndexError

    monkeypatch.setattr(owner, name, fail)
    with receiving(tmp_path) as running:
        with Wire(running.port) as wire:
            wire.send(associate_rq())
            assert wire.receive()[:1] == answer
            # The peer keeps its side open; ours is closed nevertheless.
            assert wire.receive() == b""
        until(lambda: running.associations.running == 0)
        assert len(running.register) == 0


def test_a_fault_of_ours_in_the_data_phase_is_told(running: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any) -> Any:
        raise IndexError

    with Wire(running.port, associate_rq()) as wire:
        monkeypatch.setattr(upper_layer, "parse_command", fail)
        wire.send(store_rq(data_set(), "1.2.3.4"))
        assert wire.receive()[:1] == ABORT
    until(lambda: running.associations.running == 0)


def test_an_answer_waits_for_room_on_a_descriptor_above_1023() -> None:
    ours, theirs = socket.socketpair()
    high = socket.socket(fileno=fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD, 1100))
    high.setblocking(False)
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    layer: Any = upper_layer.FastAssociation(AE(), "acceptor").dul
    layer.socket = SimpleNamespace(socket=high)
    layer._inflow = Inflow(high, wake, 5.0)
    content = bytes(4_000_000)
    thread = threading.Thread(target=layer._send_all, args=(content,))
    thread.start()
    received = 0
    theirs.settimeout(5.0)
    while received < len(content):
        part = theirs.recv(1 << 20)
        assert part
        received += len(part)
    thread.join()
    for each in (ours, theirs, high):
        each.close()
    os.close(wake)
