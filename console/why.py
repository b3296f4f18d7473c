"""``wetread why``: what one study waits for, in one sentence, and everything that happened to it."""

import dataclasses
import json
import sys
import time
from pathlib import Path

import click

from casebook.audit import AuditEvent
from casebook.wiring import wire
from console.explain import Explanation, explain
from console.options import directories, no_such_study
from console.screen import say


@click.command
@click.argument("study_instance_uid")
@click.option("--json", "as_json", is_flag=True, help="The same facts for machines.")
@click.option(
    "--show-patient-ids", is_flag=True, help="Name the PatientIDs of a study that is held because they differ."
)
@directories
def why(
    study_instance_uid: str,
    *,
    as_json: bool,
    show_patient_ids: bool,
    config_directory: Path | None,
    data_directory: Path | None,
) -> None:
    """Say what a study waits for and what to do; exit code 1 when it needs a person.

    PatientIDs are not shown unless asked for: the output of this command is pasted into tickets and logs.
    """
    wiring = wire(config_directory, data_directory)
    try:
        with wiring.read() as connection:
            explanation = explain(
                connection,
                study_instance_uid,
                settings=wiring.settings,
                now=wiring.clock.now(connection),
                show_patient_ids=show_patient_ids,
            )
    except KeyError:
        raise no_such_study(study_instance_uid) from None
    say(json.dumps(as_dict(explanation)) if as_json else in_words(explanation))
    sys.exit(1 if explanation.needs_a_person else 0)


def in_words(explanation: Explanation) -> str:
    """Return the explanation as an operator reads it."""
    lines = [explanation.sentence]
    if explanation.advice:
        lines.append(explanation.advice)
    lines += [f"  {_time(event.at)}  {_sentence(event)}" for event in explanation.timeline]
    return "\n".join(lines)


def as_dict(explanation: Explanation) -> dict[str, object]:
    """Return the same facts for machines."""
    return dataclasses.asdict(explanation)


def _sentence(event: AuditEvent) -> str:
    said = event.action.replace("_", " ")
    if event.action == "first_image_received" or event.actor.startswith("person "):
        said += f" from {event.actor}" if event.action == "first_image_received" else f" by {event.actor}"
    return f"{said}: {event.detail}" if event.detail else said


def _time(at: float) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))}.{int(at * 1000) % 1000:03d}"
