"""The claim on CIFAR-100: is each mode as accurate as a network trained for it alone, from one float start?

    python benchmarks/claim.py --data data --start start.pth --stage rates --epochs 4
    python benchmarks/claim.py --data data --start start.pth --epochs 10 --seeds 1 --rates-from 4

All runs start from one float network and differ in nothing but what is compared: linear decay to zero,
alternating flip, label smoothing, weight decay are the same. Stage ``rates`` tries learning rates for each
side on seed 0 and looks at held-out training images alone. Stage ``budget`` trains at the best of them: one
network in all modes, one in a sandwich, networks for one mode at equal epochs and, by ``--passes``, at equal
passes (four times the epochs). Runs are kept in ``docs/results/evidence/NAME/`` and are not trained again;
``quantizable compare`` prints means and differences with their intervals.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from evidence import KEPT, keep
from runs import trained
from steps import command_line, positive, table

MODES = (2, 4, 8, 32)
TRIED = (0.02, 0.05, 0.1)
SIDES = {
    "all": ("scheme=quantizable", "bits.modes=[2,4,8,32]"),
    "sandwich": ("scheme=sandwich", "bits.modes=[2,4,8,32]"),
} | {str(mode): ("scheme=individual", f"bits.modes=[{mode}]") for mode in MODES}
SAME = (
    "experiment=cifar100_resnet20",
    "schedule.augment=crop_alternating_flip",
    "schedule.optimizer.schedule=linear",
    "schedule.optimizer.weight_decay=5e-4",
    "train.label_smoothing=0.1",
)


def run(args: argparse.Namespace, side: str, rate: float, epochs: int, seed: int) -> dict[str, Any]:
    """One row: top-1 in % by mode, of the run for a side, trained unless it is kept."""
    name = run_name(args.stage, side, rate, epochs, seed)
    kept = KEPT / name
    if not (kept / "results.json").exists():
        here = [f"data.root={args.data}", f"model.weights={args.start}", "trainer=cpu"]
        settings = [f"schedule.epochs={epochs}", f"schedule.optimizer.lr={rate}", f"seed={seed}"]
        settings += ["test=false"] if args.stage == "rates" else []
        trained(name, [*SAME, *SIDES[side], *settings, *here], args.output)
        keep(name, args.output)
    results = json.loads((kept / "results.json").read_text())
    return {
        "side": side,
        "rate": rate,
        "epochs": epochs,
        "seed": seed,
        "set": results["set"],
        "top-1, %": top1(results),
    }


def run_name(stage: str, side: str, rate: float, epochs: int, seed: int) -> str:
    """The folder of a run. Both stages may train for as many epochs, and one alone looks at the test set."""
    return f"claim100_{'rates_' if stage == 'rates' else ''}{side}_rate{rate}_{epochs}epochs_seed{seed}"


def top1(results: dict[str, Any]) -> dict[str, float]:
    """By mode, in %."""
    return {mode: round(100 * values["top1"], 2) for mode, values in results["modes"].items()}


def best_rate(side: str, epochs: int, kept: Path = KEPT) -> float | None:
    """The rate of the best mean top-1 over modes in the stage ``rates``; None unless all of them ran."""
    held_out = {}
    for rate in TRIED:
        file = kept / run_name("rates", side, rate, epochs, 0) / "results.json"
        if not file.exists():
            return None
        held_out[rate] = fmean(top1(json.loads(file.read_text())).values())
    return max(TRIED, key=lambda rate: held_out[rate])


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", required=True, help="folder with CIFAR-100")
    parser.add_argument("--start", required=True, help="weights of the float network that all start from")
    parser.add_argument("--stage", choices=["rates", "budget"], default="budget")
    parser.add_argument("--epochs", type=positive, default=10)
    parser.add_argument(
        "--rates-from", type=positive, default=4, help="epochs of the rates stage, to choose by"
    )
    parser.add_argument("--seeds", type=positive, default=1)
    parser.add_argument("--sides", nargs="+", choices=[*SIDES], default=[*SIDES])
    parser.add_argument("--passes", action="store_true", help="one mode alone: four times the epochs")
    parser.add_argument("--output", type=Path, default=Path("checkpoints/evidence"))
    args = parser.parse_args()
    rows = []
    if args.stage == "rates":
        for side in args.sides:
            rows += [run(args, side, rate, args.epochs, 0) for rate in TRIED]
    else:
        rates = {side: rate for side in args.sides if (rate := best_rate(side, args.rates_from))}
        if missing := [side for side in args.sides if side not in rates]:
            parser.error(
                f"no learning rate is chosen for {', '.join(missing)}: "
                f"first run --stage rates --epochs {args.rates_from} --sides {' '.join(missing)}"
            )
        for seed in range(args.seeds):
            for side in args.sides:
                epochs = args.epochs * (len(MODES) if args.passes and side.isdigit() else 1)
                rows.append(run(args, side, rates[side], epochs, seed))
    print(table([row | {"top-1, %": " / ".join(map(str, row["top-1, %"].values()))} for row in rows]))


if __name__ == "__main__":
    main()
