"""Which file system a path lies on, from the kernel's table of mounts (proc(5), mountinfo)."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
#: Blank, tab, line feed and backslash stand in the table as three octal digits.
_OCTAL = re.compile(rb"\\([0-7]{3})")


def kind_of_file_system(path: Path, mounts: Path = MOUNTS) -> str:
    """Name the file system a path lies on; empty where the system does not tell."""
    if not mounts.exists():
        return ""
    # The last line for a mount point is the one in force.
    kinds = dict(found for line in mounts.read_bytes().splitlines() if (found := _mount_point_and_kind(line)))
    resolved = path.resolve()
    for folder in (resolved, *resolved.parents):
        if bytes(folder) in kinds:
            return kinds[bytes(folder)]
    return ""


def _mount_point_and_kind(line: bytes) -> tuple[bytes, str] | None:
    # 36 35 98:0 /root /mount\040point rw,noatime shared:1 - ext4 /dev/sda1 rw; the optional fields before the hyphen
    # are of any number.
    before, hyphen, after = line.partition(b" - ")
    fields, kind = before.split(b" "), after.split(b" ")[0]
    if not hyphen or len(fields) < 6 or not kind:
        return None
    return _OCTAL.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), fields[4]), kind.decode("ascii", "replace")
