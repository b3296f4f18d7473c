"""A destination that takes nothing beside one that works, with real processes and real sockets."""

from pathlib import Path

import pytest
from sqlalchemy import select

from casebook import destinations, tables
from console.explain import explain
from integration_tests import foreign
from integration_tests.hospital import Hospital, arrived_twice, hospital

pytestmark = pytest.mark.slow

STUDIES = 8
#: Seconds from a reading to its result at the destination that works.
LONGEST_DELAY_S = 5.0
QUEUE = {"sweep_interval_s": 0.2, "lease_s": 10.0, "backoff_first_s": 1.0, "backoff_cap_s": 3.0}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("trouble", ["a silent RIS", "a refusing RIS", "a busy PACS"])
def test_a_destination_that_takes_nothing_delays_no_other_and_then_gets_everything_in_order(
    tmp_path: Path, trouble: str
) -> None:
    # A silent RIS is waited for much longer than the other destination may be delayed.
    timeout_s = 15.0 if trouble == "a silent RIS" else 3.0
    with hospital(tmp_path, settings={"queue": QUEUE}, timeout_s=timeout_s) as site:
        failing, working = ("pacs", "ris") if trouble == "a busy PACS" else ("ris", "pacs")
        {"a silent RIS": site.ris.hold, "a refusing RIS": site.ris.refuse, "a busy PACS": site.pacs.refuse}[trouble]()
        uids = site.send(range(STUDIES))

        foreign.wait_until(lambda: len(_delays(site, working)) == STUDIES, what=f"{STUDIES} results", timeout_s=60.0)
        assert max(_delays(site, working)) <= LONGEST_DELAY_S
        foreign.wait_until(lambda: _failing(site) == [failing], what=f"{failing} to fail", timeout_s=40.0)
        assert _delays(site, failing) == []
        with site.wiring.read() as connection:
            said = explain(connection, uids[-1], settings=site.wiring.settings, now=site.wiring.clock.now(connection))
        assert f"sending to {failing} waits" in said.sentence
        assert f"wetread test-destination {failing}" in said.advice
        assert "io worker" not in said.sentence + said.advice

        {"pacs": site.pacs.let_go, "ris": site.ris.let_go}[failing]()
        site.wait_until_delivered(uids, timeout_s=90.0)

        site.assert_each_outcome_once(uids)
        assert _failing(site) == []
        if failing == "ris":
            arrived = [one.object_uid for one in site.ris.arrivals()]
            made = _in_order_of_making(site, failing)
            assert list(dict.fromkeys(arrived)) == made
            # The first two were tried again and again: one message alone may be at fault itself.
            assert [arrived.count(uid) for uid in made[2:]] == [1] * (STUDIES - 2)
        else:
            assert arrived_twice(site.pacs.arrivals()) == 0


def _delays(site: Hospital, destination: str) -> list[float]:
    output, reading = tables.output.c, tables.reading.c
    query = (
        select(output.delivered_at, reading.created_at)
        .join(tables.reading, reading.study_instance_uid == output.study_instance_uid)
        .where(output.destination == destination, output.delivered_at.is_not(None))
    )
    with site.wiring.read() as connection:
        return [row.delivered_at - row.created_at for row in connection.execute(query)]


def _failing(site: Hospital) -> list[str]:
    with site.wiring.read() as connection:
        return [one.name for one in destinations.failing(connection)]


def _in_order_of_making(site: Hospital, destination: str) -> list[str]:
    job, output = tables.job.c, tables.output.c
    query = (
        select(output.object_uid)
        .join(tables.job, (job.study_instance_uid == output.study_instance_uid) & (job.lock == output.destination))
        .where(job.lock == destination)
        .order_by(job.id)
    )
    with site.wiring.read() as connection:
        return [row.object_uid for row in connection.execute(query)]
