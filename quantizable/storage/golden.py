"""Golden samples: a few inputs and the answers of training, which travel with a deployed file.

Whoever runs the file asks the engine for the same answers. So no processor, engine version or damaged file
can be silently wrong. What rounding alone may change is measured at export, input by input, and kept beside
the answers; of many inputs those are taken whose answers it changes least.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from quantizable.bits import FLOAT_BITS
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.nn import QuantLayer
from quantizable.nn.kept_weights import KeptWeights, is_compiled
from quantizable.nn.passes import evaluating
from quantizable.storage.outputs import tensors_in
from quantizable.storage.preprocessing import BYTES_KEY, normalized_bytes
from quantizable.storage.rounding_noise import NOISE, NOISE_OF_FUNCTIONS, rounding_noise
from quantizable.storage.signature import (
    BYTES,
    FLOAT,
    KEY,
    Arrays,
    Input,
    Signature,
    as_inputs,
    batch_of,
    read_signature,
    signature_of,
    takes_one,
)

MIXED = "mixed"  # name of a mode per layer
COUNT = 8  # inputs of each mode
CANDIDATES = 48  # of which they are chosen
ALLOWED = 1  # input that may be off: a tie that no draw of noise turned can still turn in an engine
CELLS = (8, 2)  # a side has so many cells of one color, in turns: coarse inputs have fewer ties
SPAN = (-2.0, 2.0)  # of normalized images, where no layer says what its input spans
COLUMNS = 32  # outputs kept of each input, spread evenly over all
DRAWS = 6
APPROXIMATED = {  # functions that each engine computes in its own way
    "softmax", "log_softmax", "scaled_dot_product_attention", "multi_head_attention_forward",
    "layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize", "norm", "var", "var_mean", "std",
    "gelu", "silu", "silu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "elu", "elu_", "selu", "celu", "mish",
    "softplus", "exp", "erf", "log", "pow", "sqrt", "rsqrt", "sin", "cos",
}  # fmt: skip
LATER = ("named", "image_bytes")  # left out of a file where they say nothing: older files lack them
FLOOR = 1e-3  # difference that is always allowed: what float32 sums of another order can differ by


@dataclass(frozen=True)
class Golden:
    """Inputs and answers in plain types, as JSON holds them.

    Attributes:
        size: channels, height, width of the inputs, or the shape of inputs of another kind; empty where the
            network does not take one tensor.
        span: lowest and highest value of the inputs.
        inputs: by mode name, the numbers of ``COUNT`` inputs, as :func:`pattern` takes them.
        answers: by mode name, float32 ``[COUNT, at most COLUMNS]``, base64.
        tolerances: by mode name, for each input the largest :func:`deviations` that rounding explains.
        ids: how many ids (of words) there are where inputs are such; 0: inputs are numbers.
        named: the inputs of a network that does not take one tensor, as ``describe_inputs`` gives them.
        image_bytes: the file takes uint8 images and normalizes them itself.
    """

    size: tuple[int, ...]
    span: tuple[float, float]
    inputs: dict[str, list[int]]
    answers: dict[str, str]
    tolerances: dict[str, list[float]]
    ids: int = 0
    named: dict[str, dict[str, Any]] = field(default_factory=dict)
    image_bytes: bool = False

    def plain(self) -> dict[str, Any]:
        """As a dictionary for JSON."""
        return {key: value for key, value in asdict(self).items() if key not in LATER or value}

    @property
    def signature(self) -> Signature:
        """What the inputs are."""
        return read_signature(
            {"input_ids": self.ids, KEY: self.named, BYTES_KEY: self.image_bytes}, self.size
        )

    @classmethod
    def read(cls, values: dict[str, Any] | None) -> Golden | None:
        """From a file's metadata; None where there are none, or of another version's kind."""
        if values is None or {*values, *LATER, "ids"} != {one.name for one in fields(cls)}:
            return None
        return cls(**{**values, "size": tuple(values["size"]), "span": tuple(values["span"])})

    def images(self, mode: str) -> Arrays:
        """``COUNT`` inputs, float32 ``[COUNT, C, H, W]`` if they are images; the same on every machine."""
        return drawn(self.inputs[mode], self.signature, self.span)

    def answered_by(self, run: Callable[[Any], Any]) -> Golden:
        """The same inputs with the answers of ``run``, for a file that was not trained as it runs."""
        answers = {mode: _text(columns([*tensors_in(run(self.images(mode)))])) for mode in self.inputs}
        return replace(self, answers=answers)

    def check(self, mode: str, run: Callable[[Any], Any]) -> str | None:
        """None if ``run`` gives the answers of training but for rounding, else what is wrong with its own.

        Args:
            mode: a name in ``answers``.
            run: from inputs to what the network returns, arrays in place of tensors.
        """
        expected = np.frombuffer(base64.b64decode(self.answers[mode]), np.float32).reshape(COUNT, -1)
        found = columns([*tensors_in(run(self.images(mode)))])
        if found.shape != expected.shape:
            return "its outputs are of another shape"
        worst, explained = deviations(found, expected), np.array(self.tolerances[mode])
        wrong = worst > explained
        if wrong.sum() <= ALLOWED:
            return None
        at = int(np.argmax(worst - explained))
        return (
            f"the answers to {wrong.sum()} of {COUNT} samples differ beyond rounding, by up to "
            f"{100 * worst[at]:.2g} % of the largest where rounding explains {100 * explained[at]:.2g} %"
        )


def golden(
    network: QuantizableNetwork,
    modes: dict[str, Assignment],
    size: tuple[int, ...] | None = None,
    *,
    image_bytes: bool = False,
) -> Golden:
    """Samples of a network in some of its modes, computed by fake quantization in float32.

    Args:
        network: calibrated or trained.
        modes: what ``set_bits`` takes, by the name under which the answers are kept.
        size: channels, height, width of the inputs, or the shape of inputs of another kind; None: what the
            network says.
        image_bytes: for a file that normalizes uint8 images itself.

    Raises:
        ValueError: nothing says what the network takes.
    """
    signature = signature_of(network, size)
    with _Functions() as called:
        span = _span(network, next(iter(modes.values())), signature)
    if takes_one(signature):
        (one,) = signature.values()
        samples = Golden(one.size, span, {}, {}, {}, one.ids, image_bytes=image_bytes)
    else:
        samples = Golden((), span, {}, {}, {}, named=network.info[KEY])
    amount = NOISE_OF_FUNCTIONS if called.names & APPROXIMATED else NOISE
    for name, bits in modes.items():
        kept = KeptWeights(keeps=not is_compiled(network))
        with network.at_bits(bits), torch.no_grad(), evaluating(network), kept.used(network):
            chosen = _calmest(network, samples, amount)
            inputs = drawn(chosen, samples.signature, span)
            exact = _answers(network, inputs)
            with rounding_noise(network.model, amount):
                moved = [deviations(_answers(network, inputs), exact) for _ in range(DRAWS)]
        samples.inputs[name], samples.answers[name] = chosen, _text(exact)
        samples.tolerances[name] = [round(FLOOR + 3 * float(most), 6) for most in np.max(moved, 0)]
    return samples


def pattern(number: int, size: tuple[int, ...], name: str = "") -> np.ndarray:
    """Cells of random colors, uint8 of that size, made by SHAKE-256: every machine has the same.

    The last two axes are those of an image, whatever stands before them. Inputs of other names have others.
    """
    *rest, height, width = (1, 1, *size)
    channels = math.prod(rest)
    grid = [min(CELLS[number % len(CELLS)], side) for side in (height, width)]
    drawn_bytes = _random_bytes(number, name, channels * grid[0] * grid[1])
    cells = np.frombuffer(drawn_bytes, np.uint8).reshape(channels, *grid)
    for axis, side in ((1, height), (2, width)):
        cells = cells.repeat(-(-side // cells.shape[axis]), axis).take(range(side), axis)
    return cells.reshape(size)


def id_pattern(number: int, size: tuple[int, ...], ids: int, name: str = "") -> np.ndarray:
    """Random ids below ``ids``, int64 of that size, made as :func:`pattern` makes colors."""
    drawn_bytes = _random_bytes(number, name, 8 * math.prod(size))
    return (np.frombuffer(drawn_bytes, "<u8") % ids).astype(np.int64).reshape(size)


def _random_bytes(number: int, name: str, count: int) -> bytes:
    key = f"golden sample {number}" + (f" of {name}" if name else "")
    return hashlib.shake_256(key.encode()).digest(count)


def patterns(
    numbers: Sequence[int], size: tuple[int, ...], span: tuple[float, float], name: str = ""
) -> np.ndarray:
    """Float32 ``[N, *size]`` between the ends of ``span``, of :func:`pattern`."""
    low, step = np.float32(span[0]), np.float32((span[1] - span[0]) / 255)
    return low + step * np.stack([pattern(number, size, name) for number in numbers]).astype(np.float32)


def drawn(numbers: Sequence[int], signature: Signature, span: tuple[float, float]) -> Arrays:
    """A batch of inputs by their numbers: patterns between the ends of ``span``, random ids, and masks."""
    alone = takes_one(signature)

    def of_one(name: str, one: Input) -> np.ndarray:
        key = "" if alone else name
        if one.type == BYTES:
            return np.stack([pattern(number, one.size, key) for number in numbers])
        if one.type == FLOAT:
            return patterns(numbers, one.size, span, key)
        if one.is_mask and not alone:
            return np.stack([one.mask(_random_bytes(number, key, 1)[0] / 255) for number in numbers])
        return np.stack([id_pattern(number, one.size, one.ids, key) for number in numbers])

    return batch_of(signature, of_one)


def deviations(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Of each input the largest difference, relative to the largest of all answers, ``[N]``.

    Args:
        found, expected: ``[N, columns]``. What is not finite is infinitely far off.
    """
    scale = np.abs(expected).max(initial=0) or 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        worst = np.abs(found.astype(np.float64) - expected).max(1, initial=0) / scale
    return np.nan_to_num(worst, nan=np.inf, posinf=np.inf)


