"""Every check is taken out once, and a study goes wrong: what could be taken out unseen would be no check."""

import re
from collections.abc import Sequence

import pytest

from integration_tests.odd_studies.chain import open_chain
from integration_tests.odd_studies.checks import CHECKS, Check, taken_out, with_those_behind
from integration_tests.odd_studies.generator import KINDS, draw
from integration_tests.odd_studies.score import play
from integration_tests.odd_studies.study import OddStudy

pytestmark = [
    pytest.mark.slow,
    # What is wrong with the studies is what pydicom warns of.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

#: Rounds of studies that are tried; nearly every check is seen in the first.
ROUNDS = 60


def _wrong(check: Check, out: Sequence[Check], studies: Sequence[OddStudy]) -> list[OddStudy]:
    """Return those of the studies that go wrong as they should while checks are out."""
    with taken_out(out), open_chain() as chain:
        found = {one.seed for one in play(chain, studies).findings if re.search(check.complaint, one.complaint)}
    return [one for one in studies if one.seed in found]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_without_a_check_something_goes_wrong(check: Check) -> None:
    with_behind = with_those_behind(check)
    assert len(with_behind) == 1 + len(check.behind)
    kinds = list(KINDS[check.side])

    for first in range(0, ROUNDS, 4):
        studies = [
            draw(check.side, kinds.index(kind) + round_ * len(kinds))
            for round_ in range(first, first + 4)
            for kind in check.seen_by
        ]
        wrong = _wrong(check, with_behind, studies)
        # And with it they do not, whatever is out behind it.
        if wrong and len(_wrong(check, with_behind[1:], wrong)) < len(wrong):
            return
    pytest.fail(f"nobody sees that {check} is gone")


def test_every_check_stands_in_the_table_once() -> None:
    assert len({str(one) for one in CHECKS}) == len(CHECKS)
    assert len(CHECKS) >= 30
