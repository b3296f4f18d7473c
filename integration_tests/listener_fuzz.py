"""Damaged associations by the hundred or thousand against our listener: nothing crashes, nothing is left behind."""

import json
import shutil
import socket
import struct
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from benchmarks.raw_sender import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    ASSOCIATE_RQ,
    CT_IMAGE,
    KINDS,
    LOOPBACK,
    SECONDARY_CAPTURE,
    Association,
    associate_request,
)
from integration_tests import foreign
from integration_tests.listener_process import ListenerProcess, finished, listener, stores_one, wait_until_indexed
from integration_tests.pdu_mutations import mutate, mutate_request
from integration_tests.wire_tap import Tap, split_pdus, tap

SEED = 7
_CLIENTS = 8
#: Short, so that a connection that is held open ends while the fuzzer waits.
_ACSE_TIMEOUT_S = 1.0
_NETWORK_TIMEOUT_S = 1.0
#: The receiver has both timeouts, and some time to notice.
_LONGEST_HOLD_S = _ACSE_TIMEOUT_S + _NETWORK_TIMEOUT_S + 8.0
_ALLOWED_GROWTH_BYTES = 32 * 2**20
#: An answer takes no longer than the time-out; a busy machine gets some more to run both sides.
_LONGEST_ANSWER_S = _ACSE_TIMEOUT_S + 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the fuzzing of one listener showed; everything but the first two should be zero or true."""

    streams: int
    senders_recorded: int
    #: Connections the listener kept beyond its timeouts.
    held_too_long: int
    threads_leaked: int
    descriptors_leaked: int
    temporaries_left: int
    files_not_whole: int
    files_without_row: int
    rss_growth_bytes: int
    is_alive: bool
    still_receives: bool

    @property
    def is_clean(self) -> bool:
        """Whether nothing is to be complained about."""
        nothing = (
            self.held_too_long,
            self.threads_leaked,
            self.descriptors_leaked,
            self.temporaries_left,
            self.files_not_whole,
            self.files_without_row,
        )
        return (
            not any(nothing)
            and self.rss_growth_bytes <= _ALLOWED_GROWTH_BYTES
            and self.is_alive
            and self.still_receives
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutcome:
    """What damaged requests for an association showed; each has one of the first four ends."""

    requests: int
    accepted: int
    rejected: int
    aborted: int
    #: Of a request that never became whole.
    closed: int
    #: Neither answered nor closed within the ACSE time-out, or answered by something else.
    unanswered: int
    threads_leaked: int
    descriptors_leaked: int
    is_alive: bool
    still_receives: bool

    @property
    def is_clean(self) -> bool:
        """Whether nothing is to be complained about."""
        nothing = self.unanswered or self.threads_leaked or self.descriptors_leaked
        return not nothing and self.is_alive and self.still_receives


def fuzz_requests(folder: Path, n: int, *, seed: int = SEED) -> RequestOutcome:
    """Ask a fresh listener for associations by damaged requests, each of which has to be answered in time.

    Parameters
    ----------
    folder
        Empty.
    n
        Requests to send.
    seed
        With its number, makes each request.
    """
    options = {"acse_timeout_s": _ACSE_TIMEOUT_S, "network_timeout_s": _NETWORK_TIMEOUT_S}
    with listener(folder / "data", options=options) as running:
        # What is loaded on first use is part of the base.
        for number in range(4):
            stores_one(running.port, number)
        base = running.resources()
        with ThreadPoolExecutor(_CLIENTS) as pool:
            ends = Counter(pool.map(partial(_ask_number, running.port, seed), range(n)))
        with suppress(TimeoutError):
            running.wait_until_idle(base, timeout_s=_LONGEST_HOLD_S)
        is_alive = running.running.poll() is None
        left = running.resources() if is_alive else base
        return RequestOutcome(
            requests=sum(ends.values()),
            accepted=ends["accepted"],
            rejected=ends["rejected"],
            aborted=ends["aborted"],
            closed=ends["closed"],
            unanswered=ends["unanswered"],
            threads_leaked=max(0, left.threads - base.threads),
            descriptors_leaked=max(0, left.descriptors - base.descriptors),
            is_alive=is_alive,
            still_receives=is_alive and stores_one(running.port, 999_999),
        )


def _ask_number(port: int, seed: int, number: int) -> str:
    request = mutate_request(associate_request(), Random(f"{seed}:{number}"))
    is_whole = len(request) >= 6 + int.from_bytes(request[2:6], "big")
    deadline = time.monotonic() + _LONGEST_ANSWER_S
    with closing(socket.create_connection((LOOPBACK, port), timeout=5.0)) as connection:
        connection.sendall(request)
        # Our side stays open: the answer does not wait for us to go.
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            kind = connection.recv(1)
        except ConnectionResetError:
            kind = b""
        except TimeoutError:
            return "unanswered"
    if not kind:
        return "unanswered" if is_whole else "closed"
    answers = {ASSOCIATE_AC: "accepted", ASSOCIATE_RJ: "rejected", ABORT: "aborted"}
    return answers.get(kind[0], "unanswered")


def record(running: ListenerProcess, folder: Path) -> list[list[bytes]]:
    """Record real associations of every sender at hand, each as the list of its PDUs.

    Parameters
    ----------
    folder
        Empty; holds the files that are sent.
    """
    paths = [_write_file(folder, number) for number in range(3)]
    with tap(running.port) as tapping:
        _send_by_hand(tapping)
        _send_with_pynetdicom(tapping, paths)
        for name, options in (("dcmsend", ["-aec", "WETREAD"]), ("storescu", ["-aec", "WETREAD"])):
            # The proof needs DCMTK, a developer's machine may lack it.
            if shutil.which(name):
                foreign.run([name, *options, LOOPBACK, str(tapping.port), *paths])
        return [split_pdus(recording.from_sender) for recording in tapping.recordings]


def fuzz(folder: Path, n: int, *, seed: int = SEED) -> Outcome:
    """Send damaged associations to a fresh listener and look at what is left.

    Parameters
    ----------
    folder
        Empty.
    n
        Streams to send.
    seed
        With its number, makes each stream.
    """
    options = {
        "acse_timeout_s": _ACSE_TIMEOUT_S,
        "network_timeout_s": _NETWORK_TIMEOUT_S,
        "max_associations": 64,
        "max_associations_per_ae": 64,
    }
    with listener(folder / "data", options=options) as running:
        recorded = record(running, folder / "sent")
        base = running.resources()
        # Buffers and arenas of the first associations are kept for the next ones: that is no leak.
        warm_up = min(n, max(100, n // 20))
        with ThreadPoolExecutor(_CLIENTS) as pool:
            play_one = partial(_play_number, running.port, recorded, seed)
            held = sum(pool.map(play_one, range(warm_up)))
            warm = running.resources().rss_bytes
            held += sum(pool.map(play_one, range(warm_up, n)))
        with suppress(TimeoutError):
            running.wait_until_idle(base, timeout_s=_LONGEST_HOLD_S)
        is_alive = running.running.poll() is None
        still_receives = is_alive and stores_one(running.port, 999_999)
        with suppress(TimeoutError):
            running.wait_until_idle(base, timeout_s=_LONGEST_HOLD_S)
        left = running.resources() if is_alive else replace(base, rss_bytes=0)
        without_row = wait_until_indexed(running.data_directory)
        files = [path for paths in finished(running.data_directory).values() for path in paths]
        return Outcome(
            streams=n,
            senders_recorded=len(recorded),
            held_too_long=held,
            threads_leaked=max(0, left.threads - base.threads),
            descriptors_leaked=max(0, left.descriptors - base.descriptors),
            temporaries_left=len(running.temporaries()),
            files_not_whole=sum(not _is_whole(path) for path in files),
            files_without_row=len(without_row),
            rss_growth_bytes=max(0, left.rss_bytes - warm),
            is_alive=is_alive,
            still_receives=still_receives,
        )


def play(port: int, pieces: Sequence[bytes], random: Random) -> bool:
    """Send one damaged association in torn TCP segments, and say whether the listener held on too long.

    Parameters
    ----------
    pieces
        Sent in order; after an intact A-ASSOCIATE-RQ the answer is awaited.
    random
        Decides the segments and the end: closed, reset, or held open until the listener closes.
    """
    with closing(socket.create_connection((LOOPBACK, port), timeout=5.0)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            for number, piece in enumerate(pieces):
                _send_torn(connection, piece, random)
                if number == 0 and piece[:1] == bytes([ASSOCIATE_RQ]):
                    connection.settimeout(0.25)
                    with suppress(TimeoutError):
                        connection.recv(65536)
                    connection.settimeout(5.0)
        end = random.random()
        with suppress(OSError):
            if end < 0.3:
                # No FIN: the listener gets a reset.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif end < 0.95:
                connection.settimeout(0.05)
                while connection.recv(65536):
                    pass
            else:
                return not _closes(connection)
    return False


def _closes(connection: socket.socket) -> bool:
    deadline = time.monotonic() + _LONGEST_HOLD_S
    while (left_s := deadline - time.monotonic()) > 0:
        connection.settimeout(left_s)
        try:
            if not connection.recv(65536):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


def _send_torn(connection: socket.socket, piece: bytes, random: Random) -> None:
    if random.random() < 0.7:
        connection.sendall(piece)
        return
    while piece:
        size_bytes = random.choice((1, 5, 7, 100, 4096, 20000))
        connection.sendall(piece[:size_bytes])
        piece = piece[size_bytes:]


def _play_number(port: int, recorded: Sequence[Sequence[bytes]], seed: int, number: int) -> bool:
    random = Random(f"{seed}:{number}")
    return play(port, mutate(random.choice(recorded), random), random)


def _is_whole(path: Path) -> bool:
    # The name ends with the size the file had when it was made durable.
    return path.stat().st_size == int(path.stem.split("_")[-1], 16)


def _send_by_hand(tapping: Tap) -> None:
    association = Association(tapping.port)
    association.echo()
    association.store(replace(KINDS["ct"], rows=32, columns=32), 900_001, 2)
    association.store(KINDS["small"], 900_002, 3)
    association.release()


def _send_with_pynetdicom(tapping: Tap, paths: Sequence[Path]) -> None:
    entity = AE("CT02")
    for sop_class in (CT_IMAGE, SECONDARY_CAPTURE):
        entity.add_requested_context(sop_class, [ExplicitVRLittleEndian])
    association = entity.associate(LOOPBACK, tapping.port, ae_title="WETREAD")
    for path in paths:
        association.send_c_store(path)
    association.release()


def _write_file(folder: Path, number: int) -> Path:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = SECONDARY_CAPTURE, f"2.25.41{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.42", "2.25.43"
    ds.PatientID, ds.PatientName, ds.Modality = "FUZZ1", "Synthetic^Fuzz", "OT"
    ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.StudyID = ""
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 48, 48, 1, 8, 8, 7
    ds.PixelRepresentation, ds.PhotometricInterpretation, ds.PixelData = 0, "MONOCHROME2", bytes(48 * 48)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def log_summary(log: Path) -> Counter[str]:
    """Count the events of a listener's log; a line that is no event counts as ``unstructured``."""
    found: Counter[str] = Counter()
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
            found[f"{event['level']} {event['event']}"] += 1
        except (ValueError, KeyError, TypeError):
            found["unstructured"] += 1
    return found
