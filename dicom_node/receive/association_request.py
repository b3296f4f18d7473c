"""An A-ASSOCIATE-RQ, read by us: what a peer asks for, however its software fills the fields (PS3.8 9.3.2).

Hospitals send titles padded with NUL, items that no standard knows, contexts without a transfer syntax. A library that
raises at such a request leaves its sender without an answer. So we read it, keep what decides the answer, and hand
pynetdicom a request that says the same in the plainest form.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dicom_node.receive.inflow import Invalid
from dicom_node.receive.pdus import A_ASSOCIATE_RQ, PDU_HEADER

_FIXED = struct.Struct(">HH16s16s32s")
_ITEM = struct.Struct(">BxH")
# PS3.8 9.3.2, 9.3.2.2, D.1.
_APPLICATION_CONTEXT, _PRESENTATION_CONTEXT, _USER_INFORMATION = 0x10, 0x20, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX, _MAXIMUM_LENGTH, _IMPLEMENTATION_CLASS_UID = 0x30, 0x40, 0x51, 0x52
#: PS3.7 A.2.1, the only application context there is. It is no SOP class, so it also stands where a context names none.
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
#: Stands where a context names no transfer syntax; it is none, so that the context is answered and never accepted.
_NO_TRANSFER_SYNTAX = "2.25.0"
#: Stands for a title that is none, in the request that pynetdicom sees; such a request is rejected by what we read.
_NO_TITLE = "UNKNOWN"
#: PS3.5 6.2 AE: the default repertoire without backslash and control characters; blanks around it do not count.
_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]*[\x21-\x5b\x5d-\x7e])?")
_UID = re.compile(r"(?=.{1,64}\Z)(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*")
#: Where a peer does not say how long a PDU it takes.
_UNSTATED_PDU_BYTES = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedContext:
    """One presentation context that is asked for (PS3.8 9.3.2.2)."""

    context_id: int
    #: Empty where it is no UID.
    abstract_syntax: str
    #: Those that are UIDs.
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRequest:
    """What a peer asks for; titles without padding, and not necessarily titles."""

    speaks_our_version: bool
    called_ae_title: str
    calling_ae_title: str
    #: Titles and the field after them as they came: an A-ASSOCIATE-AC repeats them (PS3.8 9.3.3).
    repeated: bytes
    application_context: str
    contexts: tuple[ProposedContext, ...]
    longest_pdu_bytes: int

    def encode(self) -> bytes:
        """Return the A-ASSOCIATE-RQ that says the same in the plainest form."""
        titles = (one if is_title(one) else _NO_TITLE for one in (self.called_ae_title, self.calling_ae_title))
        body = _FIXED.pack(1, 0, *(one.ljust(16).encode("ascii") for one in titles), b"")
        body += _item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode("ascii"))
        for context in self.contexts:
            content = bytes((context.context_id, 0, 0, 0))
            content += _item(_ABSTRACT_SYNTAX, (context.abstract_syntax or APPLICATION_CONTEXT).encode("ascii"))
            for syntax in context.transfer_syntaxes or (_NO_TRANSFER_SYNTAX,):
                content += _item(_TRANSFER_SYNTAX, syntax.encode("ascii"))
            body += _item(_PRESENTATION_CONTEXT, content)
        # Of the other sub-items none changes our answer: we take no roles, no window and no identity (PS3.7 D.3.3).
        user = _item(_MAXIMUM_LENGTH, self.longest_pdu_bytes.to_bytes(4, "big"))
        body += _item(_USER_INFORMATION, user + _item(_IMPLEMENTATION_CLASS_UID, b"2.25.0"))
        return PDU_HEADER.pack(A_ASSOCIATE_RQ, len(body)) + body


def is_title(text: str) -> bool:
    """Whether a text can be the title of an application entity (PS3.5 6.2)."""
    return len(text) <= 16 and _TITLE.fullmatch(text) is not None


def printable(title: str) -> str:
    """Return a title that a peer made up, for a log: what is no printable ASCII stands there as its code."""
    return "".join(one if " " <= one <= "~" else f"\\x{ord(one):02x}" for one in title)


def titles_of(content: bytes) -> tuple[str, str]:
    """Return called and calling AE title of an A-ASSOCIATE-RQ, also of one that is damaged further on."""
    return _title(content[10:26]), _title(content[26:42])


def parse_request(content: bytes) -> AssociationRequest:
    """Read an A-ASSOCIATE-RQ; items of unknown types are skipped (PS3.8 9.3.1, D.2).

    Parameters
    ----------
    content
        The whole PDU, header included.

    Raises
    ------
    Invalid
        When its lengths contradict each other, or a context identifier is one that cannot be answered.
    """
    if len(content) < PDU_HEADER.size + _FIXED.size:
        raise Invalid("request_too_short")
    version = int.from_bytes(content[6:8], "big")
    called, calling = titles_of(content)
    application_context, longest_pdu_bytes = "", _UNSTATED_PDU_BYTES
    contexts: dict[int, ProposedContext] = {}
    for kind, value in _items(content[PDU_HEADER.size + _FIXED.size :]):
        if kind == _APPLICATION_CONTEXT:
            application_context = _uid(value)
        elif kind == _PRESENTATION_CONTEXT:
            context = _context(value)
            if contexts.setdefault(context.context_id, context) != context:
                raise Invalid("context_identifier_used_twice")
        elif kind == _USER_INFORMATION:
            longest_pdu_bytes = _longest_pdu_bytes(value, longest_pdu_bytes)
    if not contexts:
        raise Invalid("no_presentation_context")
    return AssociationRequest(
        # PS3.8 table 9-11: a bit for each version, and only the bit of the first is looked at.
        speaks_our_version=bool(version & 1),
        called_ae_title=called,
        calling_ae_title=calling,
        repeated=content[10:74],
        application_context=application_context,
        contexts=tuple(contexts.values()),
        longest_pdu_bytes=longest_pdu_bytes,
    )


def _context(content: bytes) -> ProposedContext:
    if len(content) < 4:
        raise Invalid("presentation_context_too_short")
    context_id, abstract_syntax, transfer_syntaxes = content[0], "", []
    if context_id % 2 == 0:
        # PS3.8 table 9-13: odd, between 1 and 255.
        raise Invalid("even_context_identifier")
    for kind, value in _items(content[4:]):
        if kind == _ABSTRACT_SYNTAX:
            abstract_syntax = _uid(value)
        elif kind == _TRANSFER_SYNTAX and _uid(value):
            transfer_syntaxes.append(_uid(value))
    return ProposedContext(
        context_id=context_id,
        abstract_syntax=abstract_syntax,
        transfer_syntaxes=tuple(dict.fromkeys(transfer_syntaxes)),
    )


def _longest_pdu_bytes(user_information: bytes, otherwise: int) -> int:
    for kind, value in _items(user_information):
        if kind == _MAXIMUM_LENGTH and len(value) == 4:
            return int.from_bytes(value, "big")
    return otherwise


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    # NULs after the last item are padding, unless they are the end of it.
    position, end = 0, len(content.rstrip(b"\0"))
    while position < end:
        if len(content) - position < _ITEM.size:
            raise Invalid("item_cut_off")
        kind, length = _ITEM.unpack_from(content, position)
        position += _ITEM.size
        if position + length > len(content):
            raise Invalid("item_longer_than_what_holds_it")
        yield kind, content[position : position + length]
        position += length


def _item(kind: int, content: bytes) -> bytes:
    return _ITEM.pack(kind, len(content)) + content


def _title(field: bytes) -> str:
    # Some write a text of C into the field: what follows its NUL is whatever lay there before.
    return field.split(b"\0", maxsplit=1)[0].decode("latin-1").strip(" ")


def _uid(value: bytes) -> str:
    text = value.rstrip(b"\0 ").decode("latin-1")
    return text if _UID.fullmatch(text) else ""
