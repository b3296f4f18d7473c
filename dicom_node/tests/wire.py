"""A sender made of bytes: one association on a socket, for tests that say each PDU themselves (PS3.8 9.3)."""

import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Self

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
RELEASE_RQ = bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0))


def item(kind: int, content: bytes) -> bytes:
    """Return an item of an A-ASSOCIATE-RQ."""
    return struct.pack(">BBH", kind, 0, len(content)) + content


def associate_rq(
    called: str = "WETREAD", calling: str = "SENDER", contexts: Sequence[tuple[str, Sequence[str]]] | None = None
) -> bytes:
    """Return an A-ASSOCIATE-RQ that proposes contexts 1, 3, 5, ..."""
    body = struct.pack(">HH16s16s32s", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode(), b"")
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (abstract, syntaxes) in enumerate(contexts or [(VERIFICATION, [EXPLICIT]), (CT, [EXPLICIT])]):
        inner = struct.pack(">BBBB", 2 * number + 1, 0, 0, 0) + item(0x30, abstract.encode())
        body += item(0x20, inner + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes))
    user = item(0x51, struct.pack(">I", 65536)) + item(0x52, b"1.2.3.4") + item(0x55, b"WIRE")
    body += item(0x50, user)
    return struct.pack(">BBI", 1, 0, len(body)) + body


def element(group: int, number: int, value: bytes) -> bytes:
    """Return an element in implicit VR little endian."""
    return struct.pack("<HHI", group, number, len(value)) + value


def command(field: int, sop_class_uid: str, sop_instance_uid: str | None = None, *, message_id: int = 1) -> bytes:
    """Return a command set (PS3.7 6.3)."""
    pairs = [(0x0002, _even(sop_class_uid)), (0x0100, _us(field)), (0x0110, _us(message_id)), (0x0700, _us(0))]
    pairs.append((0x0800, _us(0x0101 if sop_instance_uid is None else 1)))
    if sop_instance_uid is not None:
        pairs.append((0x1000, _even(sop_instance_uid)))
    body = b"".join(element(0, number, value) for number, value in pairs)
    return element(0, 0, struct.pack("<I", len(body))) + body


def pdu(*fragments: tuple[int, int, bytes]) -> bytes:
    """Return one P-DATA-TF PDU of (context id, control header, content)."""
    body = b"".join(
        struct.pack(">IBB", len(content) + 2, context, control) + content for context, control, content in fragments
    )
    return struct.pack(">BBI", 4, 0, len(body)) + body


def store_rq(
    data_set: bytes, sop_instance_uid: str, *, context: int = 3, sop_class_uid: str = CT, piece: int = 16000
) -> bytes:
    """Return the PDUs of a C-STORE-RQ."""
    stream = [pdu((context, 3, command(0x0001, sop_class_uid, sop_instance_uid)))]
    pieces = [data_set[at : at + piece] for at in range(0, len(data_set), piece)] or [b""]
    for number, content in enumerate(pieces):
        stream.append(pdu((context, 2 if number == len(pieces) - 1 else 0, content)))
    return b"".join(stream)


def data_set(
    sop_instance_uid: str = "1.2.3.4",
    *,
    study: str = "1.2.3",
    patient_id: str = "P1",
    pixels: bytes = b"",
    name: str = "A^B",
    sop_class_uid: str = CT,
) -> bytes:
    """Return a data set in explicit VR little endian."""
    parts = [
        (0x0008, 0x0016, b"UI", _even(sop_class_uid)), (0x0008, 0x0018, b"UI", _even(sop_instance_uid)),
        (0x0008, 0x0060, b"CS", b"CT"), (0x0010, 0x0010, b"PN", _even(name, b" ")),
        (0x0010, 0x0020, b"LO", _even(patient_id, b" ")),
        (0x0020, 0x000D, b"UI", _even(study)), (0x0020, 0x000E, b"UI", _even(f"{study}.1")),
    ]  # fmt: skip
    content = b"".join(struct.pack("<HH2sH", g, e, vr, len(value)) + value for g, e, vr, value in parts if value)
    if pixels:
        content += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, len(pixels)) + pixels
    return content


def _us(value: int) -> bytes:
    return struct.pack("<H", value)


def _even(text: str, padding: bytes = b"\x00") -> bytes:
    value = text.encode()
    return value + padding * (len(value) % 2)


class Wire:
    """One connection; reads are whole PDUs."""

    def __init__(self, port: int, request: bytes | None = None, timeout_s: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = b""
        if request is not None:
            self.send(request)
            self.answer = self.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, content: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(content)

    def receive(self) -> bytes:
        """Return the next PDU; empty when the connection ended."""
        header = self._exactly(6)
        return header + self._exactly(struct.unpack(">BBI", header)[2]) if header else b""

    def status(self) -> int:
        """Return the status of the next response."""
        answer = self.receive()
        assert answer[:1] == b"\x04", answer[:10]
        at = answer.index(struct.pack("<HHI", 0, 0x0900, 2))
        return int.from_bytes(answer[at + 8 : at + 10], "little")

    def store(self, content: bytes, sop_instance_uid: str) -> int:
        """Store one object and return the status."""
        self.send(store_rq(content, sop_instance_uid))
        return self.status()

    def release(self) -> None:
        """Release the association."""
        self.send(RELEASE_RQ)
        assert self.receive()[:1] == b"\x06"

    def _exactly(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            try:
                piece = self.socket.recv(count - len(content))
            except ConnectionResetError:
                return b""
            if not piece:
                return b""
            content += piece
        return content
