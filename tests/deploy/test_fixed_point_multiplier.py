"""Multiplier and shift against Python's unbounded integers and fractions."""

from fractions import Fraction
from math import floor

import torch
from hypothesis import given
from hypothesis import strategies as st

from quantizable.deploy.fixed_point_multiplier import fixed_multiplier, rescale


@given(st.floats(1e-8, 1e6), st.booleans())
def test_multiplier_is_within_31_bits_of_the_real_number(real: float, negative: bool) -> None:
    real = -real if negative else real
    m, shift = fixed_multiplier(torch.tensor(real, dtype=torch.float64))
    found = Fraction(int(m)) / 2 ** int(shift)
    assert abs(found / Fraction(real) - 1) <= Fraction(1, 2**30)


@given(st.integers(-(2**31), 2**31 - 1), st.floats(1e-8, 1e6))
def test_rescale_is_exact_integer_arithmetic(integer: int, real: float) -> None:
    m, shift = fixed_multiplier(torch.tensor(real, dtype=torch.float64))
    found = rescale(torch.tensor(integer), m, shift)
    assert int(found) == floor(Fraction(integer * int(m), 2 ** int(shift)) + Fraction(1, 2))


def test_zero_stays_zero() -> None:
    m, shift = fixed_multiplier(torch.zeros(1, dtype=torch.float64))
    assert rescale(torch.tensor([12345]), m, shift).item() == 0
