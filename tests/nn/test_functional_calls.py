"""Products made by functions, on quantized operands: each against the same function on operands by hand."""

import copy
import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from quantizable import quantize
from quantizable.deploy import load_qz, save_qz
from quantizable.nn import QuantLayer
from quantizable.nn.functional_calls import attention

B, T, E = 2, 5, 8
Product = Callable[[Tensor, Tensor], Tensor]
PRODUCTS: dict[str, Product] = {
    "@": lambda a, b: a @ b,
    "torch.matmul": torch.matmul,
    "Tensor.matmul": lambda a, b: a.matmul(b),
    "torch.bmm": torch.bmm,
    "Tensor.bmm": lambda a, b: a.bmm(b),
    "baddbmm": lambda a, b: torch.baddbmm(torch.ones(B, T, T), a, b, beta=0.5, alpha=2.0),
    "einsum": lambda a, b: torch.einsum("bik,bkj->bij", a, b),
}


class TwoActivations(nn.Module):
    """A product with a parameter, then one of two activations."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(T, 3)
        self.table = nn.Parameter(torch.randn(E, E))
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.product(self.left(x) @ self.table, self.right(x).transpose(1, 2)))


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.filterwarnings("ignore:the network")
def test_a_product_of_two_activations_multiplies_its_quantized_operands(name: str) -> None:
    model = TwoActivations(PRODUCTS[name]).eval()
    net = quantize(model, [3, 32], first_last="mode", attention=True).eval()
    x = torch.randn(B, T, E)
    net.calibrate([x])
    assert torch.equal(net(x), model(x))
    net.set_bits(3)
    inner = net.model
    operands = inner.products.operands
    assert [*operands] == ["1_left", "1_right"]  # number 0 has a weight
    left = operands["1_left"](inner.left(x) @ inner.table)
    right = operands["1_right"](inner.right(x).transpose(1, 2))
    assert left.unique().numel() <= 8
    assert right.unique().numel() <= 8
    torch.testing.assert_close(net(x), inner.last(PRODUCTS[name](left, right)))
    rows = {p.name: p for p in net.coverage(x)}
    assert rows["products"].macs == B * T * T * E
    assert (rows["products"].weight_bits, rows["products"].input_bits) == (3, 3)
    assert rows[""].macs == B * T * E * E  # with the table: float
    net(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in operands.parameters() if p.dim() == 0)


ATTENTION: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "seen": {"attn_mask": torch.rand(T, T) > 0.4},
    "none seen": {"attn_mask": torch.arange(T)[:, None] > torch.arange(T)},  # the first sees nothing
    "added": {"attn_mask": torch.randn(B, 1, T, T)},
    "groups": {"enable_gqa": True},
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_in_two_products_is_torchs(name: str) -> None:
    heads = 2 if name == "groups" else 4
    q, k, v = torch.randn(B, 4, T, E), torch.randn(B, heads, T, E), torch.randn(B, heads, T, 6)
    shapes = []

    def multiply(left: Tensor, right: Tensor, product: Product) -> Tensor:
        shapes.append((left.shape, right.shape))
        return product(left, right)

    found = attention(multiply, q, k, v, **ATTENTION[name])
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v, **ATTENTION[name]))
    assert shapes == [((B, 4, T, E), (B, 4, E, T)), ((B, 4, T, T), (B, 4, T, 6))]


class Block(nn.Module):
    """Attention whose ``qkv`` is read past it, with a bias of its own, and a child with a product."""

    class Inner(nn.Module):
        meet = staticmethod(lambda: None)

        def forward(self, x: Tensor) -> Tensor:
            self.meet()
            return x @ torch.eye(x.shape[-1])

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.inner = nn.Linear(E, 3 * E, bias=False), nn.Linear(E, E), self.Inner()
        self.bias = nn.Parameter(torch.randn(3 * E))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(self.inner(x), weight=self.qkv.weight, bias=self.bias).chunk(3, -1)
        return self.proj(F.scaled_dot_product_attention(q, k, v))


class Net(nn.Module):
    """On images ``[N, 3, 8, 8]``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, E, 2, 2), Block(), nn.Linear(E, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


def calibrated() -> Any:
    net = quantize(Net().eval(), [2, 8, 32], attention=True)
    net.calibrate([torch.randn(4, 3, 8, 8)])
    return net


def test_weights_read_past_their_layer_and_products_by_hand() -> None:
    net = calibrated()
    net.set_bits(2)
    x = torch.randn(2, 3, 8, 8)
    block = net.model.block
    assert type(block).__mro__[2] is Block
    given = net.model.stem(x).flatten(2).transpose(1, 2)
    layer, operands = block.qkv, block.products.operands
    assert [*operands] == ["0_left", "0_right", "1_left", "1_right"]  # not the child's own
    q, k, v = F.linear(layer.input_quantizer(given), layer.quantized_weight(), block.bias).chunk(3, -1)
    scores = operands["0_left"](q) @ operands["0_right"](k.transpose(1, 2)) * E**-0.5
    out = block.proj(operands["1_left"](scores.softmax(-1)) @ operands["1_right"](v))
    torch.testing.assert_close(net(x), net.model.head(out.mean(1)))
    table = net.coverage(x)
    assert {p.name for p in table if p.why} == {"block.inner"}
    assert list(net.layers()) == ["stem", "block.qkv", "block.proj", "block.products", "head"]


def test_mode_32_keeps_the_fused_kernel() -> None:
    net = calibrated()
    x = torch.randn(2, 3, 8, 8)
    with patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as fused:
        expected = net.to_float()(x)
        assert torch.equal(net(x), expected)
        assert fused.call_count == 2
    assert not torch._C._len_torch_function_stack()


def test_products_are_saved_copied_and_undone(tmp_path: Path) -> None:
    net, x = calibrated(), torch.randn(2, 3, 8, 8)
    net.set_bits(2)
    expected = net(x)
    other = quantize(Net().eval(), [2, 8, 32], attention=True)
    other.load_state_dict(net.state_dict())  # never calibrated: the products come from the file
    save_qz(net, tmp_path / "net.qz")
    twins = [other, copy.deepcopy(net), pickle.loads(pickle.dumps(net)), load_qz(tmp_path / "net.qz", Net())]
    for twin in twins:
        twin.set_bits(2)
        assert torch.equal(twin(x), expected)
        twin.set_bits(8)
        assert not torch.equal(twin(x), expected)
    plain = net.to_float()
    assert [*plain.state_dict()] == [*Net().state_dict()]
    assert type(plain.block) is Block
    net.add_mode(4, like=8)
    net.calibrate([x], modes=[4])
    net.set_bits({"block.products": 4}, default=2)
    assert not torch.equal(net(x), expected)


def test_products_are_computed_again_in_the_mode_of_their_forward_pass() -> None:
    net, x = calibrated(), torch.randn(2, 3, 8, 8)
    net.set_bits(2)
    net(x).sum().backward()
    expected = net.model.block.qkv.weight.grad.clone()
    net.zero_grad()
    out = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)
    net.set_bits(8)
    out.sum().backward()
    assert torch.equal(net.model.block.qkv.weight.grad, expected)


