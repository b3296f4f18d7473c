"""``wetread up``: everything on this machine, one command."""

import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click

from casebook import device
from casebook.logs import configure_logs
from casebook.presence import Presence
from casebook.private_files import begin_process, private_directory
from casebook.settings import load_settings
from console.options import directories
from console.screen import say
from console.supervisor import ROLES, Role, Supervisor


@click.command
@click.option(
    "--role",
    "names",
    multiple=True,
    type=click.Choice([role.name for role in ROLES]),
    help="Only this role; may be given again. Default: all.",
)
@directories
@click.pass_obj
def up(
    roles: Sequence[Role] | None,
    names: tuple[str, ...],
    config_directory: Path | None,
    data_directory: Path | None,
) -> None:
    """Start listener, sweeper, io worker and gpu worker; restart what dies; end all on SIGTERM."""
    begin_process()
    configure_logs("supervisor")
    settings = load_settings(config_directory, data_directory)
    device.require_named(settings)
    private_directory(settings.data_directory)
    chosen = [role for role in roles or ROLES if not names or role.name in names]
    supervisor = Supervisor(settings, chosen)

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        supervisor.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    supervisor.run(_say_ready)


def _say_ready(found: tuple[Presence, ...]) -> None:
    listener = next((one.facts for one in found if one.role == "listener"), None)
    models = next((one.facts.get("models", "") for one in found if one.role == "gpu"), "")
    address = f"{listener['ae_title']}@{listener['host']}:{listener['port']}" if listener else "-"
    say(f"wetread ready  dicom {address}  models {models or '-'}")
