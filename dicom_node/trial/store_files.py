"""Send DICOM files by C-STORE, each in the transfer syntax it is stored in: a sender for tests, trials and demos."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pynetdicom.presentation import build_context

from casebook.errors import PeerUnavailable
from dicom_node.association_scu import associate

#: An association proposes at most this many contexts (PS3.8 9.3.2.2: odd numbers from 1 to 255).
_MOST_CONTEXTS = 128
_PREAMBLE_BYTES = 132


def find_files(folder: Path) -> tuple[list[Path], int]:
    """Return the DICOM files (PS3.10) of a folder, or the one file, in order, and how many others lie there."""
    every = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
    found = [path for path in every if _is_dicom(path)]
    return found, len(every) - len(found)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_PREAMBLE_BYTES)[128:] == b"DICM"


def store_files(
    paths: Sequence[Path], host: str, port: int, *, called: str, calling: str, timeout_s: float = 30.0
) -> Iterator[int | None]:
    """Send the files one after the other over one association, and yield what each was answered.

    Yields
    ------
        The DIMSE status of each file (0x0000: it is safe there); None where it could not be sent.

    Raises
    ------
    PeerUnavailable
        When no association can be made.
    """
    contexts = sorted({_context(path) for path in paths})[:_MOST_CONTEXTS]
    association = associate(
        host,
        port,
        called=called,
        calling=calling,
        timeout_s=timeout_s,
        contexts=[build_context(abstract, transfer) for abstract, transfer in contexts],
        name=f"{called}@{host}:{port}",
    )
    if not association.is_established:
        raise PeerUnavailable(f"{called}@{host}:{port} made no association")
    try:
        for path in paths:
            yield _store(association, path)
    finally:
        association.release()


def _context(path: Path) -> tuple[str, str]:
    meta = read_file_meta_info(path)
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)


def _store(association: object, path: Path) -> int | None:
    try:
        answer = association.send_c_store(dcmread(path))  # type: ignore[attr-defined]
    except (ValueError, RuntimeError, InvalidDicomError):
        # No context was accepted for it, or the association has ended.
        return None
    return int(answer.Status) if "Status" in answer else None
