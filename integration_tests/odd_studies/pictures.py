"""The film of a phantom, stored in every legal way; each way shows the same film again (PS3.3 C.7.6.3 and C.11).

Each stored form is the inverse of how it is shown: whatever the tables and windows are, a reader who follows the
standard sees the film that was drawn. So the film is the reference, and no renderer has to be trusted.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from integration_tests.odd_studies import encoders
from integration_tests.odd_studies.data_set import DELIMITER, RawDataSet, item, sequence_item
from integration_tests.odd_studies.study import TOLERANCE
from training.phantom.phantom import draw_phantom

Plane = NDArray[np.float32]
Values = NDArray[np.int64]
NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
#: Films that are drawn; what varies is how they are stored and whose they are.
_FILMS = 64
#: Seeds far from those of training, evaluation and the other tests.
_FIRST_FILM = 77_000_001
#: Two viewers that choose a range by themselves differ by this, in the mean.
_WITHOUT_WINDOW = 0.07
#: How far a logistic curve goes towards black and white.
_ENDS = 0.004


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """A phantom's film as display values, white is 1."""

    #: Outside [0, 1] where it is over- or underexposed.
    exposed: Plane

    @property
    def picture(self) -> Plane:
        """Return what a viewer shows."""
        return np.clip(self.exposed, 0, 1).astype(np.float32)


def film_of(seed: int) -> Film:
    """Return one of the films."""
    return _draw(_FIRST_FILM + seed % _FILMS)


@lru_cache(maxsize=_FILMS)
def _draw(seed: int) -> Film:
    return Film(exposed=draw_phantom(seed).film.astype(np.float32))


@dataclass(slots=True, kw_only=True)
class Table:
    """A lookup table with its descriptor (PS3.3 C.11.1.1)."""

    entries: Values
    first: int
    #: Third value of the descriptor.
    stated_bits: int
    #: Two entries of eight bits in one word.
    is_packed: bool = False
    #: First value of the descriptor: zero stands for 65536.
    stated_entries: int | None = None
    #: VR of the second value of the descriptor where the syntax tells it.
    first_vr: str = ""


@dataclass(slots=True, kw_only=True)
class Container:
    """How codestreams lie in the pixel data (PS3.5 A.4)."""

    fragments: int = 1
    #: One offset a frame in the first item, an offset a fragment, none, or no first item at all.
    offsets: str = "none"
    has_delimiter: bool = True
    #: After the delimiter, or after the last item.
    tail: bytes = b""
    #: Behind the end of the stream, inside the last fragment.
    padding: bytes = b""


