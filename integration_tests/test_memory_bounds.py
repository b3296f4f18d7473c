"""No object takes memory or the gate: what is huge for whoever believes it, against every process that looks at it."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text

from dicom_node.tests.wire import Wire, associate_rq, command, data_set, pdu
from integration_tests import foreign
from integration_tests import heavy_objects as heavy
from integration_tests.heavy_objects import DEFLATED, EXPLICIT, GIB, KEY_OBJECT, MIB, RLE, HeavyObject
from integration_tests.listener_process import ListenerProcess, listener
from integration_tests.settings import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: What no process may take, however large what it looks at claims to be.
MOST_MEMORY_BYTES = 512 * MIB
_CONTEXTS = [
    (heavy.CT, [EXPLICIT]),
    (heavy.CT, [DEFLATED]),
    (KEY_OBJECT, [DEFLATED]),
]


def _long_before_admission_id(uid: str) -> HeavyObject:
    """330 MiB in one private element between the UIDs and (0038,0010)."""
    return HeavyObject(
        sop_instance_uid=uid,
        parts=[
            heavy.class_and_instance(uid) + heavy.study_and_series(),
            *heavy.long_element(0x0029, 0x1010, b"OB", 330 * MIB),
            heavy.element(0x0038, 0x0010, b"LO", b"V1"),
        ],
    )


def _key_object_of_6_gib(uid: str, group: int) -> HeavyObject:
    """A key object of 6 MB that inflates to 6 GiB."""
    return HeavyObject(
        sop_instance_uid=uid,
        sop_class_uid=KEY_OBJECT,
        transfer_syntax_uid=DEFLATED,
        parts=[
            heavy.class_and_instance(uid, KEY_OBJECT, b"KO") + heavy.study_and_series(),
            *heavy.long_element(group, 0x1010, b"OB", 3 * GIB),
            *heavy.long_element(group, 0x1011, b"OB", 3 * GIB),
        ],
    )


def _of_8_million_elements(uid: str, group: int, transfer_syntax_uid: str = DEFLATED) -> HeavyObject:
    """12 MB deflated with eight million elements."""
    before, after = (b"", heavy.study_and_series()) if group < 0x0020 else (heavy.study_and_series(), b"")
    many = heavy.many_elements(group, 8_000_000)
    return HeavyObject(
        sop_instance_uid=uid,
        transfer_syntax_uid=transfer_syntax_uid,
        parts=[heavy.class_and_instance(uid) + before, many, after],
    )


class _Bystander(threading.Thread):
    """Another sender, one small object after the other."""

    def __init__(self, port: int) -> None:
        super().__init__(name="bystander", daemon=True)
        self._port = port
        self._enough = threading.Event()
        self.statuses: list[int] = []

    def run(self) -> None:
        with Wire(self._port, associate_rq(calling="CT02"), timeout_s=60.0) as wire:
            while not self._enough.wait(0.02):
                uid = f"1.2.9.{len(self.statuses)}"
                self.statuses.append(wire.store(data_set(uid, study="1.2.9"), uid))

    def stop(self) -> None:
        self._enough.set()
        self.join(60.0)
        assert not self.is_alive()


@contextmanager
def _with_a_bystander(running: ListenerProcess) -> Iterator[_Bystander]:
    bystander = _Bystander(running.port)
    bystander.start()
    try:
        yield bystander
    finally:
        bystander.stop()


def _send(port: int, one: HeavyObject) -> int:
    wanted = (one.sop_class_uid, [one.transfer_syntax_uid])
    context = 2 * _CONTEXTS.index(wanted) + 1
    with Wire(port, associate_rq(contexts=_CONTEXTS), timeout_s=120.0) as wire:
        wire.send(pdu((context, 3, command(0x0001, one.sop_class_uid, one.sop_instance_uid))))
        waiting = b""
        for piece in one.pieces():
            if waiting:
                wire.send(pdu((context, 0, waiting)))
            waiting = piece
        wire.send(pdu((context, 2, waiting)))
        return wire.status()


def _peak_bytes(pid: int | str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError(pid)


def _admission_ids(running: ListenerProcess) -> dict[str, str]:
    engine = create_engine(f"sqlite:///{running.data_directory / 'wetread.sqlite'}")
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT sop_instance_uid, header FROM instance")).all()
    finally:
        engine.dispose()
    return {uid: json.loads(header)["admission_id"] for uid, header in found}


def _reasons(running: ListenerProcess) -> dict[str, str]:
    found = (running.data_directory / "inbox-refused").glob("*.reason")
    return {path.name.split("_")[0]: path.read_text().strip() for path in found}


def test_the_four_objects_that_took_memory_and_the_gate_take_neither(tmp_path: Path) -> None:
    sent = {
        "1.2.3.1": (_long_before_admission_id("1.2.3.1"), 0x0000, ""),
        "1.2.3.2": (_key_object_of_6_gib("1.2.3.2", 0x0029), 0x0000, "header_over_bounds"),
        "1.2.3.3": (_key_object_of_6_gib("1.2.3.3", 0x0041), 0x0000, "header_over_bounds"),
        # Its UIDs stand behind the elements, beside them, and before them in every other way.
        "1.2.3.4": (_of_8_million_elements("1.2.3.4", 0x0019), 0xA900, None),
        "1.2.3.5": (_of_8_million_elements("1.2.3.5", 0x0029), 0x0000, "header_over_bounds"),
        "1.2.3.6": (_of_8_million_elements("1.2.3.6", 0x0041), 0x0000, ""),
    }
    with listener(tmp_path / "data", options={"processes": 2}) as running:
        with _with_a_bystander(running) as bystander:
            statuses = {uid: _send(running.port, one) for uid, (one, _, _) in sent.items()}
            rows = {uid for uid, (_, _, end) in sent.items() if end == ""}
            aside = {uid: end for uid, (_, _, end) in sent.items() if end}
            foreign.wait_until(
                lambda: rows <= _admission_ids(running).keys() and aside == _reasons(running), timeout_s=120.0
            )
        peaks = {one.pid: _peak_bytes(one.pid) for one in running.family() if one.status() != psutil.STATUS_ZOMBIE}
        found, log = _admission_ids(running), running.log.read_text()

    assert statuses == {uid: status for uid, (_, status, _) in sent.items()}
    assert set(bystander.statuses) == {0x0000}
    assert len(bystander.statuses) > 20
    assert found["1.2.3.1"] == "V1"
    assert found.keys().isdisjoint(aside)
    assert "recorder_ended" not in log
    assert len(peaks) == 4
    assert max(peaks.values()) < MOST_MEMORY_BYTES, peaks


#: What a process of its own prints: what became of the files, and the most memory that it took.
_MEASURED = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
{body}
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
print(json.dumps([found, int(peak.split()[1]) * 1024]))
"""

