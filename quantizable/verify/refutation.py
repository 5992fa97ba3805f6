"""Does a counterexample refute for every run of an execution, or only as real numbers?

Bounds of the single input answer it: they hold for all these runs.
"""

from __future__ import annotations

from quantizable.verify.bounds import difference_bounds
from quantizable.verify.box import Box
from quantizable.verify.execution import Execution
from quantizable.verify.graph import Graph
from quantizable.verify.interval import Interval
from quantizable.verify.replay import Replay


def outputs_at(
    first: Graph, second: Graph, box: Box, found: Replay, execution: Execution
) -> tuple[Interval, Interval, Interval] | None:
    """Bounds of both networks' outputs and of their difference at a counterexample, each ``(1, outputs)``.

    None where the input is no float32 of the box, which alone such a run can be given.
    """
    x = found.x[None].float().double() if execution != "real" else found.x[None]
    if not bool(box.contains(x).all()):
        return None
    known = difference_bounds(first, second, Box(x, x), "joint", execution)
    return known.first[-1], known.second[-1], known.output


def exceeds(
    first: Graph, second: Graph, box: Box, found: Replay, execution: Execution, *, output: int, eps: float
) -> bool:
    """Whether one output differs by ``eps`` or more in every run."""
    known = outputs_at(first, second, box, found, execution)
    if known is None:
        return False
    low, high = (float(side.flatten()[output]) for side in known[2])
    return low >= eps or high <= -eps


def disagrees(first: Graph, second: Graph, box: Box, found: Replay, execution: Execution) -> bool:
    """Whether the two networks give different classes in every run; both end in the same margin layer of
    the first's class."""
    known = outputs_at(first, second, box, found, execution)
    return known is not None and bool((known[0].low > 0).all()) and bool((known[1].high < 0).any())


def leaves(first: Graph, second: Graph, box: Box, found: Replay, execution: Execution) -> bool:
    """Whether a margin of the second network is 0 or less in every run."""
    known = outputs_at(first, second, box, found, execution)
    return known is not None and bool((known[1].high <= 0).any())
