"""The experiments of docs/results.md: is every mode as good as a network trained for it alone, and why.

    python benchmarks/evidence.py --data data --weights resnet20-12fca82f.th --minutes 600
    python benchmarks/evidence.py --data data --weights resnet20-12fca82f.th --parts individual --epochs 3
    python benchmarks/evidence.py --data data --parts cifar100 --epochs 5 --seeds 1     # from scratch

Runs of ``train.py``, one after the other, until all are done or the time is spent: a run that is expected
to take longer than what is left is not begun. What was cut off is resumed. The ``results.json`` of every
run is copied to ``docs/results/evidence/NAME/``, and the table is ``evidence_Nepochs.json`` there; what is
there already is not run again, unless you say ``--again``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runs import ROOT, finished, trained
from steps import command_line, positive, table

MODES = "[2,4,8,32]"
KEPT = ROOT / "docs" / "results" / "evidence"


@dataclass(frozen=True)
class Arm:
    """One run: its part and name, what is said to ``train.py``, passes of a step, seed and data."""

    part: str
    name: str
    overrides: tuple[str, ...]
    passes: int = 4
    seed: int = 0
    data: str = "cifar10"

    def run_name(self, epochs: int) -> str:
        """The run's folder."""
        data = "" if self.data == "cifar10" else f"{self.data}_"
        return f"{data}{self.name}_{epochs}epochs_seed{self.seed}"


def individual(seeds: int, part: str = "individual", data: str = "cifar10") -> list[Arm]:
    """The switchable network, and a network for each mode alone."""
    arms: list[Arm] = []
    for seed in range(seeds):
        arms.append(Arm(part, "quantizable", (f"bits.modes={MODES}",), 4, seed, data))
        arms += [
            Arm(part, f"individual{mode}", ("scheme=individual", f"bits.modes=[{mode}]"), 1, seed, data)
            for mode in (2, 4, 8, 32)
        ]
    return arms


def tuned(seeds: int) -> dict[str, list[Arm]]:
    """By part, over seeds: one network for all modes and networks alone, at rates chosen on seed 0."""
    said = {
        "cifar10": {"rate_0.02": "schedule.optimizer.lr=0.02"}
        | alone(2, rate=0.04)
        | alone(4, 8, 32, rate=0.02),
        "cifar100": {"quantizable_rate_0.2": "schedule.optimizer.lr=0.2"}
        | alone(2, rate=0.4)
        | alone(32, rate=0.8),
    }
    return {
        f"{data}_tuned": [
            replace(arm, seed=seed)
            for seed in range(seeds)
            for arm in one_seed(f"{data}_tuned", arms, data=data)[1:]  # without the default's rate
        ]
        for data, arms in said.items()
    }


def one_seed(
    part: str, arms: dict[str, str], passes: dict[str, int] | None = None, data: str = "cifar10"
) -> list[Arm]:
    """The default, which is trained once for all parts, and arms that differ from it in what is said."""
    modes = f"bits.modes={MODES}"
    return [Arm(part, "quantizable", (modes,), data=data)] + [
        Arm(
            part,
            name,
            (*([] if "bits.modes" in said else [modes]), *said.split()),
            (passes or {}).get(name, 1 if "scheme=individual" in said else 4),
            data=data,
        )
        for name, said in arms.items()
    ]


def alone(*modes: int, rate: float | None = None) -> dict[str, str]:
    """A network for each mode alone; with a rate, at that learning rate.

    A step of a switchable network sums the losses of its modes: is its gain that of a larger step?
    """
    end, said = ("", "") if rate is None else (f"_rate_{rate}", f" schedule.optimizer.lr={rate}")
    return {f"individual{mode}{end}": f"scheme=individual bits.modes=[{mode}]{said}" for mode in modes}


PARTS = {
    "ablation": one_seed(
        "ablation",
        {
            "shared_affine": "bits.norms=shared_affine",
            "shared_norms": "bits.norms=shared",
            "labels_only": "scheme=adabits",
            "teacher_only": "scheme.objective.alpha=0",
            "beta_half": "scheme.objective.beta=0.5",
            "beta_2": "scheme.objective.beta=2",
            "temperature_2": "scheme.objective.temperature=2",
            "temperature_4": "scheme.objective.temperature=4",
            "first_last_mode": "bits.first_last=mode",
            "per_tensor": "quantizer.per_channel=false",
            "slow_scales": "schedule.optimizer.quantizer_lr=0.1",
        },
    ),
    "schemes": one_seed(
        "schemes",
        {
            "any_precision": "scheme=any_precision",
            "cascade": "scheme=cascade",
            "cascade_beta_1": "scheme=cascade scheme.objective.beta=1",
            "double_rounding": "scheme=double_rounding quantizer=nested",
            "sandwich": "scheme=sandwich",
            "random_k": "scheme=random_k",
            "layerwise": "scheme=layerwise",
        },
        {"sandwich": 3, "random_k": 3},
    ),
    "quantizers": one_seed(
        "quantizers",
        {
            name: f"quantizer={name}"
            for name in (
                "lsq_plus",
                "nested",
                "dorefa",
                "dorefa_rescaled",
                "pact",
                "sat",
                "sat_modified",
                "sat_original",
            )
        },
    ),
    "rates": one_seed(
        "rates",
        {"rate_0.02": "schedule.optimizer.lr=0.02", "rate_0.04": "schedule.optimizer.lr=0.04"},
    ),
    "individual_rates": one_seed(
        "individual_rates", alone(2, 4, 8, 32, rate=0.02) | alone(2, rate=0.04) | alone(2, rate=0.08)
    ),
    "teacher": one_seed("teacher", {"teacher_resnet56": "train.teacher=resnet56"}, {"teacher_resnet56": 5}),
    "modes": one_seed(
        "modes",
        {"modes_2_to_8": "bits.modes=[2,3,4,5,6,7,8,32]"} | alone(*range(2, 9), 32),
        {"modes_2_to_8": 8},
    ),
    "cifar100_ablation": one_seed(
        "cifar100_ablation",
        {
            "shared_affine": "bits.norms=shared_affine",
            "shared_norms": "bits.norms=shared",
            "labels_only": "scheme=adabits",
        },
        data="cifar100",
    ),
    "cifar100_rates": one_seed(
        "cifar100_rates",
        alone(2, 32, rate=0.2)
        | alone(2, 32, rate=0.4)
        | alone(2, 32, rate=0.8)
        | {"quantizable_rate_0.2": "schedule.optimizer.lr=0.2"},
        data="cifar100",
    ),
}


