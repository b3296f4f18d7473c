"""Sends one data set as it is, however broken: what no DICOM library would let out of its hands."""

from pydicom.uid import ExplicitVRLittleEndian

from benchmarks.raw_sender import Association, Refused, associate_request, data_pdus, store_command
from integration_tests.node import AE_TITLE, SENDER

#: Explicit VR Little Endian.
EXPLICIT = ExplicitVRLittleEndian
#: The sender gave the association up in the middle of the object.
GIVEN_UP = "given up"


def send(
    port: int,
    data_set: bytes,
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    called: str = AE_TITLE,
    calling: str = SENDER,
    give_up: bool = False,
) -> int | str:
    """Send one object over an association of its own.

    Parameters
    ----------
    data_set
        Goes over the wire byte for byte.
    sop_class_uid, sop_instance_uid, transfer_syntax_uid
        What the association and the command say of it; the data set may say something else.
    called, calling
        AE titles.
    give_up
        Close the connection after half of the object.

    Returns
    -------
        The DIMSE status, or in words how the association ended instead.
    """
    request = associate_request(called=called, calling=calling, contexts=[(sop_class_uid, (transfer_syntax_uid,))])
    try:
        association = Association(port, request=request, timeout_s=20.0)
    except Refused as refusal:
        return str(refusal)
    if association.results.get(1) != 0:
        association.release()
        return "no presentation context"
    longest = association.longest_pdu_bytes
    stream = b"".join(
        [
            *data_pdus(1, store_command(sop_class_uid, sop_instance_uid, 1), command=True, longest_pdu_bytes=longest),
            *data_pdus(1, data_set, command=False, longest_pdu_bytes=longest),
        ]
    )
    if give_up:
        association.socket.sendall(stream[: len(stream) // 2])
        association.socket.close()
        return GIVEN_UP
    try:
        association.socket.sendall(stream)
        status = association.answer()
    except (Refused, OSError) as refusal:
        association.socket.close()
        return str(refusal) or type(refusal).__name__
    association.release()
    return status
