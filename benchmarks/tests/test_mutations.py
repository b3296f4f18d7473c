"""The proof that takes checks out: every check it names exists, and so do the tests that have to notice."""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from benchmarks.evidence import REPOSITORY
from benchmarks.prove_mutations import CHECKS
from integration_tests.without import FIRST, replacement, take_out


@pytest.mark.parametrize("place", [one.place for one in CHECKS])
def test_a_check_that_is_taken_out_exists(place: str) -> None:
    module, _, function = place.partition(":")

    assert callable(getattr(importlib.import_module(module), function))


def test_the_tests_that_have_to_notice_exist() -> None:
    files = {path for one in CHECKS for path in one.tests}

    assert [path for path in files if not (REPOSITORY / path).is_file()] == []
    assert len(CHECKS) == len({one.place for one in CHECKS}) >= 80


@pytest.fixture
def holders() -> Iterator[tuple[ModuleType, ModuleType]]:
    """Two modules of ours that hold one function, one of them under another name."""
    own, other = ModuleType("casebook.made_up"), ModuleType("worker.made_up")
    own.check = lambda value: f"checked {value}"  # type: ignore[attr-defined]
    other.imported = own.check  # type: ignore[attr-defined]
    sys.modules |= {one.__name__: one for one in (own, other)}
    yield own, other
    for one in (own, other):
        del sys.modules[one.__name__]


def test_a_check_is_taken_out_wherever_it_is_held(holders: tuple[ModuleType, ModuleType]) -> None:
    own, other = holders

    assert take_out("casebook.made_up:check", "()") == 2
    assert own.check("x") == other.imported("x") == ()


def test_what_stands_in_its_place_is_a_literal_or_the_first_argument() -> None:
    assert replacement("False")(1, two=2) is False
    assert replacement(FIRST)("kept", 2) == "kept"
