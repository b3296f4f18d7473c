"""C-STORE against an archive that answers with each class of status."""

import socket

import pytest

from casebook.errors import PeerUnavailable, RejectedByPeer, UnsafeOutput
from casebook.settings import DicomDestination
from dicom_node.results.sr_document import ENHANCED_SR, build, to_bytes
from dicom_node.results.store_scu import judge, store
from dicom_node.results.tests import drafts
from dicom_node.tests.peers import archive

CONTENT = to_bytes(build(drafts.reading("zh-CN"), drafts.DEVICE, revision=1))
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


def destination(port: int, timeout_s: float = 3.0) -> DicomDestination:
    return DicomDestination(
        name="pacs", kind="dicom", host="127.0.0.1", port=port, ae_title="PACS", timeout_s=timeout_s
    )


STORED = (0x0000, 0xB000, 0xB006, 0xB007, 0x0111, 0x0001, 0x0107)
BUSY = (0xA700, 0xA701, 0xA7FF, 0x0110, 0x0213)
REFUSED = (0xA900, 0xA9FF, 0xC000, 0xC123, 0xCFFF, 0x0122, 0x0124, 0x0117, 0x0112, 0x0211)


def test_a_status_that_says_stored_ends_the_send() -> None:
    with archive(*STORED) as peer:
        answered = [store(CONTENT, destination(peer.port)) for _ in STORED]

    assert [one.status for one in answered] == list(STORED)
    assert {str(one.negotiated) for one in answered} == {str({ENHANCED_SR: (EXPLICIT, IMPLICIT)})}
    assert all(CONTENT.endswith(one) for one in peer.data_sets)
    assert peer.transfer_syntaxes == [EXPLICIT] * len(STORED)


def test_a_busy_archive_may_take_it_later() -> None:
    with archive(*BUSY) as peer:
        for status in BUSY:
            with pytest.raises(PeerUnavailable, match=f"{status:04X}"):
                store(CONTENT, destination(peer.port))


def test_a_refusal_is_for_good() -> None:
    with archive(*REFUSED) as peer:
        for status in REFUSED:
            with pytest.raises(RejectedByPeer, match=f"{status:04X}"):
                store(CONTENT, destination(peer.port))


def test_every_status_means_stored_later_or_never() -> None:
    verdicts = {"stored": 0, "later": 0, "never": 0}
    for status in range(0x10000):
        try:
            assert judge(status, "pacs") == status
            verdicts["stored"] += 1
        except PeerUnavailable:
            verdicts["later"] += 1
        except RejectedByPeer:
            verdicts["never"] += 1

    assert verdicts == {"stored": 0x1000 + 5, "later": 0x100 + 2, "never": 0x10000 - 0x1000 - 0x100 - 7}


def test_an_archive_that_knows_only_the_default_encoding_gets_the_same_values() -> None:
    with archive(0x0000, transfer_syntaxes=(IMPLICIT,)) as peer:
        store(CONTENT, destination(peer.port))

    assert peer.transfer_syntaxes == [IMPLICIT]
    assert "王^小东".encode() in peer.data_sets[0]


def test_an_archive_that_takes_no_enhanced_sr_refuses_for_good() -> None:
    basic_text_sr = "1.2.840.10008.5.1.4.1.1.88.11"

    with archive(0x0000, sop_class_uid=basic_text_sr) as peer, pytest.raises(RejectedByPeer, match="Enhanced SR"):
        store(CONTENT, destination(peer.port))


def test_a_rejected_association_may_be_accepted_later() -> None:
    with (
        archive(0x0000, called_ae_titles=True) as peer,
        pytest.raises(PeerUnavailable, match=r"does not know the called AE title \(result 1, source 1, reason 7"),
    ):
        store(CONTENT, destination(peer.port))


def test_an_association_that_is_aborted_may_work_later() -> None:
    with archive(0x0000, ends="abort") as peer, pytest.raises(PeerUnavailable):
        store(CONTENT, destination(peer.port))


def test_an_archive_that_does_not_answer_may_do_so_later() -> None:
    with archive(0x0000, ends="silence") as peer, pytest.raises(PeerUnavailable, match="did not answer"):
        store(CONTENT, destination(peer.port, timeout_s=0.5))


def test_bytes_that_would_go_out_otherwise_are_not_sent() -> None:
    with archive(0x0000) as peer, pytest.raises(UnsafeOutput):
        # An element out of its order is written in its order.
        store(CONTENT + b"\x08\x00\x70\x00LO\x04\x00else", destination(peer.port))

    assert not peer.associations


@pytest.mark.parametrize("error", [socket.gaierror(-3, "told to fail"), UnicodeError("told to fail")])
def test_a_host_that_cannot_be_resolved_may_be_found_later(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    with pytest.raises(PeerUnavailable, match="host of destination pacs"):
        store(CONTENT, destination(104))
