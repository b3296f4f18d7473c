"""Measure how the pictures of a model look: ``python -m training.measure_pictures``.

Draws phantoms that no model was trained on, each in five sizes from 112 pixels to 672, and writes the mean film
and the range of every measurement to `config/models/pictures/phantom-cxr.yaml`. The margins are wide, so that a
film of a person is plausible too: the pictures that were decoded or rendered wrongly lie far outside.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.options import FIRST_TRAINING_SEED
from training.phantom.phantom import draw_phantom
from worker.reader.plausibility import GRID, MEASUREMENTS, Looks, look_at, measure

REPOSITORY = Path(__file__).resolve().parent.parent
FIRST_SEED = 600_000
#: What is added below and above the range of the phantoms: films of people are brighter, softer and less alike.
MARGINS = MappingProxyType(
    {
        "darkest": (0.1, 0.25),
        "dark": (0.1, 0.40),
        "lower_quartile": (0.05, 0.25),
        "median": (0.05, 0.12),
        "upper_quartile": (0.05, 0.10),
        "bright": (0.05, 0.10),
        "brightest": (0.05, 0.10),
        "black": (0.1, 0.15),
        "white": (0.1, 0.10),
        "levels": (60.0, 100.0),
        "contrast": (0.04, 0.05),
        "still_rows": (0.1, 0.015),
        "still_columns": (0.1, 0.015),
        "noise": (0.005, 0.004),
        "row_edge": (0.1, 0.012),
        "column_edge": (0.1, 0.012),
        "detail": (0.04, 0.05),
        "likeness": (0.45, 0.1),
        "upright": (0.08, 1.0),
    }
)


def main(arguments: Sequence[str]) -> int:
    """Measure, write the file and print its ranges."""
    parser = argparse.ArgumentParser(prog="python -m training.measure_pictures", description=__doc__)
    parser.add_argument("--n", type=int, default=2000, help="phantoms to measure")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="seed of the first phantom; the others follow it")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "config/models/pictures/phantom-cxr.yaml")
    chosen = parser.parse_args(arguments)
    if chosen.n < 1 or chosen.seed < 0 or chosen.seed + chosen.n > FIRST_TRAINING_SEED:
        parser.error(f"seeds from {FIRST_TRAINING_SEED} on are trained on; choose a lower --seed or --n")
    seeds = range(chosen.seed, chosen.seed + chosen.n)
    looks = [look_at(picture) for seed in seeds for picture in sizes(draw_phantom(seed).picture)]
    text = write_statistics(looks, seeds)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


def sizes(picture: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return a film in the sizes it may arrive in: edges are steeper in a small one, and noise is softer."""
    drawn = Image.fromarray(picture)
    rows, columns = picture.shape
    scaled = [
        drawn.resize((round(columns * scale), round(rows * scale)), Image.Resampling.BICUBIC)
        for scale in (1 / 3, 2 / 3, 2)
    ]
    smooth = [np.clip(np.asarray(one, dtype=np.float32), 0, 1) for one in scaled]
    return [picture, np.ascontiguousarray(picture[::3, ::3]), *smooth]


def write_statistics(looks: Sequence[Looks], seeds: range) -> str:
    """Return the file: the mean film, and the range of each measurement with its margins."""
    mean_film = np.stack([one.grid for one in looks]).mean(axis=0).round(3)
    measured = [measure(one, mean_film) for one in looks]
    lines = [
        "# How the films of phantom-cxr look; a picture outside is not shown to the model.",
        f"# Written by: python -m training.measure_pictures --n {len(seeds)} --seed {seeds.start}",
        f"measured_on: {len(seeds)} phantoms in five sizes, seeds {seeds.start} to {seeds.stop - 1}",
        "ranges:",
    ]
    for name in MEASUREMENTS:
        values = [one[name] for one in measured]
        below, above = MARGINS[name]
        lines.append(f"  {name}: [{min(values) - below:.4f}, {max(values) + above:.4f}]")
    rows = [", ".join(f"{value:.3f}" for value in mean_film[row]) for row in range(GRID)]
    return "\n".join([*lines, "mean_film:", *(f"  - [{row}]" for row in rows), ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
