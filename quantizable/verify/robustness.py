"""Can the class that a quantized network predicts change within a box?

The margins ``y_label - y_j`` are one more linear layer. Asking whether one of them can reach 0 is
the same question as for differences, asked against a network that is 0 everywhere.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from quantizable.verify.bounds import difference_bounds
from quantizable.verify.box import Box
from quantizable.verify.decide import Question, Verdict, settle
from quantizable.verify.execution import Execution
from quantizable.verify.graph import AFFINE, Graph, Node
from quantizable.verify.refutation import leaves
from quantizable.verify.stages import Linear, Scale


def decide_robustness(
    graph: Graph,
    box: Box,
    label: int,
    time_limit: float = 60.0,
    use_milp: bool = True,
    *,
    execution: Execution = "real",
) -> Verdict:
    """Prove or refute that ``label`` has the strictly largest output everywhere in one box.

    Args:
        graph: one network, in one mode.
        box: one box (batch of 1).
        label: the class, usually the one predicted at the center.
        time_limit: seconds.
        use_milp: False stops after bounds and search.
        execution: as for :func:`~quantizable.verify.decide.decide`.

    Returns:
        A verdict; ``low`` and ``high`` bound the smallest margin, and a counterexample's
        ``second`` holds the margins.

    Raises:
        ValueError: a label that the network lacks, more than one box, or a single output.
    """
    classes = graph.shapes[-1].numel()
    if not 0 <= label < classes or classes < 2:
        raise ValueError(f"label {label} does not exist among the network's {classes} outputs")
    if len(box) != 1:
        raise ValueError(f"a query is about one box, not {len(box)}; pass box[i : i + 1]")
    start = time.perf_counter()
    margins = graph.then(margin_layer(classes, label))
    zero = zero_twin(margins)
    bounds = difference_bounds(zero, margins, box, execution=execution)
    questions = [Question(j, -1.0, 0.0) for j in range(classes - 1)]
    deadline = start + time_limit
    use_milp = use_milp and execution == "real"
    status, method, found = settle(zero, margins, box, bounds, questions, deadline, use_milp)
    if found is not None and execution != "real" and not leaves(zero, margins, box, found, execution):
        status, found = "unknown", None
    low, high = (float(side[0].min()) for side in bounds.output)
    return Verdict(status, method, low, high, time.perf_counter() - start, found)


def margin_layer(classes: int, label: int) -> Linear:
    """``y -> y_label - y_j`` for all other classes j: ``(classes - 1, classes)``."""
    others = [j for j in range(classes) if j != label]
    weight = -torch.eye(classes, dtype=torch.float64)[others]
    weight[:, label] = 1.0
    return Linear(weight, torch.zeros(classes - 1, dtype=torch.float64))


def zero_twin(graph: Graph) -> Graph:
    """A network of the same structure whose linear stages are all 0."""
    nodes = []
    for node in graph.nodes:
        stage = node.stage
        if isinstance(stage, Scale):
            stage = Scale(torch.zeros_like(stage.factor), torch.zeros_like(stage.bias))
        elif isinstance(stage, AFFINE):
            zeros = torch.zeros_like(stage.weight), torch.zeros_like(stage.bias)
            stage = replace(stage, weight=zeros[0], bias=zeros[1], bias_size=None)
        nodes.append(Node(stage, node.inputs))
    return Graph(nodes, graph.input_shape)
