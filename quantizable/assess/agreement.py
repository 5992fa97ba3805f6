"""How often the modes agree: every mode against every other, with intervals.

Hu et al., "Towards Understanding Model Quantization for Reliable Deep Neural Network Deployment", CAIN 2023,
count disagreements of one pair; a switchable network gives the whole matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom, bootstrap
from torch import Tensor

Interval = tuple[float, float, float]
"""An estimate with the ends of its 95 % interval: (value, low, high)."""


def js_distance(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon distance between rows of ``[N, K]`` probabilities: the square root of the divergence in
    bits.

    In [0, 1]: 0 for equal rows, 1 for rows without a common class.
    """
    distance = jensenshannon(p.double().numpy(), q.double().numpy(), axis=1, base=2)
    return torch.from_numpy(np.nan_to_num(distance)).clamp(0, 1)  # rounding below 0 gives NaN for equal rows


def share(hits: Tensor) -> Interval:
    """The share of True in a mask ``[N]`` with the 95 % percentile-bootstrap interval.

    Resampling a mask draws a binomial number of hits, so the percentiles are known without drawing; where
    nothing, or everything, is hit the bootstrap's interval has no width.
    """
    n, rate = len(hits), hits.double().mean().item()
    low, high = binom.ppf((0.025, 0.975), n, rate) / n
    return rate, float(low), float(high)


def mean_interval(values: Tensor, seed: int = 0) -> Interval:
    """The mean of ``[N]`` with a 95 % percentile-bootstrap interval of 1 000 resamples."""
    data = values.double().numpy()
    if data.std() == 0:
        return float(data[0]), float(data[0]), float(data[0])
    found = bootstrap(
        (data,), np.mean, n_resamples=1000, batch=50, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(data.mean()), float(found.low), float(found.high)


@dataclass(frozen=True)
class Flips:
    """What disagreeing does to the answer: counts of images, reference's answer first."""

    right_to_wrong: int
    wrong_to_right: int
    wrong_to_other: int


def flips(reference: Tensor, other: Tensor, labels: Tensor) -> Flips:
    """Count the disagreements of two rows of predictions ``[N]`` by kind."""
    differ, right, right_now = reference != other, reference == labels, other == labels
    return Flips(
        int((differ & right).sum()),
        int((differ & right_now).sum()),
        int((differ & ~right & ~right_now).sum()),
    )


@dataclass(frozen=True)
class Agreement:
    """Result of :func:`agreement`; shares, not percent.

    Attributes:
        names: the models; the last is the reference of ``flips`` and ``per_class``.
        accuracy: by name.
        disagreement, distance: share of images with another prediction, and mean Jensen-Shannon distance, in
            row ``a`` and column ``b``.
        per_class: by name and label, the share of the label's images that disagree with the reference; zeros
            for a label without images.
        flips: by name.
    """

    images: int
    names: list[str]
    accuracy: dict[str, Interval]
    disagreement: list[list[Interval]]
    distance: list[list[Interval]]
    per_class: dict[str, list[Interval]]
    flips: dict[str, Flips]

    def against_reference(self, name: str) -> Interval:
        """Disagreement of a model with the reference."""
        return self.disagreement[self.names.index(name)][-1]

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def agreement(outputs: Mapping[str, Tensor], labels: Tensor) -> Agreement:
    """Accuracy, disagreement and distance of all pairs of models.

    Args:
        outputs: probabilities ``[N, K]`` by name, the reference last; see
            :func:`quantizable.assess.callables.probabilities`.
        labels: ``[N]``.

    Raises:
        ValueError: no images, or outputs that are not finite.
    """
    if len(labels) == 0:
        raise ValueError("the data has no images")
    for name, rows in outputs.items():
        if not torch.isfinite(rows).all():
            raise ValueError(f"model {name} gives NaN or infinite outputs; nothing can be compared with it")
    names = list(outputs)
    top = {name: rows.argmax(1) for name, rows in outputs.items()}
    reference = top[names[-1]]
    zero = (0.0, 0.0, 0.0)
    disagreement = [[zero] * len(names) for _ in names]
    distance = [[zero] * len(names) for _ in names]
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            disagreement[i][j] = disagreement[j][i] = share(top[a] != top[b])
            distance[i][j] = distance[j][i] = mean_interval(js_distance(outputs[a], outputs[b]))
    classes = range(outputs[names[0]].shape[1])
    return Agreement(
        images=len(labels),
        names=names,
        accuracy={name: share(top[name] == labels) for name in names},
        disagreement=disagreement,
        distance=distance,
        per_class={
            name: [
                share((top[name] != reference)[labels == label]) if (labels == label).any() else zero
                for label in classes
            ]
            for name in names[:-1]
        },
        flips={name: flips(reference, top[name], labels) for name in names[:-1]},
    )
