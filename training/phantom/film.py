"""Draw the film of a phantom: a frontal chest radiograph built from soft shapes, rib by rib.

Coordinates follow the patient, in fractions of the long side of the film: ``u`` grows towards the patient's
left, which is the right of the image, and ``v`` grows downwards; the origin is the middle of the chest.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.phantom import difficulty
from training.phantom.findings import Findings, Side

#: Shape (rows, columns), single precision.
Plane = NDArray[np.floating[Any]]

#: Direction of each side along ``u``.
_DIRECTION = {Side.LEFT: 1.0, Side.RIGHT: -1.0}
#: Edge of an anatomical border, in fractions of the long side.
_SOFT = 0.006


@dataclass(frozen=True, slots=True, kw_only=True)
class Lung:
    """Where one lung lies, and how aerated each pixel of it is."""

    side: Side
    centre_u: float
    centre_v: float
    half_width: float
    half_height: float
    #: Height of the diaphragm in the middle of the lung.
    base_v: float
    #: Shape (rows, columns), 0 outside to 1 inside.
    mask: Plane

    @property
    def top_v(self) -> float:
        """Return the height of the apex."""
        return self.centre_v - self.half_height

    def at(self, across: float, down: float) -> tuple[float, float]:
        """Return the point at `across` (-1 at the heart, 1 at the ribs) and `down` (0 apex, 1 base)."""
        u = self.centre_u + _DIRECTION[self.side] * across * self.half_width
        return u, self.top_v + down * (self.base_v - self.top_v)


def draw_film(findings: Findings, rng: np.random.Generator) -> Plane:
    """Draw the film of one phantom.

    Returns
    -------
        Shape (rows, columns), rows `difficulty.ROWS_PX`; display values, black 0 and white 1, where over-
        and underexposed pixels lie outside [0, 1].
    """
    u, v = _coordinates(rng)
    thorax = _between(rng, difficulty.THORAX_HALF_WIDTH)
    tissue = _between(rng, difficulty.SOFT_TISSUE)
    aeration = _between(rng, difficulty.AERATION)

    body = _inside(np.abs(u) - (thorax + 0.055 + 0.10 * np.clip(-0.30 - v, 0, 1)), 0.012)
    density = tissue * body + 0.02
    density += 0.12 * body * _inside(v - 0.36, -0.10)  # the belly is denser than the chest
    lungs = _draw_lungs(u, v, thorax, rng)
    heart = _draw_heart(u, v, thorax, findings, rng)
    air = {lung.side: lung.mask * (1.0 - heart) for lung in lungs}  # the share of each pixel that is lung

    texture = _texture(u.shape, rng) * _between(rng, difficulty.LUNG_TEXTURE)
    hilum_density = _between(rng, difficulty.HILUM_DENSITY)
    for lung in lungs:
        share = air[lung.side]
        density -= aeration * share
        density += share * (texture + hilum_density * _hilum(u, v, lung))
    density += heart * 0.07
    density += 0.13 * body * np.exp(-((u / 0.036) ** 2))  # the spine
    density += 0.08 * body * _inside(np.abs(u) - 0.055, 0.02) * _inside(v - 0.05, 0.1)  # the great vessels
    density += _ribs(u, v, thorax, rng) * body
    density += _collar_bones(u, v, rng) * body

    for lung in lungs:
        share = air[lung.side]
        clear = share  # the share of each pixel where a spot would be seen: nothing else lies over it
        if findings.pleural_effusion.includes(lung.side):
            fluid = _effusion(u, v, lung, rng)
            density += _between(rng, difficulty.EFFUSION_DENSITY) * aeration * fluid * share
            clear = clear * (1.0 - fluid)
        if findings.pneumothorax is lung.side:
            free_air, line = _pneumothorax(u, v, lung, rng)
            # Free air has no vessels, so the texture of the lung goes with the lung.
            density -= free_air * (_between(rng, difficulty.PNEUMOTHORAX_DARKER) + texture) * clear
            density += _between(rng, difficulty.PLEURAL_LINE_DENSITY) * line * clear
            clear = clear * (1.0 - free_air)
        if findings.consolidation is lung.side:
            cloud = _consolidation(u, v, lung, clear, rng)
            density += _between(rng, difficulty.CONSOLIDATION_DENSITY) * cloud * share
            clear = clear * (1.0 - cloud)
        if findings.nodule is lung.side:
            density += _between(rng, difficulty.NODULE_DENSITY) * _nodule(u, v, lung, clear, rng) * share
    if findings.pacemaker:
        density = _pacemaker(density, u, v, rng)
    if rng.random() < difficulty.SIDE_MARKER:
        density = _side_marker(density, rng)
    return _expose(density, rng)


def display(film: Plane) -> NDArray[np.float32]:
    """Return the film as a viewer shows it: clipped to [0, 1], as the window of its DICOM object clips it."""
    return np.clip(film, 0.0, 1.0).astype(np.float32)


def _coordinates(rng: np.random.Generator) -> tuple[Plane, Plane]:
    rows = difficulty.ROWS_PX
    columns = round(rows * _between(rng, difficulty.ASPECT))
    angle = np.deg2rad(_between(rng, difficulty.ROTATION_DEG))
    shift_u, shift_v = _between(rng, difficulty.SHIFT), _between(rng, difficulty.SHIFT)
    scale = _between(rng, difficulty.SCALE)
    across = ((np.arange(columns, dtype=np.float32) - (columns - 1) / 2) / rows - shift_u)[None, :] / scale
    down = ((np.arange(rows, dtype=np.float32) - (rows - 1) / 2) / rows - shift_v)[:, None] / scale
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * across + sin * down, cos * down - sin * across


def _draw_lungs(u: Plane, v: Plane, thorax: float, rng: np.random.Generator) -> tuple[Lung, Lung]:
    half_height = _between(rng, difficulty.LUNG_HALF_HEIGHT)
    dome = _between(rng, difficulty.DIAPHRAGM_DOME)
    higher = _between(rng, difficulty.RIGHT_DIAPHRAGM_HIGHER)
    centre_v = -0.02 + _jitter(rng, 0.01)
    lungs = []
    for side, direction in _DIRECTION.items():
        half_width = (thorax - 0.03) / 2 + _jitter(rng, 0.004)
        centre_u = direction * (thorax - half_width)
        base_v = centre_v + 0.80 * half_height - (higher if side is Side.RIGHT else 0.0)
        across = (u - centre_u) / half_width
        # The apex is narrower than the base, and leans towards the spine.
        lean = 0.35 * np.clip((centre_v - v) / half_height, 0, 1) ** 2
        radius = _radius(across * (1 + lean) + direction * lean * 0.4, (v - centre_v) / (half_height * 1.02))
        floor = base_v - dome + 2.2 * dome * (across * 0.9 + direction * 0.15) ** 2
        mask = _inside((radius - 1.0) * half_width, _SOFT) * _inside(v - floor, _SOFT)
        lungs.append(
            Lung(
                side=side,
                centre_u=centre_u,
                centre_v=centre_v,
                half_width=half_width,
                half_height=half_height,
                base_v=base_v,
                mask=mask,
            )
        )
    return lungs[0], lungs[1]


def _draw_heart(u: Plane, v: Plane, thorax: float, findings: Findings, rng: np.random.Generator) -> Plane:
    ratio = _between(rng, difficulty.HEART_RATIO_ENLARGED if findings.cardiomegaly else difficulty.HEART_RATIO_NORMAL)
    half_width = ratio * thorax  # the heart's whole width is `ratio` of the whole thorax
    half_height = 0.122 + 0.15 * (half_width - 0.13) + _jitter(rng, 0.006)
    centre_u = half_width * (0.36 + _jitter(rng, 0.03))  # about two thirds lie on the patient's left
    centre_v = 0.125 + _jitter(rng, 0.01)
    across, down = u - centre_u, v - centre_v
    # The apex points down to the patient's left.
    radius = np.sqrt((across / half_width) ** 2 + ((down - 0.18 * across) / half_height) ** 2)
    return _inside((radius - 1.0) * half_width, _SOFT)


def _hilum(u: Plane, v: Plane, lung: Lung) -> Plane:
    centre_u, centre_v = lung.at(-0.75, 0.52)
    spread: Plane = np.exp(-(((u - centre_u) / 0.05) ** 2) - ((v - centre_v) / 0.075) ** 2)
    return spread


def _ribs(u: Plane, v: Plane, thorax: float, rng: np.random.Generator) -> Plane:
    spacing = _between(rng, difficulty.RIB_SPACING)
    density = _between(rng, difficulty.RIB_DENSITY)
    outward = np.abs(u)
    # A posterior rib leaves the spine upwards and falls towards the side.
    height = v - 0.9 * outward**2 + 0.12 * outward
    phase = height / spacing + rng.random()
    rib = np.exp(-(((phase - np.round(phase)) * spacing / 0.010) ** 2))
    return density * rib * _inside(outward - thorax, 0.01) * _inside(v - 0.24, 0.04)


def _collar_bones(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    line = v + 0.275 + _jitter(rng, 0.008) + 0.22 * (np.abs(u) - 0.12)
    bone = np.exp(-((line / 0.011) ** 2)) * _inside(np.abs(np.abs(u) - 0.15) - 0.12, 0.01)
    return 0.08 * bone


def _effusion(u: Plane, v: Plane, lung: Lung, rng: np.random.Generator) -> Plane:
    height = _between(rng, difficulty.EFFUSION_HEIGHT) * (lung.base_v - lung.top_v)
    meniscus = _between(rng, difficulty.EFFUSION_MENISCUS)
    lateral = np.clip(_DIRECTION[lung.side] * (u - lung.centre_u) / lung.half_width, 0, 1)
    surface = lung.base_v - height - meniscus * lateral**2
    return _inside(surface - v, 0.012)


def _pneumothorax(u: Plane, v: Plane, lung: Lung, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Return the free air around the lung and the pleural line that borders it."""
    withdrawal = _between(rng, difficulty.PNEUMOTHORAX_WITHDRAWAL)
    half_width, half_height = lung.half_width * (1 - withdrawal), lung.half_height * (1 - 0.7 * withdrawal)
    centre_u = lung.centre_u - _DIRECTION[lung.side] * 0.8 * withdrawal * lung.half_width
    centre_v = lung.centre_v + 0.45 * withdrawal * lung.half_height
    edge = (_radius((u - centre_u) / half_width, (v - centre_v) / half_height) - 1.0) * half_width
    towards_base = _inside(v - (lung.base_v - 0.06), 0.03)
    line: Plane = np.exp(-((edge / 0.0035) ** 2))
    return (1.0 - _inside(edge, _SOFT)) * towards_base, line * towards_base


