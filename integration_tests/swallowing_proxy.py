"""A way to a server that can go silent: it takes every byte, says nothing, and closes nothing.

So looks a database whose machine is gone behind a proxy or a load balancer, which still acknowledges what is sent.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PART_BYTES = 1 << 16
_LOOPBACK = "127.0.0.1"


class SwallowingProxy:
    """Listens on a port of its own and forwards to a server, as long as it is told to."""

    def __init__(self, host: str, port: int) -> None:
        """Forward to a server."""
        self._target = (host, port)
        self._listening = socket.create_server((_LOOPBACK, 0), backlog=64)
        self._swallows_new = threading.Event()
        #: Of each connection: its two sockets, and whether it swallows.
        self._open: list[tuple[socket.socket, socket.socket, threading.Event]] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._accepting.start()

    @property
    def port(self) -> int:
        """Where clients connect."""
        port: int = self._listening.getsockname()[1]
        return port

    def swallow(self) -> None:
        """Forward nothing from now on, in either direction, on connections that are open or to come."""
        self._swallows_new.set()
        for _, _, swallows in self._open:
            swallows.set()

    def let_new_ones_through(self) -> None:
        """Forward for whoever connects from now on; connections that swallow stay silent for ever."""
        self._swallows_new.clear()

    def close(self) -> None:
        """End every connection and thread."""
        with suppress(OSError):
            # Wakes the accepting thread.
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join(10)
        for *ends, _ in self._open:
            for end in ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for *ends, _ in self._open:
            for end in ends:
                end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            swallows = threading.Event()
            if self._swallows_new.is_set():
                swallows.set()
            self._open.append((client, server, swallows))
            for source, target in ((client, server), (server, client)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=_forward, args=(source, target, swallows), daemon=True)
                thread.start()
                self._threads.append(thread)


def _forward(source: socket.socket, target: socket.socket, swallows: threading.Event) -> None:
    with suppress(OSError):
        while part := source.recv(_PART_BYTES):
            if not swallows.is_set():
                target.sendall(part)
    if not swallows.is_set():
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def swallowing_proxy(host: str, port: int) -> Iterator[SwallowingProxy]:
    """Stand before a server until the block ends."""
    proxy = SwallowingProxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
