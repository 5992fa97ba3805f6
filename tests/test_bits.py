"""Bit modes: what is read, what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantizable.bits import FLOAT, BitMode, int_range, parse_modes

WIDTHS = st.one_of(st.integers(1, 16), st.just(32))


@given(WIDTHS, WIDTHS)
def test_name_is_read_back(weight: int, activation: int) -> None:
    mode = BitMode(weight, activation)
    assert BitMode.parse(mode.name) == mode
    assert BitMode.parse(f"W{weight}A{activation} ") == mode


@pytest.mark.parametrize("written", [4, "4", " 4 ", "w4a4", np.int64(4), BitMode(4, 4)])
def test_spellings_of_one_mode(written: object) -> None:
    assert BitMode.parse(written) == BitMode(4, 4)


@pytest.mark.parametrize(
    "wrong", [0, 1.5, 17, 20, 31, 33, -4, "w4", "a8", "banana", "", "w4a20", "-4", True, None, 4.0, [4]]
)
def test_illegal_modes_say_what_is_allowed(wrong: object) -> None:
    with pytest.raises(ValueError, match="allowed are integers from 2 to 16"):
        BitMode.parse(wrong)


def test_float_is_32_for_both() -> None:
    assert BitMode.parse(32) == FLOAT
    assert FLOAT.is_float
    assert not BitMode.parse("w4a32").is_float


@pytest.mark.parametrize("given_", [[32, 2, "w4a8", 4], "32,2,w4a8,4", (mode for mode in (32, 2, "w4a8", 4))])
def test_modes_come_sorted(given_: object) -> None:
    assert [m.name for m in parse_modes(given_)] == ["2", "4", "w4a8", "32"]


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        ([], "is empty"),
        ([4, 2, "4"], "4 is listed more than once"),
        ([2, 20], "20 is out of range"),
        (1.5, "not an integer"),
        (None, "not an integer"),
    ],
)
def test_illegal_lists(modes: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_modes(modes)


@given(st.integers(1, 16), st.booleans())
def test_range_holds_2_to_the_k_integers(bits: int, signed: bool) -> None:
    low, high = int_range(bits, signed)
    assert high - low + 1 == 2**bits
    assert (low < 0) == signed
