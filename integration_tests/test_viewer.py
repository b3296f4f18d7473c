"""What a radiologist sees: drafts as OHIF shows them beside the images of an archive."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from casebook.checks import load_checks
from casebook.reading import InstanceReference, Reading
from casebook.settings import SHIPPED_CONFIG_DIRECTORY
from casebook.study import PatientIdentity, StudyHeader
from dicom_node.results import rejection_note
from dicom_node.results.draft_text import DraftText, compose
from dicom_node.results.sr_document import SERIES_DESCRIPTION, build, to_bytes
from dicom_node.results.tests import drafts
from integration_tests import foreign
from integration_tests.settings import REPOSITORY, load
from integration_tests.viewer import Ohif, Shown, ohif
from training.phantom.dicom import PhantomStudy, build_study, write_study
from training.phantom.findings import Findings, Side
from worker.reader.report import order_impression, split_report
from worker.reader.scoring import arrange, judge

pytestmark = [pytest.mark.peers, pytest.mark.slow]

IMAGES = REPOSITORY / "docs" / "images"
PRESET = load_checks(SHIPPED_CONFIG_DIRECTORY / "checks" / "chest_xray.yaml")
#: Longer than a line of the viewer, as radiologists write them.
LONG = {
    "en": (
        " FINDINGS: The cardiac silhouette is at the upper limit of normal with a cardiothoracic ratio of 0.5, and the "
        "aorta is elongated and calcified at the arch, both unchanged from the earlier examination."
    ),
    "zh": " 检查所见：纵隔居中，主动脉迂曲、延长，主动脉弓壁可见弧形钙化影，心胸比约0.5，心影大小、形态与前次检查相比未见明显变化，余所见骨质结构未见明显异常。",
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[foreign.Orthanc]:
    with foreign.orthanc(tmp_path_factory.mktemp("archive")) as peer:
        yield peer


@pytest.fixture(scope="module")
def viewer(archive: foreign.Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ohif]:
    with ohif(tmp_path_factory.mktemp("viewer"), archive) as running:
        yield running


def said_of(study: PhantomStudy, language: str) -> Reading:
    """Return the Reading that a model which sees everything gives of a phantom."""
    dataset = study.dataset
    answers = []
    for check in PRESET.checks:
        sure = [0.97 if one.id == study.answers[check.id] else 0.01 for one in check.answers]
        answers.append(judge(check, [0.51, 0.49] if check.id == "nodule" else sure, language))
    report = study.reports[language] + LONG[language]
    return drafts.reading(
        {"en": "en", "zh": "zh-CN"}[language],
        study_instance_uid=study.study_instance_uid,
        modality=str(dataset.Modality),
        header=StudyHeader(
            identity=PatientIdentity(
                patient_id=str(dataset.PatientID),
                patient_birth_date=str(dataset.PatientBirthDate),
                accession_number=str(dataset.AccessionNumber),
            ),
            patient_name=str(dataset.PatientName),
            patient_sex=str(dataset.PatientSex),
            study_date=str(dataset.StudyDate),
            study_time=str(dataset.StudyTime),
        ),
        sections=order_impression(split_report(report), PRESET.checks, language),
        answers=arrange(PRESET.checks, answers, is_calibrated=False),
        images=(
            InstanceReference(
                series_instance_uid=str(dataset.SeriesInstanceUID),
                sop_instance_uid=str(dataset.SOPInstanceUID),
                sop_class_uid=str(dataset.SOPClassUID),
            ),
        ),
    )


def store(archive: foreign.Orthanc, folder: Path, study: PhantomStudy, *contents: bytes) -> None:
    """Put the images of a phantom and its drafts into the archive, in this order."""
    paths = write_study(study, folder)
    for number, content in enumerate(contents):
        paths.append(folder / f"draft{number}.dcm")
        paths[-1].write_bytes(content)
    for path in paths:
        sent = foreign.dcmsend([path], port=archive.port, called=archive.ae_title)
        assert sent.returncode == 0, sent.stderr


def phantom(seed: int) -> PhantomStudy:
    return build_study(
        seed,
        findings=Findings(
            cardiomegaly=True,
            pleural_effusion=Side.RIGHT,
            pneumothorax=Side.LEFT,
            consolidation=Side.NONE,
            nodule=Side.NONE,
            pacemaker=False,
        ),
    )


def screenshot(name: str) -> Path | None:
    """Return where to write a screenshot; None unless they are asked for."""
    return IMAGES / name if load().write_screenshots else None


def squeezed(text: str) -> str:
    return "".join(text.split())


def assert_everything_is_read(seen: Shown, text: DraftText) -> None:
    shown, position = squeezed(seen.text), 0
    for row in (text.disclaimer, *text.findings, *text.impression, *text.checks, *text.basis):
        position = shown.find(squeezed(row), position)
        assert position >= 0, row
    assert seen.clipped() == []
    assert not seen.scrolls_sideways


@pytest.mark.parametrize(("language", "seed"), [("en", 9101), ("zh", 9102)])
def test_every_sentence_of_a_draft_is_seen_whole(
    language: str, seed: int, archive: foreign.Orthanc, viewer: Ohif, tmp_path: Path
) -> None:
    study = phantom(seed)
    said = said_of(study, language)
    store(archive, tmp_path, study, to_bytes(build(said, drafts.DEVICE, revision=1)))

    seen = viewer.open(study.study_instance_uid, screenshot=screenshot(f"ohif-{language}.png"))

    text = compose(said, revision=1, replaces_earlier=False)
    assert len(text.findings) == 7
    assert_everything_is_read(seen, text)
    # The list of series is cut after some twenty characters.
    (series,) = seen.series
    assert SERIES_DESCRIPTION[:12] in series
    headings = {
        "en": ("Findings", "Impressions", "AI preset checks"),
        "zh": ("影像所见", "影像诊断", "AI 预设问题", "未经医师审核"),
    }
    assert all(squeezed(one) in squeezed(seen.text) for one in headings[language])
    assert "97" not in seen.text


@pytest.mark.parametrize("has_note", [False, True])
def test_of_two_revisions_only_the_newer_is_seen(
    has_note: bool, archive: foreign.Orthanc, viewer: Ohif, tmp_path: Path
) -> None:
    study = phantom(9103 + has_note)
    first = said_of(study, "en")
    earlier = build(first, drafts.DEVICE, revision=1)
    second = replace(
        first,
        generation=2,
        created_at=first.created_at + 600,
        known_images=2,
        notes=("1 image could not be read.",),
    )
    predecessor = InstanceReference(
        series_instance_uid=str(earlier.SeriesInstanceUID),
        sop_instance_uid=str(earlier.SOPInstanceUID),
        sop_class_uid=str(earlier.SOPClassUID),
    )
    later = build(second, drafts.DEVICE, revision=2, predecessor=predecessor)
    # This archive does not know rejection notes and only keeps them: a note must not stand before the draft.
    note = rejection_note.build(later)
    assert note is not None
    notes = [to_bytes(note)] if has_note else []
    store(archive, tmp_path, study, to_bytes(earlier), to_bytes(later), *notes)

    seen = viewer.open(study.study_instance_uid, screenshot=None if has_note else screenshot("ohif-revision.png"))

    assert [SERIES_DESCRIPTION in one for one in seen.series] == [True, *(False for _ in notes)]
    assert_everything_is_read(seen, compose(second, revision=2, replaces_earlier=True))
    assert "revision 2" in seen.text
