"""HybridSN and SSRN: the layers of the papers, training in all modes, and files that answer alike."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from quantizable import load
from quantizable.deploy import Session, export_onnx, save_qz
from quantizable.models.create import create_model
from quantizable.training.classifier import QuantizableClassifier
from tests.deploy.ties import assert_equal_but_for_ties
from tests.tiny import trainer

BANDS = 31


def normalized(x: Tensor, norm: nn.Module) -> Tensor:
    """Batch normalization by running statistics, with ReLU."""
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()


def uneven(model: nn.Module) -> nn.Module:
    """Norms that differ from the identity."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            for values in (norm.running_var, norm.weight.data, norm.bias.data, norm.running_mean):
                values.uniform_(0.5, 1.5)
    return model.eval()


def kernels(model: nn.Module) -> list[tuple[int, ...]]:
    kinds = nn.Conv2d | nn.Conv3d | nn.Linear
    return [tuple(m.weight.shape) for m in model.modules() if isinstance(m, kinds)]


@torch.no_grad()
def test_hybrid_sn_computes_the_layers_of_table_1() -> None:
    model = uneven(create_model("hybrid_sn", 16, 156, width=8))
    # bands: (156 - 7) // 3 + 1 = 50, (50 - 5) // 2 + 1 = 23, 23 - 2 = 21
    wanted = [(8, 1, 7, 3, 3), (16, 8, 5, 3, 3), (32, 16, 3, 3, 3), (64, 32 * 21, 3, 3)]
    assert kernels(model) == [*wanted, (256, 64), (128, 256), (16, 128)]
    x = torch.randn(2, 156, 7, 7)
    (first, norm1, _), (second, norm2, _), (third, norm3, _) = model.volume
    maps = normalized(F.conv3d(x[:, None], first.weight, stride=(3, 1, 1)), norm1)
    maps = normalized(F.conv3d(maps, second.weight, stride=(2, 1, 1)), norm2)
    maps = normalized(F.conv3d(F.pad(maps, (1, 1, 1, 1)), third.weight), norm3)
    assert maps.shape == (2, 32, 21, 3, 3)
    maps = normalized(F.conv2d(maps.reshape(2, 32 * 21, 3, 3), model.space[0].weight), model.space[1])
    hidden = F.linear(maps.flatten(1), model.hidden[0].weight, model.hidden[0].bias).relu()
    hidden = F.linear(hidden, model.hidden[3].weight, model.hidden[3].bias).relu()
    torch.testing.assert_close(model(x), F.linear(hidden, model.classifier.weight, model.classifier.bias))


@torch.no_grad()
def test_ssrn_computes_the_3d_convolutions_of_the_paper() -> None:
    """Of the paper's size: 7x7x200, 97 bands after the first convolution, a depth of 128, then of 1."""
    model = uneven(create_model("ssrn", 16, 200, width=24, features=128, step=2))
    spectral, spatial = [(24, 24, 7, 1, 1)] * 4, [(24, 24, 3, 3)] * 4
    wanted = [(24, 1, 7, 1, 1), *spectral, (128, 24, 97, 1, 1), (24, 128, 3, 3), *spatial, (16, 24)]
    assert kernels(model) == wanted

    def residual(x: Tensor, block: nn.Module, padding: tuple[int, int, int]) -> Tensor:
        out = x
        for norm, _, conv in block.layers:
            weight = conv.weight if conv.weight.dim() == 5 else conv.weight[:, :, None]  # a depth of 1
            out = F.conv3d(normalized(out, norm), weight, padding=padding)
        return x + out

    x = torch.randn(2, 200, 7, 7)
    first, one, two, norm, _, last, after, _ = model.spectral
    maps = F.conv3d(x[:, None], first.weight, stride=(2, 1, 1))
    assert maps.shape == (2, 24, 97, 7, 7)
    for block in (one, two):
        maps = residual(maps, block, (3, 0, 0))
    maps = normalized(F.conv3d(normalized(maps, norm), last.weight), after)
    volume = maps.reshape(2, 1, 128, 7, 7)  # the maps are the depth of one new map
    conv, one, two, norm, _ = model.spatial
    maps = F.conv3d(volume, conv.weight[:, None])
    assert maps.shape == (2, 24, 1, 5, 5)
    for block in (one, two):
        maps = residual(maps, block, (0, 1, 1))
    pooled = F.avg_pool3d(normalized(maps, norm), (1, 5, 5)).flatten(1)
    expected = F.linear(pooled, model.classifier.weight, model.classifier.bias)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def separable() -> tuple[Tensor, Tensor]:
    """Patches of two materials, bright in the lower or in the upper bands."""
    labels = torch.arange(96) % 2
    x = 0.3 * torch.randn(96, BANDS, 7, 7)
    x[labels == 0, : BANDS // 2] += 1
    x[labels == 1, BANDS // 2 :] += 1
    return x, labels


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hybrid_sn", "ssrn"])
def test_all_modes_train_and_files_answer_as_fake_quantization(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options: dict[str, Any] = {"in_chans": BANDS, "width": 2}
    module = QuantizableClassifier(
        name, 2, bits=[2, 4, 8, 32], model_options=options, optimizer={"lr": 0.05, "warmup": 0}
    )
    x, labels = separable()
    before = {key: value.clone() for key, value in module.network.named_parameters()}
    trainer(max_epochs=6).fit(module, DataLoader(TensorDataset(x, labels), batch_size=16))
    network = module.network.eval()
    network.info = {"in_chans": BANDS, "image_size": 7}  # as training on a scene says
    kept = [key for key, value in network.named_parameters() if torch.equal(value, before[key])]
    assert not [key for key in kept if "quantizer" not in key]  # norms of every mode, too
    save_qz(network, tmp_path / "scene.qz", architecture=module.architecture)
    again = load(tmp_path / "scene.qz")
    with torch.no_grad():
        for mode in (2, 4, 8):
            with network.at_bits(mode), again.at_bits(mode):
                torch.testing.assert_close(again(x), network(x), rtol=1e-4, atol=1e-4)
                assert (network(x).argmax(1) == labels).float().mean() > 0.7  # chance gets half right
    layers = export_onnx(network, tmp_path / "4.onnx", 4, input_size=(BANDS, 7, 7))
    assert sum(how.startswith("integer") for how in layers.values()) == len(network.layers())
    got = Session(tmp_path / "4.onnx", "onnxruntime", threads=1)(x)
    assert_equal_but_for_ties(got, network, 4, x)
    with network.at_bits(4), torch.no_grad():
        assert (got.argmax(1) == network(x).numpy().argmax(1)).mean() > 0.9


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="needs 31 bands and 7x7 pixels at least; there are 30 bands"):
        create_model("hybrid_sn", 3, 30)
    with pytest.raises(ValueError, match="reads 7 bands at once, and there are 6"):
        create_model("ssrn", 3, 6)
    nine = torch.randn(2, 40, 9, 9)
    assert create_model("hybrid_sn", 3, 40, img_size=9)(nine).shape == (2, 3)
    assert create_model("ssrn", 3, 40)(nine).shape == (2, 3)
    with pytest.raises(ValueError, match=r"patches have 9x9 pixels.*7x7: give model.options=\{img_size:9\}"):
        create_model("hybrid_sn", 3, 40)(nine)


@pytest.mark.parametrize("name", ["patch_cnn", "hybrid_sn", "ssrn"])
def test_an_argument_that_a_network_does_not_take_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="widht"):
        create_model(name, 3, 40, widht=4)
