"""Questions to the site's archive: C-FIND, C-GET over our own association, C-MOVE to our listener (PS3.4 C).

Every failure of the archive is `PeerUnavailable`: what it knows is never needed to go on, only to know more.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from casebook.errors import PeerUnavailable
from casebook.logs import get_logger
from casebook.settings import QuerySettings
from dicom_node.association_scu import associate
from dicom_node.objects.file_meta import Envelope

#: Takes one object of a C-GET: its envelope and its data set; returns the status of the C-STORE (PS3.4 B.2.3).
Take = Callable[[Envelope, memoryview], int]

_SUCCESS = 0x0000
#: PS3.4 C.4.1.1.4, C.4.2.1.5, C.4.3.1.4: matches or sub-operations go on.
_PENDING = frozenset({0xFF00, 0xFF01})
#: PS3.4 C.4.2.1.5 and C.4.3.1.4: sub-operations complete, some of them failed.
_SOME_FAILED = 0xB000
#: PS3.8 9.3.2.2: context ids are odd and at most 255.
_MAX_CONTEXTS = 128
#: UIDs of one request; a list of UIDs is one value of a UI element, and some archives bound its length.
_UIDS_OF_ONE_REQUEST = 64
#: More matches than any study has objects: an archive that never ends is not believed.
_MAX_MATCHES = 100_000
#: One context each, so that the archive may send what it holds as it holds it (PS3.4 C.4.3.2).
_TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    JPEG2000,
    JPEGLossless,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    HTJ2KLossless,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    MPEG4HP41,
)
_CLASSES_OF_ONE_ASSOCIATION = (_MAX_CONTEXTS - 1) // len(_TRANSFER_SYNTAXES)
#: pynetdicom would print every answer, patient and all, and turn its bytes into text as it likes.
_config.LOG_RESPONSE_IDENTIFIERS = False
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One object as the archive lists it."""

    series_instance_uid: str
    sop_instance_uid: str
    #: Empty where the archive does not say.
    sop_class_uid: str
    #: Of its series; empty where the archive does not say.
    modality: str = ""


