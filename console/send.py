"""``wetread send``: C-STORE every DICOM file of a folder, to us or to any other."""

import re
import sys
from pathlib import Path

import click
from rich.progress import track

from casebook.settings import load_settings
from console.options import directories
from console.screen import say


@click.command
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--to", "address", metavar="AE@HOST:PORT", help="Default: the listener of the configuration.")
@click.option("--from", "calling_ae_title", default="WETREADSEND", show_default=True, help="AE title we call with.")
@directories
def send(
    folder: Path,
    address: str | None,
    calling_ae_title: str,
    config_directory: Path | None,
    data_directory: Path | None,
) -> None:
    """Send every DICOM file of FOLDER; exit code 1 when one was not accepted."""
    from dicom_node.trial.store_files import find_files, store_files

    if address is None:
        listener = load_settings(config_directory, data_directory).listener
        address = f"{listener.ae_title}@{listener.host}:{listener.port}"
    found = re.fullmatch(r"(?P<ae_title>[^@]{1,16})@(?P<host>[^@]+):(?P<port>\d{1,5})", address)
    if found is None:
        raise click.UsageError(f"--to {address}: give AE@HOST:PORT, for example WETREAD@127.0.0.1:11112")
    paths, others = find_files(folder)
    if not paths:
        raise click.UsageError(f"{folder}: no DICOM file here")
    results = store_files(paths, found["host"], int(found["port"]), called=found["ae_title"], calling=calling_ae_title)
    quiet = not sys.stdout.isatty()
    statuses = list(track(results, total=len(paths), description="sending", disable=quiet))
    refused = [(path, status) for path, status in zip(paths, statuses, strict=True) if status != 0x0000]
    for path, status in refused[:20]:
        say(f"{path}: {'not sent' if status is None else f'answered 0x{status:04X}'}")
    skipped = f", {others} other files left alone" if others else ""
    say(f"{len(paths) - len(refused)} of {len(paths)} files accepted by {address}{skipped}")
    sys.exit(1 if refused else 0)
