"""The database connection: SQLite in WAL mode or PostgreSQL, and the schema revision both must be on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url

from casebook.errors import SchemaMismatch, UnsafeStorage
from casebook.mounts import MOUNTS, kind_of_file_system
from casebook.private_files import private_file

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parent / "migrations"
_MAX_WAL_BYTES = 64 * 1024 * 1024
#: File systems on which SQLite's WAL cannot work, because other hosts do not share its memory.
_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "gpfs", "lustre", "ceph", "fuse.sshfs", "9p", "afs"}
)
#: What the server gives up by itself.
_POSTGRESQL_OPTIONS = "-c lock_timeout=5s -c statement_timeout=30s -c idle_in_transaction_session_timeout=30s"
#: What this side gives up when nothing comes from the server any more.
_LONGEST_ANSWER_S = 35.0
_POSTGRESQL_NETWORK: dict[str, Any] = {
    "connect_timeout": 5,
    # A server whose machine or network is gone is noticed while nobody waits for it, too.
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


def open_database(url: str, *, longest_answer_s: float = _LONGEST_ANSWER_S) -> Engine:
    """Return an engine whose every connection is durable: a commit that returned survives a crash.

    Parameters
    ----------
    longest_answer_s
        Seconds after which a connection counts as lost whose server says nothing; SQLite has no server.

    Raises
    ------
    UnsafeStorage
        When an SQLite file would lie on a network file system.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _open_postgresql(parsed, longest_answer_s)
    if parsed.database and parsed.database != ":memory:":
        refuse_network_file_system(Path(parsed.database))
        _keep_private(Path(parsed.database))
    engine = create_engine(parsed, hide_parameters=True, connect_args={"timeout": 30.0, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _keep_private(path: Path) -> None:
    # SQLite gives the files beside the database the permissions of the database, when it makes them.
    beside = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm")]
    for each in (path, *(one for one in beside if one.exists())):
        if each.parent.is_dir():
            private_file(each)


def _open_postgresql(url: URL, longest_answer_s: float) -> Engine:
    # Loaded where it is used: the embedded database needs no driver of a server.
    from casebook import bounded_connection

    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=2,
        max_overflow=4,
        pool_recycle=1800,
        hide_parameters=True,
        # What a site writes into its URL wins.
        connect_args={key: url.query.get(key, value) for key, value in _POSTGRESQL_NETWORK.items()}
        | {"options": _POSTGRESQL_OPTIONS},
    )

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        return bounded_connection.connect(longest_answer_s, *arguments, **options)

    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # The driver must not add a BEGIN of its own.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "busy_timeout=30000",
        "foreign_keys=ON",
        "temp_store=MEMORY",
        "wal_autocheckpoint=1000",
        f"journal_size_limit={_MAX_WAL_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _begin_sqlite(connection: Connection) -> None:
    # A reader that turns writer after another commit fails at once, whatever the busy timeout:
    # writers therefore take the lock up front.
    reads = connection.get_execution_options().get("reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """Open one writing transaction; it commits at the end of the block and rolls back on any error."""
    with engine.begin() as connection:
        yield connection


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """Open one short reading transaction."""
    with engine.connect().execution_options(reads=True) as connection, connection.begin():
        yield connection


def refuse_network_file_system(path: Path, mounts: Path = MOUNTS) -> None:
    """Raise `UnsafeStorage` when the file would lie on a file system that other hosts share.

    Raises
    ------
    UnsafeStorage
        Names the file system.
    """
    kind = kind_of_file_system(path, mounts)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise UnsafeStorage(
            f"The SQLite database would lie on a {kind} file system, where it cannot be kept whole; "
            "put data_directory on a local disk or use PostgreSQL."
        )


def migrate(engine: Engine) -> None:
    """Bring the schema to the revision of this program; safe when several services start at once."""
    from alembic import command

    command.upgrade(alembic_config(engine), "head")


def alembic_config(engine: Engine) -> "Config":
    """Return what Alembic has to know of this schema."""
    # Imported only here: a verb that looks at a revision would wait for it longer than for the database.
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["engine"] = engine
    return config


def head_revision() -> str:
    """Return the schema revision this program is written for: the number of its newest migration."""
    return max(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def current_revision(engine: Engine) -> str:
    """Return the schema revision of the database; empty when it has none."""
    with read(engine) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return ""
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")


def require_current(engine: Engine) -> None:
    """Refuse to work on another schema revision.

    Raises
    ------
    SchemaMismatch
        Names both revisions.
    """
    found, wanted = current_revision(engine), head_revision()
    if found != wanted:
        raise SchemaMismatch(
            f"The database is on schema revision {found or 'none'}, this program needs {wanted}: run `wetread migrate`."
        )
