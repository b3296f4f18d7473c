"""Foreign peers and fresh corners of shared servers, as fixtures."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration_tests import foreign, services


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[foreign.Orthanc]:
    """A private Orthanc that knows nobody (start it with `foreign.orthanc` where it must call back)."""
    with foreign.orthanc(tmp_path / "orthanc") as peer:
        yield peer


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[foreign.DicomPeer]:
    """DCMTK's receiver."""
    with foreign.storescp(tmp_path / "storescp") as peer:
        yield peer


@pytest.fixture
def python_hl7_server(tmp_path: Path) -> Iterator[foreign.Hl7Peer]:
    """The MLLP server of python-hl7."""
    with foreign.python_hl7_server(tmp_path / "python_hl7") as peer:
        yield peer


@pytest.fixture
def node_hl7_server(tmp_path: Path) -> Iterator[foreign.Hl7Peer]:
    """The MLLP server of npm's node-hl7-server."""
    with foreign.node_hl7_server(tmp_path / "node_hl7") as peer:
        yield peer


@pytest.fixture
def simple_hl7_server(tmp_path: Path) -> Iterator[foreign.Hl7Peer]:
    """The MLLP server of npm's simple-hl7."""
    with foreign.node_hl7_server(tmp_path / "simple_hl7", "simple-hl7") as peer:
        yield peer


@pytest.fixture
def postgresql_url() -> Iterator[str]:
    """An empty PostgreSQL database."""
    with services.postgresql() as url:
        yield url


@pytest.fixture
def amqp_url() -> Iterator[str]:
    """An empty RabbitMQ virtual host."""
    with services.rabbitmq() as url:
        yield url


@pytest.fixture
def redis_url() -> Iterator[str]:
    """An empty Redis database."""
    with services.redis_database() as url:
        yield url
