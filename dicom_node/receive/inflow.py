"""The receive buffer of one association, and the one place that waits for its bytes."""

import contextlib
import mmap
import os
import select
import socket
import ssl

_BUFFER_BYTES = 1 << 20
#: What arrives more slowly than this, on average, after the first time-out of silence, is given up.
MIN_RATE_BYTES_PER_S = 1024
#: Linux only.
_QUICK_ACKNOWLEDGEMENT: int | None = getattr(socket, "TCP_QUICKACK", None)


class Closed(Exception):
    """The peer closed the connection."""


class Invalid(Exception):
    """The peer sent what the protocol does not allow; says what, as a name for the log."""


class Stalled(Exception):
    """The peer stopped sending, or sends too slowly."""


class Interrupted(Exception):
    """Our side aborts the association."""


class Inflow:
    """The receive buffer of one association, and the one place that waits."""

    __slots__ = ("_poll", "_wake", "buffer", "end", "is_pinned", "network_timeout_s", "position", "sock", "view")

    def __init__(self, sock: socket.socket, wake: int, network_timeout_s: float) -> None:
        self.sock = sock
        self._wake = wake
        self.network_timeout_s = network_timeout_s
        # Pages of its own: those that are never filled are never made, and all go back to the system with the
        # association, where the allocator would keep them.
        self.buffer = mmap.mmap(-1, _BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        #: The bytes between these two are received and not yet consumed.
        self.position = 0
        self.end = 0
        #: While slices of consumed bytes are still to be written, nothing may be received over them.
        self.is_pinned = False
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(wake, select.POLLIN)

    @property
    def waiting_bytes(self) -> int:
        """Received and not yet consumed."""
        return self.end - self.position

    def preload(self, content: bytes) -> None:
        """Take what somebody else has received already; before anything else."""
        self.buffer[: len(content)] = content
        self.end = len(content)

    def receive(self) -> bool:
        """Receive once what has come, without waiting; False when nothing has.

        Raises
        ------
        Closed
        """
        if self.position == self.end and not self.is_pinned:
            self.position = self.end = 0
        try:
            count = self.sock.recv_into(self.view[self.end :])
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            raise Closed from None
        if count == 0:
            raise Closed
        self.end += count
        return True

    def wait(self, timeout_s: float, *, in_message: bool) -> tuple[bool, bool]:
        """Wait for bytes or for a wake-up; tell which of the two came."""
        # Bytes that TLS has decrypted already do not make the socket readable.
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return True, False
        has_bytes = is_woken = False
        if in_message and _QUICK_ACKNOWLEDGEMENT is not None:
            # A sender that leaves Nagle's algorithm on holds back its next segment until this one is
            # acknowledged, which the kernel would put off for 40 ms. The option lasts for one segment.
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACKNOWLEDGEMENT, 1)
        for descriptor, _ in self._poll.poll(max(0.0, timeout_s) * 1000):
            if descriptor == self._wake:
                is_woken = True
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            else:
                has_bytes = True
        return has_bytes, is_woken

    def make_room(self) -> None:
        """Move the unconsumed bytes to the front, so that more can follow."""
        rest = self.waiting_bytes
        if self.position:
            self.buffer[:rest] = self.buffer[self.position : self.end]
            self.position, self.end = 0, rest
        if rest == len(self.buffer):
            raise Invalid("pdu_too_long")
