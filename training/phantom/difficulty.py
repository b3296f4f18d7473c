"""How hard a phantom is to read: every size, contrast and range of the generator, in this one place.

These numbers were fixed before the first training run. When a model misses its target, the training is
mended, never this file: a finding that has to be enlarged to be found has not been found.

Lengths are fractions of the long side of the film; densities are display values, where 0 is black and
1 is white before exposure, tone and noise are applied. A pair is a range from which a phantom draws evenly.
"""

from types import MappingProxyType

Range = tuple[float, float]

#: Rows of every film, in pixels; the film is upright or square.
ROWS_PX = 336
#: Columns as a fraction of the rows.
ASPECT: Range = (0.84, 1.0)

#: Probability of each state: absent, present; or none, left, right(, bilateral).
FREQUENCY = MappingProxyType(
    {
        "cardiomegaly": (0.62, 0.38),
        "pleural_effusion": (0.52, 0.17, 0.17, 0.14),
        "pneumothorax": (0.66, 0.17, 0.17),
        "consolidation": (0.62, 0.19, 0.19),
        "nodule": (0.62, 0.19, 0.19),
        "pacemaker": (0.70, 0.30),
    }
)

# How the patient stands before the detector.
ROTATION_DEG: Range = (-4.0, 4.0)
SHIFT: Range = (-0.025, 0.025)
SCALE: Range = (0.93, 1.05)

# The chest. The thorax is measured between the inner borders of the ribs.
THORAX_HALF_WIDTH: Range = (0.29, 0.33)
LUNG_HALF_HEIGHT: Range = (0.28, 0.33)
DIAPHRAGM_DOME: Range = (0.02, 0.05)
RIGHT_DIAPHRAGM_HIGHER: Range = (0.0, 0.02)
RIB_SPACING: Range = (0.058, 0.072)
RIB_DENSITY: Range = (0.025, 0.06)
SOFT_TISSUE: Range = (0.52, 0.60)
AERATION: Range = (0.28, 0.36)
LUNG_TEXTURE: Range = (0.010, 0.024)
HILUM_DENSITY: Range = (0.05, 0.10)

#: Cardiothoracic ratio of a normal and of an enlarged heart; a radiologist draws the line at 0.5.
HEART_RATIO_NORMAL: Range = (0.39, 0.47)
HEART_RATIO_ENLARGED: Range = (0.55, 0.64)

# Effusion: the height of the fluid as a fraction of the height of the lung, its meniscus and its density.
EFFUSION_HEIGHT: Range = (0.15, 0.36)
EFFUSION_MENISCUS: Range = (0.03, 0.09)
EFFUSION_DENSITY: Range = (0.88, 1.08)  # of the density that aeration took away

# Pneumothorax: how far the lung has withdrawn, as a fraction of its half width, and how much darker it is.
PNEUMOTHORAX_WITHDRAWAL: Range = (0.24, 0.44)
PNEUMOTHORAX_DARKER: Range = (0.09, 0.15)
PLEURAL_LINE_DENSITY: Range = (0.05, 0.10)

# Consolidation: an irregular cloud of overlapping soft discs.
CONSOLIDATION_RADIUS: Range = (0.050, 0.080)
CONSOLIDATION_DENSITY: Range = (0.17, 0.30)

# Nodule: one round spot with a crisp border.
NODULE_RADIUS: Range = (0.022, 0.036)
NODULE_DENSITY: Range = (0.20, 0.32)

# Pacemaker: a metal box below the collar bone with a lead to the heart.
PACEMAKER_HALF_WIDTH: Range = (0.026, 0.034)
PACEMAKER_HALF_HEIGHT: Range = (0.019, 0.026)
#: Probability that the box is on the patient's left.
PACEMAKER_ON_LEFT = 0.7

# Exposure and tone: display = floor + gain * density ** gamma, then noise.
GAIN: Range = (0.80, 1.12)
GAMMA: Range = (0.80, 1.25)
FLOOR: Range = (-0.02, 0.08)
#: Standard deviation of the noise of one pixel.
NOISE: Range = (0.015, 0.050)
#: Probability that the letter L is burnt in beside the patient's left shoulder.
SIDE_MARKER = 0.6
