"""Run migrations on the engine that `casebook.database` hands over, one service at a time."""

from alembic import context
from sqlalchemy import Engine, text

from casebook.tables import metadata

#: Any number, as long as it stays the same: services that start together wait for one another on it.
_ADVISORY_LOCK = 7_305_713_001


def run() -> None:
    """Upgrade inside one transaction that locks out other services."""
    engine: Engine = context.config.attributes["engine"]
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # A service that waits here for a long migration of another one must not give up.
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, compare_type=True)
        context.run_migrations()


run()
