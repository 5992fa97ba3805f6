"""Which layers, norms and attention blocks are swapped, by which quantizers, and the swap, in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

from timm.layers import Attention
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from quantizable.bits import FLOAT_BITS, BitMode, check_bits
from quantizable.interface.errors import unknown
from quantizable.nn.addition_search import quantize_additions
from quantizable.nn.attention import QuantAttention
from quantizable.nn.embedding import EMBEDDINGS
from quantizable.nn.fused_relu import fuse_relus
from quantizable.nn.layers import QuantLayer
from quantizable.nn.left_float import PRODUCTS
from quantizable.nn.norms import SHARING, PerModeNorm, is_norm
from quantizable.nn.own_forward import has_inputs_first
from quantizable.nn.recurrent_products import Product
from quantizable.nn.swap import quant_class, quantize_layer
from quantizable.quantizers import QUANTIZERS, LSQActivation, Quantizer

FirstLast = int | Literal["mode", "float"]
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
    embedding: bool = False
    residual: int | None = None
    assignments: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known_quantizer(self.quantizer)
        if self.first_last not in ("mode", "float"):
            self.first_last = fixed_width(self.first_last, 'first_last (or "mode", or "float")')
        true_or_false(self.per_channel, "per_channel")
        if self.residual is not None:
            self.residual = fixed_width(self.residual, "residual", float_word="None")
            if self.residual < 2:
                raise ValueError(f"residual is {self.residual}; give at least 2 bits, or None")
        if self.norms not in SHARING:
            raise ValueError(unknown("norms", self.norms, SHARING))
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
        """The config as plain dictionaries, lists and scalars; without assignments it does not name them."""
        return {key: value for key, value in asdict(self).items() if key != "assignments" or value}


OWN_NAMES = frozenset(vars(nn.Module()))  # attributes of every module


def known_quantizer(name: str) -> None:
    """``ValueError`` if no quantizer has that name."""
    if name not in QUANTIZERS:
        raise ValueError(unknown("quantizer", name, QUANTIZERS))


def fixed_width(bits: Any, what: str, float_word: str = '"float"') -> int:
    """A width of 2 to 16 bits (1 where the quantizer has it) out of ``8`` or ``"8"``; else ``ValueError``."""
    number = int(bits) if isinstance(bits, str) and bits.strip().isdecimal() else bits  # "8", as for a mode
    if check_bits(number, what) == FLOAT_BITS:
        raise ValueError(f"{what} is 32; write {float_word} to leave it unquantized")
    return int(number)


def true_or_false(value: Any, what: str) -> None:
    """``ValueError`` if ``value`` is neither a bool nor None."""
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}; it must be True, False, or None for the quantizer's own way")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """True if a layer's name fits one of the shell patterns (``layer1.*``)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def quantizable_layers(model: nn.Module, embedding: bool = False) -> dict[str, nn.Module]:
    """Layers that can be quantized, by name, in the order in which the network registers them.

    Args:
        model: a network whose recurrent layers have their products (``recurrent.split_products``).
        embedding: embeddings among them.
    """
    read_past = {
        m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention) and quant_class(m) is None
    }  # a float attention never calls its own
    return {
        name: layer
        for name, layer in model.named_modules()
        if quant_class(layer) is not None
        and layer not in read_past
        and (embedding or not isinstance(layer, EMBEDDINGS))
    }


def multiplying(model: nn.Module) -> list[str]:
    """Names of the layers that multiply and can be quantized, or are."""
    known = (
        (n, isinstance(m, QuantLayer) or quant_class(m) is not None, m) for n, m in model.named_modules()
    )
    return [name for name, is_known, m in known if is_known and not isinstance(m, EMBEDDINGS)]


def check_weights(model: nn.Module, within: str = "") -> None:
    """``ValueError`` for weights that are not there yet, or that a hook computes anew at each forward.

    Args:
        model: a network, or a part of one.
        within: the part's name.
    """

    def names(of: Callable[[nn.Module], bool]) -> str:
        found = (name for name, module in model.named_modules() if of(module))
        return ", ".join(".".join(filter(None, (within, name))) for name in found)

    if lazy := names(lambda m: isinstance(m, LazyModuleMixin)):
        raise ValueError(f"{lazy}: lazy layers without weights; run the model on one batch first")
    # a parameter is not in vars(), and such a weight is: a plain tensor, which cannot be copied
    if hooked := names(
        lambda m: (
            isinstance(m, PRODUCTS)
            and any(n.startswith("weight") and isinstance(w, Tensor) for n, w in vars(m).items())
        )
    ):
        raise ValueError(
            f"{hooked}: a hook computes the weight (torch.nn.utils.weight_norm, spectral_norm or "
            "prune); make it a parameter first, with remove_weight_norm(layer), remove_spectral_norm(layer) "
            'or prune.remove(layer, "weight")'
        )


