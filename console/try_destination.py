"""``wetread test-destination``: would a destination take our results, and if not, why not."""

import sys
from pathlib import Path

import click

from casebook.settings import load_settings
from console.options import directories
from console.screen import say


@click.command
@click.argument("name")
@directories
def try_destination(name: str, *, config_directory: Path | None, data_directory: Path | None) -> None:
    """Connect to the destination NAME as a send does; exit code 1 when it would take nothing.

    A DICOM destination is asked for an association and by C-ECHO, an HL7 destination for a connection; nothing is sent.
    """
    from dicom_node.results.reachability import reach

    settings = load_settings(config_directory, data_directory)
    names = [one.name for one in settings.destinations]
    if name not in names:
        raise click.UsageError(f"no destination is named {name}; there are: {', '.join(names) or 'none'}")
    reached = reach(settings.destination(name))
    for sentence in reached.said:
        say(sentence)
    say(f"{name} {'can be sent to' if reached.is_good else 'cannot be sent to'}.")
    sys.exit(0 if reached.is_good else 1)
