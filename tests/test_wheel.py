"""The wheel alone, from an empty folder: every command of the README's walk."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


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
    for frame in ("report/page.html", "deploy/demo_answer.html", "kernels/loops.cpp", "kernels/search.cpp"):
        assert (site / "quantizable" / frame).is_file()
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path[1:]])}
    # the repository itself must not be found
    kept = [
        part for part in environment["PYTHONPATH"].split(os.pathsep) if Path(part or ".").resolve() != ROOT
    ]
    environment["PYTHONPATH"] = os.pathsep.join(kept)

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "quantizable", *words]
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    data = ["data=fake", "data.size=64", "data.image_size=12", "data.num_classes=4", "data.batch_size=16"]
    tiny = ["model=patch_cnn", "bits.modes=[4,32]", "schedule.epochs=1", "logger=csv"]
    run("train", *tiny, *data, "run=run0")
    checkpoint = "checkpoints/run0/best.ckpt"
    assert "top" in run("evaluate", checkpoint)
    run("export", checkpoint, "--bits", "4", "--format", "qz", "--output", "exported")
    (exported,) = (empty / "exported").glob("*.qz")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(empty / "image.png")
    assert "image.png" in run("predict", str(exported), "image.png", "--engine", "torch")
    run("compare", "checkpoints", "--output", "compared")
    assert (empty / "compared" / "report.html").is_file()
    place = [sys.executable, "-c", "import quantizable; print(quantizable.__file__)"]
    found = subprocess.run(place, cwd=empty, env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(site)
