"""Where the time of a training step goes.

    python benchmarks/profile_step.py --network resnet20
    python benchmarks/profile_step.py --network resnet18 --dtype bf16 --modes 4

Eager only: a compiled graph fuses the parts that are told apart here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from steps import (
    CASES,
    Setting,
    command_line,
    make_network,
    mode,
    multi_mode_step,
    positive,
    quantizable_network,
    save,
    table,
)
from steps import bare_step as make_bare_step
from torch.profiler import ProfilerActivity, profile

from quantizable.training.memory import keep_freed_memory
from quantizable.training.schemes import SCHEMES

# total time of these, children included; one inside another (autocast calls conv2d in conv2d) counts once
PARTS = {
    "matrix products": (
        "aten::conv2d", "aten::convolution_backward", "aten::linear", "aten::addmm", "AddmmBackward0",
        "MmBackward0", "aten::scaled_dot_product_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "norms": (
        "aten::batch_norm", "aten::native_batch_norm_backward", "aten::layer_norm",
        "aten::native_layer_norm_backward",
    ),
    "activation functions": (
        "aten::relu", "aten::relu_", "aten::threshold_backward", "aten::relu6", "aten::hardtanh",
        "aten::hardtanh_", "HardtanhBackward0", "aten::gelu", "aten::gelu_backward",
    ),
    "fake quantization": (
        "_FakeQuantize", "_FakeQuantizeBackward", "_WeightInProduct", "_WeightInProductBackward",
    ),
    "optimizer": ("Optimizer.step#SGD.step", "Optimizer.zero_grad#SGD.zero_grad"),
}  # fmt: skip


def milliseconds(step: Any) -> dict[str, float]:
    """Processor time of one step by part; ``rest`` is the sum of everything else."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    events = profiler.events()
    whole = sum(event.self_cpu_time_total for event in events) / 1e3
    part_of = {name: part for part, names in PARTS.items() for name in names}
    parts = dict.fromkeys(PARTS, 0.0)
    for event in events:
        if event.key in part_of and not any(outer.key in part_of for outer in around(event)):
            parts[part_of[event.key]] += event.cpu_time_total / 1e3
    return parts | {"rest": whole - sum(parts.values()), "whole step": whole}


def around(event: Any) -> Iterator[Any]:
    """The events that an event is part of, the nearest first."""
    while (event := event.cpu_parent) is not None:
        yield event


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--network", default="resnet20", choices=list(CASES))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--layout", default="channels_last", choices=["nchw", "channels_last"])
    parser.add_argument("--modes", nargs="+", type=mode, default=["2", "8"])
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument(
        "--out", help="name of the JSON file in benchmarks/results; profile_NETWORK by default"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    setting, case = Setting("cpu", args.dtype, args.layout), CASES[args.network]
    bare = milliseconds(make_bare_step(make_network(case, setting), setting, case, len(args.modes)))
    network = quantizable_network(case, setting, args.modes)
    ours = milliseconds(multi_mode_step(network, setting, case, SCHEMES["quantizable"]))
    rows = [
        {
            "part": part,
            "bare, ms": bare[part],
            "ours, ms": ours[part],
            "added, % of bare": 100 * (ours[part] - bare[part]) / bare["whole step"],
        }
        for part in ours
    ]
    save(args.out or f"profile_{args.network}", "cpu", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
