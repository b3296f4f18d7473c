"""What a phantom has: its findings, drawn from a seed, and the answers they give to the preset checks."""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import numpy as np

from training.phantom.difficulty import FREQUENCY


class Side(StrEnum):
    """On which side of the patient a finding is; the patient's left is at the right of the image."""

    #: The finding is absent.
    NONE = "none"
    #: The patient's left.
    LEFT = "left"
    #: The patient's right.
    RIGHT = "right"
    #: Both sides.
    BILATERAL = "bilateral"

    def includes(self, side: "Side") -> bool:
        """Tell whether the finding is present on `side`, which is `LEFT` or `RIGHT`."""
        return self in (side, Side.BILATERAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The truth about one phantom."""

    cardiomegaly: bool = False
    pleural_effusion: Side = Side.NONE
    #: `NONE`, `LEFT` or `RIGHT`.
    pneumothorax: Side = Side.NONE
    #: `NONE`, `LEFT` or `RIGHT`.
    consolidation: Side = Side.NONE
    #: `NONE`, `LEFT` or `RIGHT`.
    nodule: Side = Side.NONE
    pacemaker: bool = False

    def answers(self) -> dict[str, str]:
        """Return the right answer id of every check of `config/checks/chest_xray.yaml`."""
        sided = {
            "pleural_effusion": self.pleural_effusion,
            "pneumothorax": self.pneumothorax,
            "consolidation": self.consolidation,
            "nodule": self.nodule,
        }
        answers = {"cardiomegaly": _yes_no(present=self.cardiomegaly)}
        for name, side in sided.items():
            answers[name] = _yes_no(present=side is not Side.NONE)
            answers[f"{name}_side"] = side.value
        return {**answers, "pacemaker": _yes_no(present=self.pacemaker)}

    def labels(self) -> tuple[bool, ...]:
        """Return one label per finding and side, in the order of `LABELS`."""
        return (
            self.cardiomegaly,
            self.pleural_effusion.includes(Side.LEFT),
            self.pleural_effusion.includes(Side.RIGHT),
            self.pneumothorax is Side.LEFT,
            self.pneumothorax is Side.RIGHT,
            self.consolidation is Side.LEFT,
            self.consolidation is Side.RIGHT,
            self.nodule is Side.LEFT,
            self.nodule is Side.RIGHT,
            self.pacemaker,
        )


#: What the vision tower is taught first: findings by side.
LABELS = (
    "cardiomegaly",
    "effusion left",
    "effusion right",
    "pneumothorax left",
    "pneumothorax right",
    "consolidation left",
    "consolidation right",
    "nodule left",
    "nodule right",
    "pacemaker",
)

_SIDED = MappingProxyType(
    {
        "pleural_effusion": (Side.NONE, Side.LEFT, Side.RIGHT, Side.BILATERAL),
        "pneumothorax": (Side.NONE, Side.LEFT, Side.RIGHT),
        "consolidation": (Side.NONE, Side.LEFT, Side.RIGHT),
        "nodule": (Side.NONE, Side.LEFT, Side.RIGHT),
    }
)


def draw_findings(rng: np.random.Generator) -> Findings:
    """Draw the findings of one phantom, each independent of the others, as often as `FREQUENCY` says."""
    sides = {name: choices[int(rng.choice(len(choices), p=FREQUENCY[name]))] for name, choices in _SIDED.items()}
    return Findings(
        cardiomegaly=bool(rng.random() < FREQUENCY["cardiomegaly"][1]),
        pacemaker=bool(rng.random() < FREQUENCY["pacemaker"][1]),
        **sides,
    )


def _yes_no(*, present: bool) -> str:
    return "yes" if present else "no"
