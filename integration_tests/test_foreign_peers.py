"""The peers themselves: each starts, answers, records what it got, and is gone afterwards."""

import json
import socket
import sys
from pathlib import Path

import psycopg
import pytest
import redis
from kombu.connection import Connection
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from integration_tests import foreign, services
from integration_tests.validators import Severity, dcentvfy, dciodvfy, dsrdump, errors, pixelmed

pytestmark = pytest.mark.peers

#: Secondary Capture Image Storage (PS3.4 B.5), Basic Text SR Storage.
SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")
BASIC_TEXT_SR = UID("1.2.840.10008.5.1.4.1.1.88.11")
STUDY = "2.25.31415926535"


def _object(folder: Path, number: int, *, patient_id: str = "P100", sop_class: UID = SECONDARY_CAPTURE) -> Path:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, f"{STUDY}.1.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, f"{STUDY}.1"
    ds.PatientID, ds.PatientName, ds.Modality = patient_id, "Phantom^One", "OT"
    ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.StudyID = ""
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 1, 8, 8, 7
    ds.PixelRepresentation, ds.PhotometricInterpretation, ds.PixelData = 0, "MONOCHROME2", bytes(64)
    path = folder / f"{number}.dcm"
    folder.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def test_orthanc_keeps_what_dcmsend_sends_and_is_found_by_findscu(tmp_path: Path, orthanc: foreign.Orthanc) -> None:
    for number in (1, 2):
        _object(tmp_path / "out", number)

    sent = foreign.dcmsend([tmp_path / "out"], port=orthanc.port, called=orthanc.ae_title)

    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert orthanc.studies() == [STUDY]
    assert len(orthanc.instances(STUDY)) == 2
    assert orthanc.instances(STUDY, "SR") == []
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY, "PatientID": ""}
    assert len(foreign.findscu(orthanc, keys, tmp_path / "found")) == 1


def test_storescp_keeps_what_storescu_sends(tmp_path: Path, storescp: foreign.DicomPeer) -> None:
    sent = foreign.storescu([_object(tmp_path / "out", 1)], port=storescp.port, called=storescp.ae_title)

    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert len(list(storescp.folder.iterdir())) == 1
    assert foreign.echoscu(port=storescp.port, called=storescp.ae_title)


@pytest.mark.parametrize("server", ["python_hl7_server", "node_hl7_server", "simple_hl7_server"])
def test_an_hl7_server_accepts_and_records_a_message(server: str, request: pytest.FixtureRequest) -> None:
    peer: foreign.Hl7Peer = request.getfixturevalue(server)
    lines = [
        "MSH|^~\\&|WETREAD|HOME|RIS|HOME|20261122100000||ORU^R01^ORU_R01|M1|P|2.5.1",
        "OBR|1||A1",
        "OBX|1|TX|T||心影不大",
    ]
    frame = b"\x0b" + "\r".join([*lines, ""]).encode() + b"\x1c\r"

    with socket.create_connection((foreign.LOOPBACK, peer.port), timeout=10) as connection:
        connection.sendall(frame)
        answer = b""
        while not answer.endswith(b"\x1c\r"):
            part = connection.recv(4096)
            assert part, answer
            answer += part

    fields = next(line for line in answer.decode().strip("\x0b\x1c\r").split("\r") if line.startswith("MSA")).split("|")
    assert fields[1:3] == ["AA", "M1"]
    assert len(peer.received()) == 1
    assert "心影不大" in peer.received()[0]


def test_a_server_of_ours_is_gone_after_its_block(tmp_path: Path) -> None:
    with foreign.storescp(tmp_path) as peer:
        pass

    assert not foreign.echoscu(port=peer.port, called=peer.ae_title)


def test_the_validators_find_what_is_wrong(tmp_path: Path) -> None:
    first, second = _object(tmp_path, 1), _object(tmp_path, 2, patient_id="P101")
    document = _object(tmp_path, 3, sop_class=BASIC_TEXT_SR)

    assert any(finding.severity is Severity.ERROR for finding in dciodvfy(first))
    assert any("PatientID" in finding.text or "Patient" in finding.text for finding in dcentvfy([first, second]))
    assert dcentvfy([first, _object(tmp_path / "same", 4)]) == []
    assert errors(dsrdump(document))
    assert errors(pixelmed(document))


def test_a_fresh_database_is_empty_and_gone_afterwards() -> None:
    with services.postgresql() as url:
        plain = url.replace("+psycopg", "")
        with psycopg.connect(plain) as connection:
            tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (0,)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(plain)


def test_a_fresh_virtual_host_takes_messages(amqp_url: str) -> None:
    with Connection(amqp_url) as connection:
        queue = connection.SimpleQueue("wakeups")
        queue.put({"queue": "gpu"})
        message = queue.get(timeout=5)
        message.ack()
        queue.close()
    assert message.payload == {"queue": "gpu"}


def test_two_claims_of_redis_are_two_databases() -> None:
    with services.redis_database() as first, services.redis_database() as second:
        assert first != second
        with redis.Redis.from_url(first) as client:
            client.set("here", "yes")
        with redis.Redis.from_url(second) as client:
            assert client.get("here") is None


def test_no_program_of_our_own_environment_counts_as_foreign() -> None:
    assert (Path(sys.prefix) / "bin" / "storescp").exists()  # pynetdicom's, first on PATH

    assert not foreign.program("storescp").startswith(sys.prefix)


def test_a_peer_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WETREAD_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-program"):
        foreign.program("no-such-program")
    monkeypatch.setenv("WETREAD_REQUIRE_PEERS", "0")
    with pytest.raises(pytest.skip.Exception, match="no-such-program"):
        foreign.program("no-such-program")


def test_the_lock_of_the_npm_peers_names_no_registry() -> None:
    lock = json.loads((foreign.PEERS / "package-lock.json").read_text())
    assert len(lock["packages"]) > 20
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
