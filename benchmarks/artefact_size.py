"""Size of ``.qz`` files beside the float checkpoint.

python benchmarks/artefact_size.py --networks resnet18,resnet50,mobilenetv2_100 --output size.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import timm
import torch
from torch import nn

import quantizable
from quantizable.deploy import save_qz


def float_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of the float32 checkpoint, and of the norms among them."""
    norms = sum(
        t.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for t in m.state_dict().values()
    )
    return 4 * sum(t.numel() for t in model.state_dict().values()), 4 * norms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="resnet18")
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    rows = []
    for name in args.networks.split(","):
        model = timm.create_model(name)
        full, norms = float_bytes(model)
        network = quantizable.quantize(model, [2, 3, 4, 5, 6, 7, 8], "nested").eval()
        network.calibrate([torch.randn(1, 3, 224, 224)])
        with tempfile.TemporaryDirectory() as folder:
            for modes in ([2, 3, 4, 5, 6, 7, 8], [8], [4], [2]):
                path = Path(folder) / "model.qz"
                save_qz(network, path, modes)
                size = path.stat().st_size
                without = (size - norms * len(modes)) / full
                row = {
                    "network": name,
                    "modes": modes,
                    "bytes": size,
                    "of_fp32": size / full,
                    "of_fp32_less_norms": without,
                }
                rows.append(row)
                shown = f"{modes[0]}-{modes[-1]}" if len(modes) > 1 else str(modes[0])
                print(f"{name:15} {shown:3} {size:11,} B {size / full:.4f} of fp32, {without:.4f} less norms")
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
