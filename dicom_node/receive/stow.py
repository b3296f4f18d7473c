"""STOW-RS (PS3.18 10.5): the same inbox, index, gate and answers as for C-STORE, reached by HTTP.

A part is written as it arrives, so a request of any size takes constant memory; its instance is acknowledged only
when it is durable. aiohttp speaks HTTP; the multipart body is taken apart here.
"""

import asyncio
import hmac
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from casebook.errors import InvalidObject
from casebook.logs import get_logger
from casebook.settings import StowSettings
from dicom_node.objects.file_meta import Envelope, find_data_set, parse_file_meta, require_uid
from dicom_node.receive.admission import Register
from dicom_node.receive.inflow import MIN_RATE_BYTES_PER_S
from dicom_node.receive.multipart import PartBegin, PartEnd, Splitter, boundary_of
from dicom_node.receive.statuses import SUCCESS
from dicom_node.receive.storage_service import StorageService, StoreOperation
from dicom_node.tls import is_allowed, server_context

#: PS3.18 table I.2-2, "Error: Cannot understand": the part is no DICOM file.
_CANNOT_UNDERSTAND = 0xC000
#: PS3.18 table I.2-2, "Processing failure": the part was cut.
_CUT = 0x0110
_OUT_OF_RESOURCES = 0xA700
#: File meta information is a few hundred bytes; more is no DICOM file.
_LONGEST_META = 64 * 1024
#: Parts of one request; the answer names each.
_MAX_PARTS = 20_000
#: Bytes handed to the disk at once.
_BLOCK_BYTES = 1024 * 1024
#: The token is compared in this length at most.
_LONGEST_AUTHORIZATION = 4096
#: Connections at one time, and of one address; more are closed unread.
_MAX_CONNECTIONS, _MAX_CONNECTIONS_OF_ADDRESS = 512, 64
#: Seconds a connection may take from its start, or from its last answer, to the end of the headers of a request.
_LONGEST_HEADERS_S = 15.0
_BACKLOG = 128
#: Free descriptors are waited for this long.
_PAUSE_S = 0.1
_JSON = "application/dicom+json"
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """One instance of a request that was not stored."""

    #: Counts the parts of the body, from 1.
    part: int
    #: PS3.18 table I.2-2.
    reason: int
    #: Why, without a value of the instance but its UIDs.
    words: str
    #: Class and instance UID; empty where the part names none.
    named: tuple[str, str] = ("", "")

    def __str__(self) -> str:
        """Say which object and why."""
        which = f"part {self.part} ({self.named[1]})" if self.named[1] else f"part {self.part}"
        return f"{which}: {self.words}"


@dataclass(slots=True)
class _Store:
    """What became of the instances of one request."""

    #: Class and instance UID.
    stored: list[tuple[str, str]] = field(default_factory=list)
    failures: list[_Failure] = field(default_factory=list)
    #: The body did not come to its end.
    is_cut: bool = False

    def __len__(self) -> int:
        return len(self.stored) + len(self.failures)

    @property
    def http_status(self) -> int:
        """PS3.18 table 10.5.3-1; a full disk is told from a bad object, because the sender may try again."""
        reasons = {one.reason for one in self.failures}
        if self.stored:
            return 202 if reasons or self.is_cut else 200
        if reasons == {_OUT_OF_RESOURCES}:
            return 503
        return 400 if self.is_cut or not reasons else 409

    def to_json(self) -> dict[str, Any]:
        """Build the Store Instances Response Module (PS3.18 I.2) in the DICOM JSON model (PS3.18 F)."""
        answer: dict[str, Any] = {"00081190": {"vr": "UR"}}
        named = [_reference(*one.named) | _why(one) for one in self.failures if one.named[1]]
        others = [_why(one) for one in self.failures if not one.named[1]]
        if named:
            answer["00081198"] = {"vr": "SQ", "Value": named}
        if self.stored:
            answer["00081199"] = {"vr": "SQ", "Value": [_reference(*one) for one in self.stored]}
        if others:
            answer["0008119A"] = {"vr": "SQ", "Value": others}
        return answer


def _why(failure: _Failure) -> dict[str, Any]:
    # Failure Reason (0008,1197), and Error Comment (0000,0902), the one element for words; LO holds 64 characters.
    return {
        "00000902": {"vr": "LO", "Value": [f"part {failure.part}: {failure.words}"[:64]]},
        "00081197": {"vr": "US", "Value": [failure.reason]},
    }


def _reference(sop_class_uid: str, sop_instance_uid: str) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [sop_instance_uid]},
    }


