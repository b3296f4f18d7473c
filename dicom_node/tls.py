"""TLS of the ports we listen on: the profile of PS3.15 B.12 (BCP 195)."""

import hashlib
import ssl

from casebook.errors import SettingsError
from casebook.settings import TlsSettings

#: RFC 9325 4.2: forward secrecy and authenticated encryption. Those of TLS 1.3 are not chosen here: all are good.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


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
