"""What the rest of the code knows of a model that writes: it drafts a report and scores allowed answers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from casebook.errors import ModelRefused
from worker.reader.registry import ModelEntry

Image = NDArray[np.float32]

_HAN = re.compile(r"[\u4e00-\u9fff]")
#: A draft in which one stretch of text stands six times in a row went round in circles.
_CIRCLE = re.compile(r"(.{2,60}?)\1{5,}", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a model wrote."""

    text: str
    #: Natural logarithm of the probability of each token, the end mark included.
    token_logprobs: tuple[float, ...]
    #: The model ended by itself and was not cut off.
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedQuestion:
    """A question and the texts of the answers it allows."""

    text: str
    answers: tuple[str, ...]


class Writer(Protocol):
    """A model that writes about images."""

    @property
    def entry(self) -> ModelEntry:
        """The entry it was opened from."""

    @property
    def sha256(self) -> str:
        """SHA-256 over the model directory."""

    def write(self, images: Sequence[Image], instruction: str) -> Draft:
        """Write a draft, greedily: the same images and instruction always give the same text.

        Parameters
        ----------
        images
            Rendered images in [0, 1], shape (rows, columns) or (rows, columns, 3).
        instruction
            What asks for the draft.
        """

    def score(self, images: Sequence[Image], questions: Sequence[ClosedQuestion]) -> list[tuple[float, ...]]:
        """Score every allowed answer of every question.

        Returns
        -------
            One tuple per question: the natural logarithm of the probability of each whole answer, its end mark
            included, so that an answer which begins another one is not favoured.
        """


def refuse_unusable(draft: Draft, language: str) -> None:
    """Refuse a draft that nobody should be shown.

    Parameters
    ----------
    draft
        What the model wrote.
    language
        The language it was asked in: en or zh.

    Raises
    ------
    ModelRefused
        With one sentence that says why, without the text.
    """
    text = draft.text.strip()
    if not text:
        raise ModelRefused("The model wrote nothing.")
    if not draft.ended:
        raise ModelRefused("The model did not come to an end.")
    if _CIRCLE.search(text):
        raise ModelRefused("The model repeated itself.")
    if (language == "zh") != bool(_HAN.search(text)):
        raise ModelRefused("The model wrote in another language than it was asked in.")
