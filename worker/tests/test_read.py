"""The `read` step: a study becomes a Reading, and what cannot be read becomes a reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casebook.errors import Retryable, SettingsError
from casebook.outcomes import Drafted, Held, Refused
from casebook.reading import SectionKind, from_bytes
from casebook.settings import Settings
from casebook.study import CompletionReason, PatientIdentity
from worker.read import read, read_with
from worker.reader import decode
from worker.tests.fakes import ENTRY, HEADER, NOW, PIPELINE, PRESET, FakeWriter, Hospital
from worker.tests.pictures import CT_IMAGE_STORAGE, ramp


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_directory=tmp_path)


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def test_a_study_becomes_a_reading_with_its_provenance(hospital: Hospital, settings: Settings) -> None:
    hospital.send(ViewPosition="LL")
    hospital.send(ViewPosition="PA", BodyPartExamined="CHEST")
    hospital.send_report()

    outcome = read_with(FakeWriter(), hospital.case(expected_instances=4), PRESET, settings, now=NOW)

    assert isinstance(outcome, Drafted)
    reading = outcome.reading
    assert (reading.study_instance_uid, reading.generation, reading.language) == ("2.25.3", 2, "en")
    assert [(one.sop_instance_uid, one.role, one.frame_numbers) for one in reading.images] == [
        ("2.25.1.2", "frontal, PA", ()),
        ("2.25.1.1", "lateral", ()),
    ]
    assert [(one.kind, one.paragraphs) for one in reading.sections] == [
        (SectionKind.FINDINGS, ("A.",)),
        (SectionKind.IMPRESSION, ("B.",)),
    ]
    assert [(one.check_id, one.answer_id, one.undetermined) for one in reading.answers] == [("effusion", "no", False)]
    assert (reading.based_on_images, reading.known_images) == (2, 3)  # the archive's fourth object is a report
    assert reading.completion_reason is CompletionReason.COUNTED
    assert reading.notes == ()
    assert reading.provenance.model_sha256 == "ab" * 32
    assert reading.provenance.check_preset_sha256 == PRESET.sha256
    assert reading.provenance.pipeline == "chest"
    assert reading.created_at == NOW
    assert from_bytes(reading.to_bytes()) == reading


def test_the_same_study_gives_the_same_bytes(hospital: Hospital, settings: Settings) -> None:
    hospital.send()

    first, second = (read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW) for _ in range(2))

    assert first == second


def test_a_corrupt_image_among_good_ones_is_noted_and_stops_nothing(hospital: Hospital, settings: Settings) -> None:
    corrupt = hospital.send(ViewPosition="PA")
    hospital.send(ViewPosition="AP")
    corrupt.write_bytes(corrupt.read_bytes()[:-20])

    outcome = read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Drafted)
    assert [one.sop_instance_uid for one in outcome.reading.images] == ["2.25.1.2"]
    assert outcome.reading.notes == ("1 image could not be read.",)


@pytest.mark.parametrize(
    ("language", "uids", "note"),
    [
        ("en", ("9.1",), "1 image of the study was left out: rejected, or by decision of a person."),
        ("en", ("9.1", "9.2"), "2 images of the study were left out: rejected, or by decision of a person."),
        ("zh", ("9.1", "9.2"), "本检查有 2 幅图像因人工决定或拒绝通知而未纳入。"),
    ],
)
def test_a_draft_says_how_many_images_were_left_out(
    hospital: Hospital, settings: Settings, language: str, uids: tuple[str, ...], note: str
) -> None:
    hospital.send()
    pipeline = PIPELINE.model_copy(update={"language": language})
    text = "FINDINGS: A. IMPRESSION: B." if language == "en" else "所见：肺野清晰。印象：未见异常。"

    outcome = read_with(
        FakeWriter(text), hospital.case(set_aside_uids=uids, pipeline=pipeline), PRESET, settings, now=NOW
    )

    assert isinstance(outcome, Drafted)
    assert outcome.reading.notes == (note,)


def test_a_machine_short_of_memory_is_no_fault_of_the_image(
    hospital: Hospital, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise MemoryError

    hospital.send()
    monkeypatch.setattr(decode, "dcmread", run_out)

    with pytest.raises(Retryable):
        read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)


def test_a_study_without_a_readable_image_is_refused_with_the_reason(hospital: Hospital, settings: Settings) -> None:
    for _ in range(2):
        path = hospital.send()
        path.write_bytes(path.read_bytes()[:-20])

    outcome = read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)

    assert outcome == Refused(
        reason="unreadable_images", detail="No image of the study can be read. The pixel data ends too early."
    )


def test_a_lateral_view_alone_is_refused(hospital: Hospital, settings: Settings) -> None:
    frontal = hospital.send(ViewPosition="PA")
    hospital.send(ViewPosition="LL")
    frontal.write_bytes(b"gone")

    outcome = read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Refused)
    assert outcome.reason == "no_frontal_view"


def test_a_blank_film_is_refused(hospital: Hospital, settings: Settings) -> None:
    hospital.send(np.full((4, 4), 700, dtype=np.uint16))

    outcome = read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Refused)
    assert "The image is blank." in outcome.detail


def test_an_empty_slice_of_a_stack_is_shown_with_the_others(hospital: Hospital, settings: Settings) -> None:
    entry = ENTRY.model_copy(update={"modalities": ("CT",), "body_parts": ()})
    for values in (np.full((4, 5), 700, dtype=np.uint16), ramp()):
        hospital.send(values, Modality="CT", SOPClassUID=CT_IMAGE_STORAGE)
    writer = FakeWriter(entry=entry)

    outcome = read_with(writer, hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Drafted)
    assert len(outcome.reading.images) == len(writer.shown) == 2
    assert outcome.reading.notes == ()


@pytest.mark.parametrize(
    "attributes",
    [{"Modality": "CT", "SOPClassUID": CT_IMAGE_STORAGE}, {"BodyPartExamined": "HAND"}],
)
def test_a_study_the_model_was_not_made_for_is_refused_with_the_reason(
    hospital: Hospital, settings: Settings, attributes: dict[str, Any]
) -> None:
    hospital.send(**attributes)

    outcome = read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Refused)
    assert outcome.reason == "not_made_for_this"
    assert "made for" in outcome.detail


def test_a_study_of_reports_alone_is_refused(hospital: Hospital, settings: Settings) -> None:
    hospital.send_report()

    outcome = read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Refused)
    assert outcome.reason == "no_images"


@pytest.mark.parametrize("text", ["", "心影正常。", "No effusion. " * 9])
def test_an_unusable_draft_is_refused_without_its_text(hospital: Hospital, settings: Settings, text: str) -> None:
    hospital.send()

    outcome = read_with(FakeWriter(text), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Refused)
    assert outcome.reason == "unusable_draft"
    assert "effusion" not in outcome.detail


def test_images_that_disagree_about_the_patient_are_held_and_named_by_keyword_alone(
    hospital: Hospital, settings: Settings
) -> None:
    hospital.send()
    hospital.send(header=replace(HEADER, identity=PatientIdentity(patient_id="2")))

    outcome = read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Held)
    assert outcome.detail == "The images of the study disagree about PatientID."


def test_our_own_result_that_came_back_is_not_read(hospital: Hospital, settings: Settings) -> None:
    hospital.send()
    hospital.send(ViewPosition="PA")

    outcome = read_with(FakeWriter(), hospital.case(issued_uids=("2.25.1.2",)), PRESET, settings, now=NOW)

    assert isinstance(outcome, Drafted)
    assert [one.sop_instance_uid for one in outcome.reading.images] == ["2.25.1.1"]


def test_frames_are_named_in_the_reference_of_their_object(hospital: Hospital, settings: Settings) -> None:
    entry = ENTRY.model_copy(update={"modalities": ("XA",)})
    hospital.send(np.stack([ramp()] * 9), Modality="XA")

    outcome = read_with(FakeWriter(entry=entry), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Drafted)
    [reference] = outcome.reading.images
    assert reference.frame_numbers == (3, 7)
    assert reference.role == "slice 3 of 9, window own; slice 7 of 9, window own"


def test_a_chinese_pipeline_reads_in_chinese(hospital: Hospital, settings: Settings) -> None:
    path = hospital.send()
    path.write_bytes(b"gone")
    hospital.send()
    case = hospital.case(pipeline=PIPELINE.model_copy(update={"language": "zh"}))

    outcome = read_with(FakeWriter("检查所见：甲。 印象：乙。"), case, PRESET, settings, now=NOW)

    assert isinstance(outcome, Drafted)
    assert outcome.reading.language == "zh-CN"
    assert outcome.reading.answers[0].answer == "否"
    assert outcome.reading.notes == ("1 幅图像无法读取。",)


def test_a_file_that_is_not_there_is_tried_again_later(hospital: Hospital, settings: Settings) -> None:
    hospital.send().unlink()

    with pytest.raises(Retryable):
        read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)


def test_an_image_over_the_limit_of_the_site_is_refused(hospital: Hospital, settings: Settings) -> None:
    hospital.send()
    small = settings.model_copy(update={"worker": settings.worker.model_copy(update={"max_image_bytes": 10})})

    outcome = read_with(FakeWriter(), hospital.case(), PRESET, small, now=NOW)

    assert isinstance(outcome, Refused)
    assert "over the limit" in outcome.detail


def test_a_pipeline_that_is_gone_is_a_reason_and_one_that_names_nothing_an_error(
    hospital: Hospital, settings: Settings
) -> None:
    hospital.send()

    assert isinstance(read(hospital.case(pipeline=None), settings), Refused)
    with pytest.raises(SettingsError, match="no model is named fake"):
        read(hospital.case(), settings)
