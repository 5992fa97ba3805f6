"""Turn a float network into a quantizable one, and back, by swapping layers: no tracing, no editing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from quantizable.bits import ModeLike, parse_modes
from quantizable.network import QuantizableNetwork
from quantizable.nn import recurrent
from quantizable.nn.added_forward import ADDITIONS
from quantizable.nn.addition_search import adding_blocks
from quantizable.nn.additions import Additions
from quantizable.nn.conversion import (
    FirstLast,
    QuantizeConfig,
    check_weights,
    convert,
    quantizable_layers,
)
from quantizable.nn.embedding import EMBEDDINGS
from quantizable.nn.float_copy import same_copy
from quantizable.nn.layers import QuantLayer
from quantizable.nn.left_float import left_float, warn_of_left_float


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
    embedding: bool = False,
    residual: int | None = None,
    assignments: Mapping[str, Mapping[str, ModeLike]] | None = None,
) -> QuantizableNetwork:
    """A quantizable copy of ``model``: the same weights, run at any of ``bits``.

    Convolutions (also grouped, depthwise, transposed, timm's same-padded and weight-standardized ones) and
    linear layers get quantizers for input and weight, so do the products in recurrent layers (``rnn.ih_l0``,
    ``rnn.hh_l0``); norms one copy per mode. The network starts in its highest mode. Call
    ``calibrate(loader)`` before the first quantized use; else the step sizes of the activations come
    from the first training batch, and in evaluation mode from each batch for itself.

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
        attention: also quantize products of two activations: Q K^T and A V of timm's ``Attention``, and
            what else the first batch of ``calibrate`` shows in the code of modules with quantized layers
            (``matmul``, ``@``, ``bmm``, ``baddbmm``, ``einsum``, ``scaled_dot_product_attention``). Calibrate
            before an optimizer is made: they have step sizes. They run at the mode's bits, in float where
            ``exclude`` or an override says ``"float"`` of the module in whose code they are.
        include, exclude: shell patterns (one, or several) of layer names to quantize and to leave in float.
        overrides: options by layer-name pattern, the last match counts: ``{"layer4.*": {"bits": 8}}``;
            keys ``quantizer``, ``per_channel`` and ``bits`` (a fixed width, ``"mode"`` or ``"float"``).
        embedding: also quantize the tables of ``nn.Embedding`` and ``nn.EmbeddingBag``, row by row.
        residual: bits (2 to 16) of the operands of residual additions, as ``8``, in every mode that quantizes
            activations (more where that has more): what engines fuse is then what is trained. They are found
            in blocks with convolutions and named ``layer1.0.additions``; None: additions stay float.
        assignments: bits per layer to hold as modes, by name: ``{"found": {"*": 4, "layer3.*": 2}}``; see
            :meth:`QuantizableNetwork.add_assignment`.

    Raises:
        ValueError: an illegal bit-width, an unknown option, a pattern that matches nothing, a model
            without quantizable layers, with weights that are lazy or that a hook computes, or with norms in
            a plain list.
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
        override_options({} if overrides is None else overrides), embedding, residual,
    )  # fmt: skip
    if isinstance(model, QuantizableNetwork) or any(isinstance(m, QuantLayer) for m in model.modules()):
        raise ValueError("the model is quantizable already; call to_float() on it first to quantize it anew")
    check_weights(model)
    model = same_copy(model)
    recurrent.split_products(model)
    config.include = recurrent.with_products(model, config.include)
    config.exclude = recurrent.with_products(model, config.exclude)
    config.overrides = {
        name: options
        for pattern, options in config.overrides.items()
        for name in recurrent.with_products(model, [pattern])
    }
    layers = quantizable_layers(model, embedding)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no quantizable layers; "
            "needed is at least one convolution, linear or recurrent layer"
        )
    _check_patterns(model, config, layers)
    warn_of_left_float(model, config.exclude, embedding=embedding)
    if embedding and not any(isinstance(m, EMBEDDINGS) for m in model.modules()):
        raise ValueError("embedding=True quantizes the tables of nn.Embedding, but the model has none")
    convert(model, modes, config)
    if not any(isinstance(m, QuantLayer) for m in model.modules()):
        raise ValueError("include, exclude and overrides leave no layer to quantize")
    if residual is not None and not any(isinstance(m, Additions) for m in model.modules()):
        raise ValueError(
            f"residual={residual} quantizes additions of convolutions' outputs, and found none in "
            f"{type(model).__name__}; give residual=None"
        )
    network = QuantizableNetwork(model, modes, config.asdict())
    network.add_assignments(assignments or {})
    return network


def _check_patterns(model: nn.Module, config: QuantizeConfig, layers: Iterable[str]) -> None:
    """``ValueError`` for a pattern of the config that matches no layer and no addition of ``model``."""
    adding = {} if config.residual is None else adding_blocks(model)
    named = [f"{name}.{ADDITIONS}".lstrip(".") for name in adding]
    if config.attention:  # whose products are known by the module whose code has them
        named += [one for name, _ in model.named_modules() for one in (name, f"{name}.products".lstrip("."))]
    named += [*layers, *recurrent.recurrent_layers(model), *left_float(model)[0]]
    for pattern in [*config.include, *config.exclude, *config.overrides]:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ValueError(f"layer pattern {pattern!r} matches nothing; the layers are {', '.join(layers)}")


def to_float(network: QuantizableNetwork, mode: ModeLike | None = None) -> nn.Module:
    """The plain float network again: a copy with the original layer classes and keys.

    Args:
        network: a quantizable network; it is left as it is.
        mode: whose norms to keep; the highest mode by default.
    """
    return network.to_float(mode)
