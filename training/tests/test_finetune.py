"""Training: options, packing, and that the same seed gives the same losses, also after an interruption."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch
import yaml

from casebook.checks import load_checks
from casebook.errors import SettingsError
from training import finetune as module
from training.finetune import build_model, finetune, first_tokens, language_states, learning_rate, vocabulary_texts
from training.options import FinetuneOptions, load_options
from training.packing import IGNORED, Packer, Turn
from training.phantom.phantom import findings_of
from training.phantom.report import LANGUAGES
from training.tokenizer import train_tokenizer
from worker.reader import prompts

REPOSITORY = Path(__file__).resolve().parents[2]
PRESET = load_checks(REPOSITORY / "config/checks/chest_xray.yaml")
INSTRUCTIONS = {"en": "Describe this chest radiograph.", "zh": "请描述这张胸片。"}
SHIPPED = sorted((REPOSITORY / "config/training").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(runs_directory: Path, **changes: object) -> FinetuneOptions:
    """Return a run of seconds: ten phantoms, a few steps, a model of a few thousand parameters."""
    stage = {"steps": 6, "batch": 4, "learning_rate": 1e-3, "warmup_steps": 2, "shift_px": 2}
    return FinetuneOptions.model_validate(
        {
            "name": "tiny",
            "seed": 4,
            "runs_directory": runs_directory,
            "model_entry": REPOSITORY / "config/models/phantom-cxr.yaml",
            "checks": REPOSITORY / "config/checks/chest_xray.yaml",
            "threads": 1,
            "data": {"count": 8, "validation_count": 2, "processes": 1},
            "tower": {"patch_size": 28, "hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2},
            "language": {"vocabulary": 640, "hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2},
            "tower_stage": stage,
            "language_stage": {**stage, "shift_px": 0},
            "report_every_steps": 1,
            "validate_every_steps": 3,
            "checkpoint_every_steps": 3,
            **changes,
        }
    )


def losses(run: Path) -> list[tuple[str, str, str]]:
    """Return the curve a run has written."""
    with (run / "curve.csv").open(encoding="utf-8") as file:
        return [(row["stage"], row["step"], row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture
def _drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten phantoms are drawn sooner than a second process starts.
    class Here:
        def __init__(self, *_arguments: object, **_options: object) -> None: ...
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_error: object) -> None: ...
        def map(self, function: object, jobs: object, chunksize: int) -> Iterator[object]:
            return map(function, jobs)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(module, "ProcessPoolExecutor", Here)


@pytest.mark.usefixtures("_drawn_here")
def test_the_same_seed_gives_the_same_losses_and_another_seed_gives_others(tmp_path: Path) -> None:
    directory = finetune(tiny(tmp_path / "a"))
    finetune(tiny(tmp_path / "b"))
    finetune(tiny(tmp_path / "c", seed=5))

    first = losses(tmp_path / "a/tiny")
    assert len(first) == 12
    assert first == losses(tmp_path / "b/tiny")
    assert first != losses(tmp_path / "c/tiny")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in directory.iterdir()}
    assert {"config.yaml", "run.json", "metrics.json", "curve.csv"} <= {
        path.name for path in (tmp_path / "a/tiny").iterdir()
    }


@pytest.mark.usefixtures("_drawn_here")
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finetune(tiny(tmp_path / "whole"))

    kept = learning_rate
    calls: list[int] = []

    def interrupted(step: int, options: object) -> float:
        calls.append(step)
        if len(calls) == 11:  # in the second stage, after its checkpoint at step 3
            raise KeyboardInterrupt
        return kept(step, options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "learning_rate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune(tiny(tmp_path / "broken"))
    monkeypatch.setattr(module, "learning_rate", kept)
    finetune(tiny(tmp_path / "broken"))

    again = {(stage, step): loss for stage, step, loss in losses(tmp_path / "broken/tiny")}
    assert again == {(stage, step): loss for stage, step, loss in losses(tmp_path / "whole/tiny")}


@pytest.mark.usefixtures("_drawn_here")
def test_a_run_folder_is_not_shared_by_two_configurations(tmp_path: Path) -> None:
    finetune(tiny(tmp_path))

    with pytest.raises(SettingsError, match="other options"):
        finetune(tiny(tmp_path, seed=9))


def test_every_shipped_configuration_loads_and_names_its_command() -> None:
    assert SHIPPED
    for path in SHIPPED:
        options = load_options(path)
        assert path.read_text(encoding="utf-8").startswith(
            f"# python training/finetune.py config/training/{path.name}\n"
        )
        assert options.name == path.stem


def test_an_unknown_key_is_refused_with_the_nearest_right_one(tmp_path: Path) -> None:
    shipped = yaml.safe_load((REPOSITORY / "config/training/phantom.yaml").read_text(encoding="utf-8"))
    shipped["tower_stage"]["learnin_rate"] = 1e-3
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(shipped), encoding="utf-8")

    with pytest.raises(SettingsError, match="unknown key learnin_rate; did you mean learning_rate"):
        load_options(wrong)


def test_phantoms_for_demos_and_evaluation_are_never_trained_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first_seed"):
        tiny(tmp_path, data={"first_seed": 999_999, "count": 8, "validation_count": 2})


def test_a_conversation_in_a_pack_is_read_as_if_it_stood_alone(tmp_path: Path) -> None:
    options = tiny(tmp_path)
    tokenizer = train_tokenizer(vocabulary_texts(PRESET, INSTRUCTIONS, [findings_of(1)]), 400)
    model = build_model(options, 112, tokenizer).eval()
    packer = Packer(tokenizer, image_tokens=16)
    patches = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    talks = [
        [Turn(question="Is there a nodule?", answer="no")],
        [Turn(question="Is there a pacemaker?", answer="yes"), Turn(question="Is there a nodule?", answer="no")],
    ]

    with torch.no_grad():
        together = packer.pack([talks])
        states = language_states(model, patches, together)[0]
        for talk, end in zip(talks, together.ends[0], strict=True):
            alone = packer.pack([[talk]])
            expected = language_states(model, patches, alone)[0, -1]
            assert torch.allclose(states[end], expected, atol=1e-5)


def test_pieces_tokenised_one_by_one_are_the_whole_text_tokenised_at_once() -> None:
    tokenizer = train_tokenizer(vocabulary_texts(PRESET, INSTRUCTIONS, [findings_of(1)]), 400)
    pairs = 0
    for language in LANGUAGES:
        for check in PRESET.checks:
            question, said = check.question[language], check.answers[0].text[language]
            pieces = [
                prompts.prefix(),
                prompts.question_after_image(question),
                prompts.answer(said),
                prompts.further_turn(question),
                prompts.answer(said),
            ]
            joined = [tokenizer.bos_token_id]
            for piece in pieces:
                joined += tokenizer.encode(piece, add_special_tokens=False)
            assert joined == tokenizer.encode("".join(pieces))
            assert tokenizer.decode(joined[1:]).count(prompts.END) == 2
            pairs += 1
    assert pairs == 20


def test_only_answers_are_learned() -> None:
    tokenizer = train_tokenizer(vocabulary_texts(PRESET, INSTRUCTIONS, [findings_of(1)]), 400)
    packed = Packer(tokenizer, image_tokens=16).pack(
        [[[Turn(question="Is there a nodule?", answer="no")], [Turn(question="Is there a nodule?", answer="yes")]]]
    )

    learned = packed.labels[packed.labels != IGNORED].tolist()

    assert tokenizer.decode(learned) == " no</s> yes</s>"


def test_allowed_answers_can_be_told_apart_by_their_first_token() -> None:
    tokenizer = train_tokenizer(vocabulary_texts(PRESET, INSTRUCTIONS, map(findings_of, range(200))), 640)

    for language in LANGUAGES:
        for check in PRESET.checks:
            assert len(first_tokens(tokenizer, check, language)) == len(check.answers)


def test_the_learning_rate_rises_and_falls() -> None:
    stage = tiny(Path("runs")).tower_stage.model_copy(update={"steps": 100, "warmup_steps": 10})
    rates = np.array([learning_rate(step, stage) for step in range(100)])

    assert rates.argmax() in {9, 10}
    assert rates.max() == pytest.approx(1e-3)
    assert rates[-1] < 2e-5
