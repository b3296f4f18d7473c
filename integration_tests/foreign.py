"""Foreign programs and servers: found, started on free ports in temporary folders, and ended again.

Nothing here knows Wetread's own code: a peer that shared it would prove nothing.
"""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

from integration_tests.settings import REPOSITORY, environment, load

PEERS = REPOSITORY / "integration_tests" / "peers"
LOOPBACK = "127.0.0.1"
#: Debian's DCMTK and Orthanc leave Nagle's algorithm on: 44 ms per object against a sender that delays its ACKs.
NODELAY = {"TCP_NODELAY": "1"}

T = TypeVar("T")


def refuse_or_skip(reason: str) -> NoReturn:
    """End the running test because something foreign is missing: skipped, or failed where all is required.

    Parameters
    ----------
    reason
        What is missing and how to get it.
    """
    if load().require_peers:
        pytest.fail(f"required here (WETREAD_REQUIRE_PEERS=1): {reason}", pytrace=False)
    pytest.skip(reason)


def program(name: str) -> str:
    """Find a foreign program.

    Parameters
    ----------
    name
        As on PATH, for example ``storescu``.

    Returns
    -------
        Its full path; without it the test skips (or fails where peers are required).
    """
    found = shutil.which(name, path=_foreign_path())
    if found is None:
        refuse_or_skip(f"{name} is not installed (make peers)")
    return str(found)


def _foreign_path() -> str:
    # pynetdicom installs programs of its own under DCMTK's names (storescp, findscu): those are no foreign peer.
    ours = Path(sys.prefix) / "bin"
    return os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder).resolve() != ours.resolve())


def node_package(name: str) -> Path:
    """Find a package that ``make peers`` installed with npm.

    Parameters
    ----------
    name
        As in ``integration_tests/peers/package.json``.

    Returns
    -------
        Its folder; without it the test skips (or fails where peers are required).
    """
    folder = PEERS / "node_modules" / name
    if not folder.is_dir():
        refuse_or_skip(f"the npm package {name} is not installed (make peers)")
    return folder


def free_port() -> int:
    """Ask the system for a TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(look: Callable[[], T], *, timeout_s: float = 30.0, what: str = "the condition") -> T:
    """Look again until the answer is true; only for foreign processes, which have no clock of ours.

    Parameters
    ----------
    look
        Asked every 20 ms.
    timeout_s
        Seconds until the wait fails.
    what
        Named in the failure.

    Returns
    -------
        The first true answer.

    Raises
    ------
    TimeoutError
        When it never came.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.02)
    return answer


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


