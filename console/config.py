"""``wetread config check``: read every file of a configuration folder and say what is wrong, without starting."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from casebook import device
from casebook.checks import load_checks
from casebook.errors import SettingsError, WetreadError
from casebook.pipelines import load_pipelines
from casebook.settings import Hl7Destination, Settings, load_settings
from console.options import directories
from console.screen import say


@click.group
def config() -> None:
    """The configuration in force."""


@config.command
@directories
def check(config_directory: Path | None, data_directory: Path | None) -> None:
    """Read every file of the configuration folder; exit code 1 when one is wrong."""
    try:
        settings = load_settings(config_directory, data_directory)
    except WetreadError as error:
        say(f"fail  node.yaml   {error}")
        if "result_status" in str(error):
            say(_result_status_in_words())
        sys.exit(1)
    is_named = _is_named(settings)
    if is_named:
        say(f"ok    node.yaml   {_count(len(settings.destinations), 'destination')}, AE {settings.listener.ae_title}")
    results = [_try(name, look, settings) for name, look in _FILES.items()]
    sys.exit(0 if is_named and all(results) else 1)


def _is_named(settings: Settings) -> bool:
    try:
        device.require_named(settings)
    except SettingsError as error:
        say(f"fail  node.yaml   {error}")
        return False
    return True


def _result_status_in_words() -> str:
    text = (Hl7Destination.model_fields["result_status"].description or "").replace("\n", " ")
    return f"      Every HL7 destination has to say it; both choices have a price. {text}"


def _check_pipelines(settings: Settings) -> Sequence[str]:
    pipelines = load_pipelines(settings.config_directory / "pipelines")
    for pipeline in pipelines:
        for destination in pipeline.destinations:
            settings.destination(destination)
        load_checks(settings.config_directory / "checks" / f"{pipeline.checks}.yaml")
    return [", ".join(pipeline.name for pipeline in pipelines)]


def _check_checks(settings: Settings) -> Sequence[str]:
    found = [load_checks(path) for path in sorted((settings.config_directory / "checks").glob("*.yaml"))]
    return [", ".join(f"{preset.name} {preset.version} ({_count(len(preset.checks), 'check')})" for preset in found)]


def _check_models(settings: Settings) -> Sequence[str]:
    from worker.reader.registry import find_entry, load_registry

    entries = load_registry(settings.config_directory / "models")
    warnings = []
    for pipeline in load_pipelines(settings.config_directory / "pipelines"):
        entry = find_entry(entries, pipeline.model)
        if entry.directory is not None and not entry.directory.is_dir():
            raise SettingsError(f"model {entry.name} of pipeline {pipeline.name}: {entry.directory} does not exist")
        if not entry.clinical:
            warnings.append(
                f"pipeline {pipeline.name} reads with {entry.name}, which is for research only (clinical: false): "
                f"its drafts are not for patients; what it knows stands on its card"
            )
    return [", ".join(f"{name} {entry.version}" for name, entry in entries.items()), *warnings]


#: What reads each kind of file: it returns what is there, then what a person should know about it.
_FILES: dict[str, Callable[[Settings], Sequence[str]]] = {
    "pipelines": _check_pipelines,
    "checks": _check_checks,
    "models": _check_models,
}


def _try(name: str, look: Callable[[Settings], Sequence[str]], settings: Settings) -> bool:
    try:
        found, *warnings = look(settings)
    except ModuleNotFoundError:
        # This machine has another role: what it cannot read it does not use.
        say(f"skip  {name:<11} the packages for it are not installed here")
        return True
    except WetreadError as error:
        say(f"fail  {name:<11} {error}")
        return False
    say(f"ok    {name:<11} {found}")
    for warning in warnings:
        say(f"warn  {name:<11} {warning}")
    return True


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
