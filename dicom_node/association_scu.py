"""What every association we ask for needs, beyond what pynetdicom does."""

from typing import Any

from pynetdicom import _config
from pynetdicom.association import Association

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
