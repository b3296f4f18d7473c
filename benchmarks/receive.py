"""How fast objects are received, durably, against Orthanc, storescp, a stock pynetdicom handler and the disk itself.

``python -m benchmarks.receive [--small]``. Every receiver gets the same bytes from `benchmarks.raw_sender`, one object
in flight per association, on the same disk, in turns whose order is shuffled in each repetition. Orthanc and storescp
run with ``TCP_NODELAY=1``: without it they wait 44 ms per object and the comparison is void. Nothing is deleted before
the end, because creating files where many were just deleted is slow on some file systems. A run whose objects did not
all arrive, or whose rows are missing, ends the benchmark.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil
import pytest

from benchmarks.evidence import REPOSITORY, print_report
from benchmarks.raw_sender import Association, associate_request
from casebook.mounts import kind_of_file_system
from casebook.settings import ListenerSettings
from dicom_node.storage.block_file import Blocks
from dicom_node.storage.file_system import FileSystem
from dicom_node.storage.journal import Journal
from integration_tests import foreign
from integration_tests.listener_process import AE_TITLE, listener, rows

_MIB = 2**20
_GB = 10**9
#: Above this load average the cores are not ours.
_QUIET_LOAD = 0.7
#: Ratio names and what each should reach (bigger is better).
TARGETS = {
    "ct_1_vs_orthanc": 2.5,
    "ct_4_vs_orthanc": 2.5,
    "small_1_vs_orthanc": 2.5,
    "small_4_vs_orthanc": 2.0,
    "dx_1_vs_orthanc": 2.0,
    "ct_1_vs_limit": 0.85,
    "small_1_vs_limit": 0.8,
}
LARGE_TARGET_MIB = 20.0
IDLE_TARGET_PERCENT = 10.0
ASSOCIATION_TARGET_MS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent in one run."""

    kind: str
    associations: int
    count: int

    @property
    def name(self) -> str:
        """As in the ratio names, for example ``ct_4``."""
        return f"{self.kind}_{self.associations}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large the benchmark is."""

    loads: Sequence[Load]
    repetitions: int
    idle_associations: int
    idle_s: float
    set_ups: int
    #: Of 2 MiB each.
    large_frames: int


