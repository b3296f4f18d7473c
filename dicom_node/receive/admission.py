"""Who may associate, and for what: allow-lists, limits and presentation contexts of one A-ASSOCIATE-RQ."""

import ipaddress
import mmap
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from multiprocessing import get_context
from typing import Any

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import ALL_TRANSFER_SYNTAXES
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from casebook.settings import ListenerSettings
from dicom_node.receive.association_request import APPLICATION_CONTEXT as THE_APPLICATION_CONTEXT
from dicom_node.receive.association_request import AssociationRequest, is_title

#: SOP class of C-ECHO (PS3.4 A).
VERIFICATION = "1.2.840.10008.1.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21), and its name in our logs."""

    result: int
    source: int
    diagnostic: int
    name: str


PROTOCOL_VERSION = Rejection(result=1, source=2, diagnostic=2, name="protocol_version_not_supported")
APPLICATION_CONTEXT = Rejection(result=1, source=1, diagnostic=2, name="application_context_not_supported")
CALLED_AE_TITLE = Rejection(result=1, source=1, diagnostic=7, name="called_ae_title_not_recognized")
CALLING_AE_TITLE = Rejection(result=1, source=1, diagnostic=3, name="calling_ae_title_not_recognized")
TOO_MANY = Rejection(result=2, source=3, diagnostic=2, name="local_limit_exceeded")
TOO_MANY_OF_ONE = Rejection(result=2, source=3, diagnostic=2, name="local_limit_of_ae_title_exceeded")
TOO_MANY_OF_ADDRESS = Rejection(result=2, source=3, diagnostic=2, name="local_limit_of_address_exceeded")
INTERNAL = Rejection(result=2, source=2, diagnostic=1, name="internal_error")
CONGESTED = Rejection(result=2, source=3, diagnostic=1, name="temporary_congestion")


#: An AE title has 16 characters at most (PS3.5 6.2); one more says that the place is taken.
_PLACE_BYTES = 17
_FREE = bytes(_PLACE_BYTES)
#: Connections beyond the association limit that still get a proper A-ASSOCIATE-RJ instead of a closed socket; and how
#: many beyond the limit of their address.
MAX_REJECTING = 32
_MAX_REJECTING_OF_ADDRESS = 8
#: Connections that have spoken and may be in a handshake, besides.
_MAX_IN_HANDSHAKE = 256


class Connected:
    """One connection from its first byte on, as its address is charged with it."""

    __slots__ = ("_end", "is_within_limit", "number")

    def __init__(self, number: int, end: Callable[[], None], *, is_within_limit: bool) -> None:
        self._end: Callable[[], None] | None = end
        #: Names it to another process, which goes on with it by `Register.go_on`.
        self.number = number
        #: False for one that is only taken to be told that there are too many.
        self.is_within_limit = is_within_limit

    def end(self) -> None:
        """Charge it no longer; may be called again."""
        end, self._end = self._end, None
        if end is not None:
            end()


class Places:
    """A table of what is taken, and by whom, in memory that processes share which are forked afterwards."""

    def __init__(self, count: int) -> None:
        self._content = mmap.mmap(-1, count * _PLACE_BYTES)

    def all(self) -> list[bytes]:
        """Return what each place holds; `_FREE` where it is free."""
        content = self._content[:]
        return [content[start : start + _PLACE_BYTES] for start in range(0, len(content), _PLACE_BYTES)]

    def put(self, number: int, content: bytes) -> None:
        """Let a place hold something."""
        self._content[number * _PLACE_BYTES : (number + 1) * _PLACE_BYTES] = content


