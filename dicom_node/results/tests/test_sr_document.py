"""What the SR contains, item by item."""

import io
import itertools
from dataclasses import replace
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from casebook.reading import InstanceReference, Reading
from casebook.sentences import split_sentences
from casebook.study import CodedConcept, PatientIdentity, StudyHeader
from dicom_node.results.guards import check_sr
from dicom_node.results.sr_document import build, to_bytes
from dicom_node.results.tests import drafts
from dicom_node.results.tests.hostile import CORPUS


def read_back(said: Reading, **changes: Any) -> Dataset:
    """Return the SR as a receiver reads it."""
    built = build(said, drafts.DEVICE, **{"revision": 1, **changes})
    content = to_bytes(built)
    check_sr(content, said, built.SOPInstanceUID)
    return dcmread(io.BytesIO(content))


def outline(ds: Dataset, depth: int = 0) -> list[str]:
    """Return the content tree, one line an item."""
    lines = []
    for item in ds.ContentSequence:
        name = item.ConceptNameCodeSequence[0]
        value = item.get("TextValue") or item.get("UID") or ""
        if "ConceptCodeSequence" in item:
            value = item.ConceptCodeSequence[0].CodeMeaning
        lines.append(f"{'  ' * depth}{item.RelationshipType} {item.ValueType} {name.CodeValue} {value}".rstrip())
        if "ContentSequence" in item:
            lines.extend(outline(item, depth + 1))
    return lines


def test_the_tree_of_an_english_draft_is_this() -> None:
    ds = read_back(drafts.reading(), revision=2, predecessor=drafts.earlier())

    title = ds.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodeMeaning) == ("18782-3", "X-Ray Report")
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "2000"
    assert outline(ds) == [
        "HAS CONCEPT MOD CODE 121049 English",
        "HAS CONCEPT MOD CODE 121058 Plain chest X-ray",
        "HAS OBS CONTEXT CODE 121005 Device",
        f"HAS OBS CONTEXT UIDREF 121012 {drafts.DEVICE.device_uid}",
        "CONTAINS CONTAINER 121111",
        (
            "  CONTAINS TEXT 121111 AI DRAFT - NOT VERIFIED. This preliminary text was written by software (Wetread 0.1.0, "
            "model phantom-cxr 1.0) and no physician has reviewed it. Not for diagnosis before review. "
            "The model is for research and not cleared for clinical use."
        ),
        "CONTAINS CONTAINER 121070",
        "  CONTAINS TEXT 121071 Heart size is normal (CTR < 0.5 & stable).",
        "CONTAINS CONTAINER 121072",
        "  CONTAINS TEXT 121073 No acute abnormality.",
        "CONTAINS CONTAINER AICHK",
        "  CONTAINS TEXT AICHKROW Is there a pleural effusion? undetermined",
        "  CONTAINS TEXT AICHKROW Is there a pneumothorax? No",
        "CONTAINS CONTAINER 121064",
        "  CONTAINS TEXT 121065 Based on the only image (no further image arrived), model phantom-cxr version 1.0.",
        "  CONTAINS TEXT 121065 This draft (revision 2) replaces the earlier AI draft of this study.",
    ]


def test_every_heading_and_code_of_a_chinese_draft_is_read_in_chinese() -> None:
    ds = read_back(drafts.reading("zh-CN"), revision=2, predecessor=drafts.earlier())

    def meanings(item: Dataset) -> list[str]:
        found = [str(item.ConceptNameCodeSequence[0].CodeMeaning)]
        if "ConceptCodeSequence" in item:
            found.append(str(item.ConceptCodeSequence[0].CodeMeaning))
        return found + [one for child in item.get("ContentSequence", ()) for one in meanings(child)]

    english = [one for one in meanings(ds) if one.isascii()]
    # The procedure is copied from the images.
    assert english == ["Plain chest X-ray"]
    assert [str(one.ConceptNameCodeSequence[0].CodeMeaning) for one in ds.ContentSequence[-5:]] == [
        "声明",
        "影像所见",
        "影像诊断",
        "AI 预设问题",
        "说明",
    ]


