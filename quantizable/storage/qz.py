"""``model.qz``: every integer mode of a network in one small file.

A safetensors file: weights as integers packed at their bit-width, per mode the scales, zero points and norms,
and as metadata the architecture, the preprocessing, a format version and a checksum. Reading it runs no code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from quantizable.bits import FLOAT_BITS, BitMode, ModeLike
from quantizable.calibrate import check_calibrated
from quantizable.network import QuantizableNetwork
from quantizable.nn import PerModeNorm, QuantLayer
from quantizable.nn.added_modes import ASSIGNMENTS
from quantizable.nn.conversion import check_weights
from quantizable.nn.layer_calls import layer_calls
from quantizable.nn.layer_modes import NamedModes
from quantizable.nn.module_names import names_of
from quantizable.nn.network_inputs import Inputs
from quantizable.nn.operands import Operands
from quantizable.nn.passes import evaluating
from quantizable.nn.recurrent_products import Product
from quantizable.quantizers import Quantizer
from quantizable.quantizers.nested import NestedWeight
from quantizable.report.files import check_target, written_whole
from quantizable.storage.golden import golden
from quantizable.storage.integers import reached_range
from quantizable.storage.network_file import CHANGED, check_file
from quantizable.storage.outputs import tensors_in
from quantizable.storage.packing import pack
from quantizable.storage.preprocessing import preprocessing
from quantizable.storage.signature import example_inputs

FORMAT_VERSION = 1
METADATA, CHECKSUM = "quantizable", "sha256"


def save_qz(
    network: QuantizableNetwork,
    path: str | Path,
    modes: Iterable[ModeLike] | None = None,
    architecture: dict[str, Any] | None = None,
) -> None:
    """Write the integer modes of a network.

    Args:
        network: calibrated or trained.
        path: the file to write, by custom ``*.qz``.
        modes: which modes and assignments of the network, at least one mode; by default all that quantize the
            weights.
        architecture: how ``create_model`` builds the float network: ``{"model": "resnet18", "num_classes": 9,
            "model_options": {}}``; by default what the checkpoint or timm's config says. Without it the
            file loads with ``load(path, model=...)`` only.

    Raises:
        ValueError: a mode the network lacks or that keeps float weights, or no calibration.
        OSError: the target cannot be written.
    """
    path = check_target(path)
    check_weights(network.model)
    chosen, named = _chosen(network, modes)
    tensors: dict[str, Tensor] = {}
    layers: dict[str, dict[str, Any]] = {}
    dropped: set[str] = set()
    unused = _unused_layers(network, chosen[0])
    left_out = [] if _are_read(network, unused, chosen[0]) else unused
    stored: list[ModeLike] = [*chosen, *named]
    for one in stored:
        with network.at_bits(one):
            check_calibrated(network.model, unused)
    for name, layer in {**network.layers(), **network.additions()}.items():
        own_names = names_of(network.model, layer)
        if name in unused:
            if name in left_out:
                dropped |= {f"{one}.{key}" for one in own_names for key in layer.state_dict()}
            continue
        asked = [*chosen, *(own.layer_mode(name) for own in named.values())]
        widths = [layer.resolve(mode) for mode in asked]
        if isinstance(layer, Operands):
            layers[name] = {"operands": {
                key: _store_input(tensors, f"{name}.{key}", operand, widths)  # type: ignore[arg-type]
                for key, operand in layer.operands.items()
            }}  # fmt: skip
            continue
        layers[name] = {
            "fixed_bits": layer.fixed_bits,
            "weight": _store_weight(tensors, name, layer, sorted({w.weight for w in widths})),
            "input": _store_input(tensors, f"{name}.input", layer.input_quantizer, widths),
        }
        dropped |= weight_keys(network.model, layer)
    tensors |= _float_state(network, {*map(str, chosen), *named}, dropped)
    about = {
        "format_version": FORMAT_VERSION,
        "modes": [mode.name for mode in chosen],
        "architecture": architecture or describe_architecture(network),
        "info": preprocessing(network),
        "config": _config(network, named),
        "layers": layers,
        "norms": list(network.norms()),
        "unused": unused,
    }
    about |= _samples(network, [*chosen, *named])
    metadata = json.dumps(about)
    contiguous = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with written_whole(path) as temporary:
        # written by Python, as safetensors' own file is for its owner's eyes only
        about_file = {METADATA: metadata, CHECKSUM: checksum(contiguous, metadata)}
        temporary.write_bytes(_in_order(save(contiguous, about_file)))


def _chosen(
    network: QuantizableNetwork, modes: Iterable[ModeLike] | None
) -> tuple[list[BitMode], dict[str, NamedModes]]:
    """The modes to store, from the lowest to the highest, and the assignments by name."""
    held = network.assignments
    asked: list[ModeLike] = [*integer_modes(network), *held] if modes is None else [*modes]
    named = {str(mode): held[str(mode)] for mode in asked if mode in held}
    chosen = sorted({network.check_mode(mode) for mode in asked if mode not in held})
    keeps = [mode.name for mode in chosen if mode.weight == FLOAT_BITS]
    keeps += [
        name for name, own in named.items() if any(mode.weight == FLOAT_BITS for mode in own.of_layers())
    ]
    if keeps:
        raise ValueError(
            f"mode {', '.join(keeps)} keeps float weights; a .qz file holds integer weights only"
        )
    if not chosen:
        more = f" beside {', '.join(named)}, as 8" if named else ""
        raise ValueError(f"there is no mode to store; name at least one{more}")
    return chosen, named


def _example(network: QuantizableNetwork) -> Inputs | None:
    """A batch of one on the network's device, or None where nothing says what the network takes."""
    try:
        return example_inputs(network, 1).to(next(network.parameters()).device)
    except ValueError:
        return None


