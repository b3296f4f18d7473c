"""Wake-ups as files in a folder: the embedded default, where one machine runs without a broker.

kombu's own ``filesystem://`` transport writes a message under its final name, so that a taker may find half of it,
and keeps a table of bindings in a file that two processes may write at once; either ended a role. Here a message gets
its name when it is whole, a message that cannot be read is dropped, because the next sweep says the same, and there
is no table: each exchange has the one queue of its name.
"""

import json
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import filesystem

from casebook.logs import get_logger

_log = get_logger()


#: A message is written or taken in an instant: whatever is under way for this long was left by a process that ended.
_LONGEST_UNDER_WAY_S = 60.0


def remove_damaged(folder: Path) -> int:
    """Remove messages that cannot be read, what ended processes left half written, and tables of earlier versions.

    Returns
    -------
        How many files were removed.
    """
    count = 0
    for path in (*_entries(folder), *_entries(folder.parent / "control")):
        with suppress(OSError):
            if _is_damaged(path, folder):
                path.unlink()
                count += 1
    return count


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_damaged(path: Path, folder: Path) -> bool:
    if path.parent != folder:
        return True
    if path.name.startswith("."):
        return time.time() - path.stat().st_mtime > _LONGEST_UNDER_WAY_S
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        # Taken meanwhile.
        return False
    except (OSError, ValueError):
        return True
    return False


class Channel(filesystem.Channel):
    """One process's view of the folder."""

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        """Return the one binding of an exchange: to the queue of its name (routing key, pattern, queue)."""
        return [(exchange, "", exchange)]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Do nothing: the binding is known."""

    def _delete(self, queue: str, *_: Any, **__: Any) -> None:
        """Remove a queue with its messages; its binding is none."""
        self._purge(queue)  # type: ignore[no-untyped-call]

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override] # kombu disagrees with itself
        folder = Path(self.data_folder_out)
        name = f"{uuid.uuid4()}.{queue}.msg"
        temporary = folder / f".{name}"
        try:
            temporary.write_text(json.dumps(payload), encoding="utf-8")
            temporary.rename(folder / name)
        except OSError as error:
            raise ChannelError("a wake-up cannot be written into its folder") from error

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ARG002 - kombu's signature
        folder = Path(self.data_folder_in)
        for name in sorted(one.name for one in folder.iterdir()):
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            taken = folder / f".{name}.{os.getpid()}"
            try:
                # Whoever renames it has it.
                (folder / name).rename(taken)
                content = taken.read_bytes()
            except OSError:
                continue
            finally:
                with suppress(OSError):
                    taken.unlink()
            try:
                return json.loads(content)
            except ValueError:
                _log.warning("wake_up_not_readable", queue=queue)
        raise Empty


class Transport(filesystem.Transport):
    """kombu's transport with our channel."""

    Channel = Channel
