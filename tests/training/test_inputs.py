"""Training on batches of several inputs, and of products that the first batch shows."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from quantizable import MultiModeModule, quantize
from quantizable.nn.network_inputs import Inputs
from tests.tiny import trainer


class Pairs(nn.Module):
    """Attends from one sequence ``[N, T, 6]`` to another; ``[N, 2]``."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        scores = self.query(left) @ self.key(right).transpose(1, 2)
        return self.head((scores.softmax(-1) @ right).mean(1))


class Task(MultiModeModule):
    """Remembers how many pairs a batch has."""

    sizes: ClassVar[set[int]] = set()

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(output, batch["label"])

    def evaluate_step(self, batch: Any, stage: str) -> None:
        self.sizes.add(len(self.inputs(batch)))
        super().evaluate_step(batch, stage)


def test_a_network_with_two_inputs_trains_on_mappings_and_learns_its_products() -> None:
    rows = [{"left": torch.randn(4, 6), "right": torch.randn(5, 6), "label": i % 2} for i in range(16)]
    net = quantize(Pairs(), [2, 8, 32], attention=True, first_last="mode")
    module = Task(net)
    loader = DataLoader(rows, batch_size=8)
    assert isinstance(module.inputs(next(iter(loader))), Inputs)
    fit = trainer(max_epochs=2)
    fit.fit(module, loader, loader)
    assert module.sizes == {8}
    assert list(net.layers()) == ["query", "key", "head", "products"]
    scales = [p for name, p in net.named_parameters() if ".products." in name]
    assert len(scales) == 8  # two products, two operands each, two widths
    optimized = {id(p) for o in fit.optimizers for group in o.param_groups for p in group["params"]}
    assert {id(p) for p in module.parameters()} <= optimized
    assert all(any(p is q for q in fit.optimizers[0].state) for p in scales)  # and they took steps
