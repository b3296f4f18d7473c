"""The proof that every check of what goes out is tested: ``python -m benchmarks.prove_mutations``.

Each check is taken out alone, and the tests of its place have to fail; with all checks in their place they pass.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.evidence import REPOSITORY, NoProof, Run, write_evidence
from integration_tests.without import FIRST


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check, what stands in its place when it is taken out, and where that has to be noticed."""

    #: ``module:function``.
    place: str
    #: A Python literal or `FIRST`.
    returns: str = "None"
    #: Files of tests.
    tests: tuple[str, ...]


def _checks(module: str, tests: Sequence[str], **returns: str) -> tuple[Check, ...]:
    return tuple(
        Check(place=f"{module}:{function}", returns=value, tests=tuple(tests)) for function, value in returns.items()
    )


_IDENTITY = (
    "casebook/tests/test_identity.py",
    "dicom_node/results/tests/test_guards.py",
    "integration_tests/test_identity.py",
)
_TEXT = ("dicom_node/objects/tests/test_text.py", "integration_tests/test_identity.py")
_ARCHIVE = ("dicom_node/archive/tests/test_patient_check.py",)
_STREAMS = (
    "codestreams/tests/test_decoding.py",
    "codestreams/tests/test_packets.py",
    "codestreams/tests/test_fragments.py",
    "codestreams/tests/test_part10.py",
    "codestreams/tests/test_bits.py",
    "integration_tests/test_odd_pictures.py",
)
_PIXELS = ("worker/tests/test_pixels.py", "integration_tests/test_odd_pictures.py")
_KIND = ("worker/tests/test_picture_kind.py", "worker/tests/test_views.py", "worker/tests/test_read.py")

CHECKS: tuple[Check, ...] = (
    # Whose it is: compared before anything is lost.
    *_checks(
        "casebook.identity",
        _IDENTITY,
        agree="True",
        holds_control_character="False",
        holds_no_character="False",
        holds_lost_character="False",
        separates_values="False",
        fault_of="None",
        says_nothing="False",
        contradictions="()",
        changes="False",
        inexact="()",
        unvouched="()",
        with_identity_of=FIRST,
        without_padding=FIRST,
    ),
    *_checks("casebook.character_sets", _TEXT, defined_term=FIRST, is_character_set="True"),
    *_checks(
        "casebook.flow",
        ("casebook/tests/test_flow.py", *_IDENTITY),
        _hold_unclear_identity="False",
        _note_set_character_sets="None",
    ),
    *_checks("worker.read", ("worker/tests/test_read.py", *_IDENTITY), _hold_unclear_identity="None"),
    *_checks(
        "dicom_node.results.guards",
        ("dicom_node/results/tests/test_guards.py", "dicom_node/results/tests/test_rejection_note.py"),
        refuse_lost_characters="None",
        _check_identity="None",
        _check_oru_identity="None",
        _is_name="True",
        _check_device="None",
        check_rejection_note="None",
    ),
    *_checks(
        "dicom_node.results.sr_elements",
        ("dicom_node/results/tests/test_sr_document.py", *_IDENTITY),
        is_writable="True",
    ),
    # Against the archive.
    *_checks(
        "dicom_node.archive.patient_check",
        _ARCHIVE,
        is_due="True",
        is_about="True",
        differences_of="()",
        says_something="True",
    ),
    # What a stream says of itself.
    *_checks(
        "codestreams.decoding",
        _STREAMS,
        refuse_without_end="None",
        refuse_missing_restarts="None",
        refuse_missing_tiles="None",
        refuse_another_size="None",
        refuse_other_samples="None",
        refuse_another_depth="None",
        refuse_another_sign="None",
        refuse_values_out_of_range="None",
        refuse_incomplete_scans="None",
        refuse_left_over_bytes="None",
        refuse_another_segment_length="None",
        refuse_runs_across_rows="None",
        refuse_impossible_packets="None",
        refuse_packets_out_of_place="None",
        refuse_foreign_codewords="None",
    ),
    *_checks(
        "codestreams.bits",
        _STREAMS,
        refuse_unshifted_cells="None",
        refuse_torn_depth="None",
        refuse_torn_sign="None",
    ),
    *_checks("codestreams.fragments", _STREAMS, refuse_another_count="None"),
    *_checks("codestreams.part10", _STREAMS, skip_foreign_meta="None", without_foreign_meta=FIRST),
    # What the header says of the picture.
    *_checks(
        "worker.reader.decode",
        _PIXELS,
        refuse_impossible_bits="None",
        refuse_too_few_bytes="None",
        refuse_another_picture_behind="None",
    ),
    *_checks(
        "worker.reader.pixels",
        _PIXELS,
        refuse_short_table="None",
        lookup_bits="16",
        palette_bits="16",
        first_mapped_value=FIRST,
        shown_range="(0.0, 4095.0)",
        find_edge_marks="None",
        values_apart="()",
        pixel_height="1.0",
    ),
    # How it looks.
    *_checks(
        "worker.reader.plausibility",
        ("worker/tests/test_plausibility.py",),
        why_implausible="''",
        why_noise="''",
        why_page="''",
        why_out_of_range="''",
    ),
    # Which way the beam went, and through whom.
    *_checks(
        "worker.reader.projection",
        ("worker/tests/test_projection.py",),
        _by_position="None",
        _by_code="None",
        _by_description="None",
        _by_orientation="None",
        _by_examination="None",
    ),
    *_checks(
        "worker.reader.species",
        ("worker/tests/test_species.py",),
        why_no_person="''",
        _species_is_not_human="False",
        _has="False",
        _stands_on_four_legs="False",
        _names_an_animal="False",
        _is_veterinary="False",
    ),
    *_checks(
        "worker.reader.consistency",
        ("worker/tests/test_consistency.py",),
        find_contradiction="''",
        _disagree_about_side="False",
        _disagree_about_presence="False",
        _answer_disagrees_about_side="False",
    ),
    # Whether it is a picture of the patient at all.
    *_checks(
        "worker.reader.picture_kind",
        _KIND,
        why_not_the_patient="''",
        why_derived="''",
        unwanted_frames="set()",
        is_in_hounsfield_units="True",
        _page_by_type="''",
        _page_by_series="''",
        _localizer="''",
        _secondary_capture="''",
        _burned_in="''",
        _colour="''",
        _slice_without_scale_and_place="''",
    ),
    *_checks(
        "worker.reader.views",
        ("worker/tests/test_views.py", *_KIND),
        _why_not_this_projection="''",
        _can_lead="True",
        _has_no_place="False",
    ),
)


