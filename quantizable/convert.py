"""Turn a float network into a quantizable one, and back, by swapping layers: no tracing, no editing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from timm.layers import Attention
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin

from quantizable.bits import FLOAT_BITS, BitMode, ModeLike, check_bits, parse_modes
from quantizable.network import QuantizableNetwork
from quantizable.nn.attention import QuantAttention
from quantizable.nn.float_copy import same_copy
from quantizable.nn.layers import QuantLayer, quant_class, quantize_layer
from quantizable.nn.norms import SHARING, PerModeNorm, is_norm
from quantizable.quantizers import QUANTIZERS, LSQActivation

FirstLast = int | Literal["mode", "float"]
PRODUCTS = (nn.Linear, _ConvNd, nn.MultiheadAttention)
OVERRIDES = ("quantizer", "bits", "per_channel")


@dataclass
class QuantizeConfig:
    """Everything :func:`quantize` was asked for, in plain types; saved with every checkpoint."""

    bits: list[str]
    quantizer: str = "lsq"
    first_last: FirstLast = 8
    norms: str = "per_mode"
    per_channel: bool | None = None
    attention: bool = False
    include: list[str] = field(default_factory=lambda: ["*"])
    exclude: list[str] = field(default_factory=list)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known_quantizer(self.quantizer)
        if self.first_last not in ("mode", "float"):
            self.first_last = fixed_width(self.first_last, 'first_last (or "mode", or "float")')
        true_or_false(self.per_channel, "per_channel")
        if self.norms not in SHARING:
            raise ValueError(f"norms {self.norms!r} is unknown; choose from {', '.join(SHARING)}")
        for pattern, options in self.overrides.items():
            for key, value in options.items():
                if key not in OVERRIDES:
                    raise ValueError(
                        f"override {key!r} of {pattern!r} is unknown; choose from {', '.join(OVERRIDES)}"
                    )
                if key == "quantizer":
                    known_quantizer(value)
                if key == "bits" and value not in ("mode", "float"):
                    options[key] = fixed_width(value, f"bits of override {pattern!r}")
                if key == "per_channel":
                    true_or_false(value, f"per_channel of override {pattern!r}")

    def asdict(self) -> dict[str, Any]:
        """The config as plain dictionaries, lists and scalars."""
        return asdict(self)


def known_quantizer(name: str) -> None:
    """``ValueError`` if no quantizer has that name."""
    if name not in QUANTIZERS:
        raise ValueError(f"quantizer {name!r} is unknown; choose from {', '.join(QUANTIZERS)}")


def fixed_width(bits: Any, what: str) -> int:
    """A width of 2 to 16 bits (1 where the quantizer has it) out of ``8`` or ``"8"``; else ``ValueError``."""
    number = int(bits) if isinstance(bits, str) and bits.strip().isdecimal() else bits  # "8", as for a mode
    if check_bits(number, what) == FLOAT_BITS:
        raise ValueError(f'{what} is 32; write "float" to leave the layer unquantized')
    return int(number)


def true_or_false(value: Any, what: str) -> None:
    """``ValueError`` if ``value`` is neither a bool nor None."""
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}; it must be True, False, or None for the quantizer's own way")


def pattern_list(patterns: str | Iterable[str]) -> list[str]:
    """The patterns as a list; a plain string is one."""
    return [patterns] if isinstance(patterns, str) else list(patterns)


def override_options(overrides: Any) -> dict[str, dict[str, Any]]:
    """A copy of the overrides; ``ValueError`` if they are no mapping of mappings."""
    example = 'a mapping such as {"layer4.*": {"bits": 8}}'
    if not isinstance(overrides, Mapping):
        raise ValueError(f"overrides is {overrides!r}; needed is {example}")
    for pattern, options in overrides.items():
        if not isinstance(options, Mapping):
            raise ValueError(f"override of {pattern!r} is {options!r}, no mapping; overrides is {example}")
    return {pattern: dict(options) for pattern, options in overrides.items()}


def matches(name: str, patterns: Iterable[str]) -> bool:
    """True if a layer's name fits one of the shell patterns (``layer1.*``)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def quantizable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layers that can be quantized, by name, in the order in which the network registers them."""
    return {name: layer for name, layer in model.named_modules() if quant_class(layer) is not None}


