"""Published networks that must export, each run on an engine against fake quantization."""

import json

import pytest
import timm
import torch
from torch import Tensor, nn

import quantizable
from quantizable.deploy.engines import compile_openvino
from quantizable.deploy.export import METADATA, onnx_model
from quantizable.deploy.processor import VARIABLE
from quantizable.storage.golden import golden

pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
pytest.importorskip("openvino", reason="the deploy extra is not installed")

SIZE = (3, 64, 64)
# layers on integers, and what runs in float
NETWORKS = {
    "resnet18": (13, set()),
    "densenet121": (17, {"BatchNorm2d", "BatchNormAct2d"}),
    "vit_tiny_patch16_224": (10, {"LayerNorm", "GELU", "attention"}),
}
SMALLER = {  # the same layers, fewer or narrower
    "resnet18": {"layers": (1, 1, 1, 1)},
    "densenet121": {"growth_rate": 8, "block_config": (2, 2, 1, 1)},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
}


def network_of(name: str, images: Tensor) -> quantizable.QuantizableNetwork:
    """Random weights with the statistics of the images, so that logits neither vanish nor explode."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **SMALLER.get(name, {}))
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    network = quantizable.quantize(model, [8]).eval()
    network.calibrate([images])
    return network


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_network_exports_and_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(name, torch.randn(32, *SIZE))
    proto = onnx_model(network, 8, input_size=SIZE)
    layers = json.loads(proto.metadata_props[0].value)["layers"]
    assert proto.metadata_props[0].key == METADATA
    integer, floats = NETWORKS[name]
    assert sum(how.startswith("integer") for how in layers.values()) == integer
    assert {how.split()[1] for how in layers.values() if how.startswith("float")} <= floats
    # Codes on ties go either way in an engine. What this changes is measured; without a bound that a wrong
    # graph would break, the comparison would say nothing. Layers are compared exactly elsewhere.
    samples = golden(network, {"8": 8}, SIZE)
    assert max(samples.tolerances["8"]) < 0.6
    for kernels in ("", "saturating"):
        if kernels:
            monkeypatch.setenv(VARIABLE, kernels)
        assert samples.check("8", compile_openvino(proto.SerializeToString(), None, None)) is None