def main(arguments: Sequence[str]) -> int:
    """Take out each check, and write the evidence down; 0 when it was written, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prove_mutations", description=__doc__)
    parser.add_argument("--only", default="", help="checks whose place holds this; fewer are no proof")
    parser.add_argument("--processes", type=int, default=2, help="runs at one time")
    chosen = parser.parse_args(arguments)
    checks = [one for one in CHECKS if chosen.only in one.place]

    began = time.monotonic()
    files = sorted({path for one in checks for path in one.tests})
    if _run(files) != 0:
        print("mutations: the tests fail with every check in its place")
        return 1
    with ThreadPoolExecutor(chosen.processes) as pool:
        statuses = list(pool.map(_run_without, checks))
    unnoticed = [one.place for one, status in zip(checks, statuses, strict=True) if status != 1]
    for place in unnoticed:
        print(f"taken out and not noticed: {place}")
    try:
        if unnoticed:
            raise NoProof(f"mutations: {len(unnoticed)} of {len(checks)} checks can be taken out unnoticed")
        path = write_evidence(
            Run(
                name="mutations",
                command="make prove mutations",
                seeds=(),
                n=len(checks),
                required_n=len(CHECKS),
                result={"checks_taken_out": len(checks), "noticed": len(checks) - len(unnoticed)},
                duration_s=time.monotonic() - began,
            )
        )
    except NoProof as reason:
        print(reason)
        return 1
    print(path.relative_to(REPOSITORY))
    return 0


def _run_without(check: Check) -> int:
    # One file after the other: the first usually notices.
    for path in check.tests:
        status = _run([path], "--without", check.place, "--returns", check.returns)
        if status != 0:
            print(f"{check.place}: noticed by {path}" if status == 1 else f"{check.place}: status {status}", flush=True)
            return status
    return 0


def _run(files: Sequence[str], *options: str) -> int:
    command = [
        *(sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"),
        *("-p", "integration_tests.without", *options, *files),
    ]
    return subprocess.run(command, cwd=REPOSITORY, check=False, stdout=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
