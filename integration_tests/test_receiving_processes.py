"""Several processes receive behind one port: one set of limits, one index, one fate."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text

from benchmarks.raw_sender import KINDS, Association, Refused, instance_uid, store_stream
from casebook.study import InstanceStatus
from integration_tests import foreign
from integration_tests.listener_process import (
    ListenerProcess,
    finished,
    listener,
    rows,
    stores_one,
    temporaries,
    wait_for_rows,
)

SMALL, CT = KINDS["small"], KINDS["ct"]
PROCESSES = 3


@pytest.fixture
def running(tmp_path: Path) -> Iterator[ListenerProcess]:
    with listener(tmp_path / "data", options={"processes": PROCESSES, "max_associations": 4}) as process:
        yield process


def associations_of(child: psutil.Process, port: int) -> int:
    held = [one for one in child.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]
    return sum(one.laddr.port == port for one in held)


def opened(running: ListenerProcess, stack: ExitStack, count: int) -> list[Association]:
    held = [running.associate(calling=f"CT{number}") for number in range(count)]
    for association in held:
        stack.callback(association.socket.close)
    return held


def test_associations_are_spread_over_the_processes(running: ListenerProcess) -> None:
    with ExitStack() as stack:
        opened(running, stack, PROCESSES)
        assert [associations_of(child, running.port) for child in running.receiving()] == [1] * PROCESSES
        # The listener itself keeps nothing of them open.
        assert associations_of(running.family()[0], running.port) == 0


def test_an_association_goes_where_the_fewest_are(running: ListenerProcess) -> None:
    def threads() -> list[int]:
        return [child.num_threads() for child in running.receiving()]

    with ExitStack() as stack:
        held = opened(running, stack, PROCESSES)
        # Most recently given, and free again: an association has two threads.
        held[-1].release()
        foreign.wait_until(lambda: max(threads()) - min(threads()) == 2)
        opened(running, stack, 1)

        assert [associations_of(child, running.port) for child in running.receiving()] == [1] * PROCESSES


def test_the_limit_of_associations_holds_over_all_processes(running: ListenerProcess) -> None:
    with ExitStack() as stack:
        held = opened(running, stack, 4)
        with pytest.raises(Refused):
            running.associate(calling="CT9")
        held[1].release()

        assert stores_one(running.port, 1)


def test_the_limit_of_one_sender_holds_over_all_processes(tmp_path: Path) -> None:
    options = {"processes": 2, "max_associations_per_ae": 2}
    with listener(tmp_path / "data", options=options) as running, ExitStack() as stack:
        for _ in range(2):
            stack.callback(running.associate(calling="CT1").socket.close)
        with pytest.raises(Refused):
            running.associate(calling="CT1")
        stack.callback(running.associate(calling="CT2").socket.close)


def test_a_study_over_all_processes_gets_all_its_rows(running: ListenerProcess) -> None:
    with ExitStack() as stack:
        held = opened(running, stack, 4)
        for number in range(100):
            assert held[number % 4].store(SMALL, number, number + 1) == 0

    assert set(wait_for_rows(running.data_directory, 100)) == {instance_uid(number) for number in range(100)}


def test_an_object_sent_to_two_processes_is_kept_once(running: ListenerProcess) -> None:
    with ExitStack() as stack:
        for association in opened(running, stack, 2):
            assert association.store(SMALL, 7) == 0

    wait_for_rows(running.data_directory, 1)
    foreign.wait_until(lambda: len(finished(running.data_directory)[instance_uid(7)]) == 1)


def test_a_listener_that_lost_a_process_ends_and_the_next_one_has_everything(running: ListenerProcess) -> None:
    for number in range(20):
        assert stores_one(running.port, number)
    with running.associate().socket as in_flight:
        in_flight.sendall(store_stream(CT, 90, message_id=1, longest_pdu_bytes=16384)[:200_000])
        next(child for child in running.receiving() if associations_of(child, running.port)).kill()

        # Whoever started it starts it again: what it exits with says so.
        assert running.running.wait(40) != 0
    with listener(running.data_directory) as again:
        assert set(wait_for_rows(running.data_directory, 20)) == {instance_uid(number) for number in range(20)}
        assert temporaries(running.data_directory) == []
        assert stores_one(again.port, 21)


def test_rows_are_made_again_when_the_recorder_was_lost(running: ListenerProcess) -> None:
    (recorder,) = {*running.family()[1:]} - {*running.receiving()}
    recorder.kill()
    for number in range(2 * PROCESSES):
        # A child whose recorder is away refuses for a moment, and a sender tries again.
        foreign.wait_until(partial(stores_one, running.port, number))

    assert len(wait_for_rows(running.data_directory, 2 * PROCESSES)) == 2 * PROCESSES


@pytest.mark.parametrize("told", ["the listener", "everyone"])
def test_the_object_in_flight_is_finished_when_the_listener_is_told_to_stop(
    running: ListenerProcess, told: str
) -> None:
    association = running.associate()
    stream = store_stream(CT, 5, message_id=1, longest_pdu_bytes=association.longest_pdu_bytes)
    association.socket.sendall(stream[:300_000])
    family = running.family()
    for process in family if told == "everyone" else family[:1]:
        process.send_signal(signal.SIGTERM)
    association.socket.sendall(stream[300_000:])

    assert association.answer() == 0
    association.socket.close()
    assert running.running.wait(40) == 0
    assert list(rows(running.data_directory)) == [instance_uid(5)]
    assert temporaries(running.data_directory) == []


def test_the_next_listener_may_start_as_soon_as_one_was_killed(running: ListenerProcess) -> None:
    with ExitStack() as stack:
        opened(running, stack, 4)
        running.running.kill()
        running.running.wait()
        with listener(running.data_directory) as again:
            assert stores_one(again.port, 1)


@pytest.mark.parametrize("rounds", [1, 2])
def test_of_two_copies_over_two_processes_the_one_acknowledged_first_stands(tmp_path: Path, rounds: int) -> None:
    pairs = 40
    with (
        listener(tmp_path / "data", options={"processes": 2, "max_associations": 4}) as running,
        ExitStack() as stack,
    ):
        held = opened(running, stack, 2)
        for number in range(pairs * rounds):
            # Which of the two processes is the first changes, and nobody waits between the two.
            for copy, association in enumerate(held if number % 2 else held[::-1]):
                stream = store_stream(SMALL, number, message_id=1, longest_pdu_bytes=association.longest_pdu_bytes)
                association.socket.sendall(stream[:-1] + bytes([copy]))
                assert association.answer() == 0
        foreign.wait_until(lambda: len(standing(running.data_directory)) == 2 * pairs * rounds)

        stands = [last for status, last in standing(running.data_directory) if status == InstanceStatus.CURRENT]
        assert stands == [0] * (pairs * rounds)


def standing(data_directory: Path) -> list[tuple[str, int]]:
    """Return the status of every row with the last byte of its file."""
    engine = create_engine(f"sqlite:///{data_directory / 'wetread.sqlite'}")
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT status, path FROM instance")).all()
    finally:
        engine.dispose()
    return [(status, (data_directory / path).read_bytes()[-1]) for status, path in found]
