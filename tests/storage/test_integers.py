"""Integers of every quantizer against the fake-quant values they stand for."""

import pytest
import torch

from quantizable.quantizers import QUANTIZERS
from quantizable.storage.integers import integer_input, integer_weight

NAMES = sorted(QUANTIZERS)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", NAMES)
def test_weight_value_is_the_fake_quant_value(name: str, bits: int) -> None:
    weight = torch.randn(6, 4, 3, 3)
    recipe = QUANTIZERS[name]
    quantizer = recipe.weight(weight, [bits, 8], 0 if recipe.per_channel else None)
    quantizer.set_bits(bits)
    found = integer_weight(quantizer, weight, bits)
    assert found.integers.dtype == torch.int32
    assert found.integers.abs().max() <= 2**bits - 1
    torch.testing.assert_close(found.value(), quantizer(weight).detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_input_codes_are_the_fake_quant_codes(name: str, signed: bool, bits: int) -> None:
    x = torch.randn(2000) if signed else torch.rand(2000)
    quantizer = QUANTIZERS[name].activation([bits])
    quantizer.set_bits(bits)
    quantizer(x)  # sets its step size
    grid = integer_input(quantizer, bits)
    beyond = 3 * x
    codes = grid.codes(beyond)
    assert torch.equal(codes.to(torch.int32), quantizer.codes(beyond))
    value = (codes - grid.zero_point - grid.remainder) * grid.scale
    torch.testing.assert_close(value, quantizer(beyond).detach(), rtol=1e-5, atol=1e-6)


def test_a_real_zero_point_leaves_a_remainder() -> None:
    quantizer = QUANTIZERS["lsq_plus"].activation([4])
    quantizer.set_bits(4)
    quantizer(torch.rand(100) - 0.3)
    grid = integer_input(quantizer, 4)
    assert 0 < abs(grid.remainder) <= 0.5
