"""What every quantized layer promises; a test class inherits this and gives its layers."""

import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from quantizable import QuantizableNetwork, quantize
from quantizable.storage.load import load
from quantizable.storage.qz import save_qz

MODES = [2, 4, "w4a8", 8, 32]


def tensors(value: Any) -> list[Tensor]:
    """The tensors of what a layer returns, in order; of packed sequences their data."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return [value.data]
    return [] if value is None else [tensor for part in value for tensor in tensors(part)]


def equal(found: Any, expected: Any) -> bool:
    """True if two outputs are the same to the last bit."""
    pairs = zip(tensors(found), tensors(expected), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


class LayerContract:
    """The battery. A subclass gives ``case``, and ``options`` of ``quantize``."""

    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def case(self) -> tuple[nn.Module, Tensor]:
        """A float layer, or a network around it that takes one tensor, and an input."""
        raise AssertionError("given by the subclass")

    def network(self, case: tuple[nn.Module, Tensor]) -> QuantizableNetwork:
        """The layer in all modes, calibrated, in evaluation mode."""
        net = quantize(case[0].eval(), MODES, first_last="mode", **self.options)
        net.calibrate([case[1]])
        return net

    def test_mode_32_is_the_float_layer_to_the_last_bit(self, case: tuple[nn.Module, Tensor]) -> None:
        layer, x = case
        net = self.network(case)
        for training in (True, False):
            layer.train(training)
            net.train(training)
            torch.manual_seed(0)
            expected = layer(x)
            torch.manual_seed(0)
            assert equal(net(x), expected)

    def test_modes_differ_and_are_the_same_on_the_way_up_and_down(
        self, case: tuple[nn.Module, Tensor]
    ) -> None:
        net, x, seen = self.network(case), case[1], {}
        for mode in [*MODES, *MODES[::-1]]:
            net.set_bits(mode)
            output = net(x)
            assert all(tensor.isfinite().all() for tensor in tensors(output))
            assert equal(output, seen.setdefault(mode, output))
        assert not equal(seen[2], seen[4])
        assert not equal(seen[8], seen[32])

    def test_every_weight_and_every_step_size_in_use_has_a_gradient(
        self, case: tuple[nn.Module, Tensor]
    ) -> None:
        net = self.network(case).train()
        for mode in (4, 32):
            net.set_bits(mode)
            net.zero_grad()
            sum(tensor.square().sum() for tensor in tensors(net(case[1]))).backward()
            for name, parameter in net.named_parameters():
                if ".levels." not in name or f".levels.{mode}." in name:
                    assert parameter.grad is not None, name
                    assert parameter.grad.isfinite().all(), name

    def test_a_state_dict_is_all_there_is(self, case: tuple[nn.Module, Tensor]) -> None:
        net, fresh = self.network(case), copy.deepcopy(case[0])
        with torch.no_grad():
            for parameter in fresh.parameters():
                parameter.zero_()
        other = quantize(fresh, MODES, first_last="mode", **self.options)
        other.load_state_dict(net.state_dict())
        for mode in MODES:
            with net.at_bits(mode), other.at_bits(mode):
                assert equal(other(case[1]), net(case[1]))
        other = quantize(fresh, MODES, first_last="mode", **self.options)
        other.load_state_dict(case[0].state_dict())
        assert equal(other(case[1]), case[0](case[1])), "an older checkpoint, of the float layer"

    def test_the_way_back_to_float(self, case: tuple[nn.Module, Tensor]) -> None:
        layer, x = case
        back = self.network(case).to_float()
        kinds = [(name, type(module)) for name, module in layer.named_modules()]
        assert [(name, type(module)) for name, module in back.named_modules()] == kinds
        assert back.state_dict().keys() == layer.state_dict().keys()
        assert equal(back(x), layer(x))

    def test_a_compiled_layer_has_one_graph_for_all_quantized_modes(
        self, case: tuple[nn.Module, Tensor]
    ) -> None:
        torch._dynamo.reset()
        net, counter = self.network(case), CompileCounter()
        run = torch.compile(net, backend=counter)
        for mode in (4, 32):
            net.set_bits(mode)
            assert equal(run(case[1]), net(case[1]))
        graphs = counter.frame_count
        for mode in (2, 8):
            net.set_bits(mode)
            assert equal(run(case[1]), net(case[1]))
        assert counter.frame_count == graphs

    def test_a_copy_is_switched_alone(self, case: tuple[nn.Module, Tensor]) -> None:
        net = self.network(case)
        expected = net(case[1])
        other = copy.deepcopy(net)
        other.set_bits(2)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(2)
        assert equal(net(case[1]), expected)
        assert not equal(other(case[1]), expected)

    def test_a_file_of_integers_computes_the_same(
        self, case: tuple[nn.Module, Tensor], tmp_path: Path
    ) -> None:
        net = self.network(case)
        save_qz(net, tmp_path / "layer.qz")
        stored = load(tmp_path / "layer.qz", copy.deepcopy(case[0]))
        for mode in MODES[:-1]:
            with torch.no_grad(), net.at_bits(mode), stored.at_bits(mode):
                assert equal(stored(case[1]), net(case[1]))
                for name, layer in net.layers().items():
                    codes = [n.layers()[name].weight_quantizer.codes for n in (net, stored)]
                    assert torch.equal(*(of(layer.float_weight()) for of in codes))
