"""The proof that nothing wrong goes out and nothing sound stays behind: ``python -m benchmarks.prove_right``.

2,000 damaged or odd studies and 2,000 sound ones go through the real chain in this machine's memory, 200 of both over
the real socket, and with every check of streams and tables taken out the pictures are judged by their look alone.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence import NoProof, Run, write_evidence
from integration_tests.odd_studies.generator import draw
from integration_tests.odd_studies.plausibility import Look, measure_all
from integration_tests.odd_studies.score import Score, play_all
from integration_tests.odd_studies.site import play_over_sockets
from integration_tests.odd_studies.study import Side

STUDIES = 2_000
#: Of both sides together.
OVER_SOCKETS = 200
#: Studies of each damaged pixel module for the look of their pictures.
LOOKS = 24
#: Share of wrong pictures that their look has to give away.
GIVEN_AWAY = 0.6
#: Findings that are printed.
_SHOWN = 40


def main(arguments: Sequence[str]) -> int:
    """Play, and write the evidence down; 0 when it was written, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prove_right", description=__doc__)
    parser.add_argument("--studies", type=int, default=STUDIES, help="of each side; fewer are no proof")
    parser.add_argument("--over-sockets", type=int, default=OVER_SOCKETS, help="of both sides; fewer are no proof")
    parser.add_argument("--looks", type=int, default=LOOKS, help="studies of each damaged pixel module")
    parser.add_argument("--processes", type=int, default=2, help="nodes at one time")
    chosen = parser.parse_args(arguments)

    began = time.monotonic()
    scores = {side: _play(side, chosen.studies, chosen.processes) for side in Side}
    sockets = _play_over_sockets(chosen.over_sockets)
    look = measure_all(range(chosen.looks), processes=chosen.processes)
    print(f"{look.share:.0%} of {sum(look.wrong.values())} wrong pictures given away by their look")
    try:
        print(write_evidence(proof(scores, sockets, look, took_s=time.monotonic() - began)))
    except NoProof as reason:
        print(reason)
        return 1
    return 0


def proof(scores: dict[Side, Score], sockets: Score, look: Look, *, took_s: float) -> Run:
    """Make a proof of what was played.

    Parameters
    ----------
    scores
        Of each side, in memory.
    sockets
        Of both sides, over the real socket.
    look
        What the look of wrong pictures gave away.
    took_s
        Seconds everything took.

    Raises
    ------
    NoProof
        When a promise broke, too few studies went over the socket, or the look gave too few wrong pictures away.
    """
    found = [one for score in (*scores.values(), sockets) for one in score.findings]
    if found:
        raise NoProof(f"right: {len(found)} broken promises, the first: {found[0]}")
    if sockets.studies < OVER_SOCKETS:
        raise NoProof(f"right: {sockets.studies} of {OVER_SOCKETS} studies over the socket")
    if look.share < GIVEN_AWAY:
        raise NoProof(f"right: the look gives away {look.share:.0%} of the wrong pictures, not {GIVEN_AWAY:.0%}")
    return Run(
        name="right",
        command="make prove right",
        seeds=range(min(score.studies for score in scores.values())),
        n=sum(min(score.studies, STUDIES) for score in scores.values()),
        required_n=STUDIES * len(Side),
        result={
            "broken_promises": 0,
            **{f"{side}_studies": score.studies for side, score in scores.items()},
            **{f"{side}_kinds": len(score.kinds) for side, score in scores.items()},
            **{f"{side}_endings": dict(score.endings.most_common()) for side, score in scores.items()},
            "over_the_socket": sockets.studies,
            "wrong_pictures_without_checks": sum(look.wrong.values()),
            "given_away_by_their_look": round(look.share, 3),
        },
        duration_s=took_s,
    )


def _play(side: Side, studies: int, processes: int) -> Score:
    score, began = Score(), time.monotonic()
    for part in play_all(side, range(studies), processes=processes):
        score.add(part)
        print(f"\r{side}: {score.studies} of {studies}, {len(score.findings)} broken", end="", flush=True)
    print(f", {time.monotonic() - began:.0f} s")
    _tell(score)
    return score


def _play_over_sockets(studies: int) -> Score:
    began = time.monotonic()
    chosen = [draw(side, seed) for seed in range(studies // 2) for side in Side]
    with tempfile.TemporaryDirectory(prefix="wetread-right-") as folder:
        score = play_over_sockets(chosen, Path(folder))
    print(f"over the socket: {score.studies}, {len(score.findings)} broken, {time.monotonic() - began:.0f} s")
    _tell(score)
    return score


def _tell(score: Score) -> None:
    for ending, count in score.endings.most_common():
        print(f"  {count:5} {ending}")
    for one in score.findings[:_SHOWN]:
        print(f"  {one}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
