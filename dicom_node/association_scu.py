"""What every association we ask for needs, beyond what pynetdicom does."""

from pynetdicom import _config
from pynetdicom.association import Association


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
