"""Train a model: ``python training/finetune.py config/training/phantom.yaml``.

Reads top to bottom: options, run folder, pictures, tokenizer and model, the tower's labels, the language
model's answers, the finished directory. A run that was interrupted goes on from its last checkpoint when the
same command is given again; the same seed gives the same losses.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script's own folder comes first on the path; its `tokenizer.py` and its like would hide packages.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import hashlib
import itertools
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from casebook.checks import Check, CheckPreset, load_checks
from casebook.errors import SettingsError
from training.options import FinetuneOptions, StageOptions, load_options
from training.packing import IGNORED, Packed, Packer, Turn
from training.phantom.findings import LABELS, Findings
from training.phantom.phantom import draw_phantom, findings_of
from training.phantom.report import LANGUAGES, write_report
from training.tokenizer import train_tokenizer
from worker.reader import prompts
from worker.reader.model_input import Fit, ImageFormat, prepare

REPOSITORY = Path(__file__).resolve().parent.parent
#: What a training depends on, besides the installed packages.
DEPENDS_ON = (
    "training",
    "worker/reader/prompts.py",
    "worker/reader/model_input.py",
    "config/training",
    "config/checks",
    "config/models",
)
#: One channel of a picture in half precision; the three channels of a grey picture differ only by a scale.
Pictures = NDArray[np.float16]


def main(arguments: list[str]) -> int:
    """Run the training that a configuration file describes."""
    if len(arguments) != 1:
        print("usage: python training/finetune.py config/training/NAME.yaml", file=sys.stderr)
        return 2
    options = load_options(Path(arguments[0]))
    finetune(options)
    return 0


def finetune(options: FinetuneOptions) -> Path:
    """Train a model from nothing and return the directory it is saved in."""
    began = time.monotonic()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    entry = yaml.safe_load((REPOSITORY / options.model_entry).read_text(encoding="utf-8"))
    image_format = ImageFormat(**{**entry["image"], "fit": Fit(entry["image"]["fit"])})
    instructions: dict[str, str] = entry["prompts"]["draft"]
    preset = load_checks(REPOSITORY / options.checks)

    # The run folder says everything about the run.
    run = REPOSITORY / options.runs_directory / options.name
    run.mkdir(parents=True, exist_ok=True)
    settled = yaml.safe_dump(options.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    _refuse_another_run(run, settled)
    (run / "config.yaml").write_text(settled, encoding="utf-8")

    # The pictures, drawn once.
    total = options.data.count + options.data.validation_count
    seeds = range(options.data.first_seed, options.data.first_seed + total)
    pictures, findings = draw_pictures(run, seeds, image_format, options.data.processes)
    check = slice(options.data.count, total)  # the rest is learned
    record = {
        "seed": options.seed,
        "phantom_seeds": [seeds.start, seeds.stop],
        "data_sha256": _digest(pictures, findings),
        "code_revision": code_revision(),
    }
    (run / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    tokenizer = train_tokenizer(vocabulary_texts(preset, instructions, findings), options.language.vocabulary)
    model = build_model(options, image_format.size, tokenizer)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)
    trainer = Trainer(run, options)

    # First stage: the tower learns which finding is where.
    head = nn.Linear(options.tower.hidden_size, len(LABELS))
    tower = model.model.vision_tower
    labels = torch.tensor([found.labels() for found in findings], dtype=torch.float32)  # (n, labels)

    def tower_loss(step: int) -> Tensor:
        rng = np.random.default_rng([options.seed, 1, step])
        chosen = rng.integers(0, options.data.count, options.tower_stage.batch)
        images = shift(to_channels(pictures[chosen], image_format), options.tower_stage.shift_px, rng)
        scores = label_scores(tower, head, images)
        return nn.functional.binary_cross_entropy_with_logits(scores, labels[torch.from_numpy(chosen)])

    @torch.no_grad()
    def tower_validation() -> dict[str, float]:
        scores = torch.cat(
            [label_scores(tower, head, to_channels(part, image_format)) for part in _parts(pictures[check])]
        )
        right = ((scores > 0) == (labels[check] > 0)).float().mean(0)  # (labels,)
        return dict(zip(LABELS, right.tolist(), strict=True))

    trainer.train("tower", options.tower_stage, nn.ModuleList([tower, head]), tower_loss, tower_validation)

    # Second stage: the tower is frozen, so its patches are computed once.
    with torch.no_grad():
        patches = torch.cat(
            [patch_features(tower, to_channels(part, image_format)).half() for part in _parts(pictures)]
        )
    tower.requires_grad_(requires_grad=False)
    speaker = nn.ModuleList([model.model.multi_modal_projector, model.model.language_model, model.lm_head])
    packer = Packer(tokenizer, patches.shape[1])

    def language_loss(step: int) -> Tensor:
        rng = np.random.default_rng([options.seed, 2, step])
        chosen = rng.integers(0, options.data.count, options.language_stage.batch)
        asked = [conversations(findings[index], preset, instructions, options.report_weight, rng) for index in chosen]
        packed = packer.pack(asked)
        hidden = language_states(model, patches[torch.from_numpy(chosen)].float(), packed)
        learned = packed.labels != IGNORED
        loss = nn.functional.cross_entropy(model.lm_head(hidden[learned]), packed.labels[learned], reduction="none")
        weights = packed.weights[learned]
        return (loss * weights).sum() / weights.sum()

    @torch.no_grad()
    def language_validation() -> dict[str, float]:
        return check_accuracy(model, packer, tokenizer, patches[check].float(), findings[check], preset)

    trainer.train("language", options.language_stage, speaker, language_loss, language_validation)

    # The finished directory, in half precision as it is served.
    directory = run / "model"
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    minutes = (time.monotonic() - began) / 60
    metrics = {**record, "parameters": parameters, "minutes": round(minutes, 1), "validation": trainer.last}
    (run / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    where = directory.relative_to(REPOSITORY) if directory.is_relative_to(REPOSITORY) else directory
    print(f"trained in {minutes:.1f} minutes; next:\n  python -m training.evaluate_phantom --model {where} --n 500")
    return directory


# Pictures


def draw_pictures(
    run: Path, seeds: range, image_format: ImageFormat, processes: int
) -> tuple[Pictures, list[Findings]]:
    """Draw every phantom as the model will see it, or take the pictures of an earlier call of this run.

    Returns
    -------
        Pictures of shape (n, size, size), in [0, 1], and the findings of each.
    """
    stored = run / "pictures.npy"
    findings = [findings_of(seed) for seed in seeds]
    if stored.exists():
        pictures: Pictures = np.load(stored)
        if len(pictures) == len(seeds):
            return pictures, findings
    size = image_format.size
    pictures = np.empty((len(seeds), size, size), dtype=np.float16)
    began = time.monotonic()
    jobs = zip(seeds, itertools.repeat(image_format), strict=False)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done, picture in enumerate(pool.map(_draw_one, jobs, chunksize=50)):
            pictures[done] = picture
            if (done + 1) % max(1, len(seeds) // 10) == 0:
                seconds = time.monotonic() - began
                print(f"drawn {done + 1} of {len(seeds)} phantoms in {seconds:.0f} s", flush=True)
    np.save(stored, pictures)
    return pictures, findings


def _draw_one(job: tuple[int, ImageFormat]) -> Pictures:
    seed, image_format = job
    prepared = prepare(draw_phantom(seed).picture, image_format)[0]  # (size, size)
    picture: Pictures = (prepared * image_format.std[0] + image_format.mean[0]).astype(np.float16)
    return picture


def shift(images: Tensor, farthest_px: int, rng: np.random.Generator) -> Tensor:
    """Shift a batch of images (b, 3, size, size) by the same random distance, edges coming in again."""
    if not farthest_px:
        return images
    down, across = (int(value) for value in rng.integers(-farthest_px, farthest_px + 1, 2))
    return images.roll((down, across), (2, 3))


def to_channels(pictures: Pictures, image_format: ImageFormat) -> Tensor:
    """Turn grey pictures (b, size, size) in [0, 1] into the normalised images (b, 3, size, size) of `prepare`."""
    grey = torch.from_numpy(pictures.astype(np.float32))[:, None]
    mean = torch.tensor(image_format.mean)[None, :, None, None]
    std = torch.tensor(image_format.std)[None, :, None, None]
    return (grey - mean) / std


# The model


def build_model(
    options: FinetuneOptions, image_size: int, tokenizer: PreTrainedTokenizerFast
) -> LlavaForConditionalGeneration:
    """Build the model with random weights from the run's seed."""
    vision = CLIPVisionConfig(
        hidden_size=options.tower.hidden_size,
        intermediate_size=options.tower.intermediate_size,
        num_hidden_layers=options.tower.layers,
        num_attention_heads=options.tower.heads,
        image_size=image_size,
        patch_size=options.tower.patch_size,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.language.hidden_size,
        intermediate_size=options.language.intermediate_size,
        num_hidden_layers=options.language.layers,
        num_attention_heads=options.language.heads,
        num_key_value_heads=options.language.heads,
        max_position_embeddings=options.language.longest,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(prompts.IMAGE),
        image_seq_length=(image_size // options.tower.patch_size) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(options.seed)
    model = LlavaForConditionalGeneration(config)
    # Greedy decoding is what serving does; the saved directory says so.
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def vocabulary_texts(preset: CheckPreset, instructions: dict[str, str], findings: Iterable[Findings]) -> list[str]:
    """Return what the tokenizer learns its vocabulary from: everything the model is asked and answers."""
    texts = [write_report(found, language) for found in itertools.islice(findings, 1000) for language in LANGUAGES]
    for language in LANGUAGES:
        texts.append(prompts.question_after_image(instructions[language]))
        for check in preset.checks:
            texts.append(prompts.question_after_image(check.question[language]))
            texts += [f" {answer.text[language]}" for answer in check.answers]
    return texts


def patch_features(tower: nn.Module, images: Tensor) -> Tensor:
    """Return the patches (b, patches, width) that the projector is given."""
    states: Tensor = tower(pixel_values=images).last_hidden_state  # (b, 1 + patches, width)
    return states[:, 1:]


def label_scores(tower: nn.Module, head: nn.Module, images: Tensor) -> Tensor:
    """Score each finding label (b, labels): its largest score over the patches, so that one patch suffices."""
    scores: Tensor = head(patch_features(tower, images))  # (b, patches, labels)
    return scores.amax(1)


# Questions and answers


def conversations(
    found: Findings,
    preset: CheckPreset,
    instructions: dict[str, str],
    report_weight: float,
    rng: np.random.Generator,
) -> list[list[Turn]]:
    """Return what is said about one phantom in one language: the report, every check, and one longer talk."""
    language = LANGUAGES[int(rng.integers(len(LANGUAGES)))]
    truth = found.answers()
    report = Turn(question=instructions[language], answer=write_report(found, language), weight=report_weight)
    asked = [
        Turn(question=check.question[language], answer=check.answer(truth[check.id]).text[language])
        for check in preset.checks
    ]
    order = rng.permutation(len(asked))
    return [[report], *([turn] for turn in asked), [asked[order[0]], asked[order[1]]]]


def language_states(model: LlavaForConditionalGeneration, patches: Tensor, packed: Packed) -> Tensor:
    """Run the language model over packed sequences and return its last states (b, s, width)."""
    image = model.model.multi_modal_projector(patches)  # (b, patches, width)
    embedded = model.get_input_embeddings()(packed.input_ids)  # (b, s, width)
    places = (packed.input_ids == model.config.image_token_id)[..., None].expand_as(embedded)
    states: Tensor = model.model.language_model(
        inputs_embeds=embedded.masked_scatter(places, image.to(embedded.dtype)),
        attention_mask=packed.attention,
        position_ids=packed.position_ids,
        use_cache=False,
    ).last_hidden_state
    return states


def check_accuracy(
    model: LlavaForConditionalGeneration,
    packer: Packer,
    tokenizer: PreTrainedTokenizerFast,
    patches: Tensor,
    findings: list[Findings],
    preset: CheckPreset,
) -> dict[str, float]:
    """Return the share of right answers per check and language, by the first token of each allowed answer."""
    accuracy = {}
    for language in LANGUAGES:
        asked = [[Turn(question=check.question[language], answer=None)] for check in preset.checks]
        allowed = [first_tokens(tokenizer, check, language) for check in preset.checks]
        right = np.zeros(len(preset.checks))
        for start in range(0, len(findings), 50):
            part = findings[start : start + 50]
            packed = packer.pack([asked] * len(part))
            logits = model.lm_head(language_states(model, patches[start : start + 50], packed))  # (b, s, vocabulary)
            for index, check in enumerate(preset.checks):
                scores = logits[:, packed.ends[0][index], allowed[index]]  # (b, answers)
                best = [check.answers[choice].id for choice in scores.argmax(1).tolist()]
                right[index] += sum(
                    answer == found.answers()[check.id] for answer, found in zip(best, part, strict=True)
                )
        for check, count in zip(preset.checks, right, strict=True):
            accuracy[f"{check.id} {language}"] = float(count) / len(findings)
    return accuracy


def first_tokens(tokenizer: PreTrainedTokenizerFast, check: Check, language: str) -> list[int]:
    """Return the first token of each allowed answer, which must differ from answer to answer."""
    tokens = [
        tokenizer.encode(prompts.answer(answer.text[language]), add_special_tokens=False)[0] for answer in check.answers
    ]
    if len(set(tokens)) != len(tokens):
        message = f"two answers of check {check.id} begin with the same token"
        raise ValueError(message)
    return tokens


# The loop


class Trainer:
    """Runs one stage after the other, writes the curve, and remembers how far it came."""

    def __init__(self, run: Path, options: FinetuneOptions) -> None:
        self._run = run
        self._options = options
        self._curve = run / "curve.csv"
        #: The last validation of each stage.
        self.last: dict[str, dict[str, float]] = {}

    def train(
        self,
        stage: str,
        options: StageOptions,
        module: nn.Module,
        loss_of: Callable[[int], Tensor],
        validate: Callable[[], dict[str, float]],
    ) -> None:
        """Train `module` for the steps of a stage; a finished or interrupted stage is taken up where it stood."""
        optimizer = torch.optim.AdamW(module.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        checkpoint = self._run / f"{stage}.pt"
        first = 0
        if checkpoint.exists():
            stored = torch.load(checkpoint, weights_only=True)
            module.load_state_dict(stored["module"])
            optimizer.load_state_dict(stored["optimizer"])
            first, self.last[stage] = int(stored["step"]), stored["validation"]
            print(f"{stage}: goes on at step {first}", flush=True)
        module.train()
        began, losses = time.monotonic(), []
        for step in range(first, options.steps):
            rate = learning_rate(step, options)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(step)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            done = step + 1
            at_end = done == options.steps
            if done % self._options.validate_every_steps == 0 or at_end:
                module.eval()
                self.last[stage] = validate()
                module.train()
            if done % self._options.report_every_steps == 0 or at_end:
                self._report(stage, done, options.steps, losses, time.monotonic() - began, done - first)
                losses = []
            if done % self._options.checkpoint_every_steps == 0 or at_end:
                self._save(checkpoint, module, optimizer, done, stage)
        module.eval()

    def _report(self, stage: str, done: int, steps: int, losses: list[float], seconds: float, since: int) -> None:
        loss = sum(losses) / len(losses)
        left = seconds / since * (steps - done)
        known = self.last.get(stage, {})
        worst = min(known, key=known.__getitem__) if known else ""
        tail = f"  mean {np.mean(list(known.values())):.3f}  worst {worst} {known[worst]:.3f}" if known else ""
        print(f"{stage}: step {done} of {steps}  loss {loss:.4f}  {left / 60:.1f} min left{tail}", flush=True)
        if not self._curve.exists():
            self._curve.write_text("stage,step,loss\n", encoding="utf-8")
        with self._curve.open("a", encoding="utf-8") as curve:
            curve.write(f"{stage},{done},{loss:.6f}\n")

    def _save(
        self, checkpoint: Path, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, stage: str
    ) -> None:
        state = {
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "validation": self.last.get(stage, {}),
        }
        # Written beside and renamed, so that an interruption leaves the older checkpoint whole.
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(checkpoint)


def learning_rate(step: int, options: StageOptions) -> float:
    """Return the learning rate of a step: a straight rise, then a cosine down to a hundredth."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    progress = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    return options.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


# What is recorded


def code_revision() -> str:
    """Return the commit, marked where what a training depends on was changed since; empty outside a checkout."""
    try:
        revision = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", *DEPENDS_ON)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{revision} with changes" if changed else revision


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _digest(pictures: Pictures, findings: list[Findings]) -> str:
    digest = hashlib.sha256(pictures.tobytes())
    digest.update(json.dumps([found.answers() for found in findings], sort_keys=True).encode())
    return digest.hexdigest()


def _refuse_another_run(run: Path, settled: str) -> None:
    earlier = run / "config.yaml"
    if earlier.exists() and earlier.read_text(encoding="utf-8") != settled:
        message = f"{run} holds a run with other options; move it away or give this run another name"
        raise SettingsError(message)


def _parts(pictures: Pictures, size: int = 250) -> Iterable[Pictures]:
    return (pictures[start : start + size] for start in range(0, len(pictures), size))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
