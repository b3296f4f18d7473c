"""The DICOM listener: pynetdicom negotiates, `data_phase` receives, `reception` answers.

A connection costs a file descriptor until its first byte; only then does it get an association with its threads.
So health checks and port scans that only connect cost nothing and lock nobody out.
"""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.transport import AssociationServer
from sqlalchemy import Engine

from casebook.errors import WetreadError
from casebook.logs import get_logger
from casebook.settings import ListenerSettings, Settings
from dicom_node.admission import VERIFICATION, Register, contexts_for
from dicom_node.associations import AssociationStarter, is_fast
from dicom_node.disk_gate import DiskGate
from dicom_node.inbox import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, Envelope, Inbox
from dicom_node.indexer import Indexer
from dicom_node.reception import Receiver
from dicom_node.recorder_process import RecorderProcess
from dicom_node.tls import Handshakes

#: Connections that have not sent a byte yet; more are closed at once.
_MAX_SILENT_CONNECTIONS = 1024
#: Connections beyond the association limit that still get a proper A-ASSOCIATE-RJ instead of a closed socket.
_MAX_REJECTING = 32
_BACKLOG = 128
_LONGEST_WAIT_S = 5.0
#: How often a running listener looks whether its threads live.
_HEARTBEAT_S = 1.0
_log = get_logger(__name__)


