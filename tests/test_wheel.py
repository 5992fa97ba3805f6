"""The wheel alone, from an empty folder: every command of the README's walk."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantizable.kernels.library import HEADERS, SOURCES

ROOT = Path(__file__).parents[1]

# in one process: importing everything is most of a command's time
COMMANDS = """
from pathlib import Path
import quantizable
from quantizable.cli import main

print(quantizable.__file__)
checkpoint = "checkpoints/run0/best.ckpt"
assert main(["evaluate", checkpoint]) == 0
assert main(["export", checkpoint, "--bits", "4", "--format", "qz", "--output", "exported"]) == 0
(exported,) = Path("exported").glob("*.qz")
assert main(["predict", str(exported), "image.png", "--engine", "torch"]) == 0
assert main(["compare", "checkpoints", "--output", "compared"]) == 0
"""


def build(kind: str, source: Path, folder: Path) -> Path:
    """The one file that hatchling builds from a source tree."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.mark.slow
def test_from_an_empty_folder_with_only_the_wheel(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="building needs hatchling, of the extra dev")
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    wheel = build("wheel", source, tmp_path / "wheel")  # as an index gets it: from the sdist
    site, empty = tmp_path / "site", tmp_path / "empty"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site)]
    installed = subprocess.run([*pip, str(wheel)], capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    assert {"py.typed", "conf"} <= {entry.name for entry in (site / "quantizable").iterdir()}
    read_as_files = {"report/page.html", "deploy/demo_answer.html"}
    read_as_files |= {f"kernels/{file.name}" for file in (*SOURCES, *HEADERS)}
    for frame in read_as_files:
        assert (site / "quantizable" / frame).is_file()
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path[1:]])}
    # the repository itself must not be found
    kept = [
        part for part in environment["PYTHONPATH"].split(os.pathsep) if Path(part or ".").resolve() != ROOT
    ]
    environment["PYTHONPATH"] = os.pathsep.join(kept)

    def python(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=empty, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    data = ["data=fake", "data.size=64", "data.image_size=12", "data.num_classes=4", "data.batch_size=16"]
    tiny = ["model=patch_cnn", "bits.modes=[4,32]", "schedule.epochs=1", "logger=csv"]
    python("-m", "quantizable", "train", *tiny, *data, "run=run0")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(empty / "image.png")
    lines = python("-c", COMMANDS).splitlines()
    assert Path(lines[0]).is_relative_to(site)
    assert any("top" in line for line in lines)
    assert any("image.png" in line for line in lines)
    assert (empty / "compared" / "report.html").is_file()
