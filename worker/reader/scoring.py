"""Preset checks answered by score: how probable each allowed answer is, and whether that is enough."""

import math
from collections.abc import Sequence
from dataclasses import replace

from casebook.checks import ABSENT, Check, CheckKind
from casebook.reading import CheckAnswer
from worker.reader.writer import ClosedQuestion, Image, Writer


def answer_checks(
    writer: Writer, images: Sequence[Image], checks: Sequence[Check], language: str
) -> tuple[CheckAnswer, ...]:
    """Ask all checks about one study in one batch.

    Parameters
    ----------
    writer
        The model.
    images
        Rendered images, shape (rows, columns) or (rows, columns, 3), in [0, 1].
    checks
        The preset, in the order in which the answers are wanted.
    language
        The language to ask in: a key of each question.

    Returns
    -------
        One answer per check, in the same order.
    """
    scores = writer.score(images, [closed_question(check, language) for check in checks])
    return tuple(judge(check, probabilities(score), language) for check, score in zip(checks, scores, strict=True))


def closed_question(check: Check, language: str) -> ClosedQuestion:
    """Put a check into the words the model is asked in."""
    answers = tuple(answer.text[language] for answer in check.answers)
    return ClosedQuestion(text=check.question[language], answers=answers)


def probabilities(log_likelihoods: Sequence[float]) -> tuple[float, ...]:
    """Share the probability among the allowed answers alone.

    Returns
    -------
        One value in [0, 1] per answer; their sum is 1.
    """
    highest = max(log_likelihoods)
    weights = [math.exp(value - highest) for value in log_likelihoods]
    return tuple(weight / sum(weights) for weight in weights)


def judge(check: Check, probability: Sequence[float], language: str) -> CheckAnswer:
    """Take the most probable answer, undetermined under the threshold of the check."""
    place = max(range(len(probability)), key=probability.__getitem__)
    answer = check.answers[place]
    return CheckAnswer(
        check_id=check.id,
        label=check.label,
        question=check.shown_in(language),
        answer_id=answer.id,
        answer=answer.shown_in(language),
        # Rounded once, here, so that every output prints and decides by the same number.
        probability=round(probability[place], 4),
        undetermined=round(probability[place], 4) < check.undetermined_below,
        finding_code=check.code,
        answer_code=answer.code,
    )


def arrange(checks: Sequence[Check], answers: Sequence[CheckAnswer], *, is_calibrated: bool) -> tuple[CheckAnswer, ...]:
    """Put the answers of a model into the order and the state in which a draft may say them.

    An answer whose condition (`only_if`) is not met is ruled out; one whose condition is met and that denies the
    finding all the same contradicts it, and is undetermined.

    Parameters
    ----------
    checks
        The preset, conditions before those that depend on them.
    answers
        One per check, in the same order.
    is_calibrated
        The probabilities of this model were compared with how often it is right.

    Returns
    -------
        The most urgent first; a check follows the one that it depends on.
    """
    found: dict[str, CheckAnswer] = {}
    ranks: dict[str, tuple[int, int]] = {}
    for place, (check, answer) in enumerate(zip(checks, answers, strict=True)):
        ranks[check.id] = min((ranks[other] for other in check.only_if), default=(check.urgency, place))
        is_met = all(_says(found[other], wanted) for other, wanted in check.only_if.items())
        contradicts = bool(check.only_if) and is_met and answer.answer_id in ABSENT and not _allows_absence(check)
        found[check.id] = replace(
            answer,
            calibrated=is_calibrated,
            is_ruled_out=not is_met,
            undetermined=answer.undetermined or contradicts,
        )
    return tuple(sorted(found.values(), key=lambda one: ranks[one.check_id]))


def _says(answer: CheckAnswer, wanted: str) -> bool:
    return answer.answer_id == wanted and not answer.undetermined and not answer.is_ruled_out


def _allows_absence(check: Check) -> bool:
    # "Is it new?" may be answered with no; a side, a lobe or a size cannot be none where the finding is.
    return check.kind is CheckKind.YES_NO or set(check.only_if.values()) <= ABSENT
