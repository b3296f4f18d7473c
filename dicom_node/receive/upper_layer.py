"""The data phase of an association, in place of pynetdicom's: one copy per byte, no polling, constant memory.

pynetdicom negotiates, rejects, releases, aborts and serves every service but two; its state machine (PS3.8 9.2)
stays in charge. What is replaced is how bytes come in: upstream reads 4 KiB at a time, copies each byte eight
times and sleeps a millisecond between looks at its queues. Here one thread waits for the socket and for its own
association at once, receives into one buffer, reads PDU and PDV headers where they lie, and hands slices of that
buffer to the operation, which writes them out in one call. C-STORE and C-ECHO are answered in this thread; every
other message goes to pynetdicom, PDV by PDV.

`tests/test_contract.py` names everything of pynetdicom that this file relies on beyond its documentation.
"""

import contextlib
import os
import queue
import select
import socket
import ssl
import threading
import time
from typing import Any

from pynetdicom import fsm
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ASSOCIATE_AC
from pynetdicom.pdu_primitives import A_ABORT, P_DATA

from casebook.logs import get_logger
from dicom_node.objects.file_meta import Envelope
from dicom_node.receive.admission import VERIFICATION, is_storage
from dicom_node.receive.association_request import AssociationRequest, parse_request, printable, titles_of
from dicom_node.receive.inflow import MIN_RATE_BYTES_PER_S, Closed, Inflow, Interrupted, Invalid, Stalled
from dicom_node.receive.pdus import (
    A_ASSOCIATE_RQ,
    ABORT,
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    KNOWN_PDU_TYPES,
    MAX_CONTROL_BYTES,
    NO_DATA_SET,
    P_DATA_TF,
    PDU_HEADER,
    PDV_HEADER,
    REQUESTS,
    RESPONSE,
    build_response,
    number_of,
    parse_command,
    uid_of,
)
from dicom_node.receive.statuses import MISTYPED_ARGUMENT, SOP_CLASS_NOT_SUPPORTED, SUCCESS, UNRECOGNIZED_OPERATION
from dicom_node.receive.storage_service import StoreOperation

#: Of one command set: far above anything real.
_MAX_COMMAND_BYTES = 1 << 16
#: Data set bytes of one message that is not a C-STORE: a query or an event report.
_MAX_IDENTIFIER_BYTES = 16 << 20
#: A sender may count the PDV header into its maximum or not (PS3.8 D.1): a little more than stated is let through.
_PDU_LENGTH_TOLERANCE = 4096
#: Slices that wait for one writev; a sender of tiny fragments must not make us keep a million of them.
_MAX_SLICES = 1024
#: Bytes that came are handed on after this time, also when they fill no buffer.
_LONGEST_UNWRITTEN_S = 1.0
#: The longest wait without a look around, when nothing limits it.
_LONGEST_WAIT_S = 5.0
#: PS3.8 table 9-10: requests and responses of the local user.
_EVENTS_OF_OUR_SIDE = frozenset({"Evt1", "Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"})
_log = get_logger(__name__)


class _Message:
    """The DIMSE message being received: its command, then its data set."""

    __slots__ = ("command", "context_id", "foreign_bytes", "operation", "raw", "refusal", "started_at")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.raw = bytearray()
        self.command: dict[int, bytes] = {}
        self.context_id = 0
        self.operation: StoreOperation | None = None
        #: Not None while the data set of a message that is not stored passes through.
        self.foreign_bytes: int | None = None
        #: The status that answers a message which is not for us; None where pynetdicom answers.
        self.refusal: int | None = None
        self.started_at = 0.0

    @property
    def awaits_data_set(self) -> bool:
        return self.operation is not None or self.foreign_bytes is not None

    @property
    def is_idle(self) -> bool:
        return not self.raw and not self.awaits_data_set


