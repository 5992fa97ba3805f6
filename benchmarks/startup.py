"""How long a command takes to its first word: help, mistakes, and what has to be imported anyway.

python benchmarks/startup.py --repeats 5
python benchmarks/startup.py --before ../other-checkout     # the same commands of another checkout beside it
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from steps import command_line, positive, save, table

ROOT = Path(__file__).parents[1]
CLI = "import sys; from quantizable.cli import main; sys.exit(main(sys.argv[1:]))"
SHIPPED = ROOT / "checkpoints" / "cifar10_resnet20.qz"
BOTH_KNOW = ("evaluate", "compare", "assess", "verify", "search", "export", "predict", "cost", "dashboard")
COMMANDS: dict[str, list[str]] = {
    "quantizable --help": ["-c", CLI, "--help"],
    "quantizable --version": ["-c", CLI, "--version"],
    **{f"quantizable {command} --help": ["-c", CLI, command, "--help"] for command in BOTH_KNOW},
    "quantizable evalute (no such command)": ["-c", CLI, "evalute"],
    "quantizable evaluate missing.ckpt": ["-c", CLI, "evaluate", "missing.ckpt"],
    "quantizable export model.qz --bits 3 (not in it)": ["-c", CLI, "export", str(SHIPPED), "--bits", "3"],
    "train.py bits=[2,4]": ["train.py", "bits=[2,4]"],
    "train.py data=folder data.root=missing": ["train.py", "data=folder", "data.root=missing"],
    "train.py start=missing.ckpt": ["train.py", "start=missing.ckpt"],
    "import torch": ["-c", "import torch; print()"],
    "import torch, timm": ["-c", "import torch, timm; print()"],
    "import quantizable; quantizable.quantize": ["-c", "import quantizable; quantizable.quantize; print()"],
    "import quantizable; quantizable.load": ["-c", "import quantizable; quantizable.load; print()"],
    "from quantizable.deploy import Session": ["-c", "from quantizable.deploy import Session; print()"],
}


def seconds(words: list[str], tree: Path, folder: Path) -> float:
    """Wall clock from the start of a Python process to the first byte that it writes."""
    words = [str(tree / word) if word == "train.py" else word for word in words]
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(tree)},
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        first = time.perf_counter() - started
        process.stdout.read()
    return first


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--before", type=Path, help="another checkout, measured in turns with this one")
    args = parser.parse_args()
    trees = ({"before, s": args.before.resolve()} if args.before else {}) | {"now, s": ROOT}
    measured: dict[str, dict[str, list[float]]] = {name: {key: [] for key in trees} for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(1 + args.repeats):  # the first fills the file cache and writes bytecode
            for name, words in COMMANDS.items():
                for key, tree in trees.items():
                    taken = seconds(words, tree, Path(folder))
                    if turn:
                        measured[name][key].append(taken)
    rows = [
        {"command": name} | {key: statistics.median(times) for key, times in by_tree.items()}
        for name, by_tree in measured.items()
    ]
    save("startup", "cpu", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