class _Part:
    """One part on its way to disk."""

    def __init__(
        self,
        begin: PartBegin,
        number: int,
        storage_service: StorageService,
        settings: StowSettings,
        *,
        peer: str,
        study: str,
    ) -> None:
        self._number = number
        self._storage_service = storage_service
        self._settings = settings
        self._peer = peer
        self._study = study
        self._head = bytearray()
        #: Why the part is no instance, in words.
        self._refusal = "" if begin.content_type in ("", "application/dicom") else _WRONG_TYPE
        self._envelope: Envelope | None = None
        self._operation: StoreOperation | None = None

    def write(self, piece: bytes) -> None:
        """Take the next bytes of the file."""
        if self._refusal:
            return
        if self._operation is not None:
            self._operation.write([piece])
            return
        self._head += piece
        try:
            self._begin()
        except InvalidObject as error:
            self._refusal = str(error)

    def _begin(self) -> None:
        offset = find_data_set(bytes(self._head))
        if offset is None:
            if len(self._head) > _LONGEST_META:
                raise InvalidObject("its file meta information has no end")
            return
        meta = parse_file_meta(bytes(self._head[:offset]))
        require_named(meta)
        self._envelope = Envelope(
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            calling_ae_title=self._settings.calling_ae_title,
            peer_address=self._peer,
        )
        self._operation = self._storage_service.begin(self._envelope, self._study)
        rest = bytes(self._head[offset:])
        self._head.clear()
        if rest:
            self._operation.write([rest])

    def finish(self, store: _Store) -> None:
        """Make the instance durable and note what became of it."""
        if self._operation is None:
            store.failures.append(self._failure(_CANNOT_UNDERSTAND, self._refusal or "it ends before its data set"))
            return
        status = self._operation.finish()
        if status == SUCCESS:
            store.stored.append(self._named)
        else:
            store.failures.append(self._failure(status, self._operation.refusal))

    def abandon(self, store: _Store, words: str) -> None:
        """Leave nothing behind: the request ended inside this part."""
        if self._operation is not None:
            self._operation.abandon()
        store.failures.append(self._failure(_CUT, words))

    @property
    def _named(self) -> tuple[str, str]:
        envelope = self._envelope
        return ("", "") if envelope is None else (envelope.sop_class_uid, envelope.sop_instance_uid)

    def _failure(self, reason: int, words: str) -> _Failure:
        return _Failure(part=self._number, reason=reason, words=words, named=self._named)


_WRONG_TYPE = "its Content-Type is not application/dicom"


def require_named(meta: Envelope) -> None:
    """Refuse file meta information that does not say which instance follows, and how (PS3.10 7.1).

    Raises
    ------
    InvalidObject
        Names the element that is missing or malformed.
    """
    for keyword, uid in (
        ("MediaStorageSOPClassUID", meta.sop_class_uid),
        ("MediaStorageSOPInstanceUID", meta.sop_instance_uid),
        ("TransferSyntaxUID", meta.transfer_syntax_uid),
    ):
        try:
            require_uid(uid)
        except InvalidObject:
            raise InvalidObject(f"its {keyword} is missing or malformed") from None


class _Intake:
    """One request body on its way to disk; used by one thread at a time."""

    def __init__(self, request: web.Request, storage_service: StorageService, settings: StowSettings) -> None:
        self._storage_service = storage_service
        self._settings = settings
        self._peer = request.remote or ""
        self._study = request.match_info.get("study", "")
        self._splitter = Splitter(boundary_of(request.headers["Content-Type"]) or "")
        self._part: _Part | None = None
        self._parts = 0
        self._problem = ""
        self.store = _Store()

    def take(self, block: bytes) -> None:
        """Take the next bytes of the body; what follows on its first fault is not looked at."""
        if self._problem:
            return
        try:
            self._take(block)
        except InvalidObject as error:
            self._problem = str(error)

    def _take(self, block: bytes) -> None:
        for event in self._splitter.feed(block):
            match event:
                case PartBegin():
                    self._parts += 1
                    if self._parts > _MAX_PARTS:
                        raise InvalidObject("the body has too many parts")
                    self._part = _Part(
                        event,
                        self._parts,
                        self._storage_service,
                        self._settings,
                        peer=self._peer,
                        study=self._study,
                    )
                case PartEnd() if self._part is not None:
                    self._part.finish(self.store)
                    self._part = None
                case bytes() if self._part is not None:
                    self._part.write(event)

    def end(self, problem: str = "") -> None:
        """Say what the body lacks, and leave nothing behind of the part that it cut.

        Parameters
        ----------
        problem
            Why no more bytes came, where the sender did not say that these were all.
        """
        words = self._problem or self._splitter.missing
        if not words:
            return  # The closing delimiter came; how the request ended after it changes nothing.
        words = self._problem or problem or words
        self.store.is_cut = True
        if self._part is not None:
            self._part.abandon(self.store, words)
            self._part = None
        else:
            self.store.failures.append(_Failure(part=self._parts + 1, reason=_CUT, words=words))


