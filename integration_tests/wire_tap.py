"""A tap on the wire: forwards connections, keeps both directions, and reads out of them what was sent.

It is the witness of the byte-identity tests: what a sender put on the wire is compared with what we stored, however the
sender re-encoded its file. The reader here shares no code with the receiver.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from benchmarks.raw_sender import ASSOCIATE_AC, ASSOCIATE_RQ, LOOPBACK, P_DATA, items

_PART_BYTES = 1 << 18


@dataclass(slots=True, kw_only=True)
class Recording:
    """Both directions of one connection."""

    from_sender: bytearray = field(default_factory=bytearray)
    from_receiver: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """One C-STORE as it was on the wire."""

    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes
    #: Of the response; None when there was none.
    status: int | None


class Tap:
    """Listens on a port of its own and forwards to another."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening = socket.create_server((LOOPBACK, 0), backlog=64)
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.recordings: list[Recording] = []
        self._accepting = threading.Thread(target=self._accept, name="tap", daemon=True)
        self._accepting.start()

    @property
    def port(self) -> int:
        """Where senders connect."""
        port: int = self._listening.getsockname()[1]
        return port

    def transferred(self) -> list[Transferred]:
        """Read every C-STORE out of the recordings so far, in the order of connections."""
        return [one for recording in self.recordings for one in read(recording)]

    def close(self) -> None:
        """End every connection and thread of the tap."""
        with suppress(OSError):
            # Wakes the accepting thread.
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join(10)
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                sender, _ = self._listening.accept()
            except OSError:
                return
            recording = Recording()
            self.recordings.append(recording)
            try:
                receiver = socket.create_connection((LOOPBACK, self._target), timeout=30)
            except OSError:
                sender.close()
                continue
            receiver.settimeout(None)
            for connection in (sender, receiver):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open.append(connection)
            for source, target, kept in (
                (sender, receiver, recording.from_sender),
                (receiver, sender, recording.from_receiver),
            ):
                thread = threading.Thread(target=_forward, args=(source, target, kept), daemon=True)
                thread.start()
                self._threads.append(thread)


def _forward(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):
        while part := source.recv(_PART_BYTES):
            kept += part
            target.sendall(part)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def tap(port: int) -> Iterator[Tap]:
    """Tap the wire to a port until the block ends."""
    tapping = Tap(port)
    try:
        yield tapping
    finally:
        tapping.close()


def split_pdus(stream: bytes | bytearray) -> list[bytes]:
    """Cut one direction into its PDUs (PS3.8 9.3); a cut-off last one is left out."""
    found, position = [], 0
    while position + 6 <= len(stream):
        end = position + 6 + int.from_bytes(stream[position + 2 : position + 6], "big")
        if end > len(stream):
            break
        found.append(bytes(stream[position:end]))
        position = end
    return found


def read(recording: Recording) -> list[Transferred]:
    """Read the C-STORE requests of one connection, with the status that answered each."""
    syntaxes = _accepted_syntaxes(recording)
    statuses: list[tuple[int, int]] = []
    for _, command, _ in _messages(recording.from_receiver):
        if 0x0900 in command and 0x0120 in command:
            statuses.append((_number(command[0x0120]), _number(command[0x0900])))
    found = []
    for context, command, data_set in _messages(recording.from_sender):
        if _number(command.get(0x0100, b"")) != 0x0001:
            continue
        message_id = _number(command[0x0110])
        position = next((number for number, (asked, _) in enumerate(statuses) if asked == message_id), None)
        found.append(
            Transferred(
                sop_instance_uid=command[0x1000].rstrip(b"\0 ").decode("ascii"),
                transfer_syntax_uid=syntaxes[context],
                data_set=data_set,
                # Message identifiers may come round again.
                status=None if position is None else statuses.pop(position)[1],
            )
        )
    return found


def _accepted_syntaxes(recording: Recording) -> dict[int, str]:
    found = {}
    for one in split_pdus(recording.from_receiver):
        if one[0] == ASSOCIATE_AC:
            for kind, value in items(one[74:]):
                if kind == 0x21 and value[2] == 0:
                    found[value[0]] = next(content for sub, content in items(value[4:]) if sub == 0x40).decode("ascii")
    return found


def _messages(stream: bytearray) -> Iterator[tuple[int, dict[int, bytes], bytes]]:
    command, data_set = bytearray(), bytearray()
    elements: dict[int, bytes] | None = None
    for one in split_pdus(stream):
        if one[0] == ASSOCIATE_RQ or one[0] != P_DATA:
            continue
        position = 6
        while position < len(one):
            length = int.from_bytes(one[position : position + 4], "big")
            context, control = one[position + 4], one[position + 5]
            content = one[position + 6 : position + 4 + length]
            position += 4 + length
            if control & 1:
                command += content
                if control & 2:
                    elements = _elements(bytes(command))
                    command.clear()
                    if _number(elements.get(0x0800, b"\x01\x01")) == 0x0101:
                        yield context, elements, b""
                        elements = None
            else:
                data_set += content
                if control & 2 and elements is not None:
                    yield context, elements, bytes(data_set)
                    data_set.clear()
                    elements = None


def _elements(command: bytes) -> dict[int, bytes]:
    found, position = {}, 0
    while position + 8 <= len(command):
        element = int.from_bytes(command[position + 2 : position + 4], "little")
        length = int.from_bytes(command[position + 4 : position + 8], "little")
        found[element] = command[position + 8 : position + 8 + length]
        position += 8 + length
    return found


def _number(value: bytes) -> int:
    return int.from_bytes(value[:2], "little")
