"""Norms of a mode against the reference on the same images, by formulas in numpy, and never for the worse."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quantizable
from quantizable import QuantizableNetwork, quantize
from quantizable.nn.norm_statistics import fitted_statistics, group_moments
from tests.small_net import SmallNet, trained_like


def by_hand(
    mean: np.ndarray,
    var: np.ndarray,
    x: np.ndarray,
    ref: np.ndarray,
    ref_mean: np.ndarray,
    ref_var: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The docstring's formula in numpy for groups of one image, ``x`` and ``ref`` ``[N, C, L]``."""
    found = ref_mean + x.mean((0, 2)) - ref.mean((0, 2))
    distance = (found - mean) / np.sqrt(var)
    error = (x - ref).mean(2).var(0, ddof=1) / len(x) / var
    t = max(0, (distance**2 - error).mean())
    out_mean = mean + distance * t / (t + error) * np.sqrt(var)
    distance = np.log(ref_var * x.var((0, 2)) / ref.var((0, 2)) / var)
    # the error of a difference of logarithms by the jackknife, which knows no delta method
    n = len(x)
    parts = [np.log(np.delete(x, i, 0).var((0, 2)) / np.delete(ref, i, 0).var((0, 2))) for i in range(n)]
    error = (n - 1) * np.var(parts, 0)
    t = max(0, (distance**2 - error).mean())
    return out_mean, var * np.exp(distance * t / (t + error))


def grouped(x: Tensor) -> tuple[Tensor, Tensor]:
    """Moments with one image a group."""
    first, second = zip(*(group_moments(image[None]) for image in x), strict=True)
    return torch.cat(first), torch.cat(second)


def test_the_formula_by_hand() -> None:
    x, noise = torch.randn(200, 5, 30), torch.randn(200, 5, 30)
    moved = 1.5 * x + 0.2 * noise + torch.arange(5.0)[:, None] / 10
    stored, ref = (torch.randn(5), torch.rand(5) + 0.5), (torch.randn(5), torch.rand(5) + 0.5)
    found = fitted_statistics(*stored, grouped(moved), grouped(x), ref)
    arrays = [t.double().numpy() for t in (*stored, moved, x, *ref)]
    for ours, expected in zip(found, by_hand(*arrays), strict=True):
        np.testing.assert_allclose(ours.double().numpy(), expected, rtol=1e-3, atol=1e-4)


def test_groups_hold_the_moments_of_the_batch() -> None:
    for shape in ((16, 3, 4, 4), (16, 3), (5, 3, 7), (1, 3, 2, 2)):
        x = torch.randn(shape)
        first, second = group_moments(x)
        assert len(first) == min(8, len(x))
        if len(x) % len(first) == 0:
            dims = [d for d in range(x.dim()) if d != 1]
            torch.testing.assert_close(first.mean(0), x.mean(dims))
            torch.testing.assert_close(second.mean(0), x.square().mean(dims))


def test_what_did_not_move_stays_whatever_the_images() -> None:
    """The float mode's own statistics went from 92.3 to 83.7 % when 200 images replaced a million."""
    x = torch.randn(24, 64, 10) * 3 + 1  # few images, and not those of the stored statistics
    stored = torch.zeros(64), torch.ones(64)
    mean, var = fitted_statistics(*stored, grouped(x), grouped(x), stored)
    torch.testing.assert_close(mean, stored[0])
    torch.testing.assert_close(var, stored[1], rtol=1e-5, atol=0)


def test_a_single_image_says_nothing_of_its_error() -> None:
    x, stored = torch.randn(1, 6, 10), (torch.zeros(6), torch.ones(6))
    mean, var = fitted_statistics(*stored, grouped(x * 2), grouped(x), stored)
    assert torch.equal(mean, stored[0])
    assert torch.equal(var, stored[1])


def test_shrinking_beats_both_extremes() -> None:
    """Over many draws the blend is nearer to the truth than what is stored, and than what the few say."""
    errors = torch.zeros(3)
    for truth in torch.randn(40, 64) * 0.2:  # the shift is as large as the sampling error
        x = truth[:, None] + torch.randn(24, 64, 1)
        mean, _ = fitted_statistics(torch.zeros(64), torch.ones(64), grouped(x))
        guesses = torch.zeros(64), x.mean((0, 2)), mean
        errors += torch.stack([(guess - truth).square().mean() for guess in guesses])
    assert errors[2] < 0.8 * errors[0]
    assert errors[2] < 0.8 * errors[1]


@pytest.fixture
def pretrained() -> tuple[QuantizableNetwork, Tensor]:
    """A network whose stored statistics are those of many images, and further images."""
    model, data = trained_like(SmallNet()), torch.randn(2048, 3, 10, 10)
    model.train()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None
    with torch.no_grad():
        for x in data.split(256):
            model(x)
    net = quantize(model.eval(), [2, 3, 4, 8, 32]).eval()
    net.calibrate([data[:64]])
    return net, torch.randn(512, 3, 10, 10)


