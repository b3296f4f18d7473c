"""A sender without a library: objects are encoded before the clock starts, then cost one send and one answer each.

It knows none of Wetread's code and none of pynetdicom's, so it is never what limits a receiver, and a wire test may
send with it what no library would. Run as a program it opens the associations, sends, and prints one line of JSON.
"""

import argparse
import json
import multiprocessing
import random
import resource
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from multiprocessing.connection import Connection

LOOPBACK = "127.0.0.1"
#: PS3.7 A.2.1, the DICOM application context.
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
VERIFICATION = "1.2.840.10008.1.1"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
DIGITAL_X_RAY = "1.2.840.10008.5.1.4.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MULTI_FRAME_WORD_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.3"
SOP_CLASSES = (VERIFICATION, CT_IMAGE, DIGITAL_X_RAY, SECONDARY_CAPTURE, MULTI_FRAME_WORD_SECONDARY_CAPTURE)
#: PS3.8 9.3.1, the PDU types.
ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
RELEASE_REQUEST = bytes.fromhex("05000000000400000000")
#: What DCMTK offers at most; a longer PDU would be no real sender's.
LONGEST_PDU_BYTES = 131072
#: One piece of an object that is too large to be encoded whole.
_PIECE_BYTES = 1 << 20
_STUDY_OBJECTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A synthetic object of one size: 16-bit monochrome noise."""

    name: str
    sop_class_uid: str
    modality: str
    rows: int
    columns: int
    frames: int = 1

    @property
    def pixel_bytes(self) -> int:
        """Size of the pixel data."""
        return self.rows * self.columns * self.frames * 2


KINDS = {
    kind.name: kind
    for kind in (
        Kind(name="ct", sop_class_uid=CT_IMAGE, modality="CT", rows=512, columns=512),
        Kind(name="dx", sop_class_uid=DIGITAL_X_RAY, modality="DX", rows=2800, columns=2700),
        Kind(name="small", sop_class_uid=SECONDARY_CAPTURE, modality="OT", rows=100, columns=100),
        Kind(
            name="large",
            sop_class_uid=MULTI_FRAME_WORD_SECONDARY_CAPTURE,
            modality="OT",
            rows=1024,
            columns=1024,
            frames=512,
        ),
    )
}


class Refused(Exception):
    """The receiver rejected, aborted or closed; the message says which, with its numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What one association saw."""

    #: Objects answered with 0x0000, and with something else.
    acknowledged: int
    refused: int
    #: Bytes of data sets, without PDU headers and command sets.
    data_set_bytes: int
    #: Monotonic clock: before the connection, after the last answer.
    start_s: float
    end_s: float
    #: From the first byte of an object to the last of its answer.
    latencies_s: list[float] = field(repr=False)


def item(kind: int, content: bytes) -> bytes:
    """Encode one item of an association PDU (PS3.8 9.3.2)."""
    return struct.pack(">BBH", kind, 0, len(content)) + content


def pdu(kind: int, content: bytes) -> bytes:
    """Encode one PDU."""
    return struct.pack(">BBI", kind, 0, len(content)) + content


def associate_request(
    *,
    called: str = "WETREAD",
    calling: str = "CT01",
    contexts: Sequence[tuple[str, Sequence[str]]] | None = None,
    application_context: str = APPLICATION_CONTEXT,
    protocol_version: int = 1,
    longest_pdu_bytes: int = LONGEST_PDU_BYTES,
) -> bytes:
    """Encode an A-ASSOCIATE-RQ (PS3.8 9.3.2); context identifiers are 1, 3, 5 and so on.

    Parameters
    ----------
    contexts
        Abstract syntax and its transfer syntaxes; the classes of `KINDS`, Explicit VR Little Endian, if absent.
    """
    if contexts is None:
        contexts = [(sop_class, (EXPLICIT_VR_LITTLE_ENDIAN,)) for sop_class in SOP_CLASSES]
    body = struct.pack(">HH16s16s32s", protocol_version, 0, called.ljust(16).encode(), calling.ljust(16).encode(), b"")
    body += item(0x10, application_context.encode())
    for number, (abstract, transfers) in enumerate(contexts):
        syntaxes = item(0x30, abstract.encode()) + b"".join(item(0x40, uid.encode()) for uid in transfers)
        body += item(0x20, struct.pack(">BBBB", 2 * number + 1, 0, 0, 0) + syntaxes)
    user = item(0x51, struct.pack(">I", longest_pdu_bytes)) + item(0x52, b"2.25.271828182845904523536")
    body += item(0x50, user + item(0x55, b"RAWSENDER"))
    return pdu(ASSOCIATE_RQ, body)


def command_set(elements: Sequence[tuple[int, bytes]]) -> bytes:
    """Encode a command set, its group length included (PS3.7 6.3.1).

    Parameters
    ----------
    elements
        Element number in group 0000 and its value, in ascending order.
    """
    body = b"".join(_implicit(number, value) for number, value in elements)
    return _implicit(0x0000, struct.pack("<I", len(body))) + body


def store_command(sop_class_uid: str, sop_instance_uid: str, message_id: int) -> bytes:
    """Encode a C-STORE-RQ (PS3.7 9.3.1.1)."""
    return command_set(
        [
            (0x0002, sop_class_uid.encode()),
            (0x0100, struct.pack("<H", 0x0001)),
            (0x0110, struct.pack("<H", message_id)),
            (0x0700, struct.pack("<H", 0x0000)),
            (0x0800, struct.pack("<H", 0x0001)),
            (0x1000, sop_instance_uid.encode()),
        ]
    )


def echo_command(message_id: int) -> bytes:
    """Encode a C-ECHO-RQ (PS3.7 9.3.5.1)."""
    return command_set(
        [
            (0x0002, VERIFICATION.encode()),
            (0x0100, struct.pack("<H", 0x0030)),
            (0x0110, struct.pack("<H", message_id)),
            (0x0800, struct.pack("<H", 0x0101)),
        ]
    )


def fragment(context: int, control: int, content: bytes) -> bytes:
    """Encode one presentation data value (PS3.8 9.3.5.1); control 1 is a command, 2 the last fragment."""
    return struct.pack(">IBB", len(content) + 2, context, control) + content


def data_pdus(context: int, content: bytes | memoryview, *, command: bool, longest_pdu_bytes: int) -> Iterator[bytes]:
    """Cut a command or data set into P-DATA-TF PDUs of one fragment each; header and content alternate.

    Parameters
    ----------
    longest_pdu_bytes
        As the receiver announced it; 0 is no limit (PS3.8 D.1).
    """
    room = (min(longest_pdu_bytes, LONGEST_PDU_BYTES) if longest_pdu_bytes else LONGEST_PDU_BYTES) - 6
    for start in range(0, max(len(content), 1), room):
        part = content[start : start + room]
        control = int(command) | (2 if start + room >= len(content) else 0)
        yield struct.pack(">BBIIBB", P_DATA, 0, len(part) + 6, len(part) + 2, context, control)
        yield bytes(part)


def context_of(sop_class_uid: str) -> int:
    """Return the presentation context identifier that `associate_request` gives a class."""
    return 2 * SOP_CLASSES.index(sop_class_uid) + 1


def instance_uid(number: int) -> str:
    """Return the SOP Instance UID of an object by its number."""
    return f"2.25.7{number:020d}"


def header(kind: Kind, number: int) -> bytes:
    """Encode the data set of an object up to its pixels: Explicit VR Little Endian, valid, synthetic.

    Parameters
    ----------
    number
        Makes the instance; each hundred of them is one study.
    """
    study = number // _STUDY_OBJECTS
    elements = [
        (0x0008, 0x0005, b"CS", b"ISO_IR 100"),
        (0x0008, 0x0016, b"UI", kind.sop_class_uid.encode()),
        (0x0008, 0x0018, b"UI", instance_uid(number).encode()),
        (0x0008, 0x0020, b"DA", b"20260101"),
        (0x0008, 0x0030, b"TM", b"080000"),
        (0x0008, 0x0050, b"SH", f"B{study}".encode()),
        (0x0008, 0x0060, b"CS", kind.modality.encode()),
        (0x0008, 0x0070, b"LO", b"Synthetic"),
        (0x0008, 0x0090, b"PN", b""),
        (0x0010, 0x0010, b"PN", f"Synthetic^{study}".encode()),
        (0x0010, 0x0020, b"LO", f"BENCH{study}".encode()),
        (0x0010, 0x0030, b"DA", b"19700101"),
        (0x0010, 0x0040, b"CS", b"O"),
        (0x0020, 0x000D, b"UI", f"2.25.8{study:020d}".encode()),
        (0x0020, 0x000E, b"UI", f"2.25.9{study:020d}".encode()),
        (0x0020, 0x0010, b"SH", f"{study}".encode()),
        (0x0020, 0x0011, b"IS", b"1"),
        (0x0020, 0x0013, b"IS", f"{number % _STUDY_OBJECTS + 1}".encode()),
        (0x0028, 0x0002, b"US", struct.pack("<H", 1)),
        (0x0028, 0x0004, b"CS", b"MONOCHROME2"),
        *([(0x0028, 0x0008, b"IS", f"{kind.frames}".encode())] if kind.frames > 1 else []),
        (0x0028, 0x0010, b"US", struct.pack("<H", kind.rows)),
        (0x0028, 0x0011, b"US", struct.pack("<H", kind.columns)),
        (0x0028, 0x0100, b"US", struct.pack("<H", 16)),
        (0x0028, 0x0101, b"US", struct.pack("<H", 16)),
        (0x0028, 0x0102, b"US", struct.pack("<H", 15)),
        (0x0028, 0x0103, b"US", struct.pack("<H", 0)),
    ]
    encoded = b"".join(_explicit(*element) for element in elements)
    return encoded + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, kind.pixel_bytes)


@cache
def noise(size_bytes: int) -> bytes:
    """Return incompressible bytes, the same each time."""
    block = random.Random(7).randbytes(min(size_bytes, _PIECE_BYTES))
    return (block * (size_bytes // len(block) + 1))[:size_bytes] if size_bytes else b""


def store_stream(kind: Kind, number: int, *, message_id: int, longest_pdu_bytes: int) -> bytes:
    """Encode one C-STORE request whole, as the bytes that go over the wire."""
    context = context_of(kind.sop_class_uid)
    command = store_command(kind.sop_class_uid, instance_uid(number), message_id)
    data_set = header(kind, number) + noise(kind.pixel_bytes)
    return b"".join(
        [
            *data_pdus(context, command, command=True, longest_pdu_bytes=longest_pdu_bytes),
            *data_pdus(context, memoryview(data_set), command=False, longest_pdu_bytes=longest_pdu_bytes),
        ]
    )


class Association:
    """One association, spoken by hand."""

    def __init__(
        self,
        port: int,
        *,
        request: bytes | None = None,
        timeout_s: float = 60.0,
        connection: socket.socket | None = None,
    ) -> None:
        """Connect and ask for an association.

        Parameters
        ----------
        request
            Of `associate_request`; its defaults if absent.
        connection
            An open one (TLS, say) in place of a new one.

        Raises
        ------
        Refused
            When it is not accepted.
        """
        self.socket = connection or socket.create_connection((LOOPBACK, port), timeout=timeout_s)
        if connection is None:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket.sendall(request or associate_request())
            kind, content = self.read_pdu()
            if kind == ASSOCIATE_RJ:
                result, source, reason = content[1:4]
                raise Refused(f"rejected: result {result} source {source} reason {reason}")
            if kind != ASSOCIATE_AC:
                raise Refused(f"answered by PDU type {kind}")
        except BaseException:
            self.socket.close()
            raise
        #: Context identifier to its result (0: accepted), and the longest PDU the receiver takes.
        self.results, self.longest_pdu_bytes = _accepted(content)

    def read_pdu(self) -> tuple[int, bytes]:
        """Read one PDU.

        Raises
        ------
        Refused
            When the connection ends instead.
        """
        kind, _, length = struct.unpack(">BBI", self._exactly(6))
        return kind, self._exactly(length)

    def answer(self) -> int:
        """Read one DIMSE response and return its status (PS3.7 C).

        Raises
        ------
        Refused
            When the association ends instead.
        """
        kind, content = self.read_pdu()
        if kind != P_DATA:
            raise Refused(f"ended by PDU type {kind}")
        return status_of(content[6:])

    def store(self, kind: Kind, number: int, message_id: int = 1) -> int:
        """Send one object and return the status that answers it."""
        stream = store_stream(kind, number, message_id=message_id, longest_pdu_bytes=self.longest_pdu_bytes)
        self.socket.sendall(stream)
        return self.answer()

    def echo(self, message_id: int = 1) -> int:
        """Send a C-ECHO and return the status that answers it."""
        command = echo_command(message_id)
        self.socket.sendall(b"".join(data_pdus(1, command, command=True, longest_pdu_bytes=self.longest_pdu_bytes)))
        return self.answer()

    def release(self) -> None:
        """Release the association and close."""
        self.socket.sendall(RELEASE_REQUEST)
        with suppress(Refused, OSError):
            self.read_pdu()
        self.socket.close()

    def _exactly(self, size_bytes: int) -> bytes:
        content = bytearray()
        while len(content) < size_bytes:
            part = self.socket.recv(size_bytes - len(content))
            if not part:
                raise Refused("closed")
            content += part
        return bytes(content)


def status_of(response: bytes) -> int:
    """Return the value of (0000,0900) of a response's command set.

    Raises
    ------
    Refused
        When it has none.
    """
    position = 0
    while position + 8 <= len(response):
        group, element, length = struct.unpack_from("<HHI", response, position)
        if (group, element) == (0x0000, 0x0900):
            status: int = struct.unpack_from("<H", response, position + 8)[0]
            return status
        position += 8 + length
    raise Refused("answered without a status")


def _accepted(content: bytes) -> tuple[dict[int, int], int]:
    results: dict[int, int] = {}
    longest = 16384
    for kind, value in items(content[68:]):
        if kind == 0x21:
            results[value[0]] = value[2]
        if kind == 0x50:
            longest = next((struct.unpack(">I", one)[0] for sub, one in items(value) if sub == 0x51), longest)
    return results, longest


def items(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of each item of an association PDU."""
    position = 0
    while position + 4 <= len(content):
        kind, _, length = struct.unpack_from(">BBH", content, position)
        yield kind, content[position + 4 : position + 4 + length]
        position += 4 + length