_INDEXES = """
from casebook.errors import InvalidObject
from dicom_node.index.description import describe
from dicom_node.storage.inbox import StoredInstance
path = Path(sys.argv[1])
stored = StoredInstance(path=path.name, size_bytes=path.stat().st_size, received_at=0.0)
try:
    found = describe(path.parent, stored, lambda _title, _modality: 30.0).header.admission_id
except InvalidObject as error:
    found = type(error).__name__
"""

_READS = """
from casebook.errors import UnreadablePixels
from worker.reader.decode import open_picture, stored_frames
from worker.reader.views import describe
try:
    describe(Path(sys.argv[1]))
    found = sum(frame.size for frame in stored_frames(open_picture(Path(sys.argv[1]))))
except UnreadablePixels as error:
    found = str(error)
"""

_COMPARES = """
from casebook.settings import WorkerSettings
from dicom_node.objects.classify import _compare, _read
copies = [_read(Path(name)) for name in sys.argv[1:]]
verdict = None if None in copies else _compare(*copies, WorkerSettings().max_image_bytes)
found = "unreadable" if verdict is None else verdict.reason or "variant"
"""


def _measured(body: str, *paths: Path) -> tuple[object, int]:
    program = _MEASURED.format(body=body)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, peak_bytes = json.loads(done.stdout)
    return found, peak_bytes


def _private_sequence_of_600_mib() -> Sequence[heavy.Part]:
    inside = heavy.long_element(0x0029, 0x1011, b"OB", 600 * MIB)
    return [
        heavy.class_and_instance("1.2.3.4") + heavy.study_and_series(),
        heavy.open_sequence(0x0029, 0x1010) + heavy.item(600 * MIB + 12),
        *inside,
        heavy.close_sequence() + heavy.element(0x0038, 0x0010, b"LO", b"V1"),
    ]


def _admission_id_of_600_mib() -> Sequence[heavy.Part]:
    begin = heavy.class_and_instance("1.2.3.4") + heavy.study_and_series()
    return [begin, *heavy.long_element(0x0038, 0x0010, b"UN", 600 * MIB)]


def _beyond_2_gib() -> Sequence[heavy.Part]:
    begin = heavy.class_and_instance("1.2.3.4") + heavy.study_and_series()
    long = heavy.long_element(0x0029, 0x1010, b"OB", 3 * GIB)
    return [begin, *long, heavy.element(0x0038, 0x0010, b"LO", b"V1")]


def _odd_header() -> Sequence[heavy.Part]:
    # A VR that does not exist: only the reader that forgives more goes on from here.
    begin = heavy.class_and_instance("1.2.3.4") + heavy.study_and_series() + b"\x21\x00\x10\x00ZZ\x00\x00"
    return [begin, heavy.many_elements(0x0029, 8_000_000), heavy.element(0x0038, 0x0010, b"LO", b"V1")]


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        (_private_sequence_of_600_mib(), "V1"),
        (_beyond_2_gib(), "V1"),
        (_admission_id_of_600_mib(), "OverBounds"),
        (_odd_header(), "OverBounds"),
    ],
    ids=["in a private sequence", "beyond 2 GiB", "the value itself", "with an odd VR"],
)
def test_what_is_long_in_a_header_is_passed_or_refused_and_never_read(
    tmp_path: Path, parts: Sequence[heavy.Part], found: str
) -> None:
    path = HeavyObject(sop_instance_uid="1.2.3.4", parts=parts).write(tmp_path / "heavy.dcm")

    became, peak_bytes = _measured(_INDEXES, path)

    assert became == found
    assert peak_bytes < MOST_MEMORY_BYTES


