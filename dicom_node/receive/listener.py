"""The DICOM listener: a port, the processes behind it, and the line of objects that wait for their rows."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from sqlalchemy import Engine

from casebook import store
from casebook.database import read
from casebook.errors import WetreadError
from casebook.logs import get_logger
from casebook.settings import Settings
from dicom_node.index.indexer import Indexer
from dicom_node.index.recorder_process import RecorderProcess
from dicom_node.receive.acceptor import Acceptor
from dicom_node.receive.admission import Register
from dicom_node.receive.associations import Associations, is_fast
from dicom_node.receive.processes import ReceivingProcesses
from dicom_node.receive.storage_service import StorageService
from dicom_node.storage.acknowledgements import AcknowledgementClock
from dicom_node.storage.disk_gate import DiskGate, ReservedBytes
from dicom_node.storage.inbox import Inbox

#: How often a running listener looks whether its threads and processes live.
_HEARTBEAT_S = 1.0
_log = get_logger(__name__)


def serve(
    settings: Settings, engine: Engine, stop: threading.Event, on_ready: Callable[[int], None] | None = None
) -> None:
    """Receive until told to stop; the body of the listener's process.

    Parameters
    ----------
    stop
        Set it (on SIGTERM) to finish the objects in flight and return.
    on_ready
        Told the bound port, once connections are accepted.

    Raises
    ------
    UnsafeStorage
        When another listener owns the data directory.
    WetreadError
        When a thread or a child has ended without which nothing is received; whoever started the process starts it
        again.
    """
    register, reserved = Register(settings.listener), ReservedBytes()
    with contextlib.ExitStack() as stack:
        with read(engine) as connection:
            acknowledgements = AcknowledgementClock(after_ns=store.last_acknowledged(connection))
        inbox = Inbox(settings.data_directory, acknowledgements=acknowledgements)
        stack.callback(inbox.close)
        children = None
        if settings.listener.processes > 1:
            # Before the first thread, because a fork copies only the one that asks for it; and without a connection to
            # the database, which two processes must not use.
            engine.dispose()
            children = ReceivingProcesses(settings, register, reserved, acknowledgements)
            stack.callback(children.stop)
            children.start()
        records = stack.enter_context(contextlib.closing(RecorderProcess(settings)))
        records.start()
        indexer = Indexer(inbox, records, settings)
        indexer.take_up(engine)
        indexer.start()
        stack.callback(indexer.stop)
        gate = DiskGate(inbox.directory, settings.listener.min_free_bytes, inbox.files, time.monotonic, reserved)
        storage_service = StorageService(inbox, gate, indexer)
        if children is None or settings.stow is not None:
            inbox.start_journal()
        if children is not None:
            children.forward_to(records)
        taker = children or Associations(settings, storage_service, register)
        stack.callback(taker.stop)
        acceptor = Acceptor(settings.listener, register, taker)
        stack.callback(acceptor.stop)
        acceptor.start()
        _log.info(
            "listener_started",
            port=acceptor.port,
            ae_title=settings.listener.ae_title,
            state="fast" if is_fast() else "stock",
            count=settings.listener.processes,
        )
        parts: dict[str, _Lives] = {"acceptor": acceptor, "indexer": indexer, "journal": inbox.journal}
        if children is not None:
            parts["receiving_process"] = children
        if settings.stow is not None:
            # Loaded where it is used: an HTTP server that nobody asks would cost 9 MiB.
            from dicom_node.receive.stow import StowServer

            stow = StowServer(settings.stow, storage_service, register)
            stack.callback(stow.stop)
            stow.start()
            parts["stow"] = stow
        if on_ready is not None:
            on_ready(acceptor.port)
        _wait_for(stop, parts)
    _log.info("listener_stopped")


class _Lives(Protocol):
    @property
    def is_alive(self) -> bool: ...


def _wait_for(stop: threading.Event, parts: Mapping[str, _Lives]) -> None:
    while not stop.wait(_HEARTBEAT_S):
        for name, part in parts.items():
            if not part.is_alive:
                # A process that receives nothing must not look like one that does.
                _log.error("listener_part_ended", state=name)
                raise WetreadError("a part of the listener has ended")
