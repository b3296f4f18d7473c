"""STOW-RS on the wire: a foreign client's files lie byte for byte in the inbox; hostile requests leave nothing."""

import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_auth
from pydicom import dcmread
from pydicom.uid import UID
from requests.auth import AuthBase

from casebook import database, store
from casebook.settings import Settings
from casebook.study import InstanceStatus
from casebook.testing import sqlite_database
from dicom_node.receive import stow as stow_module
from dicom_node.receive.listener import serve
from integration_tests import foreign
from integration_tests.listener_process import data_set_of, finished, temporaries
from integration_tests.test_completeness import STUDY, slices

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-the-tests-0123456789"
JSON = "application/dicom+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    port: int
    settings: Settings

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def folder(self) -> Path:
        return self.settings.data_directory

    def client(self) -> DICOMwebClient:
        return DICOMwebClient(url=self.url, session=create_session_from_auth(_Bearer()))

    def post(
        self,
        body: bytes,
        *,
        path: str = "/studies",
        token: str = TOKEN,
        content_type: str = 'multipart/related; type="application/dicom"; boundary=b',
        source: str = "127.0.0.1",
        **further: str,
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30, source_address=(source, 0))
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type, **further}
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def leftovers(self) -> list[Path]:
        return temporaries(self.folder)


class _Bearer(AuthBase):
    def __call__(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        request.headers["Authorization"] = f"Bearer {TOKEN}"
        return request


@contextmanager
def endpoint(folder: Path, *, listener: dict[str, object] | None = None, **options: object) -> Iterator[Endpoint]:
    """Run the listener's role with its STOW-RS endpoint in this process."""
    port = foreign.free_port()
    settings = Settings.model_validate(
        {
            "data_directory": folder,
            # A fork would copy locks that other threads of the tests hold.
            "listener": {"port": 0, "min_free_bytes": 0, "processes": 1, **(listener or {})},
            "stow": {"port": port, "token": TOKEN, "timeout_s": 3, **options},
        }
    )
    stop, ready = threading.Event(), threading.Event()
    folder.mkdir()
    with sqlite_database(folder) as engine:
        thread = threading.Thread(target=serve, args=(settings, engine, stop, lambda _port: ready.set()))
        thread.start()
        try:
            assert ready.wait(30)
            yield Endpoint(port=port, settings=settings)
        finally:
            stop.set()
            thread.join(30)


@pytest.fixture
def stow(tmp_path: Path) -> Iterator[Endpoint]:
    with endpoint(tmp_path / "data") as running:
        yield running


def part(content: bytes, content_type: str = "application/dicom") -> bytes:
    return b"--b\r\nContent-Type: " + content_type.encode() + b"\r\n\r\n" + content + b"\r\n"


def failures(body: bytes) -> list[int]:
    answer = json.loads(body)
    items = [item for tag in ("00081198", "0008119A") for item in answer.get(tag, {"Value": []})["Value"]]
    return [item["00081197"]["Value"][0] for item in items]


def test_a_foreign_client_stores_a_series_and_every_byte_of_it(stow: Endpoint, tmp_path: Path) -> None:
    paths = slices(tmp_path / "modality", 5)

    answer = stow.client().store_instances([dcmread(path) for path in paths], study_instance_uid=STUDY)

    assert len(answer.ReferencedSOPSequence) == 5
    stored = finished(stow.folder)
    for path in paths:
        uid = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        assert data_set_of(stored[uid][0]) == data_set_of(path)


def test_stored_instances_are_indexed_like_any_other(stow: Endpoint, tmp_path: Path) -> None:
    stow.client().store_instances([dcmread(path) for path in slices(tmp_path / "modality", 3)])

    engine = database.open_database(stow.settings.database_url)
    try:
        deadline = time.monotonic() + 10
        found = 0
        while found < 3 and time.monotonic() < deadline:
            with database.read(engine) as connection:
                found = len(store.instances(connection, STUDY, statuses=[InstanceStatus.CURRENT]))
        assert found == 3
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"token": "wrong-token-of-the-tests"}, 401),
        ({"token": ""}, 401),
        ({"content_type": "application/json"}, 415),
        ({"content_type": "multipart/related; type=application/dicom"}, 415),
        ({"path": "/studies/1.2.x"}, 400),
        ({"path": "/instances"}, 404),
    ],
)
def test_a_request_that_may_not_be_is_refused_and_stores_nothing(
    stow: Endpoint, tmp_path: Path, change: dict[str, str], status: int
) -> None:
    (path,) = slices(tmp_path / "modality", 1)

    found, _ = stow.post(part(path.read_bytes()) + b"--b--", **change)

    assert (found, finished(stow.folder), stow.leftovers()) == (status, {}, [])