@dataclass(slots=True, kw_only=True)
class Pixels:
    """The image pixel module and the tables of a grey film."""

    syntax: UID
    #: Shape (rows, columns), as they are meant; signed where the representation is.
    values: Values
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool = False
    photometric: str = "MONOCHROME2"
    samples: int | None = 1
    #: Decimal strings by keyword: windows, rescale.
    texts: dict[str, str] = field(default_factory=dict)
    #: US or SS values by keyword.
    numbers: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    modality_table: Table | None = None
    voi_table: Table | None = None
    container: Container = field(default_factory=Container)
    predictor: int = 1
    #: What a viewer shows, in [0, 1], and how far from it another viewer may be.
    shown: Plane
    tolerance: float = TOLERANCE
    #: What was chosen, in words.
    done: list[str] = field(default_factory=list)

    def write(self, raw: RawDataSet) -> None:
        """Write the module into a data set of the same transfer syntax."""
        order = "big" if self.syntax == ExplicitVRBigEndian else "little"
        rows, columns = self.values.shape[:2]
        numbers = {
            "Rows": ("US", (rows,)),
            "Columns": ("US", (columns,)),
            "BitsAllocated": ("US", (self.bits_allocated,)),
            "BitsStored": ("US", (self.bits_stored,)),
            "HighBit": ("US", (self.high_bit,)),
            "PixelRepresentation": ("US", (int(self.is_signed),)),
        }
        if self.samples is not None:
            numbers["SamplesPerPixel"] = ("US", (self.samples,))
        raw.remove("SamplesPerPixel", "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope", "RescaleType")
        for keyword, (vr, values) in (numbers | self.numbers).items():
            raw.set(keyword, _words(values, order, signed=vr == "SS"), vr)
        raw.set("PhotometricInterpretation", self.photometric.encode("ascii"))
        for keyword, text in self.texts.items():
            raw.set(keyword, text.encode("ascii"))
        for keyword, table in (("ModalityLUTSequence", self.modality_table), ("VOILUTSequence", self.voi_table)):
            if table is not None:
                raw.set(keyword, self._sequence(table, order, keyword), "SQ")
        if self.syntax.is_encapsulated:
            raw.set_encapsulated(self.items(self.codestream()))
        else:
            raw.set_native(
                self.native(), "OB" if self.bits_allocated == 8 and self.syntax != ImplicitVRLittleEndian else "OW"
            )

    def codestream(self) -> bytes:
        """Encode the frame."""
        kind = "i" if self.is_signed else "u"
        cells = self.values.astype(np.dtype(f"{kind}{1 if self.bits_stored <= 8 else 2}"))
        return encoders.encode(cells, self.syntax, self.bits_stored, predictor=self.predictor)

    def native(self) -> bytes:
        """Lay the values out as cells, in the byte order of the syntax."""
        shift = self.high_bit + 1 - self.bits_stored
        cells = self.values << shift
        order = ">" if self.syntax == ExplicitVRBigEndian else "<"
        if self.bits_allocated == 8:
            return (cells & 0xFF).astype(np.uint8).tobytes()
        return (cells & 0xFFFF).astype(f"{order}u2").tobytes()

    def items(self, codestream: bytes) -> bytes:
        """Lay a codestream out in items."""
        box = self.container
        content = codestream + box.padding
        content += b"\0" * (len(content) % 2)
        size = -(-len(content) // box.fragments)
        size += size % 2
        fragments = [item(content[place : place + size]) for place in range(0, len(content), size)]
        places, place = [], 0
        for one in fragments:
            places.append(place.to_bytes(4, "little"))
            place += len(one)
        table = {"none": [item(b"")], "frame": [item(places[0])], "fragment": [item(b"".join(places))], "absent": []}
        return b"".join([*table[box.offsets], *fragments, DELIMITER if box.has_delimiter else b"", box.tail])

    def _sequence(self, table: Table, order: str, keyword: str) -> bytes:
        syntax = str(self.syntax if not self.syntax.is_encapsulated else ExplicitVRLittleEndian)
        stated = len(table.entries) if table.stated_entries is None else table.stated_entries
        # PS3.3 C.11.1.1: zero is 2 to the 16, and the second value is signed where the values are.
        lowest = int(self.values.min()) if keyword == "ModalityLUTSequence" else table.first
        vr = table.first_vr or ("SS" if lowest < 0 or table.first < 0 else "US")
        descriptor = _words((stated % 2**16, table.first % 2**16, table.stated_bits), order, signed=False)
        if table.is_packed:
            cells = table.entries.astype(np.uint8).tobytes()
            cells += b"\0" * (len(cells) % 2)
            if order == "big":
                cells = np.frombuffer(cells, np.uint8).reshape(-1, 2)[:, ::-1].tobytes()
        else:
            cells = table.entries.astype(">u2" if order == "big" else "<u2").tobytes()
        values = {"LUTDescriptor": (vr, descriptor), "LUTData": ("OW", cells)}
        if keyword == "ModalityLUTSequence":
            values["ModalityLUTType"] = ("LO", b"US")
        return sequence_item(values, syntax)


def _words(values: tuple[int, ...], order: Any, *, signed: bool) -> bytes:
    return b"".join(int(value).to_bytes(2, order, signed=signed) for value in values)


def draw_pixels(film: Film, rng: np.random.Generator, *, syntax: UID | None = None, form: str | None = None) -> Pixels:
    """Store a film in a legal way.

    Parameters
    ----------
    syntax
        Transfer syntax; any where absent.
    form
        A name of `FORMS`; any that the depth allows where absent.
    """
    chosen_syntax = UID(syntax or rng.choice([*NATIVE, *encoders.SYNTAXES]))
    depths = [
        (bits, signed)
        for bits in (8, 10, 12, 14, 16)
        for signed in (False, True)
        if chosen_syntax in NATIVE or encoders.can_hold(chosen_syntax, bits, signed=signed)
    ]
    usable = [
        (bits, signed, name) for bits, signed in depths for name in FORMS if form in {None, name} and _fits(name, bits)
    ]
    bits, signed, name = usable[int(rng.integers(len(usable)))]
    pixels = Pixels(
        syntax=chosen_syntax,
        values=np.zeros(film.exposed.shape, np.int64),
        bits_allocated=8 if bits == 8 else 16,
        bits_stored=bits,
        high_bit=bits - 1,
        is_signed=signed,
        photometric=str(rng.choice(["MONOCHROME1", "MONOCHROME2"])),
        shown=film.picture,
    )
    if chosen_syntax.is_encapsulated and chosen_syntax != RLELossless:
        pixels.container = Container(
            fragments=int(rng.choice([1, 1, 2, 3])), offsets=str(rng.choice(["none", "frame"]))
        )
    if chosen_syntax == JPEGLossless:
        pixels.predictor = int(rng.integers(1, 8))
    if name == "no window":
        # Without a window the darkest is black and the brightest white, but for the few that a viewer may clip.
        pixels.tolerance = _WITHOUT_WINDOW
        darkest, brightest = film.picture.min(), film.picture.max()
        film = Film(exposed=(film.picture - darkest) / (brightest - darkest))
        pixels.shown = film.picture
    inverted = pixels.photometric == "MONOCHROME1"
    target = (1 - film.exposed if inverted else film.exposed).astype(np.float64)
    FORMS[name](pixels, target, rng)
    if rng.random() < 0.7:
        # PS3.3 C.8.11.3.1.2: it repeats what the photometric interpretation says.
        pixels.texts["PresentationLUTShape"] = "INVERSE" if inverted else "IDENTITY"
    pixels.done = [f"{chosen_syntax.name}, {bits} bits{' signed' if signed else ''}, {pixels.photometric}, {name}"]
    return pixels


def _fits(name: str, bits: int) -> bool:
    return bits > 8 or name in {"window", "exact window", "several windows", "no window"}


def _bounds(pixels: Pixels) -> tuple[int, int]:
    lowest = -(2 ** (pixels.bits_stored - 1)) if pixels.is_signed else 0
    return lowest, lowest + 2**pixels.bits_stored - 1


def _place(pixels: Pixels, rng: np.random.Generator) -> tuple[int, int]:
    # Where black and white lie in the stored range: with room on both sides.
    lowest, highest = _bounds(pixels)
    full = highest - lowest
    black = lowest + round(full * rng.uniform(0.08, 0.18))
    return black, black + round(full * rng.uniform(0.55, 0.75))


def _keep(pixels: Pixels, values: NDArray[Any]) -> None:
    lowest, highest = _bounds(pixels)
    pixels.values = np.clip(np.rint(values), lowest, highest).astype(np.int64)


def _decimal(value: float) -> str:
    # PS3.5 6.2: DS has 16 bytes at most.
    return f"{value:.10g}"[:16]


def _rescale(pixels: Pixels, rng: np.random.Generator) -> tuple[float, float]:
    slope = float(rng.choice([1, 1, 1, 2, 0.5, 0.25, 1.5, -1]))
    intercept = float(rng.choice([0, 0, -1024, 1000, -100.5]))
    if (slope, intercept) != (1, 0) or rng.random() < 0.5:
        pixels.texts |= {"RescaleSlope": _decimal(slope), "RescaleIntercept": _decimal(intercept), "RescaleType": "US"}
    return slope, intercept


def _window(pixels: Pixels, target: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    # The values of the Modality LUT that are black and white.
    black, white = _place(pixels, rng)
    slope, intercept = _rescale(pixels, rng)
    if slope < 0:
        black, white = white, black
    _keep(pixels, black + (white - black) * target)
    return slope * black + intercept, slope * white + intercept


def _linear(pixels: Pixels, target: NDArray[np.float64], rng: np.random.Generator) -> None:
    black, white = _window(pixels, target, rng)
    # PS3.3 C.11.2.1.2.1: from centre - 0.5 - (width - 1) / 2 over width - 1.
    pixels.texts |= {"WindowCenter": _decimal((black + white) / 2 + 0.5), "WindowWidth": _decimal(white - black + 1)}
    if rng.random() < 0.3:
        pixels.texts["VOILUTFunction"] = "LINEAR"


def _linear_exact(pixels: Pixels, target: NDArray[np.float64], rng: np.random.Generator) -> None:
    black, white = _window(pixels, target, rng)
    pixels.texts |= {
        "WindowCenter": _decimal((black + white) / 2),
        "WindowWidth": _decimal(white - black),
        "VOILUTFunction": "LINEAR_EXACT",
    }


def _several_windows(pixels: Pixels, target: NDArray[np.float64], rng: np.random.Generator) -> None:
    _linear(pixels, target, rng)
    center, width = pixels.texts["WindowCenter"], pixels.texts["WindowWidth"]
    other = float(width)
    pixels.texts |= {
        "WindowCenter": f"{center}\\{_decimal(float(center) + other / 5)}",
        "WindowWidth": f"{width}\\{_decimal(other * 0.7)}",
        "WindowCenterWidthExplanation": "NORMAL\\HARDER",
    }


def _sigmoid(pixels: Pixels, target: NDArray[np.float64], rng: np.random.Generator) -> None:
    # PS3.3 C.11.2.1.3.1, turned around.
    along = np.log(1 / np.clip(target, _ENDS, 1 - _ENDS) - 1)
    reach = float(np.log(1 / _ENDS - 1))
    black, white = _window(pixels, 0.5 - along / (2 * reach), rng)
    pixels.texts |= {
        "WindowCenter": _decimal((black + white) / 2),
        "WindowWidth": _decimal((white - black) * 4 / (2 * reach)),
        "VOILUTFunction": "SIGMOID",
    }


def _curve(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # A rising curve from (0, 0) to (1, 1): how a table turns places into brightness.
    place = np.linspace(0, 1, 4097)
    kind = rng.integers(3)
    if kind == 0:
        return place, place
    if kind == 1:
        return place, place ** float(rng.uniform(0.7, 1.5))
    return place, 0.5 - 0.5 * np.cos(np.pi * (0.1 + 0.8 * place)) / np.cos(np.pi * 0.1)


def _table(
    target: NDArray[np.float64], rng: np.random.Generator, *, first: int, count: int, bits: int
) -> tuple[Table, NDArray[np.float64]]:
    """Return a table, and the values that it turns into the target."""
    place, brightness = _curve(rng)
    values = first + np.interp(np.clip(target, 0, 1), brightness, place) * (count - 1)
    entries = np.rint(np.interp(np.linspace(0, 1, count), place, brightness) * (2**bits - 1)).astype(np.int64)
    return Table(entries=entries, first=first, stated_bits=bits, is_packed=False), values


def _voi_table(pixels: Pixels, target: NDArray[np.float64], rng: np.random.Generator) -> None:
    black, white = _place(pixels, rng)
    intercept = 0
    if rng.random() < 0.4:
        # The Modality LUT moves the values, and the table speaks of the moved ones.
        intercept = int(rng.choice([-1024, 100]))
        pixels.texts |= {"RescaleSlope": "1", "RescaleIntercept": str(intercept), "RescaleType": "US"}
    bits = int(rng.choice([8, 10, 12, 14, 16]))
    first = black + intercept
    count = min(white - black + 1, 65535)
    if pixels.bits_stored == 16:
        # Fewer entries than values: what lies outside gets the end of the table.
        count = min(count, 32768)
    table, values = _table(target, rng, first=first, count=count, bits=bits)
    # PS3.3 C.11.1.1: eight bits an entry are stored as eight bits.
    table.is_packed = bits == 8
    pixels.voi_table = table
    _keep(pixels, values - intercept)


def _modality_table(pixels: Pixels, target: NDArray[np.float64], rng: np.random.Generator) -> None:
    black, white = _place(pixels, rng)
    count = min(white - black + 1, 32768)
    table, values = _table(target, rng, first=black, count=count, bits=16)
    pixels.modality_table = table
    _keep(pixels, values)
    pixels.texts |= {"WindowCenter": _decimal(32768), "WindowWidth": _decimal(65536)}


def _no_window(pixels: Pixels, target: NDArray[np.float64], rng: np.random.Generator) -> None:
    lowest, highest = _bounds(pixels)
    if pixels.bits_stored == 8 and not pixels.is_signed:
        # Made for the screen.
        _keep(pixels, lowest + (highest - lowest) * np.clip(target, 0, 1))
        return
    black, white = _place(pixels, rng)
    _keep(pixels, black + (white - black) * np.clip(target, 0, 1))


#: Ways in which stored values say how they are shown.
FORMS = {
    "window": _linear,
    "exact window": _linear_exact,
    "several windows": _several_windows,
    "sigmoid": _sigmoid,
    "VOI table": _voi_table,
    "Modality table": _modality_table,
    "no window": _no_window,
}