class Listener:
    """One listening port with everything behind it up to the durable file."""

    def __init__(self, settings: Settings, receiver: Receiver, register: Register | None = None) -> None:
        self._settings: ListenerSettings = settings.listener
        self._receiver = receiver
        self._register = register or Register(settings.listener)
        # The handlers of pynetdicom log names and values of data sets.
        _config.LOG_HANDLER_LEVEL = "none"
        self._server = self._make_server()
        self._handshakes = Handshakes(settings.listener.tls) if settings.listener.tls is not None else None
        self._silent: dict[socket.socket, tuple[float, Any]] = {}
        self._stopping = threading.Event()
        self._told, self._teller = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="acceptor", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port we listen on."""
        return int(self._server.server_address[1])

    @property
    def is_alive(self) -> bool:
        """Whether connections are accepted."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()
        _log.info(
            "listener_started", port=self.port, ae_title=self._settings.ae_title, state="fast" if is_fast() else "stock"
        )

    def stop(self, grace_s: float = 10.0) -> None:
        """Accept nothing more, finish the objects in flight, end every association, close the port."""
        self._stopping.set()
        self._teller.close()
        if self._thread.is_alive():
            self._thread.join()
        self._told.close()
        self._server.server_close()
        deadline = time.monotonic() + grace_s
        running = [one for one in self._server.active_associations if one.is_alive()]
        for association in running:
            association.finish()
        for association in running:
            association.join(max(0.1, deadline - time.monotonic()))
            if association.is_alive() and association.is_established:
                association.abort()
        _log.info("listener_stopped", count=len(running))

    def handlers(self) -> list[tuple[Any, ...]]:
        """Everything that can happen on an association, on one screen."""
        return [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_C_ECHO, _on_echo),
            (evt.EVT_C_STORE, self._on_store),
        ]

    def _make_server(self) -> Any:
        settings = self._settings
        entity = AE(settings.ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.maximum_pdu_size = settings.max_pdu_bytes
        entity.acse_timeout = settings.acse_timeout_s
        entity.network_timeout = settings.network_timeout_s
        entity.dimse_timeout = settings.network_timeout_s
        # The register counts; pynetdicom's own count includes threads that are about to end.
        entity.maximum_associations = 1_000_000
        entity.add_supported_context(VERIFICATION)
        server: Any = entity.make_server(
            (settings.host, settings.port),
            evt_handlers=self.handlers(),
            server_class=_Server,
            request_handler=AssociationStarter,
        )
        server.receiver = self._receiver
        server.register = self._register
        server.settings = settings
        return server

    def _accept(self) -> None:
        listening = self._server.socket
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
                connection, address = self._server.socket.accept()
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
            elif len(self._silent) >= _MAX_SILENT_CONNECTIONS or self._has_too_many_threads():
                connection.close()
            else:
                self._prepare(connection)
                self._silent[connection] = (time.monotonic() + self._settings.acse_timeout_s, address)
                selector.register(connection, selectors.EVENT_READ)

    def _has_too_many_threads(self) -> bool:
        running: int = self._server.running
        return running >= self._settings.max_associations + _MAX_REJECTING

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
        _, address = self._silent.pop(connection)
        if not has_data:
            connection.close()
            return
        if self._handshakes is None:
            self._start_association(connection, address)
        else:
            self._handshakes.begin(connection, address, self._start_association)

    def _start_association(self, connection: socket.socket, address: Any) -> None:
        # From here on pynetdicom's timeouts rule (ARTIM, network).
        connection.settimeout(self._settings.network_timeout_s)
        try:
            self._server.process_request(connection, address)
        except Exception:  # noqa: BLE001 - logged with its place
            # Process edge: one connection must not end the acceptor.
            _log.exception("association_not_started", peer=address[0])
            connection.close()

    def _close_overdue(self, selector: selectors.BaseSelector) -> None:
        # Insertion order is deadline order.
        now = time.monotonic()
        while self._silent:
            connection, (deadline, _) = next(iter(self._silent.items()))
            if deadline > now:
                return
            selector.unregister(connection)
            del self._silent[connection]
            connection.close()

    def _on_requested(self, event: Any) -> None:
        association = event.assoc
        request = association.requestor.primitive
        rejection = self._register.admit(
            association,
            called=request.called_ae_title,
            calling=request.calling_ae_title,
            has_room=self._receiver.is_open,
            application_context=str(request.application_context_name),
        )
        if rejection is None:
            association.acceptor.supported_contexts = contexts_for(request.presentation_context_definition_list)
            return
        _log.warning(
            "association_rejected",
            reason=rejection.name,
            ae_title=request.calling_ae_title.strip(),
            peer=association.requestor.address,
        )
        association.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
        association.kill()

    def _on_store(self, event: Any) -> int:
        """Receive in one piece, for the stock loop; `data_phase` streams into the same reception."""
        request = event.request
        envelope = Envelope(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            calling_ae_title=event.assoc.requestor.ae_title.strip(),
            peer_address=event.assoc.requestor.address,
        )
        reception = self._receiver.begin(envelope)
        reception.write([request.DataSet.getbuffer()])
        return reception.finish()


def _on_echo(_event: Any) -> int:
    """Answer C-ECHO: success (PS3.4 A.4)."""
    return 0x0000


class _Server(AssociationServer):
    """pynetdicom's server, without its accept loop."""

    request_queue_size = _BACKLOG
    receiver: Receiver
    register: Register
    settings: ListenerSettings
    #: Association threads that run, admitted or not.
    running = 0
    _lock = threading.Lock()

    def entered(self) -> None:
        """Count an association thread that starts."""
        with self._lock:
            self.running += 1

    def left(self) -> None:
        """Count an association thread that ends."""
        with self._lock:
            self.running -= 1


def serve(
    settings: Settings, engine: Engine, stop: threading.Event, on_ready: Callable[[int], None] | None = None
) -> None:
    """Receive until told to stop; the body of the listener's process.

    Parameters
    ----------
    stop
        Set it (on SIGTERM) to finish the objects in flight and return.
    on_ready
        Told the bound port, once connections are accepted.

    Raises
    ------
    UnsafeStorage
        When another listener owns the data directory.
    WetreadError
        When a thread without which nothing is received has ended; whoever started the process starts it again.
    """
    inbox = Inbox(settings.data_directory)
    with contextlib.closing(inbox), contextlib.closing(RecorderProcess(settings)) as records:
        records.start()
        gate = DiskGate(inbox.directory, settings.listener.min_free_bytes, inbox.files, time.monotonic)
        indexer = Indexer(inbox, engine, settings, records=records)
        inbox.start_journal()
        indexer.start()
        receiver, register = Receiver(inbox, gate, indexer), Register(settings.listener)
        listener = Listener(settings, receiver, register)
        listener.start()
        stow = None
        if settings.stow is not None:
            # Loaded where it is used: an HTTP server that nobody asks would cost 9 MiB.
            from dicom_node.stow import StowServer

            stow = StowServer(settings.stow, receiver, register)
        try:
            if stow is not None:
                stow.start()
            if on_ready is not None:
                on_ready(listener.port)
            _wait_for(stop, listener, indexer)
        finally:
            if stow is not None:
                stow.stop()
            listener.stop()
            indexer.stop()


def _wait_for(stop: threading.Event, listener: Listener, indexer: Indexer) -> None:
    while not stop.wait(_HEARTBEAT_S):
        if not (listener.is_alive and indexer.is_alive):
            # A process that receives nothing must not look like one that does.
            _log.error("listener_thread_ended", state="indexer" if listener.is_alive else "acceptor")
            raise WetreadError("a thread of the listener has ended")
