"""From a rendered image to the array a vision tower takes; the same code for serving and for training."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Fit(StrEnum):
    """How an image that is not square becomes square."""

    #: Fill the short side on both ends with the mean colour; nothing is lost and nothing is distorted.
    PAD = "pad"
    #: Keep the middle square of the image.
    CROP = "crop"
    #: Stretch both sides to the same length.
    STRETCH = "stretch"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFormat:
    """What a model expects of its image."""

    #: Rows and columns of the square the tower takes, in pixels.
    size: int
    #: Mean per channel (red, green, blue) of images in [0, 1].
    mean: tuple[float, float, float]
    #: Standard deviation per channel (red, green, blue) of images in [0, 1].
    std: tuple[float, float, float]
    #: How a rectangle becomes a square.
    fit: Fit = Fit.PAD

    def __post_init__(self) -> None:
        """Refuse what could only give an unusable array."""
        if self.size <= 0 or min(self.std) <= 0:
            message = "an image format needs a positive size and positive standard deviations"
            raise ValueError(message)


def prepare(image: NDArray[np.float32], image_format: ImageFormat) -> NDArray[np.float32]:
    """Turn a rendered image into the array the vision tower takes.

    Parameters
    ----------
    image
        Shape (rows, columns) for grey or (rows, columns, 3) for colour, in [0, 1], as `pixels` renders it.
    image_format
        What the model expects.

    Returns
    -------
        Shape (3, size, size), normalised by mean and standard deviation.
    """
    channels = image[..., None] if image.ndim == 2 else image
    planes = [
        resize(square(channels[..., index], image_format.fit, image_format.mean[index]), image_format.size)
        for index in range(channels.shape[-1])
    ]
    stacked = np.stack([planes[index % len(planes)] for index in range(3)])  # (3, size, size)
    mean = np.asarray(image_format.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(image_format.std, dtype=np.float32)[:, None, None]
    normalised: NDArray[np.float32] = (stacked - mean) / std
    return normalised


def square(plane: NDArray[np.float32], fit: Fit, fill: float) -> NDArray[np.float32]:
    """Make one channel square; `STRETCH` leaves it as it is, because `resize` then stretches it."""
    rows, columns = plane.shape
    if rows == columns or fit is Fit.STRETCH:
        return plane
    if fit is Fit.CROP:
        side = min(rows, columns)
        top, left = (rows - side) // 2, (columns - side) // 2
        return plane[top : top + side, left : left + side]
    side = max(rows, columns)
    padded = np.full((side, side), fill, dtype=np.float32)
    top, left = (side - rows) // 2, (side - columns) // 2
    padded[top : top + rows, left : left + columns] = plane
    return padded


def resize(plane: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resample one channel to (size, size), without aliasing and without leaving [0, 1].

    Pillow widens the filter when it shrinks an image, and its mode F keeps more than eight bits.
    """
    source = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    resampled = source.resize((size, size), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(resampled, dtype=np.float32), 0.0, 1.0)
