"""What is assessed: callables from pixels, or ids of words, to logits, usually the modes of one network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizable.bits import ModeLike
from quantizable.data.words import PADDING
from quantizable.deploy import Session
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.storage.outputs import only_tensor
from quantizable.storage.selection import Chosen

Model = Callable[[Tensor], Tensor]
"""Pixels ``[B, C, H, W]`` in [0, 1], or ids ``[B, L]``, to logits ``[B, K]``: a mode, an ONNX session,
another framework's model."""

FEWEST = 8  # rows that tell probabilities from logits
NEAR_ONE = 5e-3  # a sum of probabilities in half precision
CODES = 256  # of an integer network's probabilities
CHUNK = 64  # inputs in one forward pass: a CIFAR network's activations then stay in the processor's caches


@dataclass(frozen=True)
class ModeModel:
    """One mode of a network, or an assignment, fed with pixels, which are normalized here alone, or with ids.

    Args:
        network: in evaluation mode.
        mode: as its ``set_bits`` takes it.
        mean, std: per channel, as in training; empty for images that are not normalized.
    """

    network: QuantizableNetwork
    mode: Assignment
    mean: Sequence[float] = ()
    std: Sequence[float] = ()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits ``[B, K]`` of pixels ``[B, C, H, W]`` or ids ``[B, L]``."""
        images = normalized(pixels, self.mean, self.std)
        if images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)  # a quarter faster on CPUs
        elif images.dim() == 2 and not images.is_floating_point():
            images = without_padding(images)
        with self.network.at_bits(self.mode):
            return self.network(images).float()


@dataclass(frozen=True)
class SessionModel:
    """One mode of a deployed file on its engine, fed with pixels: real integers, and no gradient.

    >>> session = SessionModel(Session("model.qz", "openvino"), 4)              # doctest: +SKIP
    >>> pair = Pair(mode_models(network)["32"], session, "integers against float")   # doctest: +SKIP
    """

    session: Session
    mode: ModeLike

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits ``[B, K]`` of pixels ``[B, C, H, W]``; ``ValueError`` if the file has several outputs."""
        info = self.session.info
        with self.session.at_bits(self.mode):
            images = normalized(pixels, info.get("mean") or (), info.get("std") or ())
            return torch.from_numpy(only_tensor(self.session(images), "a comparison of predictions"))


def normalized(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels ``[B, C, H, W]`` as in training; as they are where there is no mean."""
    if not mean:
        return pixels
    shift, scale = (pixels.new_tensor(v).view(-1, 1, 1) for v in (mean, std))
    return (pixels - shift) / scale


def without_padding(ids: Tensor) -> Tensor:
    """Ids ``[B, L]`` without the columns at the end that are padding in all rows; one column stays."""
    longest = int((ids != PADDING).sum(1).max()) if len(ids) else 0
    return ids[:, : max(longest, 1)]


def mode_models(network: QuantizableNetwork, modes: Iterable[ModeLike] | None = None) -> dict[str, Model]:
    """The modes (all by default) of a network that :func:`quantizable.load` gave, by name, lowest first.

    Raises:
        ValueError: a mode that the network lacks.
    """
    asked = network.modes if modes is None else sorted({network.check_mode(mode) for mode in modes})
    return chosen_models([Chosen(mode.name, network, mode) for mode in asked])


def chosen_models(chosen: Iterable[Chosen]) -> dict[str, Model]:
    """What :func:`quantizable.storage.selection.choose` gave, by name and in its order."""
    models: dict[str, Model] = {}
    for one in chosen:
        info = one.network.info
        mean, std = tuple(info.get("mean") or ()), tuple(info.get("std") or ())
        models[one.name] = ModeModel(one.network.eval(), one.bits, mean, std)
    return models


@dataclass(frozen=True)
class Pair:
    """Two models that should give the same answer.

    Args:
        reference: usually the full-precision mode.
        quantized: usually a low mode.
        name: shown in tables, for example ``"4 against 32"``.
        surrogate: a model with gradients that stands in for those of the two that have none; without it the
            other one of the pair does.
    """

    reference: Model
    quantized: Model
    name: str = "pair"
    surrogate: Model | None = None

    def probabilities(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Both softmax outputs, each ``[B, K]``."""
        p, q = (rows.softmax(1) for rows in self.logits(pixels))
        return p, q

    def logits(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Both outputs, each ``[B, K]``."""
        parts = [(self.reference(part), self.quantized(part)) for part in pixels.split(CHUNK)]
        a, b = (torch.cat(rows) for rows in zip(*parts, strict=True))
        return a, b

    def differentiable(self, pixels: Tensor, both: tuple[Tensor, Tensor]) -> list[Tensor]:
        """The logits that gradients are taken of: two of two models, one where one stands for both, none
        where there is no gradient at all.

        Args:
            pixels: ``[B, C, H, W]``, which require gradients.
            both: what :meth:`logits` gave for them.
        """
        own = [rows for rows in both if rows.requires_grad]
        if len(own) == 2 or self.surrogate is None:
            return own
        rows = torch.cat([self.surrogate(part) for part in pixels.split(CHUNK)])
        if not rows.requires_grad:
            raise ValueError("the surrogate has no gradient; give a .qz, a checkpoint or a model of torch")
        return [row if row.requires_grad else rows for row in both] if own else [rows]


def probabilities(models: Mapping[str, Model], pixels: Tensor, batch_size: int = CHUNK) -> dict[str, Tensor]:
    """Softmax output ``[N, K]`` of each model on pixels ``[N, C, H, W]`` or ids ``[N, L]``.

    Raises:
        ValueError: a model gives probabilities itself, which a second softmax would make nearly equal.
    """
    with torch.no_grad():
        parts = [{name: model(batch) for name, model in models.items()} for batch in pixels.split(batch_size)]
    found = {name: torch.cat([part[name] for part in parts]) for name in models}
    for name, rows in found.items():
        if are_probabilities(rows):
            raise ValueError(f"model {name} gives probabilities; give one of logits, or their logarithms")
    return {name: rows.softmax(1) for name, rows in found.items()}


def are_probabilities(rows: Tensor) -> bool:
    """Whether outputs ``[N, K]`` are probabilities already: never below 0, and of sum 1 in all of at least
    eight rows. Fewer rows of logits could be so by chance, and are taken for logits."""
    if len(rows) < FEWEST or not rows.is_floating_point():
        return False
    in_codes = bool((rows * CODES == (rows * CODES).round()).all())  # each is off by half a code at most
    allowed = max(NEAR_ONE, rows.shape[1] / 2 / CODES) if in_codes else NEAR_ONE
    return bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() <= allowed).all())
