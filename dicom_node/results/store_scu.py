"""C-STORE of frozen bytes to an archive (PS3.4 annex B), and what its answers mean for the job."""

import io
from dataclasses import dataclass

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.presentation import build_context

from casebook.errors import PeerUnavailable, RejectedByPeer, UnsafeOutput
from casebook.logs import get_logger
from casebook.settings import DicomDestination
from dicom_node.association_scu import accepted, associate, why_rejected
from dicom_node.results.rejection_note import KEY_OBJECT_SELECTION
from dicom_node.results.sr_document import ENHANCED_SR

_log = get_logger(__name__)

_SUCCESS = 0x0000
#: PS3.7 C.4.2: stored, with a remark. 0x0001 and 0x0107, 0x0116 are general warnings, Bxxx those of storage.
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
#: PS3.7 C.5.6 "Duplicate SOP Instance". Our UIDs are derived from the bytes, so it can only hold these bytes.
_ALREADY_STORED = 0x0111
#: PS3.7 C.5: processing failure, resource limitation. A7xx of PS3.4 B.2.3 (out of resources) is the usual one.
_BUSY = frozenset({0x0110, 0x0213})

#: What is missing at an archive that accepts no presentation context, and what to do.
_REFUSED = {
    ENHANCED_SR: "Enhanced SR (no presentation context was accepted)",
    KEY_OBJECT_SELECTION: (
        "rejection notes (Key Object Selection); the draft itself was delivered. Take rejection_notes out of the "
        "settings of this destination, then retry"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An archive has the object."""

    #: DIMSE status with which it took it: 0x0000, a warning, or 0x0111 where it had it already.
    status: int
    #: What it accepted in this association: SOP Class UID to transfer syntaxes.
    negotiated: dict[str, tuple[str, ...]]


def store(content: bytes, destination: DicomDestination) -> Stored:
    """Store one DICOM file at the destination.

    Parameters
    ----------
    content
        The exact bytes of the file; the data set goes out as it stands in them.
    destination
        Where to, and how long to wait.

    Raises
    ------
    PeerUnavailable
        When there is no association, no answer, or the archive is busy.
    RejectedByPeer
        When the archive refuses this object for good.
    UnsafeOutput
        When the bytes that would go out are not the frozen ones.
    """
    ds = dcmread(io.BytesIO(content))
    # pynetdicom encodes again what it sends; the promise is that these are the frozen bytes.
    encoded = encode(ds, is_implicit_vr=False, is_little_endian=True)
    if encoded is None or not content.endswith(encoded):
        raise UnsafeOutput("the data set to send is not the frozen one")
    association = _associate(destination, str(ds.SOPClassUID))
    try:
        status = _send(association, ds)
    finally:
        if association.is_established:
            association.release()
    return Stored(status=judge(status, destination.name), negotiated=accepted(association))


def judge(status: int, destination: str) -> int:
    """Return a C-STORE status that means the archive has the object (PS3.4 B.2.3, PS3.7 C).

    Parameters
    ----------
    status
        As answered.
    destination
        Its name, for the log.

    Raises
    ------
    PeerUnavailable
        When the archive is out of resources or failed for the moment.
    RejectedByPeer
        For every other failure: the same bytes would be refused again.
    """
    if status in {_SUCCESS, _ALREADY_STORED}:
        return status
    if status in _WARNINGS or status >> 12 == 0xB:
        _log.warning("stored_with_warning", destination=destination, status=f"0x{status:04X}")
        return status
    if status in _BUSY or status >> 8 == 0xA7:
        raise PeerUnavailable(f"the archive answered 0x{status:04X}, out of resources or failed for the moment")
    raise RejectedByPeer(f"the archive refused the object with status 0x{status:04X}")


def _associate(destination: DicomDestination, sop_class_uid: str) -> Association:
    # Two contexts, so that the answer says which of both it takes: explicit goes out byte for byte; implicit is
    # the default every archive has to know (PS3.5 10.1) and carries the same values in the other encoding.
    contexts = [build_context(sop_class_uid, one) for one in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)]
    association = associate(
        destination.host,
        destination.port,
        called=destination.ae_title,
        calling=destination.calling_ae_title,
        timeout_s=destination.timeout_s,
        contexts=contexts,
        name=f"the host of destination {destination.name}",
    )
    if association.is_established:
        return association
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        raise PeerUnavailable(f"the archive rejected the association: {why_rejected(answer)}")
    if answer is not None and not association.accepted_contexts:
        raise RejectedByPeer(f"the archive accepts no {_REFUSED.get(sop_class_uid, 'object of this kind')}")
    raise PeerUnavailable("the archive did not answer the association request")


def _send(association: Association, ds: Dataset) -> int:
    try:
        answer = association.send_c_store(ds)
    except RuntimeError:
        raise PeerUnavailable("the association ended before the object was sent") from None
    # An empty answer: the peer aborted, closed the connection or stayed silent.
    if "Status" not in answer:
        raise PeerUnavailable("the archive did not answer the C-STORE request")
    return int(answer.Status)
