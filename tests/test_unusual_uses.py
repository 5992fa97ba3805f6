"""What users do with a network beside training it, where an answer was once wrong without a word."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

import quantizable
from quantizable import QuantizableClassifier, quantize
from quantizable.deploy import save_qz
from quantizable.deploy.export import export_onnx
from quantizable.measure.classification import image_metrics
from quantizable.quantizers import QUANTIZERS
from quantizable.storage.save import save_checkpoint
from tests.tiny import batches, trainer


def small(norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3), norm(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def ready(model: nn.Module, bits: list[int], **options: Any) -> Any:
    network = quantize(model, bits, **options).eval()
    network.calibrate([images()])
    return network


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_half_of_a_channel_of_zeros_is_zero(quantizer: str) -> None:
    model = small(nn.Identity)
    model[0].weight.data[2].zero_()  # its step size is the smallest there is
    network = ready(model, [8, 32], quantizer=quantizer)
    network.set_bits(8)
    expected = network(images())
    torch.testing.assert_close(network.half()(images().half()).float(), expected, atol=0.05, rtol=0.05)


def test_a_single_weight_has_no_spread() -> None:
    network = quantize(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), [4, 32], quantizer="sat")
    network.calibrate([torch.rand(4, 1)])
    network.set_bits(4)
    assert network(torch.rand(3, 1)).isfinite().all()


def test_norms_that_are_replaced_run_at_once() -> None:
    network = ready(small(), [4, 32]).train()
    network(images())
    freeze_batch_norm_2d(network)
    before = network(images())
    network.set_bits(network.bits)
    assert torch.equal(network(images()), before)
    assert all(
        name.startswith("Frozen") for name in {type(n.active).__name__ for n in network.norms().values()}
    )


def test_norms_in_a_plain_list_are_refused() -> None:
    class Ops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
            self.ops = [self.conv, self.bn]

        def forward(self, x: Tensor) -> Tensor:
            for op in self.ops:
                x = op(x)
            return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=r"Ops.ops holds norms in a plain list, .* make it an nn.ModuleList"):
        quantize(Ops(), [4, 32])
    quantize(Ops(), [4, 32], norms="shared")


def test_what_holds_integers_says_that_it_cannot_learn(tmp_path: Path) -> None:
    network = ready(small(), [4, 32])
    save_qz(network, tmp_path / "net.qz")
    integers = quantizable.load(tmp_path / "net.qz", model=small())
    for use in (
        lambda: integers.calibrate([images()]),
        lambda: integers.load_state_dict(network.state_dict()),
        lambda: integers.apply(lambda module: None),
    ):
        with pytest.raises(ValueError, match=r"read from a .qz file, .*; load the checkpoint"):
            use()
    module = QuantizableClassifier(integers.requires_grad_(True), 4)
    with pytest.raises(ValueError, match="cannot be trained"):
        trainer(max_epochs=1).fit(module, batches(1))


def test_weights_that_are_computed_are_named(tmp_path: Path) -> None:
    network = ready(small(), [4, 32])
    prune.random_unstructured(network.model[3], "weight", 0.5)
    for write in (
        lambda: save_qz(network, tmp_path / "net.qz"),
        lambda: export_onnx(network, tmp_path / "net.onnx", 4, input_size=(3, 12, 12)),
    ):
        with pytest.raises(ValueError, match=r"^3: a hook computes the weight .* prune.remove"):
            write()
    prune.remove(network.model[3], "weight")
    save_qz(network, tmp_path / "net.qz")
    weight_norm(network.model[3])
    with pytest.raises(ValueError, match="3: a parametrization computes the weight"):
        save_qz(network, tmp_path / "net.qz")


def test_float_weights_of_some_layers_leave_the_others_as_they_were() -> None:
    network = ready(small(), [4, 32])
    with torch.no_grad():
        for layer in network.layers().values():
            layer.weight_quantizer.level(layer.weight_quantizer.widths[0]).scale.mul_(1.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict({"3.weight": torch.randn(8, 8, 3, 3)}, strict=False)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"model.3.weight", "model.3.weight_quantizer.levels.4.scale"}


@pytest.mark.parametrize("behind", [True, False])
def test_a_file_says_which_layers_were_the_last(behind: bool, tmp_path: Path) -> None:
    before, after = (0, 5) if behind else (5, 0)

    def model(classes: int) -> nn.Module:
        return timm.create_model("lenet5", in_chans=3, img_size=12, num_classes=classes)

    network = ready(model(before), [2, 4, 32])
    network.reset_classifier(after)
    network.calibrate_lacking([images()])
    save_checkpoint(network, tmp_path / "net.ckpt")
    again = quantizable.load(tmp_path / "net.ckpt", model=model(after)).eval()
    for mode in (2, 4, 32):
        with network.at_bits(mode), again.at_bits(mode):
            assert torch.equal(network(images()), again(images()))


def test_an_average_that_is_filled_in_place_follows_the_sign() -> None:
    network = quantize(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), [4, 32], first_last="mode")
    network.calibrate([torch.rand(16, 8)])  # unsigned
    average = copy.deepcopy(network)
    network.calibrate([torch.randn(16, 8)])  # signed
    for mine, other in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        mine.copy_(other)
    x = torch.randn(3, 8)
    for net in (network, average):
        net.set_bits(4)
    assert torch.equal(average(x), network(x))
    network.calibrate([torch.rand(16, 8)])
    for mine, other in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        mine.copy_(other)
    assert torch.equal(average(x), network(x)), "without a switch, too"


def test_excluded_blocks_multiply_activations_in_float() -> None:
    options = {"img_size": 12, "patch_size": 4, "depth": 2, "num_classes": 4}
    model = timm.create_model("vit_tiny_patch16_224", **options)
    for exclude, left in ((["blocks.0.*"], {"blocks.1.attn"}), (["*.attn"], set())):
        network = quantize(model, [2, 32], attention=True, exclude=exclude)
        assert {name for name in network.layers() if name.endswith("attn")} == left
    with pytest.raises(ValueError, match="matches nothing"):
        quantize(model, [2, 32], attention=True, exclude=["blocks.7.attn"])


def test_labels_may_be_shares() -> None:
    logits = torch.eye(4)[[0, 1, 3]]
    hard, soft = torch.tensor([0, 1, 2]), torch.eye(4)[[0, 1, 2]]
    for labels in (hard, soft):
        found = image_metrics(logits, labels, logits.argmax(1))
        assert found["top1"].tolist() == [1, 1, 0]
        assert found["top5"].tolist() == [1, 1, 1]


def test_frequent_words_keep_their_smaller_gradient() -> None:
    words = torch.tensor([[1, 1, 1, 2]])
    model = nn.Sequential(nn.Embedding(5, 4, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(16, 2))
    expected = copy.deepcopy(model)
    network = quantize(model, [8, 32], embedding=True)
    for net in (network, expected):
        net(words).sum().backward()
    torch.testing.assert_close(network.model[0].weight.grad, expected[0].weight.grad)


def test_arguments_have_torchs_names_and_one_mode_may_stand_alone() -> None:
    network = ready(small(), [4, 32])
    conv, x = network.model[0], images()
    assert torch.equal(conv(input=x), conv(x))
    network.calibrate([x], modes=4)
    network.reestimate_norms([x], "4")
    with pytest.raises(ValueError, match="an assignment maps layers to modes"):
        network.add_assignment("found", 4)
    with pytest.raises(ValueError, match="cannot be called 'training'"):
        network.add_assignment("training", {"*": 4})


class Attending(nn.Module):
    """Attention by hand on the weight of a layer; in training one more product."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.more = False

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (x @ self.fc.weight.t()).chunk(3, -1)
        if self.more:
            self.penalty = (q.transpose(1, 2) @ q).square().mean()
        return self.out((q @ k.transpose(1, 2)).softmax(-1) @ v)  # type: ignore[no-any-return]


