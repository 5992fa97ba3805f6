"""What of a batch goes into a network: one tensor, several, keyword arguments, a list of images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

NEEDED = (
    "needed is a tensor of inputs, a tuple or list whose first entries are the inputs, or a mapping of "
    "arguments; for anything else give forward=lambda network, batch: network(...)"
)


@dataclass(frozen=True)
class Inputs:
    """Arguments of one forward pass; called with a network it runs it on them."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, network: Callable[..., Any]) -> Any:
        return network(*self.args, **self.kwargs)

    def __len__(self) -> int:
        """Size of the batch: entries of the first argument."""
        return len(next(iter([*self.args, *self.kwargs.values()])))

    def to(self, device: torch.device) -> Inputs:
        """The same with all tensors on ``device``; integers stay integers."""
        return replace(self, args=moved(self.args, device), kwargs=moved(self.kwargs, device))

    def tensors(self) -> Iterator[Tensor]:
        """All tensors inside."""
        yield from tensors_of((self.args, self.kwargs))


def network_inputs(model: nn.Module, batch: Any) -> Inputs:
    """The inputs in a batch, read by what the network's ``forward`` takes.

    A tensor is the input. Of a tuple or list the first entries are, as many as ``forward`` has arguments
    without a default (at least one), and what follows are targets; the first entry may itself hold them,
    be a list of images, or :class:`Inputs`. Of a mapping the entries that ``forward`` knows by name are
    keyword arguments; where it does not know the first, that is the input.

    Raises:
        ValueError: there is no tensor among them, or there are fewer than ``forward`` takes.
    """
    if isinstance(batch, Inputs):
        return batch
    parameters = _parameters(model)
    needed = [
        p
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    inputs = _read(batch, {p.name for p in parameters}, max(len(needed), 1))
    if not any(True for _ in inputs.tensors()):
        first = next(iter([*inputs.args, *inputs.kwargs.values()]), None)
        raise ValueError(f"the input is a {type(first).__name__}; {NEEDED}")
    given = len(inputs.args) + sum(p.name in inputs.kwargs for p in needed)
    if given < len(needed):
        names = ", ".join(p.name for p in needed)
        raise ValueError(f"the network takes {names}, and the batch has {given} inputs; {NEEDED}")
    return inputs


def _read(batch: Any, names: set[str], count: int) -> Inputs:
    if isinstance(batch, Mapping):
        first = next(iter(batch), None)
        if first in names:
            return Inputs(kwargs={key: value for key, value in batch.items() if key in names})
        return Inputs((batch[first],)) if batch else Inputs()
    if not isinstance(batch, tuple | list):
        return Inputs((batch,))
    first = batch[0] if batch else None
    if isinstance(first, Inputs):
        return first
    if isinstance(first, Mapping):
        return _read(first, names, count)
    if isinstance(first, tuple | list):  # a list of images, or the inputs beside their targets
        return Inputs(tuple(first[:count])) if count > 1 else Inputs((list(first),))
    return Inputs(tuple(batch[:count]))


def run_on(network: Callable[..., Any], x: Any) -> Any:
    """The network's output on one argument, or on all that ``x`` holds, an :class:`Inputs`."""
    return x(network) if isinstance(x, Inputs) else network(x)


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # of a compiled extension
        return []


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_of(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_of(part)


def moved(value: Any, device: torch.device) -> Any:
    """The same structure with all tensors on ``device``."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved(part, device) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(part, device) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(moved(part, device) for part in value)
    return value
