"""A Llava directory is loaded strictly, writes greedily, and scores a batch as it scores one by one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from casebook.errors import ModelRefused
from worker.reader import prompts
from worker.reader.llava import LlavaWriter, image_tokens
from worker.reader.loaders import open_writer
from worker.reader.model_input import prepare
from worker.reader.tests.tiny_llava import entry, save_tiny_llava
from worker.reader.writer import ClosedQuestion

#: The last weight of a Llava, as it is called on disk.
HEAD = "language_model.lm_head.weight"
QUESTIONS = [
    ClosedQuestion(text="Is there an effusion?", answers=("yes", "no")),
    ClosedQuestion(text="Which side?", answers=("none", "left", "left right", "bilateral")),
    ClosedQuestion(text="Is there a rather long question here, longer than the others?", answers=("no", "yes")),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_llava(path)
    return path


@pytest.fixture(scope="module")
def writer(directory: Path) -> LlavaWriter:
    return LlavaWriter.load(entry(directory))


@pytest.fixture
def image() -> NDArray[np.float32]:
    return np.random.default_rng(1).random((40, 30), dtype=np.float32)


def full_ids(writer: LlavaWriter, text: str) -> list[int]:
    # The whole prompt tokenised at once, as training does it.
    per_image = image_tokens(writer._model.config)
    return [
        token
        for one in writer._tokenizer(text)["input_ids"]
        for token in [one] * (per_image if one == writer._image_token_id else 1)
    ]


def full_logits(writer: LlavaWriter, ids: list[int], image: NDArray[np.float32]) -> torch.Tensor:
    pixels = torch.from_numpy(prepare(image, writer.entry.image.format))[None]
    with torch.inference_mode():
        logits: torch.Tensor = writer._model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0]
    return logits


def test_a_batch_of_answers_scores_as_each_whole_sequence_does_alone(
    writer: LlavaWriter, image: NDArray[np.float32]
) -> None:
    scores = writer.score([image], QUESTIONS)

    for question, score in zip(QUESTIONS, scores, strict=True):
        for text, value in zip(question.answers, score, strict=True):
            asked = full_ids(writer, prompts.first_turn(question.text))
            whole = full_ids(writer, prompts.first_turn(question.text) + prompts.answer(text))
            logprobs = torch.log_softmax(full_logits(writer, whole, image), dim=-1)
            expected = sum(float(logprobs[place - 1, whole[place]]) for place in range(len(asked), len(whole)))
            assert whole[: len(asked)] == asked
            assert value == pytest.approx(expected, abs=1e-3)


def test_a_score_does_not_depend_on_what_else_is_asked(writer: LlavaWriter, image: NDArray[np.float32]) -> None:
    together = writer.score([image], QUESTIONS)

    for question, score in zip(QUESTIONS, together, strict=True):
        assert writer.score([image], [question])[0] == pytest.approx(score, abs=1e-3)


def test_many_answers_are_scored_in_portions(
    writer: LlavaWriter, image: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = writer.score([image], QUESTIONS)
    monkeypatch.setattr("worker.reader.llava._ROWS_AT_ONCE", 3)

    for score, expected in zip(writer.score([image], QUESTIONS), whole, strict=True):
        assert score == pytest.approx(expected, abs=1e-3)


def test_a_draft_is_the_greedy_one_and_always_the_same(writer: LlavaWriter, image: NDArray[np.float32]) -> None:
    draft = writer.write([image], "Describe this.")
    writer.score([image], QUESTIONS)  # must not disturb the shared beginning
    again = writer.write([image], "Describe this.")

    ids = full_ids(writer, prompts.first_turn("Describe this."))
    expected: list[int] = []
    for _ in range(12):
        token = int(full_logits(writer, ids + expected, image)[-1].argmax())
        if token == writer._end_token_id:
            break
        expected.append(token)
    assert draft == again
    assert draft.text == writer._tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert draft.ended == (len(expected) < 12)
    assert len(draft.token_logprobs) == len(expected) + draft.ended


def test_another_image_changes_the_scores(writer: LlavaWriter, image: NDArray[np.float32]) -> None:
    assert writer.score([image], QUESTIONS) != writer.score([1 - image], QUESTIONS)


def test_nothing_asked_is_nothing_scored(writer: LlavaWriter, image: NDArray[np.float32]) -> None:
    assert writer.score([image], []) == []


def test_several_images_stand_one_after_the_other(directory: Path, image: NDArray[np.float32]) -> None:
    two = LlavaWriter.load(entry(directory))

    assert two.score([image, 1 - image], QUESTIONS[:1]) != two.score([1 - image, image], QUESTIONS[:1])


def test_half_precision_weights_are_computed_in_full_precision_on_a_cpu(tmp_path: Path) -> None:
    save_tiny_llava(tmp_path, dtype=torch.bfloat16)

    assert LlavaWriter.load(entry(tmp_path))._model.dtype == torch.float32


def spoil_weights(directory: Path, change: Any) -> None:
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_weight_that_is_left_over_is_refused_unless_the_entry_lists_it(tmp_path: Path) -> None:
    save_tiny_llava(tmp_path)
    spoil_weights(tmp_path, lambda weights: weights.update({"extra.weight": torch.zeros(2)}))

    with pytest.raises(ModelRefused, match=r"1 weights are left over, first extra\.weight"):
        LlavaWriter.load(entry(tmp_path))
    assert LlavaWriter.load(entry(tmp_path, expects_unexpected=["extra.weight"])).sha256


def test_a_missing_weight_is_refused(tmp_path: Path) -> None:
    save_tiny_llava(tmp_path)
    spoil_weights(tmp_path, lambda weights: weights.pop(next(name for name in weights if "linear_1.weight" in name)))

    with pytest.raises(ModelRefused, match="1 weights are missing"):
        LlavaWriter.load(entry(tmp_path))


def test_a_weight_of_another_shape_is_refused(tmp_path: Path) -> None:
    save_tiny_llava(tmp_path)
    spoil_weights(tmp_path, lambda weights: weights.update({HEAD: torch.zeros(3, 3)}))

    with pytest.raises(ModelRefused):
        LlavaWriter.load(entry(tmp_path))


def test_a_weight_under_two_names_is_refused(tmp_path: Path) -> None:
    save_tiny_llava(tmp_path)
    spoil_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": torch.zeros(3, 3)}))

    with pytest.raises(ModelRefused, match="1 weights are there twice"):
        LlavaWriter.load(entry(tmp_path))


def test_an_entry_of_another_image_size_is_refused(directory: Path) -> None:
    image = {"size": 56, "mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3]}

    with pytest.raises(ModelRefused, match=r"entry says images of 56 pixels, config\.json says 28"):
        LlavaWriter.load(entry(directory, image=image))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    save_tiny_llava(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "no_such_model"}))

    with pytest.raises(ModelRefused, match="cannot be loaded"):
        LlavaWriter.load(entry(tmp_path))


def test_a_model_that_does_not_look_at_its_image_is_refused(tmp_path: Path) -> None:
    save_tiny_llava(tmp_path)

    def blind(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if "multi_modal_projector" in name]:
            weights[name] = torch.zeros_like(weights[name])

    spoil_weights(tmp_path, blind)

    with pytest.raises(ModelRefused, match="same answer for a blank and a noise image"):
        LlavaWriter.load(entry(tmp_path))


def test_a_model_that_computes_no_numbers_is_refused(tmp_path: Path) -> None:
    save_tiny_llava(tmp_path)
    spoil_weights(tmp_path, lambda weights: weights.update({HEAD: weights[HEAD] * torch.nan}))

    with pytest.raises(ModelRefused, match="no numbers"):
        LlavaWriter.load(entry(tmp_path))


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="no model lies here"):
        LlavaWriter.load(entry(tmp_path))


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    model = save_tiny_llava(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")

    with pytest.raises(ModelRefused, match="cannot be loaded"):
        LlavaWriter.load(entry(tmp_path))


def test_an_unavailable_model_says_why(tmp_path: Path) -> None:
    unavailable = entry(tmp_path, kind="unavailable", reason="its weights are not public")

    with pytest.raises(ModelRefused, match="not public"):
        open_writer(unavailable)
