"""``wetread dismiss``: a person ends what nobody can mend."""

import getpass
from pathlib import Path

import click

from casebook import decisions
from casebook.errors import WrongState
from console.options import directories, no_such_study, wire_with_wakeups
from console.screen import say


@click.command
@click.argument("study_instance_uid")
@click.option("--reason", required=True, help="Why, for the timeline of the study; without naming the patient.")
@directories
def dismiss(
    study_instance_uid: str, *, reason: str, config_directory: Path | None, data_directory: Path | None
) -> None:
    """End a held or dead study: nothing of it is sent any more, and it needs no person. A new image begins anew."""
    wiring = wire_with_wakeups(config_directory, data_directory)
    try:
        with wiring.write() as connection:
            decisions.dismiss(
                connection,
                study_instance_uid,
                reason=reason,
                now=wiring.clock.now(connection),
                actor=f"person {getpass.getuser()}",
            )
    except KeyError:
        raise no_such_study(study_instance_uid) from None
    except WrongState as error:
        raise click.UsageError(f"{error} (wetread why {study_instance_uid})") from None
    say(f"Dismissed, and nothing more is sent: wetread why {study_instance_uid}")
