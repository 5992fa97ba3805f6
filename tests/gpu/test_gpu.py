"""What a GPU must give: the codes of the CPU, and all the ways in which networks are run there.

``pytest -m gpu tests/gpu``; with ``QUANTIZABLE_TEST_DEVICE=cpu`` they are tried without a GPU.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quantizable
from quantizable.network import QuantizableNetwork
from quantizable.quantizers import QUANTIZERS
from tests.small_net import SIZE, SmallNet
from tests.tiny import REPOSITORY

pytestmark = pytest.mark.gpu
MODES = [2, 4, 8, 32]
each_mode = pytest.mark.parametrize("bits", MODES)


@pytest.fixture
def device() -> str:
    wanted = os.environ.get("QUANTIZABLE_TEST_DEVICE", "cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return wanted


@pytest.fixture
def images(device: str) -> Tensor:
    return torch.randn(8, *SIZE).to(device)


@pytest.fixture
def network(device: str, images: Tensor) -> QuantizableNetwork:
    found = quantizable.quantize(SmallNet(), bits=MODES).to(device)
    found.calibrate([images])
    return found


def logits(network: QuantizableNetwork, images: Tensor, bits: object) -> Tensor:
    network.eval().set_bits(bits)
    with torch.inference_mode():
        return network(images).float()


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_and_gradients_are_those_of_the_cpu(name: str, bits: int, device: str) -> None:
    recipe, x = QUANTIZERS[name], torch.randn(6, 5, 3, 3)
    axis = {"axis": 0} if recipe.per_channel else {"axis": None}
    for quantizer in (recipe.weight(x, [2, 4, 8], **axis), recipe.activation([2, 4, 8])):
        quantizer.train().set_bits(bits)
        quantizer(x)  # an activation quantizer finds its step size
        found = {}
        for where in ("cpu", device):
            quantizer.to(where)
            there = x.to(where).requires_grad_()
            quantizer(there).sin().sum().backward()
            assert there.grad is not None
            found[where] = quantizer.codes(there.detach()).cpu(), there.grad.cpu()
        (codes, gradient), (codes_there, gradient_there) = found["cpu"], found[device]
        # tanh and the mean of all weights differ in the last bit, which can move a value on a tie
        assert (codes != codes_there).float().mean() <= 0.01
        same = codes == codes_there
        torch.testing.assert_close(gradient[same], gradient_there[same], rtol=1e-3, atol=1e-4)


@each_mode
def test_a_network_answers_as_on_the_cpu(network: QuantizableNetwork, images: Tensor, bits: int) -> None:
    there = logits(network, images, bits).cpu()
    here = logits(network.cpu(), images.cpu(), bits)
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_in_every_mode(
    network: QuantizableNetwork, images: Tensor, device: str, dtype: torch.dtype
) -> None:
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16, init_scale=64)
    optimizer = torch.optim.SGD(network.train().parameters(), 1e-2)
    labels = torch.arange(len(images), device=device) % 5
    before = [p.detach().clone() for p in network.parameters()]
    for bits in MODES:
        network.set_bits(bits)
        with torch.autocast(device, dtype):
            loss = F.cross_entropy(network(images).float(), labels)
        assert loss.isfinite()
        scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(p.isfinite().all() for p in network.parameters())
    assert any(not a.equal(b) for a, b in zip(before, network.parameters(), strict=True))


@each_mode
def test_channels_last_changes_nothing(network: QuantizableNetwork, images: Tensor, bits: int) -> None:
    expected = logits(network, images, bits)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = logits(network, images.to(memory_format=torch.channels_last), bits)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_compiled_equals_eager(network: QuantizableNetwork, images: Tensor) -> None:
    expected = {bits: logits(network, images, bits) for bits in MODES}
    network.model.compile()
    for bits in MODES:
        torch.testing.assert_close(logits(network, images, bits), expected[bits], rtol=1e-3, atol=1e-3)


@each_mode
def test_a_cuda_graph_replays_its_mode(network: QuantizableNetwork, images: Tensor, bits: int) -> None:
    if not images.is_cuda:
        pytest.skip("CUDA graphs need a GPU")
    expected, given = logits(network, images, bits), images.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.inference_mode():
        network(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        answer = network(given)
    given.copy_(images.flip(0))
    graph.replay()
    torch.testing.assert_close(answer.flip(0), expected, rtol=1e-3, atol=1e-3)


@each_mode
def test_a_checkpoint_moves_between_devices(
    network: QuantizableNetwork, images: Tensor, bits: int, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    loaded = quantizable.quantize(SmallNet(), bits=MODES)
    loaded.load_state_dict(torch.load(tmp_path / "weights.pth", map_location="cpu", weights_only=True))
    assert all(not p.is_cuda for p in loaded.parameters())
    found = logits(loaded.to(images.device), images, bits)
    assert found.equal(logits(network, images, bits))


def test_an_optimizer_moves_with_its_network(network: QuantizableNetwork, images: Tensor) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    network.train().set_bits(4)
    network(images).square().mean().backward()
    optimizer.step()
    kept = torch.optim.AdamW(nn.ParameterList(network.cpu().parameters()), 1e-3)
    kept.load_state_dict(optimizer.state_dict())
    assert {v["exp_avg"].device.type for v in kept.state.values()} == {"cpu"}


@pytest.mark.parametrize("words", [(), ("trainer.compile=true",), ("trainer.strategy=ddp",)], ids=str)
def test_training_runs(device: str, words: tuple[str, ...], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "train.py",
        "data=fake",
        "data.size=64",
        "data.image_size=16",
        "model=resnet20",
    ]
    command += ["schedule.epochs=1", *words]
    command += [f"trainer={'cpu' if device == 'cpu' else 'gpu'}", f"output={tmp_path}", "run=gpu"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "gpu" / "results.json").exists()
