"""Whoever asks for an association gets an answer in time, however odd the request, and leaves nothing behind."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.raw_sender import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    KINDS,
    LOOPBACK,
    Association,
    Refused,
    associate_request,
)
from casebook.settings import ListenerSettings
from integration_tests import foreign
from integration_tests.listener_fuzz import fuzz_requests
from integration_tests.listener_process import ListenerProcess, Resources, listener, stores_one

ACSE_TIMEOUT_S = 3.0
PROCESSES = ListenerSettings().processes
#: What is right for each real request: PDU type, and of a rejection result, source and reason (PS3.8 table 9-21).
RIGHT = {
    "assoc_called_nul": (ASSOCIATE_AC, None),
    "assoc_calling_nul": (ASSOCIATE_AC, None),
    "assoc_calling_blank": (ASSOCIATE_RJ, (1, 1, 3)),
    "assoc_empty_transfer": (ASSOCIATE_AC, None),
    "assoc_even_context_id": (ABORT, None),
    "assoc_long_version": (ASSOCIATE_AC, None),
    "assoc_unknown_item": (ASSOCIATE_AC, None),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListenerProcess]:
    folder = tmp_path_factory.mktemp("negotiation")
    options = {"acse_timeout_s": ACSE_TIMEOUT_S, "allowed_calling_ae_titles": ["BUGS", "EFILM", "CT01"]}
    with listener(folder / "data", options=options) as process:
        for number in range(PROCESSES):
            assert stores_one(process.port, number)
        yield process


@pytest.fixture
def base(running: ListenerProcess) -> Iterator[Resources]:
    """What the listener holds at rest; afterwards it must hold no more, and still receive."""
    before = running.wait_until_idle(Resources(threads=3 + 5 * PROCESSES, descriptors=50, rss_bytes=0))
    yield before
    running.wait_until_idle(before)
    assert stores_one(running.port, 2)


def answer(port: int, request: bytes) -> bytes:
    """Return the first PDU that answers, while our side stays open; fails when none comes within the ACSE time-out."""
    with socket.create_connection((LOOPBACK, port), timeout=ACSE_TIMEOUT_S) as connection:
        connection.sendall(request)
        said = b""
        while len(said) < 6 or len(said) < 6 + int.from_bytes(said[2:6], "big"):
            part = connection.recv(65536)
            assert part, "closed without an answer"
            said += part
        return said


def logged(running: ListenerProcess, event: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


@pytest.mark.corpus
@pytest.mark.parametrize("name", RIGHT)
def test_a_request_as_a_real_device_sends_it_gets_its_answer_in_time(
    running: ListenerProcess, base: Resources, corpus: Path, name: str
) -> None:
    request = (corpus / "cases" / name / "a-associate-rq.bin").read_bytes()
    kind, rejection = RIGHT[name]

    said = answer(running.port, request)

    assert said[0] == kind
    if kind == ASSOCIATE_AC:
        # PS3.8 9.3.3: titles are repeated as they came.
        assert said[10:42] == request[10:42]
    if rejection is not None:
        assert tuple(said[7:10]) == rejection
        found = logged(running, "association_rejected")[-1]
        assert (found["peer"], found["ae_title"], found["called_ae_title"]) == (LOOPBACK, "", "WETREAD")
        assert found["reason"] == "calling_ae_title_not_recognized"
    if kind == ABORT:
        found = logged(running, "association_invalid")[-1]
        assert (found["peer"], found["ae_title"], found["called_ae_title"]) == (LOOPBACK, "BUGS", "WETREAD")
        assert found["reason"] == "even_context_identifier"


def test_many_contexts_without_a_transfer_syntax_keep_nothing(running: ListenerProcess, base: Resources) -> None:
    request = associate_request(contexts=[(KINDS["ct"].sop_class_uid, [])])
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            association = Association(running.port, request=request, timeout_s=ACSE_TIMEOUT_S)
            stack.callback(association.socket.close)
            # PS3.8 table 9-18, transfer syntaxes not supported.
            assert association.results == {1: 4}


@pytest.mark.parametrize("called", ["放射科", "R\u00f6ntgen", ""])
def test_a_called_title_that_is_none_is_rejected_and_logged(
    running: ListenerProcess, base: Resources, called: str
) -> None:
    request = bytearray(associate_request())
    request[10:26] = called.encode().ljust(16)

    said = answer(running.port, bytes(request))

    assert (said[0], *said[7:10]) == (ASSOCIATE_RJ, 1, 1, 7)
    found = logged(running, "association_rejected")[-1]
    assert found["called_ae_title"].isascii()
    assert found["ae_title"] == "CT01"


def test_one_address_with_a_hundred_titles_leaves_room_for_others(tmp_path: Path) -> None:
    options = {"max_associations": 12, "max_associations_per_address": 8}
    with listener(tmp_path / "data", options=options) as crowded, contextlib.ExitStack() as stack:
        for number in range(8):
            stack.callback(crowded.associate(calling=f"CT{number}").socket.close)
        with pytest.raises(Refused, match="result 2 source 3 reason 2"):
            crowded.associate(calling="CT99")
        assert logged(crowded, "association_rejected")[-1]["reason"] == "local_limit_of_address_exceeded"

        other = socket.create_connection((LOOPBACK, crowded.port), timeout=5.0, source_address=("127.0.0.2", 0))
        association = Association(crowded.port, connection=other)
        assert association.store(KINDS["small"], 1) == 0
        association.release()


def p95_of_another_address(crowded: ListenerProcess, count: int = 60) -> float:
    """Return within which time another address has its association and its object stored, in 95 of 100 tries."""
    taken_s = []
    for number in range(count):
        began = time.monotonic()
        other = socket.create_connection((LOOPBACK, crowded.port), timeout=5.0, source_address=("127.0.0.2", 0))
        association = Association(crowded.port, connection=other)
        assert association.store(KINDS["small"], number) == 0
        association.release()
        taken_s.append(time.monotonic() - began)
    return sorted(taken_s)[int(0.95 * count)]


def test_half_requests_of_one_address_take_no_thread_and_keep_nobody_else_waiting(tmp_path: Path) -> None:
    # Long enough that all of them are there all the time.
    with listener(tmp_path / "data", options={"acse_timeout_s": 120.0}) as crowded, contextlib.ExitStack() as stack:
        assert all(stores_one(crowded.port, number) for number in range(PROCESSES))
        before = crowded.wait_until_idle(Resources(threads=3 + 5 * PROCESSES, descriptors=50, rss_bytes=0))
        halves = []
        for _ in range(200):
            halves.append(stack.enter_context(socket.create_connection((LOOPBACK, crowded.port), timeout=5.0)))
            with contextlib.suppress(OSError):
                halves[-1].sendall(associate_request()[:40])

        assert p95_of_another_address(crowded) <= 1.0
        foreign.wait_until(
            lambda: crowded.resources().threads <= before.threads,
            timeout_s=10.0,
            what="the end of the associations of the other address",
        )
        # Most were closed: beyond the limit of an address nobody is kept.
        assert (
            crowded.resources().descriptors - before.descriptors <= 2 * ListenerSettings().max_associations_per_address
        )

        for one in halves:
            one.close()
        crowded.wait_until_idle(before)


def test_a_hundred_titles_of_one_address_keep_nobody_else_waiting(tmp_path: Path) -> None:
    with listener(tmp_path / "data") as crowded, contextlib.ExitStack() as stack:
        accepted = 0
        for number in range(100):
            with contextlib.suppress(Refused, OSError):
                stack.callback(crowded.associate(calling=f"CT{number}").socket.close)
                accepted += 1

        assert accepted == ListenerSettings().max_associations_per_address
        assert p95_of_another_address(crowded) <= 1.0


@pytest.mark.slow
def test_two_hundred_damaged_requests_are_each_answered_in_time(tmp_path: Path) -> None:
    outcome = fuzz_requests(tmp_path, 200)

    assert outcome.is_clean, outcome
    assert outcome.requests == 200
    # They are damaged in ways that matter, and not beyond all reading.
    assert outcome.accepted >= 20
    assert outcome.rejected >= 10
    assert outcome.aborted >= 20