def check_weights(model: nn.Module) -> None:
    """``ValueError`` for weights that are not there yet, or that a hook computes anew at each forward."""
    if lazy := [n for n, m in model.named_modules() if isinstance(m, LazyModuleMixin)]:
        raise ValueError(f"{', '.join(lazy)}: lazy layers without weights; run the model on one batch first")
    # a parameter is not in vars(), and such a weight is: a plain tensor, which cannot be copied
    if hooked := [n for n, m in model.named_modules() if isinstance(m, PRODUCTS) and "weight" in vars(m)]:
        raise ValueError(
            f"{', '.join(hooked)}: a hook computes the weight (torch.nn.utils.weight_norm, spectral_norm or "
            "prune); make it a parameter first, with remove_weight_norm(layer), remove_spectral_norm(layer) "
            'or prune.remove(layer, "weight")'
        )


def warn_of_skipped(model: nn.Module) -> None:
    """Name the convolutions, linear and attention layers that will stay float in every mode."""
    skipped = [n for n, m in model.named_modules() if isinstance(m, PRODUCTS) and quant_class(m) is None]
    if skipped:
        warnings.warn(
            f"{', '.join(skipped)}: these layers have a forward of their own that is not known here "
            "and stay float in every mode",
            stacklevel=3,
        )


def first_and_last(model: nn.Module, names: Sequence[str]) -> tuple[set[str], set[str]]:
    """Names of the input layers and of the classifiers: as timm's model config says, else by order."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}

    def named(key: str, fallback: str) -> set[str]:
        listed = config.get(key) or ()
        listed = (listed,) if isinstance(listed, str) else listed
        return {name for name in listed if name in names} or {fallback}

    return named("first_conv", names[0]), named("classifier", names[-1])


def quantize(
    model: nn.Module,
    bits: Iterable[ModeLike] = (2, 4, 8, 32),
    quantizer: str = "lsq",
    *,
    first_last: FirstLast = 8,
    norms: str = "per_mode",
    per_channel: bool | None = None,
    attention: bool = False,
    include: str | Iterable[str] = ("*",),
    exclude: str | Iterable[str] = (),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> QuantizableNetwork:
    """A quantizable copy of ``model``: the same weights, run at any of ``bits``.

    Convolutions (also grouped, depthwise, transposed, timm's same-padded and weight-standardised ones) and
    linear layers get quantizers for input and weight; norms one copy per mode. The network starts
    in its highest mode. Call ``calibrate(loader)`` before the first quantized use; else the step sizes
    of the activations come from the first training batch, and in evaluation mode from each batch for itself.

    Args:
        model: a float network; it is left as it is.
        bits: the modes to hold: integers (2 to 16; 1 where the quantizer defines it; 32 = float) or
            ``"w4a8"``.
        quantizer: ``lsq``, ``lsq_plus``, ``nested``, ``dorefa``, ``dorefa_rescaled``, ``pact``, ``sat``,
            ``sat_original`` or ``sat_modified``.
        first_last: bit-width of the first and the last layer in every quantized mode; ``"mode"``: like the
            others; ``"float"``: never quantized. Images are no ReLU outputs, so that the first layer's
            input is always quantized by LSQ.
        norms: ``"per_mode"``, ``"shared_affine"`` (statistics per mode) or ``"shared"``.
        per_channel: one weight scale per output channel; None: where the quantizer defines it.
        attention: also quantize the products Q K^T and A V of timm's ``Attention``.
        include, exclude: shell patterns (one, or several) of layer names to quantize and to leave in float.
        overrides: options by layer-name pattern, the last match counts: ``{"layer4.*": {"bits": 8}}``;
            keys ``quantizer``, ``per_channel`` and ``bits`` (a fixed width, ``"mode"`` or ``"float"``).

    Raises:
        ValueError: an illegal bit-width, an unknown option, a pattern that matches nothing, a model
            without quantizable layers, or one with weights that are lazy or that a hook computes.
        TypeError: ``model`` is no network.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"the model is {model!r}; needed is a network (torch.nn.Module), as timm.create_model gives"
        )
    modes = parse_modes(bits)
    config = QuantizeConfig(
        [mode.name for mode in modes], quantizer, first_last, norms, per_channel, attention,
        pattern_list(include), pattern_list(exclude),
        override_options({} if overrides is None else overrides),
    )  # fmt: skip
    if isinstance(model, QuantizableNetwork) or any(isinstance(m, QuantLayer) for m in model.modules()):
        raise ValueError("the model is quantizable already; call to_float() on it first to quantize it anew")
    check_weights(model)
    layers = quantizable_layers(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no quantizable layers; "
            "needed is at least one convolution or linear layer"
        )
    for pattern in [*config.include, *config.exclude, *config.overrides]:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ValueError(f"layer pattern {pattern!r} matches nothing; the layers are {', '.join(layers)}")
    warn_of_skipped(model)
    first, last = first_and_last(model, list(layers))
    model = same_copy(model)
    for name, layer in quantizable_layers(model).items():
        options = layer_options(config, name, name in first | last)
        if options is not None:
            _quantize(layer, modes, options, is_input=name in first)
    if not any(isinstance(m, QuantLayer) for m in model.modules()):
        raise ValueError("include, exclude and overrides leave no layer to quantize")
    if attention:
        _quantize_attention(model, modes, quantizer)
    if norms != "shared":
        _split_norms(model, modes, shared_affine=norms == "shared_affine")
    return QuantizableNetwork(model, modes, config.asdict())


