"""Whether timm, torchvision or this library knows a network by a name, read from their files."""

from __future__ import annotations

import re
import sys
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from quantizable.interface.choices import TEXT_MODELS

REGISTERED = re.compile(r"^@register_model\b.*\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


def check_model_name(name: str) -> None:
    """``ValueError`` for a name that is in no file of timm's, torchvision's or our networks.

    What lies elsewhere (``hf-hub:``, ``local-dir:``) is looked up later; a network that the user has added to
    timm's is known to timm, which was imported for that.
    """
    source, colon, architecture = name.rpartition(":")
    if source not in ("", "torchvision") or name in TEXT_MODELS:
        return
    if not source:
        architecture = name.partition(".")[0]  # what follows says which weights
        if "timm" in sys.modules and sys.modules["timm"].is_model(architecture):
            return
    texts = source_texts(source)
    known = [f"{source}{colon}{found}" for text in texts for found in REGISTERED.findall(text)]
    # names that timm gave up are keys of dictionaries there
    written = re.compile(rf"\b{re.escape(architecture)}\b")
    if not any(written.search(text) for text in texts):
        raise ValueError(unknown_model(name, known))


def source_texts(source: str) -> list[str]:
    """What defines the networks of ``"torchvision"``, or, for ``""``, those of timm and ours."""
    spec = find_spec(source or "timm")  # found, and not imported
    folders = [Path(folder, "models") for folder in (spec and spec.submodule_search_locations) or ()]
    if not source:
        folders.append(Path(__file__).parents[1] / "models")
    return [file.read_text(errors="replace") for folder in folders for file in folder.rglob("*.py")]


def unknown_model(name: str, known: list[str]) -> str:
    """The message that no network has that name, with those that may have been meant."""
    close = get_close_matches(name, [*known, *TEXT_MODELS], n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    return (
        f"unknown model {name!r}: {hint}Names are those of timm.list_models(), 'resnet20', "
        "'resnet32', 'resnet56' and 'nin' for CIFAR, 'lenet1' and 'lenet5' for MNIST, 'patch_cnn', "
        "'hybrid_sn' and 'ssrn' for hyperspectral scenes, 'torchvision:NAME' for torchvision's, and of those "
        f"that read words {', '.join(map(repr, TEXT_MODELS))}"
    )
