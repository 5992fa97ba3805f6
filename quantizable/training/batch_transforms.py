"""What happens to a training batch before the network sees it, beside augmentation: nothing, an attack, or
mixing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from quantizable.seeds import generator, key_seed, seeded


def entry(batch: Any, index: int, otherwise: str) -> Any:
    """An entry of a batch that is a sequence; ``ValueError`` with what to do ``otherwise``."""
    try:
        return batch[index]
    except (KeyError, IndexError, TypeError) as error:
        held = f" of {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
        raise ValueError(
            f"a batch is a {type(batch).__name__}{held} and has no entry {index}: {otherwise}"
        ) from error


class Strategy(Protocol):
    """Changes a batch of (normalized images, labels).

    ``module`` is the one in training (:class:`quantizable.MultiModeModule`); its network, modes, seed,
    classes and trainer are read.
    """

    def __call__(self, module: Any, batch: Any, step: int) -> Any:
        """The batch to train on; ``step`` is an integer of its own for each batch of a run, to draw by."""


def with_noise(module: Any, images: Tensor, sigma: float, step: int) -> Tensor:
    """Images plus Gaussian noise, another in each batch and process.

    Args:
        module: the one in training.
        images: ``[B, C, H, W]``, normalized.
        sigma: standard deviation in units of pixels in [0, 1]; at 0 the images come back as they are.
        step: see :class:`Strategy`.
    """
    if not sigma:
        return images
    std = getattr(getattr(module.trainer, "datamodule", None), "std", None)
    scale = torch.as_tensor(1.0 if std is None else std, device=images.device, dtype=images.dtype)
    source = generator("noise", module.seed, step, module.global_rank)
    noise = torch.randn(images.shape, generator=source, dtype=images.dtype).to(images.device)
    return images + noise * (sigma / scale.reshape(-1, 1, 1))


@dataclass(frozen=True)
class Standard:
    """The batch as it is."""

    def __call__(self, module: Any, batch: Any, step: int) -> Any:
        return batch


@dataclass(frozen=True)
class Adversarial:
    """Projected gradient descent (Madry et al., ICLR 2018): train on images that mislead the highest mode.

    Args:
        eps: largest change of a pixel in [0, 1].
        step: of each iteration.
        iterations: at least 1; each costs a forward and a backward pass.

    Raises:
        ValueError: a number out of range.
    """

    eps: float = 8 / 255
    step: float = 2 / 255
    iterations: int = 7

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 1 or self.step <= 0 or self.iterations < 1 or self.iterations % 1:
            raise ValueError(
                f"eps={self.eps}, step={self.step}, iterations={self.iterations}; give eps in (0, 1], a step "
                "above 0 and at least 1 whole iteration"
            )

    def __call__(self, module: Any, batch: Any, step: int) -> Any:
        """The attacked images, started from random noise, and their labels."""
        images, labels = (entry(batch, i, "attacks need batches of (images, labels)") for i in (0, 1))
        std = getattr(getattr(module.trainer, "datamodule", None), "std", None)
        scale = torch.as_tensor(1.0 if std is None else std, device=images.device).reshape(-1, 1, 1)
        source = generator("attack", module.seed, step, module.global_rank)
        noise = (2 * torch.rand(images.shape, generator=source) - 1).to(images)
        change = self.eps * noise  # in pixels; the images are normalized
        module.network.eval()  # the attack must not move the batch norms' statistics
        try:
            with torch.enable_grad(), module.network.at_bits(module.modes[-1]):
                for _ in range(self.iterations):
                    change = change.detach().requires_grad_()
                    loss = F.cross_entropy(module.network(images + change / scale), labels)
                    (slope,) = torch.autograd.grad(loss, change)
                    change = (change + self.step * slope.sign()).clamp(-self.eps, self.eps)
        finally:
            module.network.train()
        return images + change.detach() / scale, labels


@dataclass(frozen=True)
class Mixup:
    """Mixup (Zhang et al., ICLR 2018): convex combinations of images and of their one-hot labels.

    Args:
        alpha: of the Beta distribution that weights are drawn from, above 0.

    Raises:
        ValueError: ``alpha`` out of range.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha={self.alpha}; give more than 0")

    def __call__(self, module: Any, batch: Any, step: int) -> tuple[Tensor, Tensor]:
        """The mixed images and the label probabilities ``[B, K]``."""
        pair = (entry(batch, i, "mixing needs batches of (images, labels)") for i in (0, 1))
        with seeded(key_seed("mixup", module.seed, step, module.global_rank)):
            return v2.MixUp(alpha=self.alpha, num_classes=module.num_classes)(*pair)
