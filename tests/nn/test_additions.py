"""Residual additions on grids: what is found, what is computed, and that nothing else changes."""

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

import quantizable
from quantizable.models.cifar_resnet import CifarResNet
from quantizable.nn.added_forward import with_calls
from quantizable.quantizers import QUANTIZERS, LSQAddend, LSQRange
from tests.small_residual import SIZE, ResidualNet, residual_network


def resnet(block: type[nn.Module]) -> nn.Module:
    return ResNet(block, (1, 1, 1, 1), channels=(4, 8, 8, 8), num_classes=5)


def inverted() -> nn.Module:
    return nn.Sequential(InvertedResidual(3, 8), InvertedResidual(8, 8))  # the first has no shortcut


IDENTITY, PROJECTION = ["input", "0_left_range"], ["input", "0_left_range", "0_right"]
NETWORKS = {
    "cifar": (lambda: CifarResNet(1), "layer2.0.additions", IDENTITY, "conv1", 3),
    "basic": (lambda: resnet(BasicBlock), "layer2.0.additions", PROJECTION, "conv1", 4),
    "bottleneck": (lambda: resnet(Bottleneck), "layer1.0.additions", PROJECTION, "conv1", 4),
    "inverted": (inverted, "1.additions", IDENTITY, "conv_pw", 1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_found_without_a_pass_of_the_network(name: str) -> None:
    make, block, operands, reader, count = NETWORKS[name]
    found = quantizable.quantize(make(), [8, 32], residual=8).additions()
    assert list(found[block].operands) == operands
    assert found[block].readers["input"] == reader
    assert len(found) == count


def by_hand(network: quantizable.QuantizableNetwork, x: Tensor) -> Tensor:
    """The forward of the small network, written with its quantizers in their places."""
    model = network.model
    x = model.norm(model.stem(x)).relu()
    for block in model.blocks:
        operands = block.additions.operands
        x = operands["input"](x)
        shortcut = x if block.shortcut is None else operands["0_right"](block.shortcut(x))
        branch = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
        level = operands["0_left_range"].active
        limits = level.scale * level.quant_min, level.scale * level.quant_max
        x = (branch.clamp(*limits) + shortcut).relu()
    return model.head(model.point(x).relu().mean((2, 3)))


@pytest.mark.parametrize("bits", [2, 4, "w4a8", 8])
def test_the_sum_is_that_of_quantized_operands(bits: int) -> None:
    network, x = residual_network((2, 4, "w4a8", 8, 32)), torch.randn(4, *SIZE)
    network.set_bits(bits)
    assert torch.equal(network(x), by_hand(network, x))
    assert network.additions()["blocks.1.additions"].operands["0_right"].active.bits == 8


def test_mode_32_is_the_float_network_bit_for_bit_and_to_float_its_class() -> None:
    torch.manual_seed(0)
    model, x = ResidualNet().eval(), torch.randn(4, *SIZE)
    network = quantizable.quantize(model, [4, 32], residual=8).eval()
    assert torch.equal(network(x), model(x))
    back = network.to_float()
    assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    assert back.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(back(x), model(x))


def test_the_input_shares_the_grid_of_the_layer_that_reads_it_on_as_many_bits() -> None:
    network, x = residual_network(), torch.randn(2, *SIZE)
    block = network.model.blocks[0]
    given, reader = block.additions.operands["input"], block.conv1.input_quantizer
    network.set_bits(8)
    assert given.active is reader.active
    assert not any("input.levels.8" in key for key in network.state_dict())
    network.set_bits(4)
    assert given.active is not reader.active
    assert (given.active.bits, reader.active.bits) == (8, 4)
    codes = given.codes(x)
    assert codes.max() <= 255
    assert codes.unique().numel() > 16


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_every_quantizer_adds_on_grids_of_lsq(name: str) -> None:
    network = residual_network((2, 8), quantizer=name)
    operands = network.additions()["blocks.1.additions"].operands
    assert [type(operand) for operand in operands.values()] == [LSQAddend, LSQRange, LSQAddend]
    for bits in (2, 8):
        network.set_bits(bits)
        x = torch.randn(3, *SIZE)
        assert torch.equal(network(x), by_hand(network, x))


def test_copies_pickles_and_checkpoints_hold_them() -> None:
    network, x = residual_network(), torch.randn(2, *SIZE)
    fresh = quantizable.quantize(ResidualNet(), [2, 4, 8, 32], residual=8).eval()
    fresh.load_state_dict(network.state_dict())
    for bits in (2, 4, 8):
        network.set_bits(bits)
        expected = network(x)
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), fresh):
            other.set_bits(bits)
            assert torch.equal(other(x), expected)
    copied = copy.deepcopy(network).model.blocks[0]
    assert copied.additions.operands["input"].reader is copied.conv1.input_quantizer


def test_step_sizes_of_the_mode_learn_and_the_branch_keeps_its_gradient() -> None:
    network = residual_network()
    network.set_bits(4)
    network.train()(torch.randn(8, *SIZE) * 4).square().sum().backward()
    for name, additions in network.additions().items():
        for key, operand in additions.operands.items():
            assert operand.active.scale.grad.abs() > 0, (name, key)
            others = [level for level in operand.levels.values() if level is not operand.active]
            assert all(level.scale.grad is None for level in others)


