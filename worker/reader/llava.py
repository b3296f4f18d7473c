"""A writer on a native transformers Llava directory: local files, no foreign code, nothing left over.

The image is encoded once. The draft and all answers continue from the keys and values of that shared beginning.
"""

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from casebook.errors import ModelRefused
from casebook.watchdog import go_on
from worker.reader import prompts
from worker.reader.model_input import prepare
from worker.reader.registry import ModelEntry, digest, model_files
from worker.reader.writer import ClosedQuestion, Draft, Image

#: What transformers raises on a directory that is not what it says.
_FOREIGN_FAULTS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, SafetensorError)
#: The architecture this writer knows (config.json, model_type).
_MODEL_TYPE = "llava"
#: Answers scored in one forward pass, so that a long preset does not need more memory than a short one.
_ROWS_AT_ONCE = 64
#: Smallest change of a logit between a blank and a noise image that counts as seeing.
_SEEING = 1e-3


class LlavaWriter:
    """A Llava model that is ready to write."""

    def __init__(self, entry: ModelEntry, model: Any, tokenizer: Any, sha256: str) -> None:
        self._entry = entry
        self._model = model
        self._tokenizer = tokenizer
        self._sha256 = sha256
        self._image_token_id = int(model.config.image_token_id)
        self._end_token_id = int(tokenizer.eos_token_id)
        #: The images seen last with their beginning: `write` and `score` are asked about the same ones.
        self._seen: tuple[tuple[Image, ...], Any] | None = None

    @classmethod
    def load(cls, entry: ModelEntry, *, device: str = "cpu", threads: int = 1) -> Self:
        """Load a model directory and try it out.

        Parameters
        ----------
        entry
            A native entry of the registry.
        device
            ``cpu``, ``cuda`` or ``cuda:N``.
        threads
            CPU threads of the model.

        Raises
        ------
        ModelRefused
            When a weight is missing, left over or of another shape, when the entry and the directory disagree,
            or when the model does not look at its image.
        """
        if entry.directory is None:
            raise ModelRefused(f"{entry.name}: the entry names no directory")
        disable_progress_bar()  # a service has no terminal
        sha256 = digest(entry.directory)
        torch.set_num_threads(threads)
        model, tokenizer = _load_strictly(entry, str(entry.directory), device)
        _refuse_disagreement(entry, model.config, tokenizer)
        writer = cls(entry, model, tokenizer, sha256)
        writer.refuse_blindness()
        return writer

    @property
    def entry(self) -> ModelEntry:
        """The entry it was opened from."""
        return self._entry

    @property
    def sha256(self) -> str:
        """SHA-256 over the model directory."""
        return self._sha256

    @torch.inference_mode()
    def write(self, images: Sequence[Image], instruction: str) -> Draft:
        """Write a draft, greedily: the same images and instruction always give the same text."""
        cache = copy.deepcopy(self._look(images))
        ids = self._encode(prompts.question_after_image(instruction))
        room = int(self._model.config.text_config.max_position_embeddings) - cache.get_seq_length() - len(ids)
        written: list[int] = []
        logprobs: list[float] = []
        for _ in range(min(self._entry.generate.max_new_tokens, room)):
            go_on()
            output = self._model(input_ids=self._tensor([ids]), past_key_values=cache, use_cache=True)
            logprob = torch.log_softmax(output.logits[0, -1].float(), dim=-1)  # (vocabulary,)
            token = int(logprob.argmax())
            logprobs.append(float(logprob[token]))
            if token == self._end_token_id:
                break
            written.append(token)
            ids = [token]
        text: str = self._tokenizer.decode(written, skip_special_tokens=True)
        ended = len(logprobs) > len(written)
        return Draft(text=text.strip(), token_logprobs=tuple(logprobs), ended=ended)

    @torch.inference_mode()
    def score(self, images: Sequence[Image], questions: Sequence[ClosedQuestion]) -> list[tuple[float, ...]]:
        """Score every allowed answer of every question; see `Writer.score`."""
        rows = [
            (self._encode(prompts.question_after_image(question.text)), self._encode(prompts.answer(text)))
            for question in questions
            for text in question.answers
        ]
        beginning = self._look(images) if rows else None
        scores: list[float] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            scores += self._score_rows(beginning, rows[start : start + _ROWS_AT_ONCE])
        remaining = iter(scores)
        return [tuple(next(remaining) for _ in question.answers) for question in questions]

    @torch.inference_mode()
    def refuse_blindness(self) -> None:
        """Show a blank and a noise image: a model that does not tell them apart would draft from nothing.

        Raises
        ------
        ModelRefused
            When the logits are not numbers or do not change with the image.
        """
        size = self._entry.image.size
        noise = np.random.default_rng(0).random((size, size), dtype=np.float32)
        ids = self._tensor([self._encode(prompts.question_after_image(next(iter(self._entry.prompts.draft.values()))))])
        logits = [
            self._model(input_ids=ids, past_key_values=copy.deepcopy(self._look([image])), use_cache=True).logits[0, -1]
            for image in (np.zeros_like(noise), noise)
        ]
        self._seen = None
        if not all(bool(torch.isfinite(one).all()) for one in logits):
            raise ModelRefused(f"{self._entry.name}: the model computes values that are no numbers")
        if float((logits[0] - logits[1]).abs().max()) < _SEEING:
            raise ModelRefused(f"{self._entry.name}: the model gives the same answer for a blank and a noise image")

    def _look(self, images: Sequence[Image]) -> Any:
        # The beginning every prompt about these images shares, as keys and values.
        if self._seen is not None and [*map(id, self._seen[0])] == [*map(id, images)]:
            return self._seen[1]
        arrays = np.stack([prepare(image, self._entry.image.format) for image in images])
        pixels = torch.from_numpy(arrays)  # (images, 3, size, size)
        pixels = pixels.to(device=self._model.device, dtype=self._model.dtype)
        ids = self._beginning(len(images))
        output = self._model(input_ids=self._tensor([ids]), pixel_values=pixels, use_cache=True)
        self._seen = (tuple(images), output.past_key_values)
        return output.past_key_values

    def _beginning(self, image_count: int) -> list[int]:
        # The tokenizer adds the start mark here and nowhere else.
        text = prompts.prefix().replace(prompts.IMAGE, prompts.IMAGE * image_count)
        per_image = image_tokens(self._model.config)
        ids: list[int] = []
        for token in self._tokenizer(text)["input_ids"]:
            ids += [token] * (per_image if token == self._image_token_id else 1)
        return ids

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _score_rows(self, beginning: Any, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        cache = copy.deepcopy(beginning)
        seen = cache.get_seq_length()
        cache.batch_repeat_interleave(len(rows))
        longest = max(len(question) + len(answer) for question, answer in rows)
        ids = np.zeros((len(rows), longest), dtype=np.int64)  # what pads is masked, so any token will do
        mask = np.zeros((len(rows), seen + longest), dtype=np.int64)
        mask[:, :seen] = 1
        for row, (question, answer) in enumerate(rows):
            length = len(question) + len(answer)
            ids[row, :length] = question + answer
            mask[row, seen : seen + length] = 1
        logits = self._model(
            input_ids=self._tensor(ids), attention_mask=self._tensor(mask), past_key_values=cache, use_cache=True
        ).logits  # (rows, longest, vocabulary)
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        scores = []
        for row, (question, answer) in enumerate(rows):
            # The logits at one place speak of the token at the next.
            places = torch.arange(len(question) - 1, len(question) + len(answer) - 1)
            scores.append(float(logprobs[row, places, answer].sum()))
        return scores

    def _tensor(self, ids: NDArray[np.int64] | list[list[int]]) -> torch.Tensor:
        return torch.as_tensor(ids, dtype=torch.long, device=self._model.device)


def image_tokens(config: Any) -> int:
    """Return how many tokens one image becomes."""
    patches = (int(config.vision_config.image_size) // int(config.vision_config.patch_size)) ** 2
    return patches + (1 if config.vision_feature_select_strategy == "full" else 0)


def _load_strictly(entry: ModelEntry, directory: str, device: str) -> tuple[Any, Any]:
    # Weights of half precision are computed in full precision on a CPU: it is faster there, and exact.
    dtype = torch.float32 if device == "cpu" else "auto"
    try:
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            dtype=dtype,
        )
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        model = model.eval().to(device)
    except _FOREIGN_FAULTS as error:
        raise ModelRefused(f"{entry.name}: the model directory cannot be loaded ({type(error).__name__})") from error
    _refuse_doubled_weights(entry, len(model.state_dict()) + len(loaded["unexpected_keys"]))
    surplus = {
        "missing": set(loaded["missing_keys"]) - set(entry.expects_missing),
        "left over": set(loaded["unexpected_keys"]) - set(entry.expects_unexpected),
        "of another shape": {str(key) for key in loaded["mismatched_keys"]},
    }
    for what, names in surplus.items():
        if names:
            raise ModelRefused(f"{entry.name}: {len(names)} weights are {what}, first {min(names)}")
    return model, tokenizer


def _refuse_doubled_weights(entry: ModelEntry, expected: int) -> None:
    # Old and new names of one weight beside each other: the library would take one of them and say nothing.
    stored = 0
    for path in model_files(entry.directory) if entry.directory else ():
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as weights:
                stored += len(weights.keys())
    if stored > expected:
        raise ModelRefused(f"{entry.name}: {stored - expected} weights are there twice under two names")


def _refuse_disagreement(entry: ModelEntry, config: Any, tokenizer: Any) -> None:
    if config.model_type != _MODEL_TYPE:
        raise ModelRefused(f"{entry.name}: config.json says {config.model_type}, this loader runs {_MODEL_TYPE}")
    if int(config.vision_config.image_size) != entry.image.size:
        raise ModelRefused(
            f"{entry.name}: the entry says images of {entry.image.size} pixels,"
            f" config.json says {config.vision_config.image_size}"
        )
    if tokenizer.convert_tokens_to_ids(prompts.IMAGE) != config.image_token_id:
        raise ModelRefused(f"{entry.name}: the tokenizer and config.json disagree about {prompts.IMAGE}")
    if tokenizer.eos_token_id is None or tokenizer.convert_tokens_to_ids(prompts.END) != tokenizer.eos_token_id:
        raise ModelRefused(f"{entry.name}: the tokenizer does not end an answer with {prompts.END}")
    if len(tokenizer) > int(config.text_config.vocab_size):
        raise ModelRefused(f"{entry.name}: the tokenizer has more tokens than the model")