def test_each_sentence_of_the_findings_is_an_item_and_none_is_wider_than_a_viewer() -> None:
    long = (
        "The cardiac silhouette is at the upper limit of normal and there is more to be said of it than a line holds."
    )
    ds = read_back(drafts.reading(sections=drafts.sections((f"Nodule of 1.5 cm. {long} Lungs clear.",))))

    findings = next(one for one in ds.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "121070")
    texts = [str(one.TextValue) for one in findings.ContentSequence]
    assert [" ".join(one.split()) for one in texts] == ["Nodule of 1.5 cm.", long, "Lungs clear."]
    assert max(len(line) for one in texts for line in one.split("\r\n")) <= 64


def test_before_the_disclaimer_stands_only_what_the_templates_require() -> None:
    ds = read_back(drafts.reading(header=drafts.header(procedure_codes=())))

    before = itertools.takewhile(lambda one: one.ValueType != "CONTAINER", ds.ContentSequence)
    # PS3.16 TID 1204 (language), TID 1002 (observer type), TID 1004 (device observer UID).
    assert [one.ConceptNameCodeSequence[0].CodeValue for one in before] == ["121049", "121005", "121012"]


def test_the_header_says_draft_in_every_place_it_can() -> None:
    ds = read_back(drafts.reading())

    assert (ds.PreliminaryFlag, ds.CompletionFlag, ds.VerificationFlag) == ("PRELIMINARY", "PARTIAL", "UNVERIFIED")
    assert ds.ContentQualification == "RESEARCH"
    assert ds.SeriesDescription == "UNVERIFIED AI draft report"
    # A viewer's list of series shows the first twenty characters or fewer.
    assert "UNVERIFIED" in ds.SeriesDescription[:12]
    assert [one.ObserverType for one in ds.AuthorObserverSequence] == ["DEV"]
    assert "VerifyingObserverSequence" not in ds
    assert "SyntheticData" not in ds


def test_the_study_attributes_are_the_received_ones() -> None:
    ds = read_back(drafts.reading())

    assert str(ds.PatientName) == "Wang^XiaoDong=王^小东"
    assert (ds.PatientID, ds.IssuerOfPatientID, ds.AccessionNumber) == ("P0001234", "HOSP", "A20260920001")
    assert (ds.StudyDate, ds.StudyTime, ds.StudyDescription) == ("20260920", "101500.123", "胸部正位")
    assert "SeriesDate" not in ds
    assert "SeriesTime" not in ds


def test_the_evidence_is_every_image_that_was_read() -> None:
    other = InstanceReference(
        series_instance_uid=f"{drafts.STUDY_UID}.2",
        sop_instance_uid="2.25.9",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
    )
    ds = read_back(drafts.reading(images=(drafts.image(2), other, drafts.image(1), drafts.image(2))))

    study = ds.CurrentRequestedProcedureEvidenceSequence[0]
    assert study.StudyInstanceUID == drafts.STUDY_UID
    assert [
        (series.SeriesInstanceUID, [one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence])
        for series in study.ReferencedSeriesSequence
    ] == [
        (f"{drafts.STUDY_UID}.1", [f"{drafts.STUDY_UID}.1.1", f"{drafts.STUDY_UID}.1.2"]),
        (f"{drafts.STUDY_UID}.2", ["2.25.9"]),
    ]


def test_revisions_share_a_series_and_name_their_predecessor() -> None:
    first = read_back(drafts.reading())
    second = read_back(drafts.reading(generation=2), revision=2, predecessor=drafts.earlier(str(first.SOPInstanceUID)))

    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    # OHIF shows the lowest InstanceNumber of a series: that has to be the newest draft.
    assert second.InstanceNumber < first.InstanceNumber
    earlier = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert earlier.SeriesInstanceUID == first.SeriesInstanceUID
    assert earlier.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID


def test_times_are_those_of_the_site() -> None:
    there = drafts.DEVICE.model_copy(update={"timezone": "Asia/Shanghai"})

    here = build(drafts.reading(), drafts.DEVICE, revision=1)
    shanghai = build(drafts.reading(), there, revision=1)

    assert (here.ContentDate, here.ContentTime) == ("20260910", "002640")
    assert (shanghai.ContentDate, shanghai.ContentTime) == ("20260910", "082640")
    assert shanghai.ContributingEquipmentSequence[0].ContributionDateTime == "20260910082640+0800"


