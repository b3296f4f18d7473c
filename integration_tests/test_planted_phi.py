"""Patient data in every attribute, through every way a study can go, and none of it in any sink.

Shown on purpose are UIDs, AE titles, destinations and our own reasons: nothing of that is planted.
"""

import base64
import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom import Dataset, dcmwrite
from pydicom.uid import UID, JPEG2000Lossless
from pynetdicom import AE, evt
from sqlalchemy import create_engine, text

from casebook.study import StudyState
from dicom_node.hl7.mllp import CARRIAGE_RETURN, END, START
from dicom_node.results.sr_document import ENHANCED_SR
from dicom_node.tests import peers
from dicom_node.trial.standin import StandInPacs, StandInRis
from integration_tests import foreign, node, object_sender
from integration_tests.planted import Leak, Planter, files, leaks
from integration_tests.settings import REPOSITORY, environment
from training.phantom.dicom import Modality, Photometric, Storage, build_study

PLAIN = Storage(
    modality=Modality.DX,
    photometric=Photometric.MONOCHROME2,
    bits_stored=12,
    transfer_syntax_uid=object_sender.EXPLICIT,
)
#: Columns that hold what was received; the database itself is no sink, its words about a study are.
CONTENT_COLUMNS = {
    "study": set(),
    "job": set(),
    "attempt": set(),
    "audit": set(),
    "output": {"content"},
    "rejection": set(),
    "presence": set(),
    "instance": {"attributes", "header", "modality"},
}


pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(slots=True)
class Ward:
    """The studies that were sent, and what was planted in them."""

    wetread: node.Node
    folder: Path
    planter: Planter = field(default_factory=lambda: Planter(20261122))
    #: Way -> Study Instance UID.
    studies: dict[str, str] = field(default_factory=dict)
    #: Study Instance UID -> where it stood when everything had been sent.
    states: dict[str, StudyState] = field(default_factory=dict)
    #: What each sender was told.
    answers: dict[str, Any] = field(default_factory=dict)

    def film(self, way: str, *, chinese: bool = False) -> Dataset:
        """Build a film that carries planted data everywhere; `way` decides where its draft goes."""
        dataset = build_study(51_000_000 + len(self.studies), storage=PLAIN).dataset
        # Some dates of today's dictionary are multi-valued or retired: none of them may trouble us.
        assert self.planter.plant(dataset, chinese=chinese) > 900
        for keyword in OF_ANIMALS:
            if keyword in dataset:
                delattr(dataset, keyword)
        dataset.SpecificCharacterSet = "GB18030" if chinese else "ISO_IR 192"
        dataset.InstanceNumber = WAYS.index(way) if way in WAYS else 0
        self.studies[way] = str(dataset.StudyInstanceUID)
        return dataset

    def send(self, way: str, dataset: Dataset, *, called: str = node.AE_TITLE) -> int:
        """Send one film with `dcmsend`, from a file that is named after the patient."""
        folder = self.folder / way
        folder.mkdir(exist_ok=True)
        path = folder / f"{self.planter.word('file name')} {self.planter.hanzi('file name')}.dcm"
        dataset.preamble = self.planter.word("preamble").encode().ljust(128, b"\0")
        dcmwrite(path, dataset, enforce_file_format=True)
        sent = foreign.dcmsend([path], port=self.wetread.port, called=called)
        self.answers[way] = sent.returncode
        return sent.returncode

    def send_raw(self, way: str, data_set: bytes, dataset: Dataset, **changes: Any) -> None:
        """Send the bytes of a data set as they are."""
        told = {
            "sop_class_uid": str(dataset.SOPClassUID),
            "sop_instance_uid": str(dataset.SOPInstanceUID),
            "transfer_syntax_uid": str(dataset.file_meta.TransferSyntaxUID),
        }
        self.answers[way] = object_sender.send(self.wetread.port, data_set, **(told | changes))


#: Whoever states any of these is refused as an animal, and nothing of it would reach the rest of the way.
OF_ANIMALS = (
    "PatientSpeciesDescription", "PatientSexNeutered", "PatientBreedDescription", "StrainDescription",
    "StrainNomenclature", "ResponsiblePersonRole", "AnatomicalOrientationType",
)  # fmt: skip

#: The pipeline of a film is the place of its way in this list (InstanceNumber).
WAYS = ("english", "chinese", "archive aborts", "archive says why", "ris says why")


def encoded(dataset: Dataset) -> bytes:
    """Encode a data set without its file meta information."""
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    content = buffer.getvalue()
    return content[144 + int.from_bytes(content[140:144], "little") :]