FULL = Shape(
    loads=[
        *(Load(kind="ct", associations=number, count=200) for number in (1, 4, 8)),
        *(Load(kind="small", associations=number, count=800) for number in (1, 4, 8)),
        *(Load(kind="dx", associations=number, count=12) for number in (1, 4)),
    ],
    repetitions=5,
    idle_associations=100,
    idle_s=5.0,
    set_ups=60,
    large_frames=512,
)
SMALL = Shape(
    loads=[
        *(Load(kind="ct", associations=number, count=12) for number in (1, 4)),
        *(Load(kind="small", associations=number, count=24) for number in (1, 4)),
        Load(kind="dx", associations=1, count=2),
    ],
    repetitions=1,
    idle_associations=10,
    idle_s=1.0,
    set_ups=5,
    large_frames=16,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """A running receiver."""

    name: str
    port: int
    pid: int
    called: str
    #: Objects it holds.
    stored: Callable[[], int]
    #: It speaks no DICOM: the disk alone.
    is_limit: bool = False
    #: False while it still writes what it has answered.
    is_settled: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of one load on one receiver."""

    objects_per_s: float
    bytes_per_s: float
    median_ms: float
    p95_ms: float
    cpu_s_per_gb: float
    peak_rss_mib: float
    #: Milliseconds from the last answer until everything was listed; the sender's own end is part of it.
    listed_after_ms: float


class VoidComparison(Exception):
    """A receiver lost or refused an object: no number of this run means anything."""


# ---------------------------------------------------------------------------------------------- receivers


@contextmanager
def _ours(folder: Path, name: str, **options: object) -> Iterator[Receiver]:
    # The settings a site gets that changes nothing.
    shipped = ListenerSettings().model_dump(mode="json", exclude={"port"})
    # All senders of a benchmark have one address.
    shipped["max_associations_per_address"] = shipped["max_associations"]
    with listener(folder / "data", options=shipped | options) as running:
        inbox = running.data_directory / "inbox"
        yield Receiver(
            name=name,
            port=running.port,
            pid=running.running.pid,
            called=AE_TITLE,
            stored=lambda: len(rows(running.data_directory)),
            # Its checkpoint is not left to the next receiver to pay for.
            is_settled=lambda: not any(True for _ in Journal(inbox, FileSystem(), Blocks()).records()),
        )


@contextmanager
def _orthanc(folder: Path) -> Iterator[Receiver]:
    with foreign.orthanc(folder) as peer:
        yield Receiver(
            name="orthanc",
            port=peer.port,
            pid=_listening_on(peer.port),
            called=peer.ae_title,
            stored=lambda: int(peer.ask("/statistics")["CountInstances"]),
        )


@contextmanager
def _storescp(folder: Path, *, fork: bool) -> Iterator[Receiver]:
    with foreign.storescp(folder, options=["--fork"] if fork else []) as peer:
        yield Receiver(
            name="storescp",
            port=peer.port,
            pid=_listening_on(peer.port),
            called=peer.ae_title,
            stored=lambda: _files(peer.folder),
        )


@contextmanager
def _script(folder: Path, module: str, name: str, *, is_limit: bool = False) -> Iterator[Receiver]:
    folder.mkdir(parents=True)
    port, received = foreign.free_port(), folder / "received"
    command: list[str | Path] = [sys.executable, "-m", module, str(port), received]
    extra = {"PYTHONPATH": str(REPOSITORY)}
    with foreign.process(command, log=folder / "receiver.log", ports=[port], extra=extra) as running:
        yield Receiver(
            name=name,
            port=port,
            pid=running.pid,
            called="STOCK",
            stored=lambda: _files(received),
            is_limit=is_limit,
        )


def _files(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(not entry.name.startswith(".") for entry in entries)


def _listening_on(port: int) -> int:
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(one.laddr.port == port for one in child.net_connections("tcp") if one.status == "LISTEN"):
                return int(child.pid)
    raise LookupError(f"no child of ours listens on {port}")


def receivers(folder: Path, stack: ExitStack) -> dict[str, Callable[[Load], Receiver | None]]:
    """Start every receiver, each in its fresh folder, and say which one takes a load.

    Parameters
    ----------
    folder
        On the disk that is measured.
    stack
        Ends them.

    Returns
    -------
        By name, a function of the load: the receiver, or None where the comparison makes no sense.
    """
    ours = stack.enter_context(_ours(folder / "ours", "ours"))
    orthanc = stack.enter_context(_orthanc(folder / "orthanc"))
    # Without --fork it serves one association after the other; with it each association costs a fork.
    one = stack.enter_context(_storescp(folder / "storescp", fork=False))
    many = stack.enter_context(_storescp(folder / "storescp-fork", fork=True))
    stock = stack.enter_context(_script(folder / "stock", "benchmarks.stock_receiver", "stock pynetdicom"))
    limit = stack.enter_context(_script(folder / "limit", "benchmarks.physical_limit", "limit", is_limit=True))
    found: dict[str, Callable[[Load], Receiver | None]] = {
        "ours": lambda _: ours,
        "orthanc": lambda _: orthanc,
        "storescp": lambda load: one if load.associations == 1 else many,
        "stock pynetdicom": lambda _: stock,
        "limit": lambda _: limit,
    }
    if "row_before_ack" in ListenerSettings.model_fields:
        eager = stack.enter_context(_ours(folder / "row_before_ack", "ours, row_before_ack", row_before_ack=True))
        found["ours, row_before_ack"] = lambda _: eager
    return found


# ------------------------------------------------------------------------------------------- measurements


class _Process:
    """CPU time and memory of a receiver, with the children it forked."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)

    def cpu_s(self) -> float:
        total = 0.0
        for one in self._all():
            with suppress(psutil.Error):
                used = one.cpu_times()
                total += used.user + used.system
                if one is self._process:
                    total += used.children_user + used.children_system
        return total

    def rss_mib(self) -> float:
        return self._sum("VmRSS:")

    def forget_peak(self) -> None:
        for one in self._all():
            with suppress(OSError):
                Path(f"/proc/{one.pid}/clear_refs").write_text("5", encoding="ascii")

    def peak_rss_mib(self) -> float:
        return self._sum("VmHWM:")

    def _all(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def _sum(self, name: str) -> float:
        total_kib = 0
        for one in self._all():
            with suppress(OSError):
                status = Path(f"/proc/{one.pid}/status").read_text(encoding="ascii", errors="replace")
                total_kib += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))
        return total_kib / 1024


