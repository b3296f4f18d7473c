"""Every option of a fine-tuning run, typed, with its unit; an unknown key is refused with the nearest right one."""

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from casebook.checks import load_yaml

#: Phantom seeds below this one are for demos and evaluation; a model is trained on others only.
FIRST_TRAINING_SEED = 1_000_000


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                    hint = f"; did you mean {near[0]}?" if near else ""
                    message = f"unknown key {key}{hint}"
                    raise ValueError(message)
        return data


class DataOptions(_Options):
    """Which phantoms are trained on."""

    first_seed: int = Field(default=FIRST_TRAINING_SEED, ge=FIRST_TRAINING_SEED)
    """Seed of the first training phantom; the others follow it."""
    count: int = Field(default=20_000, ge=1)
    """Training phantoms."""
    validation_count: int = Field(default=300, ge=1)
    """Phantoms after the training phantoms that only the curve sees."""
    processes: int = Field(default=2, ge=1)
    """Processes that draw phantoms."""


class TowerOptions(_Options):
    """Shape of the vision tower."""

    patch_size: int = Field(default=14, ge=1)
    """Side of one patch, in pixels."""
    hidden_size: int = Field(default=128, ge=1)
    """Width of a patch."""
    intermediate_size: int = Field(default=384, ge=1)
    """Width inside a feed-forward layer."""
    layers: int = Field(default=3, ge=1)
    """Transformer layers."""
    heads: int = Field(default=4, ge=1)
    """Attention heads."""


class LanguageOptions(_Options):
    """Shape of the language model and of its vocabulary."""

    vocabulary: int = Field(default=640, ge=300)
    """Tokens, the 256 bytes and four special tokens included."""
    hidden_size: int = Field(default=192, ge=1)
    """Width of a token."""
    intermediate_size: int = Field(default=512, ge=1)
    """Width inside a feed-forward layer."""
    layers: int = Field(default=4, ge=1)
    """Transformer layers."""
    heads: int = Field(default=4, ge=1)
    """Attention heads."""
    longest: int = Field(default=1024, ge=128)
    """Longest sequence the model is made for, in tokens, the image included."""


class StageOptions(_Options):
    """One stage of training."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch: int = Field(ge=1)
    """Images per step."""
    learning_rate: float = Field(gt=0)
    """Highest learning rate, reached after the warm-up; it then falls along a cosine."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps over which the learning rate rises from zero."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW weight decay."""
    shift_px: int = Field(default=0, ge=0)
    """Farthest an image is shifted each way, in pixels of the model input; images are otherwise as served."""


class FinetuneOptions(_Options):
    """A run of `training/finetune.py`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Name of the run; its folder below `runs_directory` has it too."""
    seed: int = Field(default=0, ge=0)
    """Seeds the weights and the order of examples: the same seed gives the same losses on the same machine."""
    runs_directory: Path = Path("runs")
    """Where run folders are made, relative to the repository."""
    model_entry: Path
    """File of `config/models/` whose image format and prompts the model is trained for."""
    checks: Path
    """File of `config/checks/` whose questions the model learns to answer."""
    threads: int = Field(default=2, ge=1)
    """CPU threads."""
    data: DataOptions = DataOptions()
    """The phantoms."""
    tower: TowerOptions = TowerOptions()
    """The vision tower."""
    language: LanguageOptions = LanguageOptions()
    """The language model."""
    tower_stage: StageOptions
    """First stage: the tower learns the finding labels."""
    language_stage: StageOptions
    """Second stage: projector and language model learn to answer and to report; the tower is frozen."""
    report_weight: float = Field(default=1.0, gt=0)
    """Weight of a report token in the loss of the second stage; a check's answer token has weight 1."""
    report_every_steps: int = Field(default=50, ge=1)
    """Optimizer steps between two points of the curve."""
    validate_every_steps: int = Field(default=250, ge=1)
    """Optimizer steps between two validations."""
    checkpoint_every_steps: int = Field(default=250, ge=1)
    """Optimizer steps between two checkpoints, from which a run that was interrupted goes on."""


def load_options(path: Path) -> FinetuneOptions:
    """Load a file of `config/training/`.

    Raises
    ------
    SettingsError
        When the file is missing or wrong; names the file, the key and the nearest right key.
    """
    return load_yaml(path, FinetuneOptions)