@contextlib.contextmanager
def archive(*, ends: bool) -> Iterator[int]:
    """Run an archive that aborts in the middle, or that fails and quotes the patient in (0000,0902) Error Comment."""

    def handle(event: Any) -> Any:
        if ends:
            event.assoc.abort()
        answer = Dataset()
        answer.Status = 0xA700
        # PS3.7 allows 64 characters here, and archives do put names into them.
        answer.ErrorComment = str(event.dataset.PatientName)[:64]
        return answer

    ae = AE(ae_title="PACS")
    ae.add_supported_context(ENHANCED_SR)
    server: Any = ae.start_server((foreign.LOOPBACK, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)])
    try:
        yield int(server.socket.getsockname()[1])
    finally:
        server.shutdown()


def answer_error(connection: Any, message: bytes) -> None:
    """Answer AE and quote the whole patient, as some engines do."""
    identifier = peers.control_id(message)
    patient = next(line for line in message.split(b"\r") if line.startswith(b"PID"))
    quoted = patient.replace(b"|", b" ").replace(b"^", b" ")
    lines = [
        b"MSH|^~\\&|RIS|HOSP|WETREAD||20260101||ACK^R01^ACK|9|P|2.5.1",
        b"MSA|AE|" + identifier.encode() + b"|" + quoted,
        b"ERR||PID^1^5|" + quoted + b"^x|E||||" + quoted,
    ]
    connection.sendall(START + b"\r".join([*lines, b""]) + END + CARRIAGE_RETURN)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """A whole Wetread to which every kind of study was sent, each to its end."""
    folder = tmp_path_factory.mktemp("ward")
    pacs, ris = StandInPacs(folder / "pacs"), StandInRis(folder / "ris")
    chinese_ris = StandInRis(folder / "chinese_ris")
    with (
        contextlib.closing(pacs),
        contextlib.closing(ris),
        contextlib.closing(chinese_ris),
        archive(ends=True) as aborting,
        archive(ends=False) as failing,
        peers.Receiver(answer_error) as refusing,
        node.running(
            folder / "wetread",
            program=node.FAKE_WRITER,
            destinations=[
                _pacs("pacs", pacs.port),
                _pacs("pacs_aborts", aborting),
                _pacs("pacs_fails", failing),
                _ris("ris", ris.port, "UNICODE UTF-8"),
                _ris("ris_chinese", chinese_ris.port, "GB 18030-2000"),
                _ris("ris_fails", refusing.port, "UNICODE UTF-8"),
            ],
            pipelines=[
                _way("english", "en", "pacs", "ris"),
                _way("chinese", "zh", "pacs", "ris_chinese"),
                _way("archive aborts", "en", "pacs_aborts"),
                _way("archive says why", "en", "pacs_fails"),
                _way("ris says why", "en", "ris_fails"),
            ],
            queue={"max_attempts": 2, "give_up_after_h": 0.002},
        ) as wetread,
    ):
        (folder / "sent").mkdir()
        found = Ward(wetread=wetread, folder=folder / "sent")
        _send_everything(found)
        yield found


def _pacs(name: str, port: int) -> dict[str, object]:
    return {
        "name": name,
        "kind": "dicom",
        "host": foreign.LOOPBACK,
        "port": port,
        "ae_title": "PACS",
        "timeout_s": 5,
    }


def _ris(name: str, port: int, charset: str) -> dict[str, object]:
    return {
        "name": name,
        "kind": "hl7",
        "host": foreign.LOOPBACK,
        "port": port,
        "result_status": "R",
        "charset": charset,
        "timeout_s": 5,
    }


def _way(way: str, language: str, *destinations: str) -> dict[str, object]:
    return {
        "name": way.replace(" ", "_"),
        "match": {"Modality": ["DX"], "InstanceNumber": [str(WAYS.index(way))]},
        "language": language,
        "destinations": list(destinations),
    }


def _send_everything(ward: Ward) -> None:
    for way in WAYS:
        ward.send(way, ward.film(way, chinese=way == "chinese"))
    _send_to_a_database_that_quotes(ward)
    _send_contradictions(ward)
    _send_broken_objects(ward)
    ward.send("wrong title", ward.film("wrong title"), called="NOBODY")
    verb = ward.wetread.say("send", str(ward.folder / "english"))
    ward.answers["wetread send"] = verb.stdout + verb.stderr
    for way in ENDS:
        ward.wetread.wait_for(ward.studies[way])
    ward.wetread.wait_until_indexed()
    ward.states = ward.wetread.states()


def _send_to_a_database_that_quotes(ward: Ward) -> None:
    # A database puts the values of a row it refuses into its error text; these triggers do the same.
    reading, instance = ward.film("database refuses draft"), ward.film("database refuses image")
    engine = create_engine(f"sqlite:///{ward.wetread.data_directory / 'wetread.sqlite'}")
    with engine.begin() as connection:
        for table, dataset in (("reading", reading), ("instance", instance)):
            connection.execute(
                text(
                    f"CREATE TRIGGER refuse_{table} BEFORE INSERT ON {table} "
                    f"WHEN NEW.study_instance_uid = '{dataset.StudyInstanceUID}' "
                    f"BEGIN SELECT RAISE(ABORT, 'Key ({dataset.PatientName}, {dataset.PatientID}) is refused'); END"
                )
            )
    engine.dispose()
    ward.send("database refuses draft", reading)
    ward.send("database refuses image", instance)