def _send(receiver: Receiver, arguments: Sequence[object]) -> Mapping[str, float]:
    command = [sys.executable, "-m", "benchmarks.raw_sender", "--port", receiver.port, "--called", receiver.called]
    plain = ["--plain"] if receiver.is_limit else []
    done = subprocess.run(
        [str(part) for part in (*command, *plain, *arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise VoidComparison(f"{receiver.name}: {done.stderr.strip() or done.stdout.strip()}")
    sent: Mapping[str, float] = json.loads(done.stdout.splitlines()[-1])
    return sent


def measure(receiver: Receiver, load: Load, first_number: int) -> Measured:
    """Send one load to one receiver.

    Raises
    ------
    VoidComparison
        When an object is refused, or is not there afterwards.
    """
    # What an earlier receiver left to the kernel to write must not be paid by this one.
    os.sync()
    process, before = _Process(receiver.pid), receiver.stored()
    process.forget_peak()
    cpu_s = process.cpu_s()
    choice = ["--kind", load.kind, "--count", load.count, "--associations", load.associations]
    sent = _send(receiver, [*choice, "--first-number", first_number])
    end_s = time.monotonic()
    try:
        foreign.wait_until(lambda: receiver.stored() >= before + load.count, timeout_s=20.0)
    except TimeoutError:
        raise VoidComparison(f"{receiver.name}: {receiver.stored() - before} of {load.count} objects") from None
    measured = Measured(
        objects_per_s=load.count / sent["duration_s"],
        bytes_per_s=sent["data_set_bytes"] / sent["duration_s"],
        median_ms=sent["median_s"] * 1000,
        p95_ms=sent["p95_s"] * 1000,
        cpu_s_per_gb=(process.cpu_s() - cpu_s) / (sent["data_set_bytes"] / _GB),
        peak_rss_mib=process.peak_rss_mib(),
        listed_after_ms=(time.monotonic() - end_s) * 1000,
    )
    foreign.wait_until(receiver.is_settled, timeout_s=20.0)
    return measured


def idle_percent(receiver: Receiver, associations: int, seconds: float) -> tuple[float, float]:
    """Hold idle associations and return what they cost: percent of one core, and MiB of memory."""
    process = _Process(receiver.pid)
    rss_mib = process.rss_mib()
    held = [
        Association(receiver.port, request=associate_request(called=receiver.called, calling=f"CT{number % 4}"))
        for number in range(associations)
    ]
    try:
        start_s, cpu_s = time.monotonic(), process.cpu_s()
        time.sleep(seconds)
        percent = (process.cpu_s() - cpu_s) / (time.monotonic() - start_s) * 100
        return percent, process.rss_mib() - rss_mib
    finally:
        for one in held:
            one.release()


def set_up_ms(receiver: Receiver, times: int) -> float:
    """Return the median time from the connection to the A-ASSOCIATE-AC, in milliseconds."""
    taken_ms = []
    request = associate_request(called=receiver.called)
    for _ in range(times):
        start_s = time.monotonic()
        association = Association(receiver.port, request=request)
        taken_ms.append((time.monotonic() - start_s) * 1000)
        association.release()
    return statistics.median(taken_ms)


def large_rss_mib(receiver: Receiver, frames: int, number: int) -> float:
    """Send one object of ``frames`` x 2 MiB and return how far memory rose above idle, in MiB."""
    process = _Process(receiver.pid)
    process.forget_peak()
    idle_mib = process.rss_mib()
    _send(receiver, ["--kind", "large", "--frames", frames, "--first-number", number])
    return process.peak_rss_mib() - idle_mib


# ------------------------------------------------------------------------------------------------- report


def ratios(results: Mapping[tuple[str, str], Sequence[Measured]]) -> dict[str, float]:
    """Divide our median by each peer's, for the loads that were run.

    Parameters
    ----------
    results
        By receiver and load name.
    """
    found = {}
    for load in ("ct_1", "ct_4", "small_1", "small_4", "dx_1"):
        for peer in ("orthanc", "storescp", "limit"):
            if ("ours", load) in results and (peer, load) in results:
                ours, theirs = (
                    statistics.median(one.objects_per_s for one in results[name, load]) for name in ("ours", peer)
                )
                found[f"{load}_vs_{peer}"] = ours / theirs
    return found


def _row(name: str, load: str, runs: Sequence[Measured], reference: Sequence[Measured]) -> list[object]:
    speeds = [one.objects_per_s for one in runs]
    median = statistics.median(speeds)
    return [
        load,
        name,
        f"{median:.0f} ({min(speeds):.0f}-{max(speeds):.0f})",
        f"{statistics.median(one.bytes_per_s for one in runs) / 10**6:.0f}",
        f"{statistics.median(one.median_ms for one in runs):.2f}",
        f"{statistics.median(one.p95_ms for one in runs):.2f}",
        f"{statistics.median(one.cpu_s_per_gb for one in runs):.2f}",
        f"{max(one.peak_rss_mib for one in runs):.0f}",
        f"{median / statistics.median(one.objects_per_s for one in reference):.2f}",
        f"{statistics.median(one.listed_after_ms for one in runs):.0f}",
    ]


COLUMNS = (
    "load",
    "receiver",
    "objects/s (min-max)",
    "MB/s",
    "median ms",
    "p95 ms",
    "CPU s/GB",
    "peak RSS MiB",
    "x Orthanc",
    "listed after ms",
)


def _against_target(name: str, value: float, target: float, *, at_least: bool) -> str:
    met = value >= target if at_least else value <= target
    return f"{name:24} {value:10.2f}   target {'>=' if at_least else '<='} {target:<6g} {'met' if met else 'MISSED'}"


def run(shape: Shape, folder: Path, seed: int) -> None:
    """Run the whole benchmark and print it.

    Parameters
    ----------
    folder
        Empty, on the disk that is measured.
    seed
        Of the order of turns.
    """
    numbers = count(0, 10_000)
    order = random.Random(seed)
    results: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    with ExitStack() as stack:
        found = receivers(folder, stack)
        for choose in found.values():
            # The first objects meet cold caches and empty folders: they are not counted.
            warm_up = Load(kind="small", associations=1, count=8)
            if receiver := choose(warm_up):
                measure(receiver, warm_up, next(numbers))
        for repetition in range(shape.repetitions):
            for load in order.sample(list(shape.loads), len(shape.loads)):
                for name in order.sample(sorted(found), len(found)):
                    if receiver := found[name](load):
                        results[name, load.name].append(measure(receiver, load, next(numbers)))
            print(f"repetition {repetition + 1} of {shape.repetitions} done", file=sys.stderr, flush=True)
        many = Load(kind="ct", associations=8, count=0)
        side = {
            name: receiver for name, choose in found.items() if (receiver := choose(many)) and not receiver.is_limit
        }
        set_ups = {name: set_up_ms(receiver, shape.set_ups) for name, receiver in side.items()}
        # Orthanc answers only a few associations at a time.
        idle = {
            name: idle_percent(receiver, shape.idle_associations, shape.idle_s)
            for name, receiver in side.items()
            if name != "orthanc"
        }
        large = {name: large_rss_mib(receiver, shape.large_frames, next(numbers)) for name, receiver in side.items()}
    table = [
        _row(name, load.name, results[name, load.name], results["orthanc", load.name])
        for load in shape.loads
        for name in found
        if results.get((name, load.name))
    ]
    for name in side:
        percent, held_mib = idle.get(name, (float("nan"), float("nan")))
        print(
            f"{name:22} association set-up {set_ups[name]:6.2f} ms   "
            f"{shape.idle_associations} idle associations {percent:6.1f} % of a core, {held_mib:6.1f} MiB   "
            f"one object of {shape.large_frames * 2} MiB: peak RSS {large[name]:7.1f} MiB above idle"
        )
    print()
    measured = ratios(results)
    for name, target in TARGETS.items():
        which, peer = name.split("_vs_")
        # A receiver that writes its files through the page cache and flushes each is not faster than this.
        limit = f"   (limit: {measured[name] / measured[f'{which}_vs_limit']:.2f})" if peer == "orthanc" else ""
        print(_against_target(name, measured[name], target, at_least=True) + limit)
    print(_against_target("large_object_rss_mib", large["ours"], LARGE_TARGET_MIB, at_least=False))
    print(_against_target("idle_core_percent", idle["ours"][0], IDLE_TARGET_PERCENT, at_least=False))
    print(_against_target("association_ms", set_ups["ours"], ASSOCIATION_TARGET_MS, at_least=False))
    print()
    print_report("receive", columns=COLUMNS, rows=table, ratios=measured)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark as the arguments say.

    Returns
    -------
        0; 1 when an object was lost or refused, so that nothing was compared; 2 when it cannot run here.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.receive", description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few objects of each kind: shows that it runs")
    parser.add_argument(
        "--folder", type=Path, help="a folder on the disk to measure; the system's temporary one if absent"
    )
    parser.add_argument("--seed", type=int, default=7, help="of the order of turns")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="wetread-receive-", dir=options.folder) as folder:
        kind = kind_of_file_system(Path(folder))
        if kind in {"tmpfs", "ramfs"}:
            print(f"{folder} lies in memory ({kind}), where durability costs nothing: choose another --folder")
            return 2
        busy = os.getloadavg()[0]
        print(f"file system: {kind}; load average before the run: {busy:.2f}")
        if busy > _QUIET_LOAD:
            # With every core taken, a wake-up after a flush waits for the next tick of the scheduler.
            print("this machine is busy with other work: the ratios below say little")
        if options.small:
            print("small shape: it shows that the benchmark runs; its numbers mean nothing")
        try:
            run(SMALL if options.small else FULL, Path(folder), options.seed)
        except VoidComparison as reason:
            print(f"void: {reason}")
            return 1
        except pytest.skip.Exception as reason:
            print(f"cannot run here: {reason}")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
