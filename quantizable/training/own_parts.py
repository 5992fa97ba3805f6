"""What some modes of a network have of their own and can learn, and steps that suit the size of each part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.bits import BitMode
from quantizable.network import QuantizableNetwork
from quantizable.nn.layers import QuantLayer
from quantizable.nn.norm_statistics import active_batch_norms
from quantizable.quantizers.lsq import LSQWeight

SMALLEST = 1e-6  # of a unit
WIDE = 8  # bits from which on single roundings are not learned: they change next to nothing

FULL_RATE = 4  # bits from which on rates halve with each bit: what is to be corrected does so, too

STEP, OFFSET, CORRECTION, AFFINE = "step", "offset", "correction", "affine"  # kinds of parts
# in units a step: of the step size for what belongs to a quantizer, of the norm's weight (that is, of the
# spread of its outputs) for a norm
RATES = {STEP: 2e-3, OFFSET: 2e-3, CORRECTION: 6e-3, AFFINE: 2e-3}
LIMITS = {STEP: (-0.9,), CORRECTION: (-1.0, 1.0)}


@dataclass(frozen=True)
class Part:
    """A parameter that is learned.

    Attributes:
        value: the parameter.
        unit: positive, broadcastable to it: the distance by which it is said how far it moves.
        rate: first learning rate, in units a step.
        low, high: how far it may move, in units.
    """

    value: nn.Parameter
    unit: Tensor
    rate: float
    low: float = -float("inf")
    high: float = float("inf")


class OwnState:
    """What a mode has in a network and no other mode: parameters that can be learned, statistics of norms.

    Args:
        network: whose modes.
        mode: which.
        parts: those of the mode, of :func:`own_parts`.

    Attributes:
        has_all_norms: the statistics of every batch norm that the mode runs are its own; it runs one.
    """

    def __init__(self, network: QuantizableNetwork, mode: BitMode, parts: dict[str, Part]) -> None:
        with network.at_bits(mode):
            copies = [norm.active for norm in network.norms().values()]
            ran = {id(norm) for norm in active_batch_norms(network)}
        self.has_all_norms = bool(ran) and ran <= {id(norm) for norm in copies}
        buffers = [buffer for norm in copies for buffer in norm.buffers()]
        self.tensors = [*(part.value for part in parts.values()), *buffers]

    def copies(self) -> list[Tensor]:
        """What they are now."""
        return [tensor.detach().clone() for tensor in self.tensors]

    @torch.no_grad()
    def put(self, values: Iterable[Tensor]) -> None:
        """Put copies back."""
        for tensor, value in zip(self.tensors, values, strict=True):
            tensor.copy_(value)


class OwnSteps:
    """Adam on parameters of different sizes: ``value = start + unit * u``, where ``u`` is learned from 0.

    Args:
        parts: by name.
        count: how many steps there will be; the rates fall linearly to zero.
    """

    def __init__(self, parts: dict[str, Part], count: int) -> None:
        self.parts, self.count, self.taken = parts, count, 0
        self.starts = {name: part.value.detach().clone() for name, part in parts.items()}
        self.moves = {name: torch.zeros_like(start) for name, start in self.starts.items()}
        self.optimizer = torch.optim.Adam([{"params": [move]} for move in self.moves.values()])

    def step(self) -> None:
        """Move the parameters by their gradients, which are used up."""
        for group, (name, part) in zip(self.optimizer.param_groups, self.parts.items(), strict=True):
            group["lr"] = part.rate * (1 - self.taken / self.count)
            grad, part.value.grad = part.value.grad, None
            self.moves[name].grad = None if grad is None else grad * part.unit
        self.optimizer.step()
        self.taken += 1
        self._write()

    @torch.no_grad()
    def _write(self) -> None:
        for name, part in self.parts.items():
            moved = self.moves[name].clamp_(part.low, part.high)
            part.value.copy_(self.starts[name] + part.unit * moved)

    def undo(self, names: Iterable[str] | None = None) -> None:
        """Give these parameters, by default all, the values that they began with."""
        for name in self.moves if names is None else names:
            self.moves[name].zero_()
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on from here: plain values and tensors."""
        return {"moves": self.moves, "optimizer": self.optimizer.state_dict(), "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; the parameters are written, too."""
        for name, move in self.moves.items():
            move.copy_(state["moves"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.taken = state["taken"]
        self._write()


def own_parts(network: QuantizableNetwork, modes: Iterable[BitMode]) -> dict[BitMode, dict[str, Part]]:
    """What each of these modes has and no other: step sizes, norms' weights and biases, corrections.

    An assignment that the network holds counts as another mode: what its layers use stays as it is.

    Levels of linear layers and convolutions get a correction, of zeros, where they have none, their width is
    below :data:`WIDE`, and no other mode uses them.

    Args:
        network: in any mode, which it is in at the end, too.
        modes: whose parts.
    """
    named = network.assignments
    for name, layer in network.layers().items():
        held = [*network.modes, *(own.layer_mode(name) for own in named.values())]
        _add_corrections(layer, modes, held)
    runs: list[BitMode | str] = [*network.modes, *named]
    used = {run: dict(_parts_of(network, run)) for run in runs}
    users = Counter(id(part.value) for parts in used.values() for part in parts.values())
    return {
        mode: {name: part for name, part in used[mode].items() if users[id(part.value)] == 1}
        for mode in modes
    }


def drop_empty_corrections(network: QuantizableNetwork) -> None:
    """Leave out corrections that correct nothing."""
    for quantizer in network.quantizers().values():
        for level in quantizer.levels.values():
            if level.correction is not None and not level.correction.any():
                level.correction = None


def _add_corrections(layer: nn.Module, modes: Iterable[BitMode], held: Iterable[BitMode]) -> None:
    quantizer = getattr(layer, "weight_quantizer", None)
    if not isinstance(layer, QuantLayer) or not isinstance(quantizer, LSQWeight):
        return
    users = Counter(layer.resolve(mode).weight for mode in held)
    for bits in {layer.resolve(mode).weight for mode in modes}:
        if bits < WIDE and users[bits] == 1 and quantizer.level(bits).correction is None:
            quantizer.level(bits).correction = nn.Parameter(torch.zeros_like(layer.float_weight()))


def _parts_of(network: QuantizableNetwork, mode: BitMode | str) -> Iterator[tuple[str, Part]]:
    """All parameters of quantizers and of norms that a mode uses, by name."""
    with network.at_bits(mode):
        for name, quantizer in network.quantizers().items():
            level = quantizer.active
            if level is None:
                continue
            held = dict(quantizer.named_parameters(recurse=False)) | dict(level.named_parameters())
            for key, value in held.items():
                step = held["scale" if "scale" in held else "alpha"]
                kind = key if key in (CORRECTION, OFFSET) else STEP
                yield f"{name}.{level.bits}.{key}", _part(kind, value, step, level.bits)
        for name, norm in network.norms().items():
            size = getattr(norm.active, "weight", None)
            for key, value in norm.active.named_parameters(recurse=False):
                scale = torch.ones_like(value) if size is None else size
                bits = min(mode.weight, mode.activation) if isinstance(mode, BitMode) else WIDE
                yield f"{name}.{mode}.{key}", _part(AFFINE, value, scale, bits)


def _part(kind: str, value: nn.Parameter, unit: Tensor, bits: int) -> Part:
    rate = RATES[kind] * min(1.0, 2.0 ** (FULL_RATE - bits))
    return Part(value, unit.detach().abs().clamp_min(SMALLEST), rate, *LIMITS.get(kind, ()))
