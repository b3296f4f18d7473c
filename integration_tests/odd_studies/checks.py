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
from integration_tests.odd_studies.study import Side
from integration_tests.without import holders

_OURS = ("casebook", "codestreams", "dicom_node", "worker")


def _nothing(*_: object, **__: object) -> None:
    """Check nothing."""


def _no_words(*_: object, **__: object) -> str:
    """Find no reason."""
    return ""


def _never(*_: object, **__: object) -> bool:
    """Find nothing of the kind."""
    return False


def _always(*_: object, **__: object) -> bool:
    """Agree to everything."""
    return True


def _none_of_them(*_: object, **__: object) -> tuple[()]:
    """Find none."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check."""

    module: str
    name: str
    #: What does nothing in its place.
    instead: Callable[..., Any] = _nothing
    #: Kinds of studies of which at least one goes wrong without it.
    seen_by: Sequence[str]
    #: How it then goes wrong.
    complaint: str = ""
    #: Names of the checks behind it that would hold the same study, and are out as well.
    behind: Sequence[str] = ()
    side: Side = Side.ODD

    def __str__(self) -> str:
        """Name it."""
        return f"{self.module}.{self.name}"


def _of_picture(module: str, name: str, *seen_by: str, instead: Callable[..., Any] = _nothing) -> Check:
    # What is wrong with a picture shows also in its look, so that is out too: two layers, and each is tried alone.
    return Check(
        module=module,
        name=name,
        instead=instead,
        seen_by=seen_by,
        behind=("why_implausible",),
    )