def _consolidation(u: Plane, v: Plane, lung: Lung, clear: Plane, rng: np.random.Generator) -> Plane:
    radius = _between(rng, difficulty.CONSOLIDATION_RADIUS)
    centre_u, centre_v = _place(u, v, lung, clear, radius, rng)
    cloud = np.zeros_like(u)
    for _ in range(4):
        spot = radius * rng.uniform(0.55, 0.85)
        spot_u, spot_v = centre_u + rng.normal(0, 0.4) * radius, centre_v + rng.normal(0, 0.4) * radius
        cloud += np.exp(((u - spot_u) ** 2 + (v - spot_v) ** 2) / -(spot**2))
    share: Plane = np.clip(cloud, 0, 1)
    return share


def _nodule(u: Plane, v: Plane, lung: Lung, clear: Plane, rng: np.random.Generator) -> Plane:
    radius = _between(rng, difficulty.NODULE_RADIUS)
    centre_u, centre_v = _place(u, v, lung, clear, radius, rng)
    return _inside(np.sqrt((u - centre_u) ** 2 + (v - centre_v) ** 2) - radius, 0.004)


def _place(
    u: Plane, v: Plane, lung: Lung, clear: Plane, radius: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Find a place for a spot that is not hidden by the heart, fluid, free air or another spot."""
    best, best_share = lung.at(0.0, 0.3), -1.0
    for _ in range(12):
        centre_u, centre_v = lung.at(rng.uniform(-0.5, 0.55), rng.uniform(0.18, 0.75))
        spot = (u - centre_u) ** 2 + (v - centre_v) ** 2 < radius**2
        share = float(clear[spot].mean()) if spot.any() else 0.0
        if share > best_share:
            best, best_share = (centre_u, centre_v), share
        if share > 0.97:
            break
    return best


def _pacemaker(density: Plane, u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    direction = 1.0 if rng.random() < difficulty.PACEMAKER_ON_LEFT else -1.0
    centre_u, centre_v = direction * (0.235 + _jitter(rng, 0.01)), -0.235 + _jitter(rng, 0.012)
    half_width = _between(rng, difficulty.PACEMAKER_HALF_WIDTH)
    half_height = _between(rng, difficulty.PACEMAKER_HALF_HEIGHT)
    radius = _radius((u - centre_u) / half_width, (v - centre_v) / half_height)
    box = _inside((radius - 1.0) * half_height, 0.003)
    # The lead follows the vein to the midline and turns down into the heart.
    t = np.linspace(0, 1, 40)
    corner_u, corner_v = -0.02 + _jitter(rng, 0.01), -0.22
    tip_u, tip_v = 0.09 + _jitter(rng, 0.02), 0.17 + _jitter(rng, 0.015)
    lead_u = (1 - t) ** 2 * centre_u + 2 * t * (1 - t) * corner_u + t**2 * tip_u
    lead_v = (1 - t) ** 2 * centre_v + 2 * t * (1 - t) * corner_v + t**2 * tip_v
    lead = _line(density.shape, u, v, lead_u, lead_v)
    metal = np.maximum(box, 0.6 * lead)
    covered: Plane = density * (1 - metal) + 1.0 * metal
    return covered


def _line(shape: tuple[int, ...], u: Plane, v: Plane, along_u: Plane, along_v: Plane) -> Plane:
    # The map from pixels to coordinates is affine: three corners give it, and its inverse places the line.
    origin = np.array([u[0, 0], v[0, 0]])
    step = np.array([[u[0, 1] - u[0, 0], u[1, 0] - u[0, 0]], [v[0, 1] - v[0, 0], v[1, 0] - v[0, 0]]])
    pixels = np.linalg.solve(step, np.stack([along_u, along_v]) - origin[:, None])
    picture = Image.new("L", (shape[1], shape[0]))
    ImageDraw.Draw(picture).line([(float(x), float(y)) for x, y in pixels.T], fill=255, width=2)
    line: Plane = np.asarray(picture, dtype=np.float32) / 255
    return line


def _side_marker(density: Plane, rng: np.random.Generator) -> Plane:
    columns = density.shape[1]
    left = columns - int(rng.integers(26, 36))
    top = int(rng.integers(10, 30))
    marked = density.copy()
    marked[top : top + 15, left : left + 3] = 0.95
    marked[top + 12 : top + 15, left : left + 10] = 0.95
    return marked


def _expose(density: Plane, rng: np.random.Generator) -> Plane:
    gamma = _between(rng, difficulty.GAMMA)
    gain, floor = _between(rng, difficulty.GAIN), _between(rng, difficulty.FLOOR)
    tone = floor + gain * np.clip(density, 0, None) ** np.float32(gamma)
    sigma = _between(rng, difficulty.NOISE)
    # Fewer quanta pass where the patient is dense, so the noise grows there.
    noise = rng.standard_normal(density.shape, dtype=np.float32) * (sigma * (0.6 + 0.4 * np.clip(density, 0, 1)))
    exposed: Plane = (tone + noise).astype(np.float32)
    return exposed


def _texture(shape: tuple[int, ...], rng: np.random.Generator) -> Plane:
    """Return smooth noise of two coarsenesses with a standard deviation near 1."""
    total = np.zeros(shape, dtype=np.float32)
    for cells in (24, 60):
        grid = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
        total += np.asarray(grid.resize((shape[1], shape[0]), Image.Resampling.BILINEAR), dtype=np.float32)
    return total


def _radius(across: Plane, down: Plane) -> Plane:
    # A superellipse of order four: rounder than a box, fuller than an ellipse.
    squared = np.square(across), np.square(down)
    radius: Plane = np.sqrt(np.sqrt(np.square(squared[0]) + np.square(squared[1])))
    return radius


def _inside(distance: Plane, softness: float) -> Plane:
    """Return 1 where `distance` is negative and 0 where it is positive, over an edge of `softness`."""
    share: Plane = (0.5 * (1.0 - np.tanh(distance / softness))).astype(np.float32)
    return share


def _between(rng: np.random.Generator, bounds: difficulty.Range) -> float:
    return float(rng.uniform(*bounds))


def _jitter(rng: np.random.Generator, deviation: float) -> float:
    return float(np.clip(rng.normal(0, deviation), -2 * deviation, 2 * deviation))
