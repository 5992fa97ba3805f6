"""What a search may choose: for each free layer a width for the weights and one for the activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product

from quantizable.bits import FLOAT_BITS, BitMode
from quantizable.network import QuantizableNetwork
from quantizable.nn.layers import QuantLayer
from quantizable.search.costs import Cost

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
    def of(cls, network: QuantizableNetwork) -> Space:
        """The widths that the network's quantized modes use, in any combination.

        Raises:
            ValueError: no layer can be chosen, or there is only one width for both.
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
        weights = tuple(sorted({mode.weight for mode in quantized} - {FLOAT_BITS})) or (FLOAT_BITS,)
        activations = tuple(sorted({mode.activation for mode in quantized} - {FLOAT_BITS})) or (FLOAT_BITS,)
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

    def cheapest(self, cost: Cost) -> Genome:
        """The assignment that costs least. Measured latencies need not grow with the bits."""
        pairs = list(product(range(len(self.weights)), range(len(self.activations))))

        def of(layer: str, pair: tuple[int, int]) -> float:
            return cost.of(layer, BitMode(self.weights[pair[0]], self.activations[pair[1]]))

        return sum((min(pairs, key=partial(of, layer)) for layer in self.layers), ())

    def most_uniform(self, cost: Cost, budget: float) -> Genome:
        """The mode of most bits, equal for weights and activations, that fits; else what is cheapest."""
        equal = [self.uniform(mode) for mode in self.modes if mode.weight == mode.activation]
        fitting = [genome for genome in equal if cost.total(self.layer_modes(genome)) <= budget]
        return fitting[-1] if fitting else self.cheapest(cost)

    def check_budget(self, cost: Cost, budget: float) -> None:
        """``ValueError``, with the smallest possible cost, if no assignment stays within the budget."""
        smallest = cost.total(self.layer_modes(self.cheapest(cost)))
        if not budget >= smallest:  # nor NaN
            raise ValueError(
                f"budget {budget:g} {cost.unit} is too small: the smallest assignment needs {smallest:g}"
            )

    def lowered(self, genome: Genome, cost: Cost, budget: float, order: Iterable[int]) -> Genome:
        """Lower decisions, one step each in the given order, round by round, until the budget holds.

        Where the lowest widths are not within it (latencies), the layers take their cheapest ones, in the
        same order.
        """
        lowered, order = list(genome), list(order)
        while cost.total(self.layer_modes(tuple(lowered))) > budget:
            before = list(lowered)
            for decision in order:
                if lowered[decision] > 0:
                    lowered[decision] -= 1
                    if cost.total(self.layer_modes(tuple(lowered))) <= budget:
                        return tuple(lowered)
            if lowered == before:
                return self._cheapened(tuple(lowered), cost, budget, order)
        return tuple(lowered)

    def _cheapened(self, genome: Genome, cost: Cost, budget: float, order: list[int]) -> Genome:
        cheapest = self.cheapest(cost)
        for layer in dict.fromkeys(decision // 2 for decision in order):
            pair = slice(2 * layer, 2 * layer + 2)
            genome = (*genome[: pair.start], *cheapest[pair], *genome[pair.stop :])
            if cost.total(self.layer_modes(genome)) <= budget:
                return genome
        raise ValueError(f"the decisions {order} cannot be lowered to {budget:g} {cost.unit}")


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


def parse_budget(text: str, space: Space, cost: Cost) -> float:
    """``"4bit"`` (what a uniform 4-bit assignment costs, held or not) or a number in the cost's unit.

    Raises:
        ValueError: another form, a width that a table of latencies lacks, or a budget below the smallest
            assignment.
    """
    uniform = text.strip().endswith("bit")
    try:
        budget = float(text.strip().removesuffix("bit"))
        if budget in (float("inf"), float("-inf")):
            raise ValueError("it has no end")
        if uniform and not 1 <= budget <= 16:
            raise ValueError("uniform bits are 1 to 16")
    except ValueError as error:
        raise ValueError(f"budget {text!r} is not understood: {error}; write 4bit or a number") from None
    if uniform:
        low, above = int(budget), budget % 1
        budget = _uniform_cost(space, cost, low)
        if above:  # 3.5bit lies on the line between the uniform 3 and 4 bits
            budget += above * (_uniform_cost(space, cost, low + 1) - budget)
    space.check_budget(cost, budget)
    return budget


def _uniform_cost(space: Space, cost: Cost, bits: int) -> float:
    return cost.total({**space.fixed, **dict.fromkeys(space.layers, BitMode(bits, bits))})
