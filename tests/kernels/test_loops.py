"""The loops against torch's operations, bit for bit: values and gradients of every quantizer."""

import copy
from collections.abc import Callable
from itertools import product
from unittest import mock

import pytest
import torch
from torch import Tensor

from quantizable.functional import fake_quantize
from quantizable.kernels import loops
from quantizable.kernels.library import library
from quantizable.quantizers import QUANTIZERS, Quantizer

pytestmark = pytest.mark.skipif(library(loops.same) is None, reason="no loops here: no g++, or switched off")
NO_LOOPS = mock.patch.object(loops, "library", return_value=None)
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every_other": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
}


def same_bits(found: Tensor | None, expected: Tensor | None) -> bool:
    """Alike in every bit, in type and in order in memory; NaN is NaN."""
    if found is None or expected is None:
        return found is expected
    integers = {4: torch.int32, 2: torch.int16}[found.element_size()]
    alike = found.contiguous().view(integers) == expected.contiguous().view(integers)
    order = found.dtype == expected.dtype and found.stride() == expected.stride()
    return order and bool((alike | (found.isnan() & expected.isnan())).all())


def sample(kind: str, negative: bool = True) -> Tensor:
    """``[6, 8, 21, 13]``: more than one block of the loops; ties, zeros of both signs, extremes twice."""
    x = torch.randn(6, 8, 21, 13, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, :5] = torch.tensor([0.0, -0.0, 0.5, 1.0, 0.25])
    x[1, 1], x[3] = x[2, 2], x[3].clamp(-0.4, 0.4)
    if kind == "weight":
        x[0, 1, 0, :2] = x.abs().max() * torch.tensor([1.0, -1.0])
    return x if negative else x.relu()


def outcome(quantizer: Quantizer, x: Tensor, grad: Tensor) -> list[Tensor | None]:
    """Values, and the gradients of the input and of all parameters."""
    quantizer = copy.deepcopy(quantizer)
    x = x.clone().requires_grad_()
    out = quantizer(x)
    out.backward(grad)
    return [out.detach(), x.grad, *(p.grad for p in quantizer.parameters())]


def quantizers(name: str, bits: int) -> list[tuple[Quantizer, Tensor]]:
    """Weights in both granularities and activations of both signs, each with a sample."""
    recipe, found = QUANTIZERS[name], []
    for axis in (None, 0) if recipe.per_channel else (None,):
        x = sample("weight")
        if bits >= 2 or not recipe.per_channel:
            found.append((recipe.weight(x, [bits], axis), x))
    for negative in (True, False):
        if bits >= (2 if recipe.per_channel or negative else 1):
            quantizer, x = recipe.activation([bits]), sample("activation", negative)
            quantizer.fit(x)
            found.append((quantizer, x))
    return found


@pytest.mark.parametrize("name", QUANTIZERS)
def test_values_and_gradients_of_every_quantizer(name: str) -> None:
    ran = 0
    for bits, dtype, view in product((1, 4), (torch.float32, torch.bfloat16), VIEWS):
        for quantizer, x in quantizers(name, bits):
            quantizer.set_bits(bits)
            x = VIEWS[view](x.to(dtype))
            grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
            grad = torch.empty_like(x).copy_(grad)
            found = outcome(quantizer, x, grad)
            with NO_LOOPS:
                expected = outcome(quantizer, x, grad)
            assert all(map(same_bits, found, expected)), (bits, dtype, view, type(quantizer).__name__)
            ran += loops.loops_for(x) is not None
    assert ran


