"""Fixed-point networks: the quantization scheme of QEBVerif (Zhang et al., CAV 2023).

A configuration is <Q bits, F fractional bits>; a value is ``q / 2**F``. Weights are signed,
hidden activations unsigned, rounded as ``floor(s + 1/2)`` and clamped; the output layer is
exact. The float network sees ``p / pixel_max``, the fixed-point one ``p / 2**input_bits``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from quantizable.verify.graph import Graph, chain
from quantizable.verify.stages import Activation, Linear, Scale, Stage


@dataclass(frozen=True)
class FixedPoint:
    """Number formats of a fixed-point network.

    Attributes:
        bits: Q, the bits of weights and of hidden activations, 2 to 16.
        weight_fraction, bias_fraction, activation_fraction: F of each; the benchmark's
            Q - 1, Q - 2 and Q - 2 where not given.
        input_bits: bits (and F) of the input.
        snap: see :class:`~quantizable.verify.stages.Activation`.
    """

    bits: int
    weight_fraction: int | None = None
    bias_fraction: int | None = None
    activation_fraction: int | None = None
    input_bits: int = 8
    snap: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ValueError(f"fixed-point bits {self.bits} are out of range; allowed are 2 to 16")
        for name, default in (
            ("weight_fraction", self.bits - 1),
            ("bias_fraction", self.bits - 2),
            ("activation_fraction", self.bits - 2),
        ):
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)

    def weight(self, x: Tensor, fraction: int) -> Tensor:
        """Signed Q bits with ``fraction`` fractional ones: clipped, ties away from zero."""
        limit = 2 ** (self.bits - 1)
        code = (x * 2.0**fraction).clamp(-limit, limit - 1)
        return torch.trunc(code + 0.5 * code.sign()) / 2.0**fraction

    @property
    def activation(self) -> Activation:
        """Round half up to ``2**-F``, clamp to ``[0, (2**Q - 1) / 2**F]``."""
        assert self.activation_fraction is not None
        step = 2.0**-self.activation_fraction
        high = (2**self.bits - 1) * step
        return Activation(step=step, low=0.0, high=high, half_even=False, snap=self.snap)


def float_network(weights: Sequence[Tensor], biases: Sequence[Tensor], pixel_max: float = 255.0) -> Graph:
    """The float ReLU network on whole-number pixels ``0..pixel_max``."""
    relu = Activation(low=0.0)
    return _network(weights, biases, 1 / pixel_max, relu)


def fixed_point_network(weights: Sequence[Tensor], biases: Sequence[Tensor], scheme: FixedPoint) -> Graph:
    """The fixed-point counterpart of :func:`float_network`, on the same pixels."""
    assert scheme.weight_fraction is not None
    assert scheme.bias_fraction is not None
    return _network(
        [scheme.weight(w.double(), scheme.weight_fraction) for w in weights],
        [scheme.weight(b.double(), scheme.bias_fraction) for b in biases],
        2.0**-scheme.input_bits,
        scheme.activation,
        codes=True,
    )


def load_npz(path: str | Path) -> tuple[list[Tensor], list[Tensor]]:
    """Weights ``W0, W1, ...`` (out, in) and biases ``b0, b1, ...`` of a fully connected network.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no .npz of numbers, arrays are missing, or their shapes do not form a chain.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no network file {path}; give an .npz with W0, b0, W1, b1, ...")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            contents = dict(arrays)
    except (ValueError, TypeError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is no .npz of numbers ({error})") from error
    return layers_of(contents, str(path))


def layers_of(arrays: Mapping[str, np.ndarray], name: str) -> tuple[list[Tensor], list[Tensor]]:
    """Split named arrays into weights and biases, checking that the shapes form a chain."""
    depth = sum(1 for key in arrays if key.startswith("W"))
    wanted = [f"{kind}{i}" for i in range(depth) for kind in "Wb"]
    if depth == 0 or set(wanted) != set(arrays):
        raise ValueError(f"{name} holds {sorted(arrays)}; expected W0, b0, W1, b1, ... (weights (out, in))")
    weights = [torch.from_numpy(np.asarray(arrays[f"W{i}"])).double() for i in range(depth)]
    biases = [torch.from_numpy(np.asarray(arrays[f"b{i}"])).double() for i in range(depth)]
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        fits = i == 0 or w.shape[1:] == weights[i - 1].shape[:1]
        if w.ndim != 2 or b.shape != w.shape[:1] or not fits:
            raise ValueError(
                f"{name}: W{i} {tuple(w.shape)} and b{i} {tuple(b.shape)} do not fit; W is "
                "(out, in), b (out,), and each layer's inputs are the outputs of the one before"
            )
    return weights, biases


def _network(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    unit: float,
    activation: Activation,
    codes: bool = False,
) -> Graph:
    features = weights[0].shape[1]
    scale = torch.tensor(unit, dtype=torch.float64)
    stages: list[Stage] = [Scale(scale, torch.zeros((), dtype=torch.float64))]
    for weight, bias in zip(weights, biases, strict=True):
        stages += [Linear(weight.double(), bias.double(), codes=codes), activation]
    return chain(stages[:-1], [features])
