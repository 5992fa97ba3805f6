"""Where the time of a training step goes.

    python benchmarks/profile_step.py --network resnet20
    python benchmarks/profile_step.py --network resnet18 --dtype bf16 --modes 4

Eager only: a compiled graph fuses the parts that are told apart here. The last column says, for each run,
which share of our step a part takes. That of the weights' fake quantization is all that keeping quantized
weights between batches could save; that of activation functions all that a quantizer with ReLU in it could.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from statistics import median
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

WEIGHTS = "fake quantization of weights"
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
        "_FusedReLU", "_FusedReLUBackward",
    ),
    WEIGHTS: (),  # of the part above, what runs on a weight
    "optimizer": ("Optimizer.step#SGD.step", "Optimizer.zero_grad#SGD.zero_grad"),
}  # fmt: skip


def milliseconds(step: Any, weights: Collection[tuple[int, ...]] = ()) -> dict[str, float]:
    """Time of one step by part, ``weights`` told apart by their shapes; ``rest`` is all else."""
    step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        step()
    events = profiler.events()
    whole = sum(event.self_cpu_time_total for event in events) / 1e3
    part_of = {name: part for part, names in PARTS.items() for name in names}
    parts = dict.fromkeys(PARTS, 0.0)
    for event in events:
        if event.key in part_of and not any(outer.key in part_of for outer in around(event)):
            part = part_of[event.key]
            if part == "fake quantization" and tuple(next(iter(event.input_shapes), ())) in weights:
                part = WEIGHTS
            parts[part] += event.cpu_time_total / 1e3
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
    parser.add_argument("--runs", type=positive, default=1)
    parser.add_argument(
        "--out", help="name of the JSON file in benchmarks/results; profile_NETWORK by default"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    setting, case = Setting("cpu", args.dtype, args.layout), CASES[args.network]
    bare_step = make_bare_step(make_network(case, setting), setting, case, len(args.modes))
    network = quantizable_network(case, setting, args.modes)
    weights = {tuple(layer.weight.shape) for layer in network.layers().values()}
    step = multi_mode_step(network, setting, case, SCHEMES["quantizable"])
    runs = [(milliseconds(bare_step), milliseconds(step, weights)) for _ in range(args.runs)]
    rows = []
    for part in runs[0][1]:
        bare, ours = (median(run[side][part] for run in runs) for side in (0, 1))
        added = 100 * (ours - bare) / median(run[0]["whole step"] for run in runs)
        shares = [100 * run[part] / run["whole step"] for _, run in runs]
        rows.append(
            {"part": part, "bare, ms": bare, "ours, ms": ours, "added, % of bare": added}
            | {"share of ours, %": ", ".join(f"{share:.1f}" for share in shares)}
        )
    save(args.out or f"profile_{args.network}", "cpu", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
