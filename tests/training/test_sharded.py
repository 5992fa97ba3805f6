"""Two processes share the parameters out (FSDP2): the modes compute the same, and the state holds all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import quantizable
from tests.two_processes import run_in_two


def shard_and_compare(rank: int, folder: str) -> None:
    """Outputs and state before and after sharding, in one of the two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    network = quantizable.quantize(model, bits=[2, 8, 32], first_last="mode").eval()
    images = torch.randn(4, 3, 8, 8)
    network.calibrate([images])
    for mode, norm in network.norms()["1"].norms.items():
        nn.init.constant_(norm.weight, 1 + int(mode) / 10)  # type: ignore[arg-type]
    whole = {key: value.clone() for key, value in network.state_dict().items()}
    outputs = {bits: at(network, bits, images) for bits in (2, 8, 32)}

    # FSDP takes no scalar parameters, and a step size for each layer is nothing to share out
    step_sizes = {p for quantizer in network.quantizers().values() for p in quantizer.parameters()}
    fully_shard(network, mesh=init_device_mesh("cpu", (2,)), ignored_params=step_sizes)
    for bits, output in outputs.items():
        torch.testing.assert_close(at(network, bits, images), output)
    state = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:  # the whole state is gathered there
        assert state.keys() == whole.keys()
        assert {f"model.1.norms.{mode}.weight" for mode in (2, 8, 32)} <= state.keys()
        for key, value in whole.items():
            assert torch.equal(state[key], value), key
    dist.destroy_process_group()


def at(network: quantizable.QuantizableNetwork, bits: int, images: Tensor) -> Tensor:
    """Logits at a mode."""
    network.set_bits(bits)
    with torch.no_grad():
        return network(images)


@pytest.mark.slow
def test_sharded_network_keeps_every_mode(tmp_path: Path) -> None:
    run_in_two(shard_and_compare, str(tmp_path))