class FastUpperLayer(DULServiceProvider):
    """pynetdicom's DUL service with an event-driven reactor and our own data phase."""

    def __init__(self, association: Any) -> None:
        super().__init__(association)
        self._wake_lock = threading.Lock()
        self._wake = -1
        self._inflow: Inflow | None = None
        self._message = _Message()
        self._slices: list[memoryview] = []
        self._written_at = 0.0
        self._finishing = False
        #: What we stated when the association was negotiated; 0 is no limit, negative is not known yet.
        self._longest_pdu_bytes = -1
        self.has_ended = False
        #: None until it has come whole.
        self.request: AssociationRequest | None = None
        #: Called and calling AE title, also of a request that was damaged further on.
        self._titles = ("", "")

    @property
    def assoc(self) -> Any:
        """The association this serves."""
        return self._assoc

    def _socket(self) -> socket.socket | None:
        return self.socket.socket if self.socket is not None else None

    # ---- called by other threads ----

    def send_pdu(self, primitive: Any) -> None:
        """Queue a primitive for the peer."""
        super().send_pdu(primitive)
        self.wake()

    def kill_dul(self) -> None:
        """End the reactor."""
        super().kill_dul()
        self.wake()

    def finish(self) -> None:
        """Abort the association as soon as no object is in flight."""
        self._finishing = True
        self.wake()

    def wake(self) -> None:
        """Make the reactor look at its queues."""
        # Under the lock the descriptor cannot be closed, and its number given to another file, in between.
        with self._wake_lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    # ---- the reactor ----

    def run_reactor(self) -> None:
        """Run the state machine until the connection is closed (PS3.8 9.2)."""
        with self._wake_lock:
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.assoc._dul_ready.set()  # noqa: SLF001 - see tests/test_contract.py
        try:
            self._start()
            while not self._kill_thread:
                self._step()
        except Exception:  # noqa: BLE001 - logged with its place
            # Process edge: an error here must end this association and nothing else.
            _log.exception("association_failed", **self._who())
            self._say_abort()
            self._give_up()
        finally:
            self._abandon()
            with self._wake_lock:
                wake, self._wake = self._wake, -1
                os.close(wake)
            # An association thread that still waits for the peer's request learns that none will come.
            nothing: Any = None
            self.to_user_queue.put(nothing)
            self.has_ended = True
            self.assoc.look()

    def _start(self) -> None:
        sock = self._socket()
        if sock is None:
            raise Closed
        sock.setblocking(False)
        self._inflow = Inflow(sock, self._wake, float(self.network_timeout or 60.0))
        self._inflow.preload(self.assoc.first_bytes)
        self._idle_timer.start()

    def _step(self) -> None:
        if self.artim_timer.expired:
            self.event_queue.put("Evt18")
        # One event at a time: upstream looks at the first primitive and takes it off only in its action.
        if self.event_queue.empty() and not self._process_recv_primitive():
            try:
                self._read()
            except Closed:
                self._abandon()
                self.event_queue.put("Evt17")
            except Invalid as error:
                _log.warning("association_invalid", reason=str(error), **self._who())
                self._abandon()
                self._drop_input()
                self.event_queue.put("Evt19")
            except Stalled:
                self._abandon()
                self._abort("association_stalled")
            except Interrupted:
                self._abandon()
        try:
            event = self.event_queue.get(block=False)
        except queue.Empty:
            return
        self._act(event)

    def _act(self, event: str) -> None:
        sock = self._socket()
        # Actions send with blocking calls.
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.settimeout(self.network_timeout)
        if (event, self.state_machine.current_state) in fsm.TRANSITION_TABLE:
            self.state_machine.do_action(event)
        else:
            self._refuse(event)
        sock = self._socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setblocking(False)
        self.assoc.look()

    def _refuse(self, event: str) -> None:
        """End the association by an abort (PS3.8 AA-8): the peer was faster than what our side asks for.

        A request followed by a damaged PDU, for one: the acceptance is decided when the association is lost already.
        """
        if event in _EVENTS_OF_OUR_SIDE:
            with contextlib.suppress(queue.Empty):
                self.to_provider_queue.get(block=False)
        state = self.state_machine.current_state
        if state == "Sta1":
            self._give_up()
        elif state != "Sta13":
            # In state 13 the abort has been sent, and only the end of the connection is waited for.
            self._abandon()
            self.state_machine.transition(fsm.AA_8(self))

    def _give_up(self) -> None:
        self.assoc.is_aborted = True
        self.assoc.is_established = False
        self.assoc._kill = True  # noqa: SLF001 - see tests/test_contract.py
        self._kill_thread = True
        with contextlib.suppress(OSError):
            if self.socket is not None:
                self.socket._shutdown_socket()  # noqa: SLF001 - as the state machine does

    def _say_abort(self) -> None:
        # Not by way of the state machine, which may be what failed.
        sock = self._socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.send(ABORT)

    def _who(self) -> dict[str, str]:
        called, calling = map(printable, self._titles)
        return {"peer": self.assoc.requestor.address, "ae_title": calling, "called_ae_title": called}

    def _abort(self, reason: str) -> None:
        """Ask the state machine to abort (PS3.8 AA-1)."""
        _log.warning(reason, **self._who())
        primitive = A_ABORT()
        primitive.abort_source = 0x02
        self.assoc.is_aborted = True
        self.assoc._sent_abort = True  # noqa: SLF001 - see tests/test_contract.py
        self.to_provider_queue.put(primitive)

    def _abandon(self) -> None:
        """Leave nothing of an object in flight."""
        self._slices = []
        if self._inflow is not None:
            self._inflow.is_pinned = False
        if self._message.operation is not None:
            self._message.operation.abandon()
        self._message.reset()

    def _drop_input(self) -> None:
        if self._inflow is not None:
            self._inflow.position = self._inflow.end = 0

    # ---- reading PDUs (PS3.8 9.3.1) ----

    def _read(self) -> None:
        """Handle PDUs until one makes an event, something else wants attention, or nothing more comes."""
        inflow = self._require_inflow()
        while True:
            if self.state_machine.current_state == "Sta13":
                # PS3.8 table 9-10: only the end of the connection matters now.
                self._drop_input()
            if self._finishing and self.state_machine.current_state == "Sta2":
                raise Closed
            if self._finishing and self._message.is_idle and self.state_machine.current_state == "Sta6":
                self._finishing = False
                self._abort("association_ended_by_shutdown")
                return
            if inflow.waiting_bytes >= PDU_HEADER.size:
                kind, length = PDU_HEADER.unpack_from(inflow.buffer, inflow.position)
                if kind == P_DATA_TF and self.state_machine.current_state == "Sta6":
                    self._require_length(length)
                    inflow.position += PDU_HEADER.size
                    self._take_data(inflow, length)
                    if self.to_provider_queue.queue or not self.event_queue.empty():
                        return
                    continue
                if kind not in KNOWN_PDU_TYPES:
                    raise Invalid("pdu_of_unknown_type")
                if length > MAX_CONTROL_BYTES - PDU_HEADER.size:
                    raise Invalid("pdu_too_long")
                if inflow.waiting_bytes >= PDU_HEADER.size + length:
                    self._take_control(inflow, PDU_HEADER.size + length)
                    return
            if not self._receive_or_wait(inflow):
                return

    def _receive_or_wait(self, inflow: Inflow) -> bool:
        """Get more bytes; False when the reactor should look around first."""
        self._make_room(inflow)
        if inflow.receive():
            self._idle_timer.restart()
            # One byte now and then does not keep a connection that never asks for an association.
            return not self.artim_timer.expired
        self._require_rate(time.monotonic())
        timeout_s = min(_LONGEST_WAIT_S, self._patience_s())
        has_bytes, is_woken = inflow.wait(timeout_s, in_message=not self._message.is_idle)
        if has_bytes and inflow.receive():
            self._idle_timer.restart()
            return not is_woken
        if not is_woken and self.state_machine.current_state == "Sta6" and self._idle_timer.expired:
            raise Stalled
        return False

    def _patience_s(self) -> float:
        # ARTIM runs while we wait for a request or for the peer to close (PS3.8 9.1.5); the rest is silence.
        running = self.artim_timer if self.state_machine.current_state in {"Sta2", "Sta13"} else self._idle_timer
        return max(0.01, float(running.remaining) + 0.01)

    def _take_control(self, inflow: Inflow, size: int) -> None:
        content = bytes(inflow.view[inflow.position : inflow.position + size])
        inflow.position += size
        if content[0] == A_ASSOCIATE_RQ and self.state_machine.current_state == "Sta2":
            self._titles = titles_of(content)
            self.request = parse_request(content)
            content = self.request.encode()
        try:
            pdu, event = self._decode_pdu(bytearray(content))
        except Exception:  # noqa: BLE001 - whatever a decoder raises, the PDU is invalid
            raise Invalid("pdu_damaged") from None
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)

    def _send(self, pdu: Any) -> None:
        """Send a PDU; an acceptance repeats the titles as they came (PS3.8 9.3.3)."""
        if isinstance(pdu, A_ASSOCIATE_AC) and self.request is not None and self.socket is not None:
            content = pdu.encode()
            self.socket.send(content[:10] + self.request.repeated + content[74:])
            return
        super()._send(pdu)

    def _require_length(self, length: int) -> None:
        if self._longest_pdu_bytes < 0:
            # Asked once: it is looked up in the list of negotiated items each time.
            self._longest_pdu_bytes = int(self.assoc.acceptor.maximum_length or 0)
        if self._longest_pdu_bytes and length > self._longest_pdu_bytes + _PDU_LENGTH_TOLERANCE:
            raise Invalid("pdu_too_long")

    def _require_inflow(self) -> Inflow:
        if self._inflow is None or self._socket() is None:
            raise Closed
        return self._inflow

    # ---- P-DATA-TF (PS3.8 9.3.5) ----

    def _take_data(self, inflow: Inflow, left: int) -> None:
        """Take the PDVs of one PDU, waiting inside it for what has not come yet."""
        while left > 0:
            self._need(inflow, PDV_HEADER.size)
            length, context_id, control = PDV_HEADER.unpack_from(inflow.buffer, inflow.position)
            inflow.position += PDV_HEADER.size
            left -= 4 + length
            # The length counts the context id and the control header.
            if length < 2 or left < 0:
                raise Invalid("fragment_length_wrong")
            is_last = bool(control & 2)
            if control & 1:
                self._take_command(inflow, length - 2, context_id, is_last=is_last)
            else:
                self._take_fragment(inflow, length - 2, context_id, control, is_last=is_last)

    def _need(self, inflow: Inflow, count: int) -> None:
        while inflow.waiting_bytes < count:
            self._wait_inside(inflow)

    def _make_room(self, inflow: Inflow) -> None:
        if inflow.end == len(inflow.buffer) or len(self._slices) >= _MAX_SLICES:
            self._flush()
        if inflow.end == len(inflow.buffer):
            inflow.make_room()

    def _wait_inside(self, inflow: Inflow) -> None:
        """Receive more in the middle of a PDU."""
        self._make_room(inflow)
        deadline = time.monotonic() + inflow.network_timeout_s
        while not inflow.receive():
            now = time.monotonic()
            self._require_rate(now)
            if now >= deadline:
                raise Stalled
            _, is_woken = inflow.wait(min(_LONGEST_WAIT_S, deadline - now), in_message=True)
            # Answers of other services wait for the end of the PDU; an abort from our side does not.
            if is_woken and (self._kill_thread or self._wants_abort()):
                raise Interrupted
        self._idle_timer.restart()

    def _wants_abort(self) -> bool:
        return any(isinstance(primitive, A_ABORT) for primitive in tuple(self.to_provider_queue.queue))

    def _require_rate(self, now: float) -> None:
        message = self._message
        if not message.awaits_data_set:
            return
        if message.operation is not None and now - self._written_at >= _LONGEST_UNWRITTEN_S:
            # A slow sender would otherwise fill the buffer for minutes before the operation knew of its study.
            self._flush()
            message.operation.still_arrives()
        elapsed_s = now - message.started_at
        if elapsed_s < self._require_inflow().network_timeout_s:
            return
        received = message.foreign_bytes or 0
        if message.operation is not None:
            received = message.operation.received_bytes + sum(map(len, self._slices))
        if received < elapsed_s * MIN_RATE_BYTES_PER_S:
            raise Stalled

    def _take_command(self, inflow: Inflow, count: int, context_id: int, *, is_last: bool) -> None:
        message = self._message
        if message.awaits_data_set or (message.raw and context_id != message.context_id):
            raise Invalid("command_out_of_turn")
        if len(message.raw) + count > _MAX_COMMAND_BYTES:
            raise Invalid("command_too_long")
        self._need(inflow, count)
        message.context_id = context_id
        message.raw += inflow.view[inflow.position : inflow.position + count]
        inflow.position += count
        if is_last:
            message.command = parse_command(message.raw)
            self._begin(message)

    def _begin(self, message: _Message) -> None:
        """Decide what a complete command asks for (PS3.7 9.3)."""
        field = number_of(message.command, COMMAND_FIELD)
        has_data_set = number_of(message.command, COMMAND_DATA_SET_TYPE) != NO_DATA_SET
        context = self.assoc._accepted_cx.get(message.context_id)  # noqa: SLF001 - see tests/test_contract.py
        if context is None:
            raise Invalid("context_not_accepted")
        abstract_syntax = str(context.abstract_syntax)
        is_ours = abstract_syntax == VERIFICATION or is_storage(abstract_syntax)
        message.refusal = self._refusal(field, abstract_syntax, has_data_set=has_data_set) if is_ours else None
        message.started_at = self._written_at = time.monotonic()
        if message.refusal is not None:
            # Its data set is taken in first: a sender reads no answer before it has sent all.
            message.foreign_bytes = 0
            if not has_data_set:
                self._refuse_request()
        elif is_ours and field == C_ECHO_RQ:
            self._answer(SUCCESS)
            message.reset()
        elif is_ours:
            message.operation = self.assoc.storage_service.begin(self._envelope(message.command, context))
            if not has_data_set:
                self._finish()
        else:
            self._hand_over(message.context_id, 0x03, bytes(message.raw))
            if has_data_set:
                message.foreign_bytes = 0
            else:
                message.reset()

    def _refusal(self, field: int, abstract_syntax: str, *, has_data_set: bool) -> int | None:
        """Return the status that refuses a request on a context of ours (PS3.7 C.5); None for one that we serve."""
        if field not in REQUESTS and field != C_CANCEL_RQ:
            # An answer to what nobody asked, or nothing that there is.
            raise Invalid("command_unknown")
        if field not in {C_STORE_RQ, C_ECHO_RQ}:
            return UNRECOGNIZED_OPERATION
        is_echo = field == C_ECHO_RQ
        named = uid_of(self._message.command, AFFECTED_SOP_CLASS_UID)
        if named != abstract_syntax or is_echo != (abstract_syntax == VERIFICATION):
            return SOP_CLASS_NOT_SUPPORTED
        return MISTYPED_ARGUMENT if is_echo and has_data_set else None

    def _refuse_request(self) -> None:
        """Answer a request that we do not serve; a C-CANCEL has no answer (PS3.7 9.3.2.3)."""
        message = self._message
        status = message.refusal or UNRECOGNIZED_OPERATION
        _log.warning("request_refused", status=f"0x{status:04X}", **self._who())
        if number_of(message.command, COMMAND_FIELD) != C_CANCEL_RQ:
            self._answer(status)
        message.reset()

    def _envelope(self, command: dict[int, bytes], context: Any) -> Envelope:
        return Envelope(
            sop_class_uid=uid_of(command, AFFECTED_SOP_CLASS_UID),
            sop_instance_uid=uid_of(command, AFFECTED_SOP_INSTANCE_UID),
            transfer_syntax_uid=str(context.transfer_syntax[0]),
            calling_ae_title=self.assoc.requestor.ae_title.strip(),
            peer_address=self.assoc.requestor.address,
        )

    def _take_fragment(self, inflow: Inflow, count: int, context_id: int, control: int, *, is_last: bool) -> None:
        message = self._message
        if not message.awaits_data_set or context_id != message.context_id:
            raise Invalid("data_set_out_of_turn")
        if message.foreign_bytes is not None:
            self._pass_fragment(inflow, count, control, is_last=is_last)
            return
        while count:
            if not inflow.waiting_bytes:
                self._wait_inside(inflow)
                continue
            taken = min(count, inflow.waiting_bytes)
            self._slices.append(inflow.view[inflow.position : inflow.position + taken])
            inflow.is_pinned = True
            inflow.position += taken
            count -= taken
        if is_last:
            self._finish()

    def _pass_fragment(self, inflow: Inflow, count: int, control: int, *, is_last: bool) -> None:
        message = self._message
        message.foreign_bytes = (message.foreign_bytes or 0) + count
        is_refused = message.refusal is not None
        if message.foreign_bytes > _MAX_IDENTIFIER_BYTES and number_of(message.command, COMMAND_FIELD) != C_STORE_RQ:
            raise Invalid("data_set_too_long")
        content = bytearray()
        while count:
            if not inflow.waiting_bytes:
                self._wait_inside(inflow)
                continue
            taken = min(count, inflow.waiting_bytes)
            if not is_refused:
                content += inflow.view[inflow.position : inflow.position + taken]
            inflow.position += taken
            count -= taken
        if not is_refused:
            self._hand_over(message.context_id, control, bytes(content))
        if is_last and is_refused:
            self._refuse_request()
        elif is_last:
            message.reset()

    def _flush(self) -> None:
        slices, self._slices = self._slices, []
        self._written_at = time.monotonic()
        self._require_inflow().is_pinned = False
        if slices and self._message.operation is not None:
            self._message.operation.write(slices)
            # A slow disk is not the silence of the peer.
            self._idle_timer.restart()

    def _finish(self) -> None:
        """Answer the C-STORE whose last byte has come."""
        operation = self._message.operation
        if operation is None:
            raise Invalid("data_set_out_of_turn")
        self._flush()
        operation.finish(self._answer)
        self._message.reset()

    def _hand_over(self, context_id: int, control: int, content: bytes) -> None:
        """Give one fragment of another service to pynetdicom."""
        primitive = P_DATA()
        try:
            # A list and not a tuple, whatever its annotation says.
            fragment: Any = [context_id, bytes((control,)) + content]
            primitive.presentation_data_value_list = [fragment]
            self.assoc.dimse.receive_primitive(primitive)
        except Exception:  # noqa: BLE001 - whatever a decoder raises, the message is invalid
            raise Invalid("message_damaged") from None
        self.assoc.look()

    def _answer(self, status: int) -> None:
        message = self._message
        field = number_of(message.command, COMMAND_FIELD) | RESPONSE
        response = build_response(message.context_id, field, message.command, status)
        self._send_all(response)
        self._idle_timer.restart()

    def _send_all(self, content: bytes) -> None:
        sock = self._require_inflow().sock
        sent = 0
        deadline = time.monotonic() + self._require_inflow().network_timeout_s
        # Not select, which knows no descriptor above 1023.
        writable = select.poll()
        writable.register(sock, select.POLLOUT)
        while sent < len(content):
            try:
                sent += sock.send(content[sent:])
            except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                # A peer that takes no answers fills our send buffer: it gets as long as one that sends nothing.
                if time.monotonic() > deadline:
                    raise Stalled from None
                writable.poll(500)
            except OSError:
                raise Closed from None


