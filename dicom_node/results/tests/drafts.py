"""Made-up Readings, cases and settings for the tests of what goes out."""

import hashlib
from dataclasses import replace
from typing import Any

from casebook.case import Case, FrozenOutput, Job
from casebook.outcomes import Prepared
from casebook.pipelines import Pipeline
from casebook.reading import CheckAnswer, InstanceReference, Provenance, Reading, Section, SectionKind
from casebook.settings import DeviceSettings, DicomDestination, Hl7Destination, Settings
from casebook.study import (
    CodedConcept,
    CompletionReason,
    Instance,
    InstanceStatus,
    PatientIdentity,
    Study,
    StudyHeader,
    StudyState,
)
from dicom_node.results.derived_uids import series_instance_uid

STUDY_UID = "1.2.826.0.1.3680043.8.498.7"
DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"

#: How an installation names itself once its DeviceUID is known.
DEVICE = DeviceSettings(device_uid="2.25.81985529216486895")

HEADER = StudyHeader(
    identity=PatientIdentity(
        patient_id="P0001234",
        issuer_of_patient_id="HOSP",
        patient_birth_date="19600101",
        accession_number="A20260920001",
    ),
    patient_name="Wang^XiaoDong=王^小东",
    patient_sex="M",
    patient_age="066Y",
    study_id="S1",
    study_date="20260920",
    study_time="101500.123",
    study_description="胸部正位",
    referring_physician_name="Li^Lei",
    procedure_codes=(CodedConcept(value="399208008", scheme="SCT", meaning="Plain chest X-ray"),),
)

PROVENANCE = Provenance(
    software_version="0.1.0",
    model_name="phantom-cxr",
    model_version="1.0",
    model_sha256="0" * 64,
    prompt_sha256="1" * 64,
    check_preset="chest",
    check_preset_version="1",
    check_preset_sha256="2" * 64,
    pipeline="chest",
)

_TEXTS = {
    "en": (
        "Heart size is normal (CTR < 0.5 & stable).",
        "No acute abnormality.",
        "Is there a pneumothorax?",
        "No",
        "Is there a pleural effusion?",
        "Yes",
    ),
    "zh-CN": ("心影大小、形态正常（CTR＜0.5）。", "未见异常。", "是否存在气胸？", "否", "是否存在胸腔积液？", "是"),
}


def image(number: int = 1) -> InstanceReference:
    """Return the reference to one image of the study."""
    return InstanceReference(
        series_instance_uid=f"{STUDY_UID}.1",
        sop_instance_uid=f"{STUDY_UID}.1.{number}",
        sop_class_uid=DX_FOR_PRESENTATION,
        role="frontal",
    )


def earlier(uid: str = "2.25.77") -> InstanceReference:
    """Return the reference to an earlier draft of the study."""
    return InstanceReference(
        series_instance_uid=series_instance_uid(STUDY_UID, "sr, newest first"),
        sop_instance_uid=uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.22",
    )


def sections(findings: tuple[str, ...], impression: tuple[str, ...] = ()) -> tuple[Section, ...]:
    """Return the sections of a draft."""
    return (
        Section(kind=SectionKind.FINDINGS, paragraphs=findings),
        Section(kind=SectionKind.IMPRESSION, paragraphs=impression),
    )


def answer(question: str, text: str, probability: float, *, undetermined: bool = False, **changes: Any) -> CheckAnswer:
    """Return the answer to one check."""
    return replace(
        CheckAnswer(
            check_id="pneumothorax",
            label="Pneumothorax",
            question=question,
            answer_id="no",
            answer=text,
            probability=probability,
            undetermined=undetermined,
        ),
        **changes,
    )


def reading(language: str = "en", **changes: Any) -> Reading:
    """Return a Reading in a language, with some of its fields changed."""
    finding, impression, first, no, second, yes = _TEXTS[language]
    return replace(
        Reading(
            study_instance_uid=STUDY_UID,
            generation=1,
            language=language,
            modality="DX",
            header=HEADER,
            sections=sections((finding,), (impression,)),
            answers=(answer(first, no, 0.97), answer(second, yes, 0.52, undetermined=True)),
            images=(image(),),
            based_on_images=1,
            known_images=1,
            completion_reason=CompletionReason.QUIET,
            provenance=PROVENANCE,
            created_at=1_789_000_000.7,
        ),
        **changes,
    )


def header(*, patient_id: str | None = None, accession_number: str | None = None, **changes: Any) -> StudyHeader:
    """Return the header of the study with some of its fields changed."""
    identity = HEADER.identity
    if patient_id is not None:
        identity = replace(identity, patient_id=patient_id)
    if accession_number is not None:
        identity = replace(identity, accession_number=accession_number)
    return replace(HEADER, identity=identity, **changes)


def instance(number: int = 1, **changes: Any) -> Instance:
    """Return one image of the study as the steps see it."""
    reference = image(number)
    return replace(
        Instance(
            series_instance_uid=reference.series_instance_uid,
            sop_instance_uid=reference.sop_instance_uid,
            sop_class_uid=reference.sop_class_uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            modality="DX",
            attributes={},
            header=HEADER,
            path="received/one.dcm",
            status=InstanceStatus.CURRENT,
        ),
        **changes,
    )


def case(subject: str, *, said: Reading | None = None, prepared: Prepared | None = None, **changes: Any) -> Case:
    """Return a prepare case for a destination, or its send case where something is prepared."""
    said = said or reading()
    output = None
    if prepared is not None:
        output = FrozenOutput(
            kind=prepared.kind,
            content=prepared.content,
            sha256=hashlib.sha256(prepared.content).hexdigest(),
            object_uid=prepared.object_uid,
            object_class=prepared.object_class,
        )
    made = Case(
        job=Job(
            id=1,
            step="prepare" if output is None else "send",
            queue="io",
            study_instance_uid=STUDY_UID,
            generation=1,
            subject=subject,
            attempt=1,
            max_attempts=5,
            fence=1,
        ),
        study=Study(study_instance_uid=STUDY_UID, generation=1, state=StudyState.READ, pipeline="chest"),
        instances=(instance(header=said.header),),
        pipeline=Pipeline(name="chest", model="phantom", checks="chest", language="en", destinations=(subject,)),
        reading=said,
        revision=1,
        output=output,
        device_uid=DEVICE.device_uid,
    )
    return replace(made, **changes)


def settings(*, port: int = 104, **hl7: Any) -> Settings:
    """Return settings with an archive named `pacs` and a RIS named `ris`, both on one loopback port."""
    ris: dict[str, Any] = {"name": "ris", "kind": "hl7", "host": "127.0.0.1", "port": port, "result_status": "R"}
    return Settings(
        destinations=(
            DicomDestination(
                name="pacs",
                kind="dicom",
                host="127.0.0.1",
                port=port,
                ae_title="PACS",
                timeout_s=hl7.get("timeout_s", 2),
            ),
            Hl7Destination(**{**ris, "timeout_s": 2, **hl7}),
        )
    )
