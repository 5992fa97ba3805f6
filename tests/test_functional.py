"""The tensor maths against plain float arithmetic and finite sums."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantizable.functional import (
    QParams,
    dequantize,
    fake_quantize,
    quantize,
    scale_gradient,
    straight_through,
)


def literal(x: float, scale: float, zero: float, low: int, high: int) -> tuple[float, float, float, float]:
    """Value, and its derivatives by x, scale and zero point: LSQ eq. 1 to 3, LSQ+ eq. 3 to 6."""
    v = x / scale + zero
    if v <= low:
        return (low - zero) * scale, 0.0, low - zero, -scale
    if v >= high:
        return (high - zero) * scale, 0.0, high - zero, -scale
    code = round(v)  # Python rounds half to even, too
    return (code - zero) * scale, 1.0, (code - zero) - x / scale, 0.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-20, 20, width=32, allow_subnormal=False), min_size=1, max_size=8),
    st.sampled_from([0.25, 0.5, 1.0, 2.0]),  # exact in binary: no rounding hides a wrong formula
    st.sampled_from([None, 0.0, 3.0, 1.5]),
    st.sampled_from([(-8, 7), (0, 15), (-2, 1), (0, 3)]),
    st.booleans(),
)
def test_fake_quantize_is_the_literal_formula(
    values: list[float], scale: float, zero: float | None, ends: tuple[int, int], as_tensors: bool
) -> None:
    x = torch.tensor(values, requires_grad=True)
    s = torch.tensor(scale, requires_grad=True)
    z = None if zero is None else torch.tensor(zero, requires_grad=True)
    low, high = (torch.tensor(e) for e in ends) if as_tensors else ends
    out = fake_quantize(x, s, z, low, high, grad_scale=0.5)
    out.sum().backward()
    expected = [literal(float(v), scale, zero or 0.0, *ends) for v in x.detach().double()]
    torch.testing.assert_close(out.detach().double(), torch.tensor([e[0] for e in expected]).double())
    torch.testing.assert_close(x.grad, torch.tensor([e[1] for e in expected]))
    assert s.grad is not None
    assert math.isclose(float(s.grad), 0.5 * sum(e[2] for e in expected), rel_tol=1e-4, abs_tol=1e-4)
    if z is not None:
        assert z.grad is not None
        assert math.isclose(float(z.grad), 0.5 * sum(e[3] for e in expected), rel_tol=1e-5, abs_tol=1e-5)


def test_torch_fake_quantize_agrees() -> None:
    x = torch.randn(1000)
    ours = fake_quantize(x, torch.tensor(0.1), torch.tensor(3.0), 0, 15)
    torch.testing.assert_close(ours, torch.fake_quantize_per_tensor_affine(x, 0.1, 3, 0, 15))


def test_gradients_per_channel_are_those_of_the_channels() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    scale = torch.tensor([[0.1], [0.2], [0.3]], requires_grad=True)
    fake_quantize(x, scale, None, -2, 1).pow(2).sum().backward()
    assert x.grad is not None
    assert scale.grad is not None
    for row in range(3):
        x1 = x[row].detach().requires_grad_()
        s1 = scale[row, 0].detach().requires_grad_()
        fake_quantize(x1, s1, None, -2, 1).pow(2).sum().backward()
        torch.testing.assert_close(x.grad[row], x1.grad)
        torch.testing.assert_close(scale.grad[row, 0], s1.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fake_quantize_is_dequantized_codes_in_every_type(dtype: torch.dtype) -> None:
    x = torch.randn(200).to(dtype)
    qparams = QParams(torch.tensor(0.1), torch.tensor(0.0), -8, 7)
    out = fake_quantize(x, qparams.scale, None, -8, 7)
    assert out.dtype == dtype
    assert torch.equal(out, dequantize(quantize(x, qparams), qparams).to(dtype))


def test_quantize_rounds_half_to_even_and_saturates() -> None:
    qparams = QParams(torch.tensor(1.0), torch.tensor(0.0), -2, 1)
    x = torch.tensor([-9.0, -1.5, -0.5, 0.5, 1.5, 9.0])
    assert quantize(x, qparams).tolist() == [-2, -2, 0, 0, 1, 1]
    assert quantize(x, qparams).dtype == torch.int32


def test_a_step_size_at_zero_or_below_gives_finite_values_and_gradients() -> None:
    for value in (0.0, -1.0):
        x, scale = torch.randn(10, requires_grad=True), torch.tensor(value, requires_grad=True)
        fake_quantize(x, scale, None, -8, 7).sum().backward()
        assert x.grad is not None
        assert scale.grad is not None
        assert x.grad.isfinite().all()
        assert scale.grad.isfinite()


def test_gradients_of_gradients_are_those_of_the_chain_of_operations() -> None:
    x = torch.randn(50, requires_grad=True)
    scale, zero = torch.tensor(0.5, requires_grad=True), torch.tensor(0.3, requires_grad=True)

    def chain(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        code = (x / scale + zero).clamp(low, high)
        return (straight_through(code, code.round()) - zero) * scale

    seconds = []
    for function in (fake_quantize, chain):
        loss = function(x, scale, zero, -2, 1).pow(3).sum()
        firsts = torch.autograd.grad(loss, (x, scale, zero), create_graph=True)
        total = sum(g.square().sum() for g in firsts)
        seconds.append(torch.autograd.grad(total, (x, scale, zero)))
    for ours, reference in zip(*seconds, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-3)


def test_the_step_sizes_gradient_does_not_overflow_in_float16() -> None:
    x = torch.ones(100_000, dtype=torch.float16, requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    fake_quantize(x, scale, None, -2, 1).backward(torch.ones_like(x))
    assert scale.grad == 100_000  # each of them is clipped at code 1


def test_straight_through_and_scaled_gradient() -> None:
    x = torch.tensor([0.4, 1.6], requires_grad=True)
    out = straight_through(x, torch.round(x))
    assert out.tolist() == [0.0, 2.0]
    (out * torch.tensor([3.0, 5.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3.0, 5.0]
    y = torch.tensor(2.0, requires_grad=True)
    scale_gradient(y, 0.25).square().backward()
    assert y.grad is not None
    assert float(y.grad) == 1.0
