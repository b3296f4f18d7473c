"""The one way to ask for an association, with what every one needs beyond what pynetdicom does."""

import select
import socket
import ssl
from collections.abc import Sequence
from typing import Any

from pynetdicom import AE, _config, build_role
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from casebook.errors import PeerUnavailable
from dicom_node.objects.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME


class _Transport(AssociationSocket):
    """pynetdicom's socket on any descriptor, without a delay before small messages."""

    def _create_socket(self, address: AddressInformation) -> socket.socket:
        created = super()._create_socket(address)
        # Nagle's algorithm and delayed acknowledgement together cost 40 ms per message.
        created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return created

    @property
    def ready(self) -> bool:
        """Whether there is something to read; upstream asks select, which knows no descriptor above 1023."""
        if self.socket is None or not self._is_connected:
            return False
        readable = select.poll()
        try:
            readable.register(self.socket, select.POLLIN)
            has_bytes = bool(readable.poll(0))
        except (OSError, ValueError):
            # Evt17: the connection is closed (PS3.8 table 9-10).
            self.event_queue.put("Evt17")
            return False
        return has_bytes or (isinstance(self.socket, ssl.SSLSocket) and bool(self.socket.pending()))


class _Entity(AE):
    """pynetdicom's application entity with our transport."""

    def _create_socket(self, assoc: Association, address: AddressInformation, tls_args: Any) -> AssociationSocket:
        transport = _Transport(assoc, address=address)
        transport.tls_args = tls_args
        return transport


def associate(
    host: str,
    port: int,
    *,
    called: str,
    calling: str,
    timeout_s: float,
    contexts: Sequence[PresentationContext],
    scp_roles: Sequence[str] = (),
    handlers: Sequence[Any] = (),
    name: str,
) -> Association:
    """Ask for an association, and return it, established or not.

    Parameters
    ----------
    timeout_s
        For the connection, and for each answer.
    scp_roles
        SOP classes whose instances may be sent to us over it (PS3.7 D.3.3.4).
    name
        What a person calls the peer.

    Raises
    ------
    PeerUnavailable
        When the host has no address.
    """
    entity = _Entity(calling)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = timeout_s
    entity.dimse_timeout = entity.network_timeout = timeout_s
    try:
        association = entity.associate(
            host,
            port,
            contexts=list(contexts),
            ae_title=called,
            ext_neg=[build_role(uid, scp_role=True) for uid in scp_roles],
            evt_handlers=list(handlers),
        )
    except (OSError, ValueError):
        # The name is looked up before anything else: the name server may be away.
        raise PeerUnavailable(f"{name} cannot be resolved or reached") from None
    return keep_answers(association)


#: PS3.8 9.3.4: (source, reason) of an A-ASSOCIATE-RJ in words.
_REJECTIONS = {
    (1, 1): "it gives no reason",
    (1, 2): "it does not know the application context of DICOM",
    (1, 3): "it does not know our calling AE title",
    (1, 7): "it does not know the called AE title",
    (2, 1): "it gives no reason",
    (2, 2): "it does not speak this version of the protocol",
    (3, 1): "it is congested for the moment",
    (3, 2): "it has as many associations as it allows",
}


def why_rejected(answer: Any) -> str:
    """Return an A-ASSOCIATE-RJ in words and in the numbers that a vendor asks for."""
    words = _REJECTIONS.get((answer.result_source, answer.diagnostic), "its reason is not one of the standard")
    return f"{words} (result {answer.result}, source {answer.result_source}, reason {answer.diagnostic}; PS3.8 9.3.4)"


def accepted(association: Association) -> dict[str, tuple[str, ...]]:
    """Return what the peer accepted: SOP Class UID to transfer syntaxes."""
    found: dict[str, list[str]] = {}
    for context in association.accepted_contexts:
        found.setdefault(str(context.abstract_syntax), []).append(str(context.transfer_syntax[0]))
    return {uid: tuple(syntaxes) for uid, syntaxes in sorted(found.items())}


def keep_answers(association: Association) -> Association:
    """Leave every answer to the caller who waits for it, and return the association.

    pynetdicom (3.0.4, `Association._run_reactor`) says that its own thread is paused just before it is: on a busy
    machine that thread can take an answer off the queue, log it as unexpected, and leave the caller to wait out
    its timeout. On an association we asked for, that thread has nothing to take: callers wait with ``block=True``.
    """
    # To print an answer, pynetdicom decodes it: its values then are no longer the bytes that came, and one that cannot
    # be decoded costs the whole answer. Patients do not belong in a log anyway.
    _config.LOG_RESPONSE_IDENTIFIERS = False
    take = association.dimse.get_msg

    def get_msg(block: bool = False) -> object:  # noqa: FBT001, FBT002 - pynetdicom's signature
        return take(block=True) if block else (None, None)

    association.dimse.get_msg = get_msg  # type: ignore[method-assign, assignment]
    return association
