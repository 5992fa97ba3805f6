"""Finds products of two activations by a forward pass, and gives them quantizers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quantizable.nn.attention import QuantAttention
from quantizable.nn.conversion import operand_quantizer, stays_float
from quantizable.nn.functional_calls import is_activation, products
from quantizable.nn.layers import QuantLayer
from quantizable.nn.operands import QuantOperands
from quantizable.nn.reading import PRODUCTS, add_products
from quantizable.nn.watching import watching
from quantizable.quantizers import Quantizer

KEY = re.compile(rf"^(?:(.*)\.)?{PRODUCTS}\.operands\.(\d+_(?:left|right))\.")
ATTENTION = re.compile(r"^(.+)\.operands\.(?:q|k|attn|v)\.")


class _Finder(TorchFunctionMode):
    """Numbers the products of each call of each module, and keeps those of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[list[Any]] = []  # [name of the module, products so far] from the outermost call
        self.found: dict[str, set[int]] = defaultdict(set)

    def enter(self, name: str, *_: Any) -> None:
        self.running.append([name, 0])

    def leave(self, *_: Any) -> None:
        self.running.pop()

    def multiply(self, left: Tensor, right: Tensor, product: Callable[..., Tensor]) -> Tensor:
        if self.running:
            name, number = self.running[-1]
            self.running[-1][1] += 1
            if is_activation(left) and is_activation(right):
                self.found[name].add(number)
        return product(left, right)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return products(func, args, kwargs or {}, self.multiply)


@torch.no_grad()
def find_products(model: nn.Module, run: Callable[[nn.Module], Any]) -> dict[str, set[int]]:
    """Numbers of the products of two activations in the code of each module, by its name.

    Only modules with quantized layers inside count: what others multiply are positions, say.

    Args:
        model: with quantizers in calibration, so that no layer takes a fused path.
        run: a forward pass of it.
    """
    modules = {name: m for name, m in model.named_modules() if not isinstance(m, Quantizer)}
    finder = _Finder()
    with watching(modules, finder.enter, before=True), watching(modules, finder.leave), finder:
        run(model)
    return {name: numbers for name, numbers in finder.found.items() if _may_hold(modules[name])}


def _may_hold(module: nn.Module) -> bool:
    if hasattr(module, PRODUCTS) or isinstance(module, QuantOperands):
        return False  # has its own, or something else of that name
    if isinstance(module, QuantLayer):
        return isinstance(module, nn.MultiheadAttention)
    return any(isinstance(part, QuantLayer) for part in module.modules())


def quantize_products(model: nn.Module, found: dict[str, set[int]], config: Mapping[str, Any]) -> None:
    """Give the operands of the products found quantizers, in place, by the config of the network."""
    for name, numbers in found.items():
        if stays_float(config, name):
            continue
        operands = [f"{number}_{side}" for number in sorted(numbers) for side in ("left", "right")]
        add_products(model.get_submodule(name), operands, partial(operand_quantizer, config))


def adopt_products(model: nn.Module, keys: Iterable[str], config: Mapping[str, Any]) -> None:
    """Make what a checkpoint has of such quantizers and ``model`` lacks, in place.

    Args:
        model: the converted network.
        keys: of the checkpoint, as ``model.state_dict()`` has them.
        config: of the network.
    """
    held: dict[str, dict[str, None]] = defaultdict(dict)
    names = dict(model.named_modules())
    for key in keys:
        attention = ATTENTION.match(key)
        if attention and type(names.get(attention[1])) is Attention:  # older files know no such exclusion
            QuantAttention.convert(names[attention[1]], partial(operand_quantizer, config))
        if match := KEY.match(key):
            holder, operand = match[1] or "", match[2]
            if holder in names and f"{holder}.{PRODUCTS}.operands.{operand}".lstrip(".") not in names:
                held[holder][operand] = None
    for holder, operands in held.items():
        add_products(names[holder], operands, partial(operand_quantizer, config))
