"""Processes that are stopped, jobs that never end, a device that breaks, a database that falls silent: all pass by."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from sqlalchemy import make_url, select

from casebook import tables
from casebook.database import open_database
from casebook.errors import PeerUnavailable
from integration_tests import foreign, services
from integration_tests.fake_reader import Fault, let_befall
from integration_tests.hospital import Hospital, hospital
from integration_tests.settings import REPOSITORY, environment
from integration_tests.swallowing_proxy import swallowing_proxy

pytestmark = [
    pytest.mark.slow,
    # pynetdicom leaves the stand-in archive's end of a connection that the end of a process reset to the collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
#: One process of each kind that can be stopped in mid-work.
VICTIMS = ("gpu child", "gpu parent", "io child", "io parent", "listener", "receiver", "recorder", "sweeper")
#: How long a person stops a process for: `docker pause`, a debugger, py-spy.
_PAUSE_S = 1.5
#: The promise: the node recovers by itself within the hard limit and this.
_RECOVERY_S = 30.0
#: Of the samples in `make test`; the proof takes 60.
_SHORT_LIMIT_S, _LIMIT_S = 5.0, 60.0


def _settings(hard_limit_s: float, **others: object) -> dict[str, object]:
    queue = {"sweep_interval_s": 0.2, "lease_s": 3.0, "backoff_first_s": 0.5, "hard_limit_s": hard_limit_s}
    return {"queue": queue, **others}


@pytest.fixture(params=["embedded", pytest.param("postgresql", marks=pytest.mark.peers)])
def servers(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """Settings of the servers of a proof."""
    if request.param == "embedded":
        yield {}
        return
    with services.postgresql() as database_url, services.rabbitmq() as broker_url:
        yield {"database": {"url": database_url}, "broker": {"url": broker_url}}


# ---- a short pause -----------------------------------------------------------------------------------------


def test_a_pause_of_each_process_in_turn_and_of_all_at_once_stops_nobody(tmp_path: Path) -> None:
    with hospital(tmp_path) as site:
        family = _family(site)
        for one in family:
            _pause([one])
        _pause(family)

        uids = site.send(range(3))
        site.wait_until_delivered(uids)

        site.assert_each_outcome_once(uids)
        # They went on; nobody was started again.
        assert all(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)
        assert _status(site) == ""


def _family(site: Hospital) -> list[psutil.Process]:
    supervisor = psutil.Process(site.supervisor.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def _pause(processes: list[psutil.Process]) -> None:
    for one in processes:
        one.send_signal(signal.SIGSTOP)
    threading.Event().wait(_PAUSE_S)
    for one in processes:
        one.send_signal(signal.SIGCONT)


def _status(site: Hospital) -> str:
    """Return what `wetread status` says where it needs attention, empty where all is well."""
    where = ["--config", str(site.wiring.settings.config_directory), "--data", str(site.root / "data")]
    command = [sys.executable, "-m", "console", "status", *where]
    said = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    return "" if said.returncode == 0 else said.stdout + said.stderr


# ---- a process that stays stopped --------------------------------------------------------------------------


def test_a_process_that_stays_stopped_in_mid_work_is_replaced(tmp_path: Path) -> None:
    with hospital(tmp_path, settings=_settings(_SHORT_LIMIT_S)) as site:
        _stop_for_good(site, "gpu child", within_s=_SHORT_LIMIT_S + _RECOVERY_S)


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("whom", VICTIMS)
def test_a_process_of_any_kind_that_stays_stopped_is_replaced_in_time(
    tmp_path: Path, servers: dict[str, object], whom: str
) -> None:
    with hospital(tmp_path, settings=_settings(_LIMIT_S, **servers)) as site:
        _stop_for_good(site, whom, within_s=_LIMIT_S + _RECOVERY_S)


def _stop_for_good(site: Hospital, whom: str, *, within_s: float) -> None:
    stopped_at: list[float] = []
    victim = _victim(site, whom)

    def stop() -> None:
        victim.send_signal(signal.SIGSTOP)
        stopped_at.append(time.monotonic())

    def gone() -> None:
        foreign.wait_until(lambda: not victim.is_running(), what=f"the end of the {whom}", timeout_s=within_s)

    uids = _in_mid_work(site, whom, stop, gone)
    gone()
    uids += _send_when_it_receives(site, 20)
    site.wait_until_delivered(uids, timeout_s=stopped_at[0] + within_s - time.monotonic())

    site.assert_each_outcome_once(uids)
    _wait_until_all_is_well(site)


def _in_mid_work(site: Hospital, whom: str, stop: Callable[[], None], gone: Callable[[], None]) -> list[str]:
    seeds = range(10, 13)
    if whom in {"listener", "receiver"}:
        # Images are on the wire.
        former = site.process("listener")

        def mended() -> None:
            gone()
            # Without one of its processes it ends as well.
            site.wait_for_another("listener", former)

        return site.send_through(seeds, stop, mended)
    if whom.startswith("io"):
        # The message is in the RIS, its acknowledgement is not here.
        site.ris.hold()
        uids = site.send(seeds)
        site.ris.wait_until_held()
        stop()
        site.ris.let_go()
        return uids
    uids = site.send(seeds)
    if whom.startswith("gpu"):
        site.wait_for_running("read")
    stop()
    return uids


def _victim(site: Hospital, whom: str) -> psutil.Process:
    role, _, part = whom.partition(" ")
    if role not in {"receiver", "recorder"}:
        return site.process(role, parent=part == "parent")
    children = site.process("listener").children()
    recorders = [one for one in children if "dicom_node.index.recorder_process" in one.cmdline()]
    receivers = [one for one in children if one not in recorders]
    return recorders[0] if role == "recorder" else receivers[0]


def _send_when_it_receives(site: Hospital, seed: int) -> list[str]:
    """Send one more study; a sender tries again while nobody listens."""
    found: list[str] = []

    def send() -> bool:
        try:
            found[:] = site.send([seed])
        except (AssertionError, PeerUnavailable):
            return False
        return True

    foreign.wait_until(send, what="an acknowledgement", timeout_s=60.0)
    return found


def _wait_until_all_is_well(site: Hospital) -> None:
    said: list[str] = []

    def ask() -> bool:
        said[:] = [_status(site)]
        return said == [""]

    try:
        foreign.wait_until(ask, timeout_s=30.0)
    except TimeoutError:
        raise AssertionError(said[0]) from None


# ---- a reading that does not end, a device that breaks ------------------------------------------------------


def test_a_reading_that_never_ends_is_ended_at_the_hard_limit(tmp_path: Path) -> None:
    with hospital(tmp_path, settings=_settings(_SHORT_LIMIT_S)) as site:
        _hang(site, Fault.HANG_ALONE, within_s=_SHORT_LIMIT_S + _RECOVERY_S)


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", [Fault.HANG, Fault.HANG_ALONE])
def test_a_reading_that_never_ends_is_ended_in_time(tmp_path: Path, servers: dict[str, object], fault: Fault) -> None:
    with hospital(tmp_path, settings=_settings(_LIMIT_S, **servers)) as site:
        _hang(site, fault, within_s=_LIMIT_S + _RECOVERY_S)


def _hang(site: Hospital, fault: Fault, *, within_s: float) -> None:
    let_befall(site.root / "data", fault)
    uids = site.send(range(2))
    site.wait_for_running("read")
    site.wait_until_delivered(uids, timeout_s=within_s)

    site.assert_each_outcome_once(uids)
    _wait_until_all_is_well(site)


def test_a_device_that_breaks_costs_one_attempt_of_one_study(tmp_path: Path) -> None:
    with hospital(tmp_path) as site:
        _break_the_device(site)


@pytest.mark.prove
def test_a_device_that_breaks_buries_no_study(tmp_path: Path, servers: dict[str, object]) -> None:
    with hospital(tmp_path, settings=_settings(_LIMIT_S, **servers)) as site:
        _break_the_device(site)


def _break_the_device(site: Hospital) -> None:
    let_befall(site.root / "data", Fault.DEVICE)
    uids = site.send(range(4))
    site.wait_until_delivered(uids, timeout_s=_LIMIT_S + _RECOVERY_S)

    site.assert_each_outcome_once(uids)
    job = tables.job.c
    with site.wiring.read() as connection:
        attempts = connection.execute(select(job.attempt).where(job.step == "read")).scalars().all()
    assert sorted(attempts) == [1, 1, 1, 2]
    _wait_until_all_is_well(site)


# ---- a database that falls silent ---------------------------------------------------------------------------


@pytest.mark.prove
@pytest.mark.peers
@pytest.mark.timeout(600)
@pytest.mark.parametrize("silent_s", [0.0, 20.0])
def test_a_database_that_falls_silent_without_a_word_holds_nobody(tmp_path: Path, silent_s: float) -> None:
    with services.postgresql() as direct:
        url = make_url(direct)
        with swallowing_proxy(url.host or "", url.port or 5432) as proxy:
            through = url.set(host=foreign.LOOPBACK, port=proxy.port).render_as_string(hide_password=False)
            with hospital(tmp_path, settings=_settings(_LIMIT_S, database={"url": through})) as site:
                site.wiring.engine.dispose()
                site.wiring = replace(site.wiring, engine=open_database(direct))
                family = _family(site)
                uids = site.send(range(3))
                site.wait_for_running("read")
                proxy.swallow()
                threading.Event().wait(silent_s)
                # Another server took over: it answers to who connects anew, and the old connections say nothing.
                proxy.let_new_ones_through()
                site.wait_until_delivered(uids, timeout_s=_LIMIT_S + _RECOVERY_S)
                uids += _send_when_it_receives(site, 20)
                site.wait_until_delivered(uids)

                site.assert_each_outcome_once(uids)
                # Nobody had to be started again for it.
                assert all(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)
                _wait_until_all_is_well(site)
                site.wiring.engine.dispose()
