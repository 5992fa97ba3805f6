"""Signal to noise of every layer's quantized weights in every mode: has a step size gone astray?

    python benchmarks/signal_to_noise.py checkpoints/cifar10_resnet20/best.ckpt

In dB, ``10 log10(sum w^2 / sum (w - w_q)^2)``. A bit is worth 6 dB: a layer whose 8 bits have no more than
its 4 bits has step sizes that learned nothing good.
"""

from __future__ import annotations

import argparse

import torch
from steps import table

import quantizable
from quantizable.bits import FLOAT_BITS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="best.ckpt of a run")
    try:
        network = quantizable.load(parser.parse_args().checkpoint)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    rows: dict[str, dict[str, str]] = {name: {"layer": name} for name in network.layers()}
    for mode in network.modes:
        network.set_bits(mode)
        for name, layer in network.layers().items():
            if layer.bits.weight != FLOAT_BITS:
                with torch.no_grad():
                    weight = layer.float_weight()
                    noise = (weight - layer.quantized_weight()).square().sum()
                rows[name][f"{mode} bits"] = f"{10 * torch.log10(weight.square().sum() / noise):.1f}"
    print(table([*rows.values()]))


if __name__ == "__main__":
    main()
