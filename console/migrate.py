"""``wetread migrate``: bring the database to the revision of this program."""

from pathlib import Path

import click

from casebook import database
from casebook.settings import load_settings
from console.options import directories


@click.command
@directories
def migrate(config_directory: Path | None, data_directory: Path | None) -> None:
    """Bring the database schema up to date (`wetread up` does it by itself)."""
    settings = load_settings(config_directory, data_directory)
    settings.data_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = database.open_database(settings.database_url)
    database.migrate(engine)
    print(f"The database is on schema revision {database.current_revision(engine)}.")
    engine.dispose()
