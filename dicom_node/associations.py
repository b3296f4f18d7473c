"""How a connection becomes an association of pynetdicom: the fast one of `data_phase`, or the stock one.

The fast data phase leans on names of pynetdicom that are not its public interface. When one of them is gone, the
stock loop takes over, slower and just as durable, and says so loudly.
"""

import threading
from functools import cache
from typing import Any

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.transport import AddressInformation, AssociationSocket, RequestHandler

from casebook.logs import get_logger
from dicom_node.data_phase import FastAssociation, breaches

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
            finally:
                server.register.leave(self)
                server.left()

        def start(self) -> None:
            self._server.entered()
            try:
                super().start()
            except BaseException:
                # No thread, so nobody else would count it out.
                self._server.left()
                raise

    return Counted
