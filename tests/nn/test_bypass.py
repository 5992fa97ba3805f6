"""Modules that read weights past their layers: quantized all the same, and the float network in mode 32."""

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import (
    PatchMerging,
    PatchMergingV2,
    ShiftedWindowAttention,
    ShiftedWindowAttentionV2,
    SwinTransformer,
    SwinTransformerBlock,
    SwinTransformerBlockV2,
)

from quantizable import quantize
from quantizable.deploy import load_qz, save_qz
from quantizable.nn import QuantLayer


def encoder(**options: Any) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0, **options)
    return nn.TransformerEncoder(layer, 2).eval()


def padding() -> Tensor:
    hidden = torch.zeros(4, 6, dtype=torch.bool)
    hidden[0, 4:] = True
    return hidden


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("options", [{}, {"activation": "gelu"}], ids=["relu", "gelu"])
def test_transformer_encoder(options: dict[str, Any], grad: bool) -> None:
    model, x = encoder(**options), torch.randn(4, 6, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # data passes through every layer
        net = quantize(model, [2, 32])
        net.calibrate([x])
    with torch.set_grad_enabled(grad):
        assert torch.equal(net(x), model(x))
        net.set_bits(2)
        quantized = net(x)
        assert (quantized - model(x)).abs().max() > 0.01
        assert torch.equal(quantized, net.train()(x))  # training never takes torch's fast path
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(twin.eval()(x), quantized)
            twin.set_bits(32)
            assert torch.equal(twin(x), model(x))
        assert torch.equal(net.eval()(x), quantized)


def test_one_quantized_layer_is_enough_to_leave_the_fast_path() -> None:
    model, x = encoder(), torch.randn(4, 6, 8)
    net = quantize(model, [2, 32], include="layers.1.linear2", first_last="mode")
    net.calibrate([x])
    net.set_bits(2)
    with torch.no_grad():
        assert not torch.equal(net(x), model(x))


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_padded_tokens() -> None:
    model, x = encoder(), torch.randn(4, 6, 8)
    net = quantize(model, [2, 32])
    net.calibrate([x])
    alone = quantize(model, [2, 32], include="*.linear?")
    alone.calibrate([x])
    with torch.no_grad():
        assert torch.equal(net(x, src_key_padding_mask=padding()), model(x, src_key_padding_mask=padding()))
        net.set_bits(2)
        seen = net(x, src_key_padding_mask=padding())
        assert torch.equal(seen, net.train()(x, src_key_padding_mask=padding()))
        other = x.clone()
        other[0, 4:] = 9.0  # hidden: says nothing to the tokens that are seen
        again = net(other, src_key_padding_mask=padding())
        assert torch.equal(again[0, :4], seen[0, :4])
        net.eval()
        alone.set_bits(2)  # the attention stays float
        seen = alone(x, src_key_padding_mask=padding())
        assert torch.equal(seen, alone.train()(x, src_key_padding_mask=padding()))


def test_a_layer_of_ones_own_that_inherits_the_fast_path() -> None:
    class Layer(nn.TransformerEncoderLayer):
        pass

    model, x = Layer(8, 2, 16, batch_first=True, dropout=0.0).eval(), torch.randn(4, 6, 8)
    net = quantize(model, [2, 32])
    net.calibrate([x])
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
        net.set_bits(2)
        assert not torch.equal(net(x), model(x))
    back = net.to_float()
    assert type(back) is Layer
    assert back.activation_relu_or_gelu == 1
    assert type(back.activation_relu_or_gelu) is int


def test_quantized_encoder_compiles_to_one_graph() -> None:
    x = torch.randn(4, 6, 8)
    net = quantize(encoder(), [2, 32])
    net.calibrate([x])
    net.set_bits(2)
    torch._dynamo.reset()
    with torch.no_grad():
        assert torch.equal(torch.compile(net, backend="eager", fullgraph=True)(x), net(x))


def swin(version: int) -> SwinTransformer:
    parts = {1: (SwinTransformerBlock, PatchMerging), 2: (SwinTransformerBlockV2, PatchMergingV2)}
    block, merging = parts[version]
    model = SwinTransformer(
        [2, 2], 8, [2, 2], [2, 2], [4, 4], num_classes=3, block=block, downsample_layer=merging
    )
    with torch.no_grad():
        for parameter in model.parameters():  # also V2's bias of the keys, which no forward uses
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.mark.parametrize("version", [1, 2])
def test_swin(version: int) -> None:
    model = swin(version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # data passes through every layer
        net = quantize(model, [2, 16, 32], first_last="mode")
        net.calibrate([torch.randn(4, 3, 36, 36)])
    linear = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert all(isinstance(m, QuantLayer) for m in linear)
    for size in (32, 36, 20):  # whole windows, padded ones, one window over the whole map
        x = torch.randn(2, 3, size, size)
        net.set_bits(32)
        assert torch.equal(net(x), model(x))
        net.set_bits(16)  # so fine that only a wrong formula shows
        torch.testing.assert_close(net(x), model(x), rtol=1e-2, atol=2e-2)
    net.set_bits(2)
    for name in ("qkv", "proj"):
        layer = net.get_submodule(f"model.features.1.1.attn.{name}")
        before = net(x)
        with net.at_bits({f"features.1.1.attn.{name}": 32}, default=2):
            assert layer.bits.is_float
            assert not torch.equal(net(x), before)
    net(x).sum().backward()
    assert all(m.weight.grad is not None and m.weight.grad.isfinite().all() for m in linear)
    original = {1: ShiftedWindowAttention, 2: ShiftedWindowAttentionV2}[version]
    back = net.to_float()
    assert sum(type(m) is original for m in back.modules()) == 4
    assert torch.equal(back(x), model(x))


@pytest.mark.parametrize("version", [1, 2])
def test_swin_drops_out_as_the_float_network_does(version: int) -> None:
    model = swin(version).train()
    for m in model.modules():
        if isinstance(m, ShiftedWindowAttention):
            m.attention_dropout, m.dropout = 0.3, 0.2
    net = quantize(model, [4, 32])
    x = torch.randn(2, 3, 32, 32)
    outputs, gradients = [], []
    for network in (model, net):
        torch.manual_seed(0)
        outputs.append(network(x))
        outputs[-1].sum().backward()
        gradients.append(network.get_submodule("features.1.1.attn.qkv").bias.grad)
    assert torch.equal(*outputs)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "make", [encoder, lambda: swin(1), lambda: swin(2)], ids=["encoder", "swin", "swin2"]
)
def test_an_empty_batch(make: Any) -> None:
    model = make()
    x = torch.randn(4, 6, 8) if isinstance(model, nn.TransformerEncoder) else torch.randn(2, 3, 32, 32)
    net = quantize(model, [2, 32])
    net.calibrate([x])
    for mode in (2, 32):
        net.set_bits(mode)
        assert net(x[:0]).shape == model(x[:0]).shape


@pytest.mark.parametrize("make", [encoder, lambda: swin(1)], ids=["encoder", "swin"])
def test_a_network_from_a_file_calls_its_layers_too(make: Any, tmp_path: Path) -> None:
    model = make()
    x = torch.randn(4, 6, 8) if isinstance(model, nn.TransformerEncoder) else torch.randn(2, 3, 32, 32)
    net = quantize(model, [2, 32]).eval()
    net.calibrate([x])
    net.set_bits(2)
    save_qz(net, tmp_path / "net.qz")
    loaded = load_qz(tmp_path / "net.qz", model=copy.deepcopy(model))
    loaded.set_bits(2)
    with torch.no_grad():
        assert torch.equal(loaded(x), net(x))
        assert not torch.equal(loaded(x), model(x))
