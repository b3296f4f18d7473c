"""Who connects: every connection costs a file descriptor until its first byte, and only then gets an association.

So health checks and port scans that only connect cost nothing and lock nobody out.
"""

import selectors
import socket
import threading
import time
from collections import Counter
from typing import Any, Protocol

from casebook.logs import get_logger
from casebook.settings import ListenerSettings
from dicom_node.receive.admission import Connected, Register

#: Connections that have not sent a byte yet; more are closed at once.
_MAX_SILENT_CONNECTIONS = 1024
#: And of one address.
_MAX_SILENT_OF_ADDRESS = 512
_BACKLOG = 128
_LONGEST_WAIT_S = 5.0
_log = get_logger(__name__)


class Taker(Protocol):
    """Who makes associations of connections."""

    def take(self, connection: socket.socket, address: Any, connected: Connected) -> None:
        """Take over a connection whose first byte has come."""
        ...


class Acceptor:
    """One listening port; one thread."""

    def __init__(self, settings: ListenerSettings, register: Register, taker: Taker) -> None:
        """Bind the port.

        Raises
        ------
        OSError
            When the address cannot be had.
        """
        self._settings = settings
        self._register = register
        self._taker = taker
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._listening = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
        self.port: int = self._listening.getsockname()[1]
        self._silent: dict[socket.socket, tuple[float, Any]] = {}
        self._silent_of: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._told, self._teller = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="acceptor", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether connections are accepted."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Accept nothing more, and close the port."""
        self._stopping.set()
        self._teller.close()
        if self._thread.is_alive():
            self._thread.join()
        self._told.close()
        self._listening.close()

    def _accept(self) -> None:
        listening = self._listening
        listening.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(listening, selectors.EVENT_READ)
            selector.register(self._told, selectors.EVENT_READ)
            while not self._stopping.is_set():
                for key, _ in selector.select(self._wait_s()):
                    if key.fileobj is listening:
                        self._take_connections(selector)
                    elif key.fileobj is not self._told:
                        self._first_byte(selector, key.fileobj)
                self._close_overdue(selector)
        for connection in self._silent:
            connection.close()

    def _wait_s(self) -> float:
        if not self._silent:
            return _LONGEST_WAIT_S
        first = next(iter(self._silent.values()))[0]
        return min(_LONGEST_WAIT_S, max(0.0, first - time.monotonic()))

    def _take_connections(self, selector: selectors.BaseSelector) -> None:
        while True:
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # Out of descriptors: the connections that wait in the backlog are taken when some are free again.
                _log.warning("connection_not_accepted", error=type(error).__name__)
                self._stopping.wait(0.1)
                return
            if not self._register.allows_address(address[0]):
                _log.warning("connection_refused", peer=address[0], reason="network_not_allowed")
                connection.close()
            elif self._has_too_many(address[0]):
                connection.close()
            else:
                self._prepare(connection)
                self._silent[connection] = (time.monotonic() + self._settings.acse_timeout_s, address)
                self._silent_of[address[0]] += 1
                selector.register(connection, selectors.EVENT_READ)

    def _has_too_many(self, address: str) -> bool:
        return len(self._silent) >= _MAX_SILENT_CONNECTIONS or self._silent_of[address] >= _MAX_SILENT_OF_ADDRESS

    def _prepare(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        # Answers are small and must not wait for an acknowledgement of the previous one.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A peer that vanished without a word frees its place.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def _first_byte(self, selector: selectors.BaseSelector, connection: Any) -> None:
        try:
            has_data = bool(connection.recv(1, socket.MSG_PEEK))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            has_data = False
        selector.unregister(connection)
        address = self._forget(connection)
        if not has_data:
            connection.close()
            return
        # Here, where connections come in one by one: what is handed to a child counts before the child has looked.
        connected = self._register.connect(address[0])
        if connected is None:
            _log.warning("connection_refused", peer=address[0], reason="too_many_of_one_address")
            connection.close()
        else:
            self._taker.take(connection, address, connected)

    def _close_overdue(self, selector: selectors.BaseSelector) -> None:
        # Insertion order is deadline order.
        now = time.monotonic()
        while self._silent:
            connection, (deadline, _) = next(iter(self._silent.items()))
            if deadline > now:
                return
            selector.unregister(connection)
            self._forget(connection)
            connection.close()

    def _forget(self, connection: socket.socket) -> Any:
        _, address = self._silent.pop(connection)
        self._silent_of[address[0]] -= 1
        if not self._silent_of[address[0]]:
            del self._silent_of[address[0]]
        return address
