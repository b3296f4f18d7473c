"""STOW-RS (PS3.18 10.5): the same inbox, index, gate and answers as for C-STORE, reached by HTTP.

A part is written as it arrives, so a request of any size takes constant memory; its instance is acknowledged only
when it is durable. aiohttp speaks HTTP; the multipart body is taken apart here.
"""

import asyncio
import hmac
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from casebook.errors import InvalidObject
from casebook.logs import get_logger
from casebook.settings import StowSettings
from dicom_node.objects.file_meta import Envelope, read_file_meta, require_uid
from dicom_node.receive.admission import Register
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
_JSON = "application/dicom+json"
_log = get_logger(__name__)


@dataclass(slots=True)
class _Store:
    """What became of the instances of one request."""

    #: Class and instance UID.
    stored: list[tuple[str, str]] = field(default_factory=list)
    #: Class, instance UID and reason.
    failed: list[tuple[str, str, int]] = field(default_factory=list)
    #: Reasons of parts that name no instance.
    unnamed: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.stored) + len(self.failed) + len(self.unnamed)

    @property
    def http_status(self) -> int:
        """PS3.18 table 10.5.3-1; a full disk is told from a bad object, because the sender may try again."""
        reasons = {*(reason for *_, reason in self.failed), *self.unnamed}
        if not reasons:
            return 200
        if self.stored:
            return 202
        return 503 if reasons == {_OUT_OF_RESOURCES} else 409

    def to_json(self) -> dict[str, Any]:
        """Build the Store Instances Response Module (PS3.18 I.2) in the DICOM JSON model (PS3.18 F)."""
        answer: dict[str, Any] = {"00081190": {"vr": "UR"}}
        if self.failed:
            items = [_reference(*one) | {"00081197": {"vr": "US", "Value": [why]}} for *one, why in self.failed]
            answer["00081198"] = {"vr": "SQ", "Value": items}
        if self.stored:
            answer["00081199"] = {"vr": "SQ", "Value": [_reference(*one) for one in self.stored]}
        if self.unnamed:
            items = [{"00081197": {"vr": "US", "Value": [reason]}} for reason in self.unnamed]
            answer["0008119A"] = {"vr": "SQ", "Value": items}
        return answer


def _reference(sop_class_uid: str, sop_instance_uid: str) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [sop_instance_uid]},
    }


class _Part:
    """One part on its way to disk."""

    def __init__(
        self, begin: PartBegin, storage_service: StorageService, settings: StowSettings, peer: str, study: str
    ) -> None:
        self._storage_service = storage_service
        self._settings = settings
        self._peer = peer
        self._study = study
        self._head = bytearray()
        self._failure = 0 if begin.content_type in ("", "application/dicom") else _CANNOT_UNDERSTAND
        self._envelope: Envelope | None = None
        self._reception: StoreOperation | None = None

    def write(self, piece: bytes) -> None:
        """Take the next bytes of the file."""
        if self._failure:
            return
        if self._reception is not None:
            self._reception.write([piece])
            return
        self._head += piece
        try:
            self._begin()
        except InvalidObject:
            self._failure = _CANNOT_UNDERSTAND

    def _begin(self) -> None:
        # PS3.10 7.1: preamble, prefix, then the group length, which says where the data set begins.
        if len(self._head) < 144:
            return
        end = 144 + int.from_bytes(self._head[140:144], "little")
        if bytes(self._head[128:140]) != b"DICM\x02\x00\x00\x00UL\x04\x00" or end > _LONGEST_META:
            raise InvalidObject("the part is no DICOM file")
        if len(self._head) < end:
            return
        meta, offset = read_file_meta(bytes(self._head[:end]))
        for uid in (meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid):
            require_uid(uid)
        self._envelope = Envelope(
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            calling_ae_title=self._settings.calling_ae_title,
            peer_address=self._peer,
        )
        self._reception = self._storage_service.begin(self._envelope, self._study)
        rest = bytes(self._head[offset:])
        self._head.clear()
        if rest:
            self._reception.write([rest])

    def finish(self, store: _Store) -> None:
        """Make the instance durable and note what became of it."""
        if self._reception is None or self._envelope is None:
            store.unnamed.append(self._failure or _CANNOT_UNDERSTAND)
            return
        status = self._reception.finish()
        named = (self._envelope.sop_class_uid, self._envelope.sop_instance_uid)
        if status == SUCCESS:
            store.stored.append(named)
        else:
            store.failed.append((*named, status))

    def abandon(self, store: _Store) -> None:
        """Leave nothing behind: the request ended inside this part."""
        if self._reception is None or self._envelope is None:
            store.unnamed.append(_CUT)
            return
        self._reception.abandon()
        store.failed.append((self._envelope.sop_class_uid, self._envelope.sop_instance_uid, _CUT))


