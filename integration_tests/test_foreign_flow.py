"""Foreign senders, archive and RIS around a whole Wetread: what goes in comes out beside the images, once."""

import io
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian

from casebook import tables
from casebook.sentences import split_sentences
from casebook.study import InstanceStatus, RejectionReason, StudyState
from dicom_node.objects.rejection_notes import read_rejection
from dicom_node.tests import peers
from integration_tests import foreign, node
from integration_tests.listener_process import data_set_of
from integration_tests.validators import Finding, dcentvfy, dciodvfy, dsrdump
from training.phantom.dicom import Modality, PhantomStudy, Photometric, Storage, build_study

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(400)]

PLAIN = Storage(
    modality=Modality.DX,
    photometric=Photometric.MONOCHROME2,
    bits_stored=12,
    transfer_syntax_uid=ExplicitVRLittleEndian,
)
#: StationName of the films that are read in Chinese, and of those whose RIS is down or refuses.
CHINESE, RIS_DOWN, RIS_REFUSES = "ZH1", "DOWN1", "REFUSES1"
#: Seeds far from those of training and evaluation.
SEEDS = iter(range(41_000_001, 42_000_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hospital:
    """Wetread between a foreign archive and two foreign RIS."""

    wetread: node.Node
    archive: foreign.Orthanc
    #: Both get every message.
    ris: tuple[foreign.Hl7Peer, foreign.Hl7Peer]

    def receive(self, paths: Sequence[Path], *, sender: str = node.SENDER) -> None:
        """Send objects to Wetread with `dcmsend`."""
        sent = foreign.dcmsend(paths, port=self.wetread.port, called=node.AE_TITLE, calling=sender)
        assert sent.returncode == 0, sent.stdout + sent.stderr

    def draft(self, study: PhantomStudy, folder: Path) -> Path:
        """Bring one film through the whole flow, and return its file."""
        path = write(study.dataset, folder)
        self.receive([path])
        assert self.wetread.wait_for(study.study_instance_uid) is StudyState.DELIVERED
        return path

    def reports_in_archive(self, study: PhantomStudy) -> list[Dataset]:
        """Return the SR documents of a study as the archive gives them back."""
        return [dcmread(io.BytesIO(content)) for content in self.archive.instances(study.study_instance_uid, "SR")]

    def messages(self, study: PhantomStudy) -> list[list[str]]:
        """Return what each RIS received of a study."""
        uid = study.study_instance_uid
        return [[one for one in peer.received() if uid in one] for peer in self.ris]

    def rows(self, study: PhantomStudy) -> dict[str, list[object]]:
        """Return every row that a later message could change; a digest is computed when an object repeats."""
        names = ("study", "job", "attempt", "reading", "output", "audit")
        of_study = {table: f"SELECT * FROM {table} WHERE study_instance_uid = :uid ORDER BY 1" for table in names}
        columns = ", ".join(column.name for column in tables.instance.c if column.name != "sha256")
        of_study["instance"] = f"SELECT {columns} FROM instance WHERE study_instance_uid = :uid ORDER BY id"
        of_study["attempt"] = (
            "SELECT attempt.* FROM attempt JOIN job ON job.id = attempt.job_id WHERE study_instance_uid = :uid"
        )
        return {
            table: list(self.wetread.select(query, uid=study.study_instance_uid)) for table, query in of_study.items()
        }


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """One hospital for all tests of this file; every test has studies of its own."""
    folder = tmp_path_factory.mktemp("hospital")
    with (
        foreign.orthanc(folder / "orthanc") as archive,
        foreign.python_hl7_server(folder / "python_hl7") as python_ris,
        foreign.node_hl7_server(folder / "node_hl7") as node_ris,
        peers.Receiver(_reject) as refusing_ris,
    ):
        both = ["pacs", "ris_python", "ris_node"]
        with node.running(
            folder / "wetread",
            destinations=[
                {
                    "name": "pacs",
                    "kind": "dicom",
                    "host": foreign.LOOPBACK,
                    "port": archive.port,
                    "ae_title": archive.ae_title,
                    "rejection_notes": True,
                },
                _ris("ris_python", python_ris.port, "R"),
                _ris("ris_node", node_ris.port, "P"),
                _ris("ris_down", foreign.free_port(), "R"),
                _ris("ris_refuses", refusing_ris.port, "R"),
            ],
            pipelines=[
                {"name": "chinese", "order": 1, "language": "zh", "destinations": both} | _of_station(CHINESE),
                {"name": "ris_is_down", "order": 2, "destinations": ["pacs", "ris_down"]} | _of_station(RIS_DOWN),
                {"name": "ris_refuses", "order": 3, "destinations": ["ris_refuses"]} | _of_station(RIS_REFUSES),
                {"name": "chest_xray", "destinations": both},
            ],
        ) as wetread:
            yield Hospital(wetread=wetread, archive=archive, ris=(python_ris, node_ris))


def _reject(connection: socket.socket, message: bytes) -> None:
    connection.sendall(peers.acknowledgement(peers.control_id(message), "AR"))


def _ris(name: str, port: int, status: str) -> dict[str, object]:
    return {"name": name, "kind": "hl7", "host": foreign.LOOPBACK, "port": port, "result_status": status}


def _of_station(name: str) -> dict[str, object]:
    return {"match": {"Modality": ["DX"], "StationName": [name]}}


def film(*, station: str = "DX01", **changes: str) -> PhantomStudy:
    """Build the next phantom, one film of a patient of its own."""
    study = build_study(next(SEEDS), storage=PLAIN)
    study.dataset.StationName = station
    for keyword, value in changes.items():
        setattr(study.dataset, keyword, value)
    return study


def another_film_of(study: PhantomStudy, **changes: str) -> Dataset:
    """Build a further image of the same patient and study."""
    further, first = build_study(next(SEEDS), storage=PLAIN).dataset, study.dataset
    for element in first:
        if element.tag.group == 0x0010 or element.keyword in {
            "StudyInstanceUID",
            "StudyID",
            "AccessionNumber",
            "StudyDate",
            "StudyTime",
            "StudyDescription",
            "ReferringPhysicianName",
            "ProcedureCodeSequence",
            "StationName",
        }:
            further[element.tag] = element
    further.InstanceNumber = 2
    for keyword, value in changes.items():
        setattr(further, keyword, value)
    return further


def write(dataset: Dataset, folder: Path) -> Path:
    """Write one object as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{len(list(folder.iterdir()))}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def observations(message: str) -> list[list[str]]:
    """Return the fields of the OBX segments of a message."""
    return [line.split("|") for line in message.split("\r") if line.startswith("OBX|")]


def complaints(document: Path, images: Sequence[Path]) -> list[Finding]:
    """Return what the foreign validators say of an SR and of how it fits to its images."""
    fits = [one for one in dcentvfy([document, *images]) if "Different information entities" not in one.text]
    return dsrdump(document) + dciodvfy(document) + fits


# ---- the whole flow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("station", "language", "sender"), [("DX01", "en", "dcmsend"), (CHINESE, "zh-CN", "storescu")])
def test_a_film_comes_back_as_a_report_beside_the_images_and_as_a_message_to_each_ris(
    station: str, language: str, sender: str, hospital: Hospital, tmp_path: Path
) -> None:
    study = film(station=station)
    uid = study.study_instance_uid
    image = write(study.dataset, tmp_path / "images")
    send = {"dcmsend": foreign.dcmsend, "storescu": foreign.storescu}[sender]
    for port, called in ((hospital.archive.port, "ORTHANC"), (hospital.wetread.port, node.AE_TITLE)):
        sent = send([image], port=port, called=called)
        assert sent.returncode == 0, sent.stdout + sent.stderr

    assert hospital.wetread.wait_for(uid) is StudyState.DELIVERED

    # The archive holds one study of one patient, with the image and the report, and C-FIND finds both.
    keys = {"QueryRetrieveLevel": "STUDY", "PatientID": study.dataset.PatientID, "StudyInstanceUID": ""}
    (answer,) = foreign.findscu(hospital.archive, keys, tmp_path / "studies")
    assert dcmread(answer).StudyInstanceUID == uid
    keys = {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": uid, "Modality": "", "SeriesInstanceUID": ""}
    found = [dcmread(one) for one in foreign.findscu(hospital.archive, keys, tmp_path / "series")]
    assert sorted(one.Modality for one in found) == ["DX", "SR"]

    # The report is the frozen one, and nobody foreign finds fault with it.
    (frozen,) = hospital.wetread.outputs(uid, "sr")
    (fetched,) = hospital.archive.instances(uid, "SR")
    document = tmp_path / "fetched.dcm"
    document.write_bytes(fetched)
    (tmp_path / "frozen.dcm").write_bytes(frozen.content)
    assert data_set_of(document) == data_set_of(tmp_path / "frozen.dcm")
    assert complaints(document, [image]) == []
    report = dcmread(document)
    assert (report.CompletionFlag, report.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    assert report.PatientName == study.dataset.PatientName
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == study.dataset.SOPInstanceUID

    # Both RIS got the same draft once, for this patient and this order.
    (reading,) = hospital.wetread.readings(uid)
    assert reading.language == language
    for messages in hospital.messages(study):
        (message,) = messages
        assert f"|{study.dataset.PatientID}^" in message
        assert f"|{study.dataset.AccessionNumber}|" in message
        for section in reading.sections:
            sentences = [one for paragraph in section.paragraphs for one in split_sentences(paragraph)]
            assert all(one.rstrip("。；") in message for one in sentences)
        assert {one[11] for one in observations(message)} <= {"P", "R"}
    acknowledgements = {row.destination: row.acknowledgement for row in hospital.wetread.select(_ANSWERS, uid=uid)}
    assert acknowledgements == {"pacs": "0x0000", "ris_python": "AA", "ris_node": "AA"}
    assert hospital.wetread.why(uid).startswith("Delivered: pacs acknowledged the SR with 0x0000")

    # The draft is about this film: the model's card promises far more than this.
    right = [one.answer_id == study.answers[one.check_id] for one in reading.answers]
    assert len(right) == len(study.answers)
    assert sum(right) >= 0.8 * len(right)
    said = " ".join(paragraph for section in reading.sections for paragraph in section.paragraphs)
    sentences = [one for one in re.split(r"(?<=[.。])\s*", study.reports[language[:2]]) if one]
    assert sum(one.split(": ")[-1].split("：")[-1] in said for one in sentences) >= 0.6 * len(sentences)


_ANSWERS = "SELECT destination, acknowledgement FROM output WHERE study_instance_uid = :uid"


# ---- late, repeated, contradicting -------------------------------------------------------------------------


@pytest.mark.parametrize("sender", ["dcmsend", "storescu"])
def test_a_film_that_arrives_again_changes_nothing(sender: str, hospital: Hospital, tmp_path: Path) -> None:
    study = film()
    path = hospital.draft(study, tmp_path)
    before = hospital.rows(study)

    send = {"dcmsend": foreign.dcmsend, "storescu": foreign.storescu}[sender]
    assert send([path], port=hospital.wetread.port, called=node.AE_TITLE).returncode == 0

    hospital.wetread.wait_until_indexed()
    assert hospital.rows(study) == before
    assert len(hospital.reports_in_archive(study)) == 1
    assert [len(messages) for messages in hospital.messages(study)] == [1, 1]


def test_a_late_film_gives_a_second_draft_that_names_the_first(hospital: Hospital, tmp_path: Path) -> None:
    study = film()
    uid = study.study_instance_uid
    first_image = hospital.draft(study, tmp_path)
    late_image = write(another_film_of(study), tmp_path)

    hospital.receive([late_image])

    assert hospital.wetread.wait_for(uid, StudyState.DELIVERED, generation=2) is StudyState.DELIVERED
    documents = {str(one.SOPInstanceUID): one for one in hospital.reports_in_archive(study)}
    first, second = (documents.pop(row.object_uid) for row in hospital.wetread.outputs(uid, "sr"))
    assert not documents
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    named = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert "PredecessorDocumentsSequence" not in first
    assert second.InstanceNumber < first.InstanceNumber
    path = tmp_path / "second.sr"
    second.save_as(path)
    assert complaints(path, [first_image, late_image]) == []
    assert [len(messages) for messages in hospital.messages(study)] == [2, 2]
    # The phantom model looks at one film; the second draft knows that there are two, and says so.
    assert [(one.based_on_images, one.known_images) for one in hospital.wetread.readings(uid)] == [(1, 1), (1, 2)]


def test_a_second_draft_withdraws_the_first_by_a_note_that_changes_nothing_here(
    hospital: Hospital, tmp_path: Path
) -> None:
    study = film()
    uid = study.study_instance_uid
    first_image = hospital.draft(study, tmp_path)
    assert hospital.archive.instances(uid, "KO") == []
    late_image = write(another_film_of(study), tmp_path)
    hospital.receive([late_image])
    assert hospital.wetread.wait_for(uid, StudyState.DELIVERED, generation=2) is StudyState.DELIVERED

    (content,) = hospital.archive.instances(uid, "KO")

    path = tmp_path / "note.dcm"
    path.write_bytes(content)
    first, _ = hospital.wetread.outputs(uid, "sr")
    assert read_rejection(path, uid) == (RejectionReason.QUALITY, (first.object_uid,))
    assert complaints(path, [first_image, late_image]) == []
    # The archive forwards the note to us as well: it is ours, and no reason to read the study again.
    before = hospital.rows(study)
    hospital.receive([path])
    hospital.wetread.wait_until_indexed()
    after = hospital.rows(study)
    assert len(after.pop("instance")) == len(before.pop("instance")) + 1
    assert after == before


def test_other_pixels_under_a_known_uid_hold_the_study(hospital: Hospital, tmp_path: Path) -> None:
    study = film()
    hospital.draft(study, tmp_path)
    pixels = bytearray(study.dataset.PixelData)
    pixels[0] ^= 1
    study.dataset.PixelData = bytes(pixels)

    hospital.receive([write(study.dataset, tmp_path)])

    uid = study.study_instance_uid
    assert hospital.wetread.wait_for(uid, StudyState.HELD) is StudyState.HELD
    sentence = hospital.wetread.why(uid)
    assert sentence.startswith("Held for a person: An image arrived twice under one SOP Instance UID")
    assert str(study.dataset.SOPInstanceUID) in sentence
    assert len(hospital.reports_in_archive(study)) == 1


def test_two_patient_ids_in_one_study_hold_it_before_anything_is_written(hospital: Hospital, tmp_path: Path) -> None:
    study = film()
    uid = study.study_instance_uid
    paths = [write(study.dataset, tmp_path), write(another_film_of(study, PatientID="PHANTOM-OTHER"), tmp_path)]

    hospital.receive(paths)

    assert hospital.wetread.wait_for(uid) is StudyState.HELD
    sentence = hospital.wetread.why(uid)
    assert "image 1 carries PatientID A, image 2 carries PatientID B" in sentence
    assert "PHANTOM" not in sentence
    shown = hospital.wetread.say("why", uid, "--show-patient-ids").stdout
    assert "PHANTOM-OTHER" in shown
    assert hospital.reports_in_archive(study) == []
    assert hospital.messages(study) == [[], []]


def test_our_own_report_that_comes_back_starts_nothing(hospital: Hospital, tmp_path: Path) -> None:
    study = film()
    hospital.draft(study, tmp_path / "images")
    before = hospital.rows(study)
    path = tmp_path / "own.dcm"
    path.write_bytes(hospital.archive.instances(study.study_instance_uid, "SR")[0])

    hospital.receive([path])

    hospital.wetread.wait_until_indexed()
    after = hospital.rows(study)
    assert len(after.pop("instance")) == len(before.pop("instance")) + 1
    assert after == before
    query = "SELECT status FROM instance WHERE study_instance_uid = :uid ORDER BY id"
    statuses = [row.status for row in hospital.wetread.select(query, uid=study.study_instance_uid)]
    assert statuses == [InstanceStatus.CURRENT, InstanceStatus.OWN]


@pytest.mark.parametrize(
    ("command", "proposed"),
    [
        (["dcmcjpeg", "+e1"], "-xs"),
        (["dcmcrle"], "-xr"),
        (["dcmconv", "+ti"], "-xi"),
        (["dcmconv", "+tb"], "-xb"),
        (["dcmconv", "+td"], "-xd"),
    ],
)
def test_the_same_film_in_another_transfer_syntax_is_a_variant(
    command: list[str], proposed: str, hospital: Hospital, tmp_path: Path
) -> None:
    study = film()
    uid = study.study_instance_uid
    path = hospital.draft(study, tmp_path / "images")
    other = tmp_path / "other.dcm"
    done = foreign.run([*command, path, other])
    assert done.returncode == 0, done.stderr
    assert data_set_of(other)[0] != data_set_of(path)[0]

    # `dcmsend` would send every uncompressed file in explicit VR.
    titles = ["-aec", node.AE_TITLE, "-aet", node.SENDER]
    sent = foreign.run(["storescu", proposed, *titles, foreign.LOOPBACK, str(hospital.wetread.port), other])
    assert sent.returncode == 0, sent.stderr

    query = "SELECT status, transfer_syntax_uid FROM instance WHERE study_instance_uid = :uid ORDER BY id"
    foreign.wait_until(lambda: len(hospital.wetread.select(query, uid=uid)) == 2, what="the second copy")
    hospital.wetread.wait_until_idle(uid)
    rows = [tuple(row) for row in hospital.wetread.select(query, uid=uid)]
    assert rows == [
        (InstanceStatus.CURRENT, data_set_of(path)[0]),
        (InstanceStatus.VARIANT, data_set_of(other)[0]),
    ]
    assert hospital.wetread.states()[uid] is StudyState.DELIVERED
    assert len(hospital.reports_in_archive(study)) == 1
    assert [len(messages) for messages in hospital.messages(study)] == [1, 1]


# ---- what `wetread why` says -------------------------------------------------------------------------------


def test_why_says_that_images_still_arrive_and_a_person_may_close_the_study(hospital: Hospital, tmp_path: Path) -> None:
    study = film()
    uid = study.study_instance_uid
    hospital.receive([write(study.dataset, tmp_path)], sender=node.SLOW_SENDER)
    hospital.wetread.wait_for(uid, StudyState.RECEIVED)

    said = hospital.wetread.say("why", uid)

    assert said.returncode == 0
    assert "Receives images: 1 so far from SLOW01, the last one" in said.stdout
    assert "the quiet period ends in 59 min" in said.stdout
    assert f"wetread close {uid}" in said.stdout
    assert hospital.wetread.say("close", uid).returncode == 0
    assert hospital.wetread.wait_for(uid) is StudyState.DELIVERED


def test_why_says_that_a_ris_is_down_and_nothing_is_lost(hospital: Hospital, tmp_path: Path) -> None:
    study = film(station=RIS_DOWN)
    uid = study.study_instance_uid
    hospital.receive([write(study.dataset, tmp_path)])
    hospital.wetread.wait_for(uid, StudyState.READY)
    shown: list[str] = []

    def names_the_failure() -> bool:
        shown[:] = [hospital.wetread.say("why", uid).stdout]
        # While an attempt runs, the first one or a later one, the sentence is about that attempt.
        return "(the connection failed (ConnectionRefusedError))" in shown[0] and " in work " not in shown[0]

    foreign.wait_until(names_the_failure, what="a failed attempt to be named")

    (said,) = shown
    assert re.search(r"Ready to be sent: sending to ris_down waits: the destination fails since", said)
    assert "Nothing is lost; the same bytes are sent again. Look at destination ris_down (hl7 127.0.0.1:" in said


def test_why_says_that_a_ris_refused_for_good_and_how_to_try_again(hospital: Hospital, tmp_path: Path) -> None:
    study = film(station=RIS_REFUSES)
    uid = study.study_instance_uid
    hospital.receive([write(study.dataset, tmp_path)])
    assert hospital.wetread.wait_for(uid) is StudyState.DEAD

    said = hospital.wetread.say("why", uid)

    assert said.returncode == 1
    assert "Given up: sending to ris_refuses failed after 1 attempt with rejected_by_peer" in said.stdout
    assert "the receiver answered AR" in said.stdout
    assert f"wetread retry {uid}" in said.stdout
    assert hospital.wetread.say("status").returncode == 1


def test_why_says_that_no_pipeline_wants_a_study(hospital: Hospital, tmp_path: Path) -> None:
    study = film(BodyPartExamined="HAND")
    uid = study.study_instance_uid
    hospital.receive([write(study.dataset, tmp_path)])

    assert hospital.wetread.wait_for(uid) is StudyState.UNMATCHED
    assert hospital.wetread.why(uid) == "No pipeline wants this study (DX), so it is kept and not read."
