"""Earlier studies of the patient for the reader: found, fetched and kept apart from what is read.

Relevant is an earlier study of the same patient with pictures of the same body part in the same group of modalities,
newest first. Its pictures and reports come by C-GET into ``priors/``, never into the inbox: no index looks there, so
nothing of it can start a job. A prior that cannot be fetched never delays a draft.
"""

import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from casebook.case import Case
from casebook.errors import InvalidObject, PeerUnavailable, WetreadError
from casebook.identity import PATIENT, agree, contradictions, exact_text, with_identity_of
from casebook.logs import get_logger
from casebook.settings import ArchiveSettings, Settings
from casebook.study import Prior, PriorKind, StudyHeader
from dicom_node.archive import query_retrieve as pacs
from dicom_node.archive.query_retrieve import Listed
from dicom_node.objects.file_meta import Envelope, build_file_meta, require_uid
from dicom_node.objects.identification import whose
from dicom_node.objects.own_results import is_own_result
from dicom_node.objects.sop_classes import ENCAPSULATED_PDF, is_picture, is_report
from dicom_node.objects.stored_header import read_stored_header
from dicom_node.receive.statuses import SUCCESS, status_of
from dicom_node.storage.disk_gate import DiskGate, Reservation
from dicom_node.storage.file_system import FileSystem, write_all

#: Modalities that picture the same thing the same way; any other modality is a group of its own.
_GROUPS = (frozenset({"CR", "DX", "RG", "XR"}), frozenset({"CT", "PT"}), frozenset({"MG", "DBT"}))
#: PS3.4 C.2.2.2: these would turn a value into a pattern or a list.
_NOT_IN_A_KEY = re.compile(r"[*?\\]")
_LONGEST_REPORT = 100_000
_DEEPEST_REPORT = 32
_log = get_logger(__name__)


def fetch_priors(case: Case, settings: Settings) -> tuple[Prior, ...]:
    """Fetch the relevant priors of a study; none where the archive does not give them."""
    archive = settings.archive
    if archive is None or not archive.priors.max_studies or not case.instances:
        return ()
    try:
        return _Search(case, archive, settings).priors()
    except (WetreadError, OSError) as error:
        _log.warning("priors_not_fetched", error=type(error).__name__)
        return ()


class _Search:
    """The search for the priors of one study."""

    def __init__(self, case: Case, archive: ArchiveSettings, settings: Settings) -> None:
        self._archive = archive
        self._settings = settings
        self._own_device_uids = case.own_device_uids
        self._study = case.study.study_instance_uid
        headers = [one.header for one in case.instances]
        self._header = with_identity_of(headers[0], headers)
        pictures = [one for one in case.instances if is_picture(one.sop_class_uid)]
        self._modalities = frozenset(other for one in pictures for other in _group_of(one.modality))
        self._body_parts = {one.attributes.get("BodyPartExamined", "").upper() for one in pictures} - {""}

    def priors(self) -> tuple[Prior, ...]:
        patient_id = exact_text(self._header, "patient_id")
        if not patient_id or _NOT_IN_A_KEY.search(patient_id) or not self._body_parts or not self._header.study_date:
            return ()
        found: list[Prior] = []
        studies = 0
        for study in self._earlier_studies(patient_id):
            wanted = self._relevant_objects(pacs.text(study, "StudyInstanceUID"))
            if not any(is_picture(one.sop_class_uid) for one in wanted):
                continue
            found += self._fetch(study, wanted)
            studies += 1
            if studies == self._archive.priors.max_studies:
                break
        return tuple(found)

    def _earlier_studies(self, patient_id: str) -> list[Dataset]:
        keys = dict.fromkeys(
            ("StudyInstanceUID", "StudyDate", "StudyTime", "ModalitiesInStudy", "PatientBirthDate"), ""
        )
        found = pacs.find_studies(self._archive, {"PatientID": patient_id, "IssuerOfPatientID": "", **keys})
        now = (self._header.study_date, self._header.study_time)
        return sorted(
            (one for one in found if self._is_same_patient(one) and _when(one)[0] > "" and _when(one) < now),
            key=_when,
            reverse=True,
        )

    def _is_same_patient(self, study: Dataset) -> bool:
        same = not contradictions((self._header, whose(study)), PATIENT)
        return same and pacs.text(study, "StudyInstanceUID") != self._study

    def _relevant_objects(self, study_instance_uid: str) -> list[Listed]:
        require_uid(study_instance_uid)
        series = {
            pacs.text(one, "SeriesInstanceUID")
            for one in pacs.find_series(self._archive, study_instance_uid)
            if pacs.text(one, "Modality") in self._modalities
            and pacs.text(one, "BodyPartExamined").upper() in self._body_parts
        }
        if not series:
            return []
        listed = pacs.list_objects(self._archive, study_instance_uid)
        pictures = [one for one in listed if one.series_instance_uid in series and is_picture(one.sop_class_uid)]
        reports = sorted((one for one in listed if is_report(one.sop_class_uid)), key=lambda one: one.sop_instance_uid)
        kept = [one for one in pictures if one.sop_class_uid]
        return [*_spread(kept, self._archive.priors.max_images_per_study), *reports]

    def _fetch(self, study: Dataset, wanted: Sequence[Listed]) -> Iterator[Prior]:
        uid = pacs.text(study, "StudyInstanceUID")
        shelf = _Shelf(self._settings, uid, self._header)
        absent = [one for one in wanted if not shelf.path_of(one.sop_instance_uid).exists()]
        try:
            if absent:
                pacs.get(self._archive, uid, absent, shelf.take)
        except PeerUnavailable:
            _log.warning("prior_incomplete", count=len(absent))
        for one in wanted:
            path = shelf.path_of(one.sop_instance_uid)
            if path.exists():
                prior = self._described(study, one, path)
                if prior is not None:
                    yield prior

    def _described(self, study: Dataset, one: Listed, path: Path) -> Prior | None:
        kind, text = PriorKind.IMAGE, ""
        if is_report(one.sop_class_uid):
            kind = PriorKind.DOCUMENT if one.sop_class_uid == ENCAPSULATED_PDF else PriorKind.REPORT
            report = _read(path)
            if _is_draft(report, one.sop_class_uid, self._own_device_uids):
                return None  # A draft of ours is no report of a physician.
            text = report_text(report) if kind is PriorKind.REPORT else ""
        return Prior(
            prior_study_instance_uid=pacs.text(study, "StudyInstanceUID"),
            study_date=pacs.text(study, "StudyDate"),
            modality=one.modality,
            sop_instance_uid=one.sop_instance_uid,
            sop_class_uid=one.sop_class_uid,
            kind=kind,
            path=str(path.relative_to(self._settings.data_directory)),
            report_text=text,
        )


