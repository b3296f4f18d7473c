"""The whole flow under its supervisor, on the embedded servers and on those of a cluster, with real kills."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dicom_node import io_worker
from integration_tests import foreign, services
from integration_tests.hospital import Hospital, arrived_twice, hospital
from integration_tests.settings import REPOSITORY, environment
from training.phantom.dicom import build_study

pytestmark = [
    pytest.mark.slow,
    # pynetdicom leaves the stand-in archive's end of a connection that our kill -9 reset to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
VICTIMS = ("gpu child", "gpu parent", "io child", "io parent", "listener", "sweeper")


def _stack(name: str) -> Iterator[dict[str, object]]:
    if name == "embedded":
        yield {}
        return
    with services.postgresql() as database_url:
        if name == "postgresql-rabbitmq":
            with services.rabbitmq() as broker_url:
                yield {"database": {"url": database_url}, "broker": {"url": broker_url}}
        else:
            with services.redis_database() as broker_url:
                yield {"database": {"url": database_url}, "broker": {"url": broker_url}}


@pytest.fixture(
    params=[
        "embedded",
        pytest.param("postgresql-rabbitmq", marks=pytest.mark.peers),
        pytest.param("postgresql-redis", marks=pytest.mark.peers),
    ]
)
def stack(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """Settings of the servers in use."""
    yield from _stack(request.param)


@pytest.fixture
def site(tmp_path: Path, stack: dict[str, object]) -> Iterator[Hospital]:
    """A running site with the fake reader."""
    with hospital(tmp_path, settings=stack) as running:
        yield running


def test_every_study_comes_back_once_and_sigterm_ends_everything(site: Hospital) -> None:
    family = psutil.Process(site.supervisor.pid).children(recursive=True)

    uids = site.send(range(3))
    site.wait_until_delivered(uids)

    site.assert_each_outcome_once(uids)
    assert arrived_twice(site.pacs.arrivals()) == arrived_twice(site.ris.arrivals()) == 0
    assert site.stop() == 0
    assert len(family) >= 6
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_nobody_else_may_read_a_file_and_no_process_leaves_a_core_file(tmp_path: Path) -> None:
    # As a shell or a service manager starts it, whose files anybody may read.
    given = os.umask(0o022)
    try:
        with hospital(tmp_path) as site:
            family = [site.supervisor.pid, *(one.pid for one in psutil.Process(site.supervisor.pid).children(True))]
            masks = {re.search(r"Umask:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1] for pid in family}  # type: ignore[index]
            cores = {
                Path(f"/proc/{pid}/limits").read_text().split("Max core file size")[1].split()[1] for pid in family
            }
            uids = site.send([1])
            site.wait_until_delivered(uids)
            readable = [
                path for path in [site.root / "data", *(site.root / "data").rglob("*")] if path.lstat().st_mode & 0o077
            ]
    finally:
        os.umask(given)

    assert len(family) >= 8
    assert (masks, cores) == ({"0077"}, {"0"})
    assert readable == []


def test_images_sent_again_change_nothing(tmp_path: Path) -> None:
    with hospital(tmp_path) as site:
        _send_again(site)


def _send_again(site: Hospital) -> None:
    uids = site.send([4])
    site.wait_until_delivered(uids)
    arrived = site.pacs.arrivals()

    assert site.send([4, 5]) == [uids[0], site.send([5])[0]]
    site.wait_until_delivered(site.send([5]))

    assert site.pacs.arrivals()[: len(arrived)] == arrived
    assert site.states(uids) == ["delivered"]
    assert len(site.outputs()) == 4


@pytest.mark.timeout(600)
def test_a_kill_of_each_role_in_turn_loses_nothing_and_repeats_nothing(site: Hospital) -> None:
    uids = [uid for number, whom in enumerate(VICTIMS) for uid in _kill_in_mid_work(site, whom, 10 * (number + 1))]
    site.wait_until_delivered(uids)

    site.assert_each_outcome_once(uids)


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("whom", VICTIMS)
def test_a_kill_in_mid_work_loses_nothing_and_repeats_nothing(site: Hospital, whom: str) -> None:
    uids = _kill_in_mid_work(site, whom, 10)
    site.wait_until_delivered(uids)

    site.assert_each_outcome_once(uids)


def _victim(site: Hospital, role: str, part: str) -> psutil.Process:
    """Return a process that the supervisor of this site has started, itself or through a parent."""

    def find() -> psutil.Process | None:
        # A child whose parent was killed may still finish what it has in hand: it is of no family.
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(site.supervisor.pid).children(recursive=True)
            ready = [one for one in map(psutil.Process, (one.pid for one in site.present(role))) if one in family]
            return (ready[0].parent() if part == "parent" else ready[0]) if ready else None
        return None

    return foreign.wait_until(find, what=f"a {role} {part}", timeout_s=60.0)


def _kill_in_mid_work(site: Hospital, whom: str, first_seed: int) -> list[str]:
    role, _, part = whom.partition(" ")
    victim = _victim(site, role, part)
    seeds = range(first_seed, first_seed + 3)

    def kill() -> None:
        # A role whose child was lost ends and comes back, so the one found a moment ago may be gone.
        while True:
            found = victim if victim.is_running() else _victim(site, role, part)
            with suppress(psutil.NoSuchProcess):
                found.kill()
                return

    if role == "listener":
        # Images are on the wire.
        uids = site.send_through(seeds, kill, lambda: site.wait_for_another("listener", victim))
    elif role == "io":
        # The message is in the RIS, its acknowledgement is not here.
        site.ris.hold()
        uids = site.send(seeds)
        site.ris.wait_until_held()
        kill()
        site.ris.let_go()
    else:
        uids = site.send(seeds)
        if role == "gpu":
            site.wait_for_running("read")
        kill()
    return [*uids, *site.send([first_seed + 3])]


@pytest.mark.parametrize("whom", ["the parent", "one child", "another child"])
def test_no_child_outlives_its_role(tmp_path: Path, whom: str) -> None:
    with hospital(tmp_path) as site:
        expected = io_worker.children(site.wiring.settings)
        foreign.wait_until(lambda: len(site.present("io")) == expected, what="every child")
        children = [psutil.Process(one.pid) for one in site.present("io")]
        family = [children[0].parent(), *children]
        family[["the parent", "one child", "another child"].index(whom)].kill()

        foreign.wait_until(
            lambda: not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE],
            what="the whole role to end",
        )

        site.wait_until_delivered(site.send([1]))


def test_a_child_without_a_parent_finishes_its_job_and_takes_no_other(tmp_path: Path) -> None:
    with hospital(tmp_path) as site:
        site.ris.hold()
        uids = site.send([1])
        site.ris.wait_until_held()
        parent = site.process("io", parent=True)
        children = parent.children(recursive=True)
        parent.kill()
        more = site.send([2, 3])
        site.ris.let_go()

        foreign.wait_until(lambda: not any(one.is_running() for one in children), what="the children to leave")
        site.wait_until_delivered([*uids, *more])
        site.assert_each_outcome_once([*uids, *more])


def test_a_killed_supervisor_leaves_no_process_and_the_next_one_goes_on(tmp_path: Path) -> None:
    with hospital(tmp_path) as first:
        uids = first.send(range(3))
        family = psutil.Process(first.supervisor.pid).children(recursive=True)
        first.wait_for_running("read")
        first.supervisor.kill()
        first.supervisor.wait()
        foreign.wait_until(
            lambda: not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE],
            what="the orphans to end",
            timeout_s=40.0,
        )
        config, data = str(first.wiring.settings.config_directory), str(tmp_path / "data")
        command = [sys.executable, "-m", "integration_tests.supervised", "--config", config, "--data", data]
        with foreign.process(command, log=tmp_path / "second.log", ports=[first.port]):
            first.wait_until_delivered(uids)
            first.assert_each_outcome_once(uids)


def test_a_second_supervisor_of_one_data_directory_is_refused(tmp_path: Path) -> None:
    with hospital(tmp_path) as site:
        config = site.wiring.settings.config_directory
        command = [sys.executable, "-m", "console", "up", "--config", str(config), "--data", str(tmp_path / "data")]

        second = subprocess.run(
            command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=60, check=False
        )

        assert second.returncode == 1
        assert "another `wetread up` works in this data directory" in second.stderr


def test_status_and_why_speak_of_a_running_site(tmp_path: Path) -> None:
    with hospital(tmp_path) as site:
        uids = site.send([7])
        site.wait_until_delivered(uids)
        where = ["--config", str(site.wiring.settings.config_directory), "--data", str(tmp_path / "data")]

        def ask(*verb: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "console", *verb, *where]
            return subprocess.run(
                command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=60, check=False
            )

        status, why = ask("status"), ask("why", uids[0])

        assert status.returncode == 0, status.stdout + status.stderr
        assert "listener ok" in status.stdout
        assert "delivered 1" in status.stdout
        assert why.returncode == 0
        assert why.stdout.startswith("Delivered: pacs acknowledged the SR with 0x0000, ris acknowledged the ORU")
        assert "first image received from CT01" in why.stdout
        assert ask("why", "1.2.3").returncode == 2
        said = status.stdout + why.stdout + status.stderr + why.stderr + (tmp_path / "log.jsonl").read_text()
        image = build_study(7).dataset
        for planted in (str(image.PatientID), str(image.PatientName), image.AccessionNumber, image.PatientBirthDate):
            assert planted not in said
