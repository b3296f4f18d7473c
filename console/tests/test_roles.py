"""The table of steps names bodies that exist."""

import importlib
import importlib.util

import pytest

from casebook.flow import STEPS
from casebook.queue import IN_FLIGHT
from casebook.settings import load_settings
from console.supervisor import ROLES
from dicom_node import io_worker


@pytest.mark.parametrize("body", [step.body for step in STEPS])
def test_the_body_of_a_step_exists(body: str) -> None:
    module, _, function = body.partition(":")

    assert callable(getattr(importlib.import_module(module), function))


def test_every_role_has_a_module() -> None:
    assert [role.name for role in ROLES] == ["listener", "sweeper", "io", "gpu"]
    assert all(importlib.util.find_spec(role.module) for role in ROLES)


def test_the_io_role_has_one_child_more_than_sends_may_be_in_flight() -> None:
    settings = load_settings()

    assert [one.kind for one in settings.destinations] == ["dicom", "hl7"]
    assert io_worker.children(settings) == 1 + IN_FLIGHT["dicom"] + IN_FLIGHT["hl7"] == 4
    assert io_worker.app.conf.worker_concurrency == 4
