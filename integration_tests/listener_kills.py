"""kill -9 of the listener in the middle of a burst: what was acknowledged is there, whole, after the restart.

With it goes what a power cut may take: every file that only the journal had made durable is removed, emptied, or
filled with zeros.
"""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.raw_sender import KINDS, Kind, Refused, header, instance_uid, noise
from dicom_node.storage.block_file import Blocks
from dicom_node.storage.file_system import FileSystem
from dicom_node.storage.journal import Journal
from integration_tests.foreign import wait_until
from integration_tests.listener_process import (
    ListenerProcess,
    data_set_of,
    finished,
    listener,
    rows,
    stores_one,
    temporaries,
    wait_for_rows,
)

_ASSOCIATIONS = 4
_OBJECTS_EACH = 100_000
#: Objects that must be acknowledged before the kill, and how much later it may come.
_BURST = 40
_LONGEST_WAIT_S = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one kill left; everything but the first three should be zero or true."""

    acknowledged: int
    #: Files that the power cut took.
    taken: int
    #: Whole objects that were durable when the answer could no longer be sent: at most one an association.
    durable_unanswered: int
    missing: int
    altered: int
    without_row: int
    temporaries_left: int
    set_aside: int
    still_receives: bool

    @property
    def is_clean(self) -> bool:
        """Whether the promise held."""
        nothing = (self.missing, self.altered, self.without_row, self.temporaries_left, self.set_aside)
        return not any(nothing) and self.taken > 0 and self.durable_unanswered <= _ASSOCIATIONS and self.still_receives


@dataclass(slots=True, kw_only=True)
class _Sender:
    """One association that sends until it breaks."""

    kind: Kind
    first_number: int
    acknowledged: set[int] = field(default_factory=set)

    def run(self, running: ListenerProcess) -> None:
        try:
            association = running.associate()
        except (Refused, OSError):
            return
        try:
            for number in range(self.first_number, self.first_number + _OBJECTS_EACH):
                if association.store(self.kind, number, number % 65535 + 1) == 0:
                    self.acknowledged.add(number)
        except (Refused, OSError):
            # The kill.
            return
        finally:
            association.socket.close()


def kill_once(folder: Path, seed: int) -> Outcome:
    """Kill a fresh listener in a burst, take what was not durable, start it again on the same data, and compare.

    Parameters
    ----------
    folder
        Empty.
    seed
        Decides the moment.
    """
    data_directory = folder / "data"
    kinds = (KINDS["small"], KINDS["ct"])
    senders = [_Sender(kind=kinds[number % 2], first_number=number * _OBJECTS_EACH) for number in range(_ASSOCIATIONS)]
    with listener(data_directory) as running:
        threads = [threading.Thread(target=sender.run, args=(running,)) for sender in senders]
        for thread in threads:
            thread.start()
        wait_until(lambda: sum(len(sender.acknowledged) for sender in senders) >= _BURST, what="a burst")
        time.sleep(Random(seed).uniform(0, _LONGEST_WAIT_S))
        running.kill()
        for thread in threads:
            thread.join()
    taken = _cut_power(data_directory)
    acknowledged = {number: sender.kind for sender in senders for number in sender.acknowledged}
    with listener(data_directory) as again:
        left = temporaries(data_directory)
        whole = finished(data_directory)
        try:
            listed = wait_for_rows(data_directory, len(whole))
        except TimeoutError:
            listed = rows(data_directory)
        still_receives = stores_one(again.port, 9_999_999)
    kind_of = {
        instance_uid(number): (sender.kind, number)
        for sender in senders
        for number in range(sender.first_number, sender.first_number + len(sender.acknowledged) + 1)
    }
    wanted = {instance_uid(number) for number in acknowledged}
    altered = sum(
        uid not in kind_of or data_set_of(path)[1] != _data_set(*kind_of[uid])
        for uid, paths in whole.items()
        for path in paths
    )
    refused = data_directory / "inbox-refused"
    return Outcome(
        acknowledged=len(wanted),
        taken=taken,
        durable_unanswered=len(set(whole) - wanted),
        missing=len(wanted - set(whole)),
        altered=altered,
        without_row=sum(uid not in listed or not listed[uid].is_file() for uid in wanted),
        temporaries_left=len(left),
        set_aside=len(list(refused.iterdir())) if refused.exists() else 0,
        still_receives=still_receives,
    )


def _cut_power(data_directory: Path) -> int:
    inbox = data_directory / "inbox"
    records = list(Journal(inbox, FileSystem(), Blocks()).records())
    for number, (name, content) in enumerate(records):
        path = inbox / name
        match number % 3:
            case 0:
                # The kill may have come before the file.
                path.unlink(missing_ok=True)
            case 1:
                path.write_bytes(b"")
            case _:
                path.write_bytes(bytes(len(content)))
    return len(records)


def _data_set(kind: Kind, number: int) -> bytes:
    return header(kind, number) + noise(kind.pixel_bytes)
