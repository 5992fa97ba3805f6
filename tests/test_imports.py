"""Imports go down the tree of ``docs/concepts``, there is no circle, and the core is light."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import quantizable

ROOT = Path(quantizable.__file__).parent
ROOMS = [  # from the ground up; a room may import from those before it and from itself
    *(
        "interface",
        "bits",
        "seeds",
        "kernels",
        "functional",
        "quantizers",
        "nn",
        "calibrate",
        "network",
        "convert",
    ),
    *("report", "models", "data", "storage", "measure", "training"),
    *("deploy", "certify", "verify", "search", "assess", "cli"),
]
FLOOR = {room: floor for floor, room in enumerate(ROOMS)}


def name_of(file: Path) -> str:
    """The dotted name of a file's module."""
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(ROOT.rglob("*.py"))}


def imported(file: Path) -> set[str]:
    """Modules of this package that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES else str(node.module) for name in inside}
    return names & FILES.keys()


def test_every_room_has_its_place() -> None:
    found = {name.split(".")[1] for name in FILES if name != "quantizable"} - {"__main__"}
    assert found == set(ROOMS)


def test_imports_never_point_up() -> None:
    wrong = []
    for name, file in FILES.items():
        room = name.partition(".")[2].partition(".")[0]
        if room in ("", "__main__"):  # the package itself names what is public, and imports it when asked
            continue
        for other in imported(file) - {"quantizable"}:
            if FLOOR[other.split(".")[1]] > FLOOR[room]:
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {name: imported(file) - {name} for name, file in FILES.items() if name != "quantizable"}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_what_users_of_lightning_import_leaves_the_package_to_them() -> None:
    """``import lightning as L`` does not bring the other package along: one file alone chooses."""
    chooses = "quantizable.interface.lightning_package"
    waiting = [
        "quantizable.training.classifier",
        "quantizable.training.mode_logging",
        "quantizable.data.choice",
    ]
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting += imported(FILES[name]) - reached - {"quantizable"}
    assert chooses in reached
    direct = [
        name
        for name in reached - {chooses}
        for node in ast.walk(ast.parse(FILES[name].read_text()))
        if (isinstance(node, ast.ImportFrom) and str(node.module).startswith("pytorch_lightning"))
        or (
            isinstance(node, ast.Import)
            and any(one.name.startswith("pytorch_lightning") for one in node.names)
        )
    ]
    assert not direct


def test_the_core_and_a_session_work_without_the_heavy_libraries() -> None:
    script = """
import sys
HEAVY = {"pytorch_lightning", "lightning_fabric", "lightning", "torchmetrics", "hydra", "wandb"}
HEAVY |= {"sklearn", "matplotlib", "scipy", "onnx", "onnxruntime", "openvino"}
import timm, torch
from torch import nn
from_below = set(sys.modules)  # timm imports wandb where that is installed
import quantizable
network = quantizable.quantize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), [2, 32])
network.set_bits(2)
network(torch.rand(2, 3, 8, 8))
network.load_state_dict(network.state_dict())
from quantizable.deploy import Session
Session("checkpoints/cifar10_resnet20.qz", engine="torch", bits=2)
brought = HEAVY & {name.split(".")[0] for name in set(sys.modules) - from_below}
assert not brought, brought
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
