"""A whole Wetread under its supervisor, on embedded defaults, as a test sees it from outside."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Row, create_engine, text
from sqlalchemy.exc import OperationalError

from casebook.reading import Reading, from_bytes
from casebook.settings import SHIPPED_CONFIG_DIRECTORY
from casebook.study import StudyState
from integration_tests import foreign
from integration_tests.settings import REPOSITORY, environment

#: Our AE title in every test.
AE_TITLE = "WETREAD"
#: Calling AE title with a short quiet period, and one whose studies never become quiet by themselves.
SENDER, SLOW_SENDER = "CT01", "SLOW01"
QUIET_PERIOD_S = 1.0
#: States that stay until something new arrives or a person acts.
SETTLED = (
    StudyState.DELIVERED,
    StudyState.CLOSED,
    StudyState.REFUSED,
    StudyState.UNMATCHED,
    StudyState.HELD,
    StudyState.DEAD,
)
#: `wetread up` itself.
REAL = ("console", "up")
#: The same with a fake writer behind the real pixels.
FAKE_WRITER = ("integration_tests.supervised_pixels",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A running Wetread."""

    port: int
    config_directory: Path
    data_directory: Path
    #: What all its processes say, standard output and standard error.
    log: Path
    running: subprocess.Popen[bytes] = field(repr=False)

    def say(self, *verb: str) -> subprocess.CompletedProcess[str]:
        """Run one verb of the `wetread` command on this node to its end."""
        return subprocess.run(
            [sys.executable, "-m", "console", *verb, *_directories(self.config_directory, self.data_directory)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=REPOSITORY,
            env=environment(),
        )

    def why(self, study_instance_uid: str) -> str:
        """Return the sentence of `wetread why`."""
        return str(json.loads(self.say("why", study_instance_uid, "--json").stdout)["sentence"])

    def select(self, query: str, **values: object) -> Sequence[Row[Any]]:
        """Read the embedded database."""
        engine = create_engine(f"sqlite:///{self.data_directory / 'wetread.sqlite'}")
        try:
            with engine.connect() as connection:
                return connection.execute(text(query), values).all()
        finally:
            engine.dispose()

    def states(self) -> dict[str, StudyState]:
        """Return the state of every study by its Study Instance UID."""
        return {
            row.study_instance_uid: StudyState(row.state)
            for row in self.select("SELECT study_instance_uid, state FROM study")
        }

    def wait_for(
        self, study_instance_uid: str, *states: StudyState, generation: int = 1, timeout_s: float = 90.0
    ) -> StudyState:
        """Wait until a study stands in one of the states (default: any settled one), and return which.

        Raises
        ------
        TimeoutError
            When it never did; names where it stands instead.
        """
        wanted, stands = states or SETTLED, "unknown"

        def arrived() -> str:
            nonlocal stands
            try:
                found = self.select(
                    "SELECT state, reason, detail, generation FROM study WHERE study_instance_uid = :uid",
                    uid=study_instance_uid,
                )
            except OperationalError:
                return ""
            if not found:
                return ""
            stands = f"{found[0].state} {found[0].reason} {found[0].detail} (generation {found[0].generation})"
            return found[0].state if found[0].state in wanted and found[0].generation >= generation else ""

        try:
            return StudyState(foreign.wait_until(arrived, timeout_s=timeout_s, what=f"{study_instance_uid}"))
        except TimeoutError:
            raise TimeoutError(f"{study_instance_uid} stands at {stands}, not at {', '.join(wanted)}") from None

    def wait_until_indexed(self, *, timeout_s: float = 30.0) -> None:
        """Wait until every object of the inbox has its row, or was removed as a repetition of one."""

        def equal() -> bool:
            rows = {row.path for row in self.select("SELECT path FROM instance")}
            files = {
                str(path.relative_to(self.data_directory)) for path in (self.data_directory / "inbox").rglob("*.dcm")
            }
            return rows == files

        foreign.wait_until(equal, timeout_s=timeout_s, what="the index to hold what the inbox holds")

    def wait_until_idle(self, study_instance_uid: str, *, timeout_s: float = 60.0) -> None:
        """Wait until no job of a study is due, running or waiting for a later try."""
        query = "SELECT id FROM job WHERE study_instance_uid = :uid AND state NOT IN ('done', 'dead', 'superseded')"
        foreign.wait_until(
            lambda: not self.select(query, uid=study_instance_uid), timeout_s=timeout_s, what="the jobs to end"
        )

    def readings(self, study_instance_uid: str) -> list[Reading]:
        """Return the readings of a study, oldest first."""
        query = "SELECT content FROM reading WHERE study_instance_uid = :uid ORDER BY generation"
        return [from_bytes(row.content) for row in self.select(query, uid=study_instance_uid)]

    def outputs(self, study_instance_uid: str, kind: str) -> list[Row[Any]]:
        """Return the frozen outputs of one kind of a study, oldest first."""
        query = "SELECT * FROM output WHERE study_instance_uid = :uid AND kind = :kind ORDER BY generation, id"
        return list(self.select(query, uid=study_instance_uid, kind=kind))


def write_config(
    folder: Path,
    *,
    port: int,
    destinations: Sequence[Mapping[str, object]],
    pipelines: Sequence[Mapping[str, object]],
    **settings: Mapping[str, object],
) -> None:
    """Write a configuration folder: the shipped one, with short times and our own destinations and pipelines.

    Parameters
    ----------
    destinations, pipelines
        As in `node.yaml` and `pipelines/`; what a pipeline leaves out comes from the shipped one.
    settings
        Other sections of `node.yaml`, laid over those of the tests.
    """
    shutil.copytree(SHIPPED_CONFIG_DIRECTORY, folder)
    shipped = folder / "pipelines" / "chest_xray.yaml"
    template = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    shipped.unlink()
    for pipeline in pipelines:
        path = folder / "pipelines" / f"{pipeline['name']}.yaml"
        path.write_text(yaml.safe_dump(template | dict(pipeline)), encoding="utf-8")
    sections: dict[str, Any] = {
        "listener": {
            "ae_title": AE_TITLE,
            "port": port,
            "quiet_period_s": QUIET_PERIOD_S,
            "senders": [{"ae_title": SLOW_SENDER, "quiet_period_s": 3600}],
            "min_free_bytes": 0,
            "network_timeout_s": 10.0,
        },
        "queue": {"sweep_interval_s": 0.3, "backoff_first_s": 0.5, "backoff_cap_s": 2.0},
        "worker": {"threads": 1},
        "destinations": [dict(one) for one in destinations],
    }
    for name, section in settings.items():
        sections[name] = sections.get(name, {}) | dict(section)
    (folder / "node.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")


@contextmanager
def running(
    folder: Path,
    *,
    destinations: Sequence[Mapping[str, object]],
    pipelines: Sequence[Mapping[str, object]],
    program: Sequence[str] = REAL,
    **settings: Mapping[str, object],
) -> Iterator[Node]:
    """Run Wetread under its supervisor until the block ends.

    Parameters
    ----------
    folder
        Holds configuration, data and log.
    program
        `REAL` or `FAKE_WRITER`.
    destinations, pipelines, settings
        See `write_config`.

    Yields
    ------
        The node, every role of it ready.
    """
    port = foreign.free_port()
    config_directory, data_directory, log = folder / "config", folder / "data", folder / "wetread.log"
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config_directory, port=port, destinations=destinations, pipelines=pipelines, **settings)
    command = [sys.executable, "-m", *program, *_directories(config_directory, data_directory)]
    with foreign.process(command, log=log, extra={"PYTHONPATH": str(REPOSITORY)}) as process:
        foreign.wait_until(
            lambda: process.poll() is not None or b"wetread ready" in log.read_bytes(),
            timeout_s=120.0,
            what="every role to be ready",
        )
        if process.poll() is not None:
            raise RuntimeError(f"it ended at once: {log.read_text(errors='replace')[-2000:]}")
        try:
            yield Node(
                port=port,
                config_directory=config_directory,
                data_directory=data_directory,
                log=log,
                running=process,
            )
        finally:
            # The supervisor gives its roles half a minute to end by themselves.
            foreign.end(process, grace_s=60.0)


def _directories(config_directory: Path, data_directory: Path) -> list[str]:
    return ["--config", str(config_directory), "--data", str(data_directory)]
