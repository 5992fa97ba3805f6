"""Which modes a training step visits, and in which order: always from the highest to the lowest.

A sampler is a function of (modes, layer names, seed, step) and keeps no state: a resumed run and every
process of a distributed one draw the same modes.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, pstdev
from typing import Protocol

from quantizable.bits import BitMode

Layers = Sequence[str] | Mapping[str, float]  # names, or sizes by name
Visit = BitMode | str | dict[str, BitMode]  # a str names an assignment that the network holds


class Sampler(Protocol):
    """Chooses the visits of one training step, the teacher (highest mode) first."""

    def visits(self, modes: Sequence[BitMode], layers: Layers, seed: int, step: int) -> list[Visit]:
        """Modes, or mixed assignments of layer names to modes, to visit in this order."""
        ...

    def check(self, modes: Sequence[BitMode]) -> None:
        """Raise ``ValueError`` if the modes do not suit the sampler."""
        ...


def visits(
    sampler: Sampler,
    modes: Sequence[BitMode],
    assignments: Sequence[str],
    layers: Layers,
    seed: int,
    step: int,
) -> list[Visit]:
    """What a step visits: the sampler's choice, and every assignment that the network holds after it.

    Args:
        sampler: :class:`Only` chooses among the assignments, too.
        modes: of the network, from the lowest to the highest.
        assignments: their names.
        layers: names of the network's layers, perhaps with the numbers of their weights.
        seed, step: as :meth:`Sampler.visits` takes them.
    """
    chosen = sampler.visits(modes, layers, seed, step)
    return chosen if isinstance(sampler, Only) else [*chosen, *assignments]


def check_one_mode(modes: Sequence[BitMode]) -> None:
    """``ValueError`` unless there is one mode, as the individual scheme trains."""
    if len(modes) != 1:
        names = ", ".join(mode.name for mode in modes)
        raise ValueError(
            f"the individual scheme trains one mode, but the network has {names}; give one, as "
            "bits.modes=[4] (in Python bits=[4])"
        )


def _generator(seed: int, step: int) -> random.Random:
    return random.Random(f"{seed}/{step}")


@dataclass(frozen=True)
class AllModes:
    """Every mode in every step."""

    def check(self, modes: Sequence[BitMode]) -> None:
        """Any list of modes will do."""

    def visits(self, modes: Sequence[BitMode], layers: Layers, seed: int, step: int) -> list[Visit]:
        return [*reversed(modes)]


@dataclass(frozen=True)
class Sandwich:
    """The highest mode, ``randoms`` random ones between, the lowest: a cost that does not grow with the
    modes.

    Yu and Huang, "Universally Slimmable Networks", ICCV 2019 (sandwich rule); for bits EQ-Net, ICCV 2023.
    """

    randoms: int = 1

    def check(self, modes: Sequence[BitMode]) -> None:
        if self.randoms < 0:
            raise ValueError(f"the sandwich draws randoms={self.randoms} modes; give 0 or more")
        if len(modes) < 2:
            raise ValueError(
                f"the sandwich visits the highest and the lowest mode; give at least 2, not {len(modes)}"
            )

    def visits(self, modes: Sequence[BitMode], layers: Layers, seed: int, step: int) -> list[Visit]:
        between = list(modes[1:-1])
        chosen = _generator(seed, step).sample(between, min(self.randoms, len(between)))
        return [modes[-1], *sorted(chosen, reverse=True), modes[0]]


@dataclass(frozen=True)
class RandomK:
    """The highest mode and ``k`` random others."""

    k: int = 2

    def check(self, modes: Sequence[BitMode]) -> None:
        if self.k < 1:
            raise ValueError(f"random-k needs k of at least 1, not {self.k}")

    def visits(self, modes: Sequence[BitMode], layers: Layers, seed: int, step: int) -> list[Visit]:
        chosen = _generator(seed, step).sample(list(modes[:-1]), min(self.k, len(modes) - 1))
        return [modes[-1], *sorted(chosen, reverse=True)]


@dataclass(frozen=True)
class Only:
    """Some modes or assignments alone, in the order given; what the others share with them moves along.

    To fine-tune for deployment in these: weights and the step sizes of their widths are no longer those that
    the other modes were trained with.
    """

    modes: Sequence[int | str] = ()

    def check(self, modes: Sequence[BitMode]) -> None:
        """``ValueError`` for none; whether the network holds them is known when it is built."""
        if not self.modes:
            raise ValueError(
                "the scheme trains chosen modes alone; name some, as scheme.sampler.modes=[found]"
            )

    def visits(self, modes: Sequence[BitMode], layers: Layers, seed: int, step: int) -> list[Visit]:
        known = {mode.name: mode for mode in modes}
        return [known.get(str(name), str(name)) for name in self.modes]


@dataclass(frozen=True)
class LayerWise:
    """The highest mode and ``samples`` assignments that draw every layer's mode at random.

    Bulat and Tzimiropoulos, "Bit-Mixer", ICCV 2021. All modes are equally likely there, while a search within
    a budget gives few bits to large layers and many to sensitive ones. So, as our extension, a layer may lean
    that way: mode k of K below the highest, at ``p = 2 k / (K - 1) - 1``, is drawn with a probability in
    proportion to ``exp(-lean p)``. ``lean`` is the layer's standard score of the logarithm of its size, less
    that of the logarithm of its sensitivity.

    Args:
        samples: assignments in a step, at least 1.
        by_size: lean to few bits where there are many weights.
        sensitivity: lean to many bits in sensitive layers: ``sensitivity.csv`` of ``quantizable search
            sensitivity``, of which the mean KL divergence over modes counts; None: do not.
    """

    samples: int = 3
    by_size: bool = False
    sensitivity: str | None = None

    def check(self, modes: Sequence[BitMode]) -> None:
        if self.samples < 1:
            raise ValueError(f"layer-wise training needs samples of at least 1, not {self.samples}")
        if len(modes) < 3:
            raise ValueError("layer-wise training mixes modes; give at least 2 besides the highest")
        if self.sensitivity is not None:
            read_sensitivity(self.sensitivity)

    def visits(self, modes: Sequence[BitMode], layers: Layers, seed: int, step: int) -> list[Visit]:
        generator, lower = _generator(seed, step), list(modes[:-1])
        if not self.by_size and self.sensitivity is None:
            draws = [{name: generator.choice(lower) for name in layers} for _ in range(self.samples)]
            return [modes[-1], *draws]
        odds = {name: odds_of(lean, len(lower)) for name, lean in self.leans(layers).items()}
        return [
            modes[-1],
            *({n: generator.choices(lower, odds[n])[0] for n in layers} for _ in range(self.samples)),
        ]

    def leans(self, layers: Layers) -> dict[str, float]:
        """How much each layer leans to few bits, 0 on average."""
        leans = dict.fromkeys(layers, 0.0)
        if self.by_size:
            if not isinstance(layers, Mapping):
                raise ValueError("by_size needs the sizes of the layers, by name")
            for name, score in standard_scores(layers).items():
                leans[name] += score
        if self.sensitivity is not None:
            known = read_sensitivity(self.sensitivity)
            for name, score in standard_scores({n: known[n] for n in layers if n in known}).items():
                leans[name] -= score
        return leans


def odds_of(lean: float, count: int) -> list[float]:
    """Odds of ``count`` modes, from the lowest to the highest, of a layer that leans so."""
    return [math.exp(-lean * (2 * k / (count - 1) - 1)) for k in range(count)]


def standard_scores(values: Mapping[str, float]) -> dict[str, float]:
    """Logarithms less their mean, in units of their standard deviation; zeros where they are all alike."""
    logs = {name: math.log(max(value, 1e-12)) for name, value in values.items()}
    spread = pstdev(logs.values()) if logs else 0.0
    return {name: (log - fmean(logs.values())) / spread if spread else 0.0 for name, log in logs.items()}


@cache
def read_sensitivity(path: str) -> dict[str, float]:
    """KL divergence by layer, mean over modes, of a file of ``quantizable search sensitivity``.

    Raises:
        ValueError: no such file, or it is another one.
    """
    found: dict[str, list[float]] = {}
    try:
        with Path(path).open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["layer"], []).append(float(row["kl"]))
        return {layer: fmean(values) for layer, values in found.items()}
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no sensitivity.csv of quantizable search sensitivity ({error})"
        ) from error
