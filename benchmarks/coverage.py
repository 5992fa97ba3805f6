"""Share of multiply-accumulates on quantized operands in mode 4, for the smallest network of each family.

    python benchmarks/coverage.py
    pip install transformers    # adds the networks of Hugging Face

The networks are those of ``tests/nn/test_families.py``, with random weights; first and last layer count.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from quantizable import quantize
from tests.nn.test_families import IMAGE, TIMM, TRANSFORMERS


def networks() -> Iterator[tuple[str, nn.Module, Any]]:
    """Name, float network, and a batch of inputs."""
    more: dict[str, dict[str, Any]] = {"vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 1}}
    for name, options in (TIMM | more).items():
        yield f"timm {name}", timm.create_model(name, **options), torch.randn(IMAGE)
    transformer = nn.Transformer(32, 2, 1, 1, 64, batch_first=True)
    yield "nn.Transformer", transformer, (torch.randn(2, 6, 32), torch.randn(2, 4, 32))
    yield "nn.LSTM", nn.LSTM(16, 32, batch_first=True), torch.randn(2, 6, 16)
    yield "nn.GRU", nn.GRU(16, 32, batch_first=True), torch.randn(2, 6, 16)
    if importlib.util.find_spec("transformers"):
        import transformers

        for name, (config, inputs) in TRANSFORMERS.items():
            model: Callable[[Any], nn.Module] = getattr(transformers, f"{name}Model")
            yield f"HF {name}", model(getattr(transformers, f"{name}Config")(**config)), inputs()


def share(model: nn.Module, batch: Any, attention: bool) -> float:
    """In %, at 4 bits."""
    network = quantize(model.eval(), [4, 32], attention=attention, first_last="mode").eval()
    network.calibrate([batch])
    network.set_bits(4)
    return 100 * network.coverage(batch).share


def main() -> None:
    warnings.simplefilter("ignore")
    print("| network | share | with attention=True |\n|---|---|---|")
    for name, model, batch in networks():
        torch.manual_seed(0)
        print(
            f"| {name} | {share(model, batch, False):.1f} % | {share(model, batch, True):.1f} % |", flush=True
        )


if __name__ == "__main__":
    main()
