"""The proof that nothing wrong goes out is written down only when every promise held at its full size."""

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks import prove_right
from benchmarks.evidence import NoProof, write_evidence
from integration_tests.odd_studies.plausibility import Look
from integration_tests.odd_studies.score import Finding, Score
from integration_tests.odd_studies.study import Side


def _played(studies: int) -> Score:
    return Score(studies=studies, endings=Counter(delivered=studies), kinds=Counter(padded=studies))


def _scores(studies: int = prove_right.STUDIES) -> dict[Side, Score]:
    return {side: _played(studies) for side in Side}


_SOCKETS = _played(prove_right.OVER_SOCKETS)
_LOOK = Look(wrong=Counter(noise=10), caught=Counter(noise=9))


def test_what_was_played_becomes_a_proof() -> None:
    run = prove_right.proof(_scores(), _SOCKETS, _LOOK, took_s=300.0)

    assert run.n == run.required_n == 2 * prove_right.STUDIES
    assert run.result["given_away_by_their_look"] == 0.9
    assert run.result["odd_endings"] == {"delivered": prove_right.STUDIES}


def test_a_broken_promise_is_no_proof() -> None:
    scores = _scores()
    scores[Side.ODD].findings.append(
        Finding(side=Side.ODD, seed=7, kind="noise", done="noise", complaint="sr was sent")
    )

    with pytest.raises(NoProof, match=r"1 broken promises, the first: odd 7 \(noise\): sr was sent"):
        prove_right.proof(scores, _SOCKETS, _LOOK, took_s=300.0)


def test_too_few_studies_over_the_socket_are_no_proof() -> None:
    with pytest.raises(NoProof, match="199 of 200 studies over the socket"):
        prove_right.proof(_scores(), replace(_SOCKETS, studies=199), _LOOK, took_s=300.0)


def test_too_few_pictures_given_away_by_their_look_are_no_proof() -> None:
    look = Look(wrong=Counter(noise=10), caught=Counter(noise=5))

    with pytest.raises(NoProof, match="50% of the wrong pictures, not 60%"):
        prove_right.proof(_scores(), _SOCKETS, look, took_s=300.0)


def test_fewer_studies_are_no_proof() -> None:
    run = prove_right.proof(_scores(1999), _SOCKETS, _LOOK, took_s=300.0)

    with pytest.raises(NoProof, match="3998 of 4000 cases"):
        write_evidence(run)
