"""One C-STORE from its command to its status: the same for DICOM associations and for STOW-RS."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from typing import BinaryIO, Protocol

from casebook.errors import InvalidObject, WetreadError
from casebook.logs import get_logger
from dicom_node.objects.file_meta import Envelope
from dicom_node.objects.identification import DataSet, identify
from dicom_node.receive.backpressure import Backpressure
from dicom_node.receive.statuses import SUCCESS, status_of
from dicom_node.storage.disk_gate import DiskGate, Reservation
from dicom_node.storage.inbox import Inbox, IncomingInstance, StoredInstance

#: How often an object that takes long tells so; a fast one is there before it has to.
_TOUCH_INTERVAL_S = 1.0
#: The start of the data set is kept in memory: its UIDs are looked at and it is indexed without reading back, but for
#: the rare header that is longer.
_HEAD_BYTES = 8192
_log = get_logger(__name__)


class Index(Protocol):
    """Who makes rows of stored instances."""

    @property
    def may_refuse(self) -> bool:
        """Whether `submit` has a say in the status, so that it comes before the answer."""
        ...

    @property
    def keeps_up(self) -> bool:
        """False while it lags or the database refuses: new objects then wait, and are refused in the end."""
        ...

    def submit(self, stored: StoredInstance) -> None:
        """Take over a durable object."""
        ...

    def touch(self, study_instance_uid: str, calling_ae_title: str) -> None:
        """Learn that more of a study is on its way, or will be sent again."""
        ...


class StorageService:
    """Takes C-STORE requests of all associations."""

    def __init__(self, inbox: Inbox, gate: DiskGate, index: Index, longest_delay_s: float = 0.0) -> None:
        """Take where objects land, and how long an answer may wait for rows that lag behind."""
        self._inbox = inbox
        self._gate = gate
        self._index = index
        self._backpressure = Backpressure(index, longest_delay_s)

    @property
    def is_open(self) -> bool:
        """Whether a new association is welcome."""
        return self._gate.is_open and self._backpressure.is_bearable

    def begin(self, envelope: Envelope, study_instance_uid: str = "") -> "StoreOperation":
        """Begin to receive; a refusal is remembered, and told by `finish` after the data set has been drained.

        Parameters
        ----------
        study_instance_uid
            The study the object has to be of; any where empty.
        """
        return StoreOperation(self._inbox, self._gate, self._index, self._backpressure, envelope, study_instance_uid)


class StoreOperation:
    """One object; the first failure decides its status, the rest of its bytes is drained."""

    __slots__ = (
        "_backpressure",
        "_envelope",
        "_failure",
        "_head",
        "_incoming",
        "_index",
        "_reservation",
        "_stored",
        "_study_instance_uid",
        "_touched_at",
        "received_bytes",
    )

    def __init__(
        self,
        inbox: Inbox,
        gate: DiskGate,
        index: Index,
        backpressure: Backpressure,
        envelope: Envelope,
        study_instance_uid: str = "",
    ) -> None:
        self._study_instance_uid = study_instance_uid
        self._index = index
        self._backpressure = backpressure
        self._envelope = envelope
        self._failure: Exception | None = None
        self._incoming: IncomingInstance | None = None
        #: Durable, and not yet in line for its row.
        self._stored: StoredInstance | None = None
        self._reservation = Reservation(gate)
        #: The first bytes of the data set, kept also of an object that is only drained.
        self._head = b""
        self._touched_at = time.monotonic()
        self.received_bytes = 0
        try:
            gate.require_open()
            backpressure.require_bearable()
            self._incoming = inbox.incoming(envelope)
        except Exception as error:  # noqa: BLE001 - process edge: every failure becomes a status
            self._fail(error)

    @property
    def refusal(self) -> str:
        """Why the object was refused, in words without patient data; empty where it was not."""
        if self._failure is None:
            return ""
        # Only our own errors speak in sentences that are safe to tell; a foreign one may quote a header.
        return str(self._failure) if isinstance(self._failure, WetreadError) else "it could not be written"

    def write(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Take the next bytes of the data set; never raises."""
        self.received_bytes += sum(map(len, buffers))
        if len(self._head) < _HEAD_BYTES:
            self._keep_head(buffers)
        self.still_arrives()
        if self._failure is not None or self._incoming is None:
            return
        try:
            self._reservation.cover(self.received_bytes)
            self._incoming.write(buffers)
        except Exception as error:  # noqa: BLE001 - process edge
            self._fail(error)

    def still_arrives(self) -> None:
        """Keep the study of an object that takes long from completing without it; cheap, and never raises."""
        now = time.monotonic()
        if now - self._touched_at < _TOUCH_INTERVAL_S:
            return
        self._touched_at = now
        self._touch()

    def finish(self, answer: Callable[[int], None] = lambda _: None) -> int:
        """Make the object durable, answer, and see to its file and its row; return the status (PS3.4 B.2.3).

        Parameters
        ----------
        answer
            Tells the sender the status. What it raises is raised here; nothing else is.
        """
        self._attempt(self._commit)
        if self._index.may_refuse:
            self._attempt(self._hand_over)
        status = status_of(self._failure)
        if status != SUCCESS:
            self._tell_refusal(status)
        try:
            answer(status)
        finally:
            # Nobody has to wait for what the next start does as well, should this process end here.
            self._attempt(self._hand_over)
            self._reservation.end()
            if status == SUCCESS and self._failure is not None:
                _log.error("object_left_for_the_next_start", error=type(self._failure).__name__)
        return status

    def abandon(self) -> None:
        """Leave nothing behind: the association ended in the middle."""
        self._reservation.end()
        if self._incoming is not None:
            self._incoming.discard()

    def _attempt(self, step: Callable[[IncomingInstance], None]) -> None:
        if self._failure is None and self._incoming is not None:
            try:
                step(self._incoming)
            except Exception as error:  # noqa: BLE001 - process edge
                self._fail(error)

    def _commit(self, incoming: IncomingInstance) -> None:
        self._require_identity(incoming)
        if not self._index.may_refuse:
            # The sender sends its next object when this one is answered, and not before: it goes as fast as we do.
            # One whose answer waits for its row anyway does already.
            self._backpressure.wait(self.still_arrives)
        self._stored = incoming.commit(self._head)

    def _hand_over(self, incoming: IncomingInstance) -> None:
        stored, self._stored = self._stored, None
        if stored is not None:
            incoming.complete()
            self._index.submit(stored)

    def _tell_refusal(self, status: int) -> None:
        # An object that cannot be used would be refused again; any other will come back.
        if not isinstance(self._failure, InvalidObject):
            self._touch()
        _log.warning(
            "object_refused",
            status=f"0x{status:04X}",
            error=type(self._failure).__name__,
            ae_title=self._envelope.calling_ae_title,
            sop_class_uid=self._envelope.sop_class_uid,
            transfer_syntax_uid=self._envelope.transfer_syntax_uid,
        )

    def _touch(self) -> None:
        if isinstance(self._failure, InvalidObject):
            return
        head = self._head
        try:
            found = identify(self._data_set(len(head), lambda: nullcontext(BytesIO(head))))
        except Exception:  # noqa: BLE001 - process edge: a head that says nothing is no failure of the object
            return
        if found.sop_instance_uid == self._envelope.sop_instance_uid:
            self._index.touch(found.study_instance_uid, self._envelope.calling_ae_title)

    def _data_set(self, size_bytes: int, opened: Callable[[], AbstractContextManager[BinaryIO]]) -> DataSet:
        return DataSet(
            head=self._head,
            size_bytes=size_bytes,
            transfer_syntax_uid=self._envelope.transfer_syntax_uid,
            opened=opened,
        )

    def _keep_head(self, buffers: Sequence[bytes | memoryview]) -> None:
        for buffer in buffers:
            self._head += bytes(buffer[: _HEAD_BYTES - len(self._head)])
            if len(self._head) == _HEAD_BYTES:
                return

    def _require_identity(self, incoming: IncomingInstance) -> None:
        if not incoming.size_bytes:
            raise InvalidObject("the object has no data set")
        size_bytes = incoming.size_bytes - incoming.data_set_offset
        found = identify(self._data_set(size_bytes, incoming.opened_again))
        # PS3.7 9.1.1.1: the command names the instance that the data set is.
        if found.sop_instance_uid != self._envelope.sop_instance_uid:
            raise InvalidObject("the data set names another instance than announced")
        # PS3.4 B.2.3: a data set that leaves its class out is of the class that was announced.
        if found.sop_class_uid not in {"", self._envelope.sop_class_uid}:
            raise InvalidObject("the data set is of another SOP class than announced")
        if self._study_instance_uid and found.study_instance_uid != self._study_instance_uid:
            raise InvalidObject("the object is of another study than the one named")

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._reservation.end()
        if self._incoming is not None:
            self._incoming.discard()