def _send_contradictions(ward: Ward) -> None:
    two = ward.film("two patients")
    ward.send("two patients", two)
    two.SOPInstanceUID = two.file_meta.MediaStorageSOPInstanceUID = UID(f"{two.SOPInstanceUID}.1")
    two.PatientID = ward.planter.word("other PatientID")
    ward.send("two patients", two)
    nobody = ward.film("no patient id")
    nobody.PatientID = ""
    ward.send("no patient id", nobody)
    repeated = ward.film("other pixels")
    ward.send("other pixels", repeated)
    repeated.PixelData = bytes([1, 0]) + repeated.PixelData[2:]
    repeated.PatientComments = ward.planter.word("changed PatientComments")
    ward.send("other pixels", repeated)


def _send_broken_objects(ward: Ward) -> None:
    blind = ward.film("unreadable pixels")
    blind.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x40\0\0\0" + b"\xff\x4f\xff\x51" + bytes(60)
    ward.send_raw(
        "unreadable pixels",
        encoded(blind),
        blind,
        transfer_syntax_uid=str(JPEG2000Lossless),
    )
    poisoned = ward.film("poisoned header")
    word = ward.planter.word
    content = encoded(poisoned)
    for keyword, poison in {
        "PatientName": f"{word('poisoned PatientName')}\r\nOBX|1|\\\x00\x1b",
        "AccessionNumber": f"{word('poisoned AccessionNumber')}\x00|^~",
        "StudyDescription": f"{word('poisoned StudyDescription')}\r\x0b\x1c\xff",
        "StudyDate": f"{word('poisoned StudyDate')}",
    }.items():
        content = _replaced(content, poisoned[keyword].tag, poison.encode("latin-1"))
    ward.send_raw("poisoned header", content, poisoned)
    # A value that runs over the end of the data set.
    cut = ward.film("cut header")
    content = encoded(cut)
    ward.send_raw("cut header", content[: content.index(str(cut.PatientID).encode()) + 4], cut)
    noise = ward.film("damaged header")
    content = encoded(noise)
    at = content.index(str(noise.PatientID).encode()) + 40
    ward.send_raw("damaged header", content[:at] + b"\xff\xfe\xfd" * 7 + content[at:], noise)
    nameless = ward.film("name as uid")
    content = _replaced(encoded(nameless), nameless["StudyInstanceUID"].tag, word("StudyInstanceUID").encode())
    ward.send_raw("name as uid", content, nameless)
    ward.send_raw("name as instance uid", content, nameless, sop_instance_uid=word("SOPInstanceUID"))
    half = ward.film("half an object")
    ward.send_raw("half an object", encoded(half), half, give_up=True)


