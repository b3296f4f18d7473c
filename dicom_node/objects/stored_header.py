"""The header of a stored object as pydicom reads it, within the bounds of every header."""

from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import FileDataset

from codestreams.stored_file import PlainFile, bounded, open_plain
from dicom_node.objects.tags import SEQUENCES


def read_stored_header(path: Path) -> FileDataset:
    """Read a stored object without its pixels; a value that is longer than the bounds stays in the file.

    Raises
    ------
    OverBounds
        When it is too large.
    OSError
        When the disk does not give it out; what damaged data makes pydicom raise has no common ancestor.
    """
    with open_plain(path, with_pixels=False) as plain:
        return header_of(plain)


def header_of(plain: PlainFile) -> FileDataset:
    """Read the header of an open file, and stop where its pixels begin.

    Raises
    ------
    OverBounds
        When it is too large.
    """
    within = bounded(plain, sequences=SEQUENCES)
    return dcmread(within.file, stop_before_pixels=True, defer_size=within.longest_value_bytes)
