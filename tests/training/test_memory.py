"""Freed memory is taken again without the system's help."""

import os
import platform
import subprocess
import sys

import pytest

from quantizable.training.memory import keep_freed_memory

FAULTS = """
import resource, sys, torch
from quantizable.training.memory import keep_freed_memory
torch.set_num_threads(1)
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def step():  # several tensors at a time, freed together, as after a backward pass
    held = [torch.ones(4 << 20) for _ in range(6)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> tuple[str, int]:
    """What ``keep_freed_memory`` returned, and the page faults of 20 steps of 6 x 4096 pages each."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, how],
        env=plain | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, count = run.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
def test_a_step_takes_the_memory_of_the_last_one() -> None:
    for _ in range(
        2
    ):  # by default about every other process has 20 times as many, as its heap happens to lie
        kept, count = faults("keep")
        assert kept == "True"
        assert count < 2 * 6 * 4096, "hardly more than one step's"


@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_somebody_chose_is_left_alone(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "131072" if variable.startswith("MALLOC") else "")
    assert keep_freed_memory() is False