class StowServer:
    """The endpoint, in a thread of its own."""

    def __init__(self, settings: StowSettings, storage_service: StorageService, register: Register) -> None:
        """Take who may send and where instances land.

        Raises
        ------
        SettingsError
            When the TLS files cannot be used.
        """
        self._settings = settings
        self._storage_service = storage_service
        self._register = register
        self._context = server_context(settings.tls) if settings.tls is not None else None
        #: Requests under way, by address.
        self._running: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._ended: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="stow", daemon=True)
        #: The bound port, once started.
        self.port = settings.port

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Answer requests from now on.

        Raises
        ------
        OSError
            When the port cannot be bound.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        _log.info("stow_started", port=self.port)

    def stop(self) -> None:
        """Finish the requests in flight, for a while, and end."""
        ended = self._ended
        if ended is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(ended.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # noqa: BLE001 - process edge of a thread: whoever started it is told
            _log.exception("stow_ended")
            self._failure = error
        finally:
            self._ready.set()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self) -> None:
        application = web.Application()
        application.router.add_post("/studies", self._answer)
        application.router.add_post("/studies/{study}", self._answer)
        runner = web.AppRunner(
            application,
            handle_signals=False,
            access_log=None,
            lingering_time=2.0,
            keepalive_timeout=_LONGEST_HEADERS_S,
            shutdown_timeout=5.0,
            auto_decompress=False,
        )
        await runner.setup()
        self._ended = asyncio.Event()
        try:
            if runner.server is None:
                raise OSError("no server")
            runner.server.request_factory = _make_request
            entrance = _Entrance(self._settings, self._register, runner.server, self._context)
            self.port = entrance.port
            admitting = asyncio.create_task(entrance.admit())
            self._ready.set()
            ended = asyncio.create_task(self._ended.wait())
            await asyncio.wait({admitting, ended}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            await entrance.close(admitting)
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            _log.warning("stow_refused", peer=request.remote or "", status=str(refusal.status), reason=refusal.reason)
            return refusal
        address = request.remote or ""
        self._running[address] += 1
        try:
            store = await self._store(request)
        finally:
            self._running[address] -= 1
            # What is zero would stay for every address that ever came.
            self._running += Counter()
        status = store.http_status
        _log.info("stow_answered", status=str(status), count=len(store.stored))
        if status == 400:
            said = [*map(str, store.failures)] or ["the body holds no instance"]
            return _plain(400, "\n".join(["nothing was stored", *said]))
        body = json.dumps(store.to_json()).encode()
        headers = {"Retry-After": "60"} if status == 503 else {}
        return web.Response(status=status, body=body, content_type=_JSON, headers=headers)

    def _refusal(self, request: web.Request) -> web.Response | None:
        tls = self._settings.tls
        encrypted = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
        if tls is not None and not is_allowed(tls, encrypted.getpeercert(binary_form=True) if encrypted else None):
            return _plain(403, "this certificate may not send")
        if not self._shows_token(request):
            return _plain(401, "a bearer token is needed", {"WWW-Authenticate": 'Bearer realm="stow"'})
        if not _is_study(request.match_info.get("study", "")):
            return _plain(400, "the study named in the path is no UID")
        if boundary_of(request.headers.get("Content-Type", "")) is None:
            return _plain(415, 'the body has to be multipart/related; type="application/dicom"')
        if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            # A few bytes may unpack into more than any disk holds.
            return _plain(415, "the body must not be compressed: send it without Content-Encoding")
        if self._is_busy(request.remote or "") or not self._storage_service.is_open:
            return _plain(503, "busy", {"Retry-After": "60"})
        return None

    def _is_busy(self, address: str) -> bool:
        settings = self._settings
        return (
            self._running.total() >= settings.max_requests
            or self._running[address] >= settings.max_requests_per_address
        )

    def _shows_token(self, request: web.Request) -> bool:
        shown = request.headers.get("Authorization", "")[:_LONGEST_AUTHORIZATION]
        wanted = f"Bearer {self._settings.token.get_secret_value()}"
        # In constant time, so that the answer's delay tells nothing of the token.
        return hmac.compare_digest(shown.encode("utf-8", "replace"), wanted.encode())

    async def _store(self, request: web.Request) -> _Store:
        intake = _Intake(request, self._storage_service, self._settings)
        problem = "the request was given up"
        try:
            async for block in self._blocks(request):
                await _beside(intake.take, block)
            problem = ""
        except TimeoutError:
            problem = "the sender fell silent, or sent too slowly"
        except (ConnectionError, web.RequestPayloadError):
            problem = "the connection ended, or the body was not framed as HTTP wants it"
        finally:
            await _beside(intake.end, problem)
        # What came whole is stored, and the sender is told so.
        return intake.store

    async def _blocks(self, request: web.Request) -> AsyncIterator[bytes]:
        block = bytearray()
        patience = _Patience(self._settings.timeout_s)
        while True:
            try:
                received = await patience.wait_for(request.content.readany())
            except (TimeoutError, ConnectionError, web.RequestPayloadError):
                # What came before may hold whole parts.
                if block:
                    yield bytes(block)
                raise
            if not received:
                break
            block += received
            if len(block) >= _BLOCK_BYTES:
                yield bytes(block)
                block.clear()
        if block:
            yield bytes(block)


class _Patience:
    """How long a sender is waited for: so long in silence, and in all as long as it sends at a least rate."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        #: Our own work between two waits does not count against the sender.
        self._waited_s = 0.0
        self._received_bytes = 0

    async def wait_for(self, coming: Awaitable[bytes]) -> bytes:
        """Wait for the next bytes.

        Raises
        ------
        TimeoutError
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(self._timeout_s):
            received = await coming
        self._waited_s += loop.time() - began
        self._received_bytes += len(received)
        is_slow = self._received_bytes < self._waited_s * MIN_RATE_BYTES_PER_S
        if received and is_slow and self._waited_s > self._timeout_s:
            raise TimeoutError
        return received


class _Entrance:
    """The port: looks at the address of a connection before it reads a byte of it, and counts them by address."""

    def __init__(
        self,
        settings: StowSettings,
        register: Register,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext | None,
    ) -> None:
        """Bind the port.

        Raises
        ------
        OSError
            When the address cannot be had.
        """
        self._register = register
        self._make_protocol = make_protocol
        self._context = context
        self._handshake_timeout_s = None if settings.tls is None else settings.tls.handshake_timeout_s
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._listening = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
        self._listening.setblocking(False)
        self.port = int(self._listening.getsockname()[1])
        #: A socket that its transport has closed has no descriptor any more.
        self._open: list[tuple[socket.socket, str]] = []
        self._handshakes: set[asyncio.Task[None]] = set()

    async def admit(self) -> None:
        """Take connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listening)
            except OSError as error:
                # Out of descriptors: what waits in the backlog is taken when some are free again.
                _log.warning("connection_not_accepted", error=type(error).__name__)
                await asyncio.sleep(_PAUSE_S)
                continue
            reason = self._reason_against(str(address[0]))
            if reason:
                _log.warning("stow_refused", peer=address[0], reason=reason)
                connection.close()
                continue
            self._open.append((connection, str(address[0])))
            task = asyncio.create_task(self._begin(connection, str(address[0])))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _reason_against(self, address: str) -> str:
        if not self._register.allows_address(address):
            return "network_not_allowed"
        self._open = [one for one in self._open if one[0].fileno() >= 0]
        if len(self._open) >= _MAX_CONNECTIONS:
            return "too_many_connections"
        if sum(one == address for _, one in self._open) >= _MAX_CONNECTIONS_OF_ADDRESS:
            return "too_many_of_one_address"
        return ""

    async def _begin(self, connection: socket.socket, address: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=None if self._context is None else self._handshake_timeout_s,
            )
        except (OSError, EOFError) as error:
            _log.warning("stow_refused", peer=address, reason="handshake_failed", error=type(error).__name__)
            connection.close()

    async def close(self, admitting: "asyncio.Task[None]") -> None:
        """Take nothing more, and close the port."""
        admitting.cancel()
        await asyncio.wait({admitting, *self._handshakes})
        self._listening.close()
        if not admitting.cancelled():
            # It ended on its own: whoever started the endpoint has to know.
            admitting.result()


class _Request(web.Request):
    """A request whose answer does not say with which software it was made."""

    async def _prepare_hook(self, resp: web.StreamResponse) -> None:
        await super()._prepare_hook(resp)
        resp.headers.popall("Server", None)


def _make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.Request:
    return _Request(message, payload, protocol, writer, task, asyncio.get_running_loop())


def _is_study(named: str) -> bool:
    try:
        return not named or bool(require_uid(named))
    except InvalidObject:
        return False


async def _beside(work: Callable[..., None], *arguments: object) -> None:
    """Run blocking work beside the loop and wait for it to end, even when the request is given up meanwhile."""
    running = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


def _plain(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers=headers)