def columns(outputs: Sequence[Any], count: int = COUNT) -> np.ndarray:
    """At most ``COLUMNS`` values of each input, spread evenly over all outputs, float32 ``[N, ...]``.

    Args:
        outputs: arrays; those whose first axis is not that of the inputs are left out.
        count: how many inputs there were, N.
    """
    parts = [np.asarray(part) for part in outputs]
    rows = [part.reshape(count, -1) for part in parts if part.ndim and len(part) == count]
    flat = np.concatenate(rows, 1) if rows else np.zeros((count, 0))
    chosen = np.unique(np.linspace(0, max(flat.shape[1] - 1, 0), COLUMNS).round().astype(int))
    return np.ascontiguousarray(flat[:, chosen[chosen < flat.shape[1]]], np.float32)


def _text(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _calmest(network: QuantizableNetwork, samples: Golden, amount: float) -> list[int]:
    """The numbers of the ``COUNT`` candidates whose answers a draw of rounding noise changes least."""
    moved: list[float] = []
    for start in range(0, CANDIDATES, COUNT):  # in parts, as images may be large
        some = drawn(range(start, start + COUNT), samples.signature, samples.span)
        exact = _answers(network, some)
        with rounding_noise(network.model, amount, seed=1):
            moved += deviations(_answers(network, some), exact).tolist()
    return sorted(np.argsort(moved, kind="stable")[:COUNT].tolist())


@torch.no_grad()
def _answers(network: QuantizableNetwork, arrays: Arrays) -> np.ndarray:
    if isinstance(arrays, np.ndarray) and arrays.dtype == np.uint8:
        arrays = normalized_bytes(arrays, network)
    inputs = as_inputs(arrays)
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        outputs = inputs.to(device)(network)
    finally:
        network.train(was_training)
    return columns([part.float().cpu().numpy() for part in tensors_in(outputs)], len(inputs))


def _span(network: QuantizableNetwork, bits: Assignment, signature: Signature) -> tuple[float, float]:
    """The values that the first layer's input grid reaches: what the network was calibrated for."""
    called: list[tuple[QuantLayer, torch.Size]] = []
    sizes = [one.size for one in signature.values() if one.type == FLOAT]
    layers = [layer for layer in network.model.modules() if isinstance(layer, QuantLayer)]
    handles = [
        layer.register_forward_pre_hook(
            lambda layer, args: called.append((layer, args[0].shape[1:] if args else torch.Size()))
        )
        for layer in layers
    ]
    try:
        with network.at_bits(bits):
            _answers(network, batch_of(signature, lambda _, one: one.blank(1)))
            reader = next((layer.input_quantizer for layer, shape in called[:1] if shape in sizes), None)
            if reader is None or reader.bits == FLOAT_BITS:
                return SPAN
            grid = reader.qparams(torch.zeros(1))
    finally:
        for handle in handles:
            handle.remove()
    zero, scale = float(grid.zero_point.flatten()[0]), float(grid.scale.flatten()[0])
    return (grid.quant_min - zero) * scale, (grid.quant_max - zero) * scale


class _Functions(TorchFunctionMode):
    """Notes the names of torch's functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))
