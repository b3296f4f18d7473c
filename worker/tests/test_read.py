"""The `read` step: a study becomes a Reading, and what cannot be read becomes a reason."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from casebook.checks import CheckPreset, load_checks
from casebook.errors import LostLease, Retryable, SettingsError
from casebook.outcomes import Drafted, Held, Refused
from casebook.reading import SectionKind, from_bytes
from casebook.settings import SHIPPED_CONFIG_DIRECTORY, Settings
from casebook.study import CompletionReason, PatientIdentity
from casebook.watchdog import Watchdog, Watched
from worker.read import read, read_with
from worker.reader import decode
from worker.reader.plausibility import load_statistics
from worker.reader.registry import Patients
from worker.reader.writer import ClosedQuestion, Draft, Image
from worker.tests.fakes import ENTRY, HEADER, NOW, PIPELINE, PRESET, FakeWriter, Hospital
from worker.tests.pictures import CT_IMAGE_STORAGE, ramp

WITH_STATISTICS = ENTRY.model_copy(
    update={"pictures": SHIPPED_CONFIG_DIRECTORY / "models" / "pictures" / "phantom-cxr.yaml"}
)


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
        ("2.25.1.2", "frontal, PA, by ViewPosition", ()),
        ("2.25.1.1", "lateral, by ViewPosition", ()),
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


SIDED = CheckPreset(
    name="chest",
    version="1",
    checks=(
        PRESET.checks[0].model_copy(update={"in_report": {"en": {"yes": ("effusion",)}}, "urgency": 1}),
        PRESET.checks[0].model_copy(update={"id": "side", "only_if": {"effusion": "yes"}}),
        PRESET.checks[0].model_copy(update={"id": "mass", "in_report": {"en": {"yes": ("mass",)}}, "urgency": 0}),
    ),
)


def test_a_draft_is_arranged_as_its_preset_and_its_model_say(hospital: Hospital, settings: Settings) -> None:
    hospital.send()
    writer = FakeWriter("FINDINGS: A. IMPRESSION: An effusion. A mass.", ENTRY.model_copy(update={"calibrated": True}))

    outcome = read_with(writer, hospital.case(), SIDED, settings, now=NOW)

    assert isinstance(outcome, Drafted)
    assert outcome.reading.sections[1].paragraphs == ("A mass.", "An effusion.")
    answers = outcome.reading.answers
    assert [(one.check_id, one.is_ruled_out) for one in answers] == [
        ("mass", False),
        ("effusion", False),
        ("side", True),
    ]
    assert all(one.calibrated for one in answers)


def test_the_probabilities_of_a_model_whose_entry_says_nothing_are_not_calibrated(
    hospital: Hospital, settings: Settings
) -> None:
    hospital.send()

    outcome = read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Drafted)
    assert not any(one.calibrated for one in outcome.reading.answers)


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
        ("zh", ("9.1", "9.2"), "本检查有 2 幅图像经人工排除或已被标记为废弃，未纳入。"),
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


@pytest.mark.parametrize("position", ["XTABLE LATERAL", "AP AXIAL", "LAO", "LLD", "SOMETHING"])
def test_a_film_that_is_not_frontal_is_refused_with_what_decided(
    hospital: Hospital, settings: Settings, position: str
) -> None:
    hospital.send(ViewPosition=position)

    outcome = read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Refused)
    assert outcome.reason == "no_frontal_view"
    assert "by ViewPosition" in outcome.detail


@pytest.mark.parametrize(
    ("language", "note"),
    [
        ("en", "The film does not state its projection; it was read as a frontal view."),
        ("zh", "影像未标明投照体位，按正位片读取。"),
    ],
)
def test_a_draft_says_that_the_projection_was_not_stated(
    hospital: Hospital, settings: Settings, language: str, note: str
) -> None:
    hospital.send(ViewPosition="")
    text = "FINDINGS: A. IMPRESSION: B." if language == "en" else "所见：肺野清晰。印象：未见异常。"
    case = hospital.case(pipeline=PIPELINE.model_copy(update={"language": language}))

    outcome = read_with(FakeWriter(text), case, PRESET, settings, now=NOW)

    assert isinstance(outcome, Drafted)
    assert outcome.reading.notes == (note,)


@pytest.mark.parametrize(
    ("language", "note"),
    [
        ("en", "Marks at the edge of the film were left out of the picture that was read."),
        ("zh", "胶片边缘的标记未纳入阅片图像。"),
    ],
)
def test_a_draft_says_that_marks_at_the_edge_were_left_out(
    hospital: Hospital, settings: Settings, language: str, note: str
) -> None:
    values = np.add.outer(np.arange(120), np.arange(120)).astype(np.uint16)
    values[2:6, 2:6] = 4095
    hospital.send(values, BitsStored=12, HighBit=11)
    text = "FINDINGS: A. IMPRESSION: B." if language == "en" else "所见：肺野清晰。印象：未见异常。"
    case = hospital.case(pipeline=PIPELINE.model_copy(update={"language": language}))

    outcome = read_with(FakeWriter(text), case, PRESET, settings, now=NOW)

    assert isinstance(outcome, Drafted)
    assert outcome.reading.notes == (note,)


def test_a_study_of_an_animal_is_refused_whichever_object_tells(hospital: Hospital, settings: Settings) -> None:
    hospital.send()
    hospital.send(Modality="OT", ResponsiblePersonRole="OWNER")

    outcome = read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Refused)
    assert outcome.reason == "not_a_person"
    assert outcome.detail.endswith("an owner or a veterinarian.")


def test_a_report_about_an_animal_refuses_the_study_too(hospital: Hospital, settings: Settings) -> None:
    hospital.send()
    hospital.send_report(PatientSpeciesDescription="Canine")

    outcome = read_with(FakeWriter(), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Refused)
    assert outcome.reason == "not_a_person"


def test_an_entry_that_was_not_made_for_people_alone_reads_animals(hospital: Hospital, settings: Settings) -> None:
    hospital.send(PatientSpeciesDescription="Canine")
    entry = ENTRY.model_copy(update={"patients": Patients.ANY})

    assert isinstance(read_with(FakeWriter(entry=entry), hospital.case(), PRESET, settings, now=NOW), Drafted)


def test_a_study_of_a_localizer_and_a_summary_page_is_refused(hospital: Hospital, settings: Settings) -> None:
    entry = ENTRY.model_copy(update={"modalities": ("CT",), "body_parts": ()})
    hospital.send(Modality="CT", SOPClassUID=CT_IMAGE_STORAGE, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    hospital.send(Modality="CT", SOPClassUID=CT_IMAGE_STORAGE, SeriesDescription="Exam Summary")

    outcome = read_with(FakeWriter(entry=entry), hospital.case(), PRESET, settings, now=NOW)

    assert outcome == Refused(
        reason="no_images",
        detail="The study has no image that a model could read; it has: a localizer; a page of text or a capture of a "
        "screen, by the name of its series.",
    )


def film_of_statistics() -> NDArray[np.uint16]:
    statistics = load_statistics(SHIPPED_CONFIG_DIRECTORY / "models" / "pictures" / "phantom-cxr.yaml")
    side = np.linspace(0, 15, 160)
    rows = np.array([np.interp(side, range(16), row) for row in statistics.mean_film])
    smooth = np.array([np.interp(side, range(16), column) for column in rows.T]).T
    noise = np.random.default_rng(1).normal(0, 0.02, smooth.shape)
    return np.clip((smooth + noise) * 65535, 0, 65535).astype(np.uint16)


@pytest.mark.parametrize(
    ("language", "note"),
    [
        ("en", "1 image was not read because of how it looks: it is not arranged like a film of this kind."),
        ("zh", "1 幅图像的外观与模型适用的影像不符，未用于阅片。"),
    ],
)
def test_a_picture_that_looks_wrong_is_put_aside_and_the_draft_says_so(
    hospital: Hospital, settings: Settings, language: str, note: str
) -> None:
    film = film_of_statistics()
    shown: dict[str, Any] = {"WindowCenter": 32768, "WindowWidth": 65536}
    hospital.send(65535 - film, **shown)
    hospital.send(film, ViewPosition="AP", **shown)
    text = "FINDINGS: A. IMPRESSION: B." if language == "en" else "所见：肺野清晰。印象：未见异常。"
    case = hospital.case(pipeline=PIPELINE.model_copy(update={"language": language}))

    outcome = read_with(FakeWriter(text, entry=WITH_STATISTICS), case, PRESET, settings, now=NOW)

    assert isinstance(outcome, Drafted)
    assert [one.sop_instance_uid for one in outcome.reading.images] == ["2.25.1.2"]
    assert outcome.reading.notes == (note,)


def test_a_study_whose_only_picture_looks_wrong_is_refused(hospital: Hospital, settings: Settings) -> None:
    hospital.send(65535 - film_of_statistics(), WindowCenter=32768, WindowWidth=65536)

    outcome = read_with(FakeWriter(entry=WITH_STATISTICS), hospital.case(), PRESET, settings, now=NOW)

    assert isinstance(outcome, Refused)
    assert outcome.reason == "implausible_images"
    assert outcome.detail == (
        "No image of the study looks like what the model was made for: it is not arranged like a film of this kind."
    )


def test_a_draft_that_contradicts_itself_is_refused_without_its_text(hospital: Hospital, settings: Settings) -> None:
    preset = load_checks(SHIPPED_CONFIG_DIRECTORY / "checks" / "chest_xray.yaml")
    hospital.send()
    text = "FINDINGS: There is a right pneumothorax. IMPRESSION: Left pneumothorax."

    outcome = read_with(FakeWriter(text), hospital.case(), preset, settings, now=NOW)

    assert outcome == Refused(
        reason="contradictory_draft",
        detail="The draft contradicts itself: findings and impression name another side for pneumothorax.",
    )


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
    assert outcome.reason == "patient_identity_differs"
    assert outcome.detail == "The images of this study disagree about PatientID, so no draft is written."


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


class _LosesItsStudy(FakeWriter):
    """Writes while another worker gets the study."""

    def __init__(self, watched: Watched) -> None:
        super().__init__()
        self.watched = watched
        self.is_asked_for_answers = False

    def write(self, images: Sequence[Image], instruction: str) -> Draft:
        self.watched.lose()
        return super().write(images, instruction)

    def score(self, images: Sequence[Image], questions: Sequence[ClosedQuestion]) -> list[tuple[float, ...]]:
        self.is_asked_for_answers = True
        return super().score(images, questions)


def test_a_reading_that_another_worker_has_by_now_stops_between_two_pieces_of_work(
    hospital: Hospital, settings: Settings
) -> None:
    hospital.send()
    with Watchdog(900.0).watch(job=1) as watched:
        writer = _LosesItsStudy(watched)
        with pytest.raises(LostLease):
            read_with(writer, hospital.case(), PRESET, settings, now=NOW)
        assert not writer.is_asked_for_answers
        with pytest.raises(LostLease):
            read_with(writer, hospital.case(), PRESET, settings, now=NOW)
