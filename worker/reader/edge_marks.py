"""Marks at the edge of a film without a window: what a technologist lays beside the patient is no anatomy.

A letter of lead at the very edge is taken out of what a model is shown, and the draft says so. Everything that could be
in the patient stays: metal and contrast lie further inside, and have soft edges.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]

#: A mark lies as a whole in so much of the shorter side, along the edge.
_EDGE = 1 / 12
#: Larger parts of a picture are no marks.
_LARGEST = 0.005
#: How far every other value is from that of a mark, in parts of the range that nearly all pixels have.
_APART = 0.25
#: Share of the pixels at either end that do not count for that range, in percent.
_OUTSIDE = 2.0


def values_apart(values: Values, bounds: tuple[float, float]) -> tuple[float, ...]:
    """Find the ends of what the stored bits can hold that a few pixels have, far from all others.

    Parameters
    ----------
    values
        The values of the picture that are no padding, any shape.
    bounds
        The lowest and the highest value that the stored bits can hold.
    """
    found = []
    for end in bounds:
        here = values == end
        others = values[~here]
        if not here.any() or not others.size or here.sum() > _LARGEST * here.size:
            continue
        usual = float(np.ptp(np.percentile(others, (_OUTSIDE, 100 - _OUTSIDE))))
        if min(abs(float(others.min()) - end), abs(float(others.max()) - end)) >= max(_APART * usual, 1):
            found.append(end)
    return tuple(found)


def find_edge_marks(values: Values, apart: Sequence[float]) -> NDArray[np.bool_] | None:
    """Find marks at the edge of a film: they have one of these values, which stands nowhere else.

    Parameters
    ----------
    values
        Shape (rows, columns), after the Modality LUT.
    apart
        From `values_apart`.

    Returns
    -------
        Same shape: where the marks are; None where there are none.
    """
    marks = np.zeros(values.shape, dtype=bool)
    edge = _edge_of(values.shape)
    for end in apart:
        here = values == end
        if not (here & ~edge).any():
            marks |= here
    return marks if marks.any() else None


def without_marks(values: Values, marks: NDArray[np.bool_]) -> Values:
    """Put the mean of what is around a mark in its place, in a square that is as large as it has to be."""
    filled = values.copy()
    known = ~marks
    corners = [np.pad(np.cumsum(np.cumsum(part, 0), 1), ((1, 0), (1, 0))) for part in (values * known, known * 1.0)]
    rows, columns = np.nonzero(marks)
    radius = 4
    while rows.size:
        top, bottom = np.maximum(rows - radius, 0), np.minimum(rows + radius + 1, values.shape[0])
        left, right = np.maximum(columns - radius, 0), np.minimum(columns + radius + 1, values.shape[1])
        total, count = (
            sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left] for sums in corners
        )
        found = count > 0
        filled[rows[found], columns[found]] = total[found] / count[found]
        rows, columns = rows[~found], columns[~found]
        radius *= 2
    return filled


def _edge_of(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    width = int(min(shape) * _EDGE)
    edge = np.ones(shape, dtype=bool)
    edge[width : shape[0] - width, width : shape[1] - width] = False
    return edge