def _implicit(element: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0x0000, element, len(value)) + value


def _explicit(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


# -------------------------------------------------------------------------------------- many associations


def send(
    port: int, kind: Kind, *, count: int, associations: int, first_number: int, called: str, plain: bool = False
) -> list[Sent]:
    """Send objects over several associations at once, one in flight on each, and return what each saw.

    Every stream is encoded before the first connection is opened; each association is a process of its own.

    Parameters
    ----------
    count
        Objects in all; they are dealt out in turn.
    first_number
        Of the first object; no receiver may have seen these numbers.
    plain
        Speak to the physical limit: a length, the bytes, one byte of answer.
    """
    streams = _plain_streams(kind, count, first_number) if plain else _streams(port, kind, count, first_number, called)
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(associations)
    pipes, workers = [], []
    for number in range(associations):
        ours, theirs = context.Pipe(duplex=False)
        share = streams[number::associations]
        size_bytes = (len(header(kind, first_number)) + kind.pixel_bytes) * len(share)
        target = _send_plain if plain else _send_share
        worker = context.Process(target=target, args=(port, called, share, size_bytes, ready, theirs))
        worker.start()
        theirs.close()
        pipes.append(ours)
        workers.append(worker)
    try:
        return [Sent(**pipe.recv()) for pipe in pipes]
    except EOFError:
        raise Refused("an association ended early") from None
    finally:
        for worker in workers:
            worker.join()


def _streams(port: int, kind: Kind, count: int, first_number: int, called: str) -> list[bytes]:
    # The receiver's longest PDU decides how the objects are cut, so it is asked first.
    probe = Association(port, request=associate_request(called=called))
    longest = probe.longest_pdu_bytes
    probe.release()
    return [
        store_stream(kind, first_number + number, message_id=number % 65535 + 1, longest_pdu_bytes=longest)
        for number in range(count)
    ]


def _plain_streams(kind: Kind, count: int, first_number: int) -> list[bytes]:
    pixels = noise(kind.pixel_bytes)
    # Each its own length: numbers with more digits make longer headers.
    objects = [header(kind, first_number + number) + pixels for number in range(count)]
    return [struct.pack(">Q", len(one)) + one for one in objects]


def _send_share(
    port: int, called: str, streams: list[bytes], size_bytes: int, ready: object, answer: Connection
) -> None:
    ready.wait()  # type: ignore[attr-defined]
    start_s = time.monotonic()
    association = Association(port, request=associate_request(called=called))
    statuses, latencies_s = [], []
    for stream in streams:
        sent_s = time.monotonic()
        association.socket.sendall(stream)
        statuses.append(association.answer())
        latencies_s.append(time.monotonic() - sent_s)
    end_s = time.monotonic()
    association.release()
    good = statuses.count(0)
    sent = Sent(
        acknowledged=good,
        refused=len(statuses) - good,
        data_set_bytes=size_bytes,
        start_s=start_s,
        end_s=end_s,
        latencies_s=latencies_s,
    )
    answer.send(asdict(sent))


def _send_plain(
    port: int, _called: str, streams: list[bytes], size_bytes: int, ready: object, answer: Connection
) -> None:
    ready.wait()  # type: ignore[attr-defined]
    start_s = time.monotonic()
    latencies_s = []
    with socket.create_connection((LOOPBACK, port), timeout=60.0) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for stream in streams:
            sent_s = time.monotonic()
            connection.sendall(stream)
            if connection.recv(1) != b"\x00":
                raise Refused("closed")
            latencies_s.append(time.monotonic() - sent_s)
        end_s = time.monotonic()
    sent = Sent(
        acknowledged=len(streams),
        refused=0,
        data_set_bytes=size_bytes,
        start_s=start_s,
        end_s=end_s,
        latencies_s=latencies_s,
    )
    answer.send(asdict(sent))


def send_large(port: int, kind: Kind, *, number: int, called: str) -> Sent:
    """Send one object of any size without holding it: its pixels are the same block of noise again and again."""
    start_s = time.monotonic()
    association = Association(port, request=associate_request(called=called), timeout_s=300.0)
    context = context_of(kind.sop_class_uid)
    command = store_command(kind.sop_class_uid, instance_uid(number), 1)
    longest = association.longest_pdu_bytes
    first = header(kind, number)
    association.socket.sendall(b"".join(data_pdus(context, command, command=True, longest_pdu_bytes=longest)))
    room = (min(longest, LONGEST_PDU_BYTES) if longest else LONGEST_PDU_BYTES) - 6
    association.socket.sendall(_data_pdu(context, first, last=False))
    block = noise(room)
    whole = _data_pdu(context, block, last=False)
    left = kind.pixel_bytes
    while left > room:
        association.socket.sendall(whole)
        left -= room
    association.socket.sendall(_data_pdu(context, block[:left], last=True))
    status = association.answer()
    end_s = time.monotonic()
    association.release()
    return Sent(
        acknowledged=int(status == 0),
        refused=int(status != 0),
        data_set_bytes=len(first) + kind.pixel_bytes,
        start_s=start_s,
        end_s=end_s,
        latencies_s=[end_s - start_s],
    )


def _data_pdu(context: int, content: bytes, *, last: bool) -> bytes:
    return pdu(P_DATA, fragment(context, 2 if last else 0, content))


def main(arguments: Sequence[str]) -> int:
    """Send as the arguments say and print one line of JSON.

    Returns
    -------
        0, or 1 when an association was refused or an object answered otherwise than 0x0000.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--associations", type=int, default=1)
    parser.add_argument("--frames", type=int, help="of the large kind, in place of 512 (1 GiB)")
    parser.add_argument("--first-number", type=int, default=0)
    parser.add_argument("--called", default="WETREAD")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args(arguments)
    kind = KINDS[options.kind]
    if options.frames:
        kind = replace(kind, frames=options.frames)
    try:
        if kind.name == "large":
            sent = [send_large(options.port, kind, number=options.first_number, called=options.called)]
        else:
            sent = send(
                options.port,
                kind,
                count=options.count,
                associations=options.associations,
                first_number=options.first_number,
                called=options.called,
                plain=options.plain,
            )
    except (Refused, OSError) as reason:
        print(reason, file=sys.stderr)
        return 1
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    latencies_s = sorted(latency for one in sent for latency in one.latencies_s)
    summary = {
        "acknowledged": sum(one.acknowledged for one in sent),
        "refused": sum(one.refused for one in sent),
        "data_set_bytes": sum(one.data_set_bytes for one in sent),
        "duration_s": max(one.end_s for one in sent) - min(one.start_s for one in sent),
        "median_s": latencies_s[len(latencies_s) // 2],
        "p95_s": latencies_s[int(len(latencies_s) * 0.95)],
        "sender_cpu_s": used.ru_utime + used.ru_stime,
    }
    print(json.dumps(summary))
    return 0 if summary["refused"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
