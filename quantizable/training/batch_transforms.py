"""What happens to a training batch before the network sees it, beside augmentation: nothing, an attack, or
mixing.

Images are changed themselves. Of ids (an integer tensor: words) the embedding's output is changed, in every
mode's forward pass of the step; see :class:`quantizable.nn.embedded.Embedded`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from quantizable.nn.embedded import Embedded, embedding_of
from quantizable.nn.network_inputs import run_on
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
    """Changes a batch of (normalized images, labels), or of (ids, labels).

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

    Raises:
        ValueError: the inputs are no images.
    """
    if not sigma:
        return images
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise ValueError("noise_sigma adds noise to images, and these inputs are none; set it to 0")
    source = generator("noise", module.seed, step, module.global_rank)
    noise = torch.randn(images.shape, generator=source, dtype=images.dtype).to(images.device)
    return images + noise * (sigma / pixel_scale(module, images))


def pixel_scale(module: Any, images: Tensor) -> Tensor:
    """The data's standard deviation ``[C, 1, 1]``, by which pixels were divided; 1 where it is not known."""
    std = getattr(getattr(module.trainer, "datamodule", None), "std", None)
    known = torch.as_tensor(1.0 if std is None else std, device=images.device, dtype=images.dtype)
    return known.reshape(-1, 1, 1)


def legal_changes(module: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest change of each pixel that keeps it in [0, 1]; without limits where the
    data's mean is not known, or the inputs are no images.

    A pixel that lies outside already, as after augmentation, may go back and not further.
    """
    mean = getattr(getattr(module.trainer, "datamodule", None), "mean", None)
    if mean is None or not images.is_floating_point():
        return torch.tensor(-torch.inf), torch.tensor(torch.inf)
    pixels = images * pixel_scale(module, images) + torch.as_tensor(mean).to(images).reshape(-1, 1, 1)
    return -pixels.clamp_min(0), (1 - pixels).clamp_min(0)


Change = Callable[[Tensor], Any]


def changes(module: Any, inputs: Tensor) -> tuple[tuple[int, ...], Change]:
    """The shape of a small change, in [-1, 1] or so, and what makes of it inputs that are changed by it.

    A change of images is in pixels. A change of ids ``[B, L]`` is one of their embeddings ``[B, L, D]``, in
    standard deviations of the embedding's table; padding stays as it is.
    """
    if inputs.is_floating_point():
        return inputs.shape, lambda change: inputs + change / pixel_scale(module, inputs)
    layer = embedding_of(module.network)
    scale = layer.weight.detach().std() * words_of(inputs, layer)[..., None]
    return (*inputs.shape, layer.embedding_dim), lambda change: Embedded(
        (inputs,), change=lambda _, output: output + (scale * change).to(output.dtype)
    )


def words_of(ids: Tensor, layer: nn.Embedding) -> Tensor:
    """1 for a word and 0 for padding, ``[B, L]``."""
    return torch.ones_like(ids) if layer.padding_idx is None else (ids != layer.padding_idx).long()


@dataclass(frozen=True)
class Standard:
    """The batch as it is."""

    def __call__(self, module: Any, batch: Any, step: int) -> Any:
        return batch


@dataclass(frozen=True)
class Adversarial:
    """Projected gradient descent (Madry et al., ICLR 2018): train on inputs that mislead the highest mode.

    Of text the embeddings are attacked, as Miyato et al. do (ICLR 2017, arXiv:1605.07725), within a limit of
    each number as for pixels. Pixels stay in [0, 1].

    Args:
        eps: largest change of a pixel in [0, 1]; of an embedding's numbers, in standard deviations of its
            table.
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
        """The attacked inputs, started from random noise, and their labels."""
        inputs, labels = (entry(batch, i, "attacks need batches of (inputs, labels)") for i in (0, 1))
        shape, changed = changes(module, inputs)
        source = generator("attack", module.seed, step, module.global_rank)
        noise = 2 * torch.rand(shape, generator=source) - 1
        low, high = (limit.to(inputs.device) for limit in legal_changes(module, inputs))
        change = (self.eps * noise.to(inputs if inputs.is_floating_point() else inputs.device)).clamp(
            low, high
        )
        flags = [(part, part.training) for part in module.network.modules()]
        module.network.eval()  # the attack must not move the batch norms' statistics
        for part in module.network.modules():
            if isinstance(part, nn.RNNBase):
                part.training = True  # cuDNN has no gradient of a recurrent layer in evaluation mode
        try:
            with torch.enable_grad(), module.network.at_bits(module.modes[-1]):
                for _ in range(self.iterations):
                    change = change.detach().requires_grad_()
                    loss = F.cross_entropy(run_on(module.network, changed(change)), labels)
                    (slope,) = torch.autograd.grad(loss, change)
                    change = (change + self.step * slope.sign()).clamp(-self.eps, self.eps).clamp(low, high)
        finally:
            for part, flag in flags:  # what was frozen stays so
                part.training = flag
        return changed(change.detach()), labels


@dataclass(frozen=True)
class Mixup:
    """Mixup (Zhang et al., ICLR 2018): convex combinations of images and of their one-hot labels.

    Of text the embeddings are mixed, word by word (Guo et al. 2019, arXiv:1905.08941, wordMixup); the mixed
    text is as long as the longer of the two.

    Args:
        alpha: of the Beta distribution that weights are drawn from, above 0.

    Raises:
        ValueError: ``alpha`` out of range.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha={self.alpha}; give more than 0")

    def __call__(self, module: Any, batch: Any, step: int) -> tuple[Any, Tensor]:
        """The mixed inputs and the label probabilities ``[B, K]``."""
        inputs, labels = (entry(batch, i, "mixing needs batches of (inputs, labels)") for i in (0, 1))
        with seeded(key_seed("mixup", module.seed, step, module.global_rank)):
            mix = v2.MixUp(alpha=self.alpha, num_classes=module.num_classes)
            if inputs.is_floating_point():
                return mix(inputs, labels)
            one = torch.eye(len(inputs), device=inputs.device)
            weights, soft = mix(one[:, None, None], labels)
        return mixed_words(inputs, weights[:, 0, 0], embedding_of(module.network)), soft


def mixed_words(ids: Tensor, weights: Tensor, layer: nn.Embedding) -> Embedded:
    """Texts whose embeddings are combinations of those of ``ids`` ``[B, L]``, by ``weights`` ``[B, B]``.

    A network reads where a text ends from its ids: padding is shown only where all texts of a combination
    have ended.
    """
    words = words_of(ids, layer)
    lengths = words.sum(1) + 1  # so that a text without words is one of its own combination, too
    longest = ids[((weights > 0) * lengths).argmax(1)]

    def mixed(layer: nn.Embedding, output: Tensor) -> Tensor:
        own = layer.forward(ids) * words[..., None]
        return torch.einsum("bc,cld->bld", weights.to(own.dtype), own)

    return Embedded((longest,), change=mixed)
