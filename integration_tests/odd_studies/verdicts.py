"""Whether what became of a study keeps the promises: read from the exact bytes, by libraries that are not ours."""

import io
import re
from collections.abc import Iterator, Sequence

import hl7
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from casebook.study import StudyState
from integration_tests.odd_studies.chain import Ended, Output
from integration_tests.odd_studies.study import Expected, OddStudy
from worker.reader.model_input import Fit, ImageFormat, prepare

_INPUT = ImageFormat(size=112, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fit=Fit.PAD)
_LOST = "\N{REPLACEMENT CHARACTER}"
_ENDED = frozenset({StudyState.DELIVERED, StudyState.REFUSED, StudyState.HELD})


def complaints(study: OddStudy, ended: Ended) -> list[str]:
    """Say which promises broke; nothing where all hold."""
    found = [
        f"{one.kind} holds U+FFFD"
        for one in ended.outputs
        if _LOST.encode() in one.content or _LOST in one.content.decode("utf-8", "ignore")
    ]
    if ended.state not in _ENDED and any(status == 0x0000 for status in ended.statuses):
        found.append(f"stands at {ended.state} ({ended.reason}: {ended.detail})")
    if not ended.has_sent:
        if study.expected is Expected.RIGHT:
            found.append(f"not delivered: {ended.state} {ended.reason}: {ended.detail}")
        elif ended.state in {StudyState.REFUSED, StudyState.HELD} and not (ended.reason and ended.detail):
            found.append(f"{ended.state} without a reason")
        return found
    if study.expected is Expected.NO_DRAFT:
        found.append(f"{', '.join(one.kind for one in ended.outputs if one.was_sent)} was sent")
    elif study.expected is Expected.RIGHT and ended.state is not StudyState.DELIVERED:
        found.append(f"not wholly delivered: {ended.state} {ended.reason}: {ended.detail}")
    found += [f"{one.kind}: {what}" for one in ended.outputs if one.was_sent for what in _wrong(study, one)]
    if ended.shown_uids - study.may_be_shown:
        found.append("an object was shown that is no picture for this model")
    elif is_wrong(study, ended.shown):
        found.append(f"the picture is wrong by {difference(study.picture, ended.shown[0]):.3f}")
    return found


def is_wrong(study: OddStudy, shown: Sequence[NDArray[np.float32]]) -> bool:
    """Say whether a model would have seen something else than the film."""
    return any(difference(study.picture, image) > study.tolerance for image in shown)


def difference(picture: NDArray[np.float32], image: NDArray[np.float32]) -> float:
    """Return how far two pictures are apart as a model sees them: the mean over its input, in [0, 1]."""
    return float(np.abs(prepare(picture, _INPUT) - prepare(image, _INPUT)).mean())


def _wrong(study: OddStudy, output: Output) -> Iterator[str]:
    yield from _wrong_sr(study, output.content) if output.kind == "sr" else _wrong_oru(study, output.content)


def _wrong_sr(study: OddStudy, content: bytes) -> Iterator[str]:
    report, identity = dcmread(io.BytesIO(content)), study.identity
    for keyword, wanted in (
        ("PatientID", identity.patient_id),
        ("IssuerOfPatientID", identity.issuer_of_patient_id),
        ("StudyInstanceUID", study.study_instance_uid),
    ):
        found = _text(report, keyword)
        if found != wanted.strip(" "):
            yield f"{keyword} {found!r} instead of {wanted!r}"
    born = _text(report, "PatientBirthDate")
    # A date that is none cannot be written as one.
    if born not in {identity.patient_birth_date, ""} or (not born and _is_date(identity.patient_birth_date)):
        yield f"PatientBirthDate {born!r} instead of {identity.patient_birth_date!r}"
    accession = _text(report, "AccessionNumber") or _filler_order_number(report)
    if accession != identity.accession_number.strip(" "):
        yield f"AccessionNumber {accession!r} instead of {identity.accession_number!r}"
    name = str(report.get("PatientName") or "")
    if _groups(name) != _groups(identity.patient_name):
        yield f"PatientName {name!r} instead of {identity.patient_name!r}"


def _text(report: Dataset, keyword: str) -> str:
    value = report.get(keyword)
    # pydicom makes a list of a value with a backslash.
    text = "\\".join(value) if isinstance(value, (list, tuple)) else str(value or "")
    return text.strip(" ")


def _filler_order_number(report: Dataset) -> str:
    requests = report.get("ReferencedRequestSequence") or [Dataset()]
    return str(requests[0].get("FillerOrderNumberImagingServiceRequest") or "")


def _is_date(text: str) -> bool:
    return bool(re.fullmatch(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", text))


def _groups(name: str) -> list[list[str]]:
    # Blanks around a component are padding, and empty components and groups at the end say nothing (PS3.5 6.2.1).
    groups = [_components(group) for group in name.split("=")]
    while groups and not groups[-1]:
        groups.pop()
    return groups


def _components(group: str) -> list[str]:
    parts = [part.strip(" ") for part in group.split("^")]
    while parts and not parts[-1]:
        parts.pop()
    return parts


def _wrong_oru(study: OddStudy, content: bytes) -> Iterator[str]:
    identity = study.identity
    message = hl7.parse(content.decode("utf-8"))
    patient, order = message.segment("PID"), message.segment("OBR")
    for what, found, wanted in (
        ("PID-3", _first(message, patient, 3), identity.patient_id),
        ("OBR-18", _first(message, order, 18), identity.accession_number),
        ("OBX-5 of the study", _first(message, message.segment("OBX"), 5), study.study_instance_uid),
    ):
        if found != wanted.strip(" "):
            yield f"{what} {found!r} instead of {wanted!r}"
    born = _first(message, patient, 7)
    if born not in {identity.patient_birth_date, ""}:
        yield f"PID-7 {born!r} instead of {identity.patient_birth_date!r}"
    # XPN has the same components in another order (HL7 v2.5.1 2A.88).
    wanted_names = [sorted(filter(None, group[:5])) for group in _groups(identity.patient_name)]
    found_names = [
        sorted(filter(None, (message.unescape(part) for part in str(one).split("^")[:5])))
        for one in str(patient[5]).split("~")
    ]
    if sorted(filter(None, wanted_names)) != sorted(filter(None, found_names)):
        yield f"PID-5 {str(patient[5])!r} instead of {identity.patient_name!r}"


def _first(message: hl7.Message, segment: hl7.Segment, field: int) -> str:
    # What stands behind the last value of a segment is not written.
    return str(message.unescape(str(segment[field]).split("^")[0])) if field < len(segment) else ""
