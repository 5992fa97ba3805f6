"""What a search may choose: for each free layer a width for the weights and one for the activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from quantizable.bits import FLOAT_BITS, BitMode
from quantizable.network import QuantizableNetwork
from quantizable.nn.layers import QuantLayer
from quantizable.search.costs import Cost
from quantizable.search.limits import ROUNDING, Budget
from quantizable.search.program import AssignmentProgram, Within

Genome = tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """All assignments that a search may try.

    A genome holds two decisions per free layer, weights first: indices into ``weights`` and ``activations``.

    Attributes:
        layers: free layers, in the order in which the network registers them.
        fixed: the modes of the layers that cannot be chosen (first and last).
        weights, activations: widths to choose from, from the lowest to the highest.
        norms: norms that come after a fixed layer, each with the free layer whose mode it shares, so that a
            uniform assignment is the same as the network's mode.
    """

    layers: tuple[str, ...]
    fixed: Mapping[str, BitMode]
    weights: tuple[int, ...]
    activations: tuple[int, ...]
    norms: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, network: QuantizableNetwork, weights: Iterable[int] = (), activations: Iterable[int] = ()
    ) -> Space:
        """The widths that the network's quantized modes use, in any combination.

        Args:
            network: the network.
            weights, activations: of these widths those to choose from; none: all. One fixes that side.

        Raises:
            ValueError: no layer can be chosen, there is only one width for both, or the network lacks one.
        """
        quantized = [mode for mode in network.modes if not mode.is_float]
        if not quantized:
            raise ValueError("the network has no quantized mode to choose from")
        layers = network.layers()
        fixed = {
            name: layer.resolve(quantized[-1])
            for name, layer in layers.items()
            if isinstance(layer, QuantLayer) and layer.fixed_bits is not None
        }
        free = tuple(name for name in layers if name not in fixed)
        weights = _chosen("weights", {mode.weight for mode in quantized}, weights)
        activations = _chosen("activations", {mode.activation for mode in quantized}, activations)
        if not free or len(weights) * len(activations) < 2:
            raise ValueError(
                "there is nothing to choose: a search needs a free layer and at least two widths"
            )
        return cls(free, fixed, weights, activations, _norms_of_fixed(network, free))

    @property
    def modes(self) -> list[BitMode]:
        """Every mode that a free layer may take."""
        return [BitMode(w, a) for w, a in product(self.weights, self.activations)]

    @property
    def widths(self) -> list[tuple[int, ...]]:
        """The widths of each decision."""
        return [self.weights, self.activations] * len(self.layers)

    @property
    def lowest(self) -> Genome:
        """Every decision at its lowest width."""
        return (0,) * (2 * len(self.layers))

    @property
    def highest(self) -> Genome:
        """Every decision at its highest width."""
        return (len(self.weights) - 1, len(self.activations) - 1) * len(self.layers)

    def uniform(self, mode: BitMode) -> Genome:
        """The genome of one mode for all free layers."""
        return (self.weights.index(mode.weight), self.activations.index(mode.activation)) * len(self.layers)

    def assignment(self, genome: Genome) -> dict[str, BitMode]:
        """The mode of every layer, and of norms that follow a fixed one, as ``set_bits`` takes it."""
        modes = self.layer_modes(genome)
        return modes | {norm: modes[layer] for norm, layer in self.norms.items()}

    def layer_modes(self, genome: Genome) -> dict[str, BitMode]:
        """The mode of every layer, fixed ones included."""
        pairs = zip(genome[::2], genome[1::2], strict=True)
        free = (BitMode(self.weights[w], self.activations[a]) for w, a in pairs)
        return {**self.fixed, **dict(zip(self.layers, free, strict=True))}

    def costs(self, cost: Cost) -> np.ndarray:
        """Of each free layer in each mode, ``[layers, modes]``."""
        return np.array([[cost.of(name, mode) for mode in self.modes] for name in self.layers])

    def fixed_cost(self, cost: Cost) -> float:
        """Of the layers that cannot be chosen."""
        return sum(cost.of(name, mode) for name, mode in self.fixed.items())

    def of_modes(self, chosen: Iterable[int]) -> Genome:
        """The genome that takes, layer by layer, these of ``modes``."""
        return tuple(k for index in chosen for k in divmod(int(index), len(self.activations)))

    def cheapest(self, budget: Budget) -> Genome:
        """The assignment that costs least. Measured latencies need not grow with the bits.

        Of several limits the sum of shares counts.
        """
        return self.of_modes(self._shares(budget).argmin(1))

    def most_uniform(self, budget: Budget) -> Genome:
        """The mode of most bits, equal for weights and activations, that fits; else what is cheapest.

        Where one side is held at one width, the other side counts alone.
        """
        free = len(self.weights) > 1 and len(self.activations) > 1
        equal = [self.uniform(mode) for mode in self.modes if not free or mode.weight == mode.activation]
        fitting = [genome for genome in equal if budget.holds(self.layer_modes(genome))]
        return fitting[-1] if fitting else self.within(budget)

    def check_budget(self, budget: Budget) -> None:
        """``ValueError``, with the smallest possible cost, if no assignment stays within the budget."""
        for limit in budget.limits:
            smallest = self.fixed_cost(limit.cost) + float(self.costs(limit.cost).min(1).sum())
            if not smallest <= limit.most * (1 + ROUNDING):  # nor NaN
                raise ValueError(
                    f"budget {limit.most:g} {limit.cost.unit} is too small: "
                    f"the smallest assignment needs {smallest:g}"
                )
        self.within(budget)

    def within(self, budget: Budget) -> Genome:
        """An assignment that keeps the limits, about the cheapest; ``ValueError`` if there is none."""
        genome = self.cheapest(budget)
        if budget.holds(self.layer_modes(genome)):
            return genome
        limits = [Within(self.costs(one.cost), one.most - self.fixed_cost(one.cost)) for one in budget.limits]
        chosen = AssignmentProgram(self._shares(budget), limits).solve()
        if chosen is None or not budget.holds(self.layer_modes(self.of_modes(chosen))):
            raise ValueError(f"no assignment keeps all limits at once ({budget}); raise one of them")
        return self.of_modes(chosen)

    def _shares(self, budget: Budget) -> np.ndarray:
        """What each mode of each layer takes of the limits, summed over these, ``[layers, modes]``."""
        return np.sum([np.vectorize(one.of)(self.costs(one.cost)) for one in budget.limits], axis=0)

    def lowered(self, genome: Genome, budget: Budget, order: Iterable[int]) -> Genome:
        """Lower decisions, one step each in the given order, round by round, until the budget holds.

        Where the lowest widths are not within it (latencies), the layers take their cheapest ones, in the
        same order.
        """
        lowered, order = list(genome), list(order)
        while not budget.holds(self.layer_modes(tuple(lowered))):
            before = list(lowered)
            for decision in order:
                if lowered[decision] > 0:
                    lowered[decision] -= 1
                    if budget.holds(self.layer_modes(tuple(lowered))):
                        return tuple(lowered)
            if lowered == before:
                return self._cheapened(tuple(lowered), budget, order)
        return tuple(lowered)

    def _cheapened(self, genome: Genome, budget: Budget, order: list[int]) -> Genome:
        cheapest = self.within(budget)
        for layer in dict.fromkeys(decision // 2 for decision in order):
            pair = slice(2 * layer, 2 * layer + 2)
            genome = (*genome[: pair.start], *cheapest[pair], *genome[pair.stop :])
            if budget.holds(self.layer_modes(genome)):
                return genome
        raise ValueError(f"the decisions {order} cannot be lowered to {budget}")


def _chosen(what: str, held: set[int], asked: Iterable[int]) -> tuple[int, ...]:
    """The widths to choose from, of those that the network holds."""
    known = held - {FLOAT_BITS} or {FLOAT_BITS}
    wanted = set(asked) or known
    if lacking := wanted - known:
        raise ValueError(
            f"no mode of the network has {what} of {', '.join(map(str, sorted(lacking)))} bits; "
            f"there are {', '.join(map(str, sorted(known)))}"
        )
    return tuple(sorted(wanted))


def _norms_of_fixed(network: QuantizableNetwork, free: tuple[str, ...]) -> dict[str, str]:
    """Norms that no free layer comes before since the last fixed one, with the free layer that comes next."""
    layers, norms = network.layers(), network.norms()
    order = [name for name, _ in network.model.named_modules() if name in layers or name in norms]
    shared = {}
    for i, name in enumerate(order):
        before = next((n for n in reversed(order[:i]) if n in layers), None)
        if name in norms and before not in free:
            after = (n for n in [*order[i:], *reversed(order[:i])] if n in free)
            shared[name] = next(after)
    return shared