def _picture(*behind: heavy.Part, before: Sequence[heavy.Part] = (), rows: int = 1, bits: int = 8) -> list[heavy.Part]:
    begin = heavy.class_and_instance("1.2.3.4") + heavy.study_and_series() + heavy.image_module(rows, rows, bits)
    return [begin, *before, *behind]


_TOO_LARGE = "The header of the image is too large, or the file inflates to too much."


@pytest.mark.parametrize(
    ("one", "found"),
    [
        (_of_8_million_elements("1.2.3.4", 0x0041), _TOO_LARGE),
        (
            HeavyObject(
                sop_instance_uid="1.2.3.4",
                parts=_picture(
                    heavy.element(0x7FE0, 0x0010, b"OW", b"\1\2"),
                    before=[heavy.head(0x0040, 0xA730, b"SQ", 15 * MIB), heavy.item() * (15 * MIB // 8)],
                ),
            ),
            _TOO_LARGE,
        ),
        (
            HeavyObject(
                sop_instance_uid="1.2.3.4",
                parts=_picture(heavy.head(0x7FE0, 0x0010, b"OW", 2 * GIB), b"\1", heavy.Zeros(size_bytes=2 * GIB - 1)),
            ),
            1,
        ),
        (
            HeavyObject(
                sop_instance_uid="1.2.3.4",
                transfer_syntax_uid=DEFLATED,
                parts=_picture(*heavy.long_element(0x7FE0, 0x0010, b"OW", 256 * MIB), rows=1 << 14),
            ),
            "The image declares a size over the limit of this site.",
        ),
        (
            HeavyObject(
                sop_instance_uid="1.2.3.4",
                transfer_syntax_uid=RLE,
                parts=_picture(heavy.encapsulated(*[b""] * 3_000_000)),
            ),
            _TOO_LARGE,
        ),
    ],
    ids=["elements", "items", "behind the picture", "deflated frame", "fragments"],
)
def test_a_picture_that_takes_too_much_is_refused_in_words(tmp_path: Path, one: HeavyObject, found: object) -> None:
    became, peak_bytes = _measured(_READS, one.write(tmp_path / "heavy.dcm"))

    assert peak_bytes < MOST_MEMORY_BYTES
    assert became == found


def _deflated_gib(*, described: bytes = b"", last: bytes = b"\0\0") -> HeavyObject:
    size = GIB - len(last)
    pixels: list[heavy.Part] = [heavy.head(0x7FE0, 0x0010, b"OW", GIB), heavy.Zeros(size_bytes=size), last]
    return HeavyObject(
        sop_instance_uid="1.2.3.4",
        transfer_syntax_uid=DEFLATED,
        parts=[
            heavy.class_and_instance("1.2.3.4")
            + heavy.element(0x0018, 0x1030, b"LO", described)
            + heavy.study_and_series()
            + heavy.image_module(1 << 15, 1 << 15),
            *pixels,
        ],
    )


def _rle_gib(described: bytes, value: int = 0) -> HeavyObject:
    run = bytes([129, value]) * (GIB // 128)
    frame = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + run
    return HeavyObject(
        sop_instance_uid="1.2.3.4",
        transfer_syntax_uid=RLE,
        parts=[
            heavy.class_and_instance("1.2.3.4")
            + heavy.element(0x0018, 0x1030, b"LO", described)
            + heavy.study_and_series()
            + heavy.image_module(1 << 15, 1 << 15)
            + heavy.encapsulated(frame)
        ],
    )


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (_deflated_gib(), _deflated_gib(described=b"later"), "variant"),
        (_deflated_gib(), _deflated_gib(last=b"\0\1"), "other_pixels"),
        (_rle_gib(b"", 0), _rle_gib(b"later", 0), "variant"),
        (_rle_gib(b"", 0), _rle_gib(b"later", 1), "other_pixels"),
        (_deflated_gib(), _rle_gib(b""), "other_pixels"),
        (_of_8_million_elements("1.2.3.4", 0x0041), _deflated_gib(), "unreadable"),
    ],
    ids=["deflated alike", "deflated unlike", "RLE alike", "RLE unlike", "in two codings", "elements"],
)
def test_two_copies_of_a_gibibyte_are_compared_in_little_memory(
    tmp_path: Path, one: HeavyObject, other: HeavyObject, verdict: str
) -> None:
    paths = [each.write(tmp_path / f"{number}.dcm") for number, each in enumerate((one, other))]

    found, peak_bytes = _measured(_COMPARES, *paths)

    assert found == verdict
    assert peak_bytes < MOST_MEMORY_BYTES
