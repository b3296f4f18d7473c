"""A picture that does not look like what the model was made for is known by its look alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from casebook.errors import SettingsError
from casebook.settings import SHIPPED_CONFIG_DIRECTORY
from worker.reader.pixels import frames
from worker.reader.plausibility import MEASUREMENTS, load_statistics, look_at, measure, why_implausible

STATISTICS = load_statistics(SHIPPED_CONFIG_DIRECTORY / "models" / "pictures" / "phantom-cxr.yaml")


@pytest.fixture
def film() -> NDArray[np.float32]:
    """The mean film of the phantoms, enlarged, with the noise of a detector."""
    rng = np.random.default_rng(1)
    coarse = np.kron(np.array(STATISTICS.mean_film), np.ones((20, 20)))
    for axis in (0, 1):
        coarse = np.apply_along_axis(
            lambda line: np.convolve(np.pad(line, 10, "edge"), np.ones(21) / 21, "valid"), axis, coarse
        )
    return np.clip(coarse + rng.normal(0, 0.02, coarse.shape), 0, 1).astype(np.float32)


def test_a_film_looks_like_a_film(film: NDArray[np.float32]) -> None:
    assert why_implausible(film, STATISTICS) == ""
    assert why_implausible(film, None) == ""


def test_grey_that_is_stored_as_colour_is_grey(film: NDArray[np.float32]) -> None:
    assert why_implausible(np.stack([film] * 3, axis=-1), STATISTICS) == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("in colour", "it is in colour"),
        ("tiny", "it has too few pixels"),
        ("white noise", "it is noise"),
        ("two shades", "it is a page or a drawing in a few shades of grey"),
        ("dark", "it has no bright parts"),
        ("inverted", "it is not arranged like a film of this kind"),
        ("upside down", "it looks like a film upside down"),
        ("ends early", "too many rows are alike, as where an image ends early"),
        ("shifted", "an edge runs across it, as where rows are missing or shifted"),
        ("noisy", "it has too much noise"),
    ],
)
def test_a_wrong_picture_is_named_in_words(name: str, reason: str, film: NDArray[np.float32]) -> None:
    rng = np.random.default_rng(2)
    ended = film.copy()
    ended[240:] = ended[239]
    wrong: dict[str, NDArray[Any]] = {
        "in colour": np.stack([film, film[::-1], film], axis=-1),
        "tiny": film[:30, :30],
        "white noise": rng.random(film.shape, dtype=np.float32),
        "two shades": np.round(film),
        "dark": film / 16,
        "inverted": 1 - film,
        "upside down": film[::-1],
        "ends early": ended,
        "shifted": np.concatenate([film[:160], np.roll(film[160:], 120, axis=0)]),
        "noisy": np.clip(film + rng.normal(0, 0.1, film.shape).astype(np.float32), 0, 1),
    }

    assert why_implausible(wrong[name], STATISTICS) == reason


def test_without_statistics_only_noise_and_pages_are_known(film: NDArray[np.float32]) -> None:
    noise = np.random.default_rng(3).random(film.shape, dtype=np.float32)

    assert why_implausible(noise, None) == "it is noise"
    assert why_implausible(np.round(film).astype(np.float32), None)
    assert why_implausible((film / 16).astype(np.float32), None) == ""
    assert why_implausible(np.stack([film, film / 2, film], axis=-1).astype(np.float32), None) == ""


def test_a_slice_may_be_nearly_empty_but_not_noise(film: NDArray[np.float32]) -> None:
    empty = np.zeros_like(film)
    empty[100, 100:110] = 1
    noise = np.random.default_rng(4).random(film.shape, dtype=np.float32)

    assert why_implausible(empty, STATISTICS, is_film=False) == ""
    assert why_implausible(noise, STATISTICS, is_film=False) == "it is noise"


def test_a_value_that_is_no_number_is_implausible(film: NDArray[np.float32]) -> None:
    measured = measure(look_at(film), np.array(STATISTICS.mean_film))

    assert set(measured) == set(MEASUREMENTS)
    assert all(np.isfinite(value) for value in measured.values())


def test_statistics_that_miss_a_measurement_are_refused(tmp_path: Path) -> None:
    (tmp_path / "half.yaml").write_text("measured_on: nothing\nranges: {}\nmean_film: []\n", encoding="utf-8")

    with pytest.raises(SettingsError, match=r"half\.yaml"):
        load_statistics(tmp_path / "half.yaml")


@pytest.mark.corpus
@pytest.mark.parametrize(
    "name",
    [
        "pylibjpeg-data/JPEG2000Lossless/966_fixed.dcm",
        "pydicom-data/RG1_J2KI.dcm",
        "nhsx/1.3.6.1.4.1.11129.5.5.110503645592756492463169821050252582267888.dcm",
    ],
)
def test_a_chest_film_of_the_corpus_is_plausible(name: str, corpus: Path) -> None:
    assert why_implausible(next(frames(corpus / "dicom" / name)), STATISTICS) == ""
