"""A plugin of pytest that takes one check out of the house: ``-p integration_tests.without --without MODULE:FUNCTION``.

The function then returns what `--returns` says, wherever it is called from, and the tests have to notice.
"""

import ast
import importlib
import sys
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

import pytest

#: As `--returns`: the function gives back its first argument.
FIRST = "its first argument"
_OURS = ("casebook", "codestreams", "dicom_node", "worker", "training", "console", "integration_tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the check and what stands in its place."""
    parser.addoption("--without", metavar="MODULE:FUNCTION", help="the check that is taken out")
    parser.addoption("--returns", default="None", help=f"a Python literal, or: {FIRST}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take it out once every test is imported, and so everything that holds the check by its name."""
    place = session.config.getoption("--without")
    if place:
        take_out(place, session.config.getoption("--returns"))


def take_out(place: str, returns: str) -> int:
    """Replace a function of ours in every module that has it; return in how many.

    Parameters
    ----------
    place
        ``module:function``.
    returns
        What the replacement gives back.
    """
    module, _, name = place.partition(":")
    instead = replacement(returns)
    found = holders(getattr(importlib.import_module(module), name), _OURS)
    for one, key in found:
        setattr(one, key, instead)
    return len(found)


def holders(original: object, packages: Collection[str]) -> list[tuple[ModuleType, str]]:
    """Return each module of these packages that is imported and holds a function, and under which name."""
    return [
        (one, key)
        for module_name, one in list(sys.modules.items())
        if module_name.partition(".")[0] in packages and isinstance(one, ModuleType)
        for key, value in list(vars(one).items())
        if value is original
    ]


def replacement(returns: str) -> Callable[..., Any]:
    """Return a function that does nothing but give back one value."""
    if returns == FIRST:
        return lambda first, *_, **__: first
    value = ast.literal_eval(returns)
    return lambda *_, **__: value
