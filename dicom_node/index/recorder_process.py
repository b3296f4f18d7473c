"""The recorder in a process of its own: ``python -m dicom_node.index.recorder_process DESCRIPTOR``.

Python runs one thread at a time. To read headers and build rows beside those who receive took a fifth of their speed;
and a decoder that a hostile header brings down takes no association with it.
"""

import pickle
import signal
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from casebook.database import open_database
from casebook.errors import StoreUnavailable
from casebook.logs import configure_logs, get_logger
from casebook.private_files import begin_process
from casebook.settings import Settings
from dicom_node.index.recorder import Recorded, Recorder, RecorderEnded
from dicom_node.storage.inbox import SharedInbox, StoredInstance

_LONGEST_END_S = 10.0
#: No packed answer begins so.
_ENDED = b"ended"
_log = get_logger(__name__)


class RemoteRecorder(ABC):
    """A recorder in another process."""

    def record(self, stored: Sequence[StoredInstance]) -> Recorded:
        """Make rows and return what still has none.

        Raises
        ------
        StoreUnavailable
            When there is no recorder now; a later call may find one.
        RecorderEnded
            When it ended while it was at work on these.
        """
        found: Recorded = self._ask("record", list(stored))
        return found

    def set_aside(self, path: str, reason: str) -> None:
        """Move an object aside that got no row, with a static name of the reason, and write it into the timeline.

        Raises
        ------
        StoreUnavailable
            When there is no recorder now.
        """
        try:
            self._ask("set_aside", (path, reason))
        except RecorderEnded:
            raise StoreUnavailable from None

    def touch(self, quiet_period_s_of: Mapping[str, float]) -> None:
        """Let the quiet period of received studies begin anew, each with its own length in seconds.

        Raises
        ------
        StoreUnavailable
            When the database does not answer, or there is no recorder now.
        """
        try:
            self._ask("touch", dict(quiet_period_s_of))
        except RecorderEnded:
            raise StoreUnavailable from None

    @abstractmethod
    def forward(self, question: bytes) -> bytes:
        """Carry a question to the recorder and its answer back, both packed; `_ENDED` where it ended over it.

        Empty where it could not do it.
        """

    def _ask(self, what: str, about: object) -> Any:
        answer = self.forward(pickle.dumps((what, about)))
        if not answer:
            raise StoreUnavailable
        if answer == _ENDED:
            raise RecorderEnded
        return pickle.loads(answer)  # noqa: S301 - from a process of our own


class RecorderProcess(RemoteRecorder):
    """The recorder as a child; it serves one caller after the other."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asking = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None

    def start(self) -> None:
        """Return once the process can record.

        Raises
        ------
        StoreUnavailable
            When it ended instead.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "dicom_node.index.recorder_process", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self._connection = Connection(ours.detach())
        # The first answer says that it is ready.
        self._exchange(pickle.dumps(self._settings))

    def forward(self, question: bytes) -> bytes:
        """Carry a question to the recorder and its answer back; one that ended is started again by the next."""
        with self._asking:
            try:
                if self._connection is None:
                    self.start()
            except (StoreUnavailable, OSError):
                return b""
            try:
                return self._exchange(question)
            except StoreUnavailable:
                return _ENDED

    def close(self) -> None:
        """End the process; what it was given and has not recorded is taken up at the next start."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            try:
                self._process.wait(_LONGEST_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _exchange(self, message: bytes) -> bytes:
        connection = self._connection
        if connection is None:
            raise StoreUnavailable
        try:
            connection.send_bytes(message)
            return connection.recv_bytes()
        except (EOFError, OSError):
            self.close()
            _log.error("recorder_ended")
            raise StoreUnavailable from None


def main(arguments: Sequence[str]) -> int:
    """Record what comes over the descriptor until its other end is closed."""
    begin_process()
    # Whoever stops the listener often tells its children too; this one is needed until the last row is written.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    configure_logs("listener")
    connection: Connection[Any, Any] = Connection(int(arguments[0]))
    settings: Settings = connection.recv()
    engine = open_database(settings.database_url)
    recorder = Recorder(SharedInbox(settings.data_directory), engine, settings)
    connection.send(None)
    try:
        while True:
            connection.send_bytes(_answer(recorder, *connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return 0
    finally:
        engine.dispose()


def _answer(recorder: Recorder, what: str, about: Any) -> bytes:
    try:
        if what == "record":
            return pickle.dumps(recorder.record(about))
        if what == "set_aside":
            recorder.set_aside(*about)
        else:
            recorder.touch(about)
        return pickle.dumps(None)
    except StoreUnavailable:
        return b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
