"""Fit a switchable network to data without gradients: activation step sizes, batch-norm statistics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.bits import FLOAT_BITS, BitMode
from quantizable.nn.layers import QuantLayer
from quantizable.nn.missing_modes import start_without_data
from quantizable.nn.network_inputs import Inputs, moved, network_inputs
from quantizable.nn.norm_statistics import (
    active_batch_norms,
    is_fresh,
)
from quantizable.nn.operands import Operands, QuantOperands
from quantizable.nn.passes import batch_statistics, evaluating
from quantizable.nn.product_search import find_products, quantize_products
from quantizable.quantizers import Quantizer

Widths = dict[str, set[int]]  # bit-widths by name of the quantizer
Forward = Callable[[Any, Any], Any]  # (network, batch) -> anything
Run = Callable[[nn.Module], Any]  # one forward pass of what it is given


def quantizers_of(model: nn.Module) -> dict[str, Quantizer]:
    """All quantizers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}


def lacking(model: nn.Module) -> Widths:
    """The bit-widths of each quantizer that wait for data; none where none came by in calibration."""
    return {n: {*q.lacking()} for n, q in quantizers_of(model).items() if not q.unreached}


def partly_lacking(model: nn.Module, modes: Iterable[BitMode]) -> list[BitMode]:
    """The modes that wait for data at quantizers where others do not: they came after the training."""
    held, blank = quantizers_of(model), lacking(model)
    partly = {name: widths for name, widths in blank.items() if 0 < len(widths) < len(held[name].levels)}
    used = {mode: widths_used(model, [mode]) for mode in modes}
    return [mode for mode, widths in used.items() if any(partly[n] & widths.get(n, set()) for n in partly)]


def start_missing_modes(model: nn.Module, modes: Iterable[BitMode], held: Collection[str]) -> bool:
    """After a checkpoint was loaded: name the modes that it lacks, and start of them what needs no data.

    Args:
        model: the network.
        modes: those it holds.
        held: the keys of the checkpoint, as ``model.state_dict()`` has them.
    """
    start_without_data(model, held)
    found = partly_lacking(model, modes)
    missing = ", ".join(m.name if m.weight == m.activation else repr(m.name) for m in found)
    if missing:
        warnings.warn(
            f"the checkpoint lacks mode {missing}: its step sizes wait for data and its norms start as those "
            f"of the nearest mode; call calibrate(loader, modes=[{missing}]) and reestimate_norms, or train",
            stacklevel=2,
        )
    return bool(missing)


def own_widths(model: nn.Module, modes: Iterable[BitMode], others: Iterable[BitMode]) -> Widths:
    """What calibration of ``modes`` may set: of widths that ``others`` use, too, those never set."""
    asked, shared, blank = widths_used(model, modes), widths_used(model, others), lacking(model)
    return {
        name: widths - shared.get(name, set()) | widths & blank.get(name, set())
        for name, widths in asked.items()
    }


def widths_used(model: nn.Module, modes: Iterable[BitMode]) -> Widths:
    """The bit-widths at which each quantizer runs in these modes."""
    found: Widths = {}
    for name, layer in model.named_modules():
        for mode in modes if isinstance(layer, QuantLayer | Operands) else ():
            own = layer.resolve(mode)
            for part in quantizers_of(layer):
                if "." not in part or part.startswith("operands."):
                    bits = own.weight if part == "weight_quantizer" else own.activation
                    found.setdefault(f"{name}.{part}".lstrip("."), set()).update({bits} - {FLOAT_BITS})
    return found


@torch.no_grad()
def fit_quantizers(model: nn.Module, runs: Iterable[Run], widths: Widths | None = None) -> None:
    """Set the parameters of the quantizers that need data, from a forward pass of each input.

    Activations pass unquantized meanwhile. Batch norms that never saw data (a network from scratch)
    normalize by the batch, as they will in training: their running statistics say nothing yet.

    Args:
        model: the network.
        runs: forward passes, each called with the model.
        widths: the bit-widths to set by name of the quantizer, others stay as they are; None: all.
    """
    waiting = {n: q for n, q in quantizers_of(model).items() if len(q.levels) and not q.starts_initialized()}
    if widths is not None:
        waiting = {name: quantizer for name, quantizer in waiting.items() if widths.get(name)}
    for quantizer in waiting.values():
        quantizer.start_calibration()
    try:
        with evaluating(model), batch_statistics([n for n in active_batch_norms(model) if is_fresh(n)]):
            for run in runs:
                run(model)
        silent = [
            name
            for name, quantizer in waiting.items()
            if not _finish(owner(name), quantizer, None if widths is None else widths[name])
        ]
    finally:  # after an error, too, no quantizer goes on passing everything unchanged
        for quantizer in waiting.values():
            quantizer.stop_calibration()
    if silent:
        owners = sorted({owner(name) for name in silent})
        warnings.warn(
            f"no data passed through {', '.join(owners)}: the network skips these layers or reads their "
            "weights directly, so that they stay float in every mode; name them in exclude=[...] to say "
            "that this is meant",
            stacklevel=4,
        )


def with_products(network: Any, runs: Iterator[Run]) -> Iterable[Run]:
    """The same forward passes, after the first has shown which products of two activations there are.

    With ``attention=True`` their operands get quantizers, in place, which wait for data as others do. Warns
    where neither this pass nor an earlier one found any.
    """
    if not network.config["attention"]:
        return runs
    network.products_sought = True
    first = next(runs)
    with network.at_bits(network.modes[-1]):
        _find_operands(network.model, first, network.config)
    network.refresh()
    return chain([first], runs)