def layer_options(config: QuantizeConfig, name: str, is_end: bool) -> dict[str, Any] | None:
    """Quantizer, fixed width and granularity of one layer; None if it stays float."""
    if not matches(name, config.include) or matches(name, config.exclude):
        return None
    options = {
        "quantizer": config.quantizer,
        "bits": config.first_last if is_end else "mode",
        "per_channel": config.per_channel,
    }
    for pattern, override in config.overrides.items():
        if fnmatchcase(name, pattern):
            options |= override
    return None if options["bits"] == "float" else options


def channel_axis(layer: nn.Module) -> int | None:
    """Axis of the output channels in the layer's weight; None where no single axis holds them."""
    if getattr(layer, "transposed", False):
        return 1 if layer.groups == 1 else None
    return 0


def _quantize(layer: nn.Module, modes: list[BitMode], options: dict[str, Any], is_input: bool) -> None:
    fixed = None if options["bits"] == "mode" else options["bits"]
    weight_bits = {fixed or m.weight for m in modes if m.weight != FLOAT_BITS}
    input_bits = {fixed or m.activation for m in modes if m.activation != FLOAT_BITS}
    recipe = QUANTIZERS[options["quantizer"]]
    per_channel = recipe.per_channel if options["per_channel"] is None else options["per_channel"]
    axis = channel_axis(layer) if per_channel else None
    activation = LSQActivation if is_input else recipe.activation
    if 1 in input_bits and activation.min_bits > recipe.activation.min_bits:
        raise ValueError(
            f"the first layer would run at 1 bit, but its input is read by LSQ whatever the quantizer, which "
            f"has {activation.min_bits} bits at least; give it more (first_last=8, or an override), or "
            'all activations ("w1a8")'
        )
    quantize_layer(
        layer,
        lambda weight: recipe.weight(weight, weight_bits, axis),
        activation(input_bits),
        fixed,
    )


def _quantize_attention(model: nn.Module, modes: list[BitMode], quantizer: str) -> None:
    blocks = [m for m in model.modules() if type(m) is Attention]
    if not blocks:
        raise ValueError(
            "attention=True quantizes timm's Attention blocks (ViT, DeiT), but the model has none"
        )
    bits = {m.activation for m in modes}
    if 1 in bits:
        raise ValueError(
            "attention=True quantizes queries, keys and values, which have negative values, and 1-bit "
            'activations have none; give activations more bits ("w1a8"), or attention=False'
        )
    for block in blocks:
        QuantAttention.convert(block, lambda: QUANTIZERS[quantizer].activation(bits))


def _split_norms(model: nn.Module, modes: list[BitMode], shared_affine: bool) -> None:
    split: dict[nn.Module, PerModeNorm] = {}  # a norm that a network uses in two places stays one
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if is_norm(child):
                if child not in split:
                    split[child] = PerModeNorm(child, modes, shared_affine)
                setattr(parent, name, split[child])


def to_float(network: QuantizableNetwork, mode: ModeLike | None = None) -> nn.Module:
    """The plain float network again: a copy with the original layer classes and keys.

    Args:
        network: a quantizable network; it is left as it is.
        mode: whose norms to keep; the highest mode by default.
    """
    return network.to_float(mode)