def first_and_last(model: nn.Module, names: Sequence[str]) -> tuple[set[str], set[str]]:
    """Names of the input layers and of the classifiers: as timm's model config says, else by order."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}

    def named(key: str, fallback: str) -> set[str]:
        listed = config.get(key) or ()
        listed = (listed,) if isinstance(listed, str) else listed
        return {name for name in listed if name in names} or {fallback}

    first, last = named("first_conv", names[0]), named("classifier", names[-1])
    if isinstance(model.get_submodule(names[0]), Product):  # a recurrent layer reads its input both ways
        first |= {f"{names[0]}_reverse"} & {*names}
    # what a recurrent layer makes of its own state is no class
    return first, {name for name in last if not isinstance(model.get_submodule(name), Product)}


def convert(
    model: nn.Module, modes: list[BitMode], config: QuantizeConfig, known: Collection[nn.Module] = ()
) -> None:
    """Swap the layers, norms and attention blocks of ``model`` in place.

    Args:
        model: a network; what is converted already stays, and tells with the others which layers are ends.
        modes: the modes to hold.
        config: how.
        known: modules to leave as they are.
    """
    names = multiplying(model)
    first, last = first_and_last(model, names) if names else (set(), set())
    for name, layer in quantizable_layers(model, config.embedding).items():
        options = layer_options(config, name, name in first | last)
        if options is not None and layer not in known:
            _quantize(layer, modes, options, is_input=name in first)
    if config.attention:
        _quantize_attention(model, config)
    if config.residual is not None:
        widths = {mode.activation for mode in modes} - {FLOAT_BITS}
        quantize_additions(model, widths, partial(addition_width, config), known)
    if config.norms != "shared":
        _split_norms(model, modes, config)
    fuse_relus(model)


def classifier_of(model: nn.Module) -> tuple[str | None, int | None]:
    """Name of the model's classifier and its outputs; None for what there is not."""
    names = multiplying(model)
    last = first_and_last(model, names)[1] if names else set()
    if not last:
        return None, None
    name = max(last, key=names.index)
    head = model.get_submodule(name)
    width = getattr(head, "out_features", getattr(head, "out_channels", None))
    return name, width if isinstance(width, int) else None


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


def addition_width(config: QuantizeConfig, name: str) -> int | None:
    """Bits of the operands of additions by the name of these; None if they stay float."""
    options = layer_options(config, name, is_end=False)
    if options is None:
        return None
    return config.residual if options["bits"] == "mode" else options["bits"]


def channel_axis(layer: nn.Module) -> int | None:
    """Axis of the output channels in the layer's weight; None where no single axis holds them."""
    if getattr(layer, "transposed", False):
        return 1 if layer.groups == 1 else None
    return 1 if has_inputs_first(layer) else 0


def _quantize(layer: nn.Module, modes: list[BitMode], options: dict[str, Any], is_input: bool) -> None:
    fixed = None if options["bits"] == "mode" else options["bits"]
    weight_bits = {fixed or m.weight for m in modes if m.weight != FLOAT_BITS}
    looked_up = isinstance(layer, EMBEDDINGS)  # what is looked up is no activation
    input_bits = {fixed or m.activation for m in modes if m.activation != FLOAT_BITS and not looked_up}
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


def operand_quantizer(config: Mapping[str, Any]) -> Quantizer:
    """A new quantizer for an operand of a product of two activations.

    Args:
        config: of a network, as plain types.
    """
    bits = {BitMode.parse(mode).activation for mode in config["bits"]}
    return QUANTIZERS[config["quantizer"]].activation(bits)


def stays_float(config: Mapping[str, Any], name: str) -> bool:
    """True if the products in the code of the module of that name are to stay float.

    Args:
        config: of a network, as plain types.
        name: of the module; patterns may also name ``NAME.products``.
    """
    asked = QuantizeConfig(**{**config, "include": ["*"]})  # which names the layers to quantize
    names = (name, f"{name}.products".lstrip("."))
    return any(layer_options(asked, one, is_end=False) is None for one in names)


def _quantize_attention(model: nn.Module, config: QuantizeConfig) -> None:
    named = {name: m for name, m in model.named_modules() if type(m) is Attention}
    blocks = [m for name, m in named.items() if not stays_float(config.asdict(), name)]
    if 1 in {BitMode.parse(mode).activation for mode in config.bits}:
        raise ValueError(
            "attention=True quantizes queries, keys and values, which have negative values, and 1-bit "
            'activations have none; give activations more bits ("w1a8"), or attention=False'
        )
    for block in blocks:
        QuantAttention.convert(block, lambda: operand_quantizer(config.asdict()))


def _split_norms(model: nn.Module, modes: list[BitMode], config: QuantizeConfig) -> None:
    split: dict[nn.Module, PerModeNorm] = {}  # a norm that a network uses in two places stays one
    inside = {m for n in model.modules() if isinstance(n, PerModeNorm) for m in n.modules()}
    for parent in [m for m in model.modules() if m not in inside]:
        for name, child in list(parent._modules.items()):  # a second name of one norm too
            if child is not None and is_norm(child):
                if child not in split:
                    split[child] = PerModeNorm(child, modes, config.norms == "shared_affine")
                    for assignment in config.assignments:
                        split[child].add_mode(assignment, modes[-1])
                setattr(parent, name, split[child])
    _check_lists(model, split)


def _check_lists(model: nn.Module, norms: Collection[nn.Module]) -> None:
    """``ValueError`` for a norm that the code also reaches by a plain list, tuple or dict."""
    for parent in model.modules():
        for name, value in vars(parent).items():
            if name in OWN_NAMES or not isinstance(value, list | tuple | dict):
                continue
            inside = value.values() if isinstance(value, dict) else value
            if any(isinstance(one, nn.Module) and one in norms for one in inside):
                raise ValueError(
                    f"{type(parent).__name__}.{name} holds norms in a plain {type(value).__name__}, where no "
                    "mode can be switched; make it an nn.ModuleList or nn.ModuleDict"
                )
