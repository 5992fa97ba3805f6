"""Do mixed assignments need layer-wise training, norms fitted in a few batches, or both?

    python benchmarks/mixed_norms.py all=checkpoints/RUN/best.ckpt layerwise=checkpoints/OTHER/best.ckpt \
        data=cifar10 data.root=data --assignments 30 --output benchmarks/results/mixed_norms

Two networks, trained alike but for the scheme. The same random assignments for both: "modes" gives each layer
one of the network's modes, as layer-wise training does; "widths" draws the bits of weights and of activations
apart, as a search does. Accuracy on test images with the norms re-estimated on 0 (the modes' own), 1, 2 and 8
training batches. Measurements are kept in the output folder: a run that was cut off goes on where it was.
"""

import random
import statistics
from itertools import islice
from pathlib import Path

import torch
from steps import command_line, machine, table

import quantizable
from quantizable.network import QuantizableNetwork
from quantizable.report.files import write_json
from quantizable.search import Scorer, Space
from quantizable.search.space import Genome
from quantizable.storage.assignment import add_modes
from quantizable.storage.network_data import trained_data


def genomes(network: QuantizableNetwork, space: Space, count: int, seed: int) -> dict[str, list[Genome]]:
    """Random assignments of each kind."""
    generator = random.Random(seed)
    held = [space.uniform(mode)[:2] for mode in network.modes if mode in space.modes]
    by_mode = [sum((generator.choice(held) for _ in space.layers), ()) for _ in range(count)]
    by_width = [tuple(generator.randrange(len(w)) for w in space.widths) for _ in range(count)]
    return {"modes": by_mode, "widths": by_width}


def main() -> None:
    """Measure every network, kind and number of batches; print and keep the table."""
    parser = command_line(__doc__)
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=CHECKPOINT or data=NAME data.KEY=VALUE")
    parser.add_argument("--assignments", type=int, default=30, help="of each kind")
    parser.add_argument("--batches", type=int, nargs="+", default=[0, 1, 2, 8])
    parser.add_argument("--images", type=int, default=1000, help="test images, evenly spread")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/mixed_norms"))
    args = parser.parse_args()
    words = [word for word in args.checkpoints if word.startswith(("data=", "data."))]
    named = [word for word in args.checkpoints if word not in words]
    if not named or any("=" not in word for word in named):
        parser.error("give NAME=CHECKPOINT of each network, such as all=checkpoints/RUN/best.ckpt")
    files = dict(word.split("=", 1) for word in named)
    rows = []
    for name, checkpoint in files.items():
        network = quantizable.load(checkpoint)
        data = trained_data(network, words)
        data.prepare_data()
        inputs = [x for x, _ in islice(data.train_dataloader(), max(args.batches))]
        images, labels = (torch.cat(part) for part in zip(*data.test_dataloader(), strict=True))
        spread = torch.linspace(0, len(images) - 1, min(args.images, len(images))).round().long()
        space = Space.of(network)
        kinds = genomes(network, space, args.assignments, args.seed)
        add_modes(network, space.modes)
        for kind, drawn in kinds.items():
            for batches in args.batches:
                journal = args.output / name
                scorer = Scorer(network, images[spread], labels[spread], journal, inputs[:batches])
                scores = [scorer(space.assignment(genome)) for genome in drawn]
                top1 = [100 * score["accuracy"] for score in scores]
                rows.append(
                    {
                        "network": name,
                        "assignments": kind,
                        "batches": batches,
                        "mean top-1, %": statistics.mean(top1),
                        "standard deviation": statistics.stdev(top1) if len(top1) > 1 else 0.0,
                        "lowest": min(top1),
                        "agreement, %": 100 * statistics.mean(score["agreement"] for score in scores),
                    }
                )
                print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
                write_json(args.output / "mixed_norms.json", {"machine": machine("cpu"), "rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
