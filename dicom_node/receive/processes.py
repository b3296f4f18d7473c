"""Processes that receive: children of the listener, which hands each connection to one of them.

Python runs one thread at a time, and threads that receive small objects spend much of their time on taking turns
(docs/decisions.md has the figures). The listener accepts; a connection whose first byte has come goes to the child with
the fewest, with TLS and association still ahead of it. Each child has its own threads, its own journal, and its own
line of objects that wait for their rows, which the listener forwards to the one recorder. Limits of associations and
reserved bytes are counted in memory that all share.

A child that finds the listener gone ends at once. One that ends on its own takes the listener with it: the next start
restores, sweeps and indexes, as after a power cut.
"""

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from ctypes import c_int64
from mmap import mmap
from multiprocessing import get_context
from multiprocessing.connection import Connection, Pipe
from multiprocessing.context import ForkProcess
from typing import Any

from pydicom.config import IGNORE
from pydicom.config import settings as pydicom_settings

from casebook.logs import get_logger
from casebook.settings import Settings
from dicom_node.index.indexer import Indexer
from dicom_node.index.recorder_process import RecorderProcess, RemoteRecorder
from dicom_node.receive.admission import Connected, Register
from dicom_node.receive.associations import Associations
from dicom_node.receive.storage_service import StorageService
from dicom_node.storage.acknowledgements import AcknowledgementClock
from dicom_node.storage.disk_gate import DiskGate, ReservedBytes
from dicom_node.storage.inbox import SharedInbox
from dicom_node.storage.journal import Journal
from dicom_node.tls import server_context

#: How often a child looks whether its threads live.
_HEARTBEAT_S = 1.0
#: A child that is told to stop finishes its associations and its line, and may take this long.
_LONGEST_END_S = 25.0
_CONNECTION, _STOP = b"c", b"s"
#: `_CONNECTION`, its number in the register, whether it is within the limit of its address.
_ORDER = struct.Struct("<cI?")
#: What a pipe says whose other end is closed. Any other error is none of the other end's, and ends the process.
_CLOSED = (EOFError, BrokenPipeError, ConnectionResetError)
_log = get_logger(__name__)


class ReceivingProcesses:
    """The children, as the listener sees them; `take` is called by one thread."""

    def __init__(
        self, settings: Settings, register: Register, reserved: ReservedBytes, acknowledgements: AcknowledgementClock
    ) -> None:
        """Take what the children share; none runs before `start`."""
        self._children = [
            _Child(number, lambda child: _Work(child, settings, register, reserved, acknowledgements).run())
            for number in range(settings.listener.processes)
        ]
        self._tls = settings.listener.tls
        self._forwarding: list[threading.Thread] = []

    @property
    def is_alive(self) -> bool:
        """Whether every child is, and every thread that carries what they record."""
        return all(child.process is not None and child.process.is_alive() for child in self._children) and all(
            thread.is_alive() for thread in self._forwarding
        )

    def start(self) -> None:
        """Fork the children; only before the first thread of this process.

        Raises
        ------
        SettingsError
            When certificate or key for TLS cannot be used, which the children could not tell.
        """
        if self._tls is not None:
            server_context(self._tls)
        for child in self._children:
            child.process = get_context("fork").Process(target=child.run, args=(self._children,))
            child.process.start()
        for child in self._children:
            child.close_its_ends()

    def forward_to(self, records: RecorderProcess) -> None:
        """Let a recorder make the rows of what the children receive."""
        for child in self._children:
            thread = threading.Thread(target=child.forward, args=(records,), name="forwarder", daemon=True)
            self._forwarding.append(thread)
            thread.start()

    def take(self, connection: socket.socket, address: Any, connected: Connected) -> None:
        """Hand a connection to the child that has the fewest."""
        child = min(self._children, key=lambda one: (one.load, one.handed))
        with connection:
            try:
                child.hand_over(connection, connected)
            except OSError as error:
                connected.end()
                reason = "receiving_process_takes_none"
                _log.error("connection_refused", peer=address[0], reason=reason, error=type(error).__name__)

    def stop(self) -> None:
        """Finish the objects in flight, end every association and every child; may be called again."""
        for child in self._children:
            child.tell_to_stop()
        for child in self._children:
            child.wait_for_its_end()
        for thread in self._forwarding:
            thread.join()
        for child in self._children:
            child.close_our_ends()


