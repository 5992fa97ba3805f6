"""What a GPU shows: tests, training steps, peers' formulas, trainings, and the switch, in parts.

    python benchmarks/gpu.py --data data                      # every part that is not done
    python benchmarks/gpu.py --parts steps peers              # these alone
    python benchmarks/gpu.py --dry-run                        # all parts on the CPU with tiny sizes

Each part keeps its rows after every measurement, in ``benchmarks/results/gpu/PART.json`` or ``--output``, and
a row that is kept is not measured again. ``--minutes`` (9 by default) ends the whole command: no row begins
after it, and a training that is cut off goes on from its last epoch at the next call, where ``--runs`` is the
same folder. Nothing is downloaded. Parts:

tests     the tests marked ``gpu``
steps     a step in modes 2, 4, 8, 32 beside four bare passes, 224 px, bf16, eager and compiled
peers     the same step by the formulas of AdaBits and Any-Precision, and by torchao's linear layers
switch    ``set_bits``; seven modes; the sandwich of seven modes
training  ResNet-18 on CIFAR-100: four modes in one network, and two networks for one mode (``--epochs``)
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peer_formulas import FORMULAS, peer_step
from runs import ROOT, finished, folders
from steps import (
    RESULTS,
    Case,
    Setting,
    bare_step,
    command_line,
    interleaved,
    machine,
    make_network,
    multi_mode_step,
    positive,
    quantizable_network,
    ratio,
    table,
)
from train_step import compare

from quantizable.training.schemes import SCHEMES

Row = dict[str, Any]
Rows = Iterator[tuple[str, Callable[[], Row]]]  # the name of a row and how to measure it
MODES = ["2", "4", "8", "32"]
SEVEN = ["2", "3", "4", "5", "6", "8", "32"]
CASES = (
    Case("resnet18", 128, 224),
    Case("resnet50", 64, 224),
    Case("mobilenetv2_100", 64, 224),
    Case("vit_small_patch16_224", 64, 224),
)
TINY = (Case("resnet20", 2, 32),)
SIDES = {
    "four modes": ("scheme=quantizable", "bits.modes=[2,4,8,32]"),
    "2 bits alone": ("scheme=individual", "bits.modes=[2]"),
    "4 bits alone": ("scheme=individual", "bits.modes=[4]"),
}


def setting_of(args: argparse.Namespace, execution: str = "eager") -> Setting:
    """bf16 on a GPU, float32 in a dry run."""
    return Setting(args.device, "float32" if args.dry_run else "bf16", execution=execution)


def steps(args: argparse.Namespace) -> Rows:
    """Ratio to the bare passes, and peak memory."""
    for execution in ("eager",) if args.dry_run else ("eager", "compiled"):
        for case in args.cases:
            measure = partial(compare, case, setting_of(args, execution), MODES, args.repeats)
            yield f"{case.model} {execution}", measure


def peers(args: argparse.Namespace) -> Rows:
    """Ours and the peers' step in turns, as multiples of the bare passes."""
    for case in args.cases[:2]:
        yield case.model, partial(side_by_side, case, setting_of(args), args.repeats)
    if importlib.util.find_spec("torchao"):
        yield "torchao", lambda: torchao_linear(args)


def side_by_side(case: Case, setting: Setting, repeats: int) -> Row:
    """One row: the bare step, ours, and the peers'."""
    ours = quantizable_network(case, setting, MODES)
    contenders = {
        "bare": bare_step(make_network(case, setting), setting, case, passes=len(MODES)),
        "ours": multi_mode_step(ours, setting, case, SCHEMES["quantizable"]),
    } | {peer: peer_step(peer, case, setting, [int(m) for m in MODES]) for peer in FORMULAS}
    times = interleaved(contenders, repeats, setting.device)
    found = {
        f"{name}, of bare": ratio(times[name], times["bare"], "wall") for name in times if name != "bare"
    }
    return {"network": case.model, "bare, ms": statistics.median(times["bare"].wall) * 1e3} | found


def torchao_linear(args: argparse.Namespace) -> Row:
    """One linear layer with 4-bit weights and 8-bit inputs: torchao has no convolutions and no modes."""
    from torchao.quantization.qat import IntxFakeQuantizeConfig
    from torchao.quantization.qat.linear import FakeQuantizedLinear

    import quantizable

    size, batch = (32, 8) if args.dry_run else (1024, 4096)
    float_layer = torch.nn.Linear(size, size)
    theirs = FakeQuantizedLinear.from_linear(
        torch.nn.Linear(size, size),
        IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False),
        IntxFakeQuantizeConfig(torch.int4, group_size=size),
    )
    ours = quantizable.quantize(torch.nn.Sequential(torch.nn.Linear(size, size)), ["w4a8"], first_last=None)
    x = torch.randn(batch, size, device=args.device)
    layers = {"bare": float_layer, "ours": ours, "torchao": theirs}
    for layer in layers.values():
        layer.to(args.device).train()
    ours.set_bits("w4a8")
    contenders = {
        name: lambda layer=layer: layer(x).square().mean().backward() for name, layer in layers.items()
    }
    times = interleaved(contenders, args.repeats, args.device)
    return {
        "network": f"linear {size}, w4a8",
        "bare, ms": statistics.median(times["bare"].wall) * 1e3,
    } | {f"{name}, of bare": ratio(times[name], times["bare"], "wall") for name in ("ours", "torchao")}


