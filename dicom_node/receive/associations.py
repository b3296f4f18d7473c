"""How a connection becomes an association: pynetdicom negotiates, `upper_layer` receives, `storage_service` answers."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from ctypes import c_int64
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.transport import AddressInformation, AssociationServer, AssociationSocket, RequestHandler

from casebook.logs import get_logger
from casebook.settings import ListenerSettings, Settings
from dicom_node.objects.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.receive.admission import INTERNAL, MAX_REJECTING, VERIFICATION, Connected, Register, contexts_for
from dicom_node.receive.association_request import printable
from dicom_node.receive.lobby import Lobby
from dicom_node.receive.storage_service import StorageService
from dicom_node.receive.upper_layer import FastAssociation

_log = get_logger(__name__)


class _Counted(FastAssociation):
    """Tells the server when its thread ends, however it ends."""

    def run_reactor(self) -> None:
        server: Any = self._server
        try:
            super().run_reactor()
        except Exception:  # noqa: BLE001 - logged with its place
            # Process edge: whatever fails here, the peer learns it, and nothing stays with us.
            _log.exception("association_failed", peer=self.requestor.address)
            with contextlib.suppress(Exception):
                self._abort_blocking()
            self.kill()
        finally:
            server.register.leave(self)
            server.left(self.connected)


class AssociationStarter(RequestHandler):
    """Builds and starts one association; pynetdicom's own copies its whole list of contexts for each."""

    def _create_association(self) -> Any:
        server: Any = self.server
        association: Any = _Counted(self.ae, MODE_ACCEPTOR)
        association._server = server  # noqa: SLF001 - as RequestHandler does
        association.connected, association.first_bytes = server.connected.pop(self.request)
        association.name = f"AcceptorThread@{self.client_address[0]}:{self.client_address[1]}"
        association.set_socket(AssociationSocket(association, client_socket=self.request))
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        # What is supported is decided when the request is here: `admission.contexts_for`.
        acceptor.supported_contexts = list(server.contexts)
        association.requestor.address_info = AddressInformation.from_tuple(self.client_address)
        for event, handlers in server._handlers.items():  # noqa: SLF001 - as RequestHandler does
            if event.is_intervention and handlers:
                association.bind(event, *handlers)
            elif isinstance(event, evt.NotificationEvent):
                for handler, arguments in handlers:
                    association.bind(event, handler, arguments)
        return association


class Associations:
    """The associations of one process."""

    def __init__(
        self, settings: Settings, storage_service: StorageService, register: Register, running: c_int64 | None = None
    ) -> None:
        """Take who receives, who admits, and where threads that run are counted if another process looks on."""
        self._settings: ListenerSettings = settings.listener
        self._running = c_int64() if running is None else running
        self._storage_service = storage_service
        self._register = register
        # The handlers of pynetdicom log names and values of data sets.
        _config.LOG_HANDLER_LEVEL = "none"
        self._counting = threading.Lock()
        self._threads = 0
        self._server = self._make_server()
        self._lobby = Lobby(settings.listener, self._start_association, self._left_early)
        self._lobby.start()

    @property
    def running(self) -> int:
        """Connections taken that have not ended, as associations or on the way to one."""
        return self._running.value

    @property
    def is_alive(self) -> bool:
        """Whether connections become associations."""
        return self._lobby.is_alive

    def take(self, connection: socket.socket, address: Any, connected: Connected) -> None:
        """Make an association of a connection whose first byte has come, once its request is whole."""
        self._count(1)
        self._lobby.take(connection, address, connected)

    def stop(self, grace_s: float = 10.0) -> None:
        """Finish the objects in flight and end every association."""
        self._lobby.stop()
        deadline = time.monotonic() + grace_s
        running = [one for one in self._server.active_associations if one.is_alive()]
        for association in running:
            association.finish()
        for association in running:
            association.join(max(0.1, deadline - time.monotonic()))
            if association.is_alive() and association.is_established:
                association.abort()
        _log.info("associations_ended", count=len(running))

    def handlers(self) -> list[tuple[Any, ...]]:
        """Everything that can happen on an association, on one screen."""
        return [
            (evt.EVT_REQUESTED, self._on_requested),
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
        # Upstream's own socket, which nobody listens on.
        server.server_close()
        server.storage_service = self._storage_service
        server.register = self._register
        server.left = self._left
        server.connected = {}
        return server

    def _start_association(self, connection: socket.socket, address: Any, connected: Connected, head: bytes) -> None:
        if self._threads >= self._settings.max_associations + MAX_REJECTING:
            _log.warning("connection_refused", peer=address[0], reason="too_many_associations")
            self._left_early(connected)
            connection.close()
            return
        # From here on pynetdicom's timeouts rule (ARTIM, network).
        connection.settimeout(self._settings.network_timeout_s)
        self._server.connected[connection] = connected, head
        self._count(0, threads=1)
        try:
            self._server.process_request(connection, address)
        except Exception:  # noqa: BLE001 - logged with its place
            # Process edge: one connection must not end the lobby.
            _log.exception("association_not_started", peer=address[0])
            self._server.connected.pop(connection, None)
            self._left(connected)
            connection.close()

    def _left(self, connected: Connected) -> None:
        connected.end()
        self._count(-1, threads=-1)

    def _left_early(self, connected: Connected) -> None:
        connected.end()
        self._count(-1)

    def _count(self, change: int, *, threads: int = 0) -> None:
        with self._counting:
            self._running.value += change
            self._threads += threads

    def _on_requested(self, event: Any) -> None:
        association = event.assoc
        try:
            self._decide(association)
        except Exception:  # noqa: BLE001 - logged with its place
            # Process edge: pynetdicom would log it and accept whoever asks.
            _log.exception("association_rejected", reason=INTERNAL.name, peer=association.requestor.address)
            association.acse.send_reject(INTERNAL.result, INTERNAL.source, INTERNAL.diagnostic)
            association.kill()

    def _decide(self, association: Any) -> None:
        request = association.asked_for
        rejection = self._register.admit(
            association,
            request,
            has_room=self._storage_service.is_open,
            is_within_limit=association.connected.is_within_limit,
        )
        if rejection is None:
            proposed = association.requestor.primitive.presentation_context_definition_list
            association.acceptor.supported_contexts = contexts_for(proposed)
            return
        _log.warning(
            "association_rejected",
            reason=rejection.name,
            ae_title=printable(request.calling_ae_title),
            called_ae_title=printable(request.called_ae_title),
            peer=association.requestor.address,
        )
        association.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
        association.kill()


class _Server(AssociationServer):
    """pynetdicom's server, without its port and its accept loop."""

    storage_service: StorageService
    register: Register
    #: Connections that are about to become associations, each with its request.
    connected: dict[socket.socket, tuple[Connected, bytes]]
    #: Told when an association's thread ends.
    left: Callable[[Connected], None]

    def server_bind(self) -> None:
        """Bind nothing: connections are handed over by whoever accepts them."""

    def server_activate(self) -> None:
        """Listen to nothing."""
