"""Wrong pictures of a phantom: what readers of DICOM that trust a header or a stream too much have shown.

Each kind takes the stored values of an undamaged film and gives what a careless reader would render. They serve
to measure how many of them the look of a picture alone gives away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian

from training.phantom.dicom import Modality, Photometric, Storage, store
from training.phantom.phantom import draw_phantom
from worker.reader.model_input import Fit, ImageFormat, prepare

Values = NDArray[np.int64]
Picture = NDArray[np.float32]
#: A picture is wrong when its model input differs more than this from the undamaged one, in the mean.
WRONG = 0.02
_INPUT = ImageFormat(size=112, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fit=Fit.PAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """The stored film of a phantom with what its header says of the values."""

    stored: Values
    bits: int
    center: float
    width: float
    is_inverted: bool

    def show(self, values: NDArray[Any]) -> Picture:
        """Render values as the header of this film says (PS3.3 C.11.2.1.2.1)."""
        shown = np.clip((values.astype(np.float64) - (self.center - 0.5)) / (self.width - 1) + 0.5, 0, 1)
        return (1 - shown if self.is_inverted else shown).astype(np.float32)

    @property
    def picture(self) -> Picture:
        """The film as it should be shown."""
        return self.show(self.stored)


Damage = Callable[[Film, np.random.Generator], Picture]


def draw_stored(seed: int) -> Film:
    """Draw the film of a phantom and store it in bits and a photometric interpretation that follow the seed."""
    rng = np.random.default_rng([seed, 3])
    storage = Storage(
        modality=Modality.DX,
        photometric=tuple(Photometric)[int(rng.integers(2))],
        bits_stored=(12, 14, 16)[int(rng.integers(3))],
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    stored, center, width = store(draw_phantom(seed).film, storage, rng)
    return Film(
        stored=stored.astype(np.int64),
        bits=storage.bits_stored,
        center=center,
        width=width,
        is_inverted=storage.photometric is Photometric.MONOCHROME1,
    )


def is_wrong(picture: Picture, film: Film) -> bool:
    """Tell whether a model would be shown something else than the undamaged film."""
    right = prepare(film.picture, _INPUT)
    return float(np.abs(prepare(picture, _INPUT) - right).mean()) > WRONG


def _ends_early(fill: str) -> Damage:
    def damage(film: Film, rng: np.random.Generator) -> Picture:
        # One of twenty points along the film.
        values = film.stored.copy().ravel()
        place = int(len(values) * int(rng.integers(1, 21)) / 21)
        filled = {"zeros": 0, "grey": 2 ** (film.bits - 1), "ones": 2**film.bits - 1}
        if fill == "repeated":
            row = place // film.stored.shape[1]
            whole = values.reshape(film.stored.shape)
            whole[row:] = whole[max(row - 1, 0)]
        elif fill == "noise":
            values[place:] = rng.integers(0, 2**film.bits, len(values) - place)
        else:
            values[place:] = filled[fill]
        return film.show(values.reshape(film.stored.shape))

    return damage


def _bits_up(film: Film, rng: np.random.Generator) -> Picture:
    return film.show((film.stored << int(rng.integers(1, 5))) & (2**film.bits - 1))


def _bits_down(film: Film, rng: np.random.Generator) -> Picture:
    return film.show(film.stored >> int(rng.integers(1, 5)))


def _high_bit_ignored(film: Film, rng: np.random.Generator) -> Picture:
    # The values lie in the upper bits of the word, and the lower ones are read.
    shift = 16 - film.bits or int(rng.integers(1, 5))
    return film.show(((film.stored << shift) & 0xFFFF) & (2**film.bits - 1))


def _sign_ignored(film: Film, _: np.random.Generator) -> Picture:
    # Values around zero in two's complement, read as unsigned.
    signed = film.stored - 2 ** (film.bits - 1)
    return film.show((signed & 0xFFFF) + 2 ** (film.bits - 1))


def _sign_invented(film: Film, _: np.random.Generator) -> Picture:
    half = 2 ** (film.bits - 1)
    return film.show((film.stored ^ half) - half)


def _narrow_table(film: Film, rng: np.random.Generator) -> Picture:
    darker: Picture = (film.picture / 2 ** int(rng.integers(2, 5))).astype(np.float32)
    return darker


def _wide_table(film: Film, rng: np.random.Generator) -> Picture:
    brighter: Picture = np.clip(film.picture * 2 ** int(rng.integers(1, 5)), 0, 1).astype(np.float32)
    return brighter


def _inverted(film: Film, _: np.random.Generator) -> Picture:
    inverted: Picture = np.float32(1) - film.picture
    return inverted


def _window_off(film: Film, rng: np.random.Generator) -> Picture:
    # The window of another image: too narrow, too wide, or shifted.
    center = film.center + film.width * float(rng.uniform(-1.5, 1.5))
    width = film.width * float(np.exp(rng.uniform(-2.5, 2.5)))
    shown = np.clip((film.stored - (center - 0.5)) / max(width - 1, 1) + 0.5, 0, 1)
    seen: Picture = (1 - shown if film.is_inverted else shown).astype(np.float32)
    return seen


def _wrong_palette(film: Film, rng: np.random.Generator) -> Picture:
    table = rng.random((256, 3), dtype=np.float32)
    coloured: Picture = table[(film.picture * 255).astype(int)]
    return coloured


def _grey_palette(film: Film, rng: np.random.Generator) -> Picture:
    # A palette in another order, all of it grey.
    table = rng.permutation(np.linspace(0, 1, 256, dtype=np.float32))
    shuffled: Picture = table[(film.picture * 255).astype(int)]
    return shuffled


def _white_noise(film: Film, rng: np.random.Generator) -> Picture:
    return film.show(rng.integers(0, 2**film.bits, film.stored.shape))


def _bytes_swapped(film: Film, _: np.random.Generator) -> Picture:
    return film.show(film.stored.astype("<u2").byteswap())


def _one_byte_off(film: Film, _: np.random.Generator) -> Picture:
    content = film.stored.astype("<u2").tobytes()
    return film.show(np.frombuffer(content[1:] + b"\0", dtype="<u2").reshape(film.stored.shape))


def _rows_shifted(film: Film, rng: np.random.Generator) -> Picture:
    return np.roll(film.picture, int(film.stored.shape[0] * rng.uniform(0.1, 0.9)), axis=0)


def _wrong_row_length(film: Film, rng: np.random.Generator) -> Picture:
    columns = film.stored.shape[1] + int(rng.choice([-16, -8, -4, -1, 1, 4, 8, 16]))
    values = np.resize(film.stored.ravel(), film.stored.shape[0] * columns)
    return film.show(values.reshape(film.stored.shape[0], columns))


def _fields_apart(film: Film, _: np.random.Generator) -> Picture:
    return np.concatenate([film.picture[::2], film.picture[1::2]])


def _samples_apart(film: Film, _: np.random.Generator) -> Picture:
    # A planar configuration misread: three narrow copies, one beside the other.
    return np.concatenate([film.picture[:, part::3] for part in range(3)], axis=1)


def _one_part_scrambled(film: Film, rng: np.random.Generator) -> Picture:
    values = film.stored.copy()
    rows = film.stored.shape[0]
    first = int(rng.integers(0, rows // 2))
    last = first + int(rows * rng.uniform(0.2, 0.5))
    values[first:last] = rng.integers(0, 2**film.bits, values[first:last].shape)
    return film.show(values)


def _upside_down(film: Film, _: np.random.Generator) -> Picture:
    return np.ascontiguousarray(film.picture[::-1])


def _low_bits(film: Film, rng: np.random.Generator) -> Picture:
    # The most significant bits are lost.
    lost = int(rng.integers(1, 5))
    return film.show(film.stored & (2 ** (film.bits - lost) - 1))


#: Every kind of wrong picture by its name.
DAMAGES: MappingProxyType[str, Damage] = MappingProxyType(
    {
        "ends early, zeros": _ends_early("zeros"),
        "ends early, grey": _ends_early("grey"),
        "ends early, ones": _ends_early("ones"),
        "ends early, last row repeated": _ends_early("repeated"),
        "ends early, noise": _ends_early("noise"),
        "bits shifted up": _bits_up,
        "bits shifted down": _bits_down,
        "most significant bits lost": _low_bits,
        "high bit ignored": _high_bit_ignored,
        "sign ignored": _sign_ignored,
        "sign invented": _sign_invented,
        "table narrower than stated": _narrow_table,
        "table wider than stated": _wide_table,
        "photometric interpretation inverted": _inverted,
        "window of another image": _window_off,
        "palette in colour": _wrong_palette,
        "palette in another order": _grey_palette,
        "white noise": _white_noise,
        "bytes swapped": _bytes_swapped,
        "one byte off": _one_byte_off,
        "rows shifted": _rows_shifted,
        "another row length": _wrong_row_length,
        "fields one after the other": _fields_apart,
        "samples beside each other": _samples_apart,
        "a part scrambled": _one_part_scrambled,
        "upside down": _upside_down,
    }
)