def test_a_copied_time_zone_rules_our_times_too() -> None:
    said = drafts.reading(header=drafts.header(timezone_offset_from_utc="-0330"))

    ds = read_back(said)

    assert (ds.TimezoneOffsetFromUTC, ds.ContentDate, ds.ContentTime) == ("-0330", "20260909", "205640")


def test_a_study_with_nothing_but_a_patient_id_still_gets_its_draft() -> None:
    bare = StudyHeader(identity=PatientIdentity(patient_id="P1"))

    ds = read_back(drafts.reading(header=bare, images=(), modality=""))

    for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        assert keyword in ds
        assert not ds[keyword].value
    assert ds.ConceptNameCodeSequence[0].CodeValue == "18748-4"
    assert "CurrentRequestedProcedureEvidenceSequence" not in ds


@pytest.mark.parametrize(
    ("field", "value", "keyword"),
    [
        ("study_date", "2026.09.20", "StudyDate"),
        ("study_time", "quarter past", "StudyTime"),
        ("study_id", "S" * 17, "StudyID"),
        ("study_description", "D" * 65, "StudyDescription"),
        ("study_description", "a\x1bb", "StudyDescription"),
        ("patient_age", "sixty", "PatientAge"),
        ("patient_sex", "male", "PatientSex"),
        ("referring_physician_name", "L" * 65, "ReferringPhysicianName"),
        ("timezone_offset_from_utc", "+25:00", "TimezoneOffsetFromUTC"),
    ],
)
def test_a_description_that_dicom_forbids_is_left_out_and_stops_nothing(field: str, value: str, keyword: str) -> None:
    ds = read_back(drafts.reading(header=drafts.header(**{field: value})))

    assert not ds.get(keyword)


@pytest.mark.parametrize("birth_date", ["1960", "1960.01.01", "19600231", "unknown", "196001011"])
def test_a_birth_date_that_is_no_date_is_left_empty(birth_date: str) -> None:
    identity = replace(drafts.HEADER.identity, patient_birth_date=birth_date)

    ds = read_back(drafts.reading(header=replace(drafts.HEADER, identity=identity)))

    assert not ds.PatientBirthDate


def test_a_procedure_code_that_cannot_be_copied_is_left_out() -> None:
    codes = (
        CodedConcept(value="X" * 17, scheme="L", meaning="too long a code"),
        CodedConcept(value="X1", scheme="L", meaning="m" * 65),
        CodedConcept(value="X2", scheme="L", meaning="胸部"),
        CodedConcept(value="X3", scheme="", meaning="no scheme"),
    )

    ds = read_back(drafts.reading(header=drafts.header(procedure_codes=codes)))

    assert [one.CodeValue for one in ds.ProcedureCodeSequence] == ["X2"]
    assert [one.CodeValue for one in ds.PerformedProcedureCodeSequence] == ["X2"]


@pytest.mark.parametrize("name", CORPUS)
def test_hostile_text_is_read_back_as_a_person_should_read_it(name: str) -> None:
    written, expected = CORPUS[name]
    # A Reading is stored as UTF-8 before it is rendered, so half characters are gone by then.
    written = written.encode(errors="ignore").decode()

    ds = read_back(drafts.reading(sections=drafts.sections((written, "next"))))

    findings = next(one for one in ds.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "121070")
    assert [one.TextValue.replace("\r\n", "\n") for one in findings.ContentSequence] == [
        *split_sentences(expected),
        "next",
    ]


def test_three_thousand_references_are_carried() -> None:
    ds = read_back(drafts.reading(images=tuple(drafts.image(number) for number in range(1, 3001))))

    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(series.ReferencedSOPSequence) == 3000


def test_the_instance_uid_depends_on_the_reading_and_on_the_rendering() -> None:
    said = drafts.reading()
    uids = {
        str(build(one, device, revision=revision).SOPInstanceUID)
        for one in (said, replace(said, created_at=said.created_at + 0.1))
        for device in (drafts.DEVICE, drafts.DEVICE.model_copy(update={"station_name": "OTHER"}))
        for revision in (1, 2)
    }

    # Two of the Readings differ in a fraction of a second only, which no rendering shows.
    assert len(uids) == 8
    assert all(len(uid) <= 64 and uid.startswith("2.25.") for uid in uids)
