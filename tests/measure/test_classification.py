"""Metrics of each image against torchmetrics."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from quantizable.measure.classification import METRICS, image_metrics


@pytest.mark.parametrize("classes", [3, 12])
def test_metrics_are_those_of_torchmetrics(classes: int) -> None:
    logits = torch.randn(50, classes, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % classes
    reference = torch.zeros(50, dtype=torch.long)
    found = image_metrics(logits, labels, reference)
    assert tuple(found) == METRICS
    for name, k in (("top1", 1), ("top5", min(5, classes))):
        expected = multiclass_accuracy(logits, labels, classes, top_k=k, average="micro")
        assert found[name].mean().item() == pytest.approx(expected.item())
    assert found["loss"].mean().item() == pytest.approx(torch.nn.CrossEntropyLoss()(logits, labels).item())
    assert found["disagreement"].sum() == sum(int(row.argmax()) != 0 for row in logits)


def test_a_label_outside_the_classes_is_an_error() -> None:
    with pytest.raises(IndexError):
        image_metrics(torch.zeros(1, 3), torch.tensor([3]), torch.tensor([0]))
