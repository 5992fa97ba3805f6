"""Every layer class: the float layer in mode 32, the float layer on quantized operands in the others."""

import copy
import inspect
import math

import pytest
import torch
from timm.layers import (
    Attention,
    Conv2dSame,
    ScaledStdConv2d,
    ScaledStdConv2dSame,
    StdConv2d,
    StdConv2dSame,
)
from timm.layers import Linear as TimmLinear
from torch import Tensor, nn

from quantizable import quantize
from quantizable.nn import QuantLayer
from quantizable.quantizers import LSQActivation, Quantizer
from tests.nn.contract import LayerContract

LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(6, 4), (2, 3, 6)),
    (TimmLinear(6, 4), (2, 6)),
    (nn.Conv1d(6, 4, 3, padding=1), (2, 6, 8)),
    (nn.Conv2d(6, 4, 3, stride=2, dilation=2, groups=2, padding_mode="reflect", padding=2), (2, 6, 8, 8)),
    (nn.Conv2d(6, 6, 3, groups=6, padding="same"), (2, 6, 8, 8)),
    (nn.Conv3d(2, 4, 2), (2, 2, 4, 4, 4)),
    (nn.ConvTranspose1d(6, 4, 3, stride=2, output_padding=1), (2, 6, 5)),
    (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, groups=2), (2, 6, 5, 5)),
    (nn.ConvTranspose3d(2, 4, 2), (2, 2, 3, 3, 3)),
    (Conv2dSame(6, 4, 3, stride=2), (2, 6, 7, 7)),
    (StdConv2d(6, 4, 3, padding=1), (2, 6, 7, 7)),
    (StdConv2dSame(6, 4, 3, stride=2), (2, 6, 7, 7)),
    (ScaledStdConv2d(6, 4, 3, padding=1), (2, 6, 7, 7)),
    (ScaledStdConv2dSame(6, 4, 3, stride=2), (2, 6, 7, 7)),
]


class TestLayers(LayerContract):
    @pytest.fixture(params=LAYERS, ids=[type(layer).__name__ for layer, _ in LAYERS])
    def case(self, request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
        layer, shape = request.param
        return copy.deepcopy(layer), torch.rand(shape)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=[type(layer).__name__ for layer, _ in LAYERS])
def test_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    net = quantize(layer, [4, 32], first_last="mode")
    quantized = net.model
    assert isinstance(quantized, QuantLayer)
    assert torch.equal(net(x), layer(x))
    net.calibrate([x])
    net.set_bits(4)
    out = net(x)
    assert not torch.equal(out, layer(x))
    # the float layer, given the quantized operands
    if not hasattr(layer, "eps"):
        plain = copy.deepcopy(layer)
        with torch.no_grad():
            plain.weight.copy_(quantized.quantized_weight())
        torch.testing.assert_close(out, plain(quantized.input_quantizer(x)))
    assert len(quantized.weight_quantizer.codes(quantized.float_weight()).unique()) <= 16
    out.sum().backward()
    assert quantized.weight.grad is not None
    assert quantized.weight.grad.isfinite().all()
    back = net.to_float()
    assert type(back) is type(layer)
    assert torch.equal(back(x), layer(x))


