"""What every quantizer promises; a test class inherits this and gives the paper's formulas."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from quantizable.functional import dequantize
from quantizable.quantizers import Quantizer

WIDTHS = (2, 3, 4, 8)
each_width = pytest.mark.parametrize("bits", WIDTHS)


class QuantizerContract:
    """The battery. A subclass gives ``make``, ``data``, ``literal`` and ``surrogate``."""

    idempotent = True  # False: why it cannot be is said by the subclass

    def make(self, x: Tensor, widths: tuple[int, ...] = WIDTHS) -> Quantizer:
        """The quantizer, not yet initialized if it needs data."""
        raise AssertionError("given by the subclass")

    def data(self) -> Tensor:
        """A tensor of the kind that it quantizes."""
        raise AssertionError("given by the subclass")

    def literal(self, x: list[float], quantizer: Quantizer, bits: int) -> list[float]:
        """The paper's forward formula in plain Python, without looking at the quantizer's own maths."""
        raise AssertionError("given by the subclass")

    def surrogate(self, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
        """The same formula in float64 without its rounding: its derivative is the STE's."""
        raise AssertionError("given by the subclass")

    def ready(self, bits: int = 32) -> tuple[Quantizer, Tensor]:
        x = self.data()
        quantizer = self.make(x)
        quantizer.set_bits(4)
        quantizer(x)
        quantizer.set_bits(bits)
        return quantizer, x

    @each_width
    def test_equals_the_paper(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        expected = torch.tensor(self.literal(x.double().flatten().tolist(), quantizer, bits))
        torch.testing.assert_close(quantizer(x).flatten(), expected, rtol=1e-5, atol=1e-6)

    @each_width
    def test_gradient_is_that_of_the_formula_without_rounding(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        x1, x2 = x.clone().requires_grad_(), x.double().requires_grad_()
        weights = torch.randn_like(x)
        (quantizer(x1) * weights).sum().backward()
        (self.surrogate(x2, quantizer, bits) * weights).sum().backward()
        assert x1.grad is not None
        assert x2.grad is not None
        torch.testing.assert_close(x1.grad, x2.grad.float(), rtol=1e-4, atol=1e-5)

    @each_width
    def test_at_most_2_to_the_k_levels(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        assert 1 < len(quantizer(x).unique()) <= 2**bits

    @each_width
    def test_codes_are_integers_in_range_and_forward_is_their_value(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        codes, qparams = quantizer.codes(x), quantizer.qparams(x)
        assert codes.dtype == torch.int32
        assert codes.shape == x.shape
        assert qparams.quant_max - qparams.quant_min + 1 <= 2**bits
        assert qparams.quant_min <= codes.min()
        assert codes.max() <= qparams.quant_max
        assert (qparams.scale > 0).all()
        assert torch.equal(quantizer(x), dequantize(codes, qparams))

    @each_width
    def test_codes_of_any_width_whatever_is_active(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        active = quantizer.codes(x)
        quantizer.set_bits(32)
        assert torch.equal(quantizer.codes(x, bits), active)

    @each_width
    def test_monotone(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        out = quantizer(x.flatten().sort().values.reshape(x.shape))
        assert (out.flatten().diff() >= 0).all()

    @each_width
    def test_idempotent(self, bits: int) -> None:
        if not self.idempotent:
            pytest.skip("not idempotent as published")
        quantizer, x = self.ready(bits)
        once = quantizer(x)
        assert torch.equal(quantizer(once), once)

    def test_32_bits_is_the_identity(self) -> None:
        quantizer, x = self.ready(32)
        assert quantizer(x) is x
        with pytest.raises(ValueError, match="no integer codes at float"):
            quantizer.codes(x)

    def test_an_empty_batch_passes_and_fits_nothing(self) -> None:
        x = self.data()
        quantizer = self.make(x)
        before = bool(quantizer.initialised)
        quantizer.set_bits(4)
        assert quantizer(x[:0]).shape == x[:0].shape
        assert bool(quantizer.initialised) == before
        quantizer.start_calibration()
        quantizer(x[:0])
        assert not quantizer.finish_calibration()
        quantizer(x)
        assert quantizer(x[:0]).shape == x[:0].shape

    def test_there_and_back(self) -> None:
        quantizer, x = self.ready()
        first = {}
        for bits in (*WIDTHS, 32):
            quantizer.set_bits(bits)
            first[bits] = quantizer(x).detach().clone()
        for bits in (8, 2, 32, 3, 4, 8):
            quantizer.set_bits(bits)
            assert quantizer.bits == bits
            assert torch.equal(quantizer(x), first[bits])

    def test_a_width_it_lacks_is_refused_and_nothing_changes(self) -> None:
        quantizer, _ = self.ready(4)
        with pytest.raises(ValueError, match="5 bits"):
            quantizer.set_bits(5)
        assert quantizer.bits == 4

    def test_copies_give_the_same(self) -> None:
        quantizer, x = self.ready(3)
        for twin in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
            assert torch.equal(twin(x), quantizer(x))
            twin.set_bits(2)
            assert (twin.bits, quantizer.bits) == (2, 3)
            owned = {id(t) for t in (*twin.parameters(), *twin.buffers())}
            assert all(id(t) in owned for t in twin.active.state_dict(keep_vars=True).values())

    @pytest.mark.parametrize("assign", [False, True])
    def test_state_dict_round_trip(self, assign: bool) -> None:
        quantizer, x = self.ready(4)
        other = self.make(self.data())
        other.load_state_dict(quantizer.state_dict(), assign=assign)
        for bits in WIDTHS:
            other.set_bits(bits)
            quantizer.set_bits(bits)
            assert torch.equal(other(x), quantizer(x))
            assert other.level(bits).range.tolist() == quantizer.level(bits).range.tolist()

    @each_width
    def test_codes_under_autocast_are_the_float32_codes_of_the_same_input(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        x = x.bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            codes, out = quantizer.codes(x), quantizer(x)
        assert torch.equal(codes, quantizer.codes(x.float()))
        assert out.dtype == torch.bfloat16
        assert torch.equal(out, dequantize(codes, quantizer.qparams(x.float())).bfloat16())

    def test_one_compiled_graph_for_all_widths_and_one_for_float(self) -> None:
        quantizer, x = self.ready()
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(quantizer, backend=counter, fullgraph=True)
        for bits in (*WIDTHS, *WIDTHS):
            quantizer.set_bits(bits)
            grads = []
            for function in (quantizer, compiled):
                x1 = x.clone().requires_grad_()
                quantizer.zero_grad()
                out = function(x1)
                out.square().sum().backward()
                grads.append([out, x1.grad, *(p.grad for p in quantizer.parameters() if p.grad is not None)])
            for eager, graph in zip(*grads, strict=True):
                torch.testing.assert_close(graph, eager, rtol=1e-4, atol=1e-4)
        assert counter.frame_count == 1
        quantizer.set_bits(32)
        compiled(x)
        assert counter.frame_count <= 2
        torch._dynamo.reset()

    @pytest.mark.parametrize("decay", [0.9, 0.9995, 0.9999])
    def test_an_average_over_checkpoints_keeps_ranges_legal(self, decay: float) -> None:
        x = self.data()
        quantizer = self.make(x)
        average = AveragedModel(quantizer, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        quantizer.set_bits(4)
        quantizer(x)  # initialized after the average was made
        for _ in range(20):
            average.update_parameters(quantizer)
        saved = self.make(x)
        saved.load_state_dict(average.module.state_dict())
        for twin in (saved, average.module):
            twin.set_bits(4)
            assert torch.allclose(twin(x), quantizer(x), rtol=1e-3, atol=1e-4)
            for bits in WIDTHS:
                level, original = twin.level(bits), quantizer.level(bits)
                assert level.range.tolist() == original.range.tolist()
                assert (level.quant_min, level.quant_max) == (original.quant_min, original.quant_max)

    def test_no_width_at_all_is_the_identity(self) -> None:
        x = self.data()
        quantizer = self.make(x, ())
        quantizer.set_bits(32)
        assert quantizer(x) is x
        assert not list(quantizer.parameters())

    def test_illegal_widths_are_refused(self) -> None:
        for widths in ((0,), (17,), (-4,), (1.5,)):
            with pytest.raises(ValueError, match="allowed are"):
                self.make(self.data(), widths)


def round_half_even(v: float) -> int:
    """Python's ``round``, under the name of what it does."""
    return round(v)


def clip(v: float, low: float, high: float) -> float:
    """``v`` limited to ``[low, high]``."""
    return min(max(v, low), high)


def mean(values: list[float]) -> float:
    """Arithmetic mean."""
    return math.fsum(values) / len(values)
