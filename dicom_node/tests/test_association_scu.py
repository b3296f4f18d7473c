"""Associations we ask for: an answer reaches the caller who waits for it, on whatever descriptor."""

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom._globals import MODE_REQUESTOR
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.presentation import build_context

from casebook.errors import PeerUnavailable
from dicom_node.association_scu import associate, keep_answers
from dicom_node.tests.receiving import receiving
from dicom_node.tests.wire import CT, VERIFICATION, Wire, associate_rq, data_set


def test_the_thread_of_the_association_takes_no_answer_from_the_caller() -> None:
    association = keep_answers(Association(AE(), MODE_REQUESTOR))
    answer = C_ECHO()
    association.dimse.msg_queue.put((1, answer))

    assert association.dimse.get_msg(block=False) == (None, None)
    assert association.dimse.get_msg(block=True) == (1, answer)


@pytest.fixture
def only_high_descriptors() -> Iterator[None]:
    """Every descriptor below 1100 is taken, as in a process that serves a thousand connections."""
    given, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))
    with ExitStack() as stack:
        while (descriptor := os.open("/dev/null", os.O_RDONLY)) < 1100:
            stack.callback(os.close, descriptor)
        os.close(descriptor)
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (given, most))


def test_sending_and_receiving_work_on_descriptors_above_1023(tmp_path: Path, only_high_descriptors: None) -> None:
    with receiving(tmp_path) as running:
        association = associate(
            "127.0.0.1",
            running.port,
            called="WETREAD",
            calling="SENDER",
            timeout_s=5.0,
            contexts=[build_context(VERIFICATION)],
            name="our own listener",
        )
        assert association.is_established
        assert association.dul.socket is not None
        assert association.dul.socket.socket is not None
        assert association.dul.socket.socket.fileno() > 1023
        assert association.send_c_echo().Status == 0x0000
        association.release()
        with Wire(running.port, associate_rq()) as wire:
            assert wire.socket.fileno() > 1023
            assert wire.store(data_set(pixels=bytes(3_000_000)), "1.2.3.4") == 0
            wire.release()


def test_a_host_without_an_address_is_told_by_its_name() -> None:
    with pytest.raises(PeerUnavailable, match=r"^the archive X cannot be resolved or reached$"):
        associate(
            "no-such-host.invalid",
            104,
            called="X",
            calling="Y",
            timeout_s=1.0,
            contexts=[build_context(CT)],
            name="the archive X",
        )
