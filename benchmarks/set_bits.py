"""How long ``set_bits`` takes.

python benchmarks/set_bits.py --models resnet50 resnet18 mobilenetv2_100
"""

from __future__ import annotations

import statistics
import time
from itertools import cycle, islice

import timm
from steps import command_line, positive, save, table

import quantizable


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help="of timm",
        default=["resnet50", "resnet18", "mobilenetv2_100"],
    )
    parser.add_argument("--repeats", type=positive, default=400)
    args = parser.parse_args()
    rows = []
    for model in args.models:
        # DoReFa's weights need no search for a step size, and the switch is that of any quantizer
        network = quantizable.quantize(timm.create_model(model), bits=[2, 4, 8, 32], quantizer="dorefa")
        seconds = []
        for bits in islice(cycle([2, 4, 8, 32]), args.repeats):
            started = time.perf_counter()
            network.set_bits(bits)
            seconds.append(time.perf_counter() - started)
        seconds.sort()
        rows.append(
            {
                "model": model,
                "layers": len(network.layers()),
                "median, ms": statistics.median(seconds) * 1e3,
                "95th percentile, ms": seconds[int(0.95 * len(seconds))] * 1e3,
            }
        )
    save("set_bits", "cpu", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
