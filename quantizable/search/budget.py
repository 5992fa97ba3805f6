"""The budgets that a command line asks for, as limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from quantizable.bits import BitMode
from quantizable.search.costs import Cost
from quantizable.search.limits import Budget, Limit
from quantizable.search.space import Space


def parse_budget(text: str, space: Space, cost: Cost) -> Budget:
    """One limit: ``"4bit"`` (what a uniform 4-bit assignment costs, held or not) or a number of the unit.

    Raises:
        ValueError: another form, a width that a table of latencies lacks, or a budget below the smallest
            assignment.
    """
    return make_budget({cost.name: text}, space, lambda _: cost)


def make_budget(named: Mapping[str, str], space: Space, make_cost: Callable[[str], Cost]) -> Budget:
    """Several limits at once: ``{"bytes": "4bit", "bops": "3.5bit"}``.

    Args:
        named: limits by the name of the cost.
        space: what can be chosen.
        make_cost: the cost of a name.

    Raises:
        ValueError: as :func:`parse_budget`, or no assignment keeps all limits.
    """
    limits = []
    for name, text in named.items():
        for single in _mean_of(space) if name == "mean_bits" else (name,):
            cost = make_cost(single)
            limits.append(Limit(cost, _most(text, space, cost)))
    words = [text.strip() for text in named.values()]
    # two costs may have the same limit in figures; operations are meant where nothing is said
    text = words[0] if [*named] == ["bops"] else " ".join(map("{}={}".format, named, words))
    budget = Budget(tuple(limits), text)
    space.check_budget(budget)
    return budget


def _mean_of(space: Space) -> list[str]:
    """What ``mean_bits`` limits: of weights and activations those that can be chosen."""
    sides = {"weight_bits": space.weights, "activation_bits": space.activations}
    return [name for name, widths in sides.items() if len(widths) > 1]


def _most(text: str, space: Space, cost: Cost) -> float:
    uniform = text.strip().endswith("bit")
    try:
        most = float(text.strip().removesuffix("bit"))
        if most in (float("inf"), float("-inf")):
            raise ValueError("it has no end")
        if uniform and not 1 <= most <= 16:
            raise ValueError("uniform bits are 1 to 16")
    except ValueError as error:
        raise ValueError(f"budget {text!r} is not understood: {error}; write 4bit or a number") from None
    if uniform:
        low, above = int(most), most % 1
        most = _uniform_cost(space, cost, low)
        if above:  # 3.5bit lies on the line between the uniform 3 and 4 bits
            most += above * (_uniform_cost(space, cost, low + 1) - most)
    return most


def _uniform_cost(space: Space, cost: Cost, bits: int) -> float:
    """Of ``bits`` wherever there is a choice; a side that is held at one width keeps it."""
    weight, activation = (
        bits if len(widths) > 1 else widths[0] for widths in (space.weights, space.activations)
    )
    return cost.total({**space.fixed, **dict.fromkeys(space.layers, BitMode(weight, activation))})
