"""The table from errors to DIMSE statuses."""

import pytest

from casebook.errors import (
    InvalidObject,
    Retryable,
    StorageFull,
    StoreUnavailable,
    UnreadablePixels,
    UnsafeStorage,
    WetreadError,
)
from dicom_node.receive.statuses import status_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, 0x0000),
        (StorageFull(), 0xA700),
        (StoreUnavailable(), 0xA700),
        (InvalidObject(), 0xA900),
        (UnreadablePixels(), 0xA900),
        (UnsafeStorage(), 0x0110),
        (Retryable(), 0x0110),
        (WetreadError(), 0x0110),
        (RuntimeError("anything else"), 0x0110),
    ],
)
def test_each_error_has_its_status_and_none_is_success(error: Exception | None, status: int) -> None:
    assert status_of(error) == status