def _replaced(content: bytes, tag: int, value: bytes) -> bytes:
    # Explicit VR little endian: tag, VR and a two-byte length before the value (PS3.5 7.1.2).
    start = content.index((tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little"))
    length = int.from_bytes(content[start + 6 : start + 8], "little")
    value += b" " * (len(value) % 2)
    head = content[: start + 6] + len(value).to_bytes(2, "little")
    return head + value + content[start + 8 + length :]


#: Where the studies end; the others never became one.
ENDS = {
    "english": StudyState.DELIVERED,
    "chinese": StudyState.DELIVERED,
    "archive aborts": StudyState.DEAD,
    "archive says why": StudyState.DEAD,
    "ris says why": StudyState.DEAD,
    "database refuses draft": StudyState.DEAD,
    "two patients": StudyState.HELD,
    "no patient id": StudyState.HELD,
    "other pixels": StudyState.HELD,
    "unreadable pixels": StudyState.REFUSED,
}


def test_every_study_went_the_way_it_was_meant_to_go(ward: Ward) -> None:
    states = ward.states
    assert {way: states.get(ward.studies[way]) for way in ENDS} == ENDS

    # The image the database refused lies aside; what has no usable header was never taken.
    aside = [path.name for path in (ward.wetread.data_directory / "inbox-refused").glob("*.dcm")]
    assert len(aside) == 1
    assert ward.studies["database refuses image"] not in states
    broken = ("cut header", "damaged header", "name as uid", "name as instance uid")
    assert {way: ward.answers[way] for way in broken} == dict.fromkeys(broken, 0xA900)
    assert states[ward.studies["poisoned header"]] in {StudyState.HELD, StudyState.DELIVERED}
    assert ward.answers["wrong title"] != 0
    assert ward.answers["half an object"] == object_sender.GIVEN_UP
    assert "1 of 1 files accepted" in ward.answers["wetread send"]


def test_no_sink_holds_patient_data(ward: Ward) -> None:
    sinks = {
        "log": ward.wetread.log.read_bytes(),
        "wetread send": ward.answers["wetread send"].encode(),
        "command lines": _command_lines(ward.wetread.running.pid),
        **_verbs(ward),
        **_words_of_the_database(ward.wetread),
        # The inbox and the database hold what was received; everything else in the folder is a sink.
        **files(
            ward.wetread.data_directory,
            but=("inbox/*/*.dcm", "inbox-refused/*.dcm", "wetread.sqlite", "wetread.sqlite-*"),
        ),
    }
    assert len(sinks) > 50
    assert len(ward.planter.values) > 10_000

    found = leaks(ward.planter.values, sinks)

    assert [f"{one.sink}: {one.place}" for one in found] == []


def _command_lines(pid: int) -> bytes:
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return "\n".join(" ".join([*one.cmdline(), *one.environ().values()]) for one in family).encode()


def _verbs(ward: Ward) -> dict[str, bytes]:
    dead = [uid for uid, state in ward.states.items() if state is StudyState.DEAD]
    verbs: list[tuple[str, ...]] = [("status",), ("status", "--json"), ("config", "check"), ("retry", dead[0])]
    for uid in ward.states:
        verbs += [("why", uid), ("why", uid, "--json")]
    verbs += [("close", ward.studies["english"]), ("release", ward.studies["no patient id"], "--as", "NOBODY")]
    said = {" ".join(verb): ward.wetread.say(*verb) for verb in verbs}
    return {verb: (done.stdout + done.stderr).encode() for verb, done in said.items()}


def _words_of_the_database(wetread: node.Node) -> dict[str, bytes]:
    sinks: dict[str, bytes] = {}
    for table, content in CONTENT_COLUMNS.items():
        for number, row in enumerate(wetread.select(f"SELECT * FROM {table}")):
            kept = {key: value for key, value in row._mapping.items() if key not in content}
            sinks[f"{table} {number}"] = json.dumps(kept, ensure_ascii=False).encode()
    return sinks


# ---- the search itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16-le", "utf-16-be", "latin-1", "json", "base64"])
@pytest.mark.parametrize("kind", ["word", "hanzi", "date"])
def test_a_leak_is_found_in_every_encoding(encoding: str, kind: str) -> None:
    if (encoding, kind) == ("base64", "date"):
        return  # eight digits alone are not sought in base64: they would be found by chance
    planter = Planter(1)
    value = getattr(planter, kind)("PatientName")
    if encoding == "latin-1" and kind == "hanzi":
        written = value.encode("gb18030").decode("latin-1").encode()
    elif encoding == "json":
        written = json.dumps({"name": value}).encode()
    elif encoding == "base64":
        written = base64.b64encode(f"prefix {value} suffix".encode())
    else:
        written = value.encode(encoding)

    found = leaks(planter.values, {"log": b"event " + written + b" end", "other": b"nothing"})

    assert found == [Leak(sink="log", place="PatientName", value=value)]


_SPEAK = """
import logging, sys, threading, warnings
from casebook.logs import configure_logs, get_logger
configure_logs("test")
name = sys.argv[1]
logging.getLogger("pynetdicom").error("C-STORE of %s failed", name)
get_logger().error("step_failed", patient_name=name)
get_logger().error(f"could not read {name}")
warnings.warn(name)
try:
    raise ValueError(name)
except ValueError as error:
    get_logger().error("step_failed", exc_info=error)
    logging.getLogger("celery").exception(name)
def die():
    raise ValueError(name)
thread = threading.Thread(target=die)
thread.start()
thread.join()
if len(sys.argv) > 2:
    print("read the study of", name, file=sys.stderr)
raise ValueError(name)
"""


def test_a_name_that_is_logged_is_dropped_and_one_that_is_printed_is_found() -> None:
    planter = Planter(2)
    name = planter.word("PatientName")

    quiet, loud = (
        subprocess.run(
            [sys.executable, "-c", _SPEAK, name, *more],
            capture_output=True,
            check=False,
            timeout=60,
            cwd=REPOSITORY,
            env=environment(),
        )
        for more in ([], ["aloud"])
    )

    assert quiet.returncode == loud.returncode == 1
    assert quiet.stderr.count(b"\n") >= 8  # each was noted, none with its text
    assert leaks(planter.values, {"quiet": quiet.stdout + quiet.stderr}) == []
    assert [one.sink for one in leaks(planter.values, {"loud": loud.stdout + loud.stderr})] == ["loud"]
