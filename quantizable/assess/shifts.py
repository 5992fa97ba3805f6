"""Agreement on shifted inputs: every corruption at every severity, and inputs from a second source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizable.assess.agreement import Agreement, agreement
from quantizable.assess.callables import CHUNK, Model, probabilities
from quantizable.assess.corruptions import SEVERITIES
from quantizable.assess.examples import Examples

CLEAN = "clean"
EXAMPLES = 8  # inputs kept to be shown


@dataclass(frozen=True)
class Shifted:
    """Inputs of one shift with what the models say to them.

    Attributes:
        outputs: probabilities ``[N, K]`` by model, the reference last.
        examples: by model, some inputs on which it disagrees, and both answers ``[n, 2]``, the reference's
            first.
    """

    shift: str
    severity: int
    outputs: dict[str, Tensor]
    labels: Tensor
    agreement: Agreement
    examples: dict[str, tuple[Tensor, Tensor]]

    def disagree(self, name: str) -> Tensor:
        """Mask ``[N]`` of the inputs on which a model disagrees with the reference."""
        return self.outputs[name].argmax(1) != self.outputs[self.agreement.names[-1]].argmax(1)


def measure(
    models: Mapping[str, Model],
    images: Examples,
    shift: str = CLEAN,
    severity: int = 0,
    batch_size: int = CHUNK,
) -> Shifted:
    """Agreement of the models (the reference last) on a set of images or texts."""
    outputs = probabilities(models, images.inputs, batch_size)
    answers = {name: rows.argmax(1) for name, rows in outputs.items()}
    *lows, top = answers
    examples = {}
    for low in lows:
        some = (answers[low] != answers[top]).nonzero().flatten()[:EXAMPLES]
        examples[low] = images.inputs[some], torch.stack((answers[top], answers[low]), 1)[some]
    return Shifted(shift, severity, outputs, images.labels, agreement(outputs, images.labels), examples)


def shifts(
    models: Mapping[str, Model],
    images: Examples,
    names: Sequence[str] | None = None,
    severities: Iterable[int] = SEVERITIES,
    natural: Mapping[str, Examples] | None = None,
    seed: int = 0,
    batch_size: int = CHUNK,
) -> Iterator[Shifted]:
    """The clean images first, then each corruption at each severity, then the natural shifts.

    Corruptions act on pixels, and the models' own normalization follows: clean and shifted images take one
    path.

    Args:
        models: the reference last.
        images: clean.
        names: corruptions; None: all that suit the images or texts, () for none.
        natural: further labeled inputs by name, for example of a second folder.

    Raises:
        ValueError: an unknown corruption, before anything is measured; or as :func:`corrupt` and
            :class:`Images` do.
    """
    chosen = list(images.suite() if names is None else names)
    levels = list(severities)
    for name in chosen:
        # an unknown name or a bad severity shows before long work
        images.subset(torch.arange(1)).corrupted(name, levels[0])
    yield measure(models, images, batch_size=batch_size)
    for name in chosen:
        for severity in levels:
            changed = images.corrupted(name, severity, seed)
            yield measure(models, changed, name, severity, batch_size)
    for name, others in (natural or {}).items():
        yield measure(models, others, name, 0, batch_size)


def pooled(measured: Sequence[Shifted]) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs ``[N, K]`` by model and labels ``[N]`` of several shifts together."""
    names = measured[0].outputs
    outputs = {name: torch.cat([one.outputs[name] for one in measured]) for name in names}
    return outputs, torch.cat([one.labels for one in measured])
