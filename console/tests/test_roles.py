"""The table of steps names bodies that exist."""

import importlib
import importlib.util

import pytest

from casebook.flow import STEPS
from console.supervisor import ROLES


@pytest.mark.parametrize("body", [step.body for step in STEPS])
def test_the_body_of_a_step_exists(body: str) -> None:
    module, _, function = body.partition(":")

    assert callable(getattr(importlib.import_module(module), function))


def test_every_role_has_a_module() -> None:
    assert [role.name for role in ROLES] == ["listener", "sweeper", "io", "gpu"]
    assert all(importlib.util.find_spec(role.module) for role in ROLES)
