"""Preset checks: what the model is asked about every study, and how a report text is asked the same."""

import hashlib
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from casebook.errors import SettingsError
from casebook.reading import canonical_json
from casebook.study import CodedConcept

#: Answers that say a finding is absent.
ABSENT = frozenset({"no", "none"})

#: PS3.5 6.2: LO holds 64 characters; validators count bytes.
_CODE_MEANING_BYTES = 64


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error.msg}") from None
    return text


def _answer_id(value: object) -> object:
    # YAML reads an unquoted yes and no as true and false.
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


Pattern = Annotated[str, AfterValidator(_pattern)]
AnswerId = Annotated[str, BeforeValidator(_answer_id)]
Model = TypeVar("Model", bound=BaseModel)


class CheckKind(StrEnum):
    """How a check is answered."""

    #: Exactly the answers "yes" and "no".
    YES_NO = "yes_no"
    #: One of the listed answers.
    CHOICE = "choice"


class AllowedAnswer(_Frozen):
    """One of the answers a closed check allows."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    text: dict[str, str]
    #: language -> what a draft says, where that is not what the model is asked in.
    shown: dict[str, str] = Field(default_factory=dict)
    code: CodedConcept | None = None

    def shown_in(self, language: str) -> str:
        """Return the answer as a draft says it."""
        return self.shown.get(language, self.text[language])


class Check(_Frozen):
    """One question with its allowed answers."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    label: str
    code: CodedConcept | None = None
    kind: CheckKind
    #: language -> what the model is asked.
    question: dict[str, str]
    #: language -> what a draft says, where that is not what the model is asked.
    shown: dict[str, str] = Field(default_factory=dict)
    answers: tuple[AllowedAnswer, ...] = Field(min_length=2)
    #: Other check -> the answer it has to have, or a draft says nothing of this one.
    only_if: dict[str, AnswerId] = Field(default_factory=dict)
    #: A lower one stands earlier in the impression and among the checks.
    urgency: int = 100
    undetermined_below: float = Field(default=0.6, ge=0, le=1)
    #: language -> answer id -> patterns that say so in a report text.
    in_report: dict[str, dict[str, tuple[Pattern, ...]]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        ids = [answer.id for answer in self.answers]
        if len(set(ids)) != len(ids):
            raise ValueError(f"check {self.id}: an answer id stands twice")
        if self.kind is CheckKind.YES_NO and set(ids) != {"yes", "no"}:
            raise ValueError(f"check {self.id}: a yes_no check has exactly the answers yes and no")
        if len(self.label.encode()) > _CODE_MEANING_BYTES:
            raise ValueError(f"check {self.id}: the label is longer than {_CODE_MEANING_BYTES} bytes")
        for answer in self.answers:
            if set(answer.text) != set(self.question):
                raise ValueError(f"check {self.id}: answer {answer.id} misses a language of the question")
            if not set(answer.shown) <= set(self.question):
                raise ValueError(f"check {self.id}: answer {answer.id} is shown in a language without a question")
        if not set(self.shown) <= set(self.question):
            raise ValueError(f"check {self.id}: it is shown in a language without a question")
        for language, patterns in self.in_report.items():
            if language not in self.question or not set(patterns) <= set(ids):
                raise ValueError(f"check {self.id}: in_report names an unknown language or answer")
        return self

    def answer(self, answer_id: str) -> AllowedAnswer:
        """Return the allowed answer with this id."""
        return next(answer for answer in self.answers if answer.id == answer_id)

    def shown_in(self, language: str) -> str:
        """Return the question as a draft says it."""
        return self.shown.get(language, self.question[language])


class CheckPreset(_Frozen):
    """A named, versioned list of checks."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: str
    checks: tuple[Check, ...]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        ids = [check.id for check in self.checks]
        if len(set(ids)) != len(ids):
            raise ValueError("a check id stands twice")
        return self

    @model_validator(mode="after")
    def _conditions_are_known(self) -> Self:
        earlier: dict[str, Check] = {}
        for check in self.checks:
            for other, answer_id in check.only_if.items():
                # Only earlier ones, so that no two checks can wait for each other.
                if other not in earlier:
                    raise ValueError(f"check {check.id}: only_if names {other}, which is no check before it")
                if answer_id not in {answer.id for answer in earlier[other].answers}:
                    raise ValueError(f"check {check.id}: only_if names an answer that {other} does not have")
            earlier[check.id] = check
        return self

    @property
    def sha256(self) -> str:
        """SHA-256 of the preset as loaded, whatever the layout of its file."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()


def load_checks(path: Path) -> CheckPreset:
    """Load one file of `config/checks/`.

    Raises
    ------
    SettingsError
        When the file is missing or wrong; names the file and each key.
    """
    return load_yaml(path, CheckPreset)


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Load a YAML file into a frozen model; unknown keys are refused by name.

    Raises
    ------
    SettingsError
        When the file is missing, is not YAML, or does not fit the model.
    """
    try:
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise SettingsError(f"{path}{f':{mark.line + 1}' if mark else ''}: not valid YAML") from None
    except ValueError as error:
        raise SettingsError(f"{path}: {_explain(error)}") from None


def _explain(error: ValueError) -> str:
    # pydantic's errors carry the place and the reason; the input is left out because it may be a secret.
    lines = getattr(error, "errors", None)
    if lines is None:
        return str(error)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in lines(include_input=False))
