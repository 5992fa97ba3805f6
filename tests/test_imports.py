"""Imports point one way, and the core needs none of the heavy optional libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import quantizable

ROOT = Path(quantizable.__file__).parent
ROOMS = [  # from the ground up; a room may import from those before it and from itself
    {"bits", "keys"},
    {"functional"},
    {"quantizers"},
    {"nn"},
    {"fitting", "options"},
    {"network"},
    {"convert"},
    {"objectives", "samplers", "schemes", "strategies"},
    {"cifar_resnet", "patch_cnn", "stem", "models", "weights", "optim", "build"},
    {"results", "precision", "memory", "uncertainty", "recompute", "digest", "assignment"},
    {"module", "classifier", "data", "callbacks", "checkpoint", "runs", "settings"},
    {"chosen"},
    {"deploy", "assess", "verify", "search"},
    {"training", "evaluate", "dashboard", "compare", "cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
TOP = len(ROOMS)


def imported_rooms(file: Path) -> set[str]:
    """Rooms of this package that a file imports, inside functions too."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("quantizable.")}
    return {room for room in rooms if (ROOT / room).is_dir() or (ROOT / f"{room}.py").exists()}


def test_imports_never_point_up() -> None:
    wrong = []
    for file in sorted(ROOT.rglob("*.py")):
        room = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        for other in imported_rooms(file) - {room}:
            if FLOOR.get(other, TOP) > FLOOR.get(room, TOP):
                wrong.append(f"{file.relative_to(ROOT)} imports {other}")
    assert not wrong


def test_core_rooms_do_not_import_each_other_in_a_circle() -> None:
    core = [room for rooms in ROOMS[:7] for room in rooms]
    for room in core:
        files = (ROOT / room).rglob("*.py") if (ROOT / room).is_dir() else [ROOT / f"{room}.py"]
        for file in files:
            for other in imported_rooms(file) - {room}:
                assert FLOOR[other] < FLOOR[room], f"{file} imports {other}"


def test_the_core_works_without_the_heavy_libraries() -> None:
    script = """
import sys
HEAVY = {"pytorch_lightning", "lightning", "hydra", "wandb", "onnx", "onnxruntime", "openvino"}
import timm, torch
from torch import nn
from_below = set(sys.modules)  # timm imports wandb where that is installed
import quantizable
network = quantizable.quantize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), [2, 32])
network.set_bits(2)
network(torch.rand(2, 3, 8, 8))
network.load_state_dict(network.state_dict())
brought = HEAVY & {name.split(".")[0] for name in set(sys.modules) - from_below}
assert not brought, brought
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
