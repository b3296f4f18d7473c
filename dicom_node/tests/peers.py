"""Scripted peers on loopback: a RIS that answers as told, and an archive that answers with one status."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from pynetdicom import AE, evt

from dicom_node.hl7.mllp import CARRIAGE_RETURN, END, START
from dicom_node.results.sr_document import ENHANCED_SR

#: Given the connection and the message that came on it, answers or does not.
Script = Callable[[socket.socket, bytes], None]


def control_id(message: bytes) -> str:
    """Return MSH-10 of a message."""
    return message.split(b"|")[9].decode()


def acknowledgement(identifier: str, code: str = "AA", error: str = "") -> bytes:
    """Return a framed acknowledgement."""
    text = f"MSH|^~\\&|RIS|HOSP|WETREAD||20260101||ACK^R01^ACK|9|P|2.5.1\rMSA|{code}|{identifier}\r"
    if error:
        text += f"ERR|||{error}^x^HL70357|E\r"
    return START + text.encode() + END + CARRIAGE_RETURN


def acknowledge(connection: socket.socket, message: bytes) -> None:
    """Accept each message."""
    connection.sendall(acknowledgement(control_id(message)))


class Receiver:
    """A RIS on a free port of loopback that plays one script for each message."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.frames: list[bytes] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A closed listening socket does not wake a thread that waits in accept; a shut one does.
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections += 1
                self._open.append(connection)
                with contextlib.suppress(OSError):
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        received = b""
        while True:
            arrived = connection.recv(65536)
            if not arrived:
                return
            received += arrived
            while END + CARRIAGE_RETURN in received:
                frame, received = received.split(END + CARRIAGE_RETURN, 1)
                self.frames.append(frame.removeprefix(START))
                self._script(connection, self.frames[-1])


@dataclass
class Archive:
    """What an archive of `archive` saw."""

    port: int
    data_sets: list[bytes] = field(default_factory=list)
    transfer_syntaxes: list[str] = field(default_factory=list)
    associations: int = 0


@contextlib.contextmanager
def archive(
    *statuses: int,
    sop_class_uid: str = ENHANCED_SR,
    further_sop_class_uids: tuple[str, ...] = (),
    transfer_syntaxes: tuple[str, ...] = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2"),
    called_ae_titles: bool = False,
    ends: str = "",
) -> Iterator[Archive]:
    """Run an archive that answers each C-STORE with the next status.

    Parameters
    ----------
    statuses
        DIMSE statuses, in their order.
    sop_class_uid
        The one it accepts.
    further_sop_class_uids
        Others that it accepts.
    transfer_syntaxes
        Those it accepts.
    called_ae_titles
        Reject every association, because it is called by a name it does not have.
    ends
        "abort": abort the association instead of answering; "silence": do not answer.
    """
    released = threading.Event()
    answers = iter(statuses)

    def handle(event: Any) -> int:
        if ends == "abort":
            event.assoc.abort()
            return statuses[0]
        if ends == "silence":
            released.wait(10)
            return statuses[0]
        seen.data_sets.append(event.request.DataSet.getvalue())
        seen.transfer_syntaxes.append(str(event.context.transfer_syntax))
        return next(answers)

    def count(_event: Any) -> None:
        seen.associations += 1

    ae = AE(ae_title="SOMEONE" if called_ae_titles else "PACS")
    ae.require_called_aet = called_ae_titles
    for accepted in (sop_class_uid, *further_sop_class_uids):
        ae.add_supported_context(accepted, list(transfer_syntaxes))
    handlers: list[Any] = [(evt.EVT_C_STORE, handle), (evt.EVT_REQUESTED, count)]
    server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    seen = Archive(port=server.socket.getsockname()[1])
    try:
        yield seen
    finally:
        released.set()
        server.shutdown()
