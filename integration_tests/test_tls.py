"""TLS of the DICOM listener against DCMTK: who gets in, who does not, and who keeps nobody waiting."""

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from casebook.errors import SettingsError
from casebook.settings import TlsSettings
from dicom_node.tls import server_context
from integration_tests import foreign
from integration_tests.listener_process import AE_TITLE, ListenerProcess, data_set_of, finished, listener
from integration_tests.test_completeness import slices

pytestmark = [pytest.mark.peers, pytest.mark.slow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    certificate: Path
    key: Path

    @property
    def sha256(self) -> str:
        return sha256(ssl.PEM_cert_to_DER_cert(self.certificate.read_text())).hexdigest()


def certify(folder: Path, name: str, authority: Certificate | None = None) -> Certificate:
    """Make a key and a certificate with OpenSSL, signed by itself or by an authority."""
    made = Certificate(certificate=folder / f"{name}.pem", key=folder / f"{name}.key")
    signer: list[str | Path] = ["-CA", authority.certificate, "-CAkey", authority.key] if authority else []
    extra = ["-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"] if authority else []
    done = foreign.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-keyout", made.key, "-out", made.certificate),
            *signer,
            *extra,
        ]
    )
    assert done.returncode == 0, done.stderr
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    folder: Path
    root: Certificate
    server: Certificate
    client: Certificate
    stranger: Certificate


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("certificates")
    root = certify(folder, "root")
    return Authority(
        folder=folder,
        root=root,
        server=certify(folder, "server", root),
        client=certify(folder, "client", root),
        stranger=certify(folder, "stranger"),
    )


def options(authority: Authority, **more: object) -> dict[str, object]:
    tls = {
        "certificate": str(authority.server.certificate),
        "private_key": str(authority.server.key),
        "handshake_timeout_s": 2,
    }
    return {"tls": tls | more}


@pytest.fixture(scope="module")
def mutual(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListenerProcess]:
    """A listener that wants the client's certificate."""
    folder = tmp_path_factory.mktemp("mutual") / "data"
    with listener(folder, options=options(authority, trusted=str(authority.root.certificate))) as running:
        yield running


def storescu(
    path: Path, port: int, authority: Authority, client: Certificate | None
) -> subprocess.CompletedProcess[str]:
    shown: list[str | Path] = ["+tls", client.key, client.certificate] if client else ["+tla"]
    trust: list[str | Path] = ["+cf", authority.root.certificate]
    return foreign.run(["storescu", "-aec", AE_TITLE, *shown, *trust, foreign.LOOPBACK, str(port), path])


def test_a_known_client_stores_over_tls_and_every_byte_arrives(
    mutual: ListenerProcess, authority: Authority, tmp_path: Path
) -> None:
    (path,) = slices(tmp_path / "modality", 1)

    done = storescu(path, mutual.port, authority, authority.client)

    assert done.returncode == 0, done.stderr
    (stored,) = [one for group in finished(mutual.data_directory).values() for one in group]
    assert data_set_of(stored) == data_set_of(path)


@pytest.mark.parametrize("who", ["nobody", "stranger", "plain"])
def test_a_client_without_a_signed_certificate_is_turned_away(
    mutual: ListenerProcess, authority: Authority, tmp_path: Path, who: str
) -> None:
    (path,) = slices(tmp_path / "modality", 1)

    if who == "plain":
        done = foreign.storescu([path], port=mutual.port, called=AE_TITLE)
    else:
        done = storescu(path, mutual.port, authority, authority.stranger if who == "stranger" else None)

    assert done.returncode != 0


def test_silent_and_dripping_clients_keep_nobody_waiting(
    mutual: ListenerProcess, authority: Authority, tmp_path: Path
) -> None:
    (path,) = slices(tmp_path / "modality", 1)
    base = mutual.resources()
    silent = [socket.create_connection((foreign.LOOPBACK, mutual.port)) for _ in range(20)]
    for connection in silent[:10]:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01")
    try:
        started = time.monotonic()
        assert storescu(path, mutual.port, authority, authority.client).returncode == 0
        assert time.monotonic() - started < 2.0 + 5.0
        # The deadline is one for the whole handshake: a byte now and then does not move it.
        silent[0].settimeout(10)
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            try:
                silent[0].sendall(b"\x00")
                time.sleep(0.2)
            except OSError:
                break
        else:
            pytest.fail("the dripping client was never closed")
    finally:
        for connection in silent:
            connection.close()
    mutual.wait_until_idle(base)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_allowed_versions_are_spoken(
    mutual: ListenerProcess, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = client_context(authority, version)

    with (
        socket.create_connection((foreign.LOOPBACK, mutual.port)) as raw,
        context.wrap_socket(raw, server_hostname=foreign.LOOPBACK) as encrypted,
    ):
        cipher = encrypted.cipher()
    assert cipher is not None
    assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]


def test_ciphers_without_forward_secrecy_are_refused(mutual: ListenerProcess, authority: Authority) -> None:
    context = client_context(authority, ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("AES256-GCM-SHA384:AES128-SHA")

    with socket.create_connection((foreign.LOOPBACK, mutual.port)) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw, server_hostname=foreign.LOOPBACK)


def client_context(authority: Authority, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.root.certificate)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT if hasattr(ssl, "VERIFY_X509_STRICT") else context.verify_flags
    context.load_cert_chain(authority.client.certificate, authority.client.key)
    context.minimum_version = context.maximum_version = version
    return context


def test_only_listed_certificates_get_in_where_a_site_lists_them(authority: Authority, tmp_path: Path) -> None:
    (path,) = slices(tmp_path / "modality", 1)
    other = certify(tmp_path, "other", authority.root)
    chosen = options(authority, trusted=str(authority.root.certificate), allowed_certificates=[authority.client.sha256])
    with listener(tmp_path / "data", options=chosen) as running:
        assert storescu(path, running.port, authority, other).returncode != 0
        assert storescu(path, running.port, authority, authority.client).returncode == 0


def test_without_authorities_a_client_needs_no_certificate(authority: Authority, tmp_path: Path) -> None:
    (path,) = slices(tmp_path / "modality", 1)
    with listener(tmp_path / "data", options=options(authority)) as running:
        assert storescu(path, running.port, authority, None).returncode == 0


def test_a_key_that_does_not_fit_is_a_settings_error(authority: Authority) -> None:
    with pytest.raises(SettingsError, match="certificate and private_key"):
        server_context(TlsSettings(certificate=authority.server.certificate, private_key=authority.client.key))
    with pytest.raises(SettingsError, match="trusted"):
        server_context(
            TlsSettings(
                certificate=authority.server.certificate,
                private_key=authority.server.key,
                trusted=authority.folder / "nowhere.pem",
            )
        )


def test_a_list_of_certificates_needs_authorities(authority: Authority) -> None:
    with pytest.raises(ValueError, match="allowed_certificates needs trusted"):
        TlsSettings(
            certificate=authority.server.certificate,
            private_key=authority.server.key,
            allowed_certificates=("0" * 64,),
        )
