"""The `read` step on a real model directory: configuration, loading, drafting and scoring in one piece."""

from pathlib import Path

import pytest
import yaml

from casebook.errors import ModelRefused, SettingsError
from casebook.outcomes import Refused
from casebook.settings import Settings
from worker import read as step
from worker.reader.tests.tiny_llava import entry, save_tiny_llava
from worker.tests.fakes import PIPELINE, PRESET, Hospital

PIPELINE_OF_TINY = PIPELINE.model_copy(update={"model": "tiny"})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    save_tiny_llava(tmp_path / "models" / "tiny")
    described = entry(Path("models/tiny")).model_dump(mode="json", exclude={"reason"})
    for folder, name, content in (
        ("models", "tiny", described),
        ("checks", "chest", PRESET.model_dump(mode="json")),
    ):
        path = tmp_path / "config" / folder / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return Settings(data_directory=tmp_path, config_directory=tmp_path / "config")


def test_a_study_goes_through_a_real_model_and_its_babble_is_refused(settings: Settings) -> None:
    hospital = Hospital(settings.data_directory)
    hospital.send()

    step.warm(settings, [PIPELINE_OF_TINY])
    outcome = step.read(hospital.case(pipeline=PIPELINE_OF_TINY), settings)

    # Random weights write twelve tokens of noise and no end mark.
    assert outcome == Refused(reason="unusable_draft", detail="The model did not come to an end.")


def test_a_language_the_model_was_not_taught_is_an_error_of_the_configuration(settings: Settings) -> None:
    hospital = Hospital(settings.data_directory)
    hospital.send()
    chinese = PIPELINE_OF_TINY.model_copy(update={"language": "zh"})

    with pytest.raises(SettingsError, match="does not write zh"):
        step.read(hospital.case(pipeline=chinese), settings)


def test_a_model_whose_weights_are_gone_is_refused_by_name(settings: Settings) -> None:
    (settings.data_directory / "models" / "tiny" / "model.safetensors").unlink()

    with pytest.raises(ModelRefused, match="tiny"):
        step.warm(settings, [PIPELINE_OF_TINY])
