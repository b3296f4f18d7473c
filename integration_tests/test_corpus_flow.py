"""Real files over the wire, each as a study of its own: every one ends, and none stops another."""

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

from casebook.study import StudyState
from dicom_node.trial.standin import StandInPacs
from integration_tests import foreign, node, object_sender
from integration_tests.listener_process import data_set_of
from training.phantom.dicom import build_study, write_study
from worker.tests.test_corpus import READ_ALL_THE_SAME

pytestmark = [pytest.mark.corpus, pytest.mark.slow, pytest.mark.timeout(600)]

#: Of the files that decode, every so many is sent.
STRIDE = 4
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFile:
    """One file of the corpus, and what became of it at the listener."""

    name: str
    #: What the catalogue says of its pixels.
    decodes: bool
    #: The file says in which transfer syntax it is; on the wire every object does.
    names_transfer_syntax: bool
    patient_name: str
    #: Its own; empty where the file names none.
    study_instance_uid: str
    #: DIMSE status, or how the association ended.
    answer: int | str


@pytest.fixture(scope="module")
def wetread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[node.Node]:
    """A Wetread that reads whatever comes, with a fake writer behind the real decoders."""
    folder = tmp_path_factory.mktemp("corpus")
    with (
        closing(StandInPacs(folder / "pacs")) as pacs,
        node.running(
            folder / "wetread",
            program=node.FAKE_WRITER,
            destinations=[
                {"name": "pacs", "kind": "dicom", "host": foreign.LOOPBACK, "port": pacs.port, "ae_title": "PACS"}
            ],
            pipelines=[{"name": "everything", "match": {}, "destinations": ["pacs"]}],
        ) as running,
    ):
        yield running


def _send(port: int, corpus: Path, row: dict[str, str], number: int) -> SentFile:
    path = corpus / row["file"]
    try:
        transfer_syntax_uid, data_set = data_set_of(path)
    except ValueError:
        # No file meta information: what a sender would then assume (PS3.5 10.1).
        transfer_syntax_uid, data_set = str(ImplicitVRLittleEndian), path.read_bytes()
    # The catalogue leaves out what stands behind the place where a file breaks off.
    named = dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPInstanceUID", "StudyInstanceUID"])
    sop_instance_uid, named_study = str(named.get("SOPInstanceUID", "")), str(named.get("StudyInstanceUID", ""))
    # Other UIDs of the same length leave every other byte where it was, and make the file a study of its own.
    study_instance_uid = _like(named_study, number)
    own_uid = _like(sop_instance_uid, number) or f"2.25.{number}"
    for old, new in ((sop_instance_uid, own_uid), (named_study, study_instance_uid)):
        if len(old) > 8:
            data_set = data_set.replace(old.encode(), new.encode())
    if study_instance_uid and study_instance_uid.encode() not in data_set:
        study_instance_uid = named_study  # deflated
        own_uid = sop_instance_uid
    answer = object_sender.send(
        port,
        data_set,
        sop_class_uid=row["SOPClassUID"] or SECONDARY_CAPTURE,
        sop_instance_uid=own_uid,
        transfer_syntax_uid=transfer_syntax_uid or str(ImplicitVRLittleEndian),
    )
    return SentFile(
        name=row["file"],
        decodes=row["decode"] == "ok",
        names_transfer_syntax=bool(row["ts"]),
        patient_name=row["PatientName"],
        study_instance_uid=study_instance_uid,
        answer=answer,
    )


def _like(uid: str, number: int) -> str:
    return f"2.9{number:0{len(uid) - 3}d}" if len(uid) > 8 else uid


@pytest.fixture(scope="module")
def sent(wetread: node.Node, corpus: Path) -> list[SentFile]:
    """Every file that does not decode, and a part of the others between them, each sent and each at its end."""
    with (corpus / "dicom_catalog.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 361
    good = [row for row in rows if row["decode"] == "ok"][::STRIDE]
    chosen = [row for row in rows if row["decode"] != "ok" or row in good]
    files = [_send(wetread.port, corpus, row, number) for number, row in enumerate(chosen, start=1)]
    for one in files:
        if one.answer == 0x0000 and one.study_instance_uid:
            with suppress(TimeoutError):
                wetread.wait_for(one.study_instance_uid, timeout_s=30.0)
    return files


def test_every_file_ends_its_study_with_a_draft_or_a_reason(wetread: node.Node, sent: list[SentFile]) -> None:
    assert sum(not one.decodes for one in sent) == 94
    assert sum(one.decodes for one in sent) == 67
    studies = {row.study_instance_uid: row for row in wetread.select("SELECT * FROM study")}
    ends: Counter[str] = Counter()

    for one in sent:
        study = studies.get(one.study_instance_uid)
        if study is None:
            # Nothing was promised, or what was taken lies aside with its reason.
            assert one.answer != 0x0000 or not one.study_instance_uid, one
            ends["refused by the listener" if one.answer else "set aside"] += 1
            continue
        ends[f"{study.state} {study.reason}".strip()] += 1
        assert study.state in {StudyState.DELIVERED, StudyState.REFUSED, StudyState.HELD}, (one, study)
        if not one.decodes and one.names_transfer_syntax and one.name not in READ_ALL_THE_SAME:
            assert study.state == StudyState.REFUSED, (one, study)
        if study.state != StudyState.DELIVERED:
            assert study.reason
            assert study.detail.endswith("."), study
            assert not one.patient_name or one.patient_name not in study.detail

    assert ends.total() == 161
    # Secondary captures, reports and localizers are shown to no model.
    assert ends[StudyState.DELIVERED] > 30, ends
    reasons = list((wetread.data_directory / "inbox-refused").glob("*.reason"))
    assert len(reasons) == ends["set aside"], ends


def test_why_says_in_one_sentence_what_is_wrong_with_a_file(wetread: node.Node, sent: list[SentFile]) -> None:
    for reason, sentence in {
        "no_images": "Refused, so there is no draft: The study has no image that a model could read",
        "unreadable_images": "Refused, so there is no draft: No image of the study can be read.",
    }.items():
        query = "SELECT study_instance_uid FROM study WHERE state = 'refused' AND reason = :reason ORDER BY 1"
        uid = wetread.select(query, reason=reason)[0].study_instance_uid
        said = wetread.why(uid)
        assert said.startswith(sentence)
        assert said.endswith(f"({reason}).")


def test_no_file_stops_what_comes_after_it(wetread: node.Node, sent: list[SentFile], tmp_path: Path) -> None:
    study = build_study(52_000_001)
    done = foreign.dcmsend(write_study(study, tmp_path), port=wetread.port, called=node.AE_TITLE)
    assert done.returncode == 0, done.stdout + done.stderr

    assert wetread.wait_for(study.study_instance_uid) is StudyState.DELIVERED
    # No role died of a file: the supervisor would say so.
    assert b"role_ended" not in wetread.log.read_bytes()
    assert b"exited with" not in wetread.log.read_bytes()
