"""Opens the model of a registry entry, with the loader of its kind."""

from casebook.errors import ModelRefused
from worker.reader.registry import EntryKind, ModelEntry
from worker.reader.writer import Writer


def open_writer(entry: ModelEntry, *, device: str = "cpu", threads: int = 1) -> Writer:
    """Load the model of an entry; dispatches on its kind.

    Parameters
    ----------
    entry
        From the registry.
    device
        ``cpu``, ``cuda`` or ``cuda:N``.
    threads
        CPU threads of the model.

    Raises
    ------
    ModelRefused
        When the model cannot be run or is not what its entry says.
    """
    if entry.kind is EntryKind.UNAVAILABLE:
        raise ModelRefused(f"{entry.name} cannot be run: {entry.reason}")
    # Imported here, because torch takes seconds and gigabytes that a refused study does not need.
    from worker.reader.llava import LlavaWriter

    return LlavaWriter.load(entry, device=device, threads=threads)
