"""Handshakes on a machine that is short of threads."""

import socket
import ssl
import threading
from pathlib import Path

import pytest

from casebook.settings import TlsSettings
from dicom_node import tls


def test_a_handshake_without_a_thread_is_closed_and_keeps_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(tls, "server_context", lambda _settings: None)
    monkeypatch.setattr(tls, "_MAX_HANDSHAKES", 1)
    monkeypatch.setattr(threading.Thread, "start", fail)
    settings = TlsSettings(certificate=tmp_path / "certificate.pem", private_key=tmp_path / "key.pem")
    handshakes = tls.Handshakes(settings)

    for _ in range(3):
        ours, theirs = socket.socketpair()
        failed = threading.Event()
        handshakes.begin(ours, ("127.0.0.1", 1), lambda _connection, _address: None, failed.set)
        assert ours.fileno() == -1
        assert failed.is_set()
        theirs.close()
    assert handshakes._free.acquire(blocking=False)


def test_a_handshake_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "server_context", lambda _settings: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    settings = TlsSettings(certificate=tmp_path / "certificate.pem", private_key=tmp_path / "key.pem")
    ours, theirs = socket.socketpair()
    failed = threading.Event()

    tls.Handshakes(settings).begin(ours, ("127.0.0.1", 1), lambda _connection, _address: None, failed.set)
    theirs.sendall(b"GET / HTTP/1.0\r\n\r\n")

    assert failed.wait(5.0)
    theirs.close()
