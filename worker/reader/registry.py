"""The models a site knows: one file of `config/models/` each; nothing is loaded until it is used."""

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from casebook.checks import load_yaml
from casebook.errors import ModelRefused, SettingsError
from casebook.settings import SHIPPED_CONFIG_DIRECTORY
from worker.reader.model_input import Fit, ImageFormat
from worker.reader.projection import Projection

#: Bytes read at once when a model is hashed.
_BLOCK_BYTES = 1 << 20


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


class EntryKind(StrEnum):
    """How a model is run; the loader is chosen by this and never by a name."""

    #: A transformers directory on this machine, loaded without foreign code.
    NATIVE = "native"
    #: Known, and known not to be runnable; the entry says why.
    UNAVAILABLE = "unavailable"


class Unstated(StrEnum):
    """What becomes of a film whose header says nothing about its projection."""

    #: It is read where no film of the study states that it is frontal, and the draft says so.
    READ = "read"
    #: It is never shown.
    REFUSE = "refuse"


class Captures(StrEnum):
    """What becomes of secondary captures."""

    #: None is shown.
    REFUSE = "refuse"
    #: Grey films that a film scanner or an older plate reader sent as captures are shown.
    FILMS = "films"


class Patients(StrEnum):
    """Whom a model was made for."""

    #: A study of an animal is refused.
    PEOPLE = "people"
    #: Nobody looks.
    ANY = "any"


class ImageEntry(_Frozen):
    """What the model expects of its images."""

    size: int = Field(gt=0)
    """Rows and columns of the square the tower takes, in pixels."""
    mean: tuple[float, float, float]
    """Mean per channel of images in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation per channel of images in [0, 1]."""
    fit: Fit = Fit.PAD
    """How a rectangle becomes a square."""
    max_images: int = Field(default=1, ge=1)
    """Images of one study the model takes at once."""
    windows: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Modality -> named windows in which each slice is shown; the own window where absent or not in HU."""
    projections: tuple[Projection, ...] = (
        Projection.POSTERO_ANTERIOR,
        Projection.ANTERO_POSTERIOR,
        Projection.FRONTAL,
        Projection.LATERAL,
    )
    """Projections of films the model may see: pa, ap, frontal, lateral, oblique, axial, decubitus. A lateral film is
    shown beside another one and never alone, unless nothing but lateral stands here."""
    unstated_projection: Unstated = Unstated.READ
    """A film whose header says nothing of its projection: read it and say so in the draft, or refuse it. View
    Position may be empty (type 2 in CR), so refusing it refuses some hospitals."""
    secondary_captures: Captures = Captures.REFUSE
    """Secondary captures: refuse all, or take the films among them (a film scanner, an old plate reader)."""

    @field_validator("projections")
    @classmethod
    def _is_readable(cls, value: tuple[Projection, ...]) -> tuple[Projection, ...]:
        if {Projection.UNSTATED, Projection.UNKNOWN} & set(value) or not value:
            raise ValueError("projections are pa, ap, frontal, lateral, oblique, axial and decubitus")
        return value

    @field_validator("std")
    @classmethod
    def _is_positive(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) <= 0:
            raise ValueError("a standard deviation has to be positive")
        return value

    @property
    def format(self) -> ImageFormat:
        """What `model_input.prepare` takes."""
        return ImageFormat(size=self.size, mean=self.mean, std=self.std, fit=self.fit)


class PromptsEntry(_Frozen):
    """The instructions the model was taught."""

    draft: dict[str, str] = Field(min_length=1)
    """Language -> instruction that asks for the draft report."""


class GenerateEntry(_Frozen):
    """How a draft is written; decoding is always greedy."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Tokens after which a draft that has not ended is refused."""


