"""What `wetread test-destination` says of destinations that work and of each way in which one does not."""

import socket
import threading
from collections.abc import Iterator

import pytest

from casebook.settings import DicomDestination, Hl7Destination, ResultStatus
from dicom_node.results.reachability import VERIFICATION, Reached, reach
from dicom_node.results.rejection_note import KEY_OBJECT_SELECTION
from dicom_node.tests.peers import Receiver, acknowledge, archive
from integration_tests.foreign import free_port


def pacs(port: int, *, host: str = "127.0.0.1", rejection_notes: bool = False) -> DicomDestination:
    return DicomDestination(
        name="pacs",
        kind="dicom",
        host=host,
        port=port,
        ae_title="PACS",
        timeout_s=1.0,
        rejection_notes=rejection_notes,
    )


def ris(port: int) -> Hl7Destination:
    return Hl7Destination(
        name="ris", kind="hl7", host="127.0.0.1", port=port, result_status=ResultStatus.STORED, timeout_s=1.0
    )


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of somebody who takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def say(reached: Reached, *, is_good: bool) -> str:
    assert reached.is_good is is_good
    return " ".join(reached.said)


def test_an_archive_that_takes_our_drafts_says_so_and_gets_none() -> None:
    with archive(0x0000, further_sop_class_uids=(VERIFICATION,)) as peer:
        said = say(reach(pacs(peer.port)), is_good=True)

    assert "C-ECHO: answered" in said
    assert "Enhanced SR Storage: accepted, in Explicit VR Little Endian, Implicit VR Little Endian" in said
    assert peer.data_sets == []


def test_an_archive_that_takes_no_sr_is_no_destination() -> None:
    with archive(0x0000, sop_class_uid=VERIFICATION) as peer:
        said = say(reach(pacs(peer.port)), is_good=False)

    assert "Enhanced SR Storage: not accepted" in said
    assert "enable Enhanced SR Storage there" in said


def test_an_archive_that_takes_no_rejection_notes_is_told_only_where_they_are_sent() -> None:
    with archive(0x0000) as peer:
        assert "not accepted, so not asked" in say(reach(pacs(peer.port)), is_good=True)
        said = say(reach(pacs(peer.port, rejection_notes=True)), is_good=False)
    with archive(0x0000, further_sop_class_uids=(KEY_OBJECT_SELECTION,)) as peer:
        say(reach(pacs(peer.port, rejection_notes=True)), is_good=True)

    assert "takes no rejection note" in said


def test_an_archive_that_knows_us_not_says_why() -> None:
    with archive(0x0000, called_ae_titles=True) as peer:
        said = say(reach(pacs(peer.port)), is_good=False)

    assert "rejects the association: it does not know the called AE title (result 1, source 1, reason 7" in said


def test_an_archive_that_knows_none_of_our_classes_says_so() -> None:
    with archive(0x0000, sop_class_uid="1.2.840.10008.5.1.4.1.1.88.11") as peer:
        said = say(reach(pacs(peer.port)), is_good=False)

    assert "not even Enhanced SR" in said


def test_one_that_takes_the_connection_and_says_nothing_is_told_from_one_that_is_off(silent: int) -> None:
    assert "gives no answer to the association request within 1 s" in say(reach(pacs(silent)), is_good=False)
    assert "nothing listens on this port" in say(reach(pacs(free_port())), is_good=False)
    assert "nothing listens on this port" in say(reach(ris(free_port())), is_good=False)


def test_a_name_that_nobody_knows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise socket.gaierror(-2, "told to fail")

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    assert "does not know pacs.hospital" in say(reach(pacs(104, host="pacs.hospital")), is_good=False)


def test_a_receiver_that_waits_for_a_message_is_good_and_gets_none() -> None:
    with Receiver(acknowledge) as receiver:
        said = say(reach(ris(receiver.port)), is_good=True)

    assert "None was sent" in said
    assert receiver.frames == []


def test_a_receiver_that_closes_at_once_does_not_want_us() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def close() -> None:
            listening.accept()[0].close()

        closing = threading.Thread(target=close)
        closing.start()
        said = say(reach(ris(listening.getsockname()[1])), is_good=False)
        closing.join()

    assert "closes it at once" in said