_DECODING, _BITS = "codestreams.decoding", "codestreams.bits"
_DECODE, _PIXELS = "worker.reader.decode", "worker.reader.pixels"
#: Ends of streams, and what a stream and a header have to agree on.
STREAMS = (
    _of_picture(_DECODING, "refuse_without_end", "stream cut and filled", "stream cut"),
    _of_picture(_DECODING, "refuse_missing_restarts", "restarts"),
    _of_picture(_DECODING, "refuse_missing_tiles", "tiles"),
    _of_picture(_DECODING, "refuse_incomplete_scans", "stream cut", "fragment missing"),
    _of_picture(_DECODING, "refuse_left_over_bytes", "fragment missing", "size of the stream lies"),
    _of_picture(_DECODING, "refuse_another_depth", "stream of fewer bits"),
    _of_picture(_DECODING, "refuse_another_sign", "signed stream"),
    _of_picture(_DECODING, "refuse_another_segment_length", "RLE of another size"),
    Check(
        module=_DECODING,
        name="refuse_packets_out_of_place",
        seen_by=("JPEG 2000 damaged",),
        behind=("why_implausible", "refuse_impossible_packets", "refuse_foreign_codewords"),
    ),
    _of_picture(_DECODING, "refuse_runs_across_rows", "RLE run longer"),
    _of_picture("codestreams.fragments", "refuse_another_count", "two streams"),
)
#: Without these another layer still refuses what they refuse, only with a worse reason: their own tests hold them.
BACKED = (
    Check(module=_DECODING, name="refuse_values_out_of_range", seen_by=()),
    Check(module=_DECODING, name="refuse_impossible_packets", seen_by=()),
    Check(module=_DECODING, name="refuse_foreign_codewords", seen_by=()),
    Check(module="worker.reader.decode", name="refuse_impossible_bits", seen_by=()),
    Check(module="worker.reader.decode", name="refuse_too_few_bytes", seen_by=()),
)
#: Bits, sizes, tables and windows.
TABLES = (
    _of_picture(_BITS, "refuse_unshifted_cells", "HighBit lies"),
    _of_picture(_BITS, "refuse_torn_depth", "BitsStored lies"),
    _of_picture(_BITS, "refuse_torn_sign", "PixelRepresentation lies"),
    _of_picture(_DECODE, "refuse_another_picture_behind", "size lies"),
    _of_picture(_PIXELS, "refuse_short_table", "table cut"),
    _of_picture(_PIXELS, "lookup_bits", "narrow VOI LUT", instead=lambda item, *_: int(item.LUTDescriptor[2])),
    _of_picture(_PIXELS, "pixel_height", "pixels not square", instead=lambda *_: 1.0),
    _of_picture(_PIXELS, "first_mapped_value", "signed first value", instead=lambda first, *_: first),
    _of_picture(
        _PIXELS,
        "shown_range",
        "one saturated marker",
        instead=lambda inside: (float(inside.min()), float(inside.max())),
    ),
)
_SUBJECT = "worker.reader"
#: What a picture looks like, and of whom and from where it is.
SUBJECTS = (
    Check(module=f"{_SUBJECT}.plausibility", name="why_implausible", instead=_no_words, seen_by=("noise",)),
    Check(module=f"{_SUBJECT}.species", name="why_no_person", instead=_no_words, seen_by=("animal",)),
    Check(module=f"{_SUBJECT}.picture_kind", name="why_not_the_patient", instead=_no_words, seen_by=("burned in",)),
    Check(module=f"{_SUBJECT}.projection", name="_by_position", seen_by=("ViewPosition from the side",)),
    Check(module=f"{_SUBJECT}.projection", name="_by_code", seen_by=("ViewCodeSequence from the side",)),
    Check(module=f"{_SUBJECT}.projection", name="_by_description", seen_by=("SeriesDescription from the side",)),
    Check(
        module=f"{_SUBJECT}.projection",
        name="_by_orientation",
        seen_by=("PatientOrientation from the side", "mirrored"),
    ),
)
_IDENTITY = "casebook.identity"
#: Whose a study is.
IDENTITIES = (
    Check(
        module=_IDENTITY,
        name="holds_control_character",
        instead=_never,
        seen_by=("control character",),
        complaint="sent|instead",
        behind=("is_plain", "_check_identity", "_check_oru_identity"),
    ),
    Check(
        module=_IDENTITY,
        name="holds_no_character",
        instead=_never,
        seen_by=("no character",),
        behind=("is_plain",),
    ),
    Check(
        module=_IDENTITY,
        name="holds_lost_character",
        instead=_never,
        seen_by=("replacement character",),
        complaint="U.FFFD",
    ),
    Check(module=_IDENTITY, name="separates_values", instead=_never, seen_by=("backslash",)),
    Check(module=_IDENTITY, name="agree", instead=_always, seen_by=("one object differs",)),
    Check(module=_IDENTITY, name="contradictions", instead=_none_of_them, seen_by=("one object differs",)),
    Check(
        module=_IDENTITY,
        name="inexact",
        instead=_none_of_them,
        seen_by=("identity does not decode",),
        complaint="sent|instead",
        behind=("contradictions", "unvouched"),
    ),
    Check(
        module=_IDENTITY,
        name="says_nothing",
        instead=_never,
        side=Side.SOUND,
        seen_by=("one object says less",),
    ),
    Check(
        module="dicom_node.results.guards",
        name="refuse_lost_characters",
        seen_by=("replacement character",),
        complaint="holds U.FFFD",
        behind=("fault_of",),
    ),
)
#: Stand behind others only.
_BEHIND = (
    Check(module=_IDENTITY, name="fault_of", seen_by=()),
    Check(module=_IDENTITY, name="unvouched", instead=_none_of_them, seen_by=()),
    Check(module="dicom_node.results.clean_text", name="is_plain", instead=_always, seen_by=()),
    Check(module="dicom_node.results.guards", name="_check_identity", seen_by=()),
    Check(module="dicom_node.results.guards", name="_check_oru_identity", seen_by=()),
)
CHECKS = (*STREAMS, *TABLES, *SUBJECTS, *IDENTITIES)


def with_those_behind(check: Check) -> list[Check]:
    """Return a check and the checks behind it."""
    return [check, *(one for one in (*CHECKS, *BACKED, *_BEHIND) if one.name in check.behind)]


@contextmanager
def taken_out(checks: Sequence[Check]) -> Iterator[None]:
    """Put what does nothing in the place of checks, wherever they were imported to, and forget what was found before."""
    changes: list[tuple[Any, str, Any]] = []
    for check in checks:
        places = holders(getattr(import_module(check.module), check.name), _OURS)
        assert places, f"{check} is nowhere"
        changes += [(holder, name, check.instead) for holder, name in places]
    _forget()
    try:
        with replaced(*changes):
            yield
    finally:
        _forget()


def _forget() -> None:
    # What a cache remembers was found with other checks.
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _OURS and isinstance(module, ModuleType):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()