def test_one_bad_part_does_not_cost_the_good_ones(stow: Endpoint, tmp_path: Path) -> None:
    one, two = slices(tmp_path / "modality", 2)

    body = part(one.read_bytes()) + part(b"no file") + part(b"{}", JSON) + part(two.read_bytes()) + b"--b--"
    status, answer = stow.post(body)

    assert (status, failures(answer)) == (202, [0xC000, 0xC000])
    assert len(finished(stow.folder)) == 2


def test_an_instance_of_another_study_than_the_path_names_is_refused(stow: Endpoint, tmp_path: Path) -> None:
    (path,) = slices(tmp_path / "modality", 1)

    status, answer = stow.post(part(path.read_bytes()) + b"--b--", path="/studies/1.2.3")

    assert (status, failures(answer), finished(stow.folder)) == (409, [0xA900], {})


def test_a_file_meta_that_lies_about_the_instance_is_refused(stow: Endpoint, tmp_path: Path) -> None:
    (path,) = slices(tmp_path / "modality", 1)
    ds = dcmread(path)
    content = BytesIO()
    ds.save_as(content, enforce_file_format=True)
    lying = content.getvalue().replace(f"{STUDY}.1.1".encode(), f"{STUDY}.1.7".encode(), 1)

    status, answer = stow.post(part(lying) + b"--b--")

    assert (status, failures(answer), finished(stow.folder)) == (409, [0xA900], {})


def test_a_body_without_its_last_delimiter_stores_only_whole_parts(stow: Endpoint, tmp_path: Path) -> None:
    one, two = slices(tmp_path / "modality", 2)

    status, answer = stow.post(part(one.read_bytes()) + part(two.read_bytes())[:-400])

    assert (status, failures(answer)) == (202, [0x0110])
    assert (len(finished(stow.folder)), stow.leftovers()) == (1, [])


def test_a_connection_that_ends_inside_a_part_leaves_nothing(stow: Endpoint, tmp_path: Path) -> None:
    (path,) = slices(tmp_path / "modality", 1)
    body = part(path.read_bytes() + bytes(2_000_000))
    with socket.create_connection(("127.0.0.1", stow.port)) as raw:
        raw.sendall(head(len(body) + 5) + body[:-100])
        time.sleep(0.3)  # The other end is a real server: it has to have begun to write.

    assert_nothing_is_left(stow)


def test_a_sender_that_falls_silent_is_given_up(stow: Endpoint, tmp_path: Path) -> None:
    (path,) = slices(tmp_path / "modality", 1)
    body = part(path.read_bytes() + bytes(2_000_000))
    with socket.create_connection(("127.0.0.1", stow.port)) as raw:
        raw.settimeout(20)
        raw.sendall(head(len(body) + 5) + body[:-100])
        assert b" 400 " in raw.recv(4096)

    assert_nothing_is_left(stow)


def test_an_address_outside_the_allowed_networks_is_not_read_from(tmp_path: Path) -> None:
    with (
        endpoint(tmp_path / "data", listener={"allowed_networks": ["192.0.2.0/24"]}) as stow,
        socket.create_connection(("127.0.0.1", stow.port), timeout=5) as raw,
    ):
        # It has not sent a byte.
        assert raw.recv(1) == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x"])
