"""A phantom: one seed gives its findings and its film, always the same."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.phantom.film import Plane, display, draw_film
from training.phantom.findings import Findings, draw_findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """One synthetic chest radiograph and the truth about it."""

    seed: int
    findings: Findings
    #: Shape (rows, columns), display values; outside [0, 1] where the film is over- or underexposed.
    film: Plane

    @property
    def picture(self) -> NDArray[np.float32]:
        """Return the film as a viewer shows it, in [0, 1]."""
        return display(self.film)


def draw_phantom(seed: int, findings: Findings | None = None) -> Phantom:
    """Draw the phantom of `seed`, with `findings` in place of its own where they are given."""
    shown = findings_of(seed) if findings is None else findings
    return Phantom(seed=seed, findings=shown, film=draw_film(shown, np.random.default_rng([seed, 1])))


def findings_of(seed: int) -> Findings:
    """Return what the phantom of `seed` has, without drawing its film."""
    return draw_findings(np.random.default_rng([seed, 0]))
