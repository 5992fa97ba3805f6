"""The traps measured on these versions of torch and timm, one test each (docs: design, table of traps)."""

import pytest
import torch
import torch._inductor.config
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from quantizable import QUANTIZERS, quantize
from quantizable.quantizers import LSQWeight
from quantizable.quantizers.base import sample
from tests.test_network import SmallNet, images


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["lsq", "sat"])
def test_one_graph_for_all_quantized_modes_and_one_for_float(quantizer: str) -> None:
    """A width read as an integer, or a norm picked by name, costs one graph per mode; the limit is 8."""
    net = quantize(SmallNet(), [2, 3, 4, 5, 6, 7, 8, "w4a8", 10, 12, 32], quantizer, first_last=8)
    net.calibrate([images()])
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, backend=counter)
    x = images()
    for mode in net.modes:
        net.set_bits(mode)
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-3, atol=1e-3)
    for mode in net.modes:
        net.set_bits(mode)
        compiled(x)
    assert counter.frame_count == 2
    torch._dynamo.reset()


def test_calibration_leaves_the_compiler_the_graphs_of_training() -> None:
    """Each batch that quantizers keep would cost a graph; at the limit of 8 all of training ran eagerly."""
    net = quantize(SmallNet(), [2, 4, 8, 32]).train()
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    net.model.compile(backend=counter)
    net.calibrate([images()] * 8)
    net.reestimate_norms([images()] * 2)
    assert counter.frame_count == 0
    for mode in net.modes:
        net.set_bits(mode)
        net(images())
    net.set_layer_modes({name: net.modes[i % 3] for i, name in enumerate(net.layers())})
    net(images())
    assert counter.frame_count == 2
    torch._dynamo.reset()


@pytest.mark.slow
@torch._inductor.config.patch(compile_threads=1)  # a pool of workers would cost more than the compilation
def test_the_real_compiler_equals_eager_forward_and_backward() -> None:
    x = torch.randn(4, 100)
    quantizer = LSQWeight(x, [2, 8])
    torch._dynamo.reset()
    compiled = torch.compile(quantizer)
    for bits in (2, 8):
        quantizer.set_bits(bits)
        results = []
        for call in (quantizer, compiled):
            quantizer.zero_grad()
            x1 = x.clone().requires_grad_()
            out = call(x1)
            out.square().sum().backward()
            results.append((out, x1.grad, quantizer.level(bits).scale.grad))
        for eager, graph in zip(*results, strict=True):
            torch.testing.assert_close(graph, eager, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("quantizer", list(QUANTIZERS))
def test_an_average_over_buffers_keeps_every_mode_legal(quantizer: str) -> None:
    """Torch's average truncates integer buffers (31 becomes 30) and blurs float ones."""
    net = quantize(SmallNet(), [2, 5, 8, 32], quantizer)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    net.calibrate([images()])
    for _ in range(5):
        average.update_parameters(net)
    saved = quantize(SmallNet(), [2, 5, 8, 32], quantizer).eval()
    saved.load_state_dict(average.module.state_dict())
    net.eval()
    x = images()
    for mode in net.modes:
        net.set_bits(mode)
        saved.set_bits(mode)
        torch.testing.assert_close(saved(x), net(x), rtol=1e-3, atol=1e-3)


def test_sync_batch_norm_does_not_leave_the_old_norm_at_work() -> None:
    net = quantize(SmallNet(), [2, 32], norms="shared_affine")
    net.set_bits(2)
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    norm = net.bn1
    assert type(norm.active) is nn.SyncBatchNorm
    assert norm.active is norm.norms["2"]
    assert norm.norms["2"].weight is norm.norms["32"].weight
    net.set_bits(32)
    assert norm.active is norm.norms["32"]


@pytest.mark.parametrize("norms", ["per_mode", "shared"])
def test_sync_batch_norm_and_back_keep_the_activation_in_timms_norm(norms: str) -> None:
    class Net(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.bn1 = BatchNormAct2d(6)  # its ReLU has a say: without it values below 0 would reach conv2
            nn.init.normal_(self.bn1.running_mean)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.bn2(self.conv2(self.bn1(self.conv1(x)))).mean((2, 3)))

    def outputs(net: nn.Module) -> Tensor:
        return torch.stack([net(x) for mode in (2, 32) if not net.set_bits(mode)])

    net, x = quantize(Net(), [2, 32], norms=norms).eval(), images()
    net.calibrate([x])
    before = outputs(net)
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in net.modules())
    assert torch.equal(outputs(net), before)
    net = TorchSyncBatchNorm().revert(net).eval()  # by Lightning at the end of fit
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in net.modules())
    assert torch.equal(outputs(net), before)


def test_only_the_asked_modes_statistics_are_reestimated() -> None:
    """``torch.optim.swa_utils.update_bn`` resets the norms of every mode."""
    net = quantize(SmallNet(), [2, 4, 32])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.reestimate_norms([images()], modes=[2])
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(".norms.2." in key for key in changed - {k for k in changed if "quantizer" in k})


def test_activations_of_other_modes_do_not_share_a_range() -> None:
    net = quantize(SmallNet(), [2, 4, 32])
    net.calibrate([images()])
    levels = net.conv2.input_quantizer.levels
    assert levels["2"].scale is not levels["4"].scale
    assert levels["2"].scale.item() > levels["4"].scale.item()


def test_a_tensor_of_more_than_2_to_the_24_values_is_sampled_within_its_ends() -> None:
    """A float32 ramp of indices rounds past the end."""
    x = torch.zeros(1).expand(2**25 + 4)
    assert sample(x).shape == (16384 + 2,)


def test_sample_holds_the_extremes() -> None:
    x = torch.randn(100_000)
    x[7], x[77_777] = 100, -100
    picked = sample(x)
    assert picked.max() == 100
    assert picked.min() == -100
    assert sample(torch.tensor([3.0])).unique().tolist() == [3.0]


def test_switching_is_no_part_of_the_state_dict() -> None:
    net = quantize(SmallNet(), [2, 4, 32])
    net.calibrate([images()])
    net.set_bits(2)
    low = {k: v.clone() for k, v in net.state_dict().items()}
    net.set_bits(32)
    high = net.state_dict()
    assert list(low) == list(high)
    assert all(torch.equal(low[k], high[k]) for k in low)


def test_autocast_gives_the_codes_of_its_own_input() -> None:
    net = quantize(SmallNet(), [4, 32])
    net.calibrate([images()])
    net.set_bits(4)
    seen: list[Tensor] = []
    net.conv2.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    with torch.autocast("cpu", torch.bfloat16):
        out = net(images())
        codes = net.conv2.input_quantizer.codes(seen[0])
    assert out.dtype == torch.bfloat16
    assert torch.equal(codes, net.conv2.input_quantizer.codes(seen[0].float()))
