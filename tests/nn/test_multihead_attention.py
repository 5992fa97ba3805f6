"""``nn.MultiheadAttention`` on quantized operands, against the float layer and a formula of its own."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantizable import quantize
from quantizable.nn import QuantMultiheadAttention

B, L, S, E, H = 3, 5, 7, 8, 2


class Attends(nn.Module):
    """Attention in the middle of a network, so that it is neither first nor last."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.before = nn.Linear(E, E)
        self.attention = nn.MultiheadAttention(E, H, **options)
        self.after = nn.Linear(E, E)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
        x, weights = self.attention(self.before(query), key, value, **options)
        return self.after(x), weights


def masks(kind: str) -> dict[str, Tensor]:
    """By keyword of the layer, for ``L`` queries and ``S`` keys."""
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[0, 5:] = True
    hidden = torch.ones(L, S, dtype=torch.bool).triu(1)
    return {
        "none": {},
        "padding": {"key_padding_mask": padding},
        "float padding": {"key_padding_mask": padding.float() * -3},
        "mask": {"attn_mask": hidden},
        "per head": {"attn_mask": hidden.expand(B * H, L, S)},
        "both": {"attn_mask": hidden, "key_padding_mask": padding},
        "mixed": {"attn_mask": hidden.float() * -4, "key_padding_mask": padding},
    }[kind]


def inputs(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, batch first."""
    memory = torch.randn(B, S, E)
    if kind == "cross":
        return torch.randn(B, L, E), memory, memory
    return torch.randn(B, L, E), memory, torch.randn(B, S, E)


@pytest.mark.parametrize("weights", [None, "mean", "heads"])
@pytest.mark.parametrize("kind", ["none", "padding", "float padding", "mask", "per head", "both", "mixed"])
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
def test_cross_attention_with_masks_is_that_of_the_float_layer(kind: str, weights: str | None) -> None:
    model = Attends(batch_first=True).eval()
    net = quantize(model, [16, 32], first_last="mode")
    given = inputs("cross" if kind == "none" else "three")
    options = {
        **masks(kind), "need_weights": weights is not None, "average_attn_weights": weights == "mean",
    }  # fmt: skip
    net.calibrate([given], forward=lambda network, batch: network(*batch, **options))
    expected, expected_weights = model(*given, **options)
    found, found_weights = net(*given, **options)
    assert torch.equal(found, expected)
    net.set_bits(16)  # so fine that only a wrong formula shows
    found, found_weights = net(*given, **options)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    if weights is None:
        assert found_weights is None
    else:
        torch.testing.assert_close(found_weights, expected_weights, rtol=1e-2, atol=1e-3)


def test_low_bits_are_the_float_layer_on_quantized_operands() -> None:
    model = Attends(batch_first=False, bias=False).eval()
    net = quantize(model, [3, 32], first_last="mode").eval()
    query, key, value = (x.transpose(0, 1) for x in inputs("three"))
    net.calibrate([(query, key, value)])
    net.set_bits(3)
    found, found_weights = net.model.attention(query, key, value)
    layer = net.model.attention
    assert isinstance(layer, QuantMultiheadAttention)
    reference = copy.deepcopy(model.attention)
    with torch.no_grad():
        reference.in_proj_weight.copy_(layer.quantized_weight())
        q, k, v = (layer.input_quantizer(x) for x in (query, key, value))
        reference.out_proj = nn.Identity()  # type: ignore[assignment]
        # the float function, with an output projection that does nothing
        joined, weights = nn.functional.multi_head_attention_forward(
            q, k, v, E, H, reference.in_proj_weight, None, None, None, False, 0.0, torch.eye(E), None
        )
    torch.testing.assert_close(found, layer.out_proj(joined), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found_weights, weights)


def test_equal_tensors_that_are_not_one_give_the_same() -> None:
    net = quantize(Attends(batch_first=True).eval(), [4, 32])
    x = torch.randn(B, L, E)
    net.calibrate([(x, x, x)])
    layer = net.model.attention
    net.set_bits(4)
    one, weights = layer(x, x, x)
    three, other = layer(x, x.clone(), x.clone())
    torch.testing.assert_close(one, three)
    torch.testing.assert_close(weights, other)


def test_without_a_batch_axis() -> None:
    model = Attends().eval()
    net = quantize(model, [16, 32], first_last="mode")
    query, key = torch.randn(L, E), torch.randn(S, E)
    net.calibrate([(query, key, key)])
    expected, weights = model(query, key, key)
    net.set_bits(16)
    found, found_weights = net(query, key, key)
    assert (found.shape, found_weights.shape) == (expected.shape, weights.shape)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("options", [{"kdim": 6, "vdim": 6}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_what_stays_float_is_said_and_runs(options: dict[str, Any]) -> None:
    model = Attends(batch_first=True, **options).eval()
    with pytest.warns(UserWarning, match=r"attention \(MultiheadAttention\): .* float in every mode"):
        net = quantize(model, [2, 32])
    size = options.get("kdim", E)
    given = (torch.randn(B, L, E), torch.randn(B, S, size), torch.randn(B, S, size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its output projection, which it reads itself, is no layer to fit
        net.calibrate([given])
    assert torch.equal(net(*given)[0], model(*given)[0])
    net.set_bits(2)
    assert net(*given)[0].isfinite().all()
    assert not isinstance(net.model.attention, QuantMultiheadAttention)


def test_a_hint_without_a_mask_is_refused() -> None:
    net = quantize(Attends(batch_first=True).eval(), [2, 32])
    x = torch.randn(B, L, E)
    net.calibrate([(x, x, x)])
    net.set_bits(2)
    with pytest.raises(ValueError, match="is_causal=True is a hint that goes with attn_mask"):
        net(x, x, x, is_causal=True)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_transformer(grad: bool) -> None:
    model = nn.Transformer(E, H, 2, 1, 16, dropout=0.0, batch_first=True).eval()
    source, target = torch.randn(B, S, E), torch.randn(B, L, E)
    padding = masks("padding")["key_padding_mask"]
    options = {
        "tgt_mask": nn.Transformer.generate_square_subsequent_mask(L),
        "tgt_is_causal": True,
        "src_key_padding_mask": padding,
        "memory_key_padding_mask": padding,
    }
    net = quantize(model, [2, 16, 32], first_last="mode")
    with torch.set_grad_enabled(grad):
        net.calibrate([{"src": source, "tgt": target, **options}])
        expected = model(source, target, **options)
        assert torch.equal(net(source, target, **options), expected)
        net.set_bits(16)
        found = net(source, target, **options)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=2e-2)
        net.set_bits(2)
        low = net(source, target, **options)
        later = target.clone()
        later[:, -1] = 3.0  # a causal mask hides it from the tokens before
        torch.testing.assert_close(net(source, later, **options)[:, :-1], low[:, :-1])
    if grad:
        low.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model_weights(net))
    assert all(p.weight_bits == 2 or "two activations" in p.why for p in net.coverage((source, target)))


def model_weights(net: nn.Module) -> list[nn.Parameter]:
    """Matrices of the network."""
    return [p for name, p in net.named_parameters() if p.dim() == 2 and "quantizer" not in name]
