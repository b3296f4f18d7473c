"""The listener against hostile, broken and foreign senders, on real sockets, in a process of its own."""

import contextlib
import json
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from random import Random

import pytest
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from benchmarks.raw_sender import (
    ABORT,
    ASSOCIATE_RQ,
    CT_IMAGE,
    KINDS,
    LOOPBACK,
    P_DATA,
    SECONDARY_CAPTURE,
    VERIFICATION,
    Association,
    Refused,
    associate_request,
    context_of,
    data_pdus,
    fragment,
    header,
    instance_uid,
    noise,
    pdu,
    store_command,
    store_stream,
)
from casebook.settings import ListenerSettings
from integration_tests import foreign
from integration_tests.listener_fuzz import fuzz, log_summary
from integration_tests.listener_kills import kill_once
from integration_tests.listener_process import (
    ListenerProcess,
    Resources,
    data_set_of,
    finished,
    listener,
    stores_one,
    wait_for_rows,
    wait_until_indexed,
)
from integration_tests.pdu_mutations import mutate
from integration_tests.wire_tap import Tap, Transferred, tap

SMALL = KINDS["small"]
CT = KINDS["ct"]
#: The tests' listener gives up after 2 s (ACSE) and 3 s (network); a busy machine gets some more.
PATIENCE_S = 15.0
PROCESSES = ListenerSettings().processes
MAX_ASSOCIATIONS = 6
MAX_ASSOCIATIONS_PER_AE = 4


