"""Prove, for every input of a box, how far two bit modes of one network can differ.

    from quantizable.verify import Box, FixedPoint, decide, difference_bounds

Bounds (:func:`difference_bounds`) are fast and always hold; :func:`decide` adds a search for
counterexamples and a mixed-integer program where the bounds leave a query open.
"""

from quantizable.verify.agreement import decide_agreement, largest_radius
from quantizable.verify.bisection import bisect
from quantizable.verify.bounds import (
    METHODS,
    DifferenceBounds,
    difference_bounds,
    mode_difference_bounds,
)
from quantizable.verify.box import Box
from quantizable.verify.confidence import ModeErrors, mode_errors
from quantizable.verify.decide import Query, Verdict, decide, decide_all
from quantizable.verify.execution import EXECUTIONS, Execution
from quantizable.verify.fixed_point import FixedPoint, fixed_point_network, float_network, load_npz
from quantizable.verify.graph import Graph, Node, chain
from quantizable.verify.interval import Interval
from quantizable.verify.replay import Replay, replay, search
from quantizable.verify.robustness import decide_robustness
from quantizable.verify.trace import graph_of

__all__ = [
    "EXECUTIONS",
    "METHODS",
    "Box",
    "DifferenceBounds",
    "Execution",
    "FixedPoint",
    "Graph",
    "Interval",
    "ModeErrors",
    "Node",
    "Query",
    "Replay",
    "Verdict",
    "bisect",
    "chain",
    "decide",
    "decide_agreement",
    "decide_all",
    "decide_robustness",
    "difference_bounds",
    "fixed_point_network",
    "float_network",
    "graph_of",
    "largest_radius",
    "load_npz",
    "mode_difference_bounds",
    "mode_errors",
    "replay",
    "search",
]