def test_a_layer_in_float_does_not_move_the_numbers_of_products() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Attending(), nn.Linear(8, 3)), torch.randn(4, 5, 8)
    network = quantize(model, [16, 32], attention=True, first_last="mode").eval()
    network.calibrate([x])
    network.set_bits({"0.fc": 32}, default=16)
    torch.testing.assert_close(network(x), model(x), atol=1e-3, rtol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(x)
    network.model[0].more = True
    with pytest.warns(
        UserWarning, match="Attending multiplies two activations where calibration saw no such"
    ):
        network(x)


def test_a_product_of_two_weights_is_no_call_of_the_first_layer() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            weight = F.linear(self.a.weight, self.b.weight)  # a b^T
            return F.linear(x[:, :5], weight) + 0 * (self.a(x) + self.b(x))

    torch.manual_seed(0)
    model, x = Product(), torch.randn(3, 6)
    network = quantize(model, [16, 32], first_last="mode")
    network.calibrate([x])
    network.set_bits(16)
    torch.testing.assert_close(network(x), model(x), atol=1e-2, rtol=1e-2)


class Block(nn.Module):
    """A shortcut around a convolution; what is added is not the first argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv2d(8, 8, 3, padding=1), nn.Embedding(50, 8)

    def forward(self, index: Tensor, x: Tensor) -> Tensor:
        return self.conv(x) * self.table(index)[:, :, None, None] + x  # type: ignore[no-any-return]


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.conv(x) * mask + x  # type: ignore[no-any-return]


class Around(nn.Module):
    def __init__(self, block: nn.Module, by_name: bool = False) -> None:
        super().__init__()
        self.stem, self.block, self.by_name = nn.Conv2d(3, 8, 3, padding=1), block, by_name

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        x = self.stem(x)
        if isinstance(self.block, Block):
            return self.block(other, x)  # type: ignore[no-any-return]
        return self.block(mask=other, x=x) if self.by_name else self.block(x, other)  # type: ignore[no-any-return]


def added(model: nn.Module, x: Tensor, other: Tensor) -> Tensor:
    network = quantize(model, [8, 32], residual=8, first_last="mode").eval()
    network.calibrate([(x, other)], forward=lambda net, batch: net(*batch))
    network.set_bits(8)
    return network(x, other)  # type: ignore[no-any-return]


def test_only_what_is_added_is_quantized_for_additions() -> None:
    torch.manual_seed(0)
    model, x, index = Around(Block()), images(), torch.tensor([29, 13, 45, 7])
    expected = model(x, index)
    assert (added(model, x, index) - expected).abs().max() < 0.05 * expected.abs().max()
    block, mask = Masked(), 10 * torch.rand(4, 1, 12, 12)
    first = Around(block)
    second = Around(block, by_name=True)
    second.stem = first.stem
    assert torch.equal(added(first, x, mask), added(second, x, mask))


def test_the_additions_of_a_decorated_forward_stay_float() -> None:
    class Decorated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + x  # type: ignore[no-any-return]

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), Decorated(), Plain(), nn.Flatten(), nn.Linear(1152, 2)
    )
    with pytest.warns(UserWarning, match=r"\(Decorated\): torch.fx cannot read or trace the code"):
        quantize(model, [8, 32], residual=8)


class Plain(Masked):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.conv(x) + x  # type: ignore[no-any-return]
