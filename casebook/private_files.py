"""What we write is nobody else's to read: new files, the data directory, and what a crash would leave."""

import os
import resource
import stat
from pathlib import Path

from casebook.errors import UnsafeStorage

#: Permissions of a directory that any user of the machine has.
_OF_OTHERS = stat.S_IRWXO
_PRIVATE_DIRECTORY, _PRIVATE_FILE = 0o700, 0o600


def begin_process() -> None:
    """Let this process and those it starts write files for their own user alone, and no core files.

    Every entry point calls it before anything else: names of patients are in the files, and in the memory.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def private_directory(path: Path) -> Path:
    """Return the data directory, made where it is absent.

    Raises
    ------
    UnsafeStorage
        When any user of the machine may look into it.
    """
    path.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OF_OTHERS:
        raise UnsafeStorage(
            f"{path}: every user of this machine may look into this directory (its mode is {mode:04o}), and it holds "
            f"names of patients. Run: chmod 700 {path}"
        )
    return path


def private_file(path: Path) -> None:
    """Let nobody else read a file, which is made where it is absent; its directory has to exist.

    A file that is there is not opened: to close a file gives up every lock that this process holds on it (POSIX), and
    the locks of a database keep its writers apart.

    Raises
    ------
    UnsafeStorage
        When it belongs to another user, so that its permissions cannot be changed.
    """
    try:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE_FILE))
        except FileExistsError:
            if stat.S_IMODE(path.stat().st_mode) & ~_PRIVATE_FILE:
                path.chmod(_PRIVATE_FILE)
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError
    except PermissionError:
        raise UnsafeStorage(
            f"{path}: this user may not use the file. Run everything of a node as one user, the owner of its data "
            "directory."
        ) from None
