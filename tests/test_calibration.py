"""What sets step sizes, and what must not: evaluation, batches that say nothing, modes not asked for."""

import copy
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from quantizable import QuantizableNetwork, quantize
from quantizable.calibrate import check_calibrated
from quantizable.quantizers import LSQActivation, LSQPlusActivation, PACTActivation, Quantizer
from quantizable.quantizers.base import sample
from tests.test_network import SmallNet, images

ACTIVATIONS = [LSQActivation, LSQPlusActivation, PACTActivation]
each_activation = pytest.mark.parametrize("kind", ACTIVATIONS)
uncalibrated = pytest.mark.filterwarnings("ignore:used at")


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5, 6), (2, 3, 4, 5, 6)])
def test_a_sample_does_not_depend_on_the_order_in_memory(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    layouts = [x, x.expand(3, *shape)[1], torch.randn(*shape, 2)[..., 0].copy_(x)]
    if len(shape) == 4:
        layouts.append(x.contiguous(memory_format=torch.channels_last))
    for layout in layouts:
        assert torch.equal(sample(layout), torch.stack([*x.flatten(), x.min(), x.max()]))


def at(quantizer: Quantizer, bits: int, x: Tensor) -> Tensor:
    quantizer.set_bits(bits)
    return quantizer(x)


# -- evaluation sets nothing -----------------------------------------------------------------------


@uncalibrated
@pytest.mark.parametrize("quantizer", ["lsq", "lsq_plus", "nested", "pact", "dorefa"])
@pytest.mark.parametrize("inputs", [torch.zeros, torch.rand, torch.randn])
def test_evaluation_sets_nothing(quantizer: str, inputs: Callable[..., Tensor]) -> None:
    net = quantize(SmallNet(), [2, 4], quantizer).eval()
    before, x = state(net), inputs(2, 3, 8, 8)
    for mode in (2, 4):
        with net.at_bits(mode):
            assert net(x).isfinite().all()
    assert not changed(net, before)
    net.calibrate([images()])
    other = quantize(SmallNet(), [2, 4], quantizer)
    other.load_state_dict(before)
    other.calibrate([torch.zeros(1, 3, 8, 8)])  # whatever is calibrated on first, the second time counts
    torch.manual_seed(0)
    data = images()
    net.calibrate([data])
    other.calibrate([data])
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in other.state_dict().items())


@uncalibrated
@each_activation
def test_evaluation_uses_what_training_would_set(kind: type[Quantizer]) -> None:
    x = torch.randn(8, 50)
    used, trained = kind([2, 4]).eval(), kind([2, 4])
    given = x.clone().requires_grad_()
    assert torch.equal(at(used, 4, given), at(trained, 4, x))
    used(given).sum().backward()  # an attack through a network that is not calibrated
    assert given.grad is not None
    assert not torch.equal(used(3 * x), trained(3 * x)), "the next batch has step sizes of its own"


def test_one_warning_names_the_remedy() -> None:
    net = quantize(SmallNet(), [2, 4]).eval()
    with pytest.warns(UserWarning, match="used at 8 bits before calibration") as caught:
        [net(images()) for mode in (2, 4, 2) if not net.set_bits(mode)]
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert "call calibrate(loader) first" in str(caught[0].message)
    with pytest.warns(UserWarning, match="before calibration"):  # another network, another warning
        quantize(SmallNet(), [2, 4])(images())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        float_mode = quantize(SmallNet(), [2, 32]).eval()
        float_mode(images())
        float_mode.calibrate([images()])
        float_mode.set_bits(2)
        float_mode(images())


@uncalibrated
def test_a_pass_without_gradients_sets_nothing_in_training_mode_either() -> None:
    quantizer = LSQActivation([4])
    before = state(quantizer)
    with torch.no_grad():
        at(quantizer, 4, torch.randn(8, 50))
    assert not changed(quantizer, before)