def _config(network: QuantizableNetwork, named: Collection[str]) -> dict[str, Any]:
    """The network's config with those of its assignments alone that are stored."""
    kept = {name: own for name, own in network.config.get(ASSIGNMENTS, {}).items() if name in named}
    others = {key: value for key, value in network.config.items() if key != ASSIGNMENTS}
    return others | ({ASSIGNMENTS: kept} if kept else {})


def _samples(network: QuantizableNetwork, modes: Sequence[BitMode | str]) -> dict[str, Any]:
    """Golden samples of the modes, if it is known what the network takes."""
    if _example(network) is None:
        return {}
    return {"golden": golden(network, {str(mode): mode for mode in modes}).plain()}


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its header's entries in order: safetensors shuffles those of the metadata."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def read_qz(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a file, after its version and its checksum were found right.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated, changed, of a newer format version, or no ``.qz`` at all.
    """
    path = Path(path)
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated or no .qz file ({error}); copy or export it again") from error
    if METADATA not in metadata or CHECKSUM not in metadata:
        raise ValueError(f"{path} is no .qz file of this library: it lacks the metadata {METADATA!r}")
    try:
        about = json.loads(metadata[METADATA])
        version = int(about["format_version"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} has unreadable metadata; copy or export it again") from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this library reads up to {FORMAT_VERSION}: update it"
        )
    if checksum(tensors, metadata[METADATA]) != metadata[CHECKSUM]:
        raise ValueError(CHANGED.format(path))
    return about, tensors


def checksum(tensors: dict[str, Tensor], metadata: str) -> str:
    """SHA-256 over the metadata and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weight_of(layer: nn.Module) -> nn.Parameter:
    """The parameter that a layer's weight quantizer quantizes."""
    name = "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"
    return getattr(layer, name)  # type: ignore[no-any-return]


def weight_keys(model: nn.Module, layer: nn.Module) -> set[str]:
    """The keys of that parameter in the state dict of a network, one for each name of its module."""
    weight = weight_of(layer)
    holder = layer.layer if isinstance(layer, Product) else layer
    assert isinstance(holder, nn.Module)
    names = [name for name, held in holder.named_parameters(recurse=False) if held is weight]
    if not names:
        raise ValueError(
            f"{next(iter(names_of(model, holder)))}: a parametrization computes the weight; make it "
            "permanent first, with torch.nn.utils.parametrize.remove_parametrizations"
        )
    return {f"{one}.{names[0]}".lstrip(".") for one in names_of(model, holder)}


def stays_float(key: str, dropped: set[str]) -> bool:
    """True for the entries of a state dict that a file stores as they are.

    Not so are quantizers, counters of batches and ``dropped``, the weights that are stored as integers.
    """
    quantizer = {"input_quantizer", "weight_quantizer", "operands"} & set(key.split("."))
    return not quantizer and key not in dropped and not key.endswith("num_batches_tracked")


UNNAMED: dict[str, Any] = {"model": None, "num_classes": None, "model_options": {}}  # a module of one's own


def describe_architecture(network: QuantizableNetwork) -> dict[str, Any] | None:
    """How ``create_model`` builds the float network: from the checkpoint's info, else from timm's config."""
    info = network.info
    if info.get("model"):
        return {key: info[key] for key in ("model", "num_classes", "model_options")}
    name = (getattr(network.model, "pretrained_cfg", None) or {}).get("architecture")
    classes = getattr(network.model, "num_classes", None)
    return {"model": name, "num_classes": classes, "model_options": {}} if name and classes else None