def test_a_network_without_such_products_is_told() -> None:
    net = quantize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), [4, 32], attention=True)
    with pytest.warns(UserWarning, match="attention=True found no product of two activations"):
        net.calibrate([torch.randn(2, 4)])


class SamePadding(nn.Conv2d):
    """As ``Conv2dStaticSamePadding`` of the EfficientNet-Lite package does."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias, self.stride)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Turned(nn.Linear):
    """``how`` says in which of its forms it multiplies by the transposed weight."""

    how = "@ t()"
    forms: ClassVar[dict[str, Product]] = {
        "@ t()": lambda x, w: x @ w.t(),
        "@ T": lambda x, w: x @ w.T,
        "mm mT": lambda x, w: torch.mm(x, w.mT),
        "matmul transpose": lambda x, w: x.matmul(w.transpose(0, 1)),
        "mm permute": lambda x, w: x.mm(torch.permute(w, (1, 0))),
        "addmm": lambda x, w: torch.addmm(torch.zeros(len(w)), x, w.t()),
        "einsum": lambda x, w: torch.einsum("ni,oi->no", x, w),
    }

    def forward(self, x: Tensor) -> Tensor:
        return self.forms[self.how](x, self.weight) + self.bias


class PastTurned(nn.Module):
    """Reads the weight of a layer past it and transposes it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        turned = self.fc.weight.t()
        return self.last(torch.addmm(self.fc.bias, x, turned) + x @ turned)


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class Gated(nn.Linear):
    """Takes a second input, so that ``quantize`` cannot try it."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return F.linear(x, self.weight * gate, self.bias)


class Standardised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize("kind", [SamePadding, Doubled, "weight_norm", "spectral_norm"])
def test_layers_with_a_forward_or_a_weight_of_their_own(kind: Any) -> None:
    inner: nn.Module
    if kind is SamePadding:
        inner, x = SamePadding(3, 4, 3), torch.randn(2, 3, 6, 6)
    elif kind is Doubled:
        inner, x = Doubled(3, 4), torch.randn(2, 3)
    else:
        inner, x = (
            {"weight_norm": weight_norm, "spectral_norm": spectral_norm}[kind](nn.Conv1d(3, 4, 2)),
            (torch.randn(2, 3, 6)),
        )
    model = nn.Sequential(inner).eval()
    net = quantize(model, [3, 32], first_last="mode").eval()
    net.calibrate([x])
    assert torch.equal(net(x), model(x))
    net.set_bits(3)
    layer = net.model[0]
    assert isinstance(layer, QuantLayer)
    assert layer.quantized_weight()[0].unique().numel() <= 8
    reference = copy.deepcopy(inner)
    if kind in (SamePadding, Doubled):
        reference.weight.data = layer.quantized_weight().data
        expected = reference(layer.input_quantizer(x))
    else:
        expected = F.conv1d(layer.input_quantizer(x), layer.quantized_weight(), inner.bias)
    torch.testing.assert_close(net(x), expected)
    assert net.coverage(x).share == 1
    assert type(net.to_float()[0]) is type(inner)
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    net(x).sum().backward()
    weights = [p for name, p in net.named_parameters() if "quantizer" not in name]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in weights)


@pytest.mark.parametrize("how", Turned.forms)
def test_a_weight_that_is_transposed_first_is_quantized(how: str) -> None:
    model = nn.Sequential(Turned(3, 3), nn.Linear(3, 2)).eval()
    model[0].how = how
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = quantize(model, [3, 32], first_last="mode").eval()
        x = torch.randn(5, 3)
        net.calibrate([x])
        assert torch.equal(net(x), model(x))
        net.set_bits(3)
        layer = net.model[0]
        by_hand = F.linear(layer.input_quantizer(x), layer.quantized_weight(), layer.bias)
        torch.testing.assert_close(layer(x), by_hand)
    assert net.coverage(x).share == 1
    layer(x).sum().backward()
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.any()


def test_a_weight_that_a_module_transposes_past_its_layer_is_quantized() -> None:
    model = PastTurned().eval()
    net = quantize(model, [3, 32], first_last="mode").eval()
    x = torch.randn(5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.calibrate([x])
    torch.testing.assert_close(net(x), model(x))
    net.set_bits(3)
    fc = net.model.fc
    by_hand = F.linear(fc.input_quantizer(x), fc.quantized_weight())
    torch.testing.assert_close(net(x), net.model.last(2 * by_hand + fc.bias))


def test_what_stays_float_is_named_by_quantize_or_by_the_first_quantized_pass() -> None:
    with pytest.warns(UserWarning, match=r"0 \(Standardized\): .* stay float in every mode \(\d+.\d%"):
        quantize(nn.Sequential(Standardized(3, 4, 2), nn.Conv2d(4, 2, 1)), [3, 32])

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gated, self.last = Gated(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.gated(x, x[:1]))

    x = torch.randn(4, 3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        net = quantize(Net(), [3, 32])
        net(x)
        assert not said
        net.set_bits(3)
        net(x)
        net(x)
    assert sum("forward of Gated does not multiply by self.weight" in str(w.message) for w in said) == 1
    assert net.coverage(x).products[0].why == "its forward changes the weight before it multiplies by it"


def test_products_that_no_calibration_looked_for_are_told_once() -> None:
    net, x = quantize(Net(), [2, 8, 32], attention=True), torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        net(x)
        assert not said
        for _ in range(2):
            with net.at_bits(2):
                net(x)
    assert (
        sum("which finds the products of two activations, did not run" in str(w.message) for w in said) == 1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with (net := calibrated()).at_bits(2):
            net(x)


def test_a_forward_that_changes_its_weight_stays_float_and_is_named() -> None:
    with pytest.warns(UserWarning, match=r"0 \(Standardised\)"):
        net = quantize(nn.Sequential(Standardised(4, 4), nn.Linear(4, 2)), [3, 32], first_last="mode")
    with pytest.warns(UserWarning, match="no data passed through 0"):
        net.calibrate([torch.randn(8, 4)])
    net.set_bits(3)
    rows = {p.name: p for p in net.coverage(torch.randn(8, 4))}
    assert (rows["0"].weight_bits, rows["0"].input_bits) == (32, 32)
    assert rows["0"].why == "its forward changes the weight before it multiplies by it"
    assert rows["1"].why == ""


def test_a_compiled_network_runs_such_modules_as_they_are() -> None:
    net, x = calibrated(), torch.randn(2, 3, 8, 8)
    net.set_bits(2)
    torch._dynamo.reset()
    with torch.no_grad():
        assert torch.equal(torch.compile(net, backend="eager")(x), net(x))


def test_threads_share_a_network_in_one_mode() -> None:
    """One is inside a child of the module while the other runs the module's own code."""
    net, x = calibrated(), torch.randn(2, 3, 8, 8)
    net.set_bits(8)  # fine enough to show a product that was missed
    first_inside, second_inside, first_done = (threading.Event() for _ in range(3))

    def meet() -> None:
        if threading.current_thread().name == "first":
            first_inside.set()
            second_inside.wait(20)
        else:
            second_inside.set()
            first_done.wait(20)

    def run(name: str) -> None:
        with torch.no_grad():  # per thread
            found[name] = net(x)
        first_done.set()

    found: dict[str, Tensor] = {}
    expected = net(x)
    with patch.object(Block.Inner, "meet", staticmethod(meet)):
        threads = [threading.Thread(target=run, args=(name,), name=name) for name in ("first", "second")]
        threads[0].start()
        first_inside.wait(20)
        threads[1].start()
        for thread in threads:
            thread.join()
    assert torch.equal(found["first"], expected)
    assert torch.equal(found["second"], expected)
