"""Whether a rendered picture looks like what the model was made for, whatever its header and its stream say.

A film that was decoded from half a stream, through the wrong table or with its bits shifted is still a picture,
and a model answers any picture. So each one is measured (brightness, contrast, noise, edges across the whole
film, rows that stand still, likeness to the mean film) and compared with the range that films of the kind the
entry was made for have. An entry without such statistics gets the two checks that hold for every picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from casebook.checks import load_yaml

Plane = NDArray[np.float32]

#: Longest side on which a picture is measured, in pixels: every n-th pixel of a larger one.
_LONGEST = 420
#: Rows and columns of the grid on which the coarse picture is compared.
GRID = 16
#: Shorter sides than this are too short to measure anything.
_SHORTEST = 40
#: Two neighbouring rows that differ less than this in every pixel stand still.
_STILL = 1e-4
#: Rows and columns at the borders, as a share, in which an edge across the film is a collimator's.
_BORDER = 0.08
#: Noise over contrast: independent values come to 0.49, and the worst real slice to less than half of that.
_NOISE_OVER_CONTRAST = 0.38
#: A page of text has black, white and little between.
_LEVELS_OF_A_PAGE = 4

#: What is said of a measurement below and above its range.
_SENTENCES = MappingProxyType(
    {
        "darkest": ("its darkest parts are too dark", "it has no dark parts"),
        "dark": ("its dark parts are too dark", "its dark parts are too bright"),
        "lower_quartile": ("it is too dark", "it is too bright"),
        "median": ("it is too dark", "it is too bright"),
        "upper_quartile": ("it is too dark", "it is too bright"),
        "bright": ("its bright parts are too dark", "its bright parts are too bright"),
        "brightest": ("it has no bright parts", "its brightest parts are too bright"),
        "black": ("it has too little black", "too much of it is black"),
        "white": ("it has too little white", "too much of it is white"),
        "levels": ("it has too few shades of grey", "it has too many shades of grey"),
        "contrast": ("it has too little contrast", "it has too much contrast"),
        "still_rows": ("too few rows are alike", "too many rows are alike, as where an image ends early"),
        "still_columns": ("too few columns are alike", "too many columns are alike"),
        "noise": ("it has too little noise", "it has too much noise"),
        "row_edge": ("it has no edges", "an edge runs across it, as where rows are missing or shifted"),
        "column_edge": ("it has no edges", "an edge runs down it, as where columns are missing or shifted"),
        "detail": ("it has too little detail", "its parts do not fit together"),
        "likeness": ("it is not arranged like a film of this kind", "it is the mean film"),
        "upright": ("it looks like a film upside down", "it looks like no film"),
    }
)
#: Names of everything that is measured.
MEASUREMENTS = tuple(_SENTENCES)


class PictureStatistics(BaseModel):
    """How the pictures look that a model was made for: one file beside the entries of `config/models/`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    measured_on: str
    """Films, seeds and command the numbers come from."""
    mean_film: tuple[tuple[float, ...], ...] = Field(min_length=GRID, max_length=GRID)
    """The mean film on a grid of 16 x 16, in [0, 1]."""
    ranges: dict[str, tuple[float, float]]
    """Measurement -> lowest and highest value of a plausible picture, margins included."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if set(self.ranges) != set(MEASUREMENTS) or any(len(row) != GRID for row in self.mean_film):
            raise ValueError(f"ranges are needed of {', '.join(MEASUREMENTS)}, and a mean film of {GRID} x {GRID}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """A picture, reduced to what is measured."""

    #: Shape (rows, columns), longest side at most about 420.
    small: Plane
    #: Share of each of 256 grey levels.
    histogram: NDArray[np.float64]
    #: Shape (16, 16), the mean of each part.
    grid: Plane
    still_rows: float
    still_columns: float


@cache
def load_statistics(path: Path) -> PictureStatistics:
    """Load the statistics of an entry.

    Raises
    ------
    SettingsError
        When the file is missing or wrong.
    """
    return load_yaml(path, PictureStatistics)


def why_implausible(image: Plane, statistics: PictureStatistics | None, *, is_film: bool = True) -> str:
    """Say in words what of a picture does not look as it should; nothing where it looks right.

    Parameters
    ----------
    image
        Shape (rows, columns) for grey or (rows, columns, 3) for colour, in [0, 1], as the model would see it.
    statistics
        Of the films the entry was made for; without them, only the general checks are made.
    is_film
        A slice of a stack may be nearly empty and is only looked at for noise.
    """
    plane = _grey(image)
    if statistics is None or not is_film:
        return "" if plane is None or min(plane.shape) < _SHORTEST else _why_generally(look_at(plane), is_film=is_film)
    if plane is None:
        return "it is in colour"
    if min(plane.shape) < _SHORTEST:
        return "it has too few pixels"
    looks = look_at(plane)
    return _why_generally(looks, is_film=True) or why_out_of_range(
        measure(looks, np.array(statistics.mean_film)), statistics
    )


def _why_generally(looks: Looks, *, is_film: bool) -> str:
    return why_noise(looks) or (why_page(looks) if is_film else "")


def why_noise(looks: Looks) -> str:
    """Say that a picture is noise and nothing else, which no picture of anything looks like."""
    contrast = float(looks.small.std())
    if contrast > 0 and _noise(looks.small) > _NOISE_OVER_CONTRAST * contrast:
        return "it is noise"
    return ""


def why_page(looks: Looks) -> str:
    """Say that a picture has the few shades of a page of text."""
    if int((looks.histogram > 0).sum()) <= _LEVELS_OF_A_PAGE:
        return "it is a page or a drawing in a few shades of grey"
    return ""


def why_out_of_range(measured: Mapping[str, float], statistics: PictureStatistics) -> str:
    """Say which measurement lies outside its range, the one that lies furthest out in terms of the range."""
    worst, excess = "", 0.0
    for name, (low, high) in statistics.ranges.items():
        value = measured[name]
        out = max(low - value, value - high) / max(high - low, 1e-6)
        if not np.isfinite(value) or out > excess:
            worst, excess = _SENTENCES[name][int(value > high)], out if np.isfinite(value) else np.inf
    return worst


def look_at(plane: Plane) -> Looks:
    """Reduce a grey picture to what is measured."""
    step = max(1, -(-max(plane.shape) // _LONGEST))
    small = np.ascontiguousarray(plane[::step, ::step])
    levels = np.bincount((small * np.float32(255) + np.float32(0.5)).astype(np.uint8).ravel(), minlength=256)
    return Looks(
        small=small,
        histogram=levels / small.size,
        grid=_parts(small, GRID),
        # Whole resolution along the rows, every few pixels across them.
        still_rows=_still(np.ascontiguousarray(plane[:, :: 2 * step])),
        still_columns=_still(np.ascontiguousarray(plane[:: 2 * step].T)),
    )


def measure(looks: Looks, mean_film: NDArray[np.floating[Any]]) -> dict[str, float]:
    """Measure a picture; the names are those of `MEASUREMENTS`."""
    share = np.cumsum(looks.histogram)
    quantiles = [float(np.searchsorted(share, q)) / 255 for q in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)]
    names = ("darkest", "dark", "lower_quartile", "median", "upper_quartile", "bright", "brightest")
    contrast = float(looks.grid.std())
    finer = _parts(looks.small, 2 * GRID)
    likeness = _correlation(looks.grid, mean_film)
    return dict(zip(names, quantiles, strict=True)) | {
        "black": float(looks.histogram[:2].sum()),
        "white": float(looks.histogram[254:].sum()),
        "levels": float((looks.histogram > 0).sum()),
        "contrast": contrast,
        "still_rows": looks.still_rows,
        "still_columns": looks.still_columns,
        "noise": _noise(looks.small),
        "row_edge": _edge(looks.small),
        "column_edge": _edge(looks.small.T),
        "detail": float(np.abs(finer - np.kron(looks.grid, np.ones((2, 2)))).mean()) / max(contrast, 1e-6),
        "likeness": likeness,
        "upright": likeness - _correlation(looks.grid[::-1], mean_film),
    }


def _grey(image: Plane) -> Plane | None:
    # Grey that is stored as colour has three equal channels.
    if image.ndim == 2:
        return image
    sample = image[:: max(1, image.shape[0] // 200), :: max(1, image.shape[1] // 200)]
    return image[..., 0] if float(np.ptp(sample, axis=-1).max()) < 2 / 255 else None


def _still(plane: Plane) -> float:
    same = np.abs(np.diff(plane, axis=0)).max(axis=1) < _STILL
    return float(same.mean())


def _noise(small: Plane) -> float:
    across = np.abs(2 * small[:, 1:-1] - small[:, :-2] - small[:, 2:]).mean()
    down = np.abs(2 * small[1:-1] - small[:-2] - small[2:]).mean()
    return float(max(across, down)) / 4


def _edge(small: Plane) -> float:
    # Anatomy crosses a row here and there; what changes along a whole row at once is no anatomy.
    change = np.abs(np.median(np.diff(small, axis=0), axis=1))
    inside = slice(int(len(change) * _BORDER), max(int(len(change) * (1 - _BORDER)), 1))
    return float(change[inside].max())


def _parts(plane: Plane, count: int) -> Plane:
    rows = np.linspace(0, plane.shape[0], count + 1).astype(int)
    columns = np.linspace(0, plane.shape[1], count + 1).astype(int)
    sums = np.add.reduceat(np.add.reduceat(plane, rows[:-1], axis=0), columns[:-1], axis=1)
    means: Plane = (sums / (np.diff(rows)[:, None] * np.diff(columns)[None, :])).astype(np.float32)
    return means


def _correlation(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float:
    first, second = one - one.mean(), other - other.mean()
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / size if size > 0 else 0.0