def integer_modes(network: QuantizableNetwork) -> list[BitMode]:
    """The modes that quantize the weights: those a ``.qz`` file can hold."""
    return [mode for mode in network.modes if mode.weight != FLOAT_BITS]


def _unused_layers(network: QuantizableNetwork, mode: BitMode) -> list[str]:
    """Layers that never saw data because evaluation never calls them (heads of training alone)."""
    blank = {
        name: layer for name, layer in {**network.layers(), **network.additions()}.items()
        if any(isinstance(part, Quantizer) and not part.initialised for part in layer.modules())
    }  # fmt: skip
    if not blank or len(blank) == len(network.layers()):
        return []
    example = _example(network)
    if example is None:  # then calibration alone knows
        return [name for name, layer in blank.items() if _unreached(layer)]
    with network.at_bits(mode), evaluating(network):
        calls = layer_calls(network, blank, example)
    return [name for name in blank if not calls[name]]


def _unreached(layer: nn.Module) -> bool:
    """True if calibration ran, and no data passed through the layer."""
    waiting = [m for m in layer.modules() if isinstance(m, Quantizer) and not m.initialised]
    return all(quantizer.unreached for quantizer in waiting)


@torch.no_grad()
def _are_read(network: QuantizableNetwork, layers: list[str], mode: BitMode) -> bool:
    """True if the outputs may depend on layers that are never called: a forward can read their weights."""
    example = _example(network)
    if example is None or not layers:
        return True
    altered = deepcopy(network)
    answers: list[list[Tensor]] = []
    for name in layers:
        for tensor in altered.model.get_submodule(name).parameters():
            tensor.fill_(float("nan"))
    for one in (network, altered):
        with one.at_bits(mode), evaluating(one):
            answers.append([*tensors_in(example(one))])
    return not all(map(torch.equal, *answers))


@torch.no_grad()
def _store_weight(
    tensors: dict[str, Tensor], name: str, layer: QuantLayer, widths: list[int]
) -> dict[str, Any]:
    """Put a layer's integers among the tensors; what to know to read them back."""
    quantizer, weight = layer.weight_quantizer, layer.float_weight()
    # one set of the highest integers, or each width's own: whichever takes fewer bits
    top = getattr(quantizer, "highest", 0)
    nested = isinstance(quantizer, NestedWeight) and sum(widths) > top
    stored = {}
    for bits in [top] if nested else widths:
        codes, grid = quantizer.codes(weight, bits), quantizer.qparams(weight, bits)
        key = f"{name}.weight.{bits}"
        tensors[f"{key}.codes"] = pack(codes.cpu(), grid.quant_min, bits)
        tensors[f"{key}.scale"] = grid.scale.float()
        tensors[f"{key}.zero_point"] = grid.zero_point.float().flatten()[:1]
        stored[str(bits)] = [grid.quant_min, grid.quant_max]
    return {"shape": list(weight.shape), "stored": stored, "widths": widths, "nested": nested}


def _store_input(
    tensors: dict[str, Tensor], name: str, quantizer: Quantizer, modes: list[BitMode]
) -> dict[str, list[int]]:
    """Put an input's grids among the tensors; the code range of each bit-width."""
    ranges = {}
    for bits in sorted({mode.activation for mode in modes} - {FLOAT_BITS}):
        grid = quantizer.qparams(torch.zeros(1), bits)
        tensors[f"{name}.{bits}"] = torch.stack(
            [grid.scale.float().reshape(()), grid.zero_point.float().reshape(())]
        )
        ranges[str(bits)] = list(reached_range(quantizer, bits))
    return ranges


def _float_state(network: QuantizableNetwork, names: set[str], dropped: set[str]) -> dict[str, Tensor]:
    """What stays float: biases, the norms of modes of these names, embeddings, layers left out."""
    modules = network.model.named_modules(remove_duplicate=False)
    norms = {name: norm for name, norm in modules if isinstance(norm, PerModeNorm)}
    state = {}
    for key, value in network.model.state_dict().items():
        of_norm = next((name for name in norms if key.startswith(f"{name}.norms.")), None)
        if of_norm is not None and key.removeprefix(f"{of_norm}.norms.").split(".")[0] not in names:
            continue
        if stays_float(key, dropped):
            state[f"float.{key}"] = value.clone()
    return state