class _Child:
    """One child: what connects it to the listener, on both sides."""

    #: None until it is forked.
    process: ForkProcess | None = None

    def __init__(self, number: int, work: Callable[["_Child"], None]) -> None:
        self.number = number
        # Written by the child, read by the listener.
        counts = mmap(-1, 16)
        #: Connections that have not ended.
        self.running = c_int64.from_buffer(counts)
        #: Connections taken so far, and given so far.
        self.taken = c_int64.from_buffer(counts, 8)
        self.handed = 0
        # Keeps the bounds of messages, and tells when its other end is closed.
        self._ours, self.orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A child that takes nothing must not hold up the others.
        self._ours.setblocking(False)
        self._questions, self.records = Pipe()
        self._work = work

    # ---- in the listener ----

    @property
    def load(self) -> int:
        return self.running.value + self.handed - self.taken.value

    def close_its_ends(self) -> None:
        self.orders.close()
        self.records.close()

    def close_our_ends(self) -> None:
        self._ours.close()
        self._questions.close()

    def hand_over(self, connection: socket.socket, connected: Connected) -> None:
        order = _ORDER.pack(_CONNECTION, connected.number, connected.is_within_limit)
        socket.send_fds(self._ours, [order], [connection.fileno()])
        self.handed += 1

    def tell_to_stop(self) -> None:
        try:
            self._ours.send(_STOP)
        except OSError:
            # It has ended, or takes nothing: then it is killed in the end.
            return

    def wait_for_its_end(self) -> None:
        if self.process is not None:
            self.process.join(_LONGEST_END_S)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()

    def forward(self, records: RecorderProcess) -> None:
        """Carry questions to the recorder and its answers back, until the child has ended."""
        while True:
            try:
                question = self._questions.recv_bytes()
            except _CLOSED:
                return
            try:
                answer = records.forward(question)
            except OSError as error:
                # Out of memory, processes or descriptors: no recorder could be started. The child asks again.
                _log.error("recorder_not_started", error=type(error).__name__)
                answer = b""
            try:
                self._questions.send_bytes(answer)
            except _CLOSED:
                return

    # ---- in the child ----

    def run(self, children: Sequence["_Child"]) -> None:
        for one in children:
            # Open here too, they would not tell anyone that the listener or another child has ended.
            one.close_our_ends()
            if one is not self:
                one.close_its_ends()
        # Whoever stops the listener often tells its children too; the listener tells them when it is time.
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, signal.SIG_IGN)
        try:
            self._work(self)
        except Exception:  # noqa: BLE001 - logged with its place
            # Process edge: whoever else printed it would print values too.
            _log.exception("receiving_process_failed")
            os._exit(1)


class _ForwardedRecords(RemoteRecorder):
    """The recorder as a child sees it."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection

    def forward(self, question: bytes) -> bytes:
        try:
            self._connection.send_bytes(question)
            return self._connection.recv_bytes()
        except _CLOSED:
            # The listener has ended, or is about to: what carried our questions is one of its parts.
            return b""


class _Work:
    """What a child does."""

    def __init__(
        self,
        child: _Child,
        settings: Settings,
        register: Register,
        reserved: ReservedBytes,
        acknowledgements: AcknowledgementClock,
    ) -> None:
        self._child = child
        self._register = register
        self._inbox = SharedInbox(
            settings.data_directory, journal_name=str(child.number + 1), acknowledgements=acknowledgements
        )
        gate = DiskGate(
            self._inbox.directory, settings.listener.min_free_bytes, self._inbox.files, time.monotonic, reserved
        )
        self._indexer = Indexer(self._inbox, _ForwardedRecords(child.records), settings)
        storage_service = StorageService(self._inbox, gate, self._indexer, settings.listener.longest_delay_s)
        self._associations = Associations(settings, storage_service, register, child.running)

    def run(self) -> None:
        """Receive until the listener says stop."""
        # pynetdicom validates the UIDs of a request. pydicom would do so again whenever one is handled, in a quarter of
        # the time that an association takes to begin; it reads no headers of objects here.
        pydicom_settings.reading_validation_mode = IGNORE
        self._inbox.start_journal()
        self._indexer.start()
        self._child.orders.settimeout(_HEARTBEAT_S)
        parts: dict[str, Indexer | Journal | Associations] = {
            "indexer": self._indexer,
            "journal": self._inbox.journal,
            "lobby": self._associations,
        }
        while self._take_order():
            for name, part in parts.items():
                if not part.is_alive:
                    # The listener ends, and starts again with what is on the disk.
                    _log.error("listener_part_ended", state=name)
                    os._exit(1)
        self._associations.stop()
        self._indexer.stop()
        self._inbox.close()

    def _take_order(self) -> bool:
        try:
            order, descriptors, _, _ = socket.recv_fds(self._child.orders, _ORDER.size, 1)
        except TimeoutError:
            return True
        if not order:
            # The listener was killed, and the next one waits for the inbox.
            os._exit(1)
        if order != _STOP:
            _, number, is_within_limit = _ORDER.unpack(order)
            self._take(descriptors, self._register.go_on(number, is_within_limit=is_within_limit))
        return order != _STOP

    def _take(self, descriptors: list[int], connected: Connected) -> None:
        if not descriptors:
            connected.end()
            # Out of descriptors: the kernel has closed it.
            _log.warning("connection_not_accepted", reason="too_many_descriptors")
        for descriptor in descriptors:
            connection = socket.socket(fileno=descriptor)
            try:
                self._associations.take(connection, connection.getpeername(), connected)
            except OSError:
                # It has gone already.
                connected.end()
                connection.close()
        self._child.taken.value += 1
