"""The table of mounts, read in one place, also where a path has a blank in it."""

from pathlib import Path

import pytest

from casebook.mounts import kind_of_file_system


@pytest.mark.parametrize("name", ["plain", "with space", "tab\tand\\slash", "line\nfeed", "放射科"])
def test_the_file_system_is_told_by_the_longest_mount_point(tmp_path: Path, name: str) -> None:
    mounts = tmp_path / "mountinfo"
    folder = tmp_path / name / "inbox"
    folder.mkdir(parents=True)
    escaped = str(folder.parent.resolve())
    for character in ("\\", " ", "\t", "\n"):
        escaped = escaped.replace(character, f"\\{ord(character):03o}")
    mounts.write_text(
        "21 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n"
        f"36 21 0:45 / {escaped} rw shared:9 - tmpfs tmpfs rw\n"
        f"37 36 0:46 /sub {escaped} rw shared:9 master:1 propagate_from:2 - nfs4 server:/export rw\n"
        "a line that is none\n"
    )

    # The last line for a mount point is the one in force.
    assert kind_of_file_system(folder, mounts) == "nfs4"
    assert kind_of_file_system(tmp_path, mounts) == "ext4"
    assert kind_of_file_system(tmp_path, tmp_path / "absent") == ""


def test_this_machine_tells_what_its_root_is() -> None:
    assert kind_of_file_system(Path("/")) != ""
    assert kind_of_file_system(Path("/proc")) == "proc"
