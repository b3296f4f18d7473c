"""Which studies get which model, checks and destinations: plain matching on attributes, first match wins."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from casebook.checks import load_yaml
from casebook.errors import SettingsError
from casebook.study import Instance


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Pipeline(_Frozen):
    """One file of `config/pipelines/`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    #: Smaller numbers are asked first.
    order: int = 100
    #: DICOM keyword -> patterns (`*` and `?`, case-sensitive); one of them has to fit one image of the study,
    #: and all keywords have to fit the same image. Modality and SOPClassUID are always present.
    match: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    #: Entry of `config/models/`.
    model: str
    #: Preset of `config/checks/`.
    checks: str
    #: Language of the draft: en or zh.
    language: str = Field(pattern=r"^(en|zh)$")
    #: Names of destinations in `config/node.yaml`.
    destinations: tuple[str, ...] = Field(min_length=1)
    #: 0 is STAT, 9 can wait.
    priority: int = Field(default=5, ge=0, le=9)

    def matches(self, attributes: Mapping[str, str]) -> bool:
        """Say whether one image, given by keyword, is what this pipeline wants."""
        return all(
            any(fnmatchcase(attributes.get(keyword, ""), pattern) for pattern in patterns)
            for keyword, patterns in self.match.items()
        )


def load_pipelines(directory: Path) -> tuple[Pipeline, ...]:
    """Load every file of `config/pipelines/`, in the order in which they are asked.

    Raises
    ------
    SettingsError
        When the directory holds no pipeline, one is wrong, or a name stands twice.
    """
    pipelines = [load_yaml(path, Pipeline) for path in sorted(directory.glob("*.yaml"))]
    if not pipelines:
        raise SettingsError(f"{directory}: no pipeline (*.yaml) here, so no study would ever be read")
    names = [pipeline.name for pipeline in pipelines]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{directory}: two pipelines are named {name}")
    return tuple(sorted(pipelines, key=lambda pipeline: (pipeline.order, pipeline.name)))


def choose(pipelines: Sequence[Pipeline], instances: Sequence[Instance]) -> Pipeline | None:
    """Return the first pipeline that wants an image of this study, or None."""
    images = [{"Modality": one.modality, "SOPClassUID": one.sop_class_uid, **one.attributes} for one in instances]
    return next((pipe for pipe in pipelines if any(pipe.matches(image) for image in images)), None)
