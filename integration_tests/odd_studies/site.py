"""The same studies over the real socket: a whole Wetread under its supervisor, with a writer that keeps what it sees.

Run as a program it is the gpu role of that Wetread, or its supervisor: ``python -m integration_tests.odd_studies.site``
takes what `wetread up` takes.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from casebook.case import Case
from casebook.outcomes import Drafted, Held, Refused
from casebook.settings import Settings
from casebook.study import StudyState
from dicom_node.trial.standin import StandInPacs, StandInRis
from integration_tests import foreign, node, object_sender
from integration_tests.odd_studies.chain import Ended, Output, RecordingWriter, load_preset, senders
from integration_tests.odd_studies.score import Score, judge
from integration_tests.odd_studies.study import OddStudy
from worker.read import read_with
from worker.reader.registry import find_entry, load_registry

#: Where the pictures lie that the writer was shown, in the data directory.
_SHOWN = "shown"


def read(case: Case, settings: Settings) -> Drafted | Refused | Held:
    """Read as the real step does, with a writer that keeps what it is shown."""
    writer = _writer(settings)
    writer.shown.clear()
    writer.study_instance_uid = case.study.study_instance_uid
    outcome = read_with(writer, case, load_preset(settings.config_directory), settings, now=case.study.last_received_at)
    for number, image in enumerate(writer.shown.get(case.study.study_instance_uid, ())):
        folder = settings.data_directory / _SHOWN / case.study.study_instance_uid
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{number}.npy", image)
    return outcome


@cache
def _writer(settings: Settings) -> RecordingWriter:
    return RecordingWriter(find_entry(load_registry(settings.config_directory / "models"), "phantom-cxr"))


def play_over_sockets(studies: Sequence[OddStudy], folder: Path) -> Score:
    """Send studies to a Wetread of its own, wait until each has ended, and judge what arrived where it should go."""
    with (
        closing(StandInPacs(folder / "pacs")) as pacs,
        closing(StandInRis(folder / "ris")) as ris,
        node.running(
            folder / "wetread",
            program=("integration_tests.odd_studies.site",),
            destinations=[
                {"name": "pacs", "kind": "dicom", "host": foreign.LOOPBACK, "port": pacs.port, "ae_title": "PACS"},
                {"name": "ris", "kind": "hl7", "host": foreign.LOOPBACK, "port": ris.port, "result_status": "R"},
            ],
            pipelines=[{"name": "chest_xray"}],
            listener={"senders": senders()},
        ) as wetread,
    ):
        statuses = [_send(wetread.port, study) for study in studies]
        score = Score()
        for study, answered in zip(studies, statuses, strict=True):
            judge(score, study, _ended(wetread, study, answered))
        arrived = {one.sha256 for one in (*pacs.arrivals(), *ris.arrivals())}
        sent = wetread.select("SELECT kind, object_uid, sha256 FROM output WHERE delivered_at IS NOT NULL")
        assert {one.object_uid for one in sent} == {one.object_uid for one in (*pacs.arrivals(), *ris.arrivals())}
        assert {one.sha256 for one in sent if one.kind == "oru"} <= arrived
    return score


def _send(port: int, study: OddStudy) -> list[int]:
    answers = [
        object_sender.send(
            port,
            one.data_set,
            sop_class_uid=one.sop_class_uid,
            sop_instance_uid=one.sop_instance_uid,
            transfer_syntax_uid=one.transfer_syntax_uid,
            calling=study.sender,
        )
        for one in study.instances
    ]
    return [answer if isinstance(answer, int) else -1 for answer in answers]


def _ended(wetread: node.Node, study: OddStudy, statuses: Sequence[int]) -> Ended:
    uid = study.study_instance_uid
    if 0x0000 in statuses:
        wetread.wait_for(uid, timeout_s=120.0)
        wetread.wait_until_idle(uid)
    rows = wetread.select("SELECT state, reason, detail FROM study WHERE study_instance_uid = :uid", uid=uid)
    outputs = wetread.select("SELECT kind, content, first_sent_at FROM output WHERE study_instance_uid = :uid", uid=uid)
    pictures = sorted((wetread.data_directory / _SHOWN / uid).glob("*.npy"))
    return Ended(
        state=StudyState(rows[0].state) if rows else None,
        reason=rows[0].reason if rows else "not_received",
        detail=rows[0].detail if rows else "",
        statuses=statuses,
        outputs=[Output(kind=one.kind, content=one.content, was_sent=one.first_sent_at is not None) for one in outputs],
        shown=[np.load(path) for path in pictures],
        shown_uids=frozenset(image.sop_instance_uid for one in wetread.readings(uid) for image in one.images),
    )


def main() -> None:
    """Run Wetread under its supervisor, with the recording writer in the gpu role."""
    from console import supervisor
    from console.up import up

    roles = tuple(
        replace(role, module="integration_tests.odd_studies.recording_worker") if role.name == "gpu" else role
        for role in supervisor.ROLES
    )
    up(obj=roles)


if __name__ == "__main__":
    main()