class _Intake:
    """One request body on its way to disk; used by one thread at a time."""

    def __init__(self, request: web.Request, storage_service: StorageService, settings: StowSettings) -> None:
        self._storage_service = storage_service
        self._settings = settings
        self._peer = request.remote or ""
        self._study = request.match_info.get("study", "")
        if self._study:
            require_uid(self._study)
        self._splitter = Splitter(boundary_of(request.headers["Content-Type"]) or "")
        self._part: _Part | None = None
        self.store = _Store()

    def take(self, block: bytes) -> None:
        """Take the next bytes of the body.

        Raises
        ------
        InvalidObject
            When it is no multipart body, or has too many parts.
        """
        for event in self._splitter.feed(block):
            match event:
                case PartBegin():
                    if len(self.store) >= _MAX_PARTS:
                        raise InvalidObject("the body has too many parts")
                    self._part = _Part(event, self._storage_service, self._settings, self._peer, self._study)
                case PartEnd() if self._part is not None:
                    self._part.finish(self.store)
                    self._part = None
                case bytes() if self._part is not None:
                    self._part.write(event)

    def end(self) -> None:
        """Leave nothing of a part behind that was not finished: the body was cut inside it."""
        if self._part is not None:
            self._part.abandon(self.store)
            self._part = None


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
        self._running = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._ended: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="stow", daemon=True)
        #: The bound port, once started.
        self.port = settings.port

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
            keepalive_timeout=15.0,
            shutdown_timeout=5.0,
        )
        await runner.setup()
        self._ended = asyncio.Event()
        try:
            site = web.TCPSite(runner, self._settings.host, self._settings.port, ssl_context=self._context)
            await site.start()
            self.port = int(runner.addresses[0][1])
            self._ready.set()
            await self._ended.wait()
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            _log.warning("stow_refused", peer=request.remote or "", status=str(refusal.status), reason=refusal.reason)
            return refusal
        self._running += 1
        try:
            store = await self._store(request)
        except (InvalidObject, TimeoutError, ConnectionError, web.RequestPayloadError) as error:
            _log.warning("stow_refused", peer=request.remote or "", status="400", error=type(error).__name__)
            return _plain(400, "malformed multipart body")
        finally:
            self._running -= 1
        if not len(store):
            return _plain(400, "the body holds no instance")
        _log.info("stow_answered", status=str(store.http_status), count=len(store.stored))
        body = json.dumps(store.to_json()).encode()
        headers = {"Retry-After": "60"} if store.http_status == 503 else {}
        return web.Response(status=store.http_status, body=body, content_type=_JSON, headers=headers)

    def _refusal(self, request: web.Request) -> web.Response | None:
        transport = request.transport
        if transport is None or not self._register.allows_address(request.remote or ""):
            return _plain(403, "this address may not send")
        tls = self._settings.tls
        encrypted = transport.get_extra_info("ssl_object")
        if tls is not None and not is_allowed(tls, encrypted.getpeercert(binary_form=True) if encrypted else None):
            return _plain(403, "this certificate may not send")
        if not self._shows_token(request):
            return _plain(401, "a bearer token is needed", {"WWW-Authenticate": 'Bearer realm="stow"'})
        if boundary_of(request.headers.get("Content-Type", "")) is None:
            return _plain(415, 'the body has to be multipart/related; type="application/dicom"')
        if self._running >= self._settings.max_requests or not self._storage_service.is_open:
            return _plain(503, "busy", {"Retry-After": "60"})
        return None

    def _shows_token(self, request: web.Request) -> bool:
        shown = request.headers.get("Authorization", "")[:_LONGEST_AUTHORIZATION]
        wanted = f"Bearer {self._settings.token.get_secret_value()}"
        # In constant time, so that the answer's delay tells nothing of the token.
        return hmac.compare_digest(shown.encode("utf-8", "replace"), wanted.encode())

    async def _store(self, request: web.Request) -> _Store:
        intake = _Intake(request, self._storage_service, self._settings)
        try:
            async for block in self._blocks(request):
                await _beside(intake.take, block)
        except InvalidObject:
            # What came before is stored, and the sender is told so.
            if not len(intake.store):
                raise
        finally:
            await _beside(intake.end)
        return intake.store

    async def _blocks(self, request: web.Request) -> AsyncIterator[bytes]:
        block = bytearray()
        while True:
            async with asyncio.timeout(self._settings.timeout_s):
                received = await request.content.readany()
            if not received:
                break
            block += received
            if len(block) >= _BLOCK_BYTES:
                yield bytes(block)
                block.clear()
        if block:
            yield bytes(block)


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
