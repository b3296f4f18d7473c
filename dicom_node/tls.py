"""TLS of the ports we listen on: the profile of PS3.15 B.12 (BCP 195), and handshakes beside the accept loop.

A handshake has a deadline for the whole of it and a thread of its own, of which there is a limited number: a peer
that connects and stays silent, or sends a byte now and then, keeps nobody else waiting.
"""

import hashlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from casebook.errors import SettingsError
from casebook.logs import get_logger
from casebook.settings import TlsSettings

#: RFC 9325 4.2: forward secrecy and authenticated encryption. Those of TLS 1.3 are not chosen here: all are good.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: Handshakes at one time; a connection beyond them is closed.
_MAX_HANDSHAKES = 64
_log = get_logger(__name__)


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Build the context of a listening port.

    Raises
    ------
    SettingsError
        When a file is missing or is not what it should be; names the setting, never the content.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.load_cert_chain(settings.certificate, settings.private_key, password=_refuse_passphrase)
    except (OSError, ValueError):
        raise SettingsError("tls: certificate and private_key cannot be used together") from None
    if settings.trusted is not None:
        try:
            context.load_verify_locations(cafile=settings.trusted)
        except OSError:
            raise SettingsError("tls: trusted cannot be read as PEM certificates") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _refuse_passphrase() -> str:
    # Otherwise OpenSSL would ask at a terminal that a service does not have.
    raise ValueError("the key has a passphrase")


def is_allowed(settings: TlsSettings, certificate: bytes | None) -> bool:
    """Whether a peer may go on with the certificate (DER) that it showed and that was verified."""
    if not settings.allowed_certificates:
        return True
    return certificate is not None and hashlib.sha256(certificate).hexdigest() in settings.allowed_certificates


class Handshakes:
    """Turns accepted connections into encrypted ones."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._context = server_context(settings)
        self._free = threading.BoundedSemaphore(_MAX_HANDSHAKES)

    def begin(
        self,
        connection: socket.socket,
        address: Any,
        done: Callable[[ssl.SSLSocket, Any], None],
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """Shake hands in a thread; `done` gets the encrypted connection, a failed one is closed and `failed` told."""
        if not self._free.acquire(blocking=False):
            _log.warning("connection_refused", peer=address[0], reason="too_many_handshakes")
            connection.close()
            failed()
            return
        arguments = (connection, address, done, failed)
        try:
            threading.Thread(target=self._run, args=arguments, name=f"handshake@{address[0]}", daemon=True).start()
        except RuntimeError:
            self._free.release()
            _log.warning("connection_refused", peer=address[0], reason="no_thread_for_the_handshake")
            connection.close()
            failed()

    def _run(
        self,
        connection: socket.socket,
        address: Any,
        done: Callable[[ssl.SSLSocket, Any], None],
        failed: Callable[[], None],
    ) -> None:
        encrypted = None
        try:
            encrypted = self._shake(connection, address)
        finally:
            self._free.release()
            if encrypted is None:
                failed()
        if encrypted is not None:
            done(encrypted, address)

    def _shake(self, connection: socket.socket, address: Any) -> ssl.SSLSocket | None:
        try:
            # OpenSSL counts this timeout over the whole handshake, not over each of its reads.
            connection.settimeout(self._settings.handshake_timeout_s)
            encrypted = self._context.wrap_socket(connection, server_side=True)
        except (OSError, ValueError) as error:
            _log.warning("connection_refused", peer=address[0], reason="handshake_failed", error=type(error).__name__)
            connection.close()
            return None
        if not is_allowed(self._settings, encrypted.getpeercert(binary_form=True)):
            _log.warning("connection_refused", peer=address[0], reason="certificate_not_allowed")
            encrypted.close()
            return None
        return encrypted
