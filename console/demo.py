"""``wetread demo``: a whole hospital on this machine for a minute, with eight studies whose truth is known.

Everything between the sender and the stand-in archive is the real thing: `wetread up` on embedded defaults.
"""

import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from casebook import store
from casebook.printing import harmless
from casebook.settings import SHIPPED_CONFIG_DIRECTORY
from casebook.study import StudyState
from casebook.wiring import Wiring, wire
from console.demo_result import Returned, collect, print_table, verdict, write_pages
from console.explain import explain
from console.why import in_words

if TYPE_CHECKING:
    from dicom_node.trial.standin import StandInPacs, StandInRis
    from training.phantom.dicom import PhantomStudy

#: Far from the seeds of training, which begin at a million; chosen by nobody: the first eight.
_SEEDS = range(1, 9)
_QUIET_PERIOD_S = 2.0
_READY_TIMEOUT_S = 300.0
_DELIVERY_TIMEOUT_S = 300.0
#: Drafts of this station are written in Chinese, so that both languages are seen.
_CHINESE_STATIONS = ["DX03", "CR03"]
_SETTLED = (
    StudyState.DELIVERED,
    StudyState.CLOSED,
    StudyState.REFUSED,
    StudyState.UNMATCHED,
    StudyState.HELD,
    StudyState.DEAD,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hospital:
    """Where everything of one demonstration lies."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def log(self) -> Path:
        return self.root / "wetread.log.jsonl"


class _Screen(Console):
    """A terminal that gets nothing it would obey, but for what is ours."""

    def render_str(self, text: str, *arguments: Any, **named: Any) -> Text:
        """Turn a text, also that of a cell, into what is shown."""
        return super().render_str(harmless(text), *arguments, **named)


@click.command
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), help="Empty folder for it; default: a temporary one."
)
def demo(folder: Path | None) -> None:
    """Send eight synthetic studies through a whole Wetread and compare what comes back with the truth."""
    from dicom_node.trial.standin import StandInPacs, StandInRis

    root = (folder or Path(tempfile.mkdtemp(prefix="wetread-demo-"))).resolve()
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise click.UsageError(f"{root} is not empty")
    hospital = _Hospital(root=root)
    screen = _Screen(width=None if sys.stdout.isatty() else 170)
    screen.print(f"Everything of this demonstration lies in [bold]{root}[/bold]", soft_wrap=True)
    pacs, ris = StandInPacs(root / "pacs"), StandInRis(root / "ris")
    try:
        _configure(hospital, pacs, ris)
        sys.exit(_play(hospital, pacs, ris, screen))
    finally:
        pacs.close()
        ris.close()


def _configure(hospital: _Hospital, pacs: "StandInPacs", ris: "StandInRis") -> None:
    """Copy the shipped configuration; only ports and the quiet period differ, and Chinese for one station."""
    shutil.copytree(SHIPPED_CONFIG_DIRECTORY, hospital.config)
    path = hospital.config / "node.yaml"
    node = yaml.safe_load(path.read_text(encoding="utf-8"))
    node["listener"] |= {"port": 0, "quiet_period_s": _QUIET_PERIOD_S, "min_free_bytes": 100_000_000}
    node["queue"] = {"sweep_interval_s": 0.25}
    # The model is so small that a second thread would only wait for the first.
    node["worker"] = {"threads": 1}
    ports = {"pacs": pacs.port, "ris": ris.port}
    for destination in node["destinations"]:
        destination["port"] = ports[destination["name"]]
    path.write_text(yaml.safe_dump(node, sort_keys=False), encoding="utf-8")
    pipelines = hospital.config / "pipelines"
    chinese = yaml.safe_load((pipelines / "chest_xray.yaml").read_text(encoding="utf-8"))
    chinese |= {"name": "chest_xray_zh", "order": 50, "language": "zh"}
    chinese["match"] = {**chinese["match"], "StationName": _CHINESE_STATIONS}
    (pipelines / "chest_xray_zh.yaml").write_text(yaml.safe_dump(chinese, sort_keys=False), encoding="utf-8")


def _play(hospital: _Hospital, pacs: "StandInPacs", ris: "StandInRis", screen: Console) -> int:
    from dicom_node.trial.store_files import store_files
    from training.phantom.dicom import build_study, write_study

    with _running(hospital, screen) as port:
        studies = [build_study(seed) for seed in _SEEDS]
        paths = [path for study in studies for path in write_study(study, hospital.root / "sent")]
        statuses = list(store_files(paths, "127.0.0.1", port, called="WETREAD", calling="CT01"))
        accepted = sum(status == 0x0000 for status in statuses)
        screen.print(f"sent {len(paths)} images of {len(studies)} studies, {accepted} acknowledged")
        wiring = wire(hospital.config, hospital.data)
        try:
            stuck = _wait(wiring, studies, screen)
            with wiring.read() as connection:
                returned = [collect(connection, study, wiring.settings, pacs, ris) for study in studies]
            _explain_stuck(wiring, stuck, screen)
        finally:
            wiring.engine.dispose()
    screen.print("Wetread has ended.")
    return _show(hospital, returned, screen)


def _show(hospital: _Hospital, returned: Sequence[Returned], screen: Console) -> int:
    page = write_pages(returned, hospital.root)
    print_table(returned, hospital.root, screen)
    sentences, is_fine = verdict(returned)
    for sentence in sentences:
        screen.print(sentence)
    screen.print(f"pictures   {hospital.root / 'pictures'}  (what the model saw)", soft_wrap=True)
    screen.print(f"reports    {page}  (each draft beside its picture, as it lies in the archive)", soft_wrap=True)
    screen.print(f"log        {hospital.log}", soft_wrap=True)
    return 0 if is_fine else 1


@contextmanager
def _running(hospital: _Hospital, screen: Console) -> Iterator[int]:
    """Run `wetread up` until the block ends; yields the port of its listener."""
    command = [sys.executable, "-m", "console", "up", "--config", str(hospital.config), "--data", str(hospital.data)]
    started = time.monotonic()
    with hospital.log.open("wb") as log, screen.status("starting Wetread and loading the model"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True)
    try:
        port = _wait_until_ready(process, hospital)
        screen.print(f"Wetread is ready after {time.monotonic() - started:.1f} s (listener on port {port})")
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[str], hospital: _Hospital) -> int:
    output = process.stdout
    readable = select.poll()
    if output is not None:
        readable.register(output, select.POLLIN)
    if output is None or not readable.poll(_READY_TIMEOUT_S * 1000):
        raise click.ClickException(f"Wetread was not ready in {_READY_TIMEOUT_S:g} s; its log: {hospital.log}")
    line = output.readline()
    if not line.startswith("wetread ready"):
        raise click.ClickException(f"Wetread ended at once; its log: {hospital.log}")
    address = line.split()[3]
    return int(address.rpartition(":")[2])


def _wait(wiring: Wiring, studies: Sequence["PhantomStudy"], screen: Console) -> list[str]:
    """Wait until every study has its outcome; returns those that have none in time."""
    uids = {study.study_instance_uid for study in studies}
    deadline = time.monotonic() + _DELIVERY_TIMEOUT_S
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"), TimeElapsedColumn())
    bar = Progress(*columns, console=screen) if screen.is_terminal else None
    told = ""
    with bar or nullcontext():
        task = bar.add_task("reading", total=len(uids), now="") if bar else None
        while True:
            with wiring.read() as connection:
                states = {one.study_instance_uid: one.state for one in store.studies(connection)}
            settled = {uid for uid in uids if states.get(uid) in _SETTLED}
            now = _in_words([states[uid] for uid in sorted(uids) if uid in states])
            if bar is not None and task is not None:
                bar.update(task, completed=len(settled), now=now)
            elif now != told:
                screen.print(f"waiting    {now}")
                told = now
            if settled == uids or time.monotonic() > deadline:
                return sorted(uid for uid in uids if states.get(uid) is not StudyState.DELIVERED)
            time.sleep(0.1)


def _in_words(states: Sequence[StudyState]) -> str:
    return "   ".join(f"{state} {states.count(state)}" for state in StudyState if state in states)


def _explain_stuck(wiring: Wiring, stuck: Sequence[str], screen: Console) -> None:
    for uid in stuck:
        screen.print(f"\n[bold]Study {uid} did not come back.[/bold]", soft_wrap=True)
        try:
            with wiring.read() as connection:
                now = wiring.clock.now(connection)
                screen.print(in_words(explain(connection, uid, settings=wiring.settings, now=now)), soft_wrap=True)
        except KeyError:
            screen.print("It was never indexed.")