@contextmanager
def process(
    command: Sequence[str | Path], *, log: Path, ports: Sequence[int] = (), extra: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it is ready when it listens on all its ports.

    Parameters
    ----------
    command
        Program and arguments.
    log
        Where its output goes; shown when it does not start.
    ports
        TCP ports on loopback to wait for.
    extra
        Environment variables to set for it.

    Yields
    ------
        The process; it is ended afterwards, and only it.
    """
    with log.open("wb") as output:
        running = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(**(extra or {})),
        )
        try:
            wait_until(
                lambda: running.poll() is not None or all(_listens(port) for port in ports),
                what=f"{command[0]} to listen",
            )
            if ports and running.poll() is not None:
                raise RuntimeError(f"{command[0]} ended at once: {log.read_text(errors='replace')[-2000:]}")
            yield running
        finally:
            end(running)


def end(running: subprocess.Popen[bytes], *, grace_s: float = 10.0) -> None:
    """End one process: asked first, then forced.

    Parameters
    ----------
    running
        Started by the caller; may have ended already.
    grace_s
        Seconds between asking and forcing.
    """
    if running.poll() is None:
        running.terminate()
    try:
        running.wait(grace_s)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait(grace_s)


def run(command: Sequence[str | Path], *, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a foreign program to its end.

    Parameters
    ----------
    command
        Program (found by `program`) and arguments.
    timeout_s
        Seconds it may take.

    Returns
    -------
        Exit status and text of both streams, undecodable bytes replaced.
    """
    first, *rest = command
    return subprocess.run(
        [program(str(first)), *(str(part) for part in rest)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        env=environment(**NODELAY),
    )


# ------------------------------------------------------------------------------------------ DICOM peers


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomPeer:
    """A foreign application entity on loopback."""

    ae_title: str
    port: int
    #: Where it keeps what it received.
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthanc(DicomPeer):
    """A private Orthanc: the PACS of the integration tests."""

    http_port: int

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call its REST interface.

        Parameters
        ----------
        path
            For example ``/instances``.
        body
            Sent as JSON by POST; without it the call is a GET.

        Returns
        -------
            The answer, decoded from JSON.
        """
        return json.loads(self._call(path, body))

    def delete(self, path: str) -> None:
        """Delete a resource through its REST interface.

        Parameters
        ----------
        path
            For example ``/studies/ID``.
        """
        connection = http.client.HTTPConnection(LOOPBACK, self.http_port, timeout=60)
        try:
            connection.request("DELETE", path)
            if connection.getresponse().status != http.client.OK:
                raise RuntimeError(f"Orthanc did not delete {path}")
        finally:
            connection.close()

    def studies(self) -> list[str]:
        """List the Study Instance UIDs it holds, sorted."""
        return sorted(
            self.ask(f"/studies/{name}")["MainDicomTags"]["StudyInstanceUID"] for name in self.ask("/studies")
        )

    def instances(self, study_instance_uid: str, modality: str | None = None) -> list[bytes]:
        """Return the stored objects of a study, each as a DICOM file.

        Parameters
        ----------
        study_instance_uid
            Of the study.
        modality
            Only objects of such series, for example ``SR``.

        Returns
        -------
            The files in the order of their SOP Instance UIDs.
        """
        query = {"StudyInstanceUID": study_instance_uid} | ({"Modality": modality} if modality else {})
        found = self.ask("/tools/find", {"Level": "Instance", "Query": query, "Expand": True})
        found.sort(key=lambda instance: instance["MainDicomTags"]["SOPInstanceUID"])
        return [self._call(f"/instances/{instance['ID']}/file") for instance in found]

    def _call(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        # Loopback, our own server: the address is ours.
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.http_port}{path}", data, timeout=60) as answer:
            content: bytes = answer.read()
        return content


@contextmanager
def orthanc(
    folder: Path, *, modalities: Mapping[str, tuple[str, int]] | None = None, **options: object
) -> Iterator[Orthanc]:
    """Start a private Orthanc.

    Parameters
    ----------
    folder
        Empty; holds its configuration, storage and log.
    modalities
        Application entities it knows: AE title to (host, port), for C-MOVE and storage commitment.
    options
        Over its configuration, for example ``OverwriteInstances=True``.

    Yields
    ------
        The running server, open to every calling AE title on loopback.
    """
    folder.mkdir(parents=True, exist_ok=True)
    peer = Orthanc(ae_title="ORTHANC", port=free_port(), http_port=free_port(), folder=folder / "storage")
    configuration = {
        "Name": "pacs",
        "StorageDirectory": str(peer.folder),
        "IndexDirectory": str(peer.folder),
        "DicomAet": peer.ae_title,
        "DicomPort": peer.port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "UnknownSopClassAccepted": True,
        "HttpPort": peer.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DefaultEncoding": "Utf8",
        "DicomModalities": {
            title: {"AET": title, "Host": host, "Port": port, "AllowStorageCommitment": True}
            for title, (host, port) in (modalities or {}).items()
        },
        "Plugins": [path for path in ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"] if Path(path).exists()],
        "DicomWeb": {"Enable": True},
    } | options
    (folder / "orthanc.json").write_text(json.dumps(configuration, indent=1))
    command: list[str | Path] = [program("Orthanc"), folder / "orthanc.json"]
    with process(command, log=folder / "orthanc.log", ports=[peer.port, peer.http_port], extra=NODELAY):
        wait_until(lambda: _answers(peer), what="Orthanc to answer")
        yield peer


def _answers(peer: Orthanc) -> bool:
    try:
        return bool(peer.ask("/system"))
    except (urllib.error.URLError, ConnectionError):
        return False


@contextmanager
def storescp(folder: Path, *, ae_title: str = "STORESCP", options: Sequence[str] = ()) -> Iterator[DicomPeer]:
    """Start DCMTK's receiver.

    Parameters
    ----------
    folder
        Received files lie below ``received``, named by SOP Instance UID.
    ae_title
        Its own; it answers to any.
    options
        More of its command line, for example ``["--abort-after"]``.

    Yields
    ------
        The running receiver; it takes every SOP class in every transfer syntax DCMTK knows.
    """
    peer = DicomPeer(ae_title=ae_title, port=free_port(), folder=folder / "received")
    peer.folder.mkdir(parents=True)
    command: list[str | Path] = [
        program("storescp"),
        "-aet",
        ae_title,
        "-pm",
        "+xa",
        "-od",
        peer.folder,
        *options,
        str(peer.port),
    ]
    with process(command, log=folder / "storescp.log", ports=[peer.port], extra=NODELAY):
        yield peer


def dcmsend(
    paths: Sequence[Path], *, port: int, called: str, calling: str = "CT01"
) -> subprocess.CompletedProcess[str]:
    """Send files or folders with DCMTK's ``dcmsend``, each in the syntax it is stored in.

    Parameters
    ----------
    paths
        Files, or folders that are searched to any depth.
    port
        Of the receiver on loopback.
    called, calling
        AE titles.

    Returns
    -------
        Its exit status (0: every object was stored) and log.
    """
    options = ["-v", "-aec", called, "-aet", calling, "--no-uid-checks", "+sd", "+r", "--decompress-never"]
    return run(["dcmsend", *options, LOOPBACK, str(port), *paths])


def storescu(
    paths: Sequence[Path], *, port: int, called: str, calling: str = "CT01"
) -> subprocess.CompletedProcess[str]:
    """Send files with DCMTK's ``storescu``, which proposes only uncompressed syntaxes.

    Parameters
    ----------
    paths
        Files, or folders that are searched to any depth.
    port
        Of the receiver on loopback.
    called, calling
        AE titles.

    Returns
    -------
        Its exit status and log.
    """
    return run(["storescu", "-v", "-aec", called, "-aet", calling, "+sd", "+r", LOOPBACK, str(port), *paths])


def echoscu(*, port: int, called: str, calling: str = "CT01") -> bool:
    """Ask by C-ECHO, with DCMTK's ``echoscu``, whether an application entity answers."""
    return run(["echoscu", "-aec", called, "-aet", calling, LOOPBACK, str(port)]).returncode == 0


def findscu(peer: DicomPeer, keys: Mapping[str, str], folder: Path) -> list[Path]:
    """Ask a peer by study-root C-FIND with DCMTK's ``findscu``.

    Parameters
    ----------
    peer
        The one asked.
    keys
        Keyword to value, with ``QueryRetrieveLevel``; an empty value asks for the attribute.
    folder
        Empty; the answers are written here.

    Returns
    -------
        One DICOM file per match, in the order they came.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked = [part for keyword, value in keys.items() for part in ("-k", f"{keyword}={value}")]
    done = run(["findscu", "-S", "-X", "-od", folder, "-aec", peer.ae_title, *asked, LOOPBACK, str(peer.port)])
    if done.returncode != 0:
        raise RuntimeError(f"findscu ended with {done.returncode}: {done.stderr[-2000:]}")
    return sorted(folder.glob("rsp*.dcm"))


# -------------------------------------------------------------------------------------------- HL7 peers


@dataclass(frozen=True, slots=True, kw_only=True)
class Hl7Peer:
    """A foreign HL7 server on loopback that acknowledges everything with AA."""

    port: int
    #: One JSON string per received message, in the order they came.
    log: Path
    #: Set by tests that end the server in mid-work.
    running: subprocess.Popen[bytes] = field(repr=False)

    def received(self) -> list[str]:
        """Return the messages as they came, segments ended by CR."""
        if not self.log.exists():
            return []
        # A line without its end is still being written.
        lines = self.log.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]


@contextmanager
def python_hl7_server(folder: Path) -> Iterator[Hl7Peer]:
    """Start the MLLP server of python-hl7.

    Parameters
    ----------
    folder
        Holds its logs.

    Yields
    ------
        The running server.
    """
    with _hl7_server([sys.executable, PEERS / "python_hl7_server.py"], folder) as peer:
        yield peer


@contextmanager
def node_hl7_server(folder: Path, package: str = "node-hl7-server") -> Iterator[Hl7Peer]:
    """Start the MLLP server of an npm package.

    Parameters
    ----------
    folder
        Holds its logs.
    package
        ``node-hl7-server`` or ``simple-hl7``.

    Yields
    ------
        The running server.
    """
    node_package(package)
    with _hl7_server([program("node"), PEERS / f"{package.replace('-', '_')}.cjs"], folder) as peer:
        yield peer


@contextmanager
def _hl7_server(command: Sequence[str | Path], folder: Path) -> Iterator[Hl7Peer]:
    folder.mkdir(parents=True, exist_ok=True)
    port, received = free_port(), folder / "received.jsonl"
    with process([*command, str(port), received], log=folder / "server.log", ports=[port]) as running:
        yield Hl7Peer(port=port, log=received, running=running)


@cache
def java() -> str:
    """Find Java and PixelMed together; without them the test skips (or fails where peers are required)."""
    if not Path("/usr/share/java/pixelmed.jar").exists():
        refuse_or_skip("PixelMed is not installed (make peers)")
    return program("java")