@uncalibrated
def test_what_a_few_batches_set_is_not_settled_and_a_training_is() -> None:
    quantizer = LSQActivation([4])
    at(quantizer, 4, torch.randn(8, 50))
    assert quantizer.lacking() == [4]
    for _ in range(8):
        quantizer(torch.randn(8, 50))
    assert quantizer.lacking() == []


def test_quantizers_and_norms_are_in_the_mode_of_the_network() -> None:
    for training in (False, True):
        net = quantize(SmallNet().train(training), [2, 32])
        assert {module.training for module in net.modules()} == {training}


# -- the first training batch ----------------------------------------------------------------------


@uncalibrated
@each_activation
@pytest.mark.parametrize(
    "nothing", [torch.zeros(4, 6), torch.full((4, 6), 0.7), torch.full((4, 6), torch.nan), torch.zeros(0, 6)]
)
def test_a_batch_that_says_nothing_sets_nothing(kind: type[Quantizer], nothing: Tensor) -> None:
    quantizer = kind([2, 4])
    before = state(quantizer)
    assert torch.equal(at(quantizer, 4, nothing), nothing) or nothing.isnan().all()
    assert not changed(quantizer, before)
    x, twin = torch.randn(8, 50), kind([2, 4])
    assert torch.equal(quantizer(x), at(twin, 4, x)), "as if the first batch had not been"


@uncalibrated
@each_activation
def test_negative_values_of_a_later_batch_are_not_cut_off(kind: type[Quantizer]) -> None:
    """One loss over both passes: the range changes before the backward pass of the first."""
    quantizer = kind([4, 8])
    first, second = torch.rand(8, 50).requires_grad_(), torch.randn(8, 50)
    loss = at(quantizer, 4, first).sum()
    out = at(quantizer, 8, second)
    (loss + out.sum()).backward()
    torch.testing.assert_close(out.detach(), second, rtol=0, atol=0.5 if kind is PACTActivation else 0.05)
    assert at(quantizer, 4, second).min() < -1
    learned = state(quantizer)
    for _ in range(10):
        quantizer(torch.randn(8, 50) * 5)
    assert not changed(quantizer, learned), "it looks for a sign and no more"


@uncalibrated
def test_calibrated_ranges_do_not_turn() -> None:
    quantizer = LSQActivation([4])
    quantizer.start_calibration()
    quantizer(torch.rand(8, 50))
    quantizer.finish_calibration()
    before = state(quantizer)
    at(quantizer, 4, torch.randn(8, 50))
    assert not changed(quantizer, before)


@each_activation
def test_the_sign_is_decided_over_all_calibration_batches(kind: type[Quantizer]) -> None:
    quantizer = kind([8])
    quantizer.start_calibration()
    for x in (torch.zeros(4, 50), torch.full((4, 50), 0.5), torch.rand(4, 50), torch.randn(4, 50)):
        quantizer(x)
    assert quantizer.finish_calibration()
    x = torch.tensor([-1.0, -0.5, 0.5, 1.0])
    torch.testing.assert_close(at(quantizer, 8, x), x, rtol=0, atol=0.03)


def test_a_layer_that_sees_only_zeros_can_be_deployed() -> None:
    quantizer = LSQActivation([4])
    quantizer.start_calibration()
    quantizer(torch.zeros(4, 50))
    assert quantizer.finish_calibration()
    assert quantizer.is_set(4)
    assert torch.equal(at(quantizer, 4, torch.zeros(3)), torch.zeros(3))
    assert quantizer(torch.ones(3)).allclose(torch.ones(3), atol=0.1)


@uncalibrated
def test_the_first_batch_under_autocast_sets_what_it_sets_without() -> None:
    scales = []
    for enabled in (False, True):
        quantizer = LSQActivation([4])
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            at(quantizer, 4, torch.linspace(-1, 1, 64)[None].bfloat16())
        scales.append(quantizer.level(4).scale.item())
    assert scales[0] == scales[1]