class FastAssociation(Association):
    """An association whose thread sleeps until there is something for it."""

    def __init__(self, entity: Any, mode: str) -> None:
        super().__init__(entity, mode)
        self._something_happened = threading.Event()
        #: The connection, as its address is charged with it; set by who starts the association.
        self.connected: Any = None
        #: What has been received of it already.
        self.first_bytes = b""
        self._upper_layer = FastUpperLayer(self)
        self.dul = self._upper_layer
        # The setters carry the timeouts into the upper layer, which is a new one.
        self.acse_timeout = entity.acse_timeout
        self.network_timeout = entity.network_timeout

    @property
    def asked_for(self) -> AssociationRequest | None:
        """What the peer asks for; None until it has come."""
        return self._upper_layer.request

    @property
    def storage_service(self) -> Any:
        """Who takes C-STORE requests."""
        server: Any = self._server
        return server.storage_service

    def look(self) -> None:
        """Make the thread look at its queues."""
        self._something_happened.set()

    def finish(self) -> None:
        """End after the object in flight."""
        self._upper_layer.finish()

    def kill(self) -> None:
        """End the thread."""
        self.look()
        super().kill()

    def _run_reactor(self) -> None:
        """Serve what the data phase handed over, and see to release and abort, until the association ends."""
        self._is_paused = False
        while not self._kill:
            self._something_happened.wait()
            self._something_happened.clear()
            while self._serve_one():
                pass
            if self.is_established and self.acse.is_release_requested():
                # Before the answer: a peer may ask for its next association as soon as it has it.
                self._leave_register()
                self.acse.send_release(is_response=True)
                self.is_released = True
                self.is_established = False
                self.kill()
            elif self.acse.is_aborted() or self._upper_layer.has_ended:
                self.is_aborted = True
                self.is_established = False
                self.kill()

    def _leave_register(self) -> None:
        server: Any = self._server
        server.register.leave(self)
        self.connected.end()

    def _serve_one(self) -> bool:
        context_id, message = self.dimse.get_msg(block=False)
        if message:
            self._serve_request(message, context_id or 0)
        return bool(message)
