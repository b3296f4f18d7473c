"""The MLLP client against receivers that misbehave."""

import codecs
import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from casebook.errors import PeerUnavailable, RejectedByPeer
from dicom_node.hl7.mllp import END, START, Acknowledgement, MllpClient
from dicom_node.tests.peers import Receiver, Script, acknowledge, acknowledgement, control_id


def message(identifier: str) -> bytes:
    return f"MSH|^~\\&|WETREAD||RIS||20260101||ORU^R01^ORU_R01|{identifier}|P|2.5.1\rPID|||P1\r".encode()


@contextlib.contextmanager
def connected(script: Script, *, timeout_s: float = 2.0) -> Iterator[tuple[Receiver, MllpClient]]:
    with Receiver(script) as peer, MllpClient("127.0.0.1", peer.port, timeout_s=timeout_s) as client:
        yield peer, client


def say(*parts: bytes | str) -> Script:
    """Answer with these bytes, where a string is the MSA-2 of an acceptance and "" our own."""

    def script(connection: socket.socket, received: bytes) -> None:
        for part in parts:
            connection.sendall(part if isinstance(part, bytes) else acknowledgement(part or control_id(received)))

    return script


def one_byte_at_a_time(connection: socket.socket, received: bytes) -> None:
    for byte in acknowledgement(control_id(received)):
        connection.sendall(bytes([byte]))


def without_final_carriage_return(connection: socket.socket, received: bytes) -> None:
    connection.sendall(acknowledgement(control_id(received))[:-1])


def repeats_everything(connection: socket.socket, received: bytes) -> None:
    # Seen in a server library: all earlier messages of a connection are acknowledged again.
    for number in range(int(control_id(received)) + 1):
        connection.sendall(acknowledgement(str(number)))


def closes_after_each(connection: socket.socket, received: bytes) -> None:
    acknowledge(connection, received)
    connection.shutdown(socket.SHUT_RDWR)


def closes_in_the_middle(connection: socket.socket, received: bytes) -> None:
    connection.sendall(acknowledgement(control_id(received))[:20])
    connection.shutdown(socket.SHUT_RDWR)


def with_a_byte_order_mark(connection: socket.socket, received: bytes) -> None:
    connection.sendall(acknowledgement(control_id(received)).replace(START, START + codecs.BOM_UTF8))


def padded(connection: socket.socket, received: bytes) -> None:
    identifier = control_id(received)
    connection.sendall(acknowledgement(identifier, "AA ").replace(identifier.encode(), identifier.encode().ljust(20)))


ACCEPTING: dict[str, Script] = {
    "a byte order mark inside the frame": with_a_byte_order_mark,
    "fields padded to a fixed length": padded,
    "one byte at a time": one_byte_at_a_time,
    "without the final carriage return": without_final_carriage_return,
    "acknowledges earlier messages again": repeats_everything,
    "closes after each": closes_after_each,
    "an earlier one first": say("OLD", "OLDER", ""),
    "junk between frames": say(b"\r\n junk \r\n", "OLD", b"\n\n\x00", ""),
    "a frame of junk first": say(START + b"hello" + END + b"\r", ""),
    "an empty frame first": say(START + END + b"\r", ""),
    "a frame without MSA first": say(START + b"MSH|^~\\&|RIS\r" + END + b"\r", ""),
    "undecodable bytes first": say(START + b"MSH|^~\\&|\xff\xfe\xff\rMSA|AA|\xff\r" + END + b"\r", ""),
}


@pytest.mark.parametrize("name", ACCEPTING)
def test_our_own_acknowledgement_is_found(name: str) -> None:
    with connected(ACCEPTING[name]) as (peer, client):
        answers = [client.exchange(message(str(number)), str(number)) for number in range(3)]

    assert answers == [Acknowledgement(code="AA", error_code="")] * 3
    # A connection that closes under a message makes it go out twice: the same bytes under the same MSH-10.
    assert list(dict.fromkeys(peer.frames)) == [message(str(number)) for number in range(3)]


REFUSING: dict[str, Script] = {
    "acknowledges another message": say("OTHER"),
    "acknowledges nothing": say(START + b"MSH|^~\\&|RIS\rMSA|AA\r" + END + b"\r"),
    "acknowledges a prefix of our id": lambda connection, received: connection.sendall(
        acknowledgement(control_id(received)[:-1])
    ),
    "says nothing": lambda connection, received: None,
    "says junk only": say(START + b"hello" + END + b"\r", b"junk"),
    "never ends its frame": say(START + b"MSH|^~\\&|RIS\rMSA|AA|X1\r"),
    "closes": lambda connection, received: connection.shutdown(socket.SHUT_RDWR),
    "closes in the middle": closes_in_the_middle,
}


@pytest.mark.parametrize("name", REFUSING)
def test_nothing_but_our_own_acknowledgement_is_accepted(name: str) -> None:
    with connected(REFUSING[name], timeout_s=0.2) as (_, client):
        started = time.monotonic()
        with pytest.raises(PeerUnavailable):
            client.exchange(message("X1"), "X1")

    assert time.monotonic() - started < 2


