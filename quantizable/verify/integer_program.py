"""One question by the mixed-integer program: rounding relaxed, then whole numbers where it matters."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from quantizable.verify.bounds import DifferenceBounds
from quantizable.verify.box import Box
from quantizable.verify.curves import Curve
from quantizable.verify.graph import Graph
from quantizable.verify.influence import influences
from quantizable.verify.interval import Interval
from quantizable.verify.pooling import MaxPool2d
from quantizable.verify.replay import Replay, search
from quantizable.verify.stages import Activation

if TYPE_CHECKING:
    from quantizable.verify.milp import Neuron, PairProgram

Status = Literal["proved", "refuted", "unknown"]
MOST_ENTRIES = 2**26  # of one dense matrix of the program: 512 MiB
RELAXED = 0.1  # of the time, at most, with all rounding relaxed


def beyond_program(graph: Graph) -> bool:
    """Whether the program cannot encode the network (smooth functions, max pooling) or would not fit into
    memory."""
    stages = [node.stage for node in graph.nodes]
    sizes = [shape.numel() for shape in graph.shapes]
    # of each neuron and network at most an error, a value and a binary variable
    columns = sizes[0] + 6 * sum(
        n for n, s in zip(sizes[1:], stages, strict=True) if isinstance(s, Activation)
    )
    return columns * max(sizes) > MOST_ENTRIES or any(isinstance(s, Curve | MaxPool2d) for s in stages)


def by_program(
    first: Graph,
    second: Graph,
    box: Box,
    bounds: DifferenceBounds,
    weights: Tensor,
    target: float,
    deadline: float,
) -> tuple[Status, str, Replay | None]:
    """Can ``weights . (second - first)`` reach ``target``?"""
    influence = influence_of((first, bounds.first, weights), (second, bounds.second, weights))

    def look(start: Tensor) -> Replay | None:
        found = search(first, second, box, weights, start, target, steps=200)
        return found if found.value >= target else None

    def program(exact: Set[Neuron]) -> PairProgram:
        return pair_program()(first, second, box, bounds, exact, weights)

    return in_rounds(program, influence, target, look, deadline)


def influence_of(*networks: tuple[Graph, list[Interval], Tensor]) -> dict[tuple[int, int], Tensor]:
    """How much each neuron moves the outputs, ``(n,)``, by network and node.

    Args:
        networks: each with the bounds of its values and the weights of its outputs, ``(outputs,)``.
    """
    return {
        (which, node): size[0]
        for which, (graph, own, weights) in enumerate(networks)
        for node, size in influences(graph, own, weights).items()
    }


def pair_program() -> type[PairProgram]:
    """The class, which needs a solver; ``ModuleNotFoundError`` says how to install it, or to go without."""
    try:
        from quantizable.verify.milp import PairProgram
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the bounds leave this query open and the MILP needs highspy: "
            "pip install quantizable[verify], or decide by bounds alone (use_milp=False, "
            "--bounds-only)"
        ) from error
    return PairProgram


def in_rounds(
    program: Callable[[Set[Neuron]], PairProgram],
    influence: Mapping[tuple[int, int], Tensor],
    target: float,
    look: Callable[[Tensor], Replay | None],
    deadline: float,
) -> tuple[Status, str, Replay | None]:
    """Can the objective of a program reach ``target``?

    Relax all rounding first; then whole numbers for all neurons with few codes, and for those of the others
    that gain most by the relaxation, more each round.

    Args:
        program: the program with whole numbers for some neurons.
        influence: as of :meth:`~quantizable.verify.milp.PairProgram.cheating`.
        look: searches around the input of a solution, ``(1, *input_shape)``, for a counterexample.
        deadline: of ``time.perf_counter``.
    """
    exact: set[Neuron] = set()
    begun = time.perf_counter()
    while True:
        method = f"milp+{len(exact)}" if exact else "milp"
        left = deadline - time.perf_counter()
        if left <= 0:
            return "unknown", method, None
        asked = program(exact)
        answer, solution = asked.reach(target, left if exact else RELAXED * (deadline - begun))
        if answer == "infeasible":
            return "proved", method, None
        cheating = set(asked.few_codes)
        if solution is not None:
            found = look(asked.input_of(solution))
            if found is not None:
                return "refuted", method, found
            cheating |= asked.cheating(solution, influence, max(8, len(exact)))
        if not cheating or (exact and answer == "time limit"):
            return "unknown", method, None
        exact |= cheating
