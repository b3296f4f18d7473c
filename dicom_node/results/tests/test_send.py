"""`send` sends frozen bytes or nothing."""

import hashlib
from dataclasses import replace

import pytest

from casebook.case import Case
from casebook.errors import IdentityConflict, PeerUnavailable, UnsafeOutput, WetreadError
from casebook.outcomes import Delivered, Held, Prepared
from dicom_node.results.prepare import prepare
from dicom_node.results.send import send
from dicom_node.results.sr_document import ENHANCED_SR
from dicom_node.results.tests import drafts
from dicom_node.tests.peers import Receiver, acknowledge, archive


def send_case(subject: str) -> Case:
    outcome = prepare(drafts.case(subject), drafts.settings())
    assert isinstance(outcome, Prepared)
    return drafts.case(subject, prepared=outcome)


def test_an_sr_reaches_the_archive_byte_for_byte() -> None:
    ready = send_case("pacs")
    assert ready.output is not None

    with archive(0x0000) as peer:
        outcome = send(ready, drafts.settings(port=peer.port))

    assert outcome == Delivered(
        acknowledgement="0x0000", negotiated={ENHANCED_SR: ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")}
    )
    assert ready.output.content.endswith(peer.data_sets[0])
    assert len(peer.data_sets[0]) > 3_000


def test_an_oru_reaches_the_ris_byte_for_byte() -> None:
    ready = send_case("ris")
    assert ready.output is not None

    with Receiver(acknowledge) as peer:
        outcome = send(ready, drafts.settings(port=peer.port))

    assert outcome == Delivered(acknowledgement="AA")
    assert peer.frames == [ready.output.content]


def test_a_second_send_sends_the_same_bytes() -> None:
    ready = send_case("ris")

    with Receiver(acknowledge) as peer:
        for _ in range(2):
            send(ready, drafts.settings(port=peer.port))

    assert peer.frames[0] == peer.frames[1]


def test_a_persistent_connection_is_used_again() -> None:
    ready = send_case("ris")

    with Receiver(acknowledge) as peer:
        settings = drafts.settings(port=peer.port, connection="persistent")
        for _ in range(3):
            send(ready, settings)
        connections = peer.connections

    assert connections == 1
    assert len(peer.frames) == 3


@pytest.mark.parametrize("subject", ["pacs", "ris"])
def test_a_gate_that_closes_after_the_freeze_holds_the_send(subject: str) -> None:
    corrected = drafts.instance(header=drafts.header(patient_id="P0009999"))

    with Receiver(acknowledge) as peer:
        outcome = send(replace(send_case(subject), instances=(corrected,)), drafts.settings(port=peer.port))

    assert isinstance(outcome, Held)
    assert outcome.reason == "identity_changed"
    assert not peer.connections


@pytest.mark.parametrize(
    ("subject", "old", "new", "error"),
    [
        ("pacs", b"UNVERIFIED", b"VERIFIED  ", UnsafeOutput),
        ("pacs", b"P0001234", b"P0001235", IdentityConflict),
        ("pacs", b"AI DRAFT - NOT", b"AI REPORT- NOW", UnsafeOutput),
        ("ris", b"||||||R|||", b"||||||F|||", UnsafeOutput),
        ("ris", b"P0001234", b"P0001235", IdentityConflict),
        ("ris", b"AI DRAFT - NOT", b"AI REPORT- NOW", UnsafeOutput),
    ],
)
def test_bytes_that_are_no_draft_of_this_patient_are_not_sent(
    subject: str, old: bytes, new: bytes, error: type[WetreadError]
) -> None:
    ready = send_case(subject)
    assert ready.output is not None
    content = ready.output.content.replace(old, new)
    assert content != ready.output.content
    forged = replace(ready.output, content=content, sha256=hashlib.sha256(content).hexdigest())

    with Receiver(acknowledge) as peer, pytest.raises(error):
        send(replace(ready, output=forged), drafts.settings(port=peer.port))

    assert not peer.connections


def test_bytes_that_changed_in_the_store_are_not_sent() -> None:
    ready = send_case("ris")
    assert ready.output is not None
    changed = replace(ready.output, content=ready.output.content.replace(b"normal", b"normaL"))

    with Receiver(acknowledge) as peer, pytest.raises(UnsafeOutput, match="those that were frozen"):
        send(replace(ready, output=changed), drafts.settings(port=peer.port))

    assert not peer.connections


def test_an_output_of_another_kind_than_its_destination_is_not_sent() -> None:
    wrong = replace(send_case("pacs"), job=send_case("ris").job)

    with pytest.raises(UnsafeOutput, match="another kind"):
        send(wrong, drafts.settings())


# pynetdicom leaves a socket whose connection was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("subject", ["pacs", "ris"])
def test_a_destination_that_refuses_connections_may_take_it_later(subject: str) -> None:
    with Receiver(acknowledge) as peer:
        port = peer.port

    with pytest.raises(PeerUnavailable):
        send(send_case(subject), drafts.settings(port=port))
