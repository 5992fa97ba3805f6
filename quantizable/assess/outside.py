"""Models of other frameworks, and files of ours, as callables from pixels to logits."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.assess.callables import Model, are_probabilities, chosen_models, normalized
from quantizable.assess.engine_models import Runner, onnx_runner, openvino_runner, tflite_runner
from quantizable.assess.model_name import NETWORKS, ModelName, check_name
from quantizable.network import QuantizableNetwork
from quantizable.storage.selection import choose

TINY = 1e-30  # of a probability whose logarithm is taken


@dataclass(frozen=True)
class OutsideModel:
    """Any model as a callable from pixels to logits.

    Args:
        run: from normalized images ``[B, C, H, W]`` to outputs ``[B, K]``.
        mean, std: per channel, or one for all; empty for images that are not normalized here.
        batch: images in one call, of a model that takes no other number; a smaller rest is filled up.
        takes_log: of a model that gives probabilities, whose logarithms are logits.
    """

    run: Callable[[Tensor], Any]
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    batch: int | None = None
    takes_log: bool = False

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits ``[B, K]`` of pixels ``[B, C, H, W]`` in [0, 1]."""
        images = normalized(pixels, self.mean, self.std)
        if self.batch is None:
            rows = self.run(images)
        else:
            filling = images[-1:].expand(-len(images) % self.batch, -1, -1, -1)
            parts = torch.cat([images, filling]).split(self.batch)
            rows = torch.cat([self.run(part) for part in parts])[: len(images)]
        return rows.clamp_min(TINY).log() if self.takes_log else rows


def open_model(
    name: ModelName,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    network: QuantizableNetwork | None = None,
    trust: bool = False,
) -> OutsideModel:
    """The model that a name stands for; see :func:`ready`.

    No code of a file runs, with two exceptions that the user asks for: the function of a Python path, whose
    module is imported, and ``torch.export.load``, for which ``trust`` is needed. The graph of a TorchScript
    file is a program in a language of its own, which runs when the model is asked.

    Args:
        name: see :func:`~quantizable.assess.model_name.read_name`.
        mean, std: what files of other frameworks want their images normalized by. Files of ours say so
            themselves, and functions get pixels in [0, 1].
        network: of a ``.qz`` file or a checkpoint.
        trust: of a ``.pt2`` file.

    Raises:
        FileNotFoundError, ValueError: no such file or function, or not a sound one.
        ImportError: an engine, or the module, is not installed.
    """
    check_name(name, trust)
    if name.kind in NETWORKS:
        assert network is not None
        mode = name.part or network.modes[-1].name
        [model] = chosen_models(choose(mode, network, _no_data)).values()
        return OutsideModel(model)
    if name.path is None:
        return OutsideModel(_function(name))
    found: Runner = {
        ".onnx": onnx_runner, ".xml": openvino_runner, ".tflite": tflite_runner,
        ".pt": _torchscript, ".pt2": _exported,
    }[name.kind](name.path)  # fmt: skip
    if found.normalization is not None:
        mean, std = found.normalization
    return OutsideModel(found.run, mean, std, found.batch)


def ready(model: OutsideModel, name: str, pixels: Tensor) -> OutsideModel:
    """The model as it takes these images: one by one if it must, and giving logits.

    Args:
        model: see :func:`open_model`.
        name: for messages.
        pixels: images ``[N, C, H, W]`` in [0, 1]; of eight or more it is seen whether the model gives
            probabilities.

    Raises:
        ValueError: it cannot take such images, or gives no finite scores ``[N, K]``.
    """
    try:
        model = _tried(model, pixels[:2])
        with torch.no_grad():
            rows = model(pixels)
    except Exception as error:  # a foreign model fails in any way
        shape = tuple(pixels.shape[1:])
        why = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{name} cannot take images of shape {shape}: {type(error).__name__}: {why}"
        ) from error
    if not isinstance(rows, Tensor) or rows.dim() != 2 or len(rows) != len(pixels):
        given = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(f"{name} gives {given} for {len(pixels)} images; give logits [N, classes]")
    if not rows.is_floating_point() or not torch.isfinite(rows).all():
        raise ValueError(f"{name} gives integers, NaN or infinite values; give a model of finite logits")
    return replace(model, takes_log=are_probabilities(rows))


def _tried(model: OutsideModel, two: Tensor) -> OutsideModel:
    """The model, or one that is asked image by image if it cannot take two at once."""
    with torch.no_grad():
        try:
            if model.batch is not None or len(model(two)) == len(two):
                return model
        except Exception:
            if len(two) < 2:
                raise
        single = replace(model, batch=1)
        single(two)
    return single


def _no_data() -> Any:
    raise ValueError("an assignment file needs data to fit norms with; give a mode, as model.qz:4")


def _torchscript(path: Path) -> Runner:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that users should save in another format
            module = torch.jit.load(path, map_location="cpu")
    except RuntimeError as error:
        raise ValueError(
            f"{path} is no TorchScript file; a pickled module could run code and is not read: save it with "
            "torch.jit.save or as ONNX, or name a function that builds it, as package.module:function"
        ) from error
    return Runner(_frozen(module.eval()))


def _exported(path: Path) -> Runner:
    try:
        program = torch.export.load(path)
    except Exception as error:  # damaged bytes fail in any way
        raise ValueError(f"{path} is no file of torch.export.save ({type(error).__name__})") from error
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    count = inputs[0].meta["val"].shape[0] if inputs else None
    return Runner(_frozen(program.module()), count if isinstance(count, int) else None)


def _function(name: ModelName) -> Model:
    """A function of a module as ``python -m`` finds it; one that takes nothing builds the model."""
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(name.module)
    finally:
        sys.path.remove("")
    for part in name.part.split("."):
        if not hasattr(found, part):
            raise ValueError(f"module {name.module} has no {name.part}; give package.module:function")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name.text} is no function; give package.module:function")
    if isinstance(found, type) or not _takes_images(found):
        found = found()
    return _frozen(found.eval()) if isinstance(found, nn.Module) else found


def _frozen(module: nn.Module) -> nn.Module:
    """Gradients are asked for with respect to images alone."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _takes_images(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a function of C++ does not say what it takes
        pass
    return True
