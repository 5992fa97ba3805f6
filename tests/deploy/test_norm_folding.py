"""Folded norms against the norms themselves."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import quantizable
from quantizable.deploy.engines import compile_onnxruntime
from quantizable.deploy.export import onnx_model
from quantizable.deploy.layer_report import layer_report
from quantizable.deploy.lowering import lower
from quantizable.deploy.norm_folding import NOT_ALONE
from quantizable.deploy.reference import integer_network
from quantizable.storage.load import load_qz
from quantizable.storage.qz import save_qz
from quantizable.verify.trace import graph_of
from tests.deploy.reuse import (
    REUSING,
    BiasReadDirectly,
    NormBehindAddition,
    OnceWithoutNorm,
    OneLayerTwoNorms,
    OneNormBehindTwo,
    SharedHeads,
    Siamese,
    Tied,
    TwoNames,
)
from tests.small_net import trained_like


class ReadTwice(nn.Module):
    """The convolution's output goes into the norm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 4, 1)
        self.head_norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head_norm(self.head(x + self.norm(x)))


def test_only_a_norm_that_alone_reads_the_layer_is_folded() -> None:
    network = quantizable.quantize(trained_like(ReadTwice()), [4]).eval()
    x = torch.randn(4, 3, 6, 6)
    network.calibrate([x])
    lowered = lower(network, 4, x)
    assert lowered.folded == ["head_norm"]
    with torch.no_grad():
        torch.testing.assert_close(lowered.model(x), network(x))


def test_each_mode_folds_its_own_norm(make, images: Tensor) -> None:
    network = make()
    with torch.no_grad():
        network.model.stem_norm.norms["2"].bias += 1
    biases = [lower(network, bits, images).model.stem.bias for bits in (2, 4)]
    torch.testing.assert_close(biases[0], biases[1] + 1)
    assert network.model.stem.bias is None  # the network itself is left as it was


def reusing(kind: type[nn.Module], **options: object) -> tuple[quantizable.QuantizableNetwork, Tensor]:
    """A calibrated network of :mod:`tests.deploy.reuse` at 8 bits, and 16 inputs."""
    torch.manual_seed(0)
    images = torch.randn(16, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers that the network does not use
        network = quantizable.quantize(trained_like(kind()), [8, 32], **options)
        network.calibrate([images])
    network.info = {"in_chans": 3, "image_size": 8}
    network.set_bits(8)
    return network.eval(), images


@torch.no_grad()
def differs(found: object, expected: Tensor) -> float:
    """Largest difference over the largest logit."""
    return float((torch.as_tensor(found).double() - expected.double()).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("kind", "folded"), REUSING)
def test_what_is_used_twice_keeps_its_function(kind: type[nn.Module], folded: int, tmp_path: Path) -> None:
    network, x = reusing(kind)
    with torch.no_grad():
        expected = network(x)
    lowered = lower(network, 8, x[:1])
    assert len(lowered.folded) == folded
    # the same integers: only rounding of float32 is left, and no code is so near a tie that it moves
    assert differs(lowered.model(x), expected) < 1e-5
    if kind is not BiasReadDirectly:  # the reference adds biases itself, so that none is there to be read
        assert differs(integer_network(network, 8, x[:1])(x.double()), expected) < 1e-5
    save_qz(network, tmp_path / "network.qz", [8])
    assert differs(load_qz(tmp_path / "network.qz", kind())(x), expected) < 1e-5


@pytest.mark.parametrize(
    "kind",
    [OneNormBehindTwo, OneLayerTwoNorms, OnceWithoutNorm, NormBehindAddition, Siamese, SharedHeads],
)
def test_an_engine_computes_that_function(kind: type[nn.Module]) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the deploy extra is not installed")
    network, x = reusing(kind)
    with torch.no_grad():
        expected = network(x)
    model = onnx_model(network, 8, input_size=(3, 8, 8))
    run = compile_onnxruntime(model.SerializeToString(), 1, None)
    assert differs(run(x.numpy()), expected) < 1e-5
    assert (run(x.numpy()).argmax(1) == expected.argmax(1).numpy()).all()


@pytest.mark.parametrize(
    "options", [{"norms": "shared"}, {"norms": "shared_affine"}, {"first_last": "float"}]
)
@pytest.mark.parametrize("kind", [OneLayerTwoNorms, TwoNames, Tied])
def test_so_it_is_with_shared_norms_and_float_layers(kind: type[nn.Module], options: dict) -> None:
    network, x = reusing(kind, **options)
    with torch.no_grad():
        assert differs(lower(network, 8, x[:1]).model(x), network(x)) < 1e-5


def test_a_second_name_of_a_norm_is_the_norm_of_the_mode() -> None:
    network, _ = reusing(TwoNames)
    assert network.model.norm_again is network.model.norm
    twin = network.to_float(8)
    assert type(twin.norm) is nn.BatchNorm2d
    assert twin.norm_again is twin.norm


def test_a_quantizer_of_two_layers_serves_both() -> None:
    network, x = reusing(Tied)
    network.model.second.input_quantizer = network.model.conv.input_quantizer
    network.model.second.weight_quantizer = network.model.conv.weight_quantizer
    network = quantizable.QuantizableNetwork(network.model, network.modes, network.config).eval()
    network.set_bits(8)
    with torch.no_grad():
        expected = network(x)
    assert differs(lower(network, 8, x[:1]).model(x), expected) < 1e-5
    assert differs(integer_network(network, 8, x[:1])(x.double()), expected) < 1e-5


def test_the_report_says_why_a_norm_stays() -> None:
    network, x = reusing(OneLayerTwoNorms)
    report = layer_report(lower(network, 8, x[:1]))
    assert report["conv"].startswith("integer w8a8")  # and whether it could saturate, by its weights
    assert report["norm"] == report["other"] == f"float: BatchNorm2d {NOT_ALONE}"
    assert report["second"] == "float: evaluation never calls it"


@pytest.mark.parametrize(
    "kind", [OneNormBehindTwo, OneLayerTwoNorms, OnceWithoutNorm, NormBehindAddition, TwoNames, Tied]
)
def test_verification_folds_on_the_graph_too(kind: type[nn.Module]) -> None:
    network, x = reusing(kind)
    with torch.no_grad():
        assert differs(graph_of(network, (3, 8, 8), 8)(x), network(x)) < 1e-5


@pytest.mark.parametrize("kinds", [
    (nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d),
])  # fmt: skip
@torch.no_grad()
def test_a_norm_behind_a_same_padded_convolution_is_folded(kinds: tuple[type[nn.Module], ...]) -> None:
    conv, norm = kinds
    layers = conv(2, 4, 3, padding="same", bias=False), norm(4), nn.ReLU(), conv(4, 2, 3, padding="same")
    network = quantizable.quantize(trained_like(nn.Sequential(*layers)), [4]).eval()
    x = torch.randn(4, 2, *[5] * (layers[0].weight.dim() - 2))
    network.calibrate([x])
    lowered = lower(network, 4, x)
    assert lowered.folded == ["1"]
    assert differs(lowered.model(x), network(x)) < 1e-5