def real_files(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that sends every real file; their oddities make pydicom warn."""
    for mark in (
        pytest.mark.corpus,
        pytest.mark.timeout(900),
        pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning"),
    ):
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListenerProcess]:
    """A listener that all tests of this file share; each must leave it as it found it."""
    options = {
        "max_associations": MAX_ASSOCIATIONS,
        "max_associations_per_ae": MAX_ASSOCIATIONS_PER_AE,
        "allowed_calling_ae_titles": ["CT01", "CT02"],
    }
    with listener(tmp_path_factory.mktemp("listener") / "data", options=options) as process:
        # What is loaded on first use is part of the base.
        for number in range(PROCESSES):
            assert stores_one(process.port, number)
        yield process


@pytest.fixture
def base(running: ListenerProcess) -> Iterator[Resources]:
    """What the listener holds at rest; afterwards it must hold no more, and still receive."""
    # An association of the test before may still be ending. What is left: main thread, acceptor, indexer; for each child
    # a forwarder, and its main thread, lobby, indexer and
    # journal.
    before = running.wait_until_idle(Resources(threads=3 + 5 * PROCESSES, descriptors=50, rss_bytes=0))
    yield before
    running.wait_until_idle(before)
    assert running.temporaries() == []
    assert stores_one(running.port, 2)


def _ends(connection: socket.socket, timeout_s: float = PATIENCE_S) -> bytes:
    """Read until the listener closes, and return what it said before; fails when it does not close in time."""
    connection.settimeout(timeout_s)
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            said += part
    connection.close()
    return said


# --------------------------------------------------------------------------------------- reject paths


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        (associate_request(called="NOBODY"), "result 1 source 1 reason 7"),
        (associate_request(calling="STRANGER"), "result 1 source 1 reason 3"),
        (associate_request(application_context="1.2.840.10008.3.1.1.2"), "result 1 source 1 reason 2"),
        (associate_request(protocol_version=2), "result 1 source 2 reason 2"),
    ],
    ids=["called AE title", "calling AE title", "application context", "protocol version"],
)
def test_an_association_we_do_not_want_is_rejected_with_its_reason(
    running: ListenerProcess, base: Resources, request_bytes: bytes, reason: str
) -> None:
    # PS3.8 table 9-21.
    with pytest.raises(Refused, match=reason):
        Association(running.port, request=request_bytes, timeout_s=PATIENCE_S)


def test_one_sender_cannot_take_all_associations(running: ListenerProcess, base: Resources) -> None:
    held = [running.associate(calling="CT01") for _ in range(MAX_ASSOCIATIONS_PER_AE)]

    with pytest.raises(Refused, match="result 2 source 3 reason 2"):
        running.associate(calling="CT01")
    other = running.associate(calling="CT02")

    assert other.store(SMALL, 10) == 0
    for association in (*held, other):
        association.release()


def test_a_released_association_leaves_its_place_at_once(tmp_path: Path) -> None:
    # A modality that opens one association for each image, at a site that allows it one.
    with listener(tmp_path / "data", options={"max_associations_per_ae": 1}) as process:
        for number in range(50):
            association = process.associate()
            assert association.store(SMALL, number) == 0
            association.release()


def test_more_associations_than_allowed_are_rejected_for_now(running: ListenerProcess, base: Resources) -> None:
    held = [running.associate(calling=f"CT0{number % 2 + 1}") for number in range(MAX_ASSOCIATIONS)]

    with pytest.raises(Refused, match="result 2 source 3 reason 2"):
        running.associate(calling="CT02")

    assert [association.echo() for association in held] == [0] * MAX_ASSOCIATIONS
    for association in held:
        association.release()


def test_a_peer_outside_the_allowed_networks_gets_no_answer(tmp_path: Path) -> None:
    with (
        listener(tmp_path / "data", options={"allowed_networks": ["192.0.2.0/24"]}) as closed,
        socket.create_connection((LOOPBACK, closed.port), timeout=PATIENCE_S) as connection,
    ):
        with contextlib.suppress(OSError):
            connection.sendall(associate_request())
        assert _ends(connection) == b""


def test_contexts_that_are_no_storage_are_refused_one_by_one(running: ListenerProcess, base: Resources) -> None:
    study_root_find = "1.2.840.10008.5.1.4.1.2.2.1"
    contexts: list[tuple[str, list[str]]] = [
        (VERIFICATION, [ImplicitVRLittleEndian]),
        (study_root_find, [ImplicitVRLittleEndian]),
        (CT_IMAGE, ["1.2.3.4.5"]),
        # A private SOP class (PS3.5 B.2) is somebody's images.
        ("1.3.12.2.1107.5.9.1", [ExplicitVRLittleEndian]),
    ]

    association = Association(running.port, request=associate_request(contexts=contexts), timeout_s=PATIENCE_S)

    # PS3.8 table 9-18: 3 abstract syntax, 4 transfer syntaxes not supported.
    assert association.results == {1: 0, 3: 3, 5: 4, 7: 0}
    association.release()


def test_an_object_on_a_context_that_was_not_accepted_ends_the_association(
    running: ListenerProcess, base: Resources
) -> None:
    association = running.associate()
    command = store_command(SMALL.sop_class_uid, instance_uid(20), 1)
    association.socket.sendall(
        b"".join(data_pdus(99, command, command=True, longest_pdu_bytes=16384))
        + b"".join(data_pdus(99, header(SMALL, 20), command=False, longest_pdu_bytes=16384))
    )

    with pytest.raises(Refused):
        association.answer()
    association.socket.close()
    assert instance_uid(20) not in finished(running.data_directory)


@pytest.mark.parametrize("uid", ["", "../../etc/passwd", "1.2.3.4.5"], ids=["none", "a path", "another's"])
def test_an_object_that_is_not_the_instance_its_command_names_is_refused(
    running: ListenerProcess, base: Resources, uid: str
) -> None:
    before = finished(running.data_directory)
    association = running.associate()
    context = context_of(SMALL.sop_class_uid)
    command = store_command(SMALL.sop_class_uid, uid, 1)
    association.socket.sendall(
        b"".join(data_pdus(context, command, command=True, longest_pdu_bytes=16384))
        + b"".join(data_pdus(context, header(SMALL, 21) + noise(20000), command=False, longest_pdu_bytes=16384))
    )

    # PS3.4 table B.2-1, "Data Set does not match SOP Class"; PS3.7 C.4.2, C.5.
    assert association.answer() in {0xA900, 0x0110, 0x0115, 0x0117}
    assert association.store(SMALL, 22, 2) == 0
    association.release()
    assert set(finished(running.data_directory)) - set(before) <= {instance_uid(22)}


# -------------------------------------------------------------------------------- stalls and lengths


def test_silent_connections_cost_nobody_a_place(running: ListenerProcess, base: Resources) -> None:
    silent = [socket.create_connection((LOOPBACK, running.port), timeout=PATIENCE_S) for _ in range(60)]

    held = running.resources()
    association = running.associate()
    assert association.store(SMALL, 30) == 0
    association.release()
    # A descriptor each, and no thread.
    assert held.threads <= base.threads
    # After the ACSE timeout they are closed from our side.
    assert [_ends(connection) for connection in silent] == [b""] * len(silent)


@pytest.mark.parametrize("sent_bytes", [1, 5, 6, 40, -1], ids=["1", "5", "header", "40", "all but one"])
def test_a_request_that_never_ends_is_given_up(running: ListenerProcess, base: Resources, sent_bytes: int) -> None:
    with socket.create_connection((LOOPBACK, running.port), timeout=PATIENCE_S) as connection:
        connection.sendall(associate_request()[:sent_bytes])
        _ends(connection)


def test_a_sender_that_stalls_in_mid_pdu_is_given_up(running: ListenerProcess, base: Resources) -> None:
    association = running.associate()
    stream = store_stream(CT, 31, message_id=1, longest_pdu_bytes=association.longest_pdu_bytes)
    association.socket.sendall(stream[: len(stream) // 2 + 17])

    _ends(association.socket)

    assert instance_uid(31) not in finished(running.data_directory)


def test_a_sender_that_stalls_between_two_pdus_of_an_object_is_given_up(
    running: ListenerProcess, base: Resources
) -> None:
    association = running.associate()
    context = context_of(CT.sop_class_uid)
    command = store_command(CT.sop_class_uid, instance_uid(32), 1)
    association.socket.sendall(b"".join(data_pdus(context, command, command=True, longest_pdu_bytes=16384)))
    association.socket.sendall(pdu(P_DATA, fragment(context, 0, header(CT, 32))))

    said = _ends(association.socket)

    assert said[:1] == bytes([ABORT])
    assert instance_uid(32) not in finished(running.data_directory)


def test_a_sender_that_only_trickles_is_given_up(running: ListenerProcess, base: Resources) -> None:
    association = running.associate()
    stream = store_stream(SMALL, 33, message_id=1, longest_pdu_bytes=association.longest_pdu_bytes)
    connection = association.socket
    readable = select.poll()
    readable.register(connection, select.POLLIN)
    deadline = time.monotonic() + PATIENCE_S
    with contextlib.suppress(OSError):
        for byte in stream:
            connection.sendall(bytes([byte]))
            # At most 20 bytes a second; each of them restarts a timer that only knows silence.
            if readable.poll(50):
                break
            assert time.monotonic() < deadline
    connection.close()
    assert instance_uid(33) not in finished(running.data_directory)


@pytest.mark.parametrize("length", [0xFFFFFFF0, 0xFFFFFFFF, 0x7FFFFFFF])
@pytest.mark.parametrize("kind", [ASSOCIATE_RQ, P_DATA, 0x42])
def test_a_pdu_longer_than_anything_allowed_is_not_waited_for(
    running: ListenerProcess, base: Resources, kind: int, length: int
) -> None:
    if kind == ASSOCIATE_RQ:
        connection = socket.create_connection((LOOPBACK, running.port), timeout=PATIENCE_S)
    else:
        connection = running.associate().socket
    memory = running.resources().rss_bytes
    connection.sendall(struct.pack(">BBI", kind, 0, length) + bytes(100_000))

    _ends(connection)

    assert running.resources().rss_bytes - memory < 32 * 2**20


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_sender_that_vanishes_in_mid_object_leaves_nothing(
    running: ListenerProcess, base: Resources, reset: bool
) -> None:
    for number in range(40, 50):
        association = running.associate()
        stream = store_stream(CT, number, message_id=1, longest_pdu_bytes=association.longest_pdu_bytes)
        association.socket.sendall(stream[: len(stream) * 2 // 3])
        if reset:
            association.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        association.socket.close()
        running.wait_until_idle(base)

    assert not {instance_uid(number) for number in range(40, 50)} & set(finished(running.data_directory))


def test_every_packing_of_an_object_gives_the_same_bytes(running: ListenerProcess, base: Resources) -> None:
    random = Random(3)
    association = running.associate()
    for number in range(60, 80):
        data_set = header(SMALL, number) + noise(SMALL.pixel_bytes)
        association.socket.sendall(b"")
        stream = _odd_packing(data_set, number, random)
        while stream:
            size_bytes = random.choice((1, 5, 7, 11, 1000, 4096, 20000))
            association.socket.sendall(stream[:size_bytes])
            stream = stream[size_bytes:]
        assert association.answer() == 0
    association.release()

    stored = finished(running.data_directory)
    for number in range(60, 80):
        assert data_set_of(stored[instance_uid(number)][-1])[1] == header(SMALL, number) + noise(SMALL.pixel_bytes)


def _odd_packing(data_set: bytes, number: int, random: Random) -> bytes:
    """Encode a C-STORE as nobody does and PS3.8 9.3.5 allows: torn commands, tiny and empty fragments, several a PDU."""
    context = context_of(SMALL.sop_class_uid)
    command = store_command(SMALL.sop_class_uid, instance_uid(number), number)
    cut = random.randrange(1, len(command))
    fragments = [(1, command[:cut]), (3, command[cut:])]
    while data_set:
        size_bytes = random.choice((1, 2, 3, 100, 5000, 16000))
        fragments.append((0, data_set[:size_bytes]))
        data_set = data_set[size_bytes:]
    if random.random() < 0.3:
        fragments.append((2, b""))
    else:
        fragments[-1] = (2, fragments[-1][1])
    stream = b""
    while fragments:
        together = random.randint(1, 4)
        stream += pdu(P_DATA, b"".join(fragment(context, control, part) for control, part in fragments[:together]))
        fragments = fragments[together:]
    return stream


# ------------------------------------------------------------------------------------ fuzz and kills


@pytest.mark.slow
def test_three_hundred_damaged_associations_leave_nothing_behind(tmp_path: Path) -> None:
    outcome = fuzz(tmp_path, 300)

    assert outcome.is_clean, outcome
    assert outcome.streams == 300
    assert outcome.senders_recorded >= 2
    events = log_summary(tmp_path / "data.log")
    assert events["unstructured"] == 0, events


def test_a_mutation_changes_the_stream_and_repeats_from_its_seed() -> None:
    recorded = [associate_request(), *data_pdus(3, b"x" * 40000, command=False, longest_pdu_bytes=16384)]
    drawn = [mutate(recorded, Random(number)) for number in range(300)]

    assert drawn == [mutate(recorded, Random(number)) for number in range(300)]
    assert sum(one != recorded for one in drawn) > 250


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_listener_killed_in_a_burst_has_lost_nothing_it_acknowledged(tmp_path: Path, seed: int) -> None:
    outcome = kill_once(tmp_path, seed)

    assert outcome.is_clean, outcome
    assert outcome.acknowledged >= 40


# -------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "wetread-test", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("mount") else None
    if mounted is None or mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _fill(folder: Path, leave_bytes: int) -> Path:
    room = shutil.disk_usage(folder).free
    path = folder / "filler"
    path.write_bytes(bytes(max(0, room - leave_bytes)))
    return path


def test_a_disk_that_fills_refuses_for_now_and_recovers_on_the_same_association(
    small_disk: Path, tmp_path: Path
) -> None:
    database_url = f"sqlite:///{tmp_path / 'wetread.sqlite'}"
    with listener(small_disk / "data", database_url=database_url) as full:
        association = full.associate()
        assert association.store(SMALL, 1, 1) == 0
        filler = _fill(small_disk, leave_bytes=200_000)

        # PS3.4 table B.2-1, "Refused: Out of Resources".
        statuses = [association.store(CT, number, number) for number in range(2, 6)]
        assert statuses == [0xA700] * 4
        assert full.temporaries() == []
        assert set(finished(full.data_directory)) == {instance_uid(1)}

        filler.unlink()
        recovered = foreign.wait_until(lambda: association.store(CT, 7, 7) == 0, what="room again")
        assert recovered
        association.release()
        found = finished(full.data_directory)
        assert data_set_of(found[instance_uid(7)][0])[1] == header(CT, 7) + noise(CT.pixel_bytes)


def test_a_nearly_full_disk_rejects_new_associations_for_now(small_disk: Path, tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path / 'wetread.sqlite'}"
    with listener(small_disk / "data", options={"min_free_bytes": 10_000_000}, database_url=database_url) as full:
        assert stores_one(full.port, 1)
        inside = full.associate()
        filler = _fill(small_disk, leave_bytes=5_000_000)

        def rejected() -> str:
            try:
                full.associate().release()
            except Refused as reason:
                return str(reason)
            return ""

        # PS3.8 table 9-21: transient, presentation layer, temporary congestion.
        assert foreign.wait_until(rejected, what="the gate") == "rejected: result 2 source 3 reason 1"
        # Each process that receives asks the disk for itself, at most five times a second.
        assert foreign.wait_until(lambda: inside.store(SMALL, 2, 2) == 0xA700, what="the gate inside")
        filler.unlink()
        assert foreign.wait_until(lambda: stores_one(full.port, 3), what="the gate to open")
        assert foreign.wait_until(lambda: inside.store(SMALL, 4, 4) == 0, what="the gate inside to open")
        inside.release()


def test_a_disk_full_of_everything_recovers_too(small_disk: Path) -> None:
    # The embedded database lies on the same disk: it refuses as well, and nothing is acknowledged meanwhile.
    with listener(small_disk / "data") as full:
        assert stores_one(full.port, 1)
        wait_for_rows(full.data_directory, 1)
        filler = _fill(small_disk, leave_bytes=0)

        association = full.associate()
        assert association.store(SMALL, 2, 2) == 0xA700
        filler.unlink()
        assert foreign.wait_until(lambda: association.store(SMALL, 3, 3) == 0, what="room again")
        association.release()
        listed = wait_for_rows(full.data_directory, 2)
        assert {instance_uid(1), instance_uid(3)} <= set(listed)
        assert full.temporaries() == []


# ------------------------------------------------------------------------------------ byte identity


@pytest.fixture
def tapped(tmp_path: Path) -> Iterator[tuple[ListenerProcess, Tap]]:
    """A listener with a tap on its wire."""
    with (
        listener(tmp_path / "listener" / "data", options={"network_timeout_s": 30.0}) as process,
        tap(process.port) as one,
    ):
        yield process, one


@pytest.fixture(scope="session")
def sources(corpus: Path) -> dict[str, Path]:
    """The real files that are DICOM instances, by what pydicom reads; one file per SOP Instance UID."""
    found: dict[str, Path] = {}
    for path in sorted(path for path in (corpus / "dicom").rglob("*") if path.is_file()):
        try:
            ds = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID", "SOPClassUID"])
        except (InvalidDicomError, OSError, ValueError, EOFError, AttributeError, KeyError, NotImplementedError):
            continue
        meta = ds.file_meta
        if "TransferSyntaxUID" in meta and ds.get("SOPInstanceUID") and ds.get("SOPClassUID"):
            found.setdefault(str(ds.SOPInstanceUID), path)
    assert len(found) >= 150
    return found


def _assert_identical(process: ListenerProcess, transferred: list[Transferred], at_least: int) -> int:
    """Compare every acknowledged object with what was on the wire; return how many there were."""
    acknowledged = [one for one in transferred if one.status == 0]
    # Until then a repeated object may be there, and gone the next moment.
    assert wait_until_indexed(process.data_directory) == set()
    stored = finished(process.data_directory)
    different = [
        one.sop_instance_uid
        for one in acknowledged
        if (one.transfer_syntax_uid, one.data_set)
        not in [data_set_of(path) for path in stored.get(one.sop_instance_uid, [])]
    ]
    assert different == []
    assert len(acknowledged) >= at_least
    # And what was refused was refused for a reason, not dropped.
    unanswered = [one.sop_instance_uid for one in transferred if one.status is None]
    assert unanswered == []
    assert [one.sop_instance_uid for one in transferred if one.status != 0 and _says_what_it_is(one)] == []
    assert process.temporaries() == []
    return len(acknowledged)


def _says_what_it_is(one: Transferred) -> bool:
    """Whether pydicom finds the instance that the command names, and a study, in the data set."""
    meta = _file_meta(SECONDARY_CAPTURE, one.sop_instance_uid, one.transfer_syntax_uid)
    try:
        ds = dcmread(BytesIO(meta + one.data_set), stop_before_pixels=True)
    except Exception:  # noqa: BLE001 - whatever a damaged data set raises, it says nothing
        return False
    return str(ds.get("SOPInstanceUID", "")) == one.sop_instance_uid and bool(ds.get("StudyInstanceUID"))


def _is_its_file(one: Transferred, sources: dict[str, Path]) -> bool:
    source = sources.get(one.sop_instance_uid)
    if source is None:
        return False
    try:
        return data_set_of(source) == (one.transfer_syntax_uid, one.data_set)
    except ValueError:
        return False


@real_files
@pytest.mark.slow
def test_what_pynetdicom_sends_is_stored_as_its_file_byte_for_byte(
    tapped: tuple[ListenerProcess, Tap], sources: dict[str, Path]
) -> None:
    process, wire = tapped
    entity = AE("CT01")
    refused = []
    for path in sources.values():
        meta = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        entity.requested_contexts = []
        entity.add_requested_context(UID(meta.SOPClassUID), [meta.file_meta.TransferSyntaxUID])
        association = entity.associate(LOOPBACK, wire.port, ae_title="WETREAD")
        if not association.is_established:
            refused.append(path.name)
            continue
        with contextlib.suppress(ValueError, AttributeError, RuntimeError):
            # It cannot send every file itself; what reaches the wire is what counts.
            association.send_c_store(path)
        association.release()

    transferred = wire.transferred()
    count = _assert_identical(process, transferred, at_least=len(sources) * 8 // 10)
    # It sends the bytes of the file, so the wire is the file.
    assert sum(_is_its_file(one, sources) for one in transferred if one.status == 0) >= count * 9 // 10
    assert refused == []


@real_files
@pytest.mark.peers
@pytest.mark.slow
def test_what_dcmsend_sends_is_stored_byte_for_byte(
    tapped: tuple[ListenerProcess, Tap], sources: dict[str, Path]
) -> None:
    process, wire = tapped
    for path in sources.values():
        foreign.dcmsend([path], port=wire.port, called="WETREAD")

    transferred = wire.transferred()
    count = _assert_identical(process, transferred, at_least=len(sources) * 7 // 10)
    assert sum(_is_its_file(one, sources) for one in transferred) >= count // 2


#: DCMTK's names: as the file, explicit, big endian, implicit, deflated; the JPEG, JPEG-LS, JPEG 2000, RLE families.
STORESCU_SYNTAXES = ["=", "e", "b", "i", "d", "s", "y", "x", "v", "w", "t", "u", "r"]


@real_files
@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.parametrize("option", STORESCU_SYNTAXES)
def test_what_storescu_proposes_in_each_syntax_is_stored_byte_for_byte(
    tapped: tuple[ListenerProcess, Tap], sources: dict[str, Path], option: str
) -> None:
    # Small ones: the syntax is the point, and each file is tried in each.
    small = [path for path in sources.values() if path.stat().st_size < 200_000][::8]
    _send_with_storescu(tapped, small, option)


@real_files
@pytest.mark.peers
@pytest.mark.prove
@pytest.mark.parametrize("option", STORESCU_SYNTAXES)
def test_every_file_that_storescu_sends_in_each_syntax_is_stored_byte_for_byte(
    tapped: tuple[ListenerProcess, Tap], sources: dict[str, Path], option: str
) -> None:
    _send_with_storescu(tapped, list(sources.values()), option)


def _send_with_storescu(tapped: tuple[ListenerProcess, Tap], paths: list[Path], option: str) -> None:
    process, wire = tapped
    for path in paths:
        foreign.run(["storescu", f"-x{option}", "-aec", "WETREAD", "-aet", "CT01", LOOPBACK, str(wire.port), path])

    _assert_identical(process, wire.transferred(), at_least=1)


@real_files
@pytest.mark.peers
@pytest.mark.slow
def test_what_orthanc_sends_is_stored_byte_for_byte(
    tapped: tuple[ListenerProcess, Tap], sources: dict[str, Path], tmp_path: Path
) -> None:
    process, wire = tapped
    with foreign.orthanc(tmp_path / "orthanc", modalities={"WETREAD": (LOOPBACK, wire.port)}) as sender:
        names = []
        for path in sources.values():
            name = _upload(sender, path)
            if name:
                names.append(name)
        for name in names:
            sender.ask("/modalities/WETREAD/store", {"Resources": [name], "Permissive": True, "Timeout": 60})

    assert len(names) >= len(sources) // 2
    _assert_identical(process, wire.transferred(), at_least=len(names) * 8 // 10)


def _upload(sender: foreign.Orthanc, path: Path) -> str:
    """Give Orthanc a file; the empty name when it does not take it."""
    command = ["curl", "-s", "--data-binary", f"@{path}", f"http://{LOOPBACK}:{sender.http_port}/instances"]
    answer = foreign.run(command).stdout
    try:
        content = json.loads(answer)
    except ValueError:
        return ""
    return str(content.get("ID", "")) if isinstance(content, dict) else ""


@real_files
@pytest.mark.peers
@pytest.mark.slow
def test_what_dcmjs_dimse_sends_is_stored_byte_for_byte(
    tapped: tuple[ListenerProcess, Tap], sources: dict[str, Path]
) -> None:
    process, wire = tapped
    foreign.node_package("dcmjs-dimse")
    sender = foreign.PEERS / "dcmjs_dimse_sender.cjs"
    # One process for all of them; a few it cannot encode, and says so.
    done = foreign.run(["node", sender, str(wire.port), "WETREAD", "CT01", *sources.values()], timeout_s=600)

    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(sources)
    stored = sum(one["status"] == 0 for one in told)
    assert _assert_identical(process, wire.transferred(), at_least=len(sources) * 9 // 10) == stored


@pytest.mark.peers
def test_foreign_senders_of_a_synthetic_object_agree_to_the_byte(
    tapped: tuple[ListenerProcess, Tap], tmp_path: Path
) -> None:
    process, wire = tapped
    kind = replace(KINDS["ct"], rows=64, columns=64)
    data_set = header(kind, 5) + noise(kind.pixel_bytes)
    path = tmp_path / "5.dcm"
    path.write_bytes(_file_meta(kind.sop_class_uid, instance_uid(5), ExplicitVRLittleEndian) + data_set)

    assert foreign.dcmsend([path], port=wire.port, called="WETREAD").returncode == 0
    assert foreign.storescu([path], port=wire.port, called="WETREAD").returncode == 0

    transferred = wire.transferred()
    assert _assert_identical(process, transferred, at_least=2) == 2
    assert {one.data_set for one in transferred} == {data_set}
    assert {one.transfer_syntax_uid for one in transferred} == {ExplicitVRLittleEndian}


def _file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Encode preamble and file meta information (PS3.10 7.1) without our own code or pydicom's."""

    def element(number: int, vr: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        if vr == b"OB":
            return struct.pack("<HH2sHI", 2, number, vr, 0, len(value)) + value
        return struct.pack("<HH2sH", 2, number, vr, len(value)) + value

    body = (
        element(0x0001, b"OB", b"\0\1")
        + element(0x0002, b"UI", sop_class_uid.encode())
        + element(0x0003, b"UI", sop_instance_uid.encode())
        + element(0x0010, b"UI", transfer_syntax_uid.encode())
        + element(0x0012, b"UI", b"2.25.1")
    )
    return bytes(128) + b"DICM" + element(0x0000, b"UL", struct.pack("<I", len(body))) + body
