"""Draws studies: the number of a study gives its kind, its seed gives everything else."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from integration_tests.odd_studies import damages, names, subjects
from integration_tests.odd_studies.drawing import DraftStudy, begin
from integration_tests.odd_studies.pictures import draw_pixels
from integration_tests.odd_studies.study import OddStudy, Side


def _sound_pixels(draft: DraftStudy) -> None:
    draft.set_pixels(draw_pixels(draft.film, draft.rng))
    draft.done += draft.pixels.done


def _with_sound_pixels(kind: Callable[[DraftStudy], None]) -> Callable[[DraftStudy], None]:
    # Two things vary at once: how the film is stored, and what is said of it.
    def both(draft: DraftStudy) -> None:
        _sound_pixels(draft)
        kind(draft)

    return both


def _with_any_name(kind: Callable[[DraftStudy], None]) -> Callable[[DraftStudy], None]:
    def both(draft: DraftStudy) -> None:
        kind(draft)
        names.draw_name(draft)

    return both


#: Every kind of each side by its name. Damaged pixels lie under sound names, and odd names over sound pixels.
KINDS: Mapping[Side, Mapping[str, Callable[[DraftStudy], None]]] = MappingProxyType(
    {
        Side.SOUND: {name: _with_sound_pixels(kind) for name, kind in {**names.SOUND, **subjects.SOUND}.items()},
        Side.ODD: {name: _with_any_name(kind) for name, kind in damages.ODD.items()}
        | {name: _with_sound_pixels(kind) for name, kind in names.ODD.items()}
        | dict(subjects.ODD),
    }
)


def draw(side: Side, seed: int) -> OddStudy:
    """Draw one study; consecutive seeds go through all kinds in turn."""
    kinds = KINDS[side]
    return draw_kind(side, list(kinds)[seed % len(kinds)], seed)


def draw_kind(side: Side, kind: str, seed: int) -> OddStudy:
    """Draw one study of a kind."""
    draft = begin(side, seed)
    KINDS[side][kind](draft)
    return draft.build(kind)


def draw_many(side: Side, seeds: Sequence[int]) -> Iterator[OddStudy]:
    """Draw one study after the other."""
    return (draw(side, seed) for seed in seeds)
