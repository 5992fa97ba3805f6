"""Share of multiply-accumulates on quantized operands in mode 4, for a network of each family.

    python benchmarks/coverage.py
    pip install transformers    # adds the networks of Hugging Face

The networks are those of ``families.py``, with random weights; first and last layer count. Mode 32 is
compared with the float network, bit for bit.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import warnings
from typing import Any

import torch
from families import networks
from torch import nn

from quantizable import quantize
from quantizable.nn.network_inputs import network_inputs, tensors_of


def share(model: nn.Module, batch: Any, attention: bool) -> str:
    """In %, at 4 bits; with the difference of mode 32 from the float network, if there is one."""
    network = quantize(copy.deepcopy(model), [4, 32], attention=attention, first_last="mode").eval()
    run = network_inputs(model, batch)
    network.calibrate([batch])
    with torch.no_grad():
        both = zip(outputs(run(model)), outputs(run(network)), strict=True)
        exact = all(torch.equal(one, other) for one, other in both)
    network.set_bits(4)
    found = f"{100 * network.coverage(batch).share:.1f} %"
    return found if exact else f"{found}, mode 32 differs"


def outputs(value: Any) -> list[torch.Tensor]:
    """The tensors that a network returned."""
    return list(tensors_of(dict(value) if hasattr(value, "items") else value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="shell pattern of names")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| network | share | with attention=True |\n|---|---|---|")
    for name, make in networks():
        if not fnmatch.fnmatchcase(name, args.only):
            continue
        torch.manual_seed(0)
        cells = []
        for attention in (False, True):
            model, batch = make()
            try:
                cells.append(share(model.eval(), batch, attention))
            except Exception as error:  # the sweep goes on
                cells.append(f"{type(error).__name__}: {' '.join(str(error).split())[:100]}")
        print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
