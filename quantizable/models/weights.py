"""Float weights from a file or a state dict into a float network, without running any code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from quantizable.interface.damage import check_entries
from quantizable.nn.state_dict import without_prefix

WRAPPERS = ("state_dict", "model")  # keys under which training programs keep the state dict


def load_float_weights(
    model: nn.Module, source: str | Path | Mapping[str, Any], reset_head: bool = False
) -> None:
    """Load float weights into `model`, in place; on an error the model is left as it was.

    Args:
        model: a float network of timm or torchvision.
        source: a file (.safetensors, or whatever torch.save wrote), or a state dict. A state dict
            may be wrapped ({"state_dict": ...}, {"model": ...}) and its keys prefixed ("module.").
        reset_head: leave the classifier of `model` as it is, for a new set of classes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated or no file of weights, it holds code, or its weights are
            those of another architecture or another number of classes.
    """
    found = _state_dict(source)
    where = "the given state dict" if isinstance(source, Mapping) else str(source)
    wanted = model.state_dict()
    found = dict(without_prefix(found, wanted))
    heads = classifier_names(model)

    def in_head(key: str) -> bool:
        return key.rpartition(".")[0] in heads

    if reset_head:
        found = {key: value for key, value in found.items() if not in_head(key)}
    missing = [
        key
        for key in wanted
        # old checkpoints lack this counter, which changes no output
        if key not in found and not key.endswith("num_batches_tracked") and not (reset_head and in_head(key))
    ]
    unexpected = [key for key in found if key not in wanted]
    misshaped = [key for key in found if key in wanted and found[key].shape != wanted[key].shape]
    if misshaped and not missing and not unexpected and all(map(in_head, misshaped)):
        key = misshaped[0]
        raise ValueError(
            f"{where} is for {len(found[key])} classes, the network has {len(wanted[key])}; build "
            f"the network with num_classes={len(found[key])}, or pass reset_head=True to load all "
            "but the classifier"
        )
    if missing or unexpected or misshaped:
        shapes = [
            f"{key} {tuple(found[key].shape)} instead of {tuple(wanted[key].shape)}" for key in misshaped
        ]
        raise ValueError(
            f"{where} holds weights of another architecture than {type(model).__name__}: "
            f"missing {_first(missing)}; unexpected {_first(unexpected)}; "
            f"of another shape {_first(shapes)}. Build the network that the weights belong to"
        )
    model.load_state_dict(found, strict=False)


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Dotted names of the layers that give out the classes.

    timm says which; elsewhere it is the last linear layer, or the last convolution where there
    is none.
    """
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    if named := config.get("classifier"):
        return (named,) if isinstance(named, str) else tuple(named)
    for kind in (nn.Linear, nn.Conv2d):
        if names := [name for name, module in model.named_modules() if isinstance(module, kind)]:
            return (names[-1],)
    return ()


def _state_dict(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    content = source if isinstance(source, Mapping) else _read(Path(source))
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"no state dict found, but {type(content).__name__}; give a file of one")
    if strange := [key for key, value in content.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"no state dict found: {_first(strange)} are no tensors. Allowed are a mapping from "
            "names to tensors, or one wrapped as {'state_dict': ...} or {'model': ...}"
        )
    return dict(content)


def _read(file: Path) -> Any:
    if not file.is_file():
        raise FileNotFoundError(f"no file of weights at {file}")
    check_entries(file)
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler answers damaged bytes with errors of any kind
        reason = str(error)
        # torch refuses every class and function outside its list of harmless ones
        if "unsupported" in reason.lower():
            raise ValueError(
                f"{file} holds Python objects and not tensors alone, and was refused: loading it "
                "could run code. Where you trust it, load it in a program of your own and save "
                "its state_dict() anew"
            ) from error
        raise ValueError(
            f"{file} is truncated or no file of weights ({reason.partition('.')[0]}); copy or "
            "download it again"
        ) from error


def _first(names: list[str], limit: int = 3) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + rest
