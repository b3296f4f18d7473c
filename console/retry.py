"""``wetread retry``: give what died, was refused or was wanted by no pipeline another try."""

import contextlib
import getpass
from pathlib import Path

import click

from casebook import decisions, store
from casebook.errors import InvalidObject
from casebook.study import InstanceStatus, ReceivedInstance, StudyState
from casebook.wiring import Wiring
from console.options import directories, no_such_study, wake_all, wire_with_wakeups
from console.screen import say


@click.command
@click.argument("study_instance_uid", required=False)
@click.option("--all", "every", is_flag=True, help="Every study of which a step died, for instance after an outage.")
@directories
def retry(
    study_instance_uid: str | None, *, every: bool, config_directory: Path | None, data_directory: Path | None
) -> None:
    """Give the dead steps of a study fresh attempts, or look anew at one that was not read.

    Mend the cause first: the destination, the pipeline or the configuration. The headers of a held study are read anew
    from its files, so that a character set that was set for a sender counts for what it sent before.
    """
    if every == (study_instance_uid is not None):
        raise click.UsageError("name one study, or --all")
    wiring = wire_with_wakeups(config_directory, data_directory)
    said = _retry_one(wiring, study_instance_uid) if study_instance_uid else _retry_all(wiring)
    wake_all(wiring)
    say(said)


def _retry_one(wiring: Wiring, study_instance_uid: str) -> str:
    actor = f"person {getpass.getuser()}"
    try:
        described = _described_anew(wiring, study_instance_uid)
        with wiring.write() as connection:
            now = wiring.clock.now(connection)
            revived = decisions.retry_dead(connection, study_instance_uid, now=now, actor=actor)
            again = not revived and decisions.read_again(
                connection, study_instance_uid, now=now, actor=actor, described=described
            )
    except KeyError:
        raise no_such_study(study_instance_uid) from None
    if again:
        return f"The study will be looked at anew: wetread why {study_instance_uid}"
    if not revived:
        raise click.UsageError(f"nothing of this study is dead or was left unread (wetread why {study_instance_uid})")
    return f"{_steps(revived)} will be tried again: wetread why {study_instance_uid}"


def _described_anew(wiring: Wiring, study_instance_uid: str) -> list[ReceivedInstance]:
    """Read the headers of a study from its files, with the character sets that the settings name now."""
    with wiring.read() as connection:
        study = store.get_study(connection, study_instance_uid)
        # Only a hold is about texts.
        if study.state is not StudyState.HELD or not decisions.can_be_read_again(study):
            return []
        stored = store.instances(connection, study_instance_uid, statuses=list(InstanceStatus))
    from dicom_node.index.description import describe_again

    described = []
    for one in stored:
        # What cannot be read any more keeps what is known of it.
        with contextlib.suppress(OSError, InvalidObject):
            described.append(describe_again(wiring.settings, one.path))
    return described


def _retry_all(wiring: Wiring) -> str:
    actor = f"person {getpass.getuser()}"
    with wiring.read() as connection:
        dead = store.studies(connection, states=(StudyState.DEAD,), limit=None)
    revived = 0
    for study in dead:
        # One transaction for each: a listener must not wait for a whole outage to be undone.
        with wiring.write() as connection:
            now = wiring.clock.now(connection)
            revived += decisions.retry_dead(connection, study.study_instance_uid, now=now, actor=actor)
    return f"{_steps(revived)} of {len(dead)} {'study' if len(dead) == 1 else 'studies'} will be tried again."


def _steps(number: int) -> str:
    return f"{number} {'step' if number == 1 else 'steps'}"