class Register:
    """The connections that speak, by address, and the associations among them, in total and by calling AE title.

    This process and those that are forked from it afterwards share it.
    """

    def __init__(self, settings: ListenerSettings) -> None:
        self._settings = settings
        self._lock = get_context("fork").Lock()
        self._places = Places(settings.max_associations)
        self._addresses = Places(settings.max_associations + MAX_REJECTING + _MAX_IN_HANDSHAKE)
        #: Of the associations of this process.
        self._place_of: dict[object, int] = {}
        self._networks = tuple(ipaddress.ip_network(text, strict=False) for text in settings.allowed_networks)

    def allows_address(self, address: str) -> bool:
        """Whether a peer address lies in an allowed network."""
        found = _parsed(address)
        return found is not None and any(found in network for network in self._networks)

    def connect(self, address: str) -> Connected | None:
        """Charge an address with a connection whose first byte has come; None when it has to be closed at once."""
        found = _parsed(address)
        # A place that is taken never begins with a zero.
        taken = b"\1" + (found.packed if found is not None else b"").rjust(_PLACE_BYTES - 1, b"\xff")
        limit = self._settings.max_associations_per_address
        with self._lock:
            places = self._addresses.all()
            count = places.count(taken)
            if count >= limit + _MAX_REJECTING_OF_ADDRESS or _FREE not in places:
                return None
            number = places.index(_FREE)
            self._addresses.put(number, taken)
        return self.go_on(number, is_within_limit=count < limit)

    def go_on(self, number: int, *, is_within_limit: bool) -> Connected:
        """Return a connection that another process has charged; it is ended here and no longer there."""
        return Connected(number, lambda: self._disconnect(number), is_within_limit=is_within_limit)

    def _disconnect(self, number: int) -> None:
        with self._lock:
            self._addresses.put(number, _FREE)

    def admit(
        self, association: object, request: AssociationRequest, *, has_room: bool, is_within_limit: bool
    ) -> Rejection | None:
        """Enter an association, or say why not.

        Parameters
        ----------
        has_room
            Whether objects can be stored now.
        is_within_limit
            Whether its address may have this connection too.
        """
        settings, calling = self._settings, request.calling_ae_title
        if not request.speaks_our_version:
            return PROTOCOL_VERSION
        if request.application_context != THE_APPLICATION_CONTEXT:
            return APPLICATION_CONTEXT
        if request.called_ae_title != settings.ae_title:
            return CALLED_AE_TITLE
        # PS3.8 table 9-11: a blank title is none.
        if not is_title(calling):
            return CALLING_AE_TITLE
        if settings.allowed_calling_ae_titles and calling not in settings.allowed_calling_ae_titles:
            return CALLING_AE_TITLE
        if not is_within_limit:
            return TOO_MANY_OF_ADDRESS
        if not has_room:
            return CONGESTED
        wanted = b"\1" + calling.encode("ascii").ljust(_PLACE_BYTES - 1)
        with self._lock:
            places = self._places.all()
            if _FREE not in places:
                return TOO_MANY
            if places.count(wanted) >= settings.max_associations_per_ae:
                return TOO_MANY_OF_ONE
            self._place_of[association] = places.index(_FREE)
            self._places.put(self._place_of[association], wanted)
        return None

    def leave(self, association: object) -> None:
        """Forget an association of this process that ended; one that was never admitted is no error."""
        with self._lock:
            place = self._place_of.pop(association, None)
            if place is not None:
                self._places.put(place, _FREE)

    def __len__(self) -> int:
        return sum(place != _FREE for place in self._places.all())


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


#: Uncompressed ones, best first: explicit VR keeps the VRs of private elements, and a sender that offers the retired
#: big endian or deflate beside little endian would re-encode for us (DCMTK's storescu does).
_UNCOMPRESSED_TRANSFER_SYNTAXES = (
    str(ExplicitVRLittleEndian),
    str(DeflatedExplicitVRLittleEndian),
    str(ExplicitVRBigEndian),
    str(ImplicitVRLittleEndian),
)
#: Acceptance order. pynetdicom takes the first of ours that the peer offers: compressed stays as it is sent.
_ACCEPTED_TRANSFER_SYNTAXES = (
    *(uid for uid in map(str, ALL_TRANSFER_SYNTAXES) if uid not in _UNCOMPRESSED_TRANSFER_SYNTAXES),
    *_UNCOMPRESSED_TRANSFER_SYNTAXES,
)


def contexts_for(proposed: Iterable[PresentationContext]) -> list[PresentationContext]:
    """Build the presentation contexts we support, for exactly what a peer proposes (PS3.8 9.3.2.2).

    Verification, and every storage SOP class: the standard's, retired ones, and private ones. Building only what
    was asked for costs microseconds, where a list of all classes in all transfer syntaxes costs 25 ms an association.
    """
    offered: dict[str, set[UID]] = defaultdict(set)
    for context in proposed:
        offered[str(context.abstract_syntax)].update(context.transfer_syntax)
    supported = []
    for abstract_syntax, syntaxes in offered.items():
        if abstract_syntax == VERIFICATION:
            accepted: list[str | bytes | UID] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        elif is_storage(abstract_syntax):
            # pynetdicom validates each anew. Where none of ours is offered, one that is not makes it say so.
            accepted = [one for one in _transfer_syntaxes() if one in syntaxes] or [ExplicitVRLittleEndian]
        else:
            continue
        context = PresentationContext()
        context.abstract_syntax = UID(abstract_syntax)
        context.transfer_syntax = accepted
        supported.append(context)
    return supported


@cache
def _transfer_syntaxes() -> tuple[UID, ...]:
    return tuple(UID(uid) for uid in _ACCEPTED_TRANSFER_SYNTAXES)


@lru_cache(maxsize=1024)
def is_storage(abstract_syntax: str) -> bool:
    """Whether an abstract syntax is a SOP class whose instances are stored here."""
    uid = UID(abstract_syntax)
    if not uid.is_valid:
        return False
    service: Any = uid_to_service_class(uid)
    # A private class has no service of its own here: a sender that proposes one to an archive wants to store it.
    # So does one with a class of the standard that is too new or too old for our tables.
    return service is StorageServiceClass or (service is ServiceClass and (uid.is_private or _looks_like_storage(uid)))


def _looks_like_storage(uid: UID) -> bool:
    return uid.startswith("1.2.840.10008.5.1.4.1.1.")
