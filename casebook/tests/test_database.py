"""The connection: durable on SQLite, impatient on PostgreSQL, and on the right schema."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import OperationalError

from casebook import database, destinations, queue
from casebook.errors import SchemaMismatch, UnsafeStorage
from casebook.testing import empty_postgresql
from integration_tests.foreign import refuse_or_skip
from integration_tests.swallowing_proxy import SwallowingProxy, swallowing_proxy


def test_the_revision_of_this_program_is_the_head_of_its_migrations(sqlite: Engine) -> None:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(database.alembic_config(sqlite))
    assert [database.head_revision()] == scripts.get_heads()


def test_every_sqlite_connection_is_durable(sqlite: Engine) -> None:
    for _ in range(2):
        with database.read(sqlite) as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}
        sqlite.dispose()


def test_an_sqlite_writer_takes_its_lock_up_front_and_readers_go_on(sqlite: Engine) -> None:
    impatient = database.open_database(str(sqlite.url))
    event.listen(impatient, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=0"))
    with database.write(sqlite), database.read(impatient) as reader:
        assert reader.execute(text("SELECT count(*) FROM study")).scalar_one() == 0
        with pytest.raises(OperationalError), database.write(impatient):
            pass
    impatient.dispose()


def test_who_opens_the_database_again_gives_up_no_lock_of_this_process(sqlite: Engine) -> None:
    # POSIX locks belong to a process and a file: whoever closes the file once loses all of them.
    another = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    with database.write(sqlite):
        database.open_database(str(sqlite.url)).dispose()
        found = subprocess.run(
            [sys.executable, "-c", another, str(sqlite.url.database)], capture_output=True, check=False
        )

    assert b"database is locked" in found.stderr


def test_an_error_inside_a_write_leaves_nothing(engine: Engine) -> None:
    def fail() -> None:
        with database.write(engine) as connection:
            connection.execute(
                text("INSERT INTO audit (at, actor, action, study_instance_uid, detail) VALUES (0, 'a', 'b', '', '')")
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM audit")).scalar_one() == 0


def test_an_error_of_the_database_does_not_quote_its_values(engine: Engine) -> None:
    with pytest.raises(Exception, match="study") as raised, database.write(engine) as connection:
        connection.execute(text("INSERT INTO study (study_instance_uid) VALUES (:uid)"), {"uid": "DOE^JANE"})

    assert "[SQL parameters hidden" in str(raised.value)


def test_postgresql_gives_up_on_locks_and_forgotten_transactions(postgresql: Engine) -> None:
    with database.read(postgresql) as connection:
        found = [
            connection.execute(text(f"SHOW {name}")).scalar_one()
            for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        ]
    assert found == ["5s", "30s", "30s"]


MOUNTS = """\
21 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw
36 21 0:45 / {share} rw shared:9 master:1 - {kind} server:/export rw
37 36 254:17 / {share}/local rw shared:2 - xfs /dev/vdb1 rw
"""


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs", "9p", "gpfs"])
def test_sqlite_on_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    share = (tmp_path / "a share").resolve()
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS.format(share=str(share).replace(" ", r"\040"), kind=kind))

    with pytest.raises(UnsafeStorage, match=kind):
        database.refuse_network_file_system(share / "data" / "wetread.sqlite", mounts)
    database.refuse_network_file_system(share / "local" / "wetread.sqlite", mounts)
    database.refuse_network_file_system(tmp_path / "wetread.sqlite", mounts)


def test_the_files_of_sqlite_are_their_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "wetread.sqlite"
    # As an earlier release left it.
    path.touch()
    path.chmod(0o644)
    given = os.umask(0)
    try:
        engine = database.open_database(f"sqlite:///{path}")
        database.migrate(engine)
        with engine.connect():
            modes = {one.name: one.stat().st_mode & 0o777 for one in tmp_path.iterdir()}
        engine.dispose()
    finally:
        os.umask(given)

    assert modes == dict.fromkeys(("wetread.sqlite", "wetread.sqlite-wal", "wetread.sqlite-shm"), 0o600)


def test_without_a_table_of_mounts_nothing_is_refused(tmp_path: Path) -> None:
    database.refuse_network_file_system(tmp_path / "x.sqlite", tmp_path / "absent")


def test_the_models_and_the_migrations_are_one_schema(engine: Engine) -> None:
    # Raises when autogenerate would change anything. The environment script upgrades only; this compares.
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from casebook import tables

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        assert compare_metadata(context, tables.metadata) == []
        connection.rollback()


def test_a_database_without_schema_or_of_another_revision_is_refused(tmp_path: Path) -> None:
    engine = database.open_database(f"sqlite:///{tmp_path / 'wetread.sqlite'}")
    with pytest.raises(SchemaMismatch, match="none"):
        database.require_current(engine)
    database.migrate(engine)
    database.require_current(engine)
    with database.write(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="9999"):
        database.require_current(engine)
    engine.dispose()


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    engine = database.open_database(f"sqlite:///{tmp_path / 'wetread.sqlite'}")
    database.migrate(engine)
    database.migrate(engine)

    assert database.current_revision(engine) == database.head_revision()
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_results_that_wait_when_the_destinations_come_are_sent_under_their_lock(tmp_path: Path, kind: str) -> None:
    with empty_postgresql() as url:
        if kind == "postgresql" and url is None:
            refuse_or_skip("no PostgreSQL answers (WETREAD_TEST_POSTGRESQL_URL)")
        address = url if kind == "postgresql" and url else f"sqlite:///{tmp_path / 'wetread.sqlite'}"
        engine = database.open_database(address)
        command.upgrade(database.alembic_config(engine), "0007")
        with database.write(engine) as connection:
            connection.execute(
                text(
                    "INSERT INTO study (study_instance_uid, generation, state, reason, detail, pipeline,"
                    " instance_count, calling_ae_title, first_received_at, last_received_at, quiet_at, changed_at)"
                    " VALUES ('1.2', 1, 'ready', '', '', '', 1, '', 0, 0, 0, 0)"
                )
            )
            connection.execute(
                text(
                    "INSERT INTO output (study_instance_uid, generation, destination, kind, content, sha256,"
                    " object_uid, object_class, frozen_at) VALUES ('1.2', 1, 'ris', 'oru', '', '', '9', '', 0)"
                )
            )
            connection.execute(
                text(
                    "INSERT INTO job (step, idempotency_key, queue, study_instance_uid, generation, subject, state,"
                    " priority, run_after, attempt, max_attempts, fence, reason, detail, created_at)"
                    " VALUES ('send', 'k', 'io', '1.2', 1, 'ris', 'retry', 0, 0, 3, 20, 3, '', '', 0)"
                )
            )
        database.migrate(engine)
        with database.write(engine) as connection:
            (job,) = queue.claim(connection, queue="io", owner="me", lease_s=60.0, now=1.0)
            (ris,) = destinations.every(connection)

        assert (job.lock, ris.name, ris.kind, ris.failing_since) == ("ris", "ris", "hl7", None)
        command.downgrade(database.alembic_config(engine), "0007")
        assert database.current_revision(engine) == "0007"
        engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_services_that_start_together_migrate_once(tmp_path: Path, kind: str) -> None:
    with empty_postgresql() as url:
        if kind == "postgresql" and url is None:
            refuse_or_skip("no PostgreSQL answers (WETREAD_TEST_POSTGRESQL_URL)")
        address = url if kind == "postgresql" and url else f"sqlite:///{tmp_path / 'wetread.sqlite'}"
        # Processes and no threads: Alembic keeps its state in its modules.
        program = "import sys; from casebook import database; database.migrate(database.open_database(sys.argv[1]))"
        services = [subprocess.Popen([sys.executable, "-c", program, address]) for _ in range(2)]
        assert [service.wait(timeout=120) for service in services] == [0, 0]
        engine = database.open_database(address)
        database.require_current(engine)
        engine.dispose()


def test_the_first_schema_can_be_taken_back(tmp_path: Path) -> None:
    engine = database.open_database(f"sqlite:///{tmp_path / 'wetread.sqlite'}")
    database.migrate(engine)
    command.downgrade(database.alembic_config(engine), "base")

    assert database.current_revision(engine) == ""
    engine.dispose()


def test_a_lost_network_to_postgresql_is_noticed_by_tcp(postgresql: Engine) -> None:
    with database.read(postgresql) as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        found = driver.info.get_parameters()

    assert (found["connect_timeout"], found["keepalives_idle"], found["tcp_user_timeout"]) == ("5", "10", "20000")


def test_a_url_may_state_other_limits(postgresql: Engine) -> None:
    url = postgresql.url.update_query_dict({"connect_timeout": "7"})
    engine = database.open_database(url.render_as_string(hide_password=False))
    with database.read(engine) as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        assert driver.info.get_parameters()["connect_timeout"] == "7"
    engine.dispose()


@pytest.fixture
def through_proxy(postgresql: Engine) -> Iterator[tuple[SwallowingProxy, Engine]]:
    """An engine whose server is behind a proxy that can swallow every byte; it waits for an answer for half a second."""
    with swallowing_proxy(postgresql.url.host or "", postgresql.url.port or 5432) as proxy:
        url = postgresql.url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        engine = database.open_database(url, longest_answer_s=0.5)
        yield proxy, engine
        engine.dispose()


def test_a_server_that_falls_silent_without_a_word_is_an_error_and_the_next_connection_is_a_new_one(
    through_proxy: tuple[SwallowingProxy, Engine],
) -> None:
    proxy, engine = through_proxy
    with database.write(engine) as connection:
        connection.execute(text("SELECT 1"))

    def ask() -> None:
        with database.write(engine) as connection:
            connection.execute(text("SELECT 1"))
            # The server is gone from here on, and nobody says so: a failover that sends no reset.
            proxy.swallow()
            connection.execute(text("SELECT 2"))

    with pytest.raises(OperationalError) as raised:
        ask()
    assert raised.value.connection_invalidated

    # The server that took over answers to who connects anew.
    proxy.let_new_ones_through()
    with database.write(engine) as connection:
        assert connection.execute(text("SELECT 3")).scalar_one() == 3


def test_a_commit_that_is_never_answered_is_an_error(through_proxy: tuple[SwallowingProxy, Engine]) -> None:
    proxy, engine = through_proxy

    def commit() -> None:
        with database.write(engine) as connection:
            connection.execute(text("SELECT 1"))
            proxy.swallow()

    with pytest.raises(OperationalError):
        commit()


def test_a_kept_connection_whose_server_is_gone_is_replaced(through_proxy: tuple[SwallowingProxy, Engine]) -> None:
    proxy, engine = through_proxy
    with database.write(engine) as connection:
        connection.execute(text("SELECT 1"))
    proxy.swallow()
    proxy.let_new_ones_through()

    with database.read(engine) as connection:
        assert connection.execute(text("SELECT 3")).scalar_one() == 3
