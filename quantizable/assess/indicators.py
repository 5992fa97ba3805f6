"""Can an input on which the modes disagree be recognized from the low mode's output alone? (Hu et al., CAIN
2023.)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_curve
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_specificity_at_sensitivity,
)

from quantizable.assess.agreement import Interval
from quantizable.measure.uncertainty import INDICATORS
from quantizable.seeds import generator


@dataclass(frozen=True)
class Quality:
    """How well an indicator finds disagreeing inputs among as many others.

    Attributes:
        auroc, aupr, tnr95: areas under the ROC and precision-recall curves, and the true-negative rate where
            95 % of the disagreeing inputs are found; each with its 95 % bootstrap interval.
        inputs: disagreeing inputs, and as many others.
    """

    auroc: Interval
    aupr: Interval
    tnr95: Interval
    inputs: int


def balanced(disagree: Tensor, seed: int = 0) -> Tensor:
    """Indices of all disagreeing inputs of a mask ``[N]`` and of as many others, at random.

    Raises:
        ValueError: fewer than 2 inputs disagree, or fewer than 2 do not.
    """
    positive, negative = disagree.nonzero().flatten(), (~disagree).nonzero().flatten()
    if min(len(positive), len(negative)) < 2:
        raise ValueError(
            f"{len(positive)} of {len(disagree)} inputs disagree: indicators need at least 2 that do and 2 "
            "that do not; use more images or a shifted set"
        )
    count = min(len(positive), len(negative))
    source = generator(seed)
    return torch.cat(
        [rows[torch.randperm(len(rows), generator=source)[:count]] for rows in (positive, negative)]
    )


def indicator_quality(
    quantized: Tensor, disagree: Tensor, seed: int = 0, resamples: int = 200
) -> dict[str, Quality]:
    """Quality of the four indicators.

    Args:
        quantized: the low mode's probabilities ``[N, K]``.
        disagree: mask ``[N]`` of the inputs on which the pair disagrees.
        seed: of the other inputs and of the bootstrap.
        resamples: of the bootstrap, shared by the indicators so that they are compared on the same inputs.

    Raises:
        ValueError: see :func:`balanced`.
    """
    index = balanced(disagree, seed)
    truth, rows = disagree[index].long(), quantized[index]
    half = len(index) // 2
    source = generator(seed, 1)
    # resampled within the disagreeing and the others, so that both are there and remain equally many
    draws = [
        torch.cat([torch.randint(half, (half,), generator=source) + offset for offset in (0, half)])
        for _ in range(resamples)
    ]
    found = {}
    for name, indicator in INDICATORS.items():
        scores = indicator(rows)
        values = torch.stack([_three(scores, truth), *(_three(scores[draw], truth[draw]) for draw in draws)])
        low, high = values[1:].quantile(torch.tensor([0.025, 0.975]), dim=0)
        auroc, aupr, tnr = zip(values[0].tolist(), low.tolist(), high.tolist(), strict=True)
        found[name] = Quality(auroc, aupr, tnr, half)
    return found


def roc_curves(
    quantized: Tensor, disagree: Tensor, seed: int = 0, points: int = 100
) -> dict[str, list[list[float]]]:
    """Of each indicator the share of agreeing and the share of disagreeing inputs that it flags.

    Args:
        quantized, disagree, seed: as for :func:`indicator_quality`.
        points: at most so many of a curve.
    """
    index = balanced(disagree, seed)
    curves = {}
    for name, indicator in INDICATORS.items():
        flagged = roc_curve(disagree[index].numpy(), indicator(quantized[index]).numpy())[:2]
        chosen = np.unique(np.linspace(0, len(flagged[0]) - 1, points).round().astype(int))
        curves[name] = [[round(float(share), 4) for share in shares[chosen]] for shares in flagged]
    return curves


def _three(scores: Tensor, truth: Tensor) -> Tensor:
    scores = scores / scores.amax().clamp_min(
        1
    )  # torchmetrics takes scores above 1 for logits and would saturate them
    return torch.stack(
        [
            binary_auroc(scores, truth),
            binary_average_precision(scores, truth),
            binary_specificity_at_sensitivity(scores, truth, min_sensitivity=0.95)[0],
        ]
    )
