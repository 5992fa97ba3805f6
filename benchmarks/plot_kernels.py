"""Picture of the three ways that integers run: native, exact without VNNI, and ``exact=False`` there.

python benchmarks/deploy_agreement.py MODEL --data data --output native.json
python benchmarks/deploy_agreement.py MODEL --data data --without-vnni --output without_vnni.json
python benchmarks/inference.py --output latency.json
python benchmarks/inference.py --without-vnni --output latency_without_vnni.json
python benchmarks/plot_kernels.py native.json without_vnni.json latency.json latency_without_vnni.json docs/pictures/kernels.png
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from quantizable.report.plots import save_figure

# path, engine of the agreement, run of the latency ({} is the mode), whether on AVX2 kernels
PATHS = (
    ("native (VNNI)", "openvino", "openvino ours {}", False),
    ("exact without VNNI", "openvino", "openvino safe ours {}", True),
    ("exact=False without VNNI", "openvino, exact=False", "openvino ours {}", True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("native", "without_vnni", "latency", "latency_without_vnni"):
        parser.add_argument(name, type=Path, help="JSON file")
    parser.add_argument("output", type=Path, help="PNG file")
    args = parser.parse_args()
    agreement = [json.loads(path.read_text()) for path in (args.native, args.without_vnni)]
    latency = [json.loads(path.read_text()) for path in (args.latency, args.latency_without_vnni)]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    times = {label: timed(latency[saturating], run) for label, _, run, saturating in PATHS}
    bars(left, times, "{:.1f}")
    left.set_title("one image, batch 1")
    left.set_ylabel("ms, OpenVINO")
    counts = {label: differing(agreement[saturating], engine) for label, engine, _, saturating in PATHS}
    bars(right, counts, "{:.0f}")
    right.set_yscale("symlog", linthresh=1)
    right.set_title("ResNet-20, CIFAR-10 test set")
    right.set_ylabel("predictions that differ from fake quant")
    right.margins(y=0.3)  # room for the numbers over the bars
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(latency[0]["processor"], fontsize="small")
    save_figure(figure, args.output)


def timed(run: dict[str, Any], name: str) -> dict[str, float]:
    """Milliseconds at batch 1 by network and mode."""
    found = {}
    for row in run["results"]:
        for mode in ("8", "4", "2"):
            if row["batch"] == 1 and name.format(mode) in row["ms"]:
                found[f"{row['network']}\n{mode} bits"] = row["ms"][name.format(mode)]
    return found


def differing(run: dict[str, Any], engine: str) -> dict[str, float]:
    """Predictions that differ by mode."""
    return {f"{r['bits']} bits": r["disagreements"] for r in run["results"] if r["engine"] == engine}


def bars(axes: Any, heights: dict[str, dict[str, float]], written: str) -> None:
    """Grouped bars, one color for each path, with their values above them."""
    groups = list(next(iter(heights.values())))
    width = 0.8 / len(heights)
    for i, (label, values) in enumerate(heights.items()):
        places = [j + (i - 1) * width for j in range(len(groups))]
        drawn = axes.bar(places, [values[group] for group in groups], width, label=label)
        axes.bar_label(drawn, [written.format(values[group]) for group in groups], fontsize=7)
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(axis="y", alpha=0.3)


if __name__ == "__main__":
    main()
