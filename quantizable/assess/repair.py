"""Repair: fine-tune a mode on inputs where it disagrees, and count what persists and what is new.

Hu et al. (CAIN 2023, sec. 5) retrain on the disagreeing test inputs that they then report; here the inputs
come from training images, and persisting and new disagreements are counted on test images that the repair
never saw.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from quantizable.assess.callables import mode_models, probabilities
from quantizable.assess.examples import Examples
from quantizable.bits import ModeLike
from quantizable.network import QuantizableNetwork
from quantizable.seeds import generator


@dataclass(frozen=True)
class Repair:
    """Counts of test images on which the mode disagrees with the reference.

    Attributes:
        trained_on: disagreeing training images.
        before, persisting, new: disagreements before; of these, how many are left; and those that were none
            before.
        accuracy: of the mode before and after.
    """

    trained_on: int
    images: int
    before: int
    persisting: int
    new: int
    accuracy: tuple[float, float]


def repair(
    network: QuantizableNetwork,
    mode: ModeLike,
    train: Examples,
    test: Examples,
    steps: int = 50,
    lr: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    *,
    reference: ModeLike | None = None,
) -> tuple[QuantizableNetwork, Repair]:
    """A copy of the network, its ``mode`` fine-tuned towards the highest mode's answers.

    Half of each batch are disagreeing training images, half are any others, so that what was right is not
    forgotten. Weights are shared by the modes: the reference that the copy is compared with is the original
    network's.

    Args:
        network: as :func:`quantizable.load` gives it.
        mode: a quantized mode.
        train: images to learn from; not the test images.
        test: images to count on.
        steps: of SGD with momentum 0.9, at least 1.
        lr: learning rate.
        reference: the mode to agree with; None: the highest.

    Raises:
        ValueError: the network lacks the mode, or no training image disagrees.
    """
    top = network.modes[-1] if reference is None else network.check_mode(reference)
    low = network.check_mode(mode)
    models = mode_models(network, [low, top])
    outputs = probabilities(models, train.inputs)
    wanted = outputs[top.name]
    hard = (outputs[low.name].argmax(1) != wanted.argmax(1)).nonzero().flatten()
    if len(hard) == 0:
        raise ValueError(
            f"mode {low.name} agrees with {top.name} on all {len(train)} training images; use more"
        )
    before = probabilities(models, test.inputs)
    repaired = deepcopy(network)
    model = mode_models(repaired, [low])[low.name]
    optimizer = torch.optim.SGD([p for p in repaired.parameters() if p.requires_grad], lr, momentum=0.9)
    source = generator(seed)
    half = max(batch_size // 2, 1)
    # batch norms keep their statistics (evaluation mode): half of each batch is unlike the data
    for _ in range(steps):
        picks = [
            hard[torch.randint(len(hard), (half,), generator=source)],
            torch.randint(len(train), (half,), generator=source),
        ]
        index = torch.cat(picks)
        loss = F.cross_entropy(model(train.inputs[index]), wanted[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = probabilities({low.name: model}, test.inputs)[low.name]
    return repaired, _count(before[top.name], before[low.name], after, test.labels, len(hard))


def _count(reference: Tensor, before: Tensor, after: Tensor, labels: Tensor, trained_on: int) -> Repair:
    wanted = reference.argmax(1)
    differed, differs = before.argmax(1) != wanted, after.argmax(1) != wanted
    accuracy = [(rows.argmax(1) == labels).double().mean().item() for rows in (before, after)]
    return Repair(
        trained_on,
        len(labels),
        int(differed.sum()),
        int((differed & differs).sum()),
        int((~differed & differs).sum()),
        (accuracy[0], accuracy[1]),
    )
