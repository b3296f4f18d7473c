"""Many conversations about one image in one sequence, each blind to the others.

The image stands once at the beginning; every conversation sees it and itself, at the positions it would have
alone. One forward pass therefore teaches the report and every check exactly as they are asked in serving.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from worker.reader import prompts

#: Labels with this value are not learned.
IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question and its answer; without an answer it ends where the answer would begin."""

    question: str
    answer: str | None
    #: Weight of each token of the answer in the loss.
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A batch of packed sequences; b sequences of at most s tokens."""

    input_ids: Tensor  # (b, s)
    position_ids: Tensor  # (b, s)
    attention: Tensor  # (b, 1, s, s), true where a row's token sees a column's token
    labels: Tensor  # (b, s), the next token where it is learned, else `IGNORED`
    weights: Tensor  # (b, s)
    #: Per sequence, the position of the last token of each conversation.
    ends: tuple[tuple[int, ...], ...]


class Packer:
    """Turns conversations into token sequences for one tokenizer and one number of image tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_tokens: int) -> None:
        self._tokenizer = tokenizer
        before, after = prompts.prefix().split(prompts.IMAGE)
        image = int(tokenizer.convert_tokens_to_ids(prompts.IMAGE))
        self._encode = lru_cache(maxsize=20_000)(self._encode_uncached)
        self._prefix = (
            int(tokenizer.bos_token_id),
            *self._encode(before),
            *(image,) * image_tokens,
            *self._encode(after),
        )

    def pack(self, batch: Sequence[Sequence[Sequence[Turn]]]) -> Packed:
        """Pack one sequence per image: a list of conversations, each a list of turns."""
        rows = [self._pack_one(conversations) for conversations in batch]
        longest = max(len(row.tokens) for row in rows)
        pad = int(self._tokenizer.pad_token_id)
        tokens = torch.tensor([row.tokens + [pad] * (longest - len(row.tokens)) for row in rows])
        positions = torch.tensor([row.positions + [0] * (longest - len(row.tokens)) for row in rows])
        segments = torch.tensor([row.segments + [-1] * (longest - len(row.tokens)) for row in rows])
        learned = torch.tensor([row.weights + [0.0] * (longest - len(row.tokens)) for row in rows])
        # A token predicts the next one of its own conversation; an answer is never the first token.
        weights = torch.cat([learned[:, 1:], torch.zeros(len(rows), 1)], dim=1)
        following = torch.cat([tokens[:, 1:], torch.full((len(rows), 1), pad)], dim=1)
        same = segments[:, :, None] == segments[:, None, :]  # (b, s, s)
        shared = (segments == 0)[:, None, :]
        earlier = torch.ones(longest, longest, dtype=torch.bool).tril()
        attention = (same | shared) & earlier
        return Packed(
            input_ids=tokens,
            position_ids=positions,
            attention=attention[:, None],
            labels=torch.where(weights > 0, following, IGNORED),
            weights=weights,
            ends=tuple(tuple(row.ends) for row in rows),
        )

    def _pack_one(self, conversations: Sequence[Sequence[Turn]]) -> "_Row":
        row = _Row(
            tokens=list(self._prefix),
            positions=list(range(len(self._prefix))),
            segments=[0] * len(self._prefix),
            weights=[0.0] * len(self._prefix),
            ends=[],
        )
        for segment, conversation in enumerate(conversations, start=1):
            position = len(self._prefix)
            for index, turn in enumerate(conversation):
                asked = prompts.further_turn if index else prompts.question_after_image
                pieces = [(self._encode(asked(turn.question)), 0.0)]
                if turn.answer is not None:
                    pieces.append((self._encode(prompts.answer(turn.answer)), turn.weight))
                for ids, weight in pieces:
                    row.tokens.extend(ids)
                    row.positions.extend(range(position, position + len(ids)))
                    row.segments.extend([segment] * len(ids))
                    row.weights.extend([weight] * len(ids))
                    position += len(ids)
            row.ends.append(len(row.tokens) - 1)
        return row

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    tokens: list[int]
    positions: list[int]
    segments: list[int]
    weights: list[float]
    ends: list[int]
