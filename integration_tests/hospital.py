"""A whole Wetread under its supervisor between a sender and stand-ins that record every byte."""

import gc
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from casebook import presence, store, tables
from casebook.case import JobState
from casebook.study import StudyState
from casebook.wiring import Wiring, wire
from dicom_node.trial.standin import ReceivedResult, StandInPacs, StandInRis
from dicom_node.trial.store_files import store_files
from integration_tests import foreign
from integration_tests.settings import REPOSITORY, environment
from training.phantom.dicom import build_study, write_study

_READY_TIMEOUT_S = 60.0
#: A message comes after its study was read, perhaps by a role that was just killed and loads its model again.
_HELD_TIMEOUT_S = 150.0


class HoldingRis(StandInRis):
    """A RIS that can be told to keep a message and say nothing, so that its sender is in mid-work."""

    def __init__(self, folder: Path) -> None:
        """Answer at once until told otherwise."""
        self._may_answer = threading.Event()
        self._may_answer.set()
        self._holds = threading.Event()
        self._refuses = False
        super().__init__(folder)

    def hold(self) -> None:
        """Answer nothing from now on."""
        self._holds.clear()
        self._may_answer.clear()

    def refuse(self) -> None:
        """Answer every message with an application error from now on."""
        self._refuses = True

    def wait_until_held(self) -> None:
        """Wait until a sender waits for its acknowledgement."""
        assert self._holds.wait(_HELD_TIMEOUT_S)

    def let_go(self) -> None:
        """Answer again, also what was held."""
        self._refuses = False
        self._may_answer.set()

    def close(self) -> None:
        """End the server, whoever waits."""
        self.let_go()
        super().close()

    def _take(self, message: bytes) -> bytes:
        answer = super()._take(message)
        if not self._may_answer.is_set():
            self._holds.set()
            self._may_answer.wait(_HELD_TIMEOUT_S)
        return answer.replace(b"MSA|AA|", b"MSA|AE|") if self._refuses else answer


class BusyPacs(StandInPacs):
    """An archive that can be told to be out of resources."""

    def __init__(self, folder: Path) -> None:
        """Take everything until told otherwise."""
        self._is_busy = False
        super().__init__(folder)

    def refuse(self) -> None:
        """Answer 0xA700 from now on."""
        self._is_busy = True

    def let_go(self) -> None:
        """Take everything again."""
        self._is_busy = False

    def _on_store(self, event: Any) -> int:
        return 0xA700 if self._is_busy else super()._on_store(event)


@dataclass(slots=True, kw_only=True)
class Hospital:
    """One site: its Wetread, its archive, its RIS."""

    root: Path
    pacs: BusyPacs
    ris: HoldingRis
    port: int
    wiring: Wiring = field(repr=False)
    supervisor: subprocess.Popen[bytes] = field(repr=False)

    def send(self, seeds: Sequence[int]) -> list[str]:
        """Send one phantom study per seed and return their UIDs; every image has to be acknowledged."""
        studies = [build_study(seed) for seed in seeds]
        paths = [path for study in studies for path in write_study(study, self.root / "sent")]
        statuses = list(store_files(paths, foreign.LOOPBACK, self.port, called="WETREAD", calling="CT01"))
        assert statuses == [0x0000] * len(paths)
        return [study.study_instance_uid for study in studies]

    def send_through(self, seeds: Sequence[int], fault: Callable[[], None], mended: Callable[[], None]) -> list[str]:
        """Send as `send` does, with a fault from another thread while the images are on their way.

        What was not acknowledged is sent again after `mended` has returned, as a modality does.
        """
        studies = [build_study(seed) for seed in seeds]
        paths = [path for study in studies for path in write_study(study, self.root / "sent")]
        statuses = store_files(paths, foreign.LOOPBACK, self.port, called="WETREAD", calling="CT01")
        answers = [next(statuses)]
        breaking = threading.Thread(target=fault)
        breaking.start()
        answers += statuses
        breaking.join()
        mended()
        left = [path for path, status in zip(paths, answers, strict=True) if status != 0x0000]
        again = list(store_files(left, foreign.LOOPBACK, self.port, called="WETREAD", calling="CT01")) if left else []
        assert again == [0x0000] * len(left)
        return [study.study_instance_uid for study in studies]

    def present(self, role: str) -> list[presence.Presence]:
        """Return the ready processes of a role: its children, where it has children."""
        with self.wiring.read() as connection:
            found = presence.present(connection, now=self.wiring.clock.now(connection))
        return [one for one in found if one.role == role]

    def process(self, role: str, *, parent: bool = False) -> psutil.Process:
        """Wait for a ready process of a role, or for its parent, and return it."""
        found = foreign.wait_until(lambda: self.present(role), what=f"a ready {role}", timeout_s=_READY_TIMEOUT_S)
        process = psutil.Process(found[0].pid)
        return process.parent() if parent else process

    def wait_for_another(self, role: str, former: psutil.Process) -> None:
        """Wait until another process than a killed one is ready for a role."""
        foreign.wait_until(
            lambda: [one for one in self.present(role) if one.pid != former.pid],
            what=f"another {role}",
            timeout_s=_READY_TIMEOUT_S,
        )

    def wait_for_running(self, step: str) -> None:
        """Wait until a worker holds a job of this step."""
        foreign.wait_until(lambda: self._running(step), what=f"a running {step} job", timeout_s=_READY_TIMEOUT_S)

    def _running(self, step: str) -> bool:
        job = tables.job
        with self.wiring.read() as connection:
            query = job.select().where(job.c.step == step, job.c.state == JobState.RUNNING)
            return connection.execute(query).first() is not None

    def wait_until_delivered(self, uids: Sequence[str], *, timeout_s: float = 90.0) -> None:
        """Wait until every study has come back."""
        foreign.wait_until(
            lambda: self.states(uids) == [StudyState.DELIVERED] * len(uids),
            what="every study to be delivered",
            timeout_s=timeout_s,
        )

    def states(self, uids: Sequence[str]) -> list[StudyState | None]:
        """Return the state of each study; None where it is not known."""
        with self.wiring.read() as connection:
            known = {one.study_instance_uid: one.state for one in store.studies(connection)}
        return [known.get(uid) for uid in uids]

    def open_jobs(self) -> int:
        """Count the jobs that are neither done nor made pointless."""
        job = tables.job
        with self.wiring.read() as connection:
            ended = (JobState.DONE, JobState.SUPERSEDED)
            return len(connection.execute(job.select().where(job.c.state.not_in(ended))).all())

    def outputs(self) -> dict[str, tuple[str, str]]:
        """Return destination and SHA-256 of every frozen output by its UID."""
        output = tables.output
        with self.wiring.read() as connection:
            rows = connection.execute(output.select()).all()
        return {row.object_uid: (row.destination, row.sha256) for row in rows}

    def assert_each_outcome_once(self, uids: Sequence[str]) -> None:
        """Check the promises: one draft per study and destination, every send of it the same bytes, nothing left."""
        assert self.states(uids) == [StudyState.DELIVERED] * len(uids)
        assert self.open_jobs() == 0
        outputs = self.outputs()
        assert len(outputs) == 2 * len(uids)
        for arrivals, destination in ((self.pacs.arrivals(), "pacs"), (self.ris.arrivals(), "ris")):
            shas: dict[str, set[str]] = defaultdict(set)
            for one in arrivals:
                shas[one.object_uid].add(one.sha256)
            # A send that was interrupted may come again, as the same object with the same bytes.
            assert set(shas) == {uid for uid, (where, _) in outputs.items() if where == destination}
            assert all(len(bytes_seen) == 1 for bytes_seen in shas.values())

    def stop(self) -> int:
        """Ask the supervisor to end and return its exit code."""
        self.supervisor.send_signal(signal.SIGTERM)
        return self.supervisor.wait(40)


