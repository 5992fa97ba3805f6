"""Files are written whole or not at all, and a killed writer leaves nothing for good."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quantizable.report.files import ABANDONED, HOST, write_json, write_text, written_whole

KILLED = """
import os, signal, sys
from quantizable.report.files import written_whole
with written_whole(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "target", ["model.qz", "model_4.onnx", "best.ckpt", "metrics.csv", "v1.2.name", "bare"]
)
def test_the_next_write_removes_what_a_killed_one_left(tmp_path: Path, target: str) -> None:
    (tmp_path / target).write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / target])
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    assert (tmp_path / target).read_text() == "old"
    write_text(tmp_path / "another.txt", "whatever its name")
    assert names(tmp_path) == {target, "another.txt"}


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    with written_whole(tmp_path / "one.onnx") as temporary:
        temporary.write_text("half")
        write_json(tmp_path / "two.json", [1])
        assert temporary.exists()
    parent = tmp_path / f".model.{HOST}-{os.getppid()}.tmp.qz"
    parent.touch()
    write_json(tmp_path / "two.json", [1])
    assert names(tmp_path) == {"one.onnx", "two.json", parent.name}


def test_what_another_machine_writes_is_left_for_a_day(tmp_path: Path) -> None:
    gone = 2**22 + 1  # above the kernel's largest process number
    new, old = (tmp_path / f".{name}.elsewhere-{gone}.tmp.qz" for name in ("new", "old"))
    for path in (new, old):
        path.touch()
    os.utime(old, (time.time() - ABANDONED - 60,) * 2)
    write_text(tmp_path / "any.txt", "")
    assert names(tmp_path) == {"any.txt", new.name}


@pytest.mark.parametrize(
    "name", [".bashrc", ".notes.tmp", ".a.b-c.tmp", f".x{HOST}-4194305.tmp.qz", "a.here-4194305.tmp"]
)
def test_files_of_others_are_never_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    os.utime(tmp_path / name, (0, 0))
    write_text(tmp_path / "any.txt", "")
    assert name in names(tmp_path)