def warn_of_unsought_products(network: Any) -> None:
    """Warn once where ``attention=True`` quantizes nothing, as no calibration showed what there is."""
    if not network.config["attention"] or vars(network).get("products_sought"):
        return
    if isinstance(network._assignment, BitMode) and network._assignment.is_float:
        return
    network.products_sought = True
    running = [q for q in quantizers_of(network.model).values() if q.active is not None]
    loaded = all(q.is_set(q.bits) for q in running)
    if not loaded and not any(isinstance(module, QuantOperands) for module in network.model.modules()):
        warnings.warn(
            "attention=True: calibrate(loader), which finds the products of two activations, did not run, "
            "and they stay float; call it before an optimizer is made, since they have step sizes",
            stacklevel=3,
        )


def _find_operands(model: nn.Module, run: Run, config: Mapping[str, Any]) -> None:
    waiting = [q for q in quantizers_of(model).values() if len(q.levels)]
    for quantizer in waiting:
        quantizer.start_calibration()
    try:
        with evaluating(model), batch_statistics([n for n in active_batch_norms(model) if is_fresh(n)]):
            quantize_products(model, find_products(model, run), config)
    finally:
        for quantizer in waiting:
            quantizer.stop_calibration()
    operands = [module for module in model.modules() if isinstance(module, QuantOperands)]
    for module in operands:  # they were made while the network was in evaluation mode
        module.train(model.training)
    if not operands:
        warnings.warn("attention=True found no product of two activations in this network", stacklevel=5)


def owner(quantizer: str) -> str:
    """Name of the layer, as the user knows it, that a quantizer of that name belongs to."""
    return quantizer.rpartition(".")[0].removeprefix("model.")


def _finish(layer: str, quantizer: Quantizer, widths: set[int] | None) -> bool:
    try:
        return quantizer.finish_calibration(widths)
    except ValueError as error:
        raise ValueError(f"layer {layer!r}: {error}") from None


@torch.no_grad()
def first_inputs(loader: Iterable[Any], batches: int, device: torch.device) -> Iterator[Tensor]:
    """The first entries of up to ``batches`` batches, tensors, on ``device``.

    Raises:
        ValueError: as :func:`first_runs` does, or a first entry is no tensor.
    """
    for count, batch in _first(loader, batches):
        x = input_of(batch)
        if not isinstance(x, Tensor):
            raise ValueError(
                f"batch {count} of the loader is a {type(x).__name__}; needed is a tensor of inputs, or a "
                "tuple, list or mapping whose first entry is one"
            )
        _check_finite(Inputs((x,)), count)
        yield x.to(device)


def first_runs(
    network: nn.Module, loader: Iterable[Any], batches: int, device: torch.device, forward: Forward | None
) -> Iterator[Run]:
    """The forward passes of up to ``batches`` batches, each to be called with a network.

    Args:
        network: a quantizable network, which ``forward`` is given.
        loader: yields batches, see :func:`network_inputs`.
        batches: at least 1.
        device: where tensors go.
        forward: runs the network on a batch, in place of that reading.

    Raises:
        ValueError: the loader is empty or a tensor, a batch has no inputs, or NaN or infinite values.
    """
    for count, batch in _first(loader, batches):
        if forward is not None:
            yield partial(_given_forward, forward, network, moved(batch, device))
            continue
        try:
            inputs = network_inputs(network.get_submodule("model"), batch)
        except ValueError as error:
            raise ValueError(f"batch {count} of the loader: {error}") from None
        _check_finite(inputs, count)
        yield inputs.to(device)


def _given_forward(forward: Forward, network: nn.Module, batch: Any, _: nn.Module) -> Any:
    return forward(network, batch)


def _first(loader: Iterable[Any], batches: int) -> Iterator[tuple[int, Any]]:
    if isinstance(loader, Tensor | Inputs):
        raise ValueError("the loader is a tensor; give a list of batches, as [images]")
    if batches < 1:
        raise ValueError(f"batches is {batches}; at least 1 is needed")
    count = 0
    for count, batch in enumerate(islice(loader, batches), 1):
        yield count, batch
    if count == 0:
        raise ValueError("the loader is empty; give at least one batch of inputs")


def _check_finite(inputs: Inputs, count: int) -> None:
    if not all(torch.isfinite(x).all() or _hides(x) for x in inputs.tensors()):
        raise ValueError(f"batch {count} of the loader has NaN or infinite values; clean the data first")


def _hides(x: Tensor) -> bool:
    """True for a mask that is added: zeros, and minus infinity for what it hides."""
    return bool(((x == 0) | (x == -torch.inf)).all())


def input_of(batch: Any) -> Any:
    """The first entry of a tuple, list or mapping; anything else is the input itself."""
    if isinstance(batch, Mapping):
        return next(iter(batch.values()), None)
    if isinstance(batch, tuple | list):
        return batch[0] if batch else None
    return batch


def check_calibrated(model: nn.Module, unused: Container[str] = ()) -> None:
    """``ValueError`` if an active quantizer of the model, ``unused`` layers left out, never saw data."""
    quantizers = ((name, m) for name, m in model.named_modules() if isinstance(m, Quantizer))
    blank = [name for name, q in quantizers if q.active is not None and not q.is_set(q.bits)]
    blank = [name for name in blank if owner(name.replace(".operands.", ".")) not in unused]
    if blank:
        raise ValueError(
            f"{len(blank)} quantizers have no step size yet ({blank[0]}, ...); train the network or call "
            "calibrate(loader) first"
        )
