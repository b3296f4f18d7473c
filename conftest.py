"""What every test of the project shares: the folder of real files, and the rule about what may be missing."""

import os
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from integration_tests.settings import load

#: Python in the pages is run: a page that lies fails.
pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()


# As in every entry point: data directories that tests make are private, also where the child of a test makes them.
os.umask(0o077)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real DICOM and HL7 files; its tests carry the marker `corpus`."""
    folder = load().test_data
    if not (folder / "dicom").is_dir():
        reason = "the folder of real files is absent (WETREAD_TEST_DATA)"
        if load().require_peers:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs the folder of real files where it is absent; fail it where everything is required."""
    if item.get_closest_marker("corpus") is None or (load().test_data / "dicom").is_dir():
        return
    reason = "the folder of real files is absent (WETREAD_TEST_DATA)"
    if load().require_peers:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
