"""The stored bits of a cell are taken where the header says, unless the cells show that it is wrong."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from casebook.errors import UnreadablePixels
from codestreams import bits as module
from codestreams.bits import stored_bits
from codestreams.description import Description
from codestreams.faults import StreamFault
from codestreams.tests.streams import a_picture, describe


def header(values: NDArray[Any], bits: int, **attributes: Any) -> Description:
    return replace(describe(values.astype(np.uint16), bits), **attributes)


def refused(cells: NDArray[Any], described: Description) -> bool:
    try:
        stored_bits(cells, described)
    except UnreadablePixels as error:
        return str(error) == StreamFault.HEADER_CONFLICT
    return False


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_cells_are_shifted_down_to_their_high_bit(bits: int) -> None:
    values = a_picture(bits).astype(np.uint16)
    for high_bit in (15, bits, 14):
        if high_bit < bits:
            continue
        shifted = values << np.uint16(high_bit + 1 - bits)

        assert np.array_equal(stored_bits(shifted, header(values, bits, high_bit=high_bit)), values)


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_signed_cells_are_shifted_down_and_extended(bits: int) -> None:
    values = (a_picture(bits).astype(np.int32) - 2 ** (bits - 1)) // 2
    shifted = ((values % 2**bits) << (16 - bits)).astype(np.uint16)

    stored = stored_bits(shifted, header(values, bits, high_bit=15, is_signed=True))

    assert stored.dtype == np.int16
    assert np.array_equal(stored, values)


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_cells_that_are_not_shifted_although_high_bit_says_so_are_refused(bits: int) -> None:
    values = a_picture(bits).astype(np.uint16)

    assert refused(values, header(values, bits, high_bit=15))


@pytest.mark.parametrize("plane", [12, 13, 15])
def test_an_overlay_in_the_upper_bits_is_no_picture(plane: int) -> None:
    values = a_picture(12).astype(np.uint16)
    letters = np.zeros_like(values)
    letters[20:40, 10:60:2] = 1 << plane
    for is_declared in (True, False):
        described = header(values, 12, has_overlay_bits=is_declared)

        assert np.array_equal(stored_bits(values | letters, described), values)


@pytest.mark.parametrize("plane", [0, 1, 3])
def test_an_overlay_in_the_lower_bits_is_no_picture(plane: int) -> None:
    values = a_picture(12).astype(np.uint16)
    cells = values << np.uint16(4)
    cells[20:40, 10:60:2] |= np.uint16(1 << plane)

    assert np.array_equal(stored_bits(cells, header(values, 12, high_bit=15, has_overlay_bits=True)), values)
    assert refused(cells, header(values, 12, high_bit=15))


@pytest.mark.parametrize("stored", [9, 10, 11, 12])
def test_a_picture_of_more_bits_than_its_header_is_refused(stored: int) -> None:
    values = a_picture(14).astype(np.uint16)

    assert refused(values, header(values, stored))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_the_sign_is_read_from_its_own_bit_whether_it_is_carried_on_or_not(bits: int) -> None:
    values = (a_picture(bits).astype(np.int32) - 2 ** (bits - 1)) // 2
    described = header(values, bits, is_signed=True)
    carried, bare = values.astype(np.int16), (values % 2**bits).astype(np.uint16)

    assert np.array_equal(stored_bits(carried, described), values)
    assert np.array_equal(stored_bits(bare, described), values)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_false_sign_is_refused(bits: int) -> None:
    unsigned = a_picture(bits).astype(np.uint16)
    around_zero = (unsigned.astype(np.int32) - 2 ** (bits - 1)) // 4
    signed = (around_zero % 2**bits).astype(np.uint16)

    assert refused(unsigned, header(unsigned, bits, is_signed=True))
    assert refused(signed, header(signed, bits))
    assert not refused(unsigned, header(unsigned, bits))
    assert not refused(signed, header(signed, bits, is_signed=True))


@pytest.mark.parametrize("padding", [0, 4095])
def test_padding_and_markers_beside_the_picture_are_no_false_sign(padding: int) -> None:
    values = (a_picture(12) // 2).astype(np.uint16)
    values[:20], values[:, :9], values[50:60, 30:50:2] = padding, padding, 4095

    assert np.array_equal(stored_bits(values, header(values, 12)), values)


def test_a_picture_of_two_values_has_no_false_sign() -> None:
    values = ((a_picture(12) > 2000) * 65535).astype(np.uint16)

    assert np.array_equal(stored_bits(values, header(values, 16)), values)


@pytest.mark.parametrize("check", ["refuse_unshifted_cells", "refuse_torn_depth", "refuse_torn_sign"])
def test_without_its_check_a_wrong_header_would_be_believed(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = a_picture(12).astype(np.uint16)
    wrong = {
        "refuse_unshifted_cells": (values, header(values, 12, high_bit=15)),
        "refuse_torn_depth": (values, header(values, 9)),
        "refuse_torn_sign": (values, header(values, 12, is_signed=True)),
    }[check]
    assert refused(*wrong)

    monkeypatch.setattr(module, check, lambda *_: None)

    assert not refused(*wrong)


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("is_signed", [False, True])
def test_cells_in_the_other_byte_order_hold_the_same_values(bits: int, is_signed: bool) -> None:
    values = a_picture(bits).astype(np.int32)
    described = header(values, bits, is_signed=is_signed)
    cells = values - 2 ** (bits - 1) if is_signed else values
    cells = cells.astype("<i2" if is_signed else "<u2")

    stored = stored_bits(cells.astype(cells.dtype.newbyteorder(">")), described)

    assert np.array_equal(stored, cells)
