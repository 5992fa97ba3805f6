"""What a search can measure about a candidate beside accuracy, agreement, divergence and radii."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from quantizable.network import QuantizableNetwork
from quantizable.verify.bounds import difference_bounds
from quantizable.verify.box import Box
from quantizable.verify.trace import graph_of


@dataclass(frozen=True)
class Measure:
    """One more number in a candidate's score.

    Attributes:
        name: of the number, an objective.
        settings: what it depends on beside the network, in plain types: scores are kept by it.
        of: the number, of the network in the candidate's assignment, norms fitted.
    """

    name: str
    settings: Mapping[str, Any]
    of: Callable[[QuantizableNetwork], float]


def proved_difference(network: QuantizableNetwork, images: Tensor, radius: float) -> Measure:
    """How far an output can be from the highest mode's: the largest proved bound, the mean over images.

    Args:
        network: small enough for :mod:`quantizable.verify`.
        images: ``[N, ...]``, of which the first 4 are taken.
        radius: L-infinity, in units of the network's inputs.

    Raises:
        ValueError: the network is not supported, see :func:`quantizable.verify.graph_of`.
    """
    images = images[:4]
    box, shape = Box.around(images, radius), tuple(images.shape[1:])
    top = graph_of(network, shape, network.modes[-1])

    def of(network: QuantizableNetwork) -> float:
        bounds = difference_bounds(top, graph_of(network, shape), box, "joint").output
        return float(bounds.magnitude.flatten(1).amax(1).mean())

    return Measure("proved", {"radius": radius, "images": len(images)}, of)
