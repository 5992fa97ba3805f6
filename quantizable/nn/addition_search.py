"""Finds additions of convolutions' outputs in the code of blocks, by ``torch.fx``.

A block's own lines are traced alone: what it calls is not entered, so that it matters little of what kind
that is. A block that cannot be traced keeps its additions in float, and is named.
"""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from quantizable.nn.added_forward import ADDITIONS, may_add
from quantizable.nn.additions import (
    INPUT,
    RANGE,
    Additions,
    ResidualBlock,
    add_operands,
    make_block,
    reading_quantizer,
    restore,
)
from quantizable.nn.embedding import EMBEDDINGS
from quantizable.nn.layers import QuantLayer
from quantizable.nn.norms import PerModeNorm
from quantizable.nn.operands import Operands
from quantizable.quantizers import LSQActivation, LSQAddend, LSQRange, Quantizer

# what these give out is on the grid of what they were given (in evaluation)
PASSING = {"Identity", "Dropout", "Dropout2d", "DropPath", "MaxPool2d", "ReLU", "PadShortcut"}


@dataclass(frozen=True)
class Found:
    """The operands of a block's additions that need a quantizer, and the layers that read some themselves."""

    operands: list[str]
    readers: dict[str, str]


class _Lines(fx.Tracer):
    """Traces a block's own lines."""

    traced_func_name = "added"

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(m, Additions) and not all(isinstance(side, fx.Proxy) for side in args[1:3]):
            return forward(*args, **kwargs)  # of lists, say
        return super().call_module(m, forward, args, kwargs)


def adding_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by name in whose code there is an addition and in which there is a convolution."""
    return {
        name: module
        for name, module in model.named_modules()
        if not isinstance(module, QuantLayer | PerModeNorm | Operands | Quantizer | ResidualBlock)
        and may_add(type(module).forward)
        and any(isinstance(part, _ConvNd) for part in module.modules() if part is not module)
    }


def quantize_additions(
    model: nn.Module,
    bits: Iterable[int],
    width_of: Callable[[str], int | None],
    known: Collection[nn.Module] = (),
) -> None:
    """Give the operands of additions of convolutions' outputs quantizers, in place.

    Args:
        model: with its layers converted.
        bits: activation widths of the modes.
        width_of: bits of the codes in the additions of that name; None: they stay float.
        known: modules to leave as they are.
    """
    untraced, bits = [], [*bits]
    for name, block in adding_blocks(model).items():
        width = width_of(f"{name}.{ADDITIONS}".lstrip("."))
        quantized = any(isinstance(m, QuantLayer) and isinstance(m, _ConvNd) for m in block.modules())
        if block in known or width is None or not quantized:
            continue
        kind = type(block).__name__
        try:
            make_block(block)
            found = _find(block, is_whole=block is model)
        except Exception:  # no source, or whatever the traced code raises
            untraced.append(f"{name or 'the network'} ({kind})")
            found = Found([], {})
        if not found.operands:
            restore(block)
            continue
        readers = {one: reading_quantizer(block, layer) for one, layer in found.readers.items()}
        add_operands(block, found.operands, partial(_quantizer, bits, width, readers))
        block.get_submodule(ADDITIONS).readers = found.readers  # type: ignore[assignment]
    if untraced:
        warnings.warn(
            f"{', '.join(untraced)}: torch.fx cannot read or trace the code, and its additions stay float",
            stacklevel=4,
        )


def _quantizer(
    bits: list[int], width: int, readers: Mapping[str, LSQActivation | None], name: str
) -> LSQAddend:
    return LSQRange(bits, width) if name.endswith(RANGE) else LSQAddend(bits, width, readers.get(name))


def _find(block: Any, is_whole: bool) -> Found:
    """What to quantize in a block; the input of a whole model is no output of a layer and stays as it is."""
    parameters = inspect.signature(block.added).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    graph = _Lines().trace(block, concrete_args=defaults)
    given = None if is_whole else next(iter(graph.nodes))  # its input comes first
    found: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "call_module" and node.target == ADDITIONS:
            number, *sides = node.args[:3]
            if all(_is_activation(side) for side in sides):
                found |= _operands(block, number, sides, given)
    if found and given is not None and _is_read(block, given):
        found = {INPUT: given, **found}
    layers = {name: [_first_layer(block, one.target) for one in x.users] for name, x in found.items()}
    return Found([*found], {name: next(filter(None, own), "") for name, own in layers.items()})


def _operands(block: nn.Module, number: int, sides: list[fx.Node], given: Any) -> dict[str, fx.Node]:
    """The operands that are not on the grid of the block's input, by name; what a module computes adds last.

    Of two such the left one does: a block runs its main branch before its shortcut.
    """
    named = zip(("left", "right"), sides, strict=True)
    other = {name: side for name, side in named if _source(block, side) is not given}
    last = next((name for name, side in other.items() if side.op == "call_module"), None)
    return {f"{number}_{name}{RANGE if name == last else ''}": side for name, side in other.items()}


def _is_read(block: nn.Module, node: fx.Node) -> bool:
    """True if a layer or an addition of the block reads the node, behind what has one input at most.

    An argument that is multiplied, or looked up in a table, is no activation that a block adds to.
    """
    for user in node.users:
        if user.op == "call_module":
            module = block.get_submodule(str(user.target))
            if isinstance(module, EMBEDDINGS):
                continue
            if user.target == ADDITIONS or isinstance(module, QuantLayer) or _first_layer(block, user.target):
                return True
        if len(user.all_input_nodes) == 1 and _is_read(block, user):
            return True
    return False


def _source(block: nn.Module, node: fx.Node) -> Any:
    """The node behind modules that leave values on their grid."""
    while node.op == "call_module" and type(block.get_submodule(str(node.target))).__name__ in PASSING:
        (node,) = node.all_input_nodes
    return node


def _is_activation(value: Any) -> bool:
    """True for tensors that are computed, as far as a graph tells: no parameter, no number."""
    if not isinstance(value, fx.Node) or value.op == "get_attr" or value.target in ("size", "dim", getattr):
        return False
    numbers = getattr(value.target, "__module__", "") == operator.add.__module__
    return not numbers or all(map(_is_activation, value.all_input_nodes))


def _first_layer(block: nn.Module, name: Any) -> str:
    """The layer that a module of that name gives its input to; "" if that is none, or there is no module."""
    module = dict(block.named_modules()).get(name) if isinstance(name, str) else None
    while isinstance(module, nn.Sequential) and len(module):
        first = next(iter(module._modules))
        name, module = f"{name}.{first}", module.get_submodule(first)
    return name if isinstance(module, QuantLayer) else ""