class ModelEntry(_Frozen):
    """One file of `config/models/`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_.-]*$")
    """Name pipelines use."""
    version: str
    """Version of the weights, printed in every draft."""
    kind: EntryKind
    """How the model is run."""
    reason: str = ""
    """Why an unavailable model is unavailable."""
    directory: Path | None = None
    """Where the weights lie; relative paths count from the folder that holds the configuration folder."""
    licence: str
    """Licence of the weights."""
    clinical: bool
    """The licence allows clinical use."""
    content_qualification: str = Field(default="RESEARCH", pattern="^(RESEARCH|PRODUCT|SERVICE)$")
    """ContentQualification (0018,9004) of every draft."""
    calibrated: bool = False
    """Its probabilities were compared with how often it is right; a draft shows them only then."""
    languages: tuple[str, ...] = Field(min_length=1)
    """Languages the model was taught: en, zh."""
    modalities: tuple[str, ...] = Field(min_length=1)
    """Modalities the model was made for; another study is refused."""
    body_parts: tuple[str, ...] = ()
    """BodyPartExamined values the model was made for; any where empty. An absent value is not held against it."""
    patients: Patients = Patients.PEOPLE
    """people: a study whose objects name an animal, a breed or an owner is refused; any: nobody looks."""
    pictures: Path | None = None
    """How the films look that the model was made for (`training/measure_pictures.py`): a film outside is put aside.
    A relative path counts from the folder of the entry; without it, films get the general checks alone."""
    image: ImageEntry
    """What the model expects of its images."""
    prompts: PromptsEntry
    """The instructions the model was taught."""
    generate: GenerateEntry = GenerateEntry()
    """How a draft is written."""
    expects_missing: tuple[str, ...] = ()
    """Weights that may be absent from the directory: exact names."""
    expects_unexpected: tuple[str, ...] = ()
    """Weights in the directory that the architecture has no place for: exact names."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.kind is EntryKind.NATIVE and self.directory is None:
            raise ValueError("a native model needs its directory")
        if self.kind is EntryKind.UNAVAILABLE and not self.reason:
            raise ValueError("an unavailable model needs the reason")
        absent = [language for language in self.languages if language not in self.prompts.draft]
        if absent:
            raise ValueError(f"prompts.draft misses the language {absent[0]}")
        return self


def load_entry(path: Path) -> ModelEntry:
    """Load one file of `config/models/`; a relative directory becomes absolute.

    Raises
    ------
    SettingsError
        When the file is missing or wrong; names the file and each key.
    """
    entry = load_yaml(path, ModelEntry)
    if entry.pictures is not None:
        entry = entry.model_copy(update={"pictures": _beside_or_shipped(path, entry.pictures)})
    if entry.directory is None or entry.directory.is_absolute():
        return entry
    # Beside the site's own config folder first; a site that copied only config/ gets the model that ships with us.
    beside = path.resolve().parent.parent.parent / entry.directory
    shipped = SHIPPED_CONFIG_DIRECTORY.parent / entry.directory
    return entry.model_copy(update={"directory": beside if beside.is_dir() or not shipped.is_dir() else shipped})


def _beside_or_shipped(path: Path, pictures: Path) -> Path:
    beside = path.resolve().parent / pictures
    shipped = SHIPPED_CONFIG_DIRECTORY / "models" / pictures
    if not beside.is_file() and not shipped.is_file():
        raise SettingsError(f"{path}: pictures: no such file: {pictures}")
    return beside if beside.is_file() else shipped


def load_registry(directory: Path) -> dict[str, ModelEntry]:
    """Load every file of `config/models/`, by the name the entry gives itself.

    Raises
    ------
    SettingsError
        When a file is wrong or a name stands twice.
    """
    entries: dict[str, ModelEntry] = {}
    for path in sorted(directory.glob("*.yaml")):
        entry = load_entry(path)
        if entry.name in entries:
            raise SettingsError(f"{path}: another file already names a model {entry.name}")
        entries[entry.name] = entry
    return entries


def find_entry(entries: dict[str, ModelEntry], name: str) -> ModelEntry:
    """Return the entry of this name.

    Raises
    ------
    SettingsError
        When there is none; lists those there are.
    """
    if name not in entries:
        raise SettingsError(f"no model is named {name}; config/models has {', '.join(sorted(entries)) or 'none'}")
    return entries[name]


def model_files(directory: Path) -> Sequence[Path]:
    """List the files that make up a model, in a fixed order; hidden ones are not part of it."""
    found = [path for path in directory.rglob("*") if path.is_file()]
    return sorted(
        (path for path in found if not any(part.startswith(".") for part in path.relative_to(directory).parts)),
        key=lambda path: path.relative_to(directory).as_posix(),
    )


def digest(directory: Path) -> str:
    """Identify a model by everything in its directory: names and contents, whatever the order on disk.

    Returns
    -------
        64 hexadecimal digits: the SHA-256 over one line per file, its own SHA-256 and its relative path.

    Raises
    ------
    ModelRefused
        When the directory is missing or empty.
    """
    files = model_files(directory) if directory.is_dir() else ()
    if not files:
        raise ModelRefused(f"{directory}: no model lies here")
    whole = hashlib.sha256()
    for path in files:
        one = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                one.update(block)
        whole.update(f"{one.hexdigest()}  {path.relative_to(directory).as_posix()}\n".encode())
    return whole.hexdigest()
