"""Connections that have not asked yet: no thread for half a request or half a handshake, and nothing left of them."""

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from casebook.settings import TlsSettings
from dicom_node.receive import lobby
from dicom_node.receive.lobby import missing_bytes
from dicom_node.tests.receiving import receiving, until
from dicom_node.tests.wire import RELEASE_RQ, Wire, associate_rq, data_set

REQUEST = associate_rq()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> TlsSettings:
    folder = tmp_path_factory.mktemp("tls")
    key, chain = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=x", "-keyout", key, "-out", chain],
        check=True, capture_output=True,
    )  # fmt: skip
    return TlsSettings(certificate=chain, private_key=key, handshake_timeout_s=1.0)


@pytest.mark.parametrize(
    ("head", "missing"),
    [
        (b"", 6),
        (REQUEST[:4], 2),
        (REQUEST[:6], len(REQUEST) - 6),
        (REQUEST[:-1], 1),
        (REQUEST, 0),
        # Not a request, or one that nobody waits for: whoever answers it says so at once.
        (RELEASE_RQ[:6], 0),
        (b"GET / HTTP", 0),
        (b"\1\0\x7f\xff\xff\xff", 0),
    ],
)
def test_a_request_is_whole_when_its_length_says_so(head: bytes, missing: int) -> None:
    assert missing_bytes(head) == missing


def test_half_requests_take_no_thread_and_are_closed_in_time(tmp_path: Path) -> None:
    with receiving(tmp_path, acse_timeout_s=1.5, max_associations=4) as running, contextlib.ExitStack() as stack:
        before = threading.active_count()
        halves = [stack.enter_context(Wire(running.port)) for _ in range(40)]
        for number, one in enumerate(halves):
            one.send(REQUEST[: 1 + 5 * number])
        until(lambda: running.associations.running == len(halves))
        assert threading.active_count() == before

        # Places are those of associations: all four can still be had.
        others = [stack.enter_context(Wire(running.port, REQUEST)) for _ in range(4)]
        assert [one.store(data_set(f"1.2.{at}"), f"1.2.{at}") for at, one in enumerate(others)] == [0] * 4

        assert [one.receive() for one in halves] == [b""] * len(halves)
        until(lambda: running.associations.running == 4)


def test_a_request_that_comes_byte_by_byte_is_answered(tmp_path: Path) -> None:
    with receiving(tmp_path) as running, Wire(running.port) as wire:
        for at in range(len(REQUEST)):
            wire.send(REQUEST[at : at + 1])
        assert wire.receive()[:1] == b"\2"
        wire.release()


def test_half_requests_that_hold_too_much_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "_MAX_HELD_BYTES", 100_000)
    long_request = b"\1\0" + (900_000).to_bytes(4, "big")
    with receiving(tmp_path) as running:
        with Wire(running.port) as wire, contextlib.suppress(ConnectionError):
            began = time.monotonic()
            wire.send(long_request + bytes(800_000))
            assert wire.receive() == b""
            # Not by the time-out of two seconds.
            assert time.monotonic() - began < 1.5
        until(lambda: running.associations.running == 0)
        with Wire(running.port, REQUEST) as other:
            other.release()


def test_a_fault_of_ours_costs_one_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_head: bytes) -> int:
        raise IndexError

    with receiving(tmp_path) as running:
        with monkeypatch.context() as patched, Wire(running.port) as wire:
            patched.setattr(lobby, "missing_bytes", fail)
            wire.send(REQUEST)
            assert wire.receive() == b""
        with Wire(running.port, REQUEST) as other:
            other.release()


def test_half_handshakes_take_no_thread_and_keep_nobody_waiting(tmp_path: Path, certificate: TlsSettings) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate.certificate))
    trusting.check_hostname = False
    options: dict[str, Any] = {"tls": certificate, "max_associations_per_address": 200}
    with receiving(tmp_path, **options) as running, contextlib.ExitStack() as stack:
        before = threading.active_count()
        halves = [stack.enter_context(Wire(running.port)) for _ in range(100)]
        for one in halves:
            # The header of a handshake record, and nothing after it.
            one.send(b"\x16\x03\x01\x02\x00")
        until(lambda: running.associations.running == len(halves))
        assert threading.active_count() == before

        began = time.monotonic()
        plain = socket.create_connection(("127.0.0.1", running.port), timeout=5.0)
        with trusting.wrap_socket(plain) as encrypted:
            encrypted.sendall(REQUEST)
            assert encrypted.recv(1) == b"\2"
        assert time.monotonic() - began < 1.0

        assert [one.receive() for one in halves] == [b""] * len(halves)
        until(lambda: running.associations.running == 0)


def test_what_is_no_handshake_is_closed_and_told(tmp_path: Path, certificate: TlsSettings) -> None:
    with structlog.testing.capture_logs() as said, receiving(tmp_path, tls=certificate) as running:
        with Wire(running.port) as wire:
            wire.send(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                while wire.socket.recv(100):
                    pass
        until(lambda: running.associations.running == 0)

    assert "handshake_failed" in [one.get("reason") for one in said]
