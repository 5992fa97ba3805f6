"""A network with ``set_bits`` from a file: a ``.qz`` artifact or a checkpoint of training."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.bits import BitMode, int_range
from quantizable.functional import QParams
from quantizable.models.create import check_own, create_model
from quantizable.network import QuantizableNetwork
from quantizable.nn import PerModeNorm, QuantAttention
from quantizable.nn.added_forward import ADDITIONS
from quantizable.nn.added_modes import ASSIGNMENTS
from quantizable.nn.additions import RANGE, add_operands
from quantizable.nn.float_copy import same_copy
from quantizable.nn.module_names import names_of, replace_module
from quantizable.nn.reading import PRODUCTS, add_products
from quantizable.nn.recurrent import split_products
from quantizable.nn.swap import quantize_layer
from quantizable.storage.checkpoint import ELSEWHERE, load_checkpoint
from quantizable.storage.hub import INTEGERS, WEIGHTS, check_address, fetch, is_shared, load_folder
from quantizable.storage.packing import unpack
from quantizable.storage.qz import read_qz, stays_float, weight_keys, weight_of
from quantizable.storage.stored_quantizers import StoredInput, StoredRange, StoredWeight

Tensors = dict[str, Tensor]


def load(path: str | Path, model: nn.Module | None = None) -> QuantizableNetwork:
    """A network in evaluation mode, ready for ``set_bits``; it starts in its highest mode.

    Args:
        path: a ``.qz`` file (integers: to run and export), a checkpoint of training, a folder of
            ``save_pretrained``, or ``hf://user/name`` (``hf://user/name@revision``) on the Hugging Face Hub.
        model: the float network, needed only if the file does not say how to build it.

    The result's ``info`` is a dictionary with the class names, mean, std and image size of the data.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_qz` and :func:`load_checkpoint`.
        OSError: the Hub cannot be reached, or refuses access.
    """
    check_address(path)
    if is_shared(path):
        return from_pretrained(path, model)
    if Path(path).suffix == ".qz":
        return load_qz(path, model)
    return load_checkpoint(path, model)


def from_pretrained(name: str | Path, model: nn.Module | None = None, **hub: Any) -> QuantizableNetwork:
    """As :meth:`quantizable.interface.sharing.Sharing.from_pretrained`; ``hub`` as :func:`fetch` takes it."""
    folder = fetch(name, **hub)
    if not (folder / WEIGHTS).is_file() and (folder / INTEGERS).is_file():
        return load_qz(folder / INTEGERS, model)
    return load_folder(folder, model)


def load_qz(path: str | Path, model: nn.Module | None = None) -> QuantizableNetwork:
    """The network of a ``.qz`` file, in evaluation mode; it starts in its highest mode.

    Its weights are the stored integers, so that it can run and be exported, but not trained.

    Args:
        path: the file.
        model: the float network, needed only if the file does not say how to build it; a copy is used.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_qz`; or the integers do not fit the network.
    """
    return open_qz(path, model)[0]


def open_qz(path: str | Path, model: nn.Module | None = None) -> tuple[QuantizableNetwork, dict[str, Any]]:
    """What :func:`load_qz` gives, and the file's metadata."""
    about, tensors = read_qz(path)
    kind = "its own architecture" if model is None else type(model).__name__
    try:
        # what is given stays as it is, and may be given again
        model = _build(path, about["architecture"]) if model is None else same_copy(model)
        network = _fill(model.eval().requires_grad_(False), about, tensors)
        network.info, network.stores_integers = about["info"], True
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} does not fit {kind}: {error}") from error
    return network, about


def _build(path: str | Path, architecture: dict[str, Any] | None) -> nn.Module:
    if architecture is None:
        raise ValueError(
            f"{path} does not name its architecture; pass the float network: load(path, model=...)"
        )
    try:
        check_own(architecture["model"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    options = {key: value for key, value in architecture["model_options"].items() if key not in ELSEWHERE}
    return create_model(architecture["model"], architecture["num_classes"], **options)


def _fill(model: nn.Module, about: dict[str, Any], tensors: Tensors) -> QuantizableNetwork:
    modes = [BitMode.parse(name) for name in about["modes"]]
    integers: set[str] = set()
    split_products(model)
    for name, layer in about["layers"].items():
        if "operands" in layer:
            _fill_operands(model, name, layer["operands"], tensors)
            continue
        module = model.get_submodule(name)
        weight = _read_weight(tensors, name, layer["weight"])
        given = _read_input(tensors, f"{name}.input", layer["input"])
        quantize_layer(module, lambda _, w=weight: w, given, layer["fixed_bits"])  # type: ignore[misc]
        # what `.weight` shows and StdConv reads; no quantized forward uses it
        integers |= weight_keys(model, module)
        weight_of(module).data = weight.value(max(layer["weight"]["widths"]))
    for name in about["norms"]:
        replace_module(model, norm := model.get_submodule(name), held := PerModeNorm(norm, modes))
        for assignment in about["config"].get(ASSIGNMENTS, {}):
            held.add_mode(assignment, modes[-1])
    for name in about.get("unused", ()):  # never called: their float weights are not in the file
        unused = model.get_submodule(name)
        integers |= {f"{one}.{key}" for one in names_of(model, unused) for key in unused.state_dict()}
    state = {key.removeprefix("float."): value for key, value in tensors.items() if key.startswith("float.")}
    result = model.load_state_dict(state, strict=False)
    if result.unexpected_keys:
        raise KeyError(f"unexpected {result.unexpected_keys[0]}")
    # a larger network of the same kind takes all that is stored, and would keep random weights beside it
    if missing := [key for key in result.missing_keys if stays_float(key, integers)]:
        raise KeyError(f"it has no {missing[0]}")
    return QuantizableNetwork(model, modes, about["config"]).eval()


def _fill_operands(model: nn.Module, name: str, operands: dict[str, Any], tensors: Tensors) -> None:
    read = {key: _read_input(tensors, f"{name}.{key}", own) for key, own in operands.items()}
    made = partial(next, iter(read.values()))
    holder, _, last = name.rpartition(".")
    if last == ADDITIONS:
        add_operands(model.get_submodule(holder), operands, read.__getitem__)
    elif last == PRODUCTS:
        add_products(model.get_submodule(holder), operands, made)
    else:
        QuantAttention.convert(model.get_submodule(name), made)


def _read_input(tensors: Tensors, name: str, ranges: dict[str, list[int]]) -> StoredInput:
    grids = {}
    for bits, (low, high) in ranges.items():
        scale, zero_point = tensors[f"{name}.{bits}"].unbind()
        grids[int(bits)] = QParams(scale, zero_point, low, high)
    return StoredRange(grids) if name.endswith(RANGE) else StoredInput(grids)


def _read_weight(tensors: Tensors, name: str, layer: dict[str, Any]) -> StoredWeight:
    codes: dict[int, Tensor] = {}
    grids: dict[int, QParams] = {}
    for key, (low, high) in layer["stored"].items():
        bits, prefix = int(key), f"{name}.weight.{key}"
        codes[bits] = unpack(tensors[f"{prefix}.codes"], tuple(layer["shape"]), low, bits)
        zero_point = tensors[f"{prefix}.zero_point"].reshape(())
        grids[bits] = QParams(tensors[f"{prefix}.scale"], zero_point, low, high)
    if layer["nested"]:
        (top,) = codes
        for bits in layer["widths"]:
            codes[bits], grids[bits] = lower_width(codes[top], grids[top], top, bits)
        codes, grids = ({b: held[b] for b in layer["widths"]} for held in (codes, grids))  # type: ignore[assignment]
    return StoredWeight(grids, codes)


def lower_width(codes: Tensor, grid: QParams, top: int, bits: int) -> tuple[Tensor, QParams]:
    """Codes and grid at ``bits`` bits from those at ``top`` bits: ``W_l = clip(round(W_h / 2^(h-l)))``.

    Double Rounding (arXiv:2502.01199); ``bits`` at most ``top``.
    """
    low, high = int_range(bits, signed=True)
    step = 1 << (top - bits)
    rounded = torch.round(codes.float() / step).clamp(low, high).to(torch.int32)
    return rounded, QParams(grid.scale * step, grid.zero_point, low, high)