def test_the_range_has_the_gradient_of_a_clamp_by_lsqs_factor() -> None:
    operand = LSQRange([4], 8)
    operand.fit(torch.tensor([-1.0, 1.0]))
    operand.set_bits(4)
    level = operand.active
    x = torch.tensor([[-9.0, 0.3, 7.0, 8.0]], requires_grad=True)
    y = operand(x)
    low, high = -128 * level.scale.item(), 127 * level.scale.item()
    assert y.tolist()[0] == pytest.approx([low, 0.3, high, high])
    y.sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert level.scale.grad.item() == pytest.approx((-128 + 127 + 127) * (4 * 127) ** -0.5)


def test_a_mapping_of_layers_need_not_name_them_and_may() -> None:
    network = residual_network()
    network.set_bits({"blocks.*conv*": 2, "blocks.1.shortcut.*": 4, "*": 8} | {"blocks.1.additions": 2})
    assert network.bits["blocks.1.additions"] == 2
    network.set_bits({"stem": 8, "head": 8, "point": 8, "blocks.*conv?": 2, "blocks.*.shortcut.0": 4})
    assert network.bits["blocks.0.additions"] == 2  # as the layer before
    assert network.bits["blocks.1.additions"] == 4


def test_patterns_leave_them_float_or_give_them_another_width() -> None:
    def widths(**options: object) -> dict[str, int]:
        network = quantizable.quantize(ResidualNet(), [4, 32], residual=8, **options)
        network.set_bits(4)
        return {n: m.operands["input"].active.bits for n, m in network.additions().items()}

    both = {"blocks.0.additions": 8, "blocks.1.additions": 8}
    assert widths() == both
    assert widths(exclude=["blocks.0.additions"]) == {"blocks.1.additions": 8}
    assert widths(overrides={"blocks.0.additions": {"bits": 12}}) == both | {"blocks.0.additions": 12}
    assert widths(overrides={"blocks.1.*": {"bits": "float"}}) == {"blocks.0.additions": 8}


def test_an_added_mode_and_a_new_layer_go_on() -> None:
    network, x = residual_network((4, 8, 32)), torch.randn(4, *SIZE)
    network.add_mode(3, like=4)
    network.calibrate([x], modes=[3])
    network.set_bits(3)
    assert torch.equal(network(x), by_hand(network, x))
    network.model.blocks[0].conv1 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
    network.set_bits(8)
    block = network.model.blocks[0]
    assert block.additions.operands["input"].active is block.conv1.input_quantizer.active


def test_what_cannot_be_is_said_in_one_line() -> None:
    with pytest.raises(ValueError, match="found none in Sequential; give residual=None"):
        quantizable.quantize(nn.Sequential(nn.Conv2d(3, 4, 3)), [4, 32], residual=8)
    for value, said in ((1.5, "not an integer"), (32, "write None"), (17, "out of range"), (1, "at least 2")):
        with pytest.raises(ValueError, match=said):
            quantizable.quantize(ResidualNet(), [4, 32], residual=value)


class Unclear(nn.Module):
    """Adds by a branch on the data, which no tracer follows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if x.sum() > 0 else x


def test_code_that_cannot_be_traced_is_named_and_stays_float() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), ResidualNet().blocks, nn.Conv2d(8, 3, 1), Unclear())
    with pytest.warns(UserWarning, match=r"^3 \(Unclear\): torch.fx cannot read or trace"):
        network = quantizable.quantize(model, [4, 32], residual=8)
    assert [*network.additions()] == ["1.0.additions", "1.1.additions"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantizable.quantize(model, [4, 32], residual=8, exclude=["3.additions"])


class Odd(nn.Module):
    """Sums of all kinds, two of activations."""

    def __init__(self, start: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.start = nn.Parameter(torch.full((1, 3, 1, 1), float(start)))

    def forward(self, x: Tensor, *, twice: bool = True) -> Tensor:
        parts = [x]
        parts += [self.conv(x)]
        count = len(parts) + 1
        y = torch.add(parts[0], parts[1]) + self.start
        y += count
        return y + self.conv(y) if twice else super().forward(x)


def test_only_sums_of_two_activations_are_quantized() -> None:
    network = quantizable.quantize(nn.Sequential(nn.Conv2d(3, 3, 1), Odd()), [4, 32], residual=8)
    # 0: the list, 1: its length, 2: torch.add, 3: the parameter, 4: the count, 5: the last
    assert list(network.additions()["1.additions"].operands) == [
        "input",
        "2_right_range",
        "5_left",
        "5_right_range",
    ]


def test_the_code_is_the_same_but_for_the_calls() -> None:
    block, x = Odd(), torch.randn(2, 3, 4, 4)
    added = with_calls(Odd.forward)
    seen = []

    def plain(number: int, left: Any, right: Any, in_place: bool) -> Any:
        seen.append((number, in_place))
        return left + right

    block.__dict__["additions"] = plain
    assert torch.equal(added(block, x), block(x))
    assert seen == [(0, True), (1, False), (2, False), (3, False), (4, True), (5, False)]
    assert added.__kwdefaults__ == {"twice": True}