def _first_batch(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    quantizer = LSQActivation([4])
    at(quantizer, 4, torch.zeros(2, 4) if rank == 0 else torch.randn(2, 50))  # as the first process decides
    assert quantizer.lacking() == [4]
    quantizer(torch.randn(2, 50) if rank == 0 else torch.rand(2, 50) * 9)
    torch.save(quantizer.state_dict(), f"{folder}/{rank}.pt")
    assert quantizer.active is not None
    assert quantizer.active.quant_min == -8
    dist.destroy_process_group()


@pytest.mark.slow
@uncalibrated
def test_two_processes_take_the_first_ones_step_sizes(tmp_path: Path) -> None:
    mp.start_processes(_first_batch, (str(tmp_path),), nprocs=2, start_method="fork")  # imports nothing anew
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


# -- modes that a checkpoint lacks -----------------------------------------------------------------


def checkpoint(modes: list) -> dict[str, Tensor]:
    """Of a network whose weights, norms and step sizes are not those of a new one."""
    net = quantize(SmallNet(), modes)
    net.calibrate([images()])
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.mul_(1.25 if "scale" in name else 2)
        for mode, norm in net.bn1.norms.items():
            norm.running_mean.fill_(int(mode) / 100)
    return state(net)


def loaded(modes: list, held: dict[str, Tensor], missing: str) -> QuantizableNetwork:
    net = quantize(SmallNet(), modes).eval()
    with pytest.warns(UserWarning, match=f"the checkpoint lacks mode {missing}: .* calibrate") as caught:
        net.load_state_dict(held, strict=False)
    assert len(caught) == 1
    return net


def test_a_missing_mode_is_named_and_calibrated_alone() -> None:
    held = checkpoint([2, 4, 8, 32])
    net, data = loaded([2, 3, 4, 8, 32], held, "3"), [images(64)]
    assert net.bn1.norms["3"].running_mean[0] == pytest.approx(0.04), "of the higher of the two nearest modes"
    ideal = quantize(SmallNet(), [3, 32])
    ideal.load_state_dict(net.to_float().state_dict())
    scale = "conv2.weight_quantizer.levels.3.scale"
    assert torch.equal(net.model.get_parameter(scale), ideal.model.get_parameter(scale))
    assert net.conv2.input_quantizer.lacking() == [3]
    net.set_bits(3)
    with pytest.warns(UserWarning, match="before calibration"):
        net(images())
    net.calibrate(data, modes=[3])
    assert all(torch.equal(net.state_dict()[name], value) for name, value in held.items())
    ideal.calibrate(data)
    scale = "conv2.input_quantizer.levels.3.scale"
    torch.testing.assert_close(net.model.get_parameter(scale), ideal.model.get_parameter(scale))


def test_a_checkpoint_of_an_older_version_says_it_once_for_all_widths() -> None:
    held = checkpoint([2, 4, 32])
    old = {k: v for k, v in held.items() if not (".levels." in k and k.endswith("initialised"))}
    assert len(old) < len(held)
    net = quantize(SmallNet(), [2, 4, 32])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.load_state_dict(old)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in held.items())
    blank = {k: torch.zeros_like(v) if k.endswith("initialised") else v for k, v in old.items()}
    net.load_state_dict(blank)
    assert net.conv2.input_quantizer.lacking() == [2, 4]


def test_a_partial_network_saves_that_it_is_partial() -> None:
    net = loaded([2, 3, 32], checkpoint([2, 32]), "3")
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    again = quantize(SmallNet(), [2, 3, 32])
    with pytest.warns(UserWarning, match="lacks mode 3"):
        again.load_state_dict(torch.load(file, weights_only=True))
    assert again.conv2.input_quantizer.lacking() == [3]
    assert copy.deepcopy(again).conv2.input_quantizer.lacking() == [3]
    again.set_bits(3)
    with pytest.raises(ValueError, match="no step size yet"):
        check_calibrated(again)


