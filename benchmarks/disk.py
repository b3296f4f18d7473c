"""The disk part of receiving, without a network: what an object costs until it is durable, in three ways.

``python -m benchmarks.disk [--small]``. Threads make objects durable one after the other, as associations do: each as
a file through the page cache with a flush of its own; as `dicom_node.storage.inbox` does without a journal, past the
page cache where an object is large; and as a listener does it, with the journal for small objects.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.evidence import print_report
from benchmarks.raw_sender import KINDS, Kind, header, instance_uid, noise
from dicom_node.objects.file_meta import Envelope
from dicom_node.storage.inbox import Inbox

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large the benchmark is."""

    objects: dict[str, int]
    threads: Sequence[int]
    repetitions: int


FULL = Shape(objects={"small": 800, "ct": 200, "dx": 16}, threads=(1, 4, 8), repetitions=5)
SMALL = Shape(objects={"small": 24, "ct": 8}, threads=(1, 4), repetitions=1)


def page_cache(folder: Path, _kind: Kind, objects: Sequence[bytes], threads: int) -> float:
    """Write files through the page cache, flush each, and return the seconds it took."""

    def keep(number: int, content: bytes) -> None:
        temporary = folder / f".{number}.tmp"
        with temporary.open("xb", buffering=0) as file:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            temporary.rename(folder / f"{number}.dcm")
            os.fsync(file.fileno())

    return _run(objects, threads, keep)


def inbox(folder: Path, kind: Kind, objects: Sequence[bytes], threads: int) -> float:
    """Keep objects in an inbox without a journal and return the seconds it took."""
    with closing(Inbox(folder)) as opened:
        return _run(objects, threads, _keeper(opened, kind))


def inbox_and_journal(folder: Path, kind: Kind, objects: Sequence[bytes], threads: int) -> float:
    """Keep objects in an inbox as a listener does and return the seconds it took."""
    with closing(Inbox(folder)) as opened:
        opened.start_journal()
        return _run(objects, threads, _keeper(opened, kind))


def _keeper(opened: Inbox, kind: Kind) -> Callable[[int, bytes], object]:
    def keep(number: int, content: bytes) -> None:
        envelope = Envelope(
            sop_class_uid=kind.sop_class_uid,
            sop_instance_uid=instance_uid(number),
            transfer_syntax_uid=EXPLICIT_LITTLE_ENDIAN,
            calling_ae_title="CT01",
        )
        incoming = opened.incoming(envelope)
        incoming.write([content])
        incoming.commit()
        incoming.complete()

    return keep


def _run(objects: Sequence[bytes], threads: int, keep: Callable[[int, bytes], object]) -> float:
    def one_association(first: int) -> None:
        for number in range(first, len(objects), threads):
            keep(number, objects[number])

    running = [threading.Thread(target=one_association, args=(first,)) for first in range(threads)]
    start_s = time.monotonic()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return time.monotonic() - start_s


WAYS: dict[str, Callable[[Path, Kind, Sequence[bytes], int], float]] = {
    "page cache": page_cache,
    "inbox": inbox,
    "inbox, journal": inbox_and_journal,
}


def run(shape: Shape, folder: Path, seed: int) -> None:
    """Run the benchmark in a folder on the disk that is measured, and print it."""
    order = random.Random(seed)
    speeds: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    turns = [(kind, threads, way) for kind in shape.objects for threads in shape.threads for way in WAYS]
    pixels = {kind: noise(KINDS[kind].pixel_bytes) for kind in shape.objects}
    for repetition in range(shape.repetitions):
        for kind, threads, way in order.sample(turns, len(turns)):
            objects = [header(KINDS[kind], number) + pixels[kind] for number in range(shape.objects[kind])]
            place = folder / f"{repetition}-{kind}-{threads}-{way.replace(', ', '-').replace(' ', '-')}"
            place.mkdir()
            os.sync()
            speeds[kind, threads, way].append(len(objects) / WAYS[way](place, KINDS[kind], objects, threads))
    rows, ratios = [], {}
    for kind, threads, way in turns:
        median = statistics.median(speeds[kind, threads, way])
        ratio = median / statistics.median(speeds[kind, threads, "page cache"])
        rows.append([kind, threads, way, f"{median:.0f}", f"{ratio:.2f}"])
        if way != "page cache":
            ratios[f"{kind}_{threads}_{way.replace(', ', '_')}_vs_page_cache"] = ratio
    print_report("disk", columns=("kind", "threads", "way", "objects/s", "x page cache"), rows=rows, ratios=ratios)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.disk", description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few objects: shows that it runs")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--seed", type=int, default=7, help="of the order of turns")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="wetread-disk-", dir=options.folder) as folder:
        run(SMALL if options.small else FULL, Path(folder), options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
