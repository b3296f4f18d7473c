"""Phantoms: what they have, what their reports say, and that their DICOM object shows what was drawn."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import UID

from casebook.checks import load_checks
from training.phantom import difficulty
from training.phantom.dicom import (
    BITS_STORED,
    TRANSFER_SYNTAXES,
    Modality,
    Photometric,
    Storage,
    build_study,
    draw_storage,
    store,
    write_study,
)
from training.phantom.film import display, draw_film
from training.phantom.findings import LABELS, Findings, Side, draw_findings
from training.phantom.phantom import draw_phantom, findings_of
from training.phantom.report import LANGUAGES, write_report
from worker.reader.model_input import ImageFormat, prepare
from worker.reader.pixels import frames
from worker.reader.report import ask_report, split_report

REPOSITORY = Path(__file__).resolve().parents[2]
PRESET = load_checks(REPOSITORY / "config/checks/chest_xray.yaml")
FORMAT = ImageFormat(size=112, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3))
ONE_SIDED = (Side.NONE, Side.LEFT, Side.RIGHT)
STORAGES = [
    Storage(modality=modality, photometric=photometric, bits_stored=bits, transfer_syntax_uid=syntax)
    for syntax, bits in itertools.product(TRANSFER_SYNTAXES, BITS_STORED)
    for modality, photometric in ((Modality.DX, Photometric.MONOCHROME1), (Modality.CR, Photometric.MONOCHROME2))
]


def every_finding() -> Iterator[Findings]:
    """Yield every combination of findings there is."""
    booleans = (False, True)
    for heart, effusion, air, cloud, spot, metal in itertools.product(
        booleans, Side, ONE_SIDED, ONE_SIDED, ONE_SIDED, booleans
    ):
        yield Findings(
            cardiomegaly=heart,
            pleural_effusion=effusion,
            pneumothorax=air,
            consolidation=cloud,
            nodule=spot,
            pacemaker=metal,
        )


def test_the_same_seed_draws_the_same_phantom() -> None:
    first, second = draw_phantom(11), draw_phantom(11)

    assert first.findings == second.findings == findings_of(11)
    assert np.array_equal(first.film, second.film)
    assert not np.array_equal(first.film, draw_phantom(12).film)


def test_findings_are_as_frequent_as_the_difficulty_says() -> None:
    rng = np.random.default_rng(3)
    labels = np.array([draw_findings(rng).labels() for _ in range(4000)])

    assert labels.shape == (4000, len(LABELS))
    assert labels[:, 0].mean() == pytest.approx(difficulty.FREQUENCY["cardiomegaly"][1], abs=0.03)
    left, both = difficulty.FREQUENCY["pleural_effusion"][1], difficulty.FREQUENCY["pleural_effusion"][3]
    assert labels[:, 1].mean() == pytest.approx(left + both, abs=0.03)
    assert labels[:, 9].mean() == pytest.approx(difficulty.FREQUENCY["pacemaker"][1], abs=0.03)


@pytest.mark.parametrize(
    ("findings", "brighter"),
    [
        (Findings(pleural_effusion=Side.LEFT), True),
        (Findings(pneumothorax=Side.LEFT), False),
        (Findings(consolidation=Side.LEFT), True),
        (Findings(nodule=Side.LEFT), True),
    ],
)
def test_a_finding_on_the_patients_left_changes_the_right_half_of_the_image(findings: Findings, brighter: bool) -> None:
    changes = []
    for seed in range(6):
        # Noise and exposure differ once a finding draws its own numbers; the mean over many pixels does not.
        with_it = prepare(display(draw_film(findings, np.random.default_rng(seed))), FORMAT)[0]
        without = prepare(display(draw_film(Findings(), np.random.default_rng(seed))), FORMAT)[0]
        change = (with_it - with_it.mean()) - (without - without.mean())
        changes.append([change[25:85, 25:55].mean(), change[25:85, 60:90].mean()])
    image_left, image_right = np.mean(changes, axis=0)

    assert (image_right > image_left) == brighter


def test_every_report_states_every_finding_in_both_languages() -> None:
    asked = 0
    for findings in every_finding():
        truth = findings.answers()
        for language in LANGUAGES:
            report = write_report(findings, language)
            assert {check.id: ask_report(report, check, language) for check in PRESET.checks} == truth
            asked += 1

    assert asked == 2 * 2 * 4 * 3 * 3 * 3 * 2
    assert len(PRESET.checks) == 10


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_report_splits_into_findings_and_impression(language: str) -> None:
    sections = split_report(write_report(Findings(cardiomegaly=True), language))

    assert [section.kind.value for section in sections] == ["findings", "impression"]


def test_a_report_that_says_nothing_of_a_finding_gives_no_answer() -> None:
    pneumothorax = next(check for check in PRESET.checks if check.id == "pneumothorax")

    assert ask_report("FINDINGS: The heart size is normal.", pneumothorax, "en") is None
    assert ask_report("检查所见：心影大小正常。", pneumothorax, "zh") is None


@pytest.mark.parametrize(
    "storage", STORAGES, ids=lambda s: f"{s.modality}-{s.bits_stored}-{s.transfer_syntax_uid.name}"
)
def test_the_model_sees_the_same_through_dicom_as_in_the_array(storage: Storage, tmp_path: Path) -> None:
    study = build_study(7, storage=storage)
    (path,) = write_study(study, tmp_path)
    header = dcmread(path)

    shown = prepare(next(iter(frames(path))), FORMAT)

    assert header.file_meta.TransferSyntaxUID == storage.transfer_syntax_uid
    assert (header.Modality, header.PhotometricInterpretation, header.BitsStored) == (
        storage.modality.value,
        storage.photometric.value,
        storage.bits_stored,
    )
    # Half a step of twelve bits over a window of half of them, divided by the standard deviation.
    assert np.abs(shown - prepare(draw_phantom(7).picture, FORMAT)).max() < 1e-3


def test_a_wrong_window_would_show() -> None:
    film = draw_phantom(7).film
    storage = draw_storage(1)
    stored, center, width = store(film, storage, np.random.default_rng(0))
    shown = (stored.astype(np.float64) - (center - 0.5)) / (width - 1) + 0.5
    if storage.photometric is Photometric.MONOCHROME1:
        shown = 1 - shown

    assert np.abs(np.clip(shown, 0, 1) - display(film)).max() < 1e-3
    assert np.abs(np.clip(shown + 0.01, 0, 1) - display(film)).max() > 5e-3


def test_eight_studies_in_a_row_show_every_codec_depth_and_photometric_interpretation() -> None:
    shown = [draw_storage(seed) for seed in range(8)]

    assert {one.transfer_syntax_uid for one in shown} == set(TRANSFER_SYNTAXES)
    assert {one.bits_stored for one in shown} == set(BITS_STORED)
    assert {(one.modality, one.photometric) for one in shown} == set(itertools.product(Modality, Photometric))


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    (first,) = write_study(build_study(5), tmp_path / "one")
    (second,) = write_study(build_study(5), tmp_path / "two")

    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_studies_differ_in_every_identifier_and_are_complete() -> None:
    studies = [build_study(seed) for seed in range(4)]

    for keyword in ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        values = {str(study.dataset[keyword].value) for study in studies}
        assert len(values) == len(studies), keyword
    for study in studies:
        assert UID(study.study_instance_uid).is_valid
        assert study.study_instance_uid.startswith("2.25.")
        for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
            assert study.dataset[keyword].value, keyword
        assert study.answers == study.findings.answers()
        assert set(study.reports) == set(LANGUAGES)


def test_a_study_can_be_given_its_findings_and_its_time() -> None:
    findings = Findings(pneumothorax=Side.RIGHT)
    study = build_study(3, findings=findings, performed_at=datetime(2026, 11, 22, 9, 30))  # noqa: DTZ001

    assert study.findings == findings
    assert "right pneumothorax" in study.reports["en"]
    assert (study.dataset.StudyDate, study.dataset.StudyTime) == ("20261122", "093000")


def test_phantoms_are_drawn_without_torch() -> None:
    code = "import sys, training.phantom.dicom; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