def switch(args: argparse.Namespace) -> Rows:
    """``set_bits`` and what more modes cost."""
    case = args.cases[0]
    yield "set_bits", lambda: set_bits_row(case, setting_of(args), 20 if args.dry_run else 400)
    for scheme in ("quantizable", "sandwich"):
        yield f"seven modes {scheme}", partial(compare, case, setting_of(args), SEVEN, args.repeats, scheme)


def set_bits_row(case: Case, setting: Setting, repeats: int) -> Row:
    """Milliseconds of a switch among seven modes."""
    network, taken = quantizable_network(case, setting, SEVEN), []
    for index in range(repeats):
        started = time.perf_counter()
        network.set_bits(SEVEN[index % len(SEVEN)])
        taken.append((time.perf_counter() - started) * 1e3)
    return {"network": case.model, "modes": len(SEVEN), "set_bits, ms": statistics.median(taken)}


def tests(args: argparse.Namespace) -> Rows:
    """pytest's own last line."""

    def measure() -> Row:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=args.left())
        print(done.stdout[-2000:])
        return {"status": done.returncode, "said": done.stdout.strip().splitlines()[-1]}

    yield "pytest", measure


def training(args: argparse.Namespace) -> Rows:
    """Accuracy by mode, the same settings for all sides."""
    for side, words in SIDES.items():
        yield side, partial(trained_side, args, side, words)


def trained_side(args: argparse.Namespace, side: str, words: tuple[str, ...]) -> Row:
    """One training, which may be cut off by the time that is left and then goes on at the next call."""
    name = "gpu_" + side.replace(" ", "_")
    what = [
        "experiment=cifar100_resnet20", "model=resnet18", "model.cifar_stem=true", "trainer=gpu",
        f"data.root={args.data}", "data.download=false", "schedule.optimizer.lr=0.1",
    ]  # fmt: skip
    if args.dry_run:
        what = ["data=fake", "data.size=64", "data.image_size=16", "model=resnet20", "trainer=cpu"]
    command = [sys.executable, str(ROOT / "train.py"), *what, *words, f"schedule.epochs={args.epochs}"]
    command += [f"output={args.runs}", f"run={name}"]
    if any((path / "last.ckpt").exists() for path in folders(name, args.runs)):
        command.append("resume=last")
    subprocess.run(command, check=True, timeout=args.left())
    folder = finished(name, args.runs)
    assert folder is not None, f"train.py left no results.json in {args.runs}/{name}"
    results = json.loads((folder / "results.json").read_text())
    top1 = {f"top-1 at {mode}, %": round(100 * v["top1"], 2) for mode, v in results["modes"].items()}
    return {"side": side, "epochs": args.epochs} | top1


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "tests": tests,
    "steps": steps,
    "peers": peers,
    "switch": switch,
    "training": training,
}


def measured(part: str, args: argparse.Namespace) -> list[Row]:
    """The rows of a part; those kept are read, those that fail say why and stay open."""
    path = args.output / f"{part}.json"
    kept = json.loads(path.read_text())["rows"] if path.exists() else {}
    for name, measure in PARTS[part](args):
        if name in kept or args.left() < 20:
            continue
        try:
            kept[name] = measure()
        except subprocess.TimeoutExpired:
            print(f"{part}, {name}: the time is over; call again to go on")
            continue
        except (RuntimeError, subprocess.CalledProcessError) as error:  # out of memory: the others can run
            print(f"{part}, {name}: {str(error).splitlines()[0]}")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(args.device), "rows": kept}, indent=1) + "\n")
        print(table([kept[name]]), flush=True)
    return list(kept.values())


def main(words: list[str] | None = None) -> None:
    parser = command_line(__doc__)
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--data", default="data", help="folder with CIFAR-100 (default: data)")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with tiny sizes")
    parser.add_argument(
        "--minutes", type=float, default=9, help="no measurement begins after them (default: 9)"
    )
    parser.add_argument("--epochs", type=positive, default=30, help="of a training (default: 30)")
    parser.add_argument("--repeats", type=positive, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu", help="folder for the rows")
    parser.add_argument("--runs", type=Path, default=Path("checkpoints/gpu"), help="folder of the trainings")
    args = parser.parse_args(words)
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; give --dry-run to try the parts on the CPU")
    end = time.monotonic() + 60 * args.minutes
    args.left = lambda: end - time.monotonic()
    args.device = "cpu" if args.dry_run else "cuda"
    args.cases = TINY if args.dry_run else CASES
    if args.dry_run:
        args.epochs, args.repeats = 1, 1
        args.cases = tuple(replace(case, batch=2) for case in TINY)
    for part in args.parts:
        rows = measured(part, args)
        print(
            f"\n{part}, {args.device}\n{table(rows)}" if rows else f"\n{part}: nothing measured", flush=True
        )


if __name__ == "__main__":
    main()
