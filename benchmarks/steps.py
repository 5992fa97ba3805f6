"""What the timings of training steps share: the networks, a bare step, a step in several modes, the clock."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quantizable
from quantizable.bits import BitMode
from quantizable.models.create import create_model
from quantizable.network import QuantizableNetwork
from quantizable.nn.kept_weights import KeptWeights
from quantizable.training.memory import keep_freed_memory
from quantizable.training.optim import positive_parameters, step_sizes_in_bounds
from quantizable.training.schemes import SCHEMES, Scheme

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """A network and its training batch."""

    model: str
    batch: int
    size: int
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "resnet20": Case("resnet20", 128, 32),
    "resnet18": Case("resnet18", 64, 32, {"cifar_stem": True}),
    "mobilenetv2": Case("mobilenetv2_100", 16, 96),
    "vit_tiny": Case("vit_tiny_patch16_224", 16, 96, {"img_size": 96}),
}


@dataclass(frozen=True)
class Setting:
    """How a step runs: ``float32`` or ``bf16``; ``nchw`` or ``channels_last``; ``eager`` or ``compiled``."""

    device: str = "cpu"
    dtype: str = "float32"
    layout: str = "channels_last"
    execution: str = "eager"

    def autocast(self) -> torch.autocast:
        """bf16 for the matrix products, or nothing."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bf16")

    def place(self, x: Any) -> Any:
        """A network or a batch of images on the device, in the layout."""
        channels_last = self.layout == "channels_last"
        return x.to(
            self.device, memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )


Step = Callable[[], None]


def make_batch(case: Case, setting: Setting) -> tuple[Tensor, Tensor]:
    """Random images [B, 3, S, S] and labels [B]."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(case.batch, 3, case.size, case.size, generator=generator)
    labels = torch.randint(0, 10, (case.batch,), generator=generator)
    return setting.place(images), labels.to(setting.device)


def make_network(case: Case, setting: Setting) -> nn.Module:
    """The float network in training mode."""
    torch.manual_seed(0)
    return setting.place(create_model(case.model, 10, **case.options)).train()


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of both sides."""
    return torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)


def bare_step(network: nn.Module, setting: Setting, case: Case, passes: int) -> Step:
    """``passes`` forward and backward passes of the float network and one optimizer step."""
    images, labels = make_batch(case, setting)
    optimizer = sgd(network)
    run = torch.compile(network) if setting.execution == "compiled" else network

    def step() -> None:
        for _ in range(passes):
            with setting.autocast():
                loss = F.cross_entropy(run(images).float(), labels)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def multi_mode_step(
    network: QuantizableNetwork,
    setting: Setting,
    case: Case,
    scheme: Scheme,
    accumulate: int = 1,
    keep_weights: bool = False,
) -> Callable[[], None]:
    """One step of the scheme: what ``MultiModeModule.training_step`` does, without a Trainer around it."""
    images, labels = make_batch(case, setting)
    network.calibrate([images], batches=1)
    optimizer = sgd(network)
    layers = list(network.layers())
    if setting.execution == "compiled":
        network.model.compile()
    step_sizes = positive_parameters(network)
    count = iter(range(sys.maxsize))
    kept = KeptWeights(keep_weights)

    def batch() -> None:
        teachers: list[Tensor] = []
        for visit in scheme.sampler.visits(network.modes, layers, 0, next(count)):
            network.set_bits(visit)
            with kept.used(network):
                with setting.autocast():
                    output = network(images)
                    loss = scheme.objective(output, F.cross_entropy(output.float(), labels), teachers)
                (loss / accumulate).backward()
            teachers.append(output.detach())

    def step() -> None:
        for _ in range(accumulate):
            batch()
        kept.hand_on()
        with step_sizes_in_bounds(step_sizes, optimizer):
            optimizer.step()
        optimizer.zero_grad()

    return step


def quantizable_network(
    case: Case, setting: Setting, bits: Sequence[Any], quantizer: str = "lsq"
) -> QuantizableNetwork:
    """The network in its modes; LSQ with one scale per output channel."""
    return quantizable.quantize(make_network(case, setting), bits=bits, quantizer=quantizer).train()


def memory_mib(which: str) -> float:
    """Resident memory of this process, MiB: ``VmRSS`` now, ``VmHWM`` at most so far.

    Not from ``getrusage`` where there is another source: Linux hands a program the peak of its parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(v.split()[0]) / 2**10 for k, v in map(field_of, status.open()) if k == which)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: bytes, and its own


def field_of(line: str) -> tuple[str, str]:
    """Name and value of a line ``name: value``."""
    name, _, value = line.partition(":")
    return name, value


def _peak_mib(case: Case, setting: Setting, scheme: str | None, modes: Sequence[str], threads: int) -> float:
    torch.set_num_threads(threads)
    keep_freed_memory()
    before = memory_mib("VmRSS")
    if scheme is None:
        step = bare_step(make_network(case, setting), setting, case, passes=len(modes))
    else:
        step = multi_mode_step(quantizable_network(case, setting, modes), setting, case, SCHEMES[scheme])
    step(), step()
    if setting.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return memory_mib("VmHWM") - before


def peak_mib(
    case: Case, setting: Setting, scheme: str | None, modes: Sequence[str], fragmented: bool = False
) -> float:
    """Peak memory of two steps in a process of their own, MiB; ``scheme`` None: of the bare network.

    On the CPU the highest resident memory less that before the network is built, on a GPU what torch
    allocated at most.

    Args:
        fragmented: count the holes that glibc's heap keeps between tensors, too. By default each tensor is
            mapped on its own and given back when it is freed, so that the peak is what was in use.
    """
    limit = {} if fragmented else {"MALLOC_MMAP_THRESHOLD_": "65536"}
    with mock.patch.dict(os.environ, limit), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_mib, case, setting, scheme, modes, torch.get_num_threads()).result()


@dataclass
class Times:
    """Seconds of each repetition: of the clock on the wall, and of the processor (all threads)."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, step: Step, device: str) -> None:
        """Run a step and note both times."""
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


def interleaved(steps: dict[str, Step], repeats: int, device: str, warmup: int = 2) -> dict[str, Times]:
    """Each step in turn, ``repeats`` rounds, so that a busy moment of the machine hits all of them."""
    for step in steps.values():
        for _ in range(warmup):
            step()
    times = {name: Times() for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].add(step, device)
    return times


def ratio(ours: Times, bare: Times, clock: str) -> float:
    """Median over the rounds of ours over bare; ``clock`` is ``wall`` or ``cpu``."""
    pairs = zip(getattr(ours, clock), getattr(bare, clock), strict=True)
    return statistics.median(a / b for a, b in pairs)


def machine(device: str) -> dict[str, Any]:
    """Where and when, for the table's caption."""
    return {
        "cpu": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def save(name: str, device: str, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the rows to ``benchmarks/results/<name>.json`` with the machine and the command."""
    rows = list(rows)
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(device), "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return rows


def positive(text: str) -> int:
    """A count from the command line, at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def device(text: str) -> str:
    """``cpu``, or ``cuda`` where there is a GPU."""
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither cpu nor cuda")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch sees no GPU here")
    return text


def mode(text: str) -> str:
    """A bit mode, as ``4`` or ``w4a8``."""
    try:
        return BitMode.parse(text).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def cell(value: object) -> str:
    """Three digits of a number, all of a text."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = (cell(value) for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
