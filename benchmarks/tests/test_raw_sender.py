"""What the raw sender encodes is what pynetdicom and pydicom read."""

from io import BytesIO

import pytest
from pydicom import dcmread
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.pdu import A_ASSOCIATE_RQ, P_DATA_TF

from benchmarks.raw_sender import (
    APPLICATION_CONTEXT,
    KINDS,
    P_DATA,
    SOP_CLASSES,
    Refused,
    _plain_streams,
    associate_request,
    command_set,
    context_of,
    data_pdus,
    header,
    instance_uid,
    items,
    noise,
    status_of,
    store_stream,
)


def _pdus(stream: bytes) -> list[bytes]:
    found = []
    while stream:
        length = 6 + int.from_bytes(stream[2:6], "big")
        found.append(stream[:length])
        stream = stream[length:]
    return found


def test_an_association_request_is_read_by_pynetdicom() -> None:
    request = A_ASSOCIATE_RQ()
    request.decode(associate_request(called="WETREAD", calling="CT01"))

    assert (request.called_ae_title, request.calling_ae_title) == ("WETREAD", "CT01")
    assert request.application_context_name == APPLICATION_CONTEXT
    assert [context.abstract_syntax for context in request.presentation_context] == list(SOP_CLASSES)
    assert [context.context_id for context in request.presentation_context] == [1, 3, 5, 7, 9]
    assert request.user_information is not None
    assert request.user_information.maximum_length == 131072


@pytest.mark.parametrize("longest_pdu_bytes", [0, 4096, 16384, 262144])
def test_a_store_stream_holds_a_readable_object_in_pdus_no_longer_than_allowed(longest_pdu_bytes: int) -> None:
    kind = KINDS["small"]
    stream = store_stream(kind, 123, message_id=9, longest_pdu_bytes=longest_pdu_bytes)

    pdus = _pdus(stream)
    message, data_set = C_STORE_RQ(), b""
    for one in pdus:
        decoded = P_DATA_TF()
        decoded.decode(one)
        assert one[0] == P_DATA
        assert len(one) - 6 <= (longest_pdu_bytes or 131072)
        primitive = decoded.to_primitive()
        message.decode_msg(primitive)
        data_set += b"".join(value[1:] for _, value in primitive.presentation_data_value_list if not value[0] & 1)
    read = dcmread(BytesIO(data_set), force=True)

    assert message.command_set.AffectedSOPInstanceUID == instance_uid(123)
    assert message.command_set.MessageID == 9
    assert read.SOPInstanceUID == instance_uid(123)
    assert read.SOPClassUID == kind.sop_class_uid
    assert (read.Rows, read.Columns, len(read.PixelData)) == (100, 100, 20000)
    assert len(data_set) == len(header(kind, 123)) + kind.pixel_bytes


def test_objects_have_the_sizes_that_are_compared() -> None:
    sizes = {name: kind.pixel_bytes for name, kind in KINDS.items()}

    assert sizes == {"ct": 524288, "dx": 15120000, "small": 20000, "large": 2**30}


def test_objects_of_different_numbers_are_different_instances_of_one_study() -> None:
    first, second = (dcmread(BytesIO(header(KINDS["ct"], number)[:-12]), force=True) for number in (200, 201))

    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID


def test_an_empty_data_set_still_has_a_last_fragment() -> None:
    head, content = data_pdus(context_of(SOP_CLASSES[1]), b"", command=False, longest_pdu_bytes=16384)

    assert content == b""
    assert head[-1] == 2


def test_a_status_is_found_in_a_response_and_missed_in_none() -> None:
    assert status_of(command_set([(0x0100, b"\x01\x80"), (0x0900, b"\x00\xa7")])) == 0xA700
    with pytest.raises(Refused):
        status_of(command_set([(0x0100, b"\x01\x80")]))


def test_items_are_taken_apart_in_their_order() -> None:
    assert list(items(b"\x51\0\0\x01a\x52\0\0\0")) == [(0x51, b"a"), (0x52, b"")]


def test_noise_repeats_and_has_its_length() -> None:
    assert noise(3 * 2**20 + 5) == noise(3 * 2**20 + 5)
    assert len(noise(3 * 2**20 + 5)) == 3 * 2**20 + 5
    assert noise(0) == b""


def test_a_plain_stream_begins_with_the_length_of_its_own_object() -> None:
    # The hundredth instance number has a digit more than the first.
    for stream in _plain_streams(KINDS["small"], count=101, first_number=0):
        assert int.from_bytes(stream[:8], "big") == len(stream) - 8
