"""Which products of a network run on quantized operands in its current mode, and why not the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from quantizable.bits import FLOAT_BITS
from quantizable.measure.macs import PRODUCTS, Macs, count_macs
from quantizable.network import QuantizableNetwork
from quantizable.nn import QuantLayer
from quantizable.nn.operands import QuantOperands
from quantizable.nn.recurrent import Recurrent
from quantizable.nn.swap import quant_class


@dataclass(frozen=True)
class Product:
    """One or more matrix products that run at the same bits for the same reason.

    Attributes:
        name: of the layer or module whose code multiplies; ``NAME.products`` are those of two activations
            in attention.
        kind: class of that module.
        weight: the parameter that is an operand, by its full name; empty: both operands are activations.
        macs: multiply-accumulates for the example.
        share: of all multiply-accumulates, 0 to 1.
        weight_bits, input_bits: the widths of both operands in the current mode, 32 where they are float.
        why: why they are float; empty where they are not.
    """

    name: str
    kind: str
    weight: str
    macs: int
    share: float
    weight_bits: int
    input_bits: int
    why: str


@dataclass(frozen=True)
class Coverage:
    """Every product of a network in one mode; printed, a table and the sum below it.

    Attributes:
        mode: the bits that the network is at, as ``network.bits`` gives them.
        products: in the network's order; what multiplies nothing for the example is left out.
    """

    mode: Any
    products: list[Product]

    @property
    def share(self) -> float:
        """Share of multiply-accumulates whose operands are both quantized, 0 to 1."""
        quantized = sum(p.macs for p in self.products if max(p.weight_bits, p.input_bits) < FLOAT_BITS)
        return quantized / max(sum(p.macs for p in self.products), 1)

    def rows(self) -> list[dict[str, Any]]:
        """The products as plain dictionaries, for tables."""
        return [asdict(product) for product in self.products]

    def __iter__(self) -> Iterator[Product]:
        return iter(self.products)

    def __len__(self) -> int:
        return len(self.products)

    def __str__(self) -> str:
        header = ("product", "class", "MACs", "share", "bits", "why float")
        lines = [header] + [
            (p.name or "(network)", p.kind, f"{p.macs:,}", f"{p.share:.1%}", _bits(p), p.why)
            for p in self.products
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        shown = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        mode = "mixed bits" if isinstance(self.mode, dict) else f"mode {self.mode}"
        hint = ", which is float; call set_bits first to see another" if self.mode == FLOAT_BITS else ""
        return "\n".join([*shown, f"{self.share:.1%} of all products are quantized in {mode}{hint}"])


def _bits(product: Product) -> str:
    if product.weight_bits == product.input_bits == FLOAT_BITS:
        return "float"
    return f"w{product.weight_bits}a{product.input_bits}"


def coverage(network: QuantizableNetwork, example: Any) -> Coverage:
    """Every product of the network, its share, and the bits that it runs at in the current mode.

    Args:
        network: calibrated, trained or neither; it is left as it is.
        example: one batch of inputs on the network's device, as ``calibrate`` reads them.
    """
    counted = count_macs(network, example)
    parts = dict(network.model.named_modules())
    total = sum(counted.own.values())
    found = [
        Product(name, kind, weight, macs, macs / total, *bits, why)
        for name, kind, weight, macs, bits, why in _products(network, parts, counted)
        if macs
    ]
    order = {name: place for place, name in enumerate(parts)}
    found.sort(key=lambda p: order.get(p.name, order.get(p.name.removesuffix(PRODUCTS), 0)))
    return Coverage(network.bits, found)


Found = tuple[str, str, str, int, tuple[int, int], str]


def _products(network: QuantizableNetwork, parts: dict[str, nn.Module], counted: Macs) -> Iterator[Found]:
    for name, macs in counted.own.items():
        part = parts.get(name)
        if isinstance(part, QuantLayer) and not counted.calls.get(f"{name}.input_quantizer", True):
            why = "its forward changes the weight before it multiplies by it"
            yield name, _kind(part), _weight(name, part), macs, (FLOAT_BITS,) * 2, why
        elif isinstance(part, QuantLayer):
            bits = (part.bits.weight, part.bits.activation)
            yield name, _kind(part), _weight(name, part), macs, bits, _float_mode(bits)
        elif isinstance(part, QuantOperands):
            bits = (part.bits.activation,) * 2
            yield name, _kind(part), "", macs, bits, _float_mode(bits)
        elif part is None:  # of a torch MultiheadAttention
            owner = parts[name.removesuffix(PRODUCTS)]
            yield name, _kind(owner), "", macs, (FLOAT_BITS,) * 2, _activations(network)
        else:
            read = counted.read.get(name, {})
            for weight, number in read.items():
                yield name, _kind(part), weight, number, (FLOAT_BITS,) * 2, _why(name, part, weight)
            rest = macs - sum(read.values())
            yield name, _kind(part), "", rest, (FLOAT_BITS,) * 2, _activations(network)


def _kind(part: nn.Module) -> str:
    own = vars(part)
    return own.get("original_class", own.get("original_calls", type(part))).__name__


def _weight(name: str, layer: QuantLayer) -> str:
    leaf = "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"
    return f"{name}.{leaf}".lstrip(".")


def _float_mode(bits: tuple[int, int]) -> str:
    if max(bits) < FLOAT_BITS:
        return ""
    return "float mode" if min(bits) == FLOAT_BITS else "one operand is float in this mode"


def _activations(network: QuantizableNetwork) -> str:
    if network.config["attention"]:
        return "product of two activations that attention=True does not reach"
    return "product of two activations (attention=True quantizes them)"


def _why(name: str, part: nn.Module, weight: str) -> str:
    if weight.rpartition(".")[0] != name:
        return f"reads {weight} past its layer"
    if quant_class(part) is not None or isinstance(part, Recurrent):
        return "left out (include, exclude, first_last or overrides)"
    return f"no quantized form of {_kind(part)}"
