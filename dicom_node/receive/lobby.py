"""Connections on their way to an association, held by one thread until their A-ASSOCIATE-RQ has come whole.

Whoever sends half a request, or half a TLS handshake, costs a descriptor and the bytes that came: no thread, and no
place of an association. A whole request leaves here at once.
"""

import contextlib
import os
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from casebook.logs import get_logger
from casebook.settings import ListenerSettings
from dicom_node.receive.admission import Connected
from dicom_node.receive.association_request import printable, titles_of
from dicom_node.receive.pdus import A_ASSOCIATE_RQ, MAX_CONTROL_BYTES, PDU_HEADER
from dicom_node.tls import is_allowed, server_context

#: A request is a few KiB; what all half requests together hold is bounded, whatever lengths they state.
_MAX_HELD_BYTES = 32 << 20
#: The two titles of a request have come with this many bytes (PS3.8 9.3.2).
_BYTES_WITH_TITLES = 42
_log = get_logger(__name__)

#: Told of a connection whose first PDU is whole: with its address, its charge, and that PDU.
Ready = Callable[[socket.socket, Any, Connected, bytes], None]


class _Gone(Exception):
    """The connection is of no use any more; says why, as a name for the log, or nothing where that is no news."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Guest:
    connection: socket.socket
    address: Any
    connected: Connected
    #: On the monotonic clock.
    deadline: float
    is_encrypting: bool
    head: bytearray = field(default_factory=bytearray)


def missing_bytes(head: bytes | bytearray) -> int:
    """Return how many bytes the request lacks at least; 0 where it is whole, or is none and never will be."""
    if len(head) < PDU_HEADER.size:
        return PDU_HEADER.size - len(head)
    kind, length = PDU_HEADER.unpack_from(head)
    if kind != A_ASSOCIATE_RQ or length > MAX_CONTROL_BYTES - PDU_HEADER.size:
        return 0
    return max(0, PDU_HEADER.size + int(length) - len(head))


class Lobby:
    """One thread for all connections of a process that have spoken and have not asked for an association yet."""

    def __init__(self, settings: ListenerSettings, ready: Ready, left: Callable[[Connected], None]) -> None:
        """Take who goes on with a whole request, and who is told of a connection that was closed before.

        Raises
        ------
        SettingsError
            When the TLS files cannot be used.
        """
        self._settings = settings
        self._context = None if settings.tls is None else server_context(settings.tls)
        self._ready = ready
        self._left = left
        self._newcomers: deque[tuple[socket.socket, Any, Connected]] = deque()
        self._guests: set[_Guest] = set()
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lobby", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def take(self, connection: socket.socket, address: Any, connected: Connected) -> None:
        """Take over a connection; called by one other thread."""
        self._newcomers.append((connection, address, connected))
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Close every connection that is still here; nothing may be taken afterwards."""
        self._stopping.set()
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join()
        self._selector.close()
        os.close(self._wake)

    def _run(self) -> None:
        self._selector.register(self._wake, selectors.EVENT_READ)
        while not self._stopping.is_set():
            for key, _ in self._selector.select(self._wait_s()):
                if key.data is not None:
                    self._serve(key.data)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            self._welcome()
            self._close_overdue()
        self._welcome()
        for guest in tuple(self._guests):
            self._close(guest)

    def _wait_s(self) -> float | None:
        if not self._guests:
            return None
        return max(0.0, min(guest.deadline for guest in self._guests) - time.monotonic())

    def _welcome(self) -> None:
        while self._newcomers:
            connection, address, connected = self._newcomers.popleft()
            patience_s = self._settings.acse_timeout_s
            if self._settings.tls is not None:
                patience_s = self._settings.tls.handshake_timeout_s
            guest = _Guest(
                connection=connection,
                address=address,
                connected=connected,
                deadline=time.monotonic() + patience_s,
                is_encrypting=self._context is not None,
            )
            self._guests.add(guest)
            try:
                connection.setblocking(False)
                if self._context is not None:
                    guest.connection = self._context.wrap_socket(
                        connection, server_side=True, do_handshake_on_connect=False
                    )
                self._selector.register(guest.connection, selectors.EVENT_READ, guest)
            except (OSError, ValueError):
                # It has gone already.
                self._close(guest)
            else:
                self._serve(guest)

    def _serve(self, guest: _Guest) -> None:
        try:
            if self._is_encrypted(guest) and self._has_asked(guest):
                self._selector.unregister(guest.connection)
                self._guests.discard(guest)
                self._ready(guest.connection, guest.address, guest.connected, bytes(guest.head))
        except _Gone as reason:
            self._close(guest, str(reason))
        except Exception:  # noqa: BLE001 - logged with its place
            # Process edge: one connection must not end the others.
            _log.exception("connection_refused", peer=guest.address[0])
            self._close(guest)

    def _is_encrypted(self, guest: _Guest) -> bool:
        """Go on with the handshake; True once there is nothing more to shake."""
        if not guest.is_encrypting or not isinstance(guest.connection, ssl.SSLSocket):
            return True
        try:
            guest.connection.do_handshake()
        except ssl.SSLWantReadError:
            self._selector.modify(guest.connection, selectors.EVENT_READ, guest)
            return False
        except ssl.SSLWantWriteError:
            self._selector.modify(guest.connection, selectors.EVENT_WRITE, guest)
            return False
        except (OSError, ValueError):
            raise _Gone("handshake_failed") from None
        tls = self._settings.tls
        if tls is not None and not is_allowed(tls, guest.connection.getpeercert(binary_form=True)):
            raise _Gone("certificate_not_allowed")
        self._selector.modify(guest.connection, selectors.EVENT_READ, guest)
        guest.is_encrypting = False
        guest.deadline = time.monotonic() + self._settings.acse_timeout_s
        return True

    def _has_asked(self, guest: _Guest) -> bool:
        """Take what has come of the request, and not a byte of what follows it; True once it is whole."""
        while missing := missing_bytes(guest.head):
            try:
                part = guest.connection.recv(missing)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            except OSError:
                raise _Gone from None
            if not part:
                raise _Gone
            guest.head += part
            if sum(len(one.head) for one in self._guests) > _MAX_HELD_BYTES:
                raise _Gone("half_requests_too_large")
        return True

    def _close_overdue(self) -> None:
        now = time.monotonic()
        for guest in [one for one in self._guests if one.deadline <= now]:
            self._close(guest, "handshake_failed" if guest.is_encrypting else "request_not_whole_in_time")

    def _close(self, guest: _Guest, reason: str = "") -> None:
        if reason:
            titles = titles_of(bytes(guest.head)) if len(guest.head) >= _BYTES_WITH_TITLES else ("", "")
            called, calling = map(printable, titles)
            _log.warning(
                "connection_refused",
                peer=guest.address[0],
                reason=reason,
                ae_title=calling,
                called_ae_title=called,
            )
        self._guests.discard(guest)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(guest.connection)
        # Before the peer learns it: its next connection must not find this one counted.
        self._left(guest.connected)
        guest.connection.close()