def test_a_peer_that_drips_junk_does_not_hold_us_beyond_the_deadline() -> None:
    def drip(connection: socket.socket, received: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(acknowledgement("OTHER"))

    with connected(drip, timeout_s=0.2) as (_, client):
        started = time.monotonic()
        with pytest.raises(PeerUnavailable):
            client.exchange(message("X1"), "X1")

    assert time.monotonic() - started < 2


def test_an_acknowledgement_that_does_not_end_is_not_collected_for_ever() -> None:
    endless = say(START + b"x" * 2_000_000)

    with connected(endless, timeout_s=5) as (_, client), pytest.raises(PeerUnavailable, match="does not end"):
        client.exchange(message("X1"), "X1")


def test_a_connection_is_not_used_again_after_a_silence() -> None:
    asked: list[socket.socket] = []

    def script(connection: socket.socket, received: bytes) -> None:
        asked.append(connection)
        if len(asked) > 1:
            acknowledge(connection, received)

    with connected(script, timeout_s=0.2) as (_, client):
        with pytest.raises(PeerUnavailable):
            client.exchange(message("1"), "1")
        answer = client.exchange(message("1"), "1")

    # What may still come on the first connection belongs to nobody.
    assert answer.code == "AA"
    assert asked[0] is not asked[1]


def test_an_idle_connection_that_the_peer_closed_is_opened_again() -> None:
    with connected(closes_after_each) as (peer, client):
        for number in range(3):
            client.exchange(message(str(number)), str(number))
        connections = peer.connections

    # A close that arrives only with the next message costs one connection more.
    assert connections >= 3


def test_a_kept_connection_that_closes_under_a_message_is_replaced_at_once() -> None:
    def script(connection: socket.socket, received: bytes) -> None:
        asked.append(control_id(received))
        if len(asked) == 2:
            connection.shutdown(socket.SHUT_RDWR)
        else:
            acknowledge(connection, received)

    asked: list[str] = []

    with connected(script) as (peer, client):
        answers = [client.exchange(message(str(number)), str(number)).code for number in range(2)]

    assert answers == ["AA", "AA"]
    assert asked == ["0", "1", "1"]
    assert peer.frames[1] == peer.frames[2]


def test_a_healthy_connection_is_kept() -> None:
    with connected(acknowledge) as (peer, client):
        for number in range(3):
            client.exchange(message(str(number)), str(number))
        connections = peer.connections

    assert connections == 1


def test_a_refused_connection_may_work_later() -> None:
    with Receiver(acknowledge) as peer:
        port = peer.port

    with MllpClient("127.0.0.1", port, timeout_s=1) as client, pytest.raises(PeerUnavailable, match="Refused"):
        client.exchange(message("X1"), "X1")


@pytest.mark.parametrize(
    ("code", "error_code", "expected"),
    [
        ("AA", "", None),
        ("CA", "", None),
        ("AE", "", PeerUnavailable),
        ("CE", "", PeerUnavailable),
        ("AE", "207", PeerUnavailable),
        ("AE", "206", PeerUnavailable),
        ("AR", "207", PeerUnavailable),
        ("AE", "101", RejectedByPeer),
        ("AE", "204", RejectedByPeer),
        ("CE", "102", RejectedByPeer),
        ("AR", "", RejectedByPeer),
        ("CR", "", RejectedByPeer),
        ("AR", "200", RejectedByPeer),
        ("AR", "202", RejectedByPeer),
        ("", "", PeerUnavailable),
        ("ZZ", "", PeerUnavailable),
    ],
)
def test_each_answer_means_sent_later_or_never(code: str, error_code: str, expected: type[Exception] | None) -> None:
    def script(connection: socket.socket, received: bytes) -> None:
        connection.sendall(acknowledgement(control_id(received), code, error_code))

    with connected(script) as (_, client):
        answer = client.exchange(message("X1"), "X1")

    assert answer == Acknowledgement(code=code, error_code=error_code)
    if expected is None:
        answer.require_acceptance()
    else:
        with pytest.raises(expected):
            answer.require_acceptance()


def test_the_text_of_a_receiver_reaches_no_error() -> None:
    def script(connection: socket.socket, received: bytes) -> None:
        text = f"MSH|^~\\&|RIS\rMSA|AE WANG^XIAODONG|{control_id(received)}|Wang|||Wang^XiaoDong\rERR|||Wang XiaoDong\r"
        connection.sendall(START + text.encode() + END + b"\r")

    with connected(script) as (_, client):
        answer = client.exchange(message("X1"), "X1")

    with pytest.raises(PeerUnavailable) as raised:
        answer.require_acceptance()
    assert "wang" not in f"{answer}{raised.value}".lower()


def test_a_four_megabyte_message_is_sent_whole() -> None:
    content = message("X1") + b"OBX|1|ED|" + b"A" * 4_000_000 + b"\r"

    with connected(acknowledge, timeout_s=10) as (peer, client):
        client.exchange(content, "X1")

    assert peer.frames == [content]
