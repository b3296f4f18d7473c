"""Scores become probabilities, and too little of it becomes undetermined."""

import math
from typing import Any

import pytest

from casebook.checks import Check, CheckPreset
from casebook.reading import CheckAnswer
from worker.reader.scoring import arrange, closed_question, judge, probabilities

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


def test_a_draft_may_say_it_in_other_words_than_the_model_was_asked_in() -> None:
    told = EFFUSION.model_copy(update={"shown": {"zh": "有无积液？"}})

    assert closed_question(told, "zh").text == "有积液吗？"
    assert (judge(told, (0.1, 0.9), "zh").question, judge(told, (0.1, 0.9), "en").question) == (
        "有无积液？",
        "Is there an effusion?",
    )


def check(check_id: str, *answers: str, **changes: Any) -> dict[str, Any]:
    kind = "yes_no" if set(answers) == {"no", "yes"} else "choice"
    allowed = [{"id": one, "text": {"en": one}} for one in answers]
    return {"id": check_id, "label": check_id, "kind": kind, "question": {"en": "?"}, "answers": allowed, **changes}


CHECKS = CheckPreset.model_validate(
    {
        "name": "chest",
        "version": "1",
        "checks": [
            check("mass", "no", "yes", urgency=20),
            check("air", "no", "yes", urgency=10),
            check("mass_side", "none", "left", "right", only_if={"mass": "yes"}),
            check("mass_lobe", "none", "upper", "lower", only_if={"mass_side": "left"}),
            check("mass_is_new", "no", "yes", only_if={"mass": "yes"}),
        ],
    }
).checks


def arranged(*said: str, undetermined: str = "") -> dict[str, CheckAnswer]:
    answers = []
    for one, answer_id in zip(CHECKS, said, strict=True):
        ids = [answer.id for answer in one.answers]
        sure = [1.0 if other == answer_id else 0.0 for other in ids]
        answers.append(judge(one, [0.5] * len(ids) if one.id == undetermined else sure, "en"))
    return {one.check_id: one for one in arrange(CHECKS, answers, is_calibrated=False)}


def test_a_side_is_stated_only_where_its_finding_is() -> None:
    there = arranged("yes", "no", "left", "upper", "no")
    absent = arranged("no", "no", "left", "upper", "no")

    assert not any(one.is_ruled_out for one in there.values())
    assert [one for one, answer in absent.items() if answer.is_ruled_out] == ["mass_side", "mass_lobe", "mass_is_new"]


def test_a_side_is_not_stated_where_its_finding_is_undetermined() -> None:
    assert arranged("no", "no", "left", "upper", "no", undetermined="mass")["mass_side"].is_ruled_out


def test_what_depends_on_an_answer_that_is_ruled_out_is_ruled_out_too() -> None:
    assert arranged("no", "no", "left", "upper", "no")["mass_lobe"].is_ruled_out
    assert arranged("yes", "no", "right", "upper", "no")["mass_lobe"].is_ruled_out


def test_a_finding_without_a_side_contradicts_itself_and_its_side_is_undetermined() -> None:
    found = arranged("yes", "no", "none", "upper", "no")

    assert found["mass_side"].undetermined
    assert found["mass_lobe"].is_ruled_out
    # A question that may be answered with no is no contradiction.
    assert not found["mass_is_new"].undetermined


def test_the_most_urgent_check_comes_first_and_what_depends_on_it_behind_it() -> None:
    assert list(arranged("yes", "no", "left", "upper", "no")) == [
        "air",
        "mass",
        "mass_side",
        "mass_lobe",
        "mass_is_new",
    ]


@pytest.mark.parametrize("is_calibrated", [True, False])
def test_probabilities_are_calibrated_where_the_entry_of_the_model_says_so(is_calibrated: bool) -> None:
    (answer,) = arrange([EFFUSION], [judge(EFFUSION, (0.1, 0.9), "en")], is_calibrated=is_calibrated)

    assert answer.calibrated is is_calibrated
