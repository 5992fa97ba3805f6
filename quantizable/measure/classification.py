"""What counts about a classifier's answers, image by image: training, ``evaluate`` and sums use the same."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

METRICS = ("loss", "top1", "top5", "disagreement")


def image_metrics(logits: Tensor, labels: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, top-1, top-5 and disagreement of each image, as float32 ``[N]`` by metric; hits are 1.

    Args:
        logits: ``[N, K]`` of one mode. With fewer than five classes, top-5 looks at all of them.
        labels: ``[N]``, or shares of the classes ``[N, K]``, of which the largest counts as the label.
        reference: ``[N]``, the highest mode's answers.

    Raises:
        IndexError: a label that is not in [0, K).
    """
    logits = logits.float()
    likeliest = labels.argmax(1) if labels.dim() == 2 else labels
    hits = logits.topk(min(5, logits.shape[1])).indices == likeliest[:, None]
    return {
        "loss": F.cross_entropy(logits, labels, reduction="none"),
        "top1": hits[:, 0].float(),
        "top5": hits.any(1).float(),
        "disagreement": (logits.argmax(1) != reference).float(),
    }
