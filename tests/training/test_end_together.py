"""Two processes of one run: one is stopped or fails, and both end, with a line and the checkpoint intact."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import quantizable
from quantizable.training.end_together import is_lost
from tests.tiny import REPOSITORY

RUN = """
import os, signal, sys
from pathlib import Path
import torch
from quantizable import QuantizableClassifier
from quantizable.training.run import train
from tests.tiny import config

output, rank, fault = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
task_loss = QuantizableClassifier.loss
(output / f"{os.environ.get('LOCAL_RANK', '0')}.pid").write_text(str(os.getpid()))

def loss(module, result, batch):  # in a step: the other process waits for this one's gradients, or soon will
    if module.trainer.current_epoch == 1 and module.global_rank == rank and module.training:
        if fault == "nan":
            return task_loss(module, result, batch) * float("nan")
        os.kill(os.getpid(), getattr(signal, fault))
    return task_loss(module, result, batch)

QuantizableClassifier.loss = loss
try:
    train(config(output, "trainer.strategy=ddp", "trainer.devices=2", "schedule.epochs=3", "run=run"))
except (OSError, RuntimeError) as error:
    sys.exit(f"error: {error}")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "fault", "code", "lines"),
    [
        (0, "SIGTERM", 128 + signal.SIGTERM, ["error: stopped by SIGTERM in epoch 1, step 3; resume=last"]),
        (1, "SIGKILL", 1, ["error: another process of this run has ended"]),
    ],
)
def test_when_one_process_ends_the_other_does(
    rank: int, fault: str, code: int, lines: list[str], tmp_path: Path
) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, script, tmp_path, str(rank), fault]
    # the limit is of a hang: importing everything twice is most of the time
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    said = [line for line in done.stderr.replace("\r", "\n").splitlines() if "rror" in line]
    assert [line.startswith(start) for line, start in zip(said, lines, strict=True)] == [True] * len(lines)
    for file in tmp_path.glob("*.pid"):
        for _ in range(600):  # a minute; on a busy machine a process takes its time to leave
            try:
                os.kill(int(file.read_text()), 0)
            except ProcessLookupError:
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"{file.stem} is still running")
    assert len([*tmp_path.glob("*.pid")]) == 2
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["epoch"] == 0
    assert quantizable.load(tmp_path / "run" / "last.ckpt").modes


def test_which_errors_are_of_a_lost_process() -> None:
    assert is_lost(
        RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed")
    )
    assert is_lost(dist.DistBackendError("NCCL error"))
    assert not is_lost(RuntimeError("the loss of mode 2 is not finite"))
