"""One image in every mode of a network: what the demo shows, without its page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quantizable.deploy.command_predict import top_classes
from quantizable.deploy.guard import Guard
from quantizable.deploy.session import Session
from quantizable.interface.progress import progress
from quantizable.measure.cost import layer_costs
from quantizable.measure.energy import microjoules
from quantizable.measure.latency import interleaved
from quantizable.measure.uncertainty import INDICATORS
from quantizable.storage.load import load
from quantizable.storage.network_file import read_about
from quantizable.storage.outputs import only_tensor
from quantizable.storage.preprocessing import read_images


@dataclass(frozen=True)
class ModeAnswer:
    """What one mode says to an image.

    Attributes:
        mode: its name.
        logits: ``[classes]``.
        top: the five likeliest classes with their probabilities, as ``top_classes`` gives them.
        milliseconds: median of an inference of one image on this machine.
        microjoules: estimate for the multiply-accumulates of one image; see ``measure/energy.py``.
        weight_bytes: of the weights at their widths.
    """

    mode: str
    logits: np.ndarray
    top: list[dict[str, Any]]
    milliseconds: float
    microjoules: float
    weight_bytes: int


@dataclass(frozen=True)
class GuardAnswer:
    """What a guard does with an image: whether it asks the high mode, why, and the answer."""

    low: str
    high: str
    indicator: str
    score: float
    threshold: float
    escalated: bool
    answer: str


@dataclass(frozen=True)
class Answer:
    """One image in every mode, from the lowest to the highest, and the guard's decision, if there is one."""

    modes: list[ModeAnswer]
    guard: GuardAnswer | None

    @property
    def differing(self) -> list[str]:
        """Names of the modes whose class is another one than that of the highest mode."""
        reference = self.modes[-1].top[0]["index"]
        return [one.mode for one in self.modes if one.top[0]["index"] != reference]


class Demo:
    """A network that answers in all of its modes at once.

    Args:
        path: a ``.qz`` file, or a checkpoint of training.
        engine: as of :class:`Session`.
        threads: of one inference.
        guard: a file of ``quantizable assess``; None: ``guard.json`` beside the model, if there is one.
        repeats: inferences that the latency of a mode is the median of.

    Raises:
        FileNotFoundError, ValueError, ImportError: as :class:`Session` and ``Guard.load``; or a guard of
            modes that the network lacks, or a file of one mode.
    """

    def __init__(
        self,
        path: Path | str,
        engine: str = "onnxruntime",
        threads: int | None = None,
        guard: Path | None = None,
        repeats: int = 5,
    ) -> None:
        path = Path(path)
        if path.suffix in (".onnx", ".xml"):
            raise ValueError(
                f"{path} holds one mode; the demo compares modes: give a .qz file or a checkpoint"
            )
        if ((read_about(path) or {}).get("data") or {}).get("vocabulary"):
            raise ValueError(f"{path} reads words, the demo shows images; ask it by quantizable predict")
        beside = path.with_name("guard.json")
        self.guard = Guard.load(guard or beside) if guard or beside.is_file() else None
        self.session = Session(path, engine, threads=threads, batch=1)
        if "image_size" not in self.session.info:
            raise ValueError(f"the demo shows images; {path} takes {', '.join(self.session.signature)}")
        if self.guard:
            for mode in (self.guard.low, self.guard.high):
                self.session.set_bits(mode)  # refused at once if the file lacks it
        for held in progress(self.modes, "compiling"):
            self.session.set_bits(held)
        network = load(path)
        costs = layer_costs(network)
        self.energy = microjoules(costs)
        self.bytes = dict.fromkeys(self.modes, 0)
        for cost in costs:
            self.bytes[cost.mode] += cost.weight_bytes
        self.milliseconds = self._measure(repeats)

    @property
    def modes(self) -> list[str]:
        """Names of the assignments that the network holds, then of the modes, from the lowest on."""
        return [*self.session.assignments, *(mode.name for mode in self.session.modes)]

    def _measure(self, repeats: int) -> dict[str, float]:
        blank = self.session.zeros(1)
        runs = {name: partial(self._logits, name, blank) for name in self.modes}
        return interleaved(runs, repeats)

    def _logits(self, mode: str, image: Any) -> np.ndarray:
        with self.session.at_bits(mode):
            return np.asarray(only_tensor(self.session(image), "the demo"))[0]

    def answer(self, image: Path) -> Answer:
        """The image in every mode.

        Args:
            image: a file; it is resized, cropped and normalized as in evaluation.

        Raises:
            ValueError: it is no image, or one of another number of channels.
        """
        pixels = read_images([image], self.session.info)
        names = self.session.info.get("class_names")
        answers = []
        for name in self.modes:
            logits = self._logits(name, pixels)
            top = top_classes(logits, names)
            costs = self.milliseconds[name], self.energy[name], self.bytes[name]
            answers.append(ModeAnswer(name, logits, top, *costs))
        return Answer(answers, self._guarded({one.mode: one for one in answers}))

    def _guarded(self, answers: dict[str, ModeAnswer]) -> GuardAnswer | None:
        guard = self.guard
        if guard is None:
            return None
        low, high = str(guard.low), str(guard.high)
        if low not in answers or high not in answers:  # as w4a4, which is mode 4
            low, high = (self._name(mode) for mode in (guard.low, guard.high))
        probabilities = torch.as_tensor(answers[low].logits)[None].float().softmax(1)
        score = float(INDICATORS[guard.indicator](probabilities)[0])
        escalated = bool(guard.escalates(probabilities)[0])
        chosen = answers[high if escalated else low].top[0]["class"]
        return GuardAnswer(low, high, guard.indicator, score, guard.threshold, escalated, str(chosen))

    def _name(self, mode: int | str) -> str:
        with self.session.at_bits(mode):
            return self.session.bits
