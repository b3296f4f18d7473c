"""Scores become probabilities, and too little of it becomes undetermined."""

import math

import pytest

from casebook.checks import Check
from worker.reader.scoring import closed_question, judge, probabilities

EFFUSION = Check.model_validate(
    {
        "id": "effusion",
        "label": "Effusion",
        "kind": "yes_no",
        "question": {"en": "Is there an effusion?", "zh": "有积液吗？"},
        "answers": [{"id": "no", "text": {"en": "no", "zh": "否"}}, {"id": "yes", "text": {"en": "yes", "zh": "是"}}],
        "undetermined_below": 0.6,
    }
)


def test_probabilities_share_one_among_the_allowed_answers() -> None:
    shared = probabilities([math.log(0.01), math.log(0.03)])

    assert shared == pytest.approx((0.25, 0.75))


def test_very_small_likelihoods_do_not_vanish() -> None:
    assert probabilities([-5000.0, -5000.0 + math.log(3)]) == pytest.approx((0.25, 0.75))


@pytest.mark.parametrize(
    ("probability", "answer_id", "undetermined"),
    [((0.1, 0.9), "yes", False), ((0.6, 0.4), "no", False), ((0.59, 0.41), "no", True), ((0.5, 0.5), "no", True)],
)
def test_an_answer_under_its_threshold_is_undetermined(
    probability: tuple[float, float], answer_id: str, undetermined: bool
) -> None:
    answer = judge(EFFUSION, probability, "en")

    assert (answer.answer_id, answer.undetermined) == (answer_id, undetermined)
    assert answer.probability == max(probability)
    assert not answer.calibrated


def test_a_check_is_asked_and_answered_in_the_language_of_the_draft() -> None:
    assert closed_question(EFFUSION, "zh").answers == ("否", "是")
    assert judge(EFFUSION, (0.1, 0.9), "zh").answer == "是"