def find_studies(archive: QuerySettings, keys: Mapping[str, str]) -> list[Dataset]:
    """Ask for studies (PS3.4 C.4.1, study root).

    Parameters
    ----------
    keys
        Keyword to value; an empty value asks for the attribute.

    Raises
    ------
    PeerUnavailable
        When the archive does not answer, or answers with a failure.
    """
    with _associated(archive, [build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
        return _find(association, "STUDY", keys)


def list_objects(archive: QuerySettings, study_instance_uid: str, known_series: Iterable[str] = ()) -> list[Listed]:
    """List every object of a study, series by series.

    Parameters
    ----------
    known_series
        Series to leave out.

    Raises
    ------
    PeerUnavailable
        When the archive does not answer, or answers with a failure.
    """
    left_out = set(known_series)
    with _associated(archive, [build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
        keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": "", "Modality": ""}
        found = []
        for series in _find(association, "SERIES", keys):
            uid = text(series, "SeriesInstanceUID")
            if not uid or uid in left_out:
                continue
            keys = {
                "StudyInstanceUID": study_instance_uid,
                "SeriesInstanceUID": uid,
                "SOPInstanceUID": "",
                "SOPClassUID": "",
            }
            found += [
                Listed(
                    series_instance_uid=uid,
                    sop_instance_uid=text(one, "SOPInstanceUID"),
                    sop_class_uid=text(one, "SOPClassUID"),
                    modality=text(series, "Modality"),
                )
                for one in _find(association, "IMAGE", keys)
                if text(one, "SOPInstanceUID")
            ]
    return found


def find_series(archive: QuerySettings, study_instance_uid: str) -> list[Dataset]:
    """Return the series of a study with their Modality and BodyPartExamined.

    Raises
    ------
    PeerUnavailable
        When the archive does not answer, or answers with a failure.
    """
    keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": "", "Modality": "", "BodyPartExamined": ""}
    with _associated(archive, [build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
        return _find(association, "SERIES", keys)


def get(archive: QuerySettings, study_instance_uid: str, wanted: Sequence[Listed], take: Take) -> None:
    """Fetch objects over our own association (PS3.4 C.4.3); `take` is called for each, in the archive's order.

    Parameters
    ----------
    wanted
        Their classes have to be known.

    Raises
    ------
    PeerUnavailable
        When the archive does not answer, or cannot send. What `take` accepted before that stays.
    """
    classes = sorted({one.sop_class_uid for one in wanted})
    for some in _batched(classes, _CLASSES_OF_ONE_ASSOCIATION):
        chosen = [one for one in wanted if one.sop_class_uid in some]
        contexts = [build_context(StudyRootQueryRetrieveInformationModelGet)]
        contexts += [build_context(uid, syntax) for uid in some for syntax in _TRANSFER_SYNTAXES]
        asked = {one.sop_instance_uid for one in chosen}
        handler = (evt.EVT_C_STORE, _on_store, [take, asked, archive])
        with _associated(archive, contexts, roles=some, handlers=[handler]) as association:
            for identifier in _image_requests(study_instance_uid, chosen):
                answers = association.send_c_get(identifier, StudyRootQueryRetrieveInformationModelGet)
                _await_completion(answers, "C-GET")


def move(archive: QuerySettings, study_instance_uid: str, wanted: Sequence[Listed], destination: str) -> None:
    """Have objects sent to an AE title the archive knows: our listener's (PS3.4 C.4.2).

    Raises
    ------
    PeerUnavailable
        When the archive does not answer, or cannot send.
    """
    with _associated(archive, [build_context(StudyRootQueryRetrieveInformationModelMove)]) as association:
        for identifier in _image_requests(study_instance_uid, wanted):
            answers = association.send_c_move(identifier, destination, StudyRootQueryRetrieveInformationModelMove)
            _await_completion(answers, "C-MOVE")


def text(ds: Dataset, keyword: str) -> str:
    """Return a value of an answer as text; empty where it is absent."""
    value = ds.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _image_requests(study_instance_uid: str, wanted: Sequence[Listed]) -> Iterator[Dataset]:
    series = sorted({one.series_instance_uid for one in wanted})
    for uid in series:
        uids = sorted(one.sop_instance_uid for one in wanted if one.series_instance_uid == uid)
        for some in _batched(uids, _UIDS_OF_ONE_REQUEST):
            identifier = Dataset()
            identifier.QueryRetrieveLevel = "IMAGE"
            identifier.StudyInstanceUID = study_instance_uid
            identifier.SeriesInstanceUID = uid
            identifier.SOPInstanceUID = list(some)
            yield identifier


def _find(association: Association, level: str, keys: Mapping[str, str]) -> list[Dataset]:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    if not all(value.isascii() for value in keys.values()):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    found: list[Dataset] = []
    try:
        for status, answer in association.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind):
            code = _code(status)
            if code in _PENDING and answer is not None:
                found.append(answer)
                if len(found) > _MAX_MATCHES:
                    raise PeerUnavailable("the archive lists more objects than a study can have")
            elif code == _SUCCESS:
                return found
            else:
                raise PeerUnavailable(f"the archive answered C-FIND with 0x{code:04X}")
    except (RuntimeError, ValueError):
        raise PeerUnavailable("the association ended during C-FIND") from None
    raise PeerUnavailable("the archive ended C-FIND without a final status")


def _await_completion(answers: Iterator[tuple[Dataset, Dataset | None]], service: str) -> None:
    try:
        for status, _ in answers:
            code = _code(status)
            if code in _PENDING:
                continue
            if code == _SOME_FAILED:
                _log.warning("archive_sent_some", status=f"0x{code:04X}")
            elif code != _SUCCESS:
                raise PeerUnavailable(f"the archive answered {service} with 0x{code:04X}")
            return
    except (RuntimeError, ValueError):
        raise PeerUnavailable(f"the association ended during {service}") from None
    raise PeerUnavailable(f"the archive ended {service} without a final status")


def _code(status: Dataset) -> int:
    # An empty status: the archive aborted, closed the connection or stayed silent.
    if "Status" not in status:
        raise PeerUnavailable("the archive did not answer")
    return int(status.Status)


def _on_store(event: Any, take: Take, asked: set[str], archive: QuerySettings) -> int:
    request = event.request
    uid = str(request.AffectedSOPInstanceUID)
    if uid not in asked:
        # PS3.7 C.5.14 "Refused: not authorized": nobody asked for this object.
        _log.warning("archive_sent_unasked_object", sop_instance_uid=uid)
        return 0x0124
    envelope = Envelope(
        sop_class_uid=str(request.AffectedSOPClassUID),
        sop_instance_uid=uid,
        transfer_syntax_uid=str(event.context.transfer_syntax),
        calling_ae_title=archive.ae_title,
        peer_address=archive.host,
    )
    return take(envelope, request.DataSet.getbuffer())


@contextmanager
def _associated(
    archive: QuerySettings,
    contexts: list[PresentationContext],
    *,
    roles: Sequence[str] = (),
    handlers: Sequence[Any] = (),
) -> Iterator[Association]:
    association = associate(
        archive.host,
        archive.port,
        called=archive.ae_title,
        calling=archive.calling_ae_title,
        timeout_s=archive.timeout_s,
        contexts=contexts,
        scp_roles=roles,
        handlers=handlers,
        name=f"the archive {archive.ae_title}",
    )
    try:
        if not association.is_established:
            raise PeerUnavailable("the archive takes no association for this question")
        yield association
    finally:
        _end(association)


def _end(association: Association) -> None:
    if association.is_established:
        association.release()
    if association.ident is not None:
        # A thread that is about to end would still hold its socket; one that was never connected never ran.
        association.join(1.0)


def _batched(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (values[start : start + size] for start in range(0, len(values), size))
