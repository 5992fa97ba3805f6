"""Sensitivity of every mode of every layer, alone and in pairs, from one pass over a few images.

To first order, a layer that runs in mode m and not in its reference mode moves the logits of image i by
``J_i (y_m - y_ref)``, where y is what the norm behind the layer gives (the layer itself, if none follows).
A backward pass gives products with J. The network's answers p then differ from the answers q of the highest
mode by a Kullback-Leibler divergence of about ::

    KL(q || p) + mean_i (p_i - q_i)^T d_i + 1/2 mean_i d_i^T (diag(p_i) - p_i p_i^T) d_i

where d_i sums over layers what their modes do. The matrix is the Fisher information of the softmax, that is
``E v v^T`` over ``v = onehot(y) - p`` with y drawn from p: a few draws replace one backward pass per class.
The square of a sum has terms for pairs of layers, which a sum of sensitivities lacks: errors of two layers
may add up or cancel.

As HAWQ-V2 (Dong et al., NeurIPS 2020) has second-order terms, here with what quantization does to the outputs
of a layer in place of the trace of a Hessian; pairs as in CLADO (Deng et al., 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from quantizable.bits import BitMode
from quantizable.network import QuantizableNetwork
from quantizable.nn.norms import PerModeNorm
from quantizable.nn.passes import evaluating
from quantizable.search.space import Genome, Space

SMALLEST = 1e-12  # of a variance


@dataclass(frozen=True)
class Expansion:
    """The divergence from the highest mode around a reference assignment, to second order.

    Attributes:
        reference: the assignment.
        constant: its own divergence, nats.
        first: first-order terms, nats, ``[layers, modes]`` float64; 0 for a layer's reference mode.
        second: second-order terms, ``[layers * modes, layers * modes]``, symmetric: nats are half of
            ``z^T second z`` for a 0-1 vector z of what was chosen.
    """

    reference: Genome
    constant: float
    first: np.ndarray
    second: np.ndarray

    def divergence(self, chosen: np.ndarray) -> np.ndarray:
        """Nats of assignments ``[..., layers]`` of indices of modes, ``[...]``."""
        layers, modes = self.first.shape
        where = chosen + modes * np.arange(layers)
        second = self.second[where[..., :, None], where[..., None, :]].sum((-1, -2))
        return self.constant + self.first.ravel()[where].sum(-1) + second / 2

    def corrected(self, chosen: np.ndarray, measured: Sequence[float]) -> Expansion:
        """The same with terms of first order that ridge regression takes from measured divergences.

        Far from the reference an expansion promises too much; what it is off by is learned mode by mode, and
        how much its own terms are to count.

        Args:
            chosen: assignments, ``[n, layers]`` indices of modes.
            measured: nats, ``[n]``.
        """
        from sklearn.linear_model import (
            RidgeCV,
        )  # here, as it takes a second that other methods need not wait

        layers, modes = self.first.shape
        where = chosen + modes * np.arange(layers)
        one_hot = np.zeros((len(chosen), layers * modes))
        one_hot[np.arange(len(chosen))[:, None], where] = 1
        first = self.first.ravel()[where].sum(1)
        own = np.stack([first, self.divergence(chosen) - self.constant - first], 1)
        size = np.maximum(np.abs(own).max(0), 1e-12)
        model = RidgeCV(np.logspace(-3, 2, 11)).fit(np.hstack([own / size, one_hot]), measured)
        shares = np.maximum(model.coef_[:2] / size, 0)  # a form that is not negative keeps its sign
        learned = model.coef_[2:].reshape(layers, modes)
        first_order = shares[0] * self.first + learned
        return Expansion(self.reference, float(model.intercept_), first_order, shares[1] * self.second)

    def alone(self) -> np.ndarray:
        """What each mode of each layer does without the others, nats, ``[layers, modes]``."""
        return self.first + np.diag(self.second).reshape(self.first.shape) / 2


def expand(
    network: QuantizableNetwork,
    space: Space,
    batches: Sequence[Tensor],
    reference: Genome,
    draws: int = 4,
    seed: int = 0,
) -> Expansion:
    """From one forward pass of each batch, ``draws + 1`` backward passes, and each layer run in each mode.

    Args:
        network: in evaluation mode, with all modes of the space.
        space: what can be chosen.
        batches: inputs ``[B, ...]``.
        reference: the assignment to expand around.
        draws: of classes per image.
        seed: of the draws.

    Raises:
        ValueError: the network gives no logits ``[B, K]``, or a layer gives no tensor.
    """
    generator = torch.Generator().manual_seed(seed)
    firsts, seconds, constants = [], [], []
    top = network.modes[-1]
    with evaluating(network):
        for x in batches:
            with network.at_bits(top), torch.no_grad():
                wanted = network(x)
            with network.at_bits(space.assignment(reference)):
                pass_ = _Pass(network, space, reference, x)
                logits = pass_.logits.detach().float()
                gap = logits.softmax(1) - wanted.float().softmax(1)
                drawn = torch.multinomial(logits.softmax(1), draws, True, generator=generator)  # [B, draws]
                ways = [F.one_hot(y, logits.shape[1]) - logits.softmax(1) for y in drawn.T]
                effects = pass_.effects([gap, *ways])  # [1 + draws, B, layers * modes]
            firsts.append(effects[0])
            seconds.append(effects[1:].flatten(0, 1))
            constants.append(_divergence(logits, wanted.float()))
    first = torch.cat(firsts).double().mean(0).numpy().reshape(len(space.layers), -1)
    projected = torch.cat(seconds).double().numpy()
    second = projected.T @ projected / len(projected)
    return Expansion(reference, float(torch.cat(constants).mean()), first, second)


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.kl_div(logits.log_softmax(1), wanted.log_softmax(1), reduction="none", log_target=True).sum(1)


@dataclass
class _Call:
    """One call of a layer or norm: how to repeat it, what it gave, and what was added to that (zeros)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    given: Tensor
    out: Tensor
    added: Tensor