@pytest.mark.parametrize("threads", [1, 2])
def test_every_branch_of_fake_quantize(threads: int) -> None:
    """With and without zero point, in a product or not, on one scale or one a row; ties and infinities."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for dtype, zero, in_product, per_row in product(*[(torch.float32, torch.bfloat16)], *[(0, 1)] * 3):
            if (zero and per_row) or (threads > 1 and dtype != torch.float32):
                continue
            x = sample("activation").repeat(3, 2, 1, 1) * 3
            x.view(-1)[::37] = 0.25 * torch.randint(-40, 40, x.view(-1)[::37].shape)
            x.view(-1)[6:9] = torch.tensor([torch.inf, -torch.inf, -0.0])
            finite = x.nan_to_num(0, 1e3, -1e3)
            scale = torch.rand(18, 1, 1, 1) + 0.2 if per_row else torch.tensor(0.5)
            for data in (x.to(dtype), finite.to(dtype)):
                grad, results = torch.randn_like(data), []
                for patch in (mock.MagicMock(), NO_LOOPS):
                    with patch:
                        inputs = [data.clone(), scale.clone(), torch.tensor(2.3)]
                        inputs = [t.requires_grad_() for t in (inputs if zero else inputs[:2])]
                        out = fake_quantize(
                            *(inputs if zero else [*inputs, None]), -8, 7, 0.1, bool(in_product)
                        )
                        out.backward(grad)
                    results.append([out.detach(), *(t.grad for t in inputs)])
                assert all(map(same_bits, *results)), (dtype, zero, in_product, per_row)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_nan_stays_one_and_gets_no_gradient(dtype: torch.dtype) -> None:
    x = torch.tensor([0.3, torch.nan, 9.0], dtype=dtype, requires_grad=True)
    out = fake_quantize(x, torch.tensor(0.5, requires_grad=True), None, -8, 7)
    out.backward(torch.ones_like(out))
    assert out.isnan().tolist() == [False, True, False]
    assert x.grad is not None
    assert x.grad.tolist() == [1, 0, 0]


def test_ties_round_to_even_by_hand() -> None:
    x = torch.tensor([0.25, 0.75, 1.25, -0.25, -0.75, 1.75])
    out = fake_quantize(x, torch.tensor(0.5), None, -8, 3)
    assert out.tolist() == [0, 1, 1, 0, -1, 1.5]  # codes 0, 2, 2, 0, -2, and 4, which is clipped to 3


def test_what_the_loops_leave_to_torch() -> None:
    x = torch.randn(4, 6)
    assert loops.loops_for(x) is not None
    assert loops.loops_for(x[:, ::2]) is None
    assert loops.loops_for(x[:0]) is None
    assert loops.loops_for(x.double()) is None
    assert loops.loops_for(x.half()) is None
    assert loops.loops_for(x.to("meta")) is None
    assert loops.loops_for(torch.complex(x, x).conj().imag.view(-1)) is None
    assert torch.func.vmap(lambda row: row * (loops.loops_for(row) is None))(x).equal(x)
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        assert loops.loops_for(x) is None
    assert loops.rows_and_length(x, torch.ones(1, 6)) is None  # one step size a column
    assert loops.rows_and_length(x, torch.ones(4, 1).double()) is None
    assert loops.rows_and_length(x, torch.ones(4, 1)) == (4, 6)
    assert not loops.alike(x, x.t().contiguous().t())


@pytest.mark.parametrize("name", ["lsq", "nested", "dorefa", "pact", "sat"])
def test_a_gradient_in_another_order_and_the_gradient_of_a_gradient(name: str) -> None:
    recipe = QUANTIZERS[name]
    x = sample("weight")
    pact = recipe.activation([4])
    pact.fit(x)
    for quantizer in (recipe.weight(x, [4], None), pact):
        quantizer.set_bits(4)
        results = []
        for patch in (mock.MagicMock(), NO_LOOPS):
            with patch:
                given = x.clone().requires_grad_()
                out = quantizer(given)
                mirrored = torch.randn(x.mT.shape, generator=torch.Generator().manual_seed(2)).mT
                (first,) = torch.autograd.grad(out, given, mirrored, retain_graph=True)
                (second,) = torch.autograd.grad(out.pow(3).sum(), given, create_graph=True)
                second.pow(2).sum().backward()
            results.append((first, second.detach(), given.grad))
        assert same_bits(results[0][0], results[1][0])
        torch.testing.assert_close(results[0], results[1])


def test_gradients_beyond_all_bounds_of_a_clipped_activation() -> None:
    """What an unsigned range leaves out, zero times a sum, is NaN where the sum is infinite."""
    quantizer = QUANTIZERS["pact"].activation([4])
    quantizer.fit(torch.linspace(0, 2, 100))
    quantizer.set_bits(4)
    x, grad = torch.tensor([-1.0, 0.5, 3.0]), torch.tensor([torch.inf, 1.0, 1.0])
    with NO_LOOPS:
        expected = outcome(quantizer, x, grad)
    assert all(map(same_bits, outcome(quantizer, x, grad), expected))
    assert expected[2] is not None
    assert expected[2].isnan()
