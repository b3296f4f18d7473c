"""Preset checks answered by score: how probable each allowed answer is, and whether that is enough."""

import math
from collections.abc import Sequence

from casebook.checks import Check
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
        question=check.question[language],
        answer_id=answer.id,
        answer=answer.text[language],
        # Rounded once, here, so that every output prints and decides by the same number.
        probability=round(probability[place], 4),
        undetermined=round(probability[place], 4) < check.undetermined_below,
        finding_code=check.code,
        answer_code=answer.code,
    )
