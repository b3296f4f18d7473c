"""What an append-only inbox segment would gain over a file per object: the disk part of receiving, without a network.

``python -m benchmarks.segment [--small]``. Threads make objects durable one after the other, as associations do, in
three ways: a file per object, as `dicom_node.inbox` ships it; appended to one preallocated segment, with one
fdatasync for all objects that came meanwhile; and the same with the segment split into files by a thread in the
background, which has to happen at some time, because every reader of the house reads files. The last one counts from
the first object until every file is flushed, so it is what a sender sees that does not stop.
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
from queue import SimpleQueue

from benchmarks.evidence import print_report
from benchmarks.raw_sender import KINDS, Kind, header, instance_uid, noise
from dicom_node.inbox import Envelope, Inbox

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large the benchmark is."""

    objects: dict[str, int]
    threads: Sequence[int]
    repetitions: int


FULL = Shape(objects={"small": 1200, "ct": 240}, threads=(1, 4, 8), repetitions=5)
SMALL = Shape(objects={"small": 24, "ct": 8}, threads=(1, 4), repetitions=1)


class Segment:
    """One preallocated file that objects are appended to; a flush covers everyone who wrote before it began."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        os.posix_fallocate(self.descriptor, 0, size_bytes)
        os.fsync(self.descriptor)
        self._end = 0
        self._condition = threading.Condition()
        self._next_flush = 1
        self._flushed = 0
        self._is_flushing = False

    def append(self, content: bytes) -> int:
        """Return the offset of an object once it is durable."""
        with self._condition:
            offset, self._end = self._end, self._end + len(content)
        written = 0
        while written < len(content):
            written += os.pwrite(self.descriptor, memoryview(content)[written:], offset + written)
        self._flush()
        return offset

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def _flush(self) -> None:
        with self._condition:
            # A flush that runs already may have missed us; the next one has not.
            wanted = self._next_flush
            while self._flushed < wanted:
                if self._is_flushing:
                    self._condition.wait()
                    continue
                self._is_flushing = True
                number, self._next_flush = self._next_flush, self._next_flush + 1
                self._condition.release()
                try:
                    os.fdatasync(self.descriptor)
                finally:
                    self._condition.acquire()
                self._flushed, self._is_flushing = number, False
                self._condition.notify_all()


def file_per_object(folder: Path, kind: Kind, objects: Sequence[bytes], threads: int) -> float:
    """Make objects durable as the inbox does and return the seconds it took."""
    with closing(Inbox(folder)) as inbox:

        def keep(number: int, content: bytes) -> None:
            envelope = Envelope(
                sop_class_uid=kind.sop_class_uid,
                sop_instance_uid=instance_uid(number),
                transfer_syntax_uid=EXPLICIT_LITTLE_ENDIAN,
                calling_ae_title="CT01",
            )
            arrival = inbox.arrival(envelope)
            arrival.write([content])
            arrival.commit()

        return _run(objects, threads, keep)


def segment_only(folder: Path, _kind: Kind, objects: Sequence[bytes], threads: int) -> float:
    """Append objects to a segment and return the seconds until the last is durable there."""
    with closing(Segment(folder / "segment", sum(map(len, objects)))) as segment:
        return _run(objects, threads, lambda _, content: segment.append(content))


def segment_and_split(folder: Path, _kind: Kind, objects: Sequence[bytes], threads: int) -> float:
    """Append objects to a segment, split it meanwhile, and return the seconds until every file is durable."""
    written: SimpleQueue[tuple[int, int, int] | None] = SimpleQueue()
    with closing(Segment(folder / "segment", sum(map(len, objects)))) as segment:
        splitter = threading.Thread(target=_split, args=(segment.descriptor, folder, written))
        splitter.start()
        start_s = time.monotonic()
        _run(objects, threads, lambda number, content: written.put((number, segment.append(content), len(content))))
        written.put(None)
        splitter.join()
        return time.monotonic() - start_s


def _split(descriptor: int, folder: Path, written: "SimpleQueue[tuple[int, int, int] | None]") -> None:
    while (one := written.get()) is not None:
        number, offset, size_bytes = one
        temporary = folder / f".{number}.tmp"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        copied = 0
        while copied < size_bytes:
            # In the kernel, and without the interpreter's lock.
            copied += os.sendfile(file, descriptor, offset + copied, size_bytes - copied)
        temporary.rename(folder / f"{number}.dcm")
        os.fsync(file)
        os.close(file)


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
    "file per object": file_per_object,
    "segment": segment_only,
    "segment, split": segment_and_split,
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
            place = folder / f"{repetition}-{kind}-{threads}-{way.replace(' ', '-')}"
            place.mkdir()
            os.sync()
            speeds[kind, threads, way].append(len(objects) / WAYS[way](place, KINDS[kind], objects, threads))
    rows, ratios = [], {}
    for kind, threads, way in turns:
        median = statistics.median(speeds[kind, threads, way])
        ratio = median / statistics.median(speeds[kind, threads, "file per object"])
        rows.append([kind, threads, way, f"{median:.0f}", f"{ratio:.2f}"])
        if way != "file per object":
            ratios[f"{kind}_{threads}_{way.replace(', ', '_')}_vs_file"] = ratio
    print_report(
        "segment", columns=("kind", "threads", "way", "objects/s", "x file per object"), rows=rows, ratios=ratios
    )


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.segment", description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few objects: shows that it runs")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--seed", type=int, default=7, help="of the order of turns")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="wetread-segment-", dir=options.folder) as folder:
        run(SMALL if options.small else FULL, Path(folder), options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
