"""How a connection becomes an association: pynetdicom negotiates, `upper_layer` receives, `storage_service` answers.

The fast data phase leans on names of pynetdicom that are not its public interface. When one of them is gone, the
stock loop takes over, slower and just as durable, and says so loudly.
"""

import contextlib
import socket
import threading
import time
from ctypes import c_int64
from functools import cache
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.transport import AddressInformation, AssociationServer, AssociationSocket, RequestHandler

from casebook.logs import get_logger
from casebook.settings import ListenerSettings, Settings
from dicom_node.objects.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, Envelope
from dicom_node.receive.admission import INTERNAL, VERIFICATION, Connected, Register, contexts_for
from dicom_node.receive.association_request import AssociationRequest, ProposedContext, printable
from dicom_node.receive.storage_service import StorageService
from dicom_node.receive.upper_layer import FastAssociation, breaches
from dicom_node.tls import Handshakes

_log = get_logger(__name__)


@cache
def is_fast() -> bool:
    """Whether the fast data phase fits this pynetdicom; a loud log when it does not."""
    broken = breaches()
    if broken:
        _log.error("fast_data_phase_unavailable", reason=" ".join(broken), count=len(broken))
    return not broken


class StockAssociation(Association):
    """pynetdicom's own loops; stores every SOP class, private ones too."""

    def _serve_request(self, msg: Any, context_id: int) -> None:
        context = self._accepted_cx.get(context_id)
        if isinstance(msg, C_STORE) and context is not None and msg.is_valid_request:
            # Upstream finds the service by SOP class, and knows no private one.
            StorageServiceClass(self).SCP(msg, context)
            return
        super()._serve_request(msg, context_id)

    @property
    def asked_for(self) -> AssociationRequest:
        """What the peer asks for, as pynetdicom read it."""
        found: Any = self.requestor.primitive
        return AssociationRequest(
            speaks_our_version=True,
            called_ae_title=found.called_ae_title.strip(),
            calling_ae_title=found.calling_ae_title.strip(),
            repeated=b"",
            application_context=str(found.application_context_name),
            contexts=tuple(
                ProposedContext(
                    context_id=one.context_id,
                    abstract_syntax=str(one.abstract_syntax),
                    transfer_syntaxes=tuple(map(str, one.transfer_syntax)),
                )
                for one in found.presentation_context_definition_list
            ),
            longest_pdu_bytes=found.maximum_length_received or 0,
        )

    def finish(self) -> None:
        """End after the object in flight; the stock loop cannot tell when that is."""
        if self.is_established:
            threading.Thread(target=self.abort, daemon=True).start()


class AssociationStarter(RequestHandler):
    """Builds and starts one association; pynetdicom's own copies its whole list of contexts for each."""

    def _create_association(self) -> Any:
        server: Any = self.server
        association = _counted(FastAssociation if is_fast() else StockAssociation)(self.ae, MODE_ACCEPTOR)
        association._server = server  # noqa: SLF001 - as RequestHandler does
        association.connected = server.connected.pop(self.request)
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


@cache
def _counted(kind: type[Any]) -> type[Any]:
    class Counted(kind):
        """Tells the server when its thread ends, however it ends."""

        def run_reactor(self) -> None:
            server = self._server
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
                self.connected.end()
                server.left()

        def start(self) -> None:
            self._server.entered()
            try:
                super().start()
            except BaseException:
                # No thread, so nobody else would count it out.
                self.connected.end()
                self._server.left()
                raise

    return Counted


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
        self._server = self._make_server()
        self._handshakes = Handshakes(settings.listener.tls) if settings.listener.tls is not None else None

    @property
    def running(self) -> int:
        """Association threads that run, admitted or not."""
        return self._running.value

    def take(self, connection: socket.socket, address: Any, connected: Connected) -> None:
        """Make an association of a connection whose first byte has come."""
        if self._handshakes is None:
            self._start_association(connection, address, connected)
        else:
            self._handshakes.begin(
                connection,
                address,
                lambda encrypted, peer: self._start_association(encrypted, peer, connected),
                connected.end,
            )

    def stop(self, grace_s: float = 10.0) -> None:
        """Finish the objects in flight and end every association."""
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
        # Upstream's own socket, which nobody listens on.
        server.server_close()
        server.storage_service = self._storage_service
        server.register = self._register
        server.running = self._running
        server.connected = {}
        return server

    def _start_association(self, connection: socket.socket, address: Any, connected: Connected) -> None:
        # From here on pynetdicom's timeouts rule (ARTIM, network).
        connection.settimeout(self._settings.network_timeout_s)
        self._server.connected[connection] = connected
        try:
            self._server.process_request(connection, address)
        except Exception:  # noqa: BLE001 - logged with its place
            # Process edge: one connection must not end the acceptor.
            _log.exception("association_not_started", peer=address[0])
            self._server.connected.pop(connection, None)
            connected.end()
            connection.close()

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

    def _on_store(self, event: Any) -> int:
        """Receive in one piece, for the stock loop; `upper_layer` streams into the same operation."""
        request = event.request
        envelope = Envelope(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            calling_ae_title=event.assoc.requestor.ae_title.strip(),
            peer_address=event.assoc.requestor.address,
        )
        operation = self._storage_service.begin(envelope)
        operation.write([request.DataSet.getbuffer()])
        return operation.finish()


def _on_echo(_event: Any) -> int:
    """Answer C-ECHO: success (PS3.4 A.4)."""
    return 0x0000


class _Server(AssociationServer):
    """pynetdicom's server, without its port and its accept loop."""

    storage_service: StorageService
    register: Register
    #: Of association threads that run, admitted or not.
    running: c_int64
    #: Connections that are about to become associations.
    connected: dict[socket.socket, Connected]
    _lock = threading.Lock()

    def server_bind(self) -> None:
        """Bind nothing: connections are handed over by whoever accepts them."""

    def server_activate(self) -> None:
        """Listen to nothing."""

    def entered(self) -> None:
        """Count an association thread that starts."""
        with self._lock:
            self.running.value += 1

    def left(self) -> None:
        """Count an association thread that ends."""
        with self._lock:
            self.running.value -= 1