@pytest.mark.parametrize("quantizer", ["lsq", "lsq_plus"])
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=[type(layer).__name__ for layer, _ in LAYERS])
def test_gradients_through_the_product_are_those_of_the_quantizer_alone(
    layer: nn.Module, shape: tuple[int, ...], quantizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(
        max(2, 9 * sum(p.numel() for p in layer.parameters()) // math.prod(shape[1:])), *shape[1:]
    )
    net = quantize(layer, [4, 32], quantizer=quantizer, first_last="mode").double()
    net.calibrate([x.double()])
    net.set_bits(4)
    shared: list[bool] = []
    net.model.input_quantizer.register_forward_pre_hook(
        lambda _, __, options: shared.append("in_product" in options), with_kwargs=True
    )

    def gradients() -> list[Tensor]:
        net.zero_grad()
        given = x.double().requires_grad_()
        net(given).pow(2).sum().backward()
        return [given.grad, *(p.grad for p in net.parameters() if p.grad is not None)]

    ours = gradients()
    monkeypatch.setattr(LSQActivation, "product", Quantizer.product)
    for through_product, alone in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(through_product, alone, rtol=1e-5, atol=1e-5)
    assert shared == [True, False], "the first time through the product"


def test_the_gradient_of_a_step_size_is_precise_in_bf16() -> None:
    """Two large sums that nearly cancel: through the product, at 8 bits, noise would be all that is left."""
    torch.manual_seed(0)
    net = quantize(nn.Linear(64, 10), [8, 32], first_last="mode")
    scale = net.model.input_quantizer.level(8).scale
    x = torch.rand(128, 64)
    net.calibrate([x])
    net.set_bits(8)
    errors, sizes = [], []
    for seed in range(20):
        given = torch.rand(128, 64, generator=torch.Generator().manual_seed(seed))
        found = []
        for bf16 in (False, True):
            net.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = nn.functional.cross_entropy(net(given), torch.arange(128) % 10)
            loss.backward()
            found.append(float(scale.grad))
        errors.append((found[1] - found[0]) ** 2)
        sizes.append(found[0] ** 2)
    assert sum(errors) < 0.6 * sum(sizes)  # through the product it is 1.8


def test_a_weight_larger_than_its_input_takes_no_part_in_the_inputs_gradient() -> None:
    net = quantize(nn.Linear(64, 64), [4, 32], first_last="mode")
    x = torch.rand(2, 64)
    net.calibrate([x])
    net.set_bits(4)
    seen: list[dict[str, bool]] = []
    net.model.input_quantizer.register_forward_pre_hook(
        lambda _, __, options: seen.append(options), with_kwargs=True
    )
    net(x).sum().backward()
    with torch.no_grad():
        net(x.repeat(1000, 1))  # large, but nothing to differentiate
    assert seen == [{}, {}]


def test_a_fixed_layer_stays_at_its_width_in_every_quantized_mode() -> None:
    net = quantize(nn.Linear(4, 4), [2, "w4a32", 32], first_last=8)
    for mode, width in ((2, 8), ("w4a32", "w8a32"), (32, 32)):
        net.set_bits(mode)
        assert net.model.bits.name == str(width)


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` on one tensor."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)

    def forward(self, x: Tensor, **masks: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False, **masks)[0]


class TestMultiheadAttention(LayerContract):
    @pytest.fixture
    def case(self) -> tuple[nn.Module, Tensor]:
        return SelfAttention(batch_first=True), torch.randn(3, 5, 8)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", [None, "bool", "float", "per head"])
def test_multihead_attention(batch_first: bool, mask: str | None) -> None:
    model = SelfAttention(batch_first=batch_first).eval()
    net = quantize(model, [16, 32], first_last="mode")
    x = torch.randn(3, 5, 8)
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    batch = 3 if batch_first else 5
    if not batch_first:
        hidden = torch.ones(3, 3, dtype=torch.bool).triu(1)
    masks = {
        None: {},
        "bool": {"attn_mask": hidden},
        "float": {"attn_mask": hidden.float() * -5},
        "per head": {"attn_mask": hidden.expand(batch * 2, -1, -1)},
    }[mask]
    assert torch.equal(net(x, **masks), model(x, **masks))
    net.set_bits(16)  # so fine that only a wrong formula shows; ranges come from this first batch
    torch.testing.assert_close(net(x, **masks), model(x, **masks), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "norm_layer": nn.LayerNorm}, {"gated": True}])
def test_timm_attention_with_quantized_products(options: dict) -> None:
    if options.keys() - inspect.signature(Attention).parameters.keys():
        pytest.skip("timm before 1.0.28 has no gated attention")
    model = Attention(8, 2, **options).eval()
    x = torch.randn(2, 5, 8)
    net = quantize(nn.Sequential(model), [16, 32], attention=True, first_last="mode").eval()
    net.calibrate([x])
    assert all(q.initialised for q in net.quantizers().values())
    assert torch.equal(net(x), model(x))
    net.set_bits(16)
    torch.testing.assert_close(net(x), model(x), rtol=1e-2, atol=1e-2)
    assert type(net.to_float()[0]) is Attention
