"""HL7 over MLLP as a client: one message out, its own acknowledgement back.

An acknowledgement counts only when its MSA-2 is our MSH-10. A receiver may acknowledge an earlier message
again, a proxy may answer for another one: both have been seen, and neither says that ours is safe.
"""

import codecs
import re
import select
import socket
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from casebook.errors import InvalidObject, PeerUnavailable, RejectedByPeer
from dicom_node.hl7.er7 import COMPONENT, parse

START, END, CARRIAGE_RETURN = b"\x0b", b"\x1c", b"\r"

#: MSA-1 that says the receiver has it (HL7 table 0008): application accept, commit accept.
ACCEPTED = frozenset({"AA", "CA"})
#: The receiver could not, this time: application error, commit error.
_ERRORS = frozenset({"AE", "CE"})
#: The receiver will not: application reject, commit reject.
_REJECTIONS = frozenset({"AR", "CR"})
#: HL7 table 0357 codes that may pass: record locked, internal error.
_PASSING_CODES = frozenset({"206", "207"})
_LONGEST_ACKNOWLEDGEMENT_BYTES = 1_048_576
_RECEIVE_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """What the receiver said of our message."""

    #: MSA-1.
    code: str
    #: ERR-3 or MSA-6, HL7 table 0357; empty where the receiver gives none.
    error_code: str

    def require_acceptance(self) -> None:
        """Return when the receiver has the message.

        Raises
        ------
        PeerUnavailable
            When the same bytes may be accepted later.
        RejectedByPeer
            When they never will be.
        """
        if self.code in ACCEPTED:
            return
        said = f"the receiver answered {self.code}" + (f" {self.error_code}" if self.error_code else "")
        if self.error_code in _PASSING_CODES or (self.code in _ERRORS and not self.error_code):
            raise PeerUnavailable(said)
        if self.code in _ERRORS | _REJECTIONS:
            raise RejectedByPeer(said)
        raise PeerUnavailable("the receiver answered with an acknowledgement code that HL7 does not know")


class _ConnectionEnded(PeerUnavailable):
    """The connection failed or was closed before the acknowledgement came."""


class MllpClient:
    """One connection to one receiver, opened when it is first needed. Not for two threads at a time."""

    def __init__(self, host: str, port: int, *, timeout_s: float, encoding: str = "utf-8") -> None:
        self._address = (host, port)
        self._timeout_s = timeout_s
        self._encoding = encoding
        self._socket: socket.socket | None = None
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._received = None, b""

    def exchange(self, content: bytes, control_id: str) -> Acknowledgement:
        """Send one message and wait for its acknowledgement.

        Parameters
        ----------
        content
            The message without framing, in the receiver's character set.
        control_id
            MSH-10, which MSA-2 has to repeat.

        Raises
        ------
        PeerUnavailable
            When the connection fails or no acknowledgement of this message comes in time. The receiver may
            have it all the same: send the same bytes again, and never others under the same MSH-10.
        """
        deadline = time.monotonic() + self._timeout_s
        # A kept connection may have been closed while it was idle, which shows only when it is used. The same
        # bytes may be sent as often as need be, so they go out once more at once on a fresh connection.
        if self._socket is not None:
            try:
                return self._exchange(content, control_id, deadline)
            except _ConnectionEnded:
                pass
        return self._exchange(content, control_id, deadline)

    def _exchange(self, content: bytes, control_id: str, deadline: float) -> Acknowledgement:
        try:
            self._send(START + content + END + CARRIAGE_RETURN, deadline)
            while True:
                found = self._acknowledgement(self._frame(deadline), control_id)
                if found is not None:
                    return found
        except TimeoutError:
            self.close()
            raise PeerUnavailable("no connection or no acknowledgement came in time") from None
        except OSError as error:
            self.close()
            # The type alone: the text of an error may name hosts, which the operator has in the destination.
            raise _ConnectionEnded(f"the connection failed ({type(error).__name__})") from None
        except PeerUnavailable:
            # What still comes on this connection belongs to nobody.
            self.close()
            raise

    def _send(self, frame: bytes, deadline: float) -> None:
        if self._socket is not None and self._is_spent(self._socket):
            self.close()
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._left(deadline))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(self._left(deadline))
        self._socket.sendall(frame)

    def _is_spent(self, connection: socket.socket) -> bool:
        # An idle connection that can be read was closed by the peer or holds what nobody asked for.
        # Not select, which knows no descriptor above 1023.
        readable = select.poll()
        readable.register(connection, select.POLLIN)
        return bool(readable.poll(0) or self._received)

    def _frame(self, deadline: float) -> bytes:
        """Return the next frame; what stands between frames is dropped."""
        if self._socket is None:
            raise PeerUnavailable
        while True:
            start = self._received.find(START)
            # The final carriage return is not waited for: some receivers forget it.
            end = self._received.find(END, start + 1) if start >= 0 else -1
            if end >= 0:
                frame, self._received = self._received[start + 1 : end], self._received[end + 1 :].lstrip(b"\r\n")
                return frame
            self._received = self._received[start:] if start >= 0 else b""
            if len(self._received) > _LONGEST_ACKNOWLEDGEMENT_BYTES:
                raise PeerUnavailable("the acknowledgement does not end")
            self._socket.settimeout(self._left(deadline))
            arrived = self._socket.recv(_RECEIVE_BYTES)
            if not arrived:
                raise _ConnectionEnded("the receiver closed the connection without an acknowledgement")
            self._received += arrived

    @staticmethod
    def _left(deadline: float) -> float:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise PeerUnavailable("no acknowledgement came in time")
        return left_s

    def _acknowledgement(self, frame: bytes, control_id: str) -> Acknowledgement | None:
        """Return what the frame says of our message, None where it speaks of another or of nothing."""
        # Some programs begin every text with a byte order mark, inside the frame.
        content = frame.removeprefix(codecs.BOM_UTF8)
        try:
            segments = parse(content.decode(self._encoding, "replace"))
        except InvalidObject:
            return None
        said = next((one for one in segments if one.name == "MSA"), None)
        # Databases pad what they keep in columns of a fixed length.
        if said is None or said.field(2).strip(" ") != control_id:
            return None
        error = next((one for one in segments if one.name == "ERR"), None)
        code = error.field(3) if error is not None else ""
        return Acknowledgement(
            code=_plain_code(said.field(1).strip(" ")),
            error_code=_plain_code((code or said.field(6)).split(COMPONENT)[0].strip(" ")),
        )


def _plain_code(field: str) -> str:
    # A code goes into error texts and logs; anything longer is text of the receiver and may name a patient.
    return field if re.fullmatch(r"[A-Z]{2}|\d{1,3}", field) else ""
