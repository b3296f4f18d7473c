"""Who may associate, and for what: allow-lists, limits and presentation contexts of one A-ASSOCIATE-RQ."""

import ipaddress
import mmap
from collections import defaultdict
from collections.abc import Iterable
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

#: SOP class of C-ECHO (PS3.4 A).
VERIFICATION = "1.2.840.10008.1.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21), and its name in our logs."""

    result: int
    source: int
    diagnostic: int
    name: str


#: PS3.7 A.2.1, the only application context there is.
_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
APPLICATION_CONTEXT = Rejection(result=1, source=1, diagnostic=2, name="application_context_not_supported")
CALLED_AE_TITLE = Rejection(result=1, source=1, diagnostic=7, name="called_ae_title_not_recognized")
CALLING_AE_TITLE = Rejection(result=1, source=1, diagnostic=3, name="calling_ae_title_not_recognized")
TOO_MANY = Rejection(result=2, source=3, diagnostic=2, name="local_limit_exceeded")
TOO_MANY_OF_ONE = Rejection(result=2, source=3, diagnostic=2, name="local_limit_of_ae_title_exceeded")
CONGESTED = Rejection(result=2, source=3, diagnostic=1, name="temporary_congestion")


#: An AE title has 16 characters at most (PS3.5 6.2); one more says that the place is taken.
_PLACE_BYTES = 17
_FREE = bytes(_PLACE_BYTES)


class Register:
    """The associations at this time, in total and by calling AE title.

    This process and those that are forked from it afterwards share it.
    """

    def __init__(self, settings: ListenerSettings) -> None:
        self._settings = settings
        self._lock = get_context("fork").Lock()
        self._places = mmap.mmap(-1, settings.max_associations * _PLACE_BYTES)
        #: Of the associations of this process.
        self._place_of: dict[object, int] = {}
        self._networks = tuple(ipaddress.ip_network(text, strict=False) for text in settings.allowed_networks)

    def allows_address(self, address: str) -> bool:
        """Whether a peer address lies in an allowed network."""
        try:
            found = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self._networks)

    def admit(
        self, association: object, *, called: str, calling: str, has_room: bool, application_context: str
    ) -> Rejection | None:
        """Enter an association, or say why not."""
        settings = self._settings
        if application_context != _APPLICATION_CONTEXT:
            return APPLICATION_CONTEXT
        if called.strip() != settings.ae_title:
            return CALLED_AE_TITLE
        calling = calling.strip()
        if settings.allowed_calling_ae_titles and calling not in settings.allowed_calling_ae_titles:
            return CALLING_AE_TITLE
        if not has_room:
            return CONGESTED
        # A place that is taken never begins with a zero.
        wanted = b"\1" + calling.encode("utf-8", "replace")[: _PLACE_BYTES - 1].ljust(_PLACE_BYTES - 1)
        with self._lock:
            places = self._all_places()
            if _FREE not in places:
                return TOO_MANY
            if places.count(wanted) >= settings.max_associations_per_ae:
                return TOO_MANY_OF_ONE
            self._place_of[association] = places.index(_FREE)
            self._set_place(self._place_of[association], wanted)
        return None

    def leave(self, association: object) -> None:
        """Forget an association of this process that ended; one that was never admitted is no error."""
        with self._lock:
            place = self._place_of.pop(association, None)
            if place is not None:
                self._set_place(place, _FREE)

    def __len__(self) -> int:
        return sum(place != _FREE for place in self._all_places())

    def _all_places(self) -> list[bytes]:
        content = self._places[:]
        return [content[start : start + _PLACE_BYTES] for start in range(0, len(content), _PLACE_BYTES)]

    def _set_place(self, number: int, content: bytes) -> None:
        self._places[number * _PLACE_BYTES : (number + 1) * _PLACE_BYTES] = content


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
        elif _is_storage(abstract_syntax):
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
def _is_storage(abstract_syntax: str) -> bool:
    uid = UID(abstract_syntax)
    if not uid.is_valid:
        return False
    service: Any = uid_to_service_class(uid)
    # A private class has no service of its own here: a sender that proposes one to an archive wants to store it.
    # So does one with a class of the standard that is too new or too old for our tables.
    return service is StorageServiceClass or (service is ServiceClass and (uid.is_private or _looks_like_storage(uid)))


def _looks_like_storage(uid: UID) -> bool:
    return uid.startswith("1.2.840.10008.5.1.4.1.1.")
