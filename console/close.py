"""``wetread close``: a person says that a study has all its images."""

import getpass
from pathlib import Path

import click

from casebook import decisions
from casebook.errors import WrongState
from console.options import directories, no_such_study, wake_all, wire_with_wakeups
from console.screen import say


@click.command
@click.argument("study_instance_uid")
@directories
def close(study_instance_uid: str, config_directory: Path | None, data_directory: Path | None) -> None:
    """Have a study read now, without waiting for its quiet period or the archive's count."""
    wiring = wire_with_wakeups(config_directory, data_directory)
    try:
        with wiring.write() as connection:
            state = decisions.close(
                connection,
                study_instance_uid,
                terms=wiring.terms(connection),
                actor=f"person {getpass.getuser()}",
            )
    except KeyError:
        raise no_such_study(study_instance_uid) from None
    except WrongState as error:
        raise click.UsageError(f"{error} (wetread why {study_instance_uid})") from None
    wake_all(wiring)
    say(f"The study now is {state}: wetread why {study_instance_uid}")