def test_nested_steps_follow_the_highest_width() -> None:
    held = quantize(SmallNet(), [2, 4, 32], "nested", first_last="mode")
    held.calibrate([images()])
    net = quantize(SmallNet(), [2, 4, 8, 32], "nested", first_last="mode").eval()
    with pytest.warns(UserWarning, match="lacks mode 8"):
        net.load_state_dict(held.state_dict(), strict=False)
    grids = [n.conv2.weight_quantizer.qparams(n.conv2.weight, 4).scale for n in (held, net)]
    torch.testing.assert_close(grids[1], grids[0])


def test_add_mode_takes_widths_that_the_network_was_not_built_for() -> None:
    torch.manual_seed(1)
    model, data = SmallNet(), [images(64)]
    net, built = quantize(model, [2, 8, 32]), quantize(model, [2, 4, 8, 32])
    net.calibrate(data)
    before = state(net)
    net.add_mode(4, like=8)
    net.calibrate(data, modes=[4])
    built.calibrate(data)
    assert not changed(net, {**state(net), **before}), "what was there stays"
    assert net.state_dict().keys() == built.state_dict().keys()
    for mode in net.modes:
        net.set_bits(mode)
        built.set_bits(mode)
        assert torch.equal(net.eval()(data[0]), built.eval()(data[0]))


def test_add_mode_is_all_or_nothing() -> None:
    net = quantize(SmallNet(), [2, 8, 32], "nested")
    before = state(net)
    with pytest.raises(ValueError, match="mode 16 cannot be added; layer 'conv2': nested weights"):
        net.add_mode(16, like=8)
    assert not changed(net, before)
    assert [mode.name for mode in net.modes] == ["2", "8", "32"]


def test_calibrating_some_modes_leaves_the_widths_that_others_use() -> None:
    net = quantize(SmallNet(), [2, "w4a8", 8, 32])
    net.calibrate([images()])
    before = state(net)
    net.calibrate([images() * 10], modes=["w4a8"])  # its activations are those of mode 8
    assert not changed(net, before)
    net.calibrate([images() * 10], modes=[2])
    assert changed(net, before) == {"model.conv2.input_quantizer.levels.2.scale"}
    with pytest.raises(ValueError, match="no mode 3"):
        net.calibrate([images()], modes=[3])


def test_calibrating_in_training_mode_and_twice_gives_the_same() -> None:
    net, data = quantize(SmallNet(), [2, 4, 32]).train(), [images()]
    net.calibrate(data)
    assert net.training
    once = state(net)
    net.eval().calibrate(data)
    assert not changed(net, once)


@pytest.mark.parametrize("bits", [4, 32])
def test_a_few_passes_in_training_mode_change_no_later_calibration(bits: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip
    images = torch.randn(32, 3, 8, 8) * 2 + 1
    found = []
    for passes in (0, 1, 30):
        network = quantize(copy.deepcopy(model), [4, 32])
        with network.at_bits(bits), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(passes):
                network.train()(torch.randn(2, 3, 8, 8))
        network.calibrate([images])
        found.append({key: value for key, value in network.state_dict().items() if key.endswith("scale")})
    assert any("input_quantizer" in key for key in found[0])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


class Adds(nn.Module):
    """A linear layer, and a mask that is added to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        return (self.fc(x) + hidden).softmax(-1)


def test_a_mask_may_hide_by_minus_infinity_and_an_input_may_not() -> None:
    net, x = quantize(Adds(), [4, 32]), torch.randn(4, 4)
    mask = torch.zeros(4, 4).masked_fill(torch.eye(4).bool(), -torch.inf)
    net.calibrate([(x, mask)])
    for value in (torch.inf, -torch.inf, torch.nan):
        with pytest.raises(ValueError, match="batch 1 of the loader has NaN or infinite values"):
            net.calibrate([(x.masked_fill(torch.eye(4).bool(), value), mask)])