class _Pass:
    """A forward pass in the reference assignment, kept so that layers can be run again in other modes."""

    def __init__(self, network: QuantizableNetwork, space: Space, reference: Genome, x: Tensor) -> None:
        self.network, self.space = network, space
        self.layers = {name: network.layers()[name] for name in space.layers}
        self.norms = network.norms()
        self.modes = space.layer_modes(reference)
        self.followers = _followers(network, space)
        self.calls: dict[str, list[_Call]] = {name: [] for name in (*self.layers, *self.norms)}
        with self._kept(), torch.enable_grad():
            self.logits = network(x)
        if not isinstance(self.logits, Tensor) or self.logits.dim() != 2:
            raise ValueError("this method needs a network that gives logits [B, K] for a batch of inputs")

    @contextmanager
    def _kept(self) -> Iterator[None]:
        def keep(name: str) -> Callable[..., Any]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
                first = out[0] if isinstance(out, tuple) else out
                if not isinstance(first, Tensor):
                    raise ValueError(f"layer {name!r} gives no tensor")
                added = torch.zeros_like(first, requires_grad=True)
                result = first + added
                self.calls[name].append(_Call(args, kwargs, args[0], result, added))
                return (result, *out[1:]) if isinstance(out, tuple) else result

            return hook

        watched: dict[str, nn.Module] = {**self.layers, **self.norms}
        handles = [
            module.register_forward_hook(keep(name), with_kwargs=True) for name, module in watched.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def effects(self, ways: Sequence[Tensor]) -> Tensor:
        """What each mode of each layer does along directions of the logits.

        Args:
            ways: directions ``[B, K]``.

        Returns:
            ``[ways, B, layers * modes]``; 0 for reference modes.
        """
        calls = [call for found in self.calls.values() for call in found]
        gradients = [
            dict(zip(map(id, calls), self._gradients(calls, way, last=way is ways[-1]), strict=True))
            for way in ways
        ]
        columns = []
        with torch.no_grad():
            for name in self.layers:
                for mode in self.space.modes:
                    moved = [] if mode == self.modes[name] else self._moved(name, mode)
                    columns.append(torch.stack([_along(gradient, moved, ways[0]) for gradient in gradients]))
        return torch.stack(columns, 2)

    def _gradients(self, calls: Sequence[_Call], way: Tensor, last: bool) -> Sequence[Tensor | None]:
        added = [call.added for call in calls]
        return torch.autograd.grad(
            self.logits, added, way.to(self.logits.dtype), retain_graph=not last, allow_unused=True
        )

    def _moved(self, name: str, mode: BitMode) -> list[tuple[_Call, Tensor]]:
        """What changes where, if one layer runs in another mode: calls, and the change of their outputs."""
        outputs = self._again(name, mode)
        changes = [
            (call, out - call.out.detach()) for call, out in zip(self.calls[name], outputs, strict=True)
        ]
        for norm in self.followers[name]:
            for call in self.calls[norm]:
                place = next((k for k, own in enumerate(self.calls[name]) if own.out is call.given), None)
                given = call.given.detach() if place is None else outputs[place]
                own = _in_mode(self.norms[norm], mode, given, call.given.detach())
                if place is not None:  # the norm's output says all
                    changes = [(one, change) for one, change in changes if one is not self.calls[name][place]]
                changes.append((call, own - call.out.detach()))
        return changes

    def _again(self, name: str, mode: BitMode) -> list[Tensor]:
        layer = self.layers[name]
        layer.set_bits(mode)
        try:
            found = [layer(*call.args, **call.kwargs) for call in self.calls[name]]
        finally:
            layer.set_bits(self.modes[name])
        return [out[0] if isinstance(out, tuple) else out for out in found]


def _along(gradient: dict[int, Tensor | None], moved: list[tuple[_Call, Tensor]], way: Tensor) -> Tensor:
    """Sum over the changed outputs of ``gradient . change`` for each image, ``[B]``."""
    total = torch.zeros(len(way))
    for call, change in moved:
        slope = gradient[id(call)]
        if slope is not None:
            total += (slope * change).float().reshape(len(way), -1).sum(1).cpu()
    return total


def _in_mode(norm: PerModeNorm, mode: BitMode, given: Tensor, before: Tensor) -> Tensor:
    """What a norm's copy for ``mode`` gives, fitted to ``given`` by the reference's on the same images."""
    own, reference = norm.norms[mode.name], norm.active
    if not isinstance(own, _BatchNorm) or own.running_mean is None or not isinstance(reference, _BatchNorm):
        out: Tensor = own(given)
        return out
    assert reference.running_mean is not None
    assert reference.running_var is not None
    axes = [axis for axis in range(given.dim()) if axis != 1]
    mean, found = given.float().mean(axes), given.float().var(axes, correction=0) + SMALLEST
    first, seen = before.float().mean(axes), before.float().var(axes, correction=0) + SMALLEST
    ratio = found / seen
    kept = {name: buffer.clone() for name, buffer in own.named_buffers()}
    fitted = {
        # what the choice of images did to the reference it did to this mode, in units of the deviation
        "running_mean": mean + (reference.running_mean - first) * ratio.sqrt(),
        "running_var": reference.running_var * ratio,
    }
    out = torch.func.functional_call(own, kept | fitted, (given,))
    return out


def _followers(network: QuantizableNetwork, space: Space) -> dict[str, list[str]]:
    """The norms that take the mode of each free layer."""
    names = network.norms()
    followers = {}
    for i, layer in enumerate(space.layers):
        lowest, other = list(space.lowest), list(space.lowest)
        side = 2 * i + (len(space.weights) < 2)
        other[side] = 1
        found = []
        for genome in (lowest, other):
            with network.at_bits(space.assignment(tuple(genome))):
                found.append({name: norm.mode for name, norm in names.items()})
        followers[layer] = [name for name in names if found[0][name] != found[1][name]]
    return followers
