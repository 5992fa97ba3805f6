"""Fake quantization at 4 bits alone: torch's operations, the same compiled, and loops of one pass, in turn.

python benchmarks/one_pass.py --threads 1

A large tensor of activations in channels_last, and a small one, where the call itself costs most. Median
milliseconds, forward and backward (to the input and the step size). The first call builds what it needs:
compiled code, or the library where the cache lacks it. The last two ways have a ReLU in front that nobody
else reads, apart or in the same pass. Freed memory stays with the process, as in training.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import inf
from unittest import mock

import torch
from steps import command_line, positive, save, table
from torch import Tensor
from torch.nn import functional as F

from quantizable.functional import fake_quantize
from quantizable.kernels import loops
from quantizable.quantizers.fused_relu import Readers, done_at_once, fused_relu
from quantizable.quantizers.level import Level
from quantizable.training.memory import keep_freed_memory

SHAPES = {"large": (128, 16, 32, 32), "small": (1, 8, 4, 4)}


def quantize(x: Tensor, scale: Tensor) -> Tensor:
    """Values of the codes -8 to 7."""
    return fake_quantize(x, scale, None, -8, 7)


LEVEL = Level(4, signed=False, scale=torch.tensor(0.3))


def behind_relu(x: Tensor, scale: Tensor) -> Tensor:
    """A ReLU, and the values of the codes 0 to 15 of what it gives."""
    return fake_quantize(F.relu(x), scale, None, 0, 15)


def with_relu(x: Tensor, scale: Tensor) -> Tensor:
    """The same, the ReLU and the codes in one pass."""
    relu = fused_relu(x, False, inf, LEVEL, Readers())
    return fake_quantize(relu, scale, None, 0, 15, done=done_at_once(relu, LEVEL))


def without_loops() -> AbstractContextManager[object]:
    """torch's operations in place of the loops."""
    return mock.patch.object(loops, "library", return_value=None)


WAYS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[], AbstractContextManager[object]]]] = {
    "torch's operations": (quantize, without_loops),
    "torch.compile(dynamic=True)": (torch.compile(quantize, dynamic=True), nullcontext),
    "loops": (quantize, nullcontext),
    "a ReLU, then loops": (behind_relu, nullcontext),
    "a ReLU and loops in one pass": (with_relu, nullcontext),
}


def timed(name: str, x: Tensor, grad: Tensor) -> tuple[float, float]:
    """Milliseconds of a forward and of a backward pass."""
    way, context = WAYS[name]
    x, scale = x.detach().requires_grad_(), torch.tensor(0.3, requires_grad=True)
    with context():
        started = time.perf_counter()
        out = way(x, scale)
        between = time.perf_counter()
        out.backward(grad)
        return 1000 * (between - started), 1000 * (time.perf_counter() - between)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=positive, default=30)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    rows = []
    for size, shape in SHAPES.items():
        x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        grad = torch.randn_like(x)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
        for _ in range(1 + args.repeats):
            for name, times in taken.items():
                times.append(timed(name, x, grad))
        rows += [
            {
                "way": name,
                "tensor": size,
                "first call, s": sum(times[0]) / 1000,
                "forward, ms": statistics.median(forward for forward, _ in times[1:]),
                "backward, ms": statistics.median(backward for _, backward in times[1:]),
            }
            for name, times in taken.items()
        ]
    save("one_pass", "cpu", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
