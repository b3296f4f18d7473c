"""Fresh corners of the shared servers: a database, a virtual host, a Redis number; each removed afterwards."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import redis
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from integration_tests.foreign import refuse_or_skip, run
from integration_tests.settings import load

#: Held in a Redis database while a test uses it, so that tests side by side take different ones.
_CLAIM = "wetread-test-claim"
_CLAIM_S = 3600


def _name() -> str:
    return f"wetread_test_{uuid.uuid4().hex[:12]}"


@contextmanager
def postgresql() -> Iterator[str]:
    """Create an empty PostgreSQL database and drop it afterwards, whoever is still connected.

    Yields
    ------
        Its SQLAlchemy URL (psycopg 3).
    """
    url = make_url(load().postgresql_url)
    administrator = create_engine(url, isolation_level="AUTOCOMMIT")
    name = _name()
    try:
        with administrator.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except OperationalError:
        refuse_or_skip(f"no PostgreSQL at {url.host}:{url.port} (WETREAD_TEST_POSTGRESQL_URL)")
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with administrator.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        administrator.dispose()


@contextmanager
def rabbitmq() -> Iterator[str]:
    """Create an empty RabbitMQ virtual host and delete it afterwards.

    Yields
    ------
        Its AMQP URL.
    """
    url = urlsplit(load().amqp_url)
    if shutil.which("rabbitmqctl") is None:
        refuse_or_skip("rabbitmqctl is not installed, so no virtual host can be made for the test")
    name = _name()
    made = run(["rabbitmqctl", "-q", "add_vhost", name])
    if made.returncode != 0:
        refuse_or_skip(
            f"no RabbitMQ at {url.hostname}:{url.port} that takes a new virtual host (WETREAD_TEST_AMQP_URL)"
        )
    try:
        run(["rabbitmqctl", "-q", "set_permissions", "-p", name, str(url.username), ".*", ".*", ".*"])
        yield urlunsplit(url._replace(path=f"/{name}"))
    finally:
        run(["rabbitmqctl", "-q", "delete_vhost", name])


@contextmanager
def redis_database() -> Iterator[str]:
    """Claim an empty numbered database of the shared Redis and empty it afterwards.

    Yields
    ------
        Its URL.
    """
    url = urlsplit(load().redis_url)
    try:
        number = _claim(url.hostname or "", url.port or 6379)
    except redis.ConnectionError:
        number = None
    if number is None:
        refuse_or_skip(f"no Redis with an empty database at {url.hostname}:{url.port} (WETREAD_TEST_REDIS_URL)")
    try:
        yield urlunsplit(url._replace(path=f"/{number}"))
    finally:
        with redis.Redis(host=url.hostname or "", port=url.port or 6379, db=number or 0) as client:
            client.flushdb()


def _claim(host: str, port: int) -> int | None:
    for number in range(1, 16):
        with redis.Redis(host=host, port=port, db=number) as client:
            if client.set(_CLAIM, "1", nx=True, ex=_CLAIM_S):
                if client.dbsize() == 1:
                    return number
                client.delete(_CLAIM)
    return None