def _is_draft(report: Dataset, sop_class_uid: str, devices: Collection[str]) -> bool:
    return is_own_result(
        device_uid=pacs.text(report, "DeviceUID"),
        manufacturer=pacs.text(report, "Manufacturer"),
        sop_class_uid=sop_class_uid,
        devices=devices,
    )


class _Shelf:
    """The folder of one prior study."""

    def __init__(self, settings: Settings, study_instance_uid: str, header: StudyHeader) -> None:
        self._files = FileSystem()
        self._folder = settings.data_directory / "priors" / study_instance_uid
        self._folder.mkdir(parents=True, exist_ok=True)
        self._gate = DiskGate(self._folder, settings.listener.min_free_bytes, self._files, time.monotonic)
        self._study_instance_uid = study_instance_uid
        self._header = header

    def path_of(self, sop_instance_uid: str) -> Path:
        return self._folder / f"{require_uid(sop_instance_uid)}.dcm"

    def take(self, envelope: Envelope, data_set: memoryview) -> int:
        """Keep one object and return the status to answer (PS3.4 B.2.3)."""
        reservation = Reservation(self._gate)
        path = self.path_of(envelope.sop_instance_uid)
        temporary = path.with_suffix(".tmp")
        try:
            self._gate.require_open()
            reservation.cover(len(data_set))
            temporary.unlink(missing_ok=True)
            descriptor = self._files.create(temporary)
            try:
                write_all(self._files, descriptor, [build_file_meta(envelope), data_set])
                self._files.flush(descriptor)
            finally:
                self._files.close(descriptor)
            self._require_patient(_read(temporary))
            self._files.rename(temporary, path)
        except (WetreadError, OSError) as error:
            temporary.unlink(missing_ok=True)
            return status_of(error)
        finally:
            reservation.end()
        return SUCCESS

    def _require_patient(self, ds: Dataset) -> None:
        # The archive was asked for this patient; the objects have to say so themselves.
        if not agree(exact_text(whose(ds), "patient_id"), exact_text(self._header, "patient_id")):
            raise InvalidObject("a prior carries another PatientID")
        if pacs.text(ds, "StudyInstanceUID") != self._study_instance_uid:
            raise InvalidObject("a prior carries another StudyInstanceUID")


def report_text(ds: Dataset) -> str:
    """Return what a structured report says, one line an item: its heading and its text (PS3.3 C.17.3)."""
    lines = list(_lines(ds, 0))
    return "\n".join(lines)[:_LONGEST_REPORT]


def _lines(item: Dataset, depth: int) -> Iterator[str]:
    name = _meaning(item.get("ConceptNameCodeSequence"))
    match str(item.get("ValueType", "")):
        case "TEXT":
            yield _line(name, str(item.get("TextValue", "")))
        case "CODE":
            yield _line(name, _meaning(item.get("ConceptCodeSequence")))
        case "NUM":
            for measured in item.get("MeasuredValueSequence") or ():
                unit = _meaning(measured.get("MeasurementUnitsCodeSequence"))
                yield _line(name, f"{measured.get('NumericValue', '')} {unit}".strip())
        case "CONTAINER" if name:
            yield name
    if depth < _DEEPEST_REPORT:
        for child in item.get("ContentSequence") or ():
            # Who, when and in which language is no part of the text (PS3.16 TID 1204, TID 1001).
            if str(child.get("RelationshipType", "")) in {"CONTAINS", "HAS PROPERTIES"}:
                yield from _lines(child, depth + 1)


def _line(name: str, value: str) -> str:
    return f"{name}: {value}" if name else value


def _meaning(sequence: Iterable[Dataset] | None) -> str:
    return str(next(iter(sequence or ()), Dataset()).get("CodeMeaning", ""))


def _read(path: Path) -> Dataset:
    try:
        return read_stored_header(path)
    # pydicom names no common ancestor of what damaged data makes it raise.
    except Exception:  # noqa: BLE001
        raise InvalidObject("a prior cannot be read") from None


def _group_of(modality: str) -> frozenset[str]:
    return next((group for group in _GROUPS if modality in group), frozenset({modality}))


def _when(study: Dataset) -> tuple[str, str]:
    return pacs.text(study, "StudyDate"), pacs.text(study, "StudyTime")


def _spread(listed: Sequence[Listed], most: int) -> list[Listed]:
    """Return at most so many, evenly spaced over the archive's order."""
    taken = min(len(listed), most)
    return [listed[(2 * number + 1) * len(listed) // (2 * taken)] for number in range(taken)]
