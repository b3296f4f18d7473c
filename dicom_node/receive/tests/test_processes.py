"""What connects the listener with the processes that receive: no thread of it ends unseen, no child stays deaf."""

import errno
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dicom_node.index.recorder_process import RecorderProcess
from dicom_node.receive.admission import Register
from dicom_node.receive.processes import ReceivingProcesses, _Child
from dicom_node.storage.acknowledgements import AcknowledgementClock
from dicom_node.storage.disk_gate import ReservedBytes
from dicom_node.tests.receiving import a_settings, until


class FakeRecorder(RecorderProcess):
    """Answers with what it is told to, one after the other."""

    def __init__(self, *answers: Callable[[], bytes]) -> None:
        self.answers = list(answers)

    def forward(self, question: bytes) -> bytes:
        return self.answers.pop(0)()


def _no_process() -> bytes:
    # What Popen says under memory pressure.
    raise OSError(errno.ENOMEM, "told to fail")


@pytest.fixture
def child() -> Iterator[_Child]:
    """One that was never forked: the test stands at its end of the pipe."""
    made = _Child(0, lambda _: None)
    yield made
    made.close_its_ends()
    made.close_our_ends()


def _ask(child: _Child) -> bytes:
    child.records.send_bytes(b"question")
    assert child.records.poll(20), "the child is deaf"
    answer: bytes = child.records.recv_bytes()
    return answer


def test_a_recorder_that_cannot_be_started_leaves_no_child_deaf(child: _Child) -> None:
    records = FakeRecorder(_no_process, lambda: b"answer")
    forwarder = threading.Thread(target=child.forward, args=(records,), name="forwarder", daemon=True)
    forwarder.start()

    # Empty: it has to try again. The next one finds a recorder.
    assert [_ask(child), _ask(child)] == [b"", b"answer"]
    child.close_its_ends()
    forwarder.join(20)
    assert not forwarder.is_alive()


class _Living:
    """A process that lives."""

    def is_alive(self) -> bool:
        return True


@pytest.fixture
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceivingProcesses]:
    """Two, as far as the listener can tell."""
    settings = a_settings(tmp_path_factory.mktemp("data"), processes=2)
    made = ReceivingProcesses(settings, Register(settings.listener), ReservedBytes(), AcknowledgementClock())
    living: Any = _Living()
    for one in made._children:
        one.process = living
    yield made
    for one in made._children:
        one.close_its_ends()
        one.close_our_ends()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_forwarder_that_fails_is_noticed(processes: ReceivingProcesses) -> None:
    def fail() -> bytes:
        raise ValueError

    processes.forward_to(FakeRecorder(fail))
    assert processes.is_alive
    processes._children[1].records.send_bytes(b"question")

    # The listener ends, and is started again with children that can record.
    until(lambda: not processes.is_alive)
