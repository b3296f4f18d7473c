"""Files and directories that nobody else may look into."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from casebook.errors import UnsafeStorage
from casebook.private_files import private_directory, private_file


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o704, 0o777, 0o770 | 0o001])
def test_a_data_directory_that_others_can_look_into_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)

    with pytest.raises(UnsafeStorage, match=f"chmod 700 {folder}"):
        private_directory(folder)


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o2770])
def test_one_of_the_owner_and_of_the_group_that_the_site_chose_is_taken(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)

    assert private_directory(folder) == folder


def test_one_that_is_absent_is_made_for_the_owner_alone(tmp_path: Path) -> None:
    given = os.umask(0)
    try:
        folder = private_directory(tmp_path / "data")
        private_file(folder / "file")
    finally:
        os.umask(given)

    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "file").stat().st_mode & 0o777 == 0o600


def test_a_process_writes_for_its_owner_alone_and_leaves_no_core_file() -> None:
    program = (
        "import os, resource; from casebook.private_files import begin_process; os.umask(0); begin_process();"
        "print(oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    _, most = resource.getrlimit(resource.RLIMIT_CORE)

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert said.split(maxsplit=1) == ["0o77", "(0, 0)\n"]
    assert resource.getrlimit(resource.RLIMIT_CORE)[1] == most
