"""Plays many studies through the chain and counts what became of them."""

import logging
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from casebook.logs import configure_logs
from integration_tests.odd_studies.chain import Chain, Ended, open_chain
from integration_tests.odd_studies.generator import draw
from integration_tests.odd_studies.study import OddStudy, Side
from integration_tests.odd_studies.verdicts import complaints

#: Studies that lie in memory at one time.
_BATCH = 40
#: Studies a process plays before its result comes back.
_CHUNK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One broken promise."""

    side: Side
    seed: int
    kind: str
    #: What was done to the study.
    done: str
    complaint: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.side} {self.seed} ({self.kind}): {self.complaint} [{self.done}]"


@dataclass(slots=True, kw_only=True)
class Score:
    """What became of many studies."""

    studies: int = 0
    #: State and reason -> how many.
    endings: Counter[str] = field(default_factory=Counter)
    #: Kind -> how many.
    kinds: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: "Score") -> None:
        """Take the numbers of another one."""
        self.studies += other.studies
        self.endings += other.endings
        self.kinds += other.kinds
        self.findings += other.findings


def play(chain: Chain, studies: Iterable[OddStudy]) -> Score:
    """Play studies on a node that is open."""
    score = Score()
    for batch in _batches(studies):
        for study, ended in zip(batch, chain.run(batch), strict=True):
            judge(score, study, ended)
    return score


def judge(score: Score, study: OddStudy, ended: Ended) -> None:
    """Count one study, and what it broke."""
    score.studies += 1
    score.kinds[study.kind] += 1
    score.endings[f"{ended.state or 'not received'} {ended.reason}".strip()] += 1
    score.findings += [
        Finding(side=study.side, seed=study.seed, kind=study.kind, done=study.done, complaint=complaint)
        for complaint in complaints(study, ended)
    ]


def play_seeds(side: Side, seeds: Sequence[int]) -> Score:
    """Play the studies of seeds on a node of their own."""
    be_quiet()
    with open_chain() as chain:
        return play(chain, (draw(side, seed) for seed in seeds))


def be_quiet() -> None:
    """Say nothing in this process of what is wrong with the studies."""
    configure_logs("odd-studies", level=logging.CRITICAL)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def play_all(side: Side, seeds: Sequence[int], *, processes: int) -> Iterator[Score]:
    """Play the studies of seeds, `processes` nodes at one time; the parts come in turn."""
    chunks = [seeds[at : at + _CHUNK] for at in range(0, len(seeds), _CHUNK)]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(play_seeds, [side] * len(chunks), chunks)


def _batches(studies: Iterable[OddStudy]) -> Iterator[list[OddStudy]]:
    batch: list[OddStudy] = []
    for study in studies:
        batch.append(study)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
