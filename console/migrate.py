"""``wetread migrate``: bring the database to the revision of this program."""

from pathlib import Path

import click

from casebook import database
from casebook.private_files import private_directory
from casebook.settings import load_settings
from console.options import directories
from console.screen import say


@click.command
@directories
def migrate(config_directory: Path | None, data_directory: Path | None) -> None:
    """Bring the database schema up to date (`wetread up` does it by itself)."""
    settings = load_settings(config_directory, data_directory)
    private_directory(settings.data_directory)
    engine = database.open_database(settings.database_url)
    database.migrate(engine)
    say(f"The database is on schema revision {database.current_revision(engine)}.")
    engine.dispose()