def test_a_compressed_body_is_refused_and_not_unpacked(stow: Endpoint, tmp_path: Path, encoding: str) -> None:
    (path,) = slices(tmp_path / "modality", 1)
    body = part(path.read_bytes()) + b"--b--"

    status, answer = stow.post(gzip.compress(body), **{"Content-Encoding": encoding})

    assert (status, finished(stow.folder), stow.leftovers()) == (415, {}, [])
    assert b"Content-Encoding" in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /studies HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /studies HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ],
    ids=["method", "path", "token", "no HTTP", "TLS"],
)
def test_no_answer_says_which_software_it_is_of(stow: Endpoint, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", stow.port), timeout=20) as raw:
        raw.sendall(request_bytes)
        answer = raw.recv(65536)

    assert answer.startswith(b"HTTP/1.")
    assert b"\r\nserver:" not in answer.lower()
    assert b"aiohttp" not in answer.lower()


def test_a_sender_that_only_trickles_is_given_up_and_another_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = slices(tmp_path / "modality", 2)
    monkeypatch.setattr(stow_module, "MIN_RATE_BYTES_PER_S", 100_000)
    with endpoint(tmp_path / "data", timeout_s=1) as stow:
        with socket.create_connection(("127.0.0.1", stow.port), timeout=20) as raw:
            raw.sendall(head(10_000_000) + part(one.read_bytes())[:-100])
            raw.setblocking(False)
            deadline, answer = time.monotonic() + 15, b""
            while not answer and time.monotonic() < deadline:
                with suppress(BlockingIOError):
                    answer = raw.recv(4096)
                with suppress(OSError):
                    raw.send(b"x")
                time.sleep(0.1)  # This is the trickle.
            assert b" 400 " in answer
        assert_nothing_is_left(stow)
        assert stow.post(part(two.read_bytes()) + b"--b--")[0] == 200


@pytest.mark.parametrize("sent", [b"", b"POST /studies HTTP/1.1\r\nHost: x\r\nX-Half"])
def test_headers_that_never_end_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(stow_module, "_LONGEST_HEADERS_S", 0.5)
    with (
        endpoint(tmp_path / "data") as stow,
        socket.create_connection(("127.0.0.1", stow.port), timeout=10) as raw,
    ):
        raw.sendall(sent)
        assert raw.recv(1) == b""


def test_one_address_cannot_take_every_request_nor_every_connection(tmp_path: Path) -> None:
    (path,) = slices(tmp_path / "modality", 1)
    body = part(path.read_bytes()) + b"--b--"
    with endpoint(tmp_path / "data", max_requests_per_address=2, timeout_s=20) as stow, ExitStack() as stack:
        for _ in range(2):
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", stow.port), timeout=5))
            raw.sendall(head(len(body) + 5) + body[:200])
        foreign.wait_until(lambda: stow.post(body)[0] == 503, what="the limit of one address")
        for _ in range(200):
            # Half requests of the same address.
            half = stack.enter_context(socket.create_connection(("127.0.0.1", stow.port), timeout=5))
            with suppress(OSError):
                half.sendall(b"POST /studies HT")

        began = time.monotonic()
        assert stow.post(body, source="127.0.0.2")[0] == 200
        assert time.monotonic() - began < 1.0


def head(length: int) -> bytes:
    return (
        f"POST /studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n"
        "Content-Type: multipart/related; boundary=b\r\n\r\n"
    ).encode()


def assert_nothing_is_left(stow: Endpoint) -> None:
    deadline = time.monotonic() + 10
    while stow.leftovers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (stow.leftovers(), finished(stow.folder)) == ([], {})


def test_a_full_disk_is_told_so_that_the_sender_tries_again(tmp_path: Path) -> None:
    (path,) = slices(tmp_path / "modality", 1)
    with endpoint(tmp_path / "data") as stow:
        settings = stow.settings
    full = settings.model_copy(update={"listener": settings.listener.model_copy(update={"min_free_bytes": 10**18})})
    assert full.stow is not None
    stop, ready = threading.Event(), threading.Event()
    engine = database.open_database(full.database_url)
    thread = threading.Thread(target=serve, args=(full, engine, stop, lambda _port: ready.set()))
    thread.start()
    try:
        assert ready.wait(30)
        status, _ = Endpoint(port=full.stow.port, settings=full).post(part(path.read_bytes()) + b"--b--")
    finally:
        stop.set()
        thread.join(30)
        engine.dispose()

    assert (status, finished(full.data_directory)) == (503, {})


def test_an_object_of_any_size_takes_constant_memory(stow: Endpoint, tmp_path: Path) -> None:
    (path,) = slices(tmp_path / "modality", 1)
    ds = dcmread(path)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(f"{STUDY}.9.9")
    pixels_bytes = 256 * 1024 * 1024
    ds.PixelData = b""
    content = BytesIO()
    ds.save_as(content, enforce_file_format=True)
    # The pixel data is the last element: its length is patched, its value is sent in pieces.
    start = content.getvalue()[:-4] + pixels_bytes.to_bytes(4, "little")
    prefix, suffix = part(start)[:-2], b"\r\n--b--"
    before = psutil.Process().memory_info().rss
    peak = before
    with socket.create_connection(("127.0.0.1", stow.port)) as raw:
        raw.settimeout(60)
        raw.sendall(head(len(prefix) + pixels_bytes + len(suffix)) + prefix)
        block = bytes(1024 * 1024)
        for _ in range(pixels_bytes // len(block)):
            raw.sendall(block)
            peak = max(peak, psutil.Process().memory_info().rss)
        raw.sendall(suffix)
        assert b" 200 " in raw.recv(65536)

    assert peak - before < 48 * 1024 * 1024
    (stored,) = finished(stow.folder)[f"{STUDY}.9.9"]
    assert stored.stat().st_size > pixels_bytes


def test_a_port_that_is_not_loopback_needs_tls() -> None:
    with pytest.raises(ValueError, match="in the clear"):
        Settings.model_validate({"stow": {"host": "192.0.2.1", "token": TOKEN}})
