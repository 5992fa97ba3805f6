"""How many files of the package a batch, a ``set_bits``, an evaluation and an export pass through.

    python benchmarks/walks.py
    python benchmarks/walks.py --root OTHER_CHECKOUT

A file counts if one of its functions is called; what runs only while it is imported does not count. Each
walk is a process of its own. Data are random images (``data=fake``), the network is a ResNet-20.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parent.parent
WALKS = ("configuration to trainer", "batch", "set_bits", "evaluate", "export")
TRAIN = [
    "data=fake", "model=resnet20", "schedule.epochs=1", "trainer=cpu", "bits.modes=[4,32]", "test=false",
]  # fmt: skip


class Files:
    """The package's files whose functions were called while it was entered, in all threads."""

    def __init__(self, package: Path) -> None:
        self.package, self.called = str(package) + os.sep, set[str]()

    def __enter__(self) -> Files:
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & 2 and code.co_filename.startswith(self.package):  # a function
            self.called.add(code.co_filename.removeprefix(self.package))


def noted(owner: Any, name: str, files: Files) -> None:
    """Note the files of each call of a method."""
    method = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        with files:
            return method(*args, **kwargs)

    setattr(owner, name, call)


def walk(name: str, checkpoint: Path | None, root: Path) -> list[str]:
    """The files of one walk, in this process."""
    import timm
    import torch

    import quantizable
    from quantizable.cli import main as cli

    files = Files(root / "quantizable")
    if name == "set_bits":
        network = quantizable.quantize(timm.create_model("resnet18"), [4, 32])
        with files:
            network.set_bits(4)
        return sorted(files.called)
    if name in ("evaluate", "export"):
        more = {"evaluate": ["data=fake"], "export": ["--bits", "4", "--format", "onnx"]}[name]
        with files, tempfile.TemporaryDirectory() as folder:
            torch.set_num_threads(2)
            sys.argv = ["quantizable", name, str(checkpoint), *more, "--output", folder]
            try:
                cli()
            except SystemExit as stop:
                if stop.code:
                    raise
        return sorted(files.called)
    from pytorch_lightning import Trainer

    if name == "batch":
        noted(module_class(), "training_step", files)
    sys.argv = ["train.py", *TRAIN, f"output={tempfile.mkdtemp()}", f"run={name.split()[0]}"]
    fit = Trainer.fit

    def until_here(*args: Any, **kwargs: Any) -> None:
        sys.setprofile(None)
        if name == "batch":
            fit(*args, **kwargs)
        print("\n" + json.dumps(sorted(files.called)), flush=True)
        os._exit(0)

    Trainer.fit = until_here  # type: ignore[method-assign]
    if name != "batch":
        sys.setprofile(files._note)
    runpy.run_path(str(root / "train.py"), run_name="__main__")
    raise AssertionError("train.py ended before it trained")


def module_class() -> type:
    """The Lightning module, wherever the checkout has it."""
    for place in ("quantizable.training.module", "quantizable.module"):
        try:
            return importlib.import_module(place).MultiModeModule
        except ModuleNotFoundError:
            continue
    raise AssertionError("no module")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--walk", choices=WALKS, help="one walk, in this process; prints its files as JSON")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints" / "cifar10_resnet20.qz")
    parser.add_argument("--root", type=Path, default=ROOT, help="a checkout")
    args = parser.parse_args()
    if args.walk:
        print("\n" + json.dumps(walk(args.walk, args.checkpoint, args.root)))
        return
    for name in WALKS:
        command = [sys.executable, __file__, "--walk", name, "--root", str(args.root)]
        done = subprocess.run(
            [*command, "--checkpoint", str(args.checkpoint)],
            env=os.environ | {"PYTHONPATH": str(args.root)}, cwd=args.root, capture_output=True, text=True,
        )  # fmt: skip
        try:
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"{name}: {len(found)} files: {' '.join(found)}", flush=True)
        except (IndexError, ValueError):
            print(f"{name}: failed: {done.stderr[-600:]}", flush=True)


if __name__ == "__main__":
    main()
