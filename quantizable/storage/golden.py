"""Golden samples: a few inputs and the answers of training, which travel with a deployed file.

Whoever runs the file asks the engine for the same answers. So no processor, engine version or damaged file
can be silently wrong. What rounding alone may change is measured at export and kept beside the answers.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantizable.network import Assignment, QuantizableNetwork
from quantizable.nn import QuantAttention, QuantLayer
from quantizable.storage.outputs import tensors_in

MIXED = "mixed"  # name of a mode per layer
COUNT = 8  # inputs
CELLS = 8  # a side of an input has so many cells of one colour, so that large images take few bytes too
UNIT = 2.0 / 127  # of a cell's value; images are normalized, so that most pixels lie in [-2, 2]
COLUMNS = 32  # outputs kept of each input, spread evenly over all
NOISE = 1e-6  # of what a quantizer reads, relative to its largest value: what float32 sums round off
DRAWS = 4
FLOOR = 1e-3  # difference that is always allowed: what float32 sums of another order can differ by


@dataclass(frozen=True)
class Golden:
    """Inputs and answers in plain types, as JSON holds them.

    Attributes:
        cells: int8 ``[COUNT, C, h, w]``, base64.
        size: channels, height, width of the inputs.
        answers: by mode name, float32 ``[COUNT, at most COLUMNS]``, base64.
        tolerances: by mode name, the largest :func:`difference` that rounding explains.
    """

    cells: str
    size: tuple[int, int, int]
    answers: dict[str, str]
    tolerances: dict[str, float]

    def plain(self) -> dict[str, Any]:
        """As a dictionary for JSON."""
        return asdict(self)

    @classmethod
    def read(cls, values: dict[str, Any] | None) -> Golden | None:
        """From a file's metadata; None where there are none. ``KeyError``, ``TypeError``: damaged."""
        return None if values is None else cls(**{**values, "size": tuple(values["size"])})

    def inputs(self) -> np.ndarray:
        """Float32 ``[COUNT, C, H, W]``, the same on every machine."""
        channels, height, width = self.size
        grid = (min(CELLS, height), min(CELLS, width))
        cells = np.frombuffer(base64.b64decode(self.cells), np.int8).reshape(-1, channels, *grid)
        for axis, side in ((2, height), (3, width)):
            times = -(-side // cells.shape[axis])
            cells = cells.repeat(times, axis).take(range(side), axis)
        return cells.astype(np.float32) * np.float32(UNIT)

    def answered_by(self, run: Callable[[np.ndarray], Any]) -> Golden:
        """The same inputs with the answers of ``run``, for a file that was not trained as it runs."""
        found = columns([np.asarray(part) for part in tensors_in(run(self.inputs()))])
        answer = base64.b64encode(found.tobytes()).decode()
        return Golden(self.cells, self.size, dict.fromkeys(self.answers, answer), self.tolerances)

    def check(self, mode: str, run: Callable[[np.ndarray], Any]) -> tuple[float, float]:
        """The difference between the answers of ``run`` and those of training, and what rounding explains.

        Args:
            mode: a name in ``answers``.
            run: from inputs to what the network returns, arrays in place of tensors.
        """
        expected = np.frombuffer(base64.b64decode(self.answers[mode]), np.float32).reshape(COUNT, -1)
        found = columns([np.asarray(part) for part in tensors_in(run(self.inputs()))])
        if found.shape != expected.shape:
            return float("inf"), self.tolerances[mode]
        return difference(found, expected), self.tolerances[mode]


def golden(network: QuantizableNetwork, modes: dict[str, Assignment], size: tuple[int, int, int]) -> Golden:
    """Samples of a network in some of its modes, computed by fake quantization in float32.

    Args:
        network: calibrated or trained.
        modes: what ``set_bits`` takes, by the name under which the answers are kept.
        size: channels, height, width of the inputs.
    """
    shape = (COUNT, size[0], min(CELLS, size[1]), min(CELLS, size[2]))
    cells = torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(0)).to(torch.int8)
    samples = Golden(base64.b64encode(cells.numpy().tobytes()).decode(), size, {}, {})
    inputs = torch.from_numpy(samples.inputs())
    for name, bits in modes.items():
        with network.at_bits(bits):
            exact = _answers(network, inputs)
            with rounding_noise(network.model):
                moved = [_answers(network, inputs) for _ in range(DRAWS)]
        samples.answers[name] = base64.b64encode(exact.tobytes()).decode()
        samples.tolerances[name] = FLOOR + 3 * max(difference(one, exact) for one in moved)
    return samples


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference of an input, relative to the largest answer; of all inputs the second smallest.

    A code that lies on a tie can go either way, and a deep network can amplify that for one input. A wrong
    kernel or function moves all of them.
    """
    scale = np.abs(expected).max() or 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        worst = np.abs(found.astype(np.float64) - expected).max(1) / scale
    return float(np.sort(np.nan_to_num(worst, nan=np.inf, posinf=np.inf))[1])


def columns(outputs: list[np.ndarray]) -> np.ndarray:
    """At most ``COLUMNS`` values of each input, spread evenly over all outputs, float32 ``[COUNT, ...]``."""
    rows = [part.reshape(COUNT, -1) for part in outputs if part.ndim and part.shape[0] == COUNT]
    flat = np.concatenate(rows, 1) if rows else np.zeros((COUNT, 0))
    chosen = np.unique(np.linspace(0, max(flat.shape[1] - 1, 0), COLUMNS).round().astype(int))
    return np.ascontiguousarray(flat[:, chosen[chosen < flat.shape[1]]], np.float32)


@torch.no_grad()
def _answers(network: QuantizableNetwork, inputs: Tensor) -> np.ndarray:
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        outputs = network(inputs.to(device))
    finally:
        network.train(was_training)
    return columns([part.float().cpu().numpy() for part in tensors_in(outputs)])


@contextmanager
def rounding_noise(model: nn.Module) -> Iterator[None]:
    """Every activation quantizer reads its input with a little noise, as if sums were rounded otherwise."""
    source = torch.Generator().manual_seed(0)

    def disturb(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        noise = torch.rand(args[0].shape, generator=source).to(args[0]) * 2 - 1
        return (args[0] + noise * (NOISE * args[0].abs().max()), *args[1:])

    quantizers: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, QuantLayer):
            quantizers.append(module.input_quantizer)
        elif isinstance(module, QuantAttention):
            quantizers += module.operands.values()
    handles = [quantizer.register_forward_pre_hook(disturb) for quantizer in quantizers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
