"""Every check that keeps something wrong from going out, and what stands in its place when it is taken out.

A check that could be taken out without any study going wrong would be no check.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from integration_tests.odd_studies.chain import replaced

_OURS = ("casebook", "codestreams", "dicom_node", "worker")


def _nothing(*_: object, **__: object) -> None:
    """Check nothing."""


def _no_words(*_: object, **__: object) -> str:
    """Find no reason."""
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check."""

    module: str
    name: str
    #: What does nothing in its place.
    instead: Callable[..., Any] = _nothing
    #: Kinds of odd studies of which at least one goes wrong without it.
    seen_by: Sequence[str] = ()

    def __str__(self) -> str:
        """Name it."""
        return f"{self.module}.{self.name}"


#: Ends of streams, and what a stream and a header have to agree on.
STREAMS = (
    Check(module="codestreams.decoding", name="refuse_without_end", seen_by=("stream cut", "fragment missing")),
    Check(module="codestreams.decoding", name="refuse_missing_restarts"),
    Check(module="codestreams.decoding", name="refuse_missing_tiles"),
    Check(module="codestreams.decoding", name="refuse_incomplete_scans", seen_by=("stream cut",)),
    Check(module="codestreams.decoding", name="refuse_left_over_bytes"),
    Check(module="codestreams.decoding", name="refuse_another_depth"),
    Check(module="codestreams.decoding", name="refuse_another_sign"),
    Check(module="codestreams.decoding", name="refuse_values_out_of_range"),
    Check(module="codestreams.decoding", name="refuse_another_segment_length"),
    Check(module="codestreams.fragments", name="refuse_another_count"),
)
#: Bits, sizes, tables and windows.
TABLES = (
    Check(module="codestreams.bits", name="refuse_unshifted_cells", seen_by=("HighBit lies",)),
    Check(module="codestreams.bits", name="refuse_torn_depth", seen_by=("BitsStored lies",)),
    Check(module="codestreams.bits", name="refuse_torn_sign", seen_by=("PixelRepresentation lies",)),
    Check(module="worker.reader.decode", name="refuse_impossible_bits"),
    Check(module="worker.reader.decode", name="refuse_too_few_bytes"),
    Check(module="worker.reader.decode", name="refuse_another_picture_behind", seen_by=("size lies",)),
    Check(module="worker.reader.pixels", name="refuse_short_table", seen_by=("damaged table",)),
    Check(
        module="worker.reader.pixels",
        name="lookup_bits",
        instead=lambda item, *_: int(item.LUTDescriptor[2]),
        seen_by=("narrow VOI LUT",),
    ),
    Check(
        module="worker.reader.pixels",
        name="first_mapped_value",
        instead=lambda first, *_: first,
        seen_by=("signed first value",),
    ),
    Check(
        module="worker.reader.pixels",
        name="shown_range",
        instead=lambda inside: (float(inside.min()), float(inside.max())),
        seen_by=("one saturated marker",),
    ),
)
#: What a picture looks like, and of whom and from where it is.
SUBJECTS = (
    Check(module="worker.reader.plausibility", name="why_implausible", instead=_no_words, seen_by=("noise",)),
    Check(module="worker.reader.species", name="why_no_person", instead=_no_words, seen_by=("animal",)),
    Check(module="worker.reader.picture_kind", name="why_not_the_patient", instead=_no_words, seen_by=("burned in",)),
    Check(module="worker.reader.projection", name="_by_position", seen_by=("ViewPosition from the side",)),
    Check(module="worker.reader.projection", name="_by_code", seen_by=("ViewCodeSequence from the side",)),
    Check(module="worker.reader.projection", name="_by_description", seen_by=("SeriesDescription from the side",)),
    Check(module="worker.reader.projection", name="_by_orientation", seen_by=("PatientOrientation from the side",)),
)
CHECKS = (*STREAMS, *TABLES, *SUBJECTS)


@contextmanager
def taken_out(checks: Sequence[Check]) -> Iterator[None]:
    """Put what does nothing in the place of checks, wherever they were imported to."""
    changes: list[tuple[Any, str, Any]] = []
    for check in checks:
        original = getattr(import_module(check.module), check.name)
        holders = [
            module
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] in _OURS and isinstance(module, ModuleType)
        ]
        places = [(holder, name) for holder in holders for name, value in vars(holder).items() if value is original]
        assert places, f"{check} is nowhere"
        changes += [(holder, name, check.instead) for holder, name in places]
    with replaced(*changes):
        yield
