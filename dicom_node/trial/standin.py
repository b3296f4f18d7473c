"""A stand-in PACS and a stand-in RIS for trials and demonstrations: they keep what arrives, byte for byte.

They are no archive: the PACS takes every storage class, answers C-ECHO and study-root C-FIND, and writes each
object to a file; the RIS acknowledges every HL7 message with AA. Both count what arrives, so a test can see that a
result came once or came again with the same bytes.
"""

import hashlib
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, evt
from pynetdicom.presentation import AllStoragePresentationContexts

from dicom_node.hl7.er7 import parse

#: PS3.4 A.4 and C.6.2.
_VERIFICATION = "1.2.840.10008.1.1"
_STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_START, _END = b"\x0b", b"\x1c\r"
#: Study-level keys the stand-in answers (PS3.4 C.6.2.1).
_STUDY_KEYWORDS = ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "StudyDate", "StudyTime")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedResult:
    """One object or message that arrived."""

    #: SOP Instance UID or MSH-10.
    object_uid: str
    study_instance_uid: str
    #: SHA-256 of the data set or message as it came.
    sha256: str
    path: Path


class StandInPacs:
    """A C-STORE and C-FIND provider on loopback."""

    def __init__(self, folder: Path, ae_title: str = "PACS", port: int = 0) -> None:
        """Take the folder that receives one file per object."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._arrivals: list[ReceivedResult] = []
        _config.LOG_HANDLER_LEVEL = "none"
        ae = AE(ae_title=ae_title)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        ae.add_supported_context(EnhancedSRStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        ae.add_supported_context(_VERIFICATION)
        ae.add_supported_context(_STUDY_ROOT_FIND)
        self._server: Any = ae.start_server(
            ("127.0.0.1", port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._on_store), (evt.EVT_C_FIND, self._on_find)],
        )

    @property
    def port(self) -> int:
        """TCP port."""
        return int(self._server.server_address[1])

    def arrivals(self) -> tuple[ReceivedResult, ...]:
        """Return everything that arrived, in order, repeats included."""
        with self._lock:
            return tuple(self._arrivals)

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()

    def _on_store(self, event: Any) -> int:
        content = event.encoded_dataset(include_meta=True)
        data_set = event.request.DataSet.getvalue()
        uid = str(event.request.AffectedSOPInstanceUID)
        path = self.folder / f"{uid}.dcm"
        path.write_bytes(content)
        study = str(dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"]).StudyInstanceUID)
        result = ReceivedResult(
            object_uid=uid, study_instance_uid=study, sha256=hashlib.sha256(data_set).hexdigest(), path=path
        )
        with self._lock:
            self._arrivals.append(result)
        return 0x0000

    def _on_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        wanted = event.identifier
        studies: dict[str, list[Dataset]] = {}
        for path in sorted(self.folder.glob("*.dcm")):
            ds = dcmread(path, stop_before_pixels=True)
            studies.setdefault(str(ds.StudyInstanceUID), []).append(ds)
        asked = str(wanted.get("StudyInstanceUID", ""))
        for uid, objects in studies.items():
            if asked in ("", uid):
                yield 0xFF00, _answer(objects)


def _answer(objects: list[Dataset]) -> Dataset:
    answer = Dataset()
    answer.QueryRetrieveLevel = "STUDY"
    for keyword in _STUDY_KEYWORDS:
        setattr(answer, keyword, objects[0].get(keyword, ""))
    answer.NumberOfStudyRelatedInstances = str(len(objects))
    answer.ModalitiesInStudy = sorted({str(one.get("Modality", "")) for one in objects})
    return answer


class StandInRis:
    """An MLLP server on loopback that acknowledges everything with AA."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        """Take the folder that receives one file per message."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._arrivals: list[ReceivedResult] = []
        ris = self

        class _Connection(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                received = b""
                while data := self.connection.recv(65536):
                    received += data
                    while _END in received:
                        frame, _, received = received.partition(_END)
                        self.connection.sendall(_START + ris._take(frame.partition(_START)[2]) + _END)

        class _Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = _Server(("127.0.0.1", port), _Connection)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """TCP port."""
        return int(self._server.server_address[1])

    def arrivals(self) -> tuple[ReceivedResult, ...]:
        """Return every message that arrived, in order, repeats included."""
        with self._lock:
            return tuple(self._arrivals)

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, message: bytes) -> bytes:
        segments = {one.name: one for one in parse(message.decode("utf-8", "replace"))}
        header = segments["MSH"]
        control_id = header.field(10)
        path = self.folder / f"{control_id}.hl7"
        path.write_bytes(message)
        result = ReceivedResult(
            object_uid=control_id, study_instance_uid="", sha256=hashlib.sha256(message).hexdigest(), path=path
        )
        with self._lock:
            self._arrivals.append(result)
        answer = f"MSH|^~\\&|RIS||WETREAD||{header.field(7)}||ACK^R01^ACK|A{control_id}|P|2.5.1\rMSA|AA|{control_id}\r"
        return answer.encode()
