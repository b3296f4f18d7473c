"""PDUs and DIMSE commands as bytes: headers, commands, the answers to C-STORE and C-ECHO (PS3.8 9.3, PS3.7 9.3)."""

import struct

from dicom_node.receive.inflow import Invalid

A_ASSOCIATE_RQ, P_DATA_TF = 0x01, 0x04
#: Service provider, no reason given (PS3.8 9.3.8).
ABORT = bytes((0x07, 0, 0, 0, 0, 4, 0, 0, 2, 0))
#: Of a PDU that is not P-DATA, header included: far above anything real.
MAX_CONTROL_BYTES = 1 << 20
KNOWN_PDU_TYPES = frozenset(range(0x01, 0x08))
PDU_HEADER = struct.Struct(">BxI")
PDV_HEADER = struct.Struct(">IBB")
_COMMAND_ELEMENT = struct.Struct("<HHI")
# PS3.7 E.1: elements of group 0000.
AFFECTED_SOP_CLASS_UID = 0x0002
_REQUESTED_SOP_CLASS_UID = 0x0003
COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_RESPONDED_TO = 0x0120
COMMAND_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
AFFECTED_SOP_INSTANCE_UID = 0x1000
_REQUESTED_SOP_INSTANCE_UID = 0x1001
NO_DATA_SET = 0x0101
C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF
#: C-STORE, C-GET, C-FIND, C-MOVE, C-ECHO; N-EVENT-REPORT, N-GET, N-SET, N-ACTION, N-CREATE, N-DELETE (PS3.7 E.1).
REQUESTS = frozenset({C_STORE_RQ, 0x0010, 0x0020, 0x0021, C_ECHO_RQ, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150})
#: What turns the command field of a request into that of its response.
RESPONSE = 0x8000


def parse_command(raw: bytearray) -> dict[int, bytes]:
    """Read a command set: implicit VR little endian, group 0000 only (PS3.7 6.3.1)."""
    found: dict[int, bytes] = {}
    position = 0
    while position + _COMMAND_ELEMENT.size <= len(raw):
        group, element, length = _COMMAND_ELEMENT.unpack_from(raw, position)
        position += _COMMAND_ELEMENT.size
        if group != 0 or position + length > len(raw):
            raise Invalid("command_damaged")
        found[element] = bytes(raw[position : position + length])
        position += length
    if COMMAND_FIELD not in found:
        raise Invalid("command_without_its_field")
    return found


def number_of(command: dict[int, bytes], element: int) -> int:
    """Return the value of an element of VR US; 0 where it is absent."""
    return int.from_bytes(command.get(element, b"")[:2], "little")


def uid_of(command: dict[int, bytes], element: int) -> str:
    """Return the value of an element of VR UI; empty where it is absent."""
    return command.get(element, b"").rstrip(b"\x00 ").decode("ascii", "replace")


def build_response(context_id: int, field: int, request: dict[int, bytes], status: int) -> bytes:
    """Build the P-DATA-TF PDU of a response without a data set (PS3.7 9.3.1.2, 9.3.5.2, 10.3)."""
    elements: list[tuple[int, bytes]] = [
        # DIMSE-N requests an instance, and the response names the same one as affected.
        (AFFECTED_SOP_CLASS_UID, request.get(AFFECTED_SOP_CLASS_UID) or request.get(_REQUESTED_SOP_CLASS_UID, b"")),
        (COMMAND_FIELD, field.to_bytes(2, "little")),
        (_MESSAGE_ID_RESPONDED_TO, request.get(_MESSAGE_ID, b"\x00\x00")[:2]),
        (COMMAND_DATA_SET_TYPE, NO_DATA_SET.to_bytes(2, "little")),
        (_STATUS, status.to_bytes(2, "little")),
        (
            AFFECTED_SOP_INSTANCE_UID,
            request.get(AFFECTED_SOP_INSTANCE_UID) or request.get(_REQUESTED_SOP_INSTANCE_UID, b""),
        ),
    ]
    # PS3.5 9.1: at most 64 characters, padded to an even length; what is neither is not repeated.
    body = b"".join(
        _COMMAND_ELEMENT.pack(0, element, len(value)) + value
        for element, value in elements
        if 0 < len(value) <= 64 and len(value) % 2 == 0
    )
    command = _COMMAND_ELEMENT.pack(0, 0, 4) + len(body).to_bytes(4, "little") + body
    fragment = PDV_HEADER.pack(len(command) + 2, context_id, 0x03) + command
    return PDU_HEADER.pack(P_DATA_TF, len(fragment)) + fragment