def arrived_twice(arrivals: Sequence[ReceivedResult]) -> int:
    """Count the arrivals beyond the first of each object."""
    return len(arrivals) - len({one.object_uid for one in arrivals})


@contextmanager
def hospital(
    root: Path,
    *,
    settings: Mapping[str, object] | None = None,
    module: str = "integration_tests.supervised",
    timeout_s: float = 30.0,
) -> Iterator[Hospital]:
    """Run a site until the block ends.

    Parameters
    ----------
    settings
        Over the tests' `node.yaml`: other databases and brokers.
    module
        Runs the supervisor; the default has the fake reader.
    timeout_s
        For which a destination is waited for.
    """
    # Whatever ends badly, the rest still ends.
    with ExitStack() as ends:
        ends.callback(_collect_sockets)
        pacs = BusyPacs(root / "pacs")
        ends.callback(pacs.close)
        ris = HoldingRis(root / "ris")
        ends.callback(ris.close)
        config = _write_configuration(root, pacs, ris, settings or {}, timeout_s)
        arguments = ["--config", str(config), "--data", str(root / "data")]
        command = [sys.executable, "-m", *module.split(), *arguments]
        log = ends.enter_context((root / "log.jsonl").open("wb"))
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        ends.callback(foreign.end, process, grace_s=40.0)
        foreign.wait_until(
            lambda: process.poll() is not None or "wetread ready" in (root / "log.jsonl").read_text(errors="replace"),
            what="wetread to be ready",
            timeout_s=_READY_TIMEOUT_S,
        )
        assert process.poll() is None, (root / "log.jsonl").read_text(errors="replace")[-3000:]
        wiring = wire(config, root / "data")
        ends.callback(wiring.engine.dispose)
        yield Hospital(
            root=root,
            pacs=pacs,
            ris=ris,
            port=wiring.settings.listener.port,
            wiring=wiring,
            supervisor=process,
        )


def _collect_sockets() -> None:
    # pynetdicom leaves a connection that its peer reset (our kill -9) to the garbage collector, which complains.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _write_configuration(
    root: Path, pacs: StandInPacs, ris: StandInRis, settings: Mapping[str, object], timeout_s: float
) -> Path:
    config = root / "config"
    shutil.copytree(REPOSITORY / "config", config)
    node = yaml.safe_load((config / "node.yaml").read_text(encoding="utf-8"))
    # A fixed port: a listener that is killed comes back where its senders look for it.
    node["listener"] |= {"port": foreign.free_port(), "quiet_period_s": 0.5, "min_free_bytes": 0}
    node["queue"] = {"sweep_interval_s": 0.2, "lease_s": 3.0, "backoff_first_s": 0.5}
    ports = {"pacs": pacs.port, "ris": ris.port}
    for destination in node["destinations"]:
        destination |= {"port": ports[destination["name"]], "timeout_s": timeout_s}
    (config / "node.yaml").write_text(yaml.safe_dump(node | dict(settings), sort_keys=False), encoding="utf-8")
    return config
