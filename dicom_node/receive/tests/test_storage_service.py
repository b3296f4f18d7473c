"""One C-STORE: what is there when its sender is answered, and what follows."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from casebook.errors import StoreUnavailable
from dicom_node.receive.statuses import SUCCESS
from dicom_node.receive.storage_service import StorageService, StoreOperation
from dicom_node.storage.disk_gate import DiskGate
from dicom_node.storage.inbox import Inbox, StoredInstance
from dicom_node.storage.tests.test_inbox import an_envelope
from dicom_node.tests.receiving import FailingDisk
from dicom_node.tests.wire import data_set


class Line:
    """An index that remembers what it was given and which files were there then."""

    keeps_up = True

    def __init__(self, inbox: Inbox, *, may_refuse: bool) -> None:
        self.may_refuse = may_refuse
        self.refuses = False
        self._inbox = inbox
        self.had_file: list[bool] = []

    def submit(self, stored: StoredInstance) -> None:
        self.had_file.append((self._inbox.data_directory / stored.path).exists())
        if self.refuses:
            raise StoreUnavailable

    def touch(self, study_instance_uid: str, calling_ae_title: str) -> None:
        """Nobody waits for the study here."""


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def inbox(tmp_path: Path, disk: FailingDisk) -> Iterator[Inbox]:
    with contextlib.closing(Inbox(tmp_path, disk)) as opened:
        opened.journal.start()
        yield opened


def received(inbox: Inbox, line: Line) -> StoreOperation:
    """Receive all of a small object."""
    gate = DiskGate(inbox.directory, 0, inbox.files, time.monotonic)
    operation = StorageService(inbox, gate, line).begin(an_envelope())
    operation.write([data_set()])
    return operation


def files(inbox: Inbox) -> int:
    return sum(1 for _ in inbox.directory.glob("??/*"))


def test_a_small_object_is_answered_when_it_is_durable_and_before_its_file_is_written(inbox: Inbox) -> None:
    line = Line(inbox, may_refuse=False)
    seen = []

    received(inbox, line).finish(
        lambda status: seen.append((status, len(list(inbox.journal.records())), files(inbox), list(line.had_file)))
    )

    assert seen == [(SUCCESS, 1, 0, [])]
    assert files(inbox) == 1
    assert line.had_file == [True]


def test_an_index_that_may_refuse_is_asked_before_the_answer(inbox: Inbox) -> None:
    line = Line(inbox, may_refuse=True)
    line.refuses = True
    answers: list[int] = []

    received(inbox, line).finish(answers.append)

    assert answers == [0xA700]
    assert line.had_file == [True]


def test_an_object_gets_its_file_and_its_row_when_the_peer_is_gone_before_the_answer(inbox: Inbox) -> None:
    line = Line(inbox, may_refuse=False)

    def fail(_status: int) -> None:
        raise ConnectionResetError

    operation = received(inbox, line)
    with pytest.raises(ConnectionResetError):
        operation.finish(fail)
    operation.abandon()

    assert files(inbox) == 1
    assert line.had_file == [True]


def test_an_object_whose_file_cannot_be_written_after_the_answer_waits_in_the_journal(
    inbox: Inbox, disk: FailingDisk
) -> None:
    line = Line(inbox, may_refuse=False)
    disk.fails_at = "create"

    assert received(inbox, line).finish() == SUCCESS

    assert line.had_file == []
    assert not inbox.journal.is_alive
    assert len(list(inbox.journal.records())) == 1
    disk.fails_at = ""