def parts(seeds: int) -> dict[str, list[Arm]]:
    """All parts by name: individual, cifar100 and ..._tuned with that many seeds, the others with seed 0."""
    cifar100 = individual(seeds, "cifar100", "cifar100")
    return {"individual": individual(seeds), "cifar100": cifar100} | PARTS | tuned(seeds)


def keep(name: str, output: Path) -> None:
    """Copy the small files of a finished run to where the documents show them."""
    folder = finished(name, output)
    assert folder is not None
    (KEPT / name).mkdir(parents=True, exist_ok=True)
    for file in ("results.json", "metrics.csv"):
        shutil.copy(folder / file, KEPT / name / file)


def rows(arms: list[Arm], epochs: int) -> list[dict[str, Any]]:
    """A row for each arm whose results are kept."""
    found = []
    for arm in arms:
        file = KEPT / arm.run_name(epochs) / "results.json"
        if file.exists():
            results = json.loads(file.read_text())
            top1 = {mode: round(100 * values["top1"], 2) for mode, values in results["modes"].items()}
            minutes = results["train_seconds"] / 60
            found.append(
                {"part": arm.part, "arm": arm.name, "seed": arm.seed, "epochs": epochs, "minutes": minutes}
                | {"said": " ".join(arm.overrides), "top-1, %": top1}
            )
    return found


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", required=True, help="folder with CIFAR-10 and CIFAR-100")
    parser.add_argument("--weights", help="float ResNet-20 checkpoint, for all parts of CIFAR-10")
    parser.add_argument("--teacher", help="float ResNet-56 checkpoint, for the part teacher")
    parser.add_argument("--minutes", type=positive, default=600, help="begin no run that would end later")
    parser.add_argument("--parts", nargs="+", choices=[*parts(0)], default=[*parts(0)])
    parser.add_argument("--epochs", type=positive, default=10, help="of every run")
    parser.add_argument("--seeds", type=positive, default=3, help="of individual, cifar100 and *_tuned")
    parser.add_argument("--output", type=Path, default=Path("checkpoints/evidence"))
    parser.add_argument("--again", action="store_true", help="also what docs/results/evidence has already")
    args = parser.parse_args()
    if args.teacher is None and args.parts == ["teacher"]:
        parser.error("the part teacher needs --teacher, a float ResNet-56 checkpoint")
    if args.teacher is None:
        args.parts = [part for part in args.parts if part != "teacher"]
    every = parts(args.seeds)
    if args.weights is None and any(arm.data == "cifar10" for part in args.parts for arm in every[part]):
        parser.error("--weights is needed for CIFAR-10; without it, say --parts cifar100 or cifar100_...")
    started, per_pass = time.monotonic(), 0.0
    for arm in [arm for part in args.parts for arm in every[part]]:
        name, left = arm.run_name(args.epochs), args.minutes * 60 - (time.monotonic() - started)
        done = finished(name, args.output) is not None
        if not done and not args.again and (KEPT / name / "results.json").exists():
            print(f"{name}: kept in {KEPT.relative_to(ROOT)}, not run again (--again)", flush=True)
            continue
        if not done and per_pass * arm.passes > left:
            print(f"{name}: not begun, {left / 60:.0f} minutes are left", flush=True)
            continue
        results = trained(name, overrides(args, arm), args.output)
        per_pass = max(per_pass, results["train_seconds"] / arm.passes)
        keep(name, args.output)
    summary = rows([arm for part in every.values() for arm in part], args.epochs)
    if not summary:
        print(f"no run of {args.epochs} epochs is done")
        return
    (KEPT / f"evidence_{args.epochs}epochs.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(table([row | {"top-1, %": " / ".join(map(str, row["top-1, %"].values()))} for row in summary]))


def overrides(args: argparse.Namespace, arm: Arm) -> list[str]:
    """What is said to ``train.py`` for an arm."""
    return [
        f"experiment={arm.data}_resnet20", f"data.root={args.data}",
        *([f"model.weights={args.weights}"] if arm.data == "cifar10" else []),  # CIFAR-100: from scratch
        f"schedule.epochs={args.epochs}", f"seed={arm.seed}", *arm.overrides,
        *([f"train.teacher_weights={args.teacher}"] if "train.teacher=resnet56" in arm.overrides else []),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