def distances(net: QuantizableNetwork, x: Tensor) -> dict[str, float]:
    with torch.no_grad():
        net.set_bits(32)
        top, found = net(x), {}
        for mode in net.modes:
            net.set_bits(mode)
            found[mode.name] = (net(x) - top).square().mean().item()
    return found


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_no_mode_moves_away_from_the_float_mode(
    pretrained: tuple[QuantizableNetwork, Tensor], count: int
) -> None:
    net, x = pretrained
    net.set_bits(32)
    with torch.no_grad():
        output = net(x)
    before = distances(net, x)
    net.set_bits(4)
    net.reestimate_norms([torch.randn(count, 3, 10, 10)])
    assert net.bits == 4
    after = distances(net, x)
    net.set_bits(32)
    assert torch.equal(net(x), output), "the float mode keeps what it has"
    for mode in ("2", "3", "4", "8"):
        assert after[mode] <= 1.05 * before[mode], mode
    if count == 64:
        assert after["2"] < 0.8 * before["2"]


@pytest.mark.parametrize("named", [None, [32, 8, 4], [8, 32]])
def test_the_float_mode_stays_also_if_named_with_others(
    pretrained: tuple[QuantizableNetwork, Tensor], named: list | None
) -> None:
    net, x = pretrained
    before, output = {name: value.clone() for name, value in net.state_dict().items()}, net(x)
    net.reestimate_norms([x[:32]], modes=named)
    assert torch.equal(net(x), output)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert any(".norms.8." in name for name in moved)
    assert not any(".norms.32." in name for name in moved)


def test_a_network_without_float_mode_is_compared_with_itself_in_float(
    pretrained: tuple[QuantizableNetwork, Tensor],
) -> None:
    with_float, x = pretrained
    net = quantize(with_float.to_float(), [2, 4]).eval()
    both = quantize(with_float.to_float(), [2, 4, 32]).eval()
    for network in (net, both):
        network.calibrate_lacking([x[:64]])
    for name, value in net.state_dict().items():
        value.copy_(both.state_dict()[name])
    for network in (net, both):
        network.reestimate_norms([x[:64], x[64:128]])
        network.set_bits(4)
    torch.testing.assert_close(net(x), both(x))
    trained = {name: value.clone() for name, value in net.state_dict().items()}
    net.reestimate_norms([x[128:256]])  # its modes differ now: the highest is what it is
    assert torch.equal(net.stem_norm.norms["4"].running_mean, trained["model.stem_norm.norms.4.running_mean"])


def test_a_named_float_mode_follows_weights_that_changed(
    pretrained: tuple[QuantizableNetwork, Tensor],
) -> None:
    """As after an average of checkpoints, where torch has ``update_bn``."""
    net, x = pretrained
    with torch.no_grad():
        net.stem.weight.mul_(3)
    net.reestimate_norms([*x.split(128)], modes=[32])
    stem = torch.nn.functional.conv2d(x, net.stem.weight, padding=1)
    norm = net.stem_norm.norms["32"]
    torch.testing.assert_close(norm.running_mean, stem.mean((0, 2, 3)), rtol=0.02, atol=0.02)
    torch.testing.assert_close(norm.running_var, stem.var((0, 2, 3)), rtol=0.02, atol=0)
    assert net.stem_norm.norms["4"].running_var[0] < norm.running_var[0] / 4


def test_a_shared_norm_and_one_used_twice_are_fitted() -> None:
    class Twice(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            x = self.block_norm(self.stem(x)).relu()
            x = (x + self.block_norm(self.block(x))).relu()
            return self.head(self.pool(torch.cat([x, x[:, :4]], 1)).flatten(1))

    for norms in ("per_mode", "shared"):
        net = quantize(trained_like(Twice()), [2, 32], norms=norms).eval()
        x = torch.randn(16, 3, 10, 10)
        net.calibrate([x])
        net.reestimate_norms([x, x])
        for mode in net.modes:
            net.set_bits(mode)
            assert net(x).isfinite().all()


def test_the_shipped_networks_trained_norms_are_not_made_worse() -> None:
    network = quantizable.load(Path(__file__).parents[2] / "checkpoints" / "cifar10_resnet20.qz").eval()
    coarse = torch.nn.functional.interpolate(torch.randn(64, 3, 4, 4), size=32, mode="bicubic")
    images = coarse + torch.randn(64, 3, 32, 32) / 4

    def distances() -> list[float]:
        outputs = []
        for mode in (8, 4, 2):
            with network.at_bits(mode), torch.no_grad():
                outputs.append(network(images))
        return [float((other - outputs[0]).square().mean()) for other in outputs[1:]]

    before = distances()
    network.reestimate_norms(images.split(16))
    for after, stored in zip(distances(), before, strict=True):
        assert after <= stored * (1 + 1e-5)
