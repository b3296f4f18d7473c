"""The step `send`: frozen bytes go to their destination, the same however often."""

import atexit
import hashlib
import io
import os
import threading

from pydicom import dcmread

from casebook.case import Case
from casebook.errors import InvalidObject, UnsafeOutput
from casebook.outcomes import Delivered, Held
from casebook.reading import Reading
from casebook.settings import DicomDestination, Hl7Destination, Settings
from dicom_node.hl7.mllp import Acknowledgement, MllpClient
from dicom_node.results import guards, identity, rejection_note, store_scu
from dicom_node.results.oru import CODECS
from dicom_node.results.sr_document import to_bytes


def send(case: Case, settings: Settings) -> Delivered | Held:
    """Pass the gate and the guards once more, then send the frozen bytes of the case.

    Parameters
    ----------
    case
        A send job; its subject is the name of the destination.
    settings
        Of this node.

    Returns
    -------
        The acknowledgement, or why a person has to decide.

    Raises
    ------
    PeerUnavailable
        When the destination may take it later.
    RejectedByPeer
        When it refused for good.
    SettingsError
        When the destination is not configured.
    UnsafeOutput, IdentityConflict
        When the frozen bytes are not a draft about this patient: nothing was sent.
    """
    destination = settings.destination(case.job.subject)
    if case.reading is None or case.output is None:
        raise InvalidObject("a send job without a reading or a frozen output")
    held = identity.examine(case, case.reading, case.output.kind)
    if held is not None:
        return held
    content = case.output.content
    if hashlib.sha256(content).hexdigest() != case.output.sha256:
        raise UnsafeOutput("the stored bytes are not those that were frozen")
    if isinstance(destination, DicomDestination) and case.output.kind == "sr":
        guards.check_sr(content, case.reading, case.output.object_uid)
        note = _rejection_note(content, case.reading) if destination.rejection_notes else b""
        stored = store_scu.store(content, destination)
        negotiated = stored.negotiated
        # The newer draft first: between the two there are two drafts, never none.
        if note:
            negotiated = negotiated | store_scu.store(note, destination).negotiated
        return Delivered(acknowledgement=f"0x{stored.status:04X}", negotiated=negotiated)
    if isinstance(destination, Hl7Destination) and case.output.kind == "oru":
        guards.check_oru(content, case.reading, destination, case.output.object_uid)
        return Delivered(acknowledgement=_exchange(content, case.output.object_uid, destination))
    raise UnsafeOutput("the frozen output is of another kind than its destination takes")


def _rejection_note(content: bytes, reading: Reading) -> bytes:
    """Return the note that withdraws what a frozen draft replaces; empty where it replaces nothing."""
    document = dcmread(io.BytesIO(content))
    built = rejection_note.build(document)
    if built is None:
        return b""
    note = to_bytes(built)
    guards.check_rejection_note(note, document, reading)
    return note


def _exchange(content: bytes, control_id: str, destination: Hl7Destination) -> str:
    if destination.connection == "per_message":
        with _client(destination) as client:
            answer = client.exchange(content, control_id)
    else:
        answer = _kept.exchange(content, control_id, destination)
    answer.require_acceptance()
    return answer.code


def _client(destination: Hl7Destination) -> MllpClient:
    return MllpClient(
        destination.host,
        destination.port,
        timeout_s=destination.timeout_s,
        encoding=CODECS[destination.charset],
    )


class _KeptConnections:
    """The persistent connections of this process: one a destination, one message at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[tuple[int, Hl7Destination], tuple[threading.Lock, MllpClient]] = {}

    def exchange(self, content: bytes, control_id: str, destination: Hl7Destination) -> Acknowledgement:
        # A forked child must not speak on its parent's connection, hence the process id.
        key = (os.getpid(), destination)
        with self._lock:
            turn, client = self._clients.setdefault(key, (threading.Lock(), _client(destination)))
        with turn:
            return client.exchange(content, control_id)

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for _, client in self._clients.values():
                client.close()
            self._clients.clear()


_kept = _KeptConnections()
atexit.register(_kept.close)
