"""A whole assessment of one network: everything the report shows, gathered as it is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from quantizable.assess.callables import Model, Pair
from quantizable.assess.cascade import CascadePoint, cascade, choose_guard, thresholds_for
from quantizable.assess.indicators import Quality, indicator_quality, roc_curves
from quantizable.assess.repair import Repair
from quantizable.assess.searchers.comparison import Row
from quantizable.assess.searchers.hunt import Found
from quantizable.assess.shifts import Shifted, pooled
from quantizable.assess.texts import sentences
from quantizable.deploy.guard import Guard
from quantizable.measure.cost import layer_costs
from quantizable.network import QuantizableNetwork

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # escalated by the points of a cascade's curve


@dataclass
class Study:
    """What is known so far; a study that was interrupted has less in it, and says so.

    Attributes:
        vocabulary: of texts, the words by id; none for images.
        shifts: agreement on clean inputs first, then on each shift.
        indicators: by low mode, over all shifts together; roc: their curves, two lists of shares each.
        guard, cascade: see :func:`study_cascade`.
        rows, found: of the searches.
        proofs: by pair, how many seeds came out refuted, proved and open under the L-infinity limit.
        skipped: what could not be computed, and why.
    """

    title: str
    class_names: tuple[str, ...]
    vocabulary: Sequence[str] = ()
    shifts: list[Shifted] = field(default_factory=list)
    indicators: dict[str, dict[str, Quality]] = field(default_factory=dict)
    roc: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    bops: dict[str, float] = field(default_factory=dict)
    guard: Guard | None = None
    cascade: list[CascadePoint] = field(default_factory=list)
    repairs: dict[str, Repair] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    proofs: dict[str, dict[str, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    complete: bool = True

    def as_dict(self) -> dict[str, Any]:
        """As ``assessment.json`` holds it: shares, not percent; intervals as [value, low, high]; a threshold
        that nothing reaches as infinity, which JSON writes as null."""
        return {
            "title": self.title,
            "class_names": list(self.class_names),
            "complete": self.complete,
            "shifts": [
                {"shift": one.shift, "severity": one.severity, **one.agreement.as_dict()}
                for one in self.shifts
            ],
            "indicators": {
                mode: {name: asdict(quality) for name, quality in found.items()}
                for mode, found in self.indicators.items()
            },
            "roc": self.roc,
            "bops_per_image": self.bops,
            "guard": None if self.guard is None else asdict(self.guard),
            "cascade": [asdict(point) for point in self.cascade],
            "repairs": {mode: asdict(one) for mode, one in self.repairs.items()},
            "search": [asdict(row) for row in self.rows],
            "proofs": self.proofs,
            "skipped": self.skipped,
            **({"inputs": "texts", "examples": self._sentences()} if self.vocabulary else {}),
        }

    def shown(self) -> list[Shifted]:
        """The shifts of which examples are shown: the first, and where the lowest mode disagrees most."""
        if not self.shifts:
            return []
        most = max(self.shifts, key=lambda one: one.agreement.against_reference(one.agreement.names[0])[0])
        return [self.shifts[0]] if most is self.shifts[0] else [self.shifts[0], most]

    def _sentences(self) -> list[dict[str, Any]]:
        """Texts on which modes disagree, with both answers, the reference's first."""
        return [
            {"shift": one.shift, "severity": one.severity, "mode": mode, "text": text, "answers": both}
            for one in self.shown()
            for mode, (ids, answers) in one.examples.items()
            for text, both in zip(sentences(ids, self.vocabulary), answers.tolist(), strict=True)
        ]


def attempt(study: Study, what: str, action: Callable[[], Any]) -> Any:
    """The action's result; None, with the reason kept in the study, where the data does not allow it."""
    try:
        return action()
    except ValueError as error:
        study.skipped[what] = str(error)
        return None


def study_indicators(study: Study, seed: int = 0) -> None:
    """Indicators of each mode over all shifts that were measured."""
    outputs, _ = pooled(study.shifts)
    *lows, top = outputs
    for low in lows:
        differ = outputs[low].argmax(1) != outputs[top].argmax(1)
        action = partial(indicator_quality, outputs[low], differ, seed)
        if found := attempt(study, f"indicators of mode {low}", action):
            study.indicators[low] = found
            study.roc[low] = roc_curves(outputs[low], differ, seed)


def study_cascade(
    study: Study, network: QuantizableNetwork, input_size: tuple[int, ...], seed: int = 0
) -> None:
    """A guard between two quantized modes: chosen on one half of the shifted inputs, reported on the other.

    The low mode is the lowest of 4 bits or more below the reference (else the lowest of all), the high mode
    the next one.

    Args:
        input_size: channels, height, width of an image, or words of a text, for the count of operations.
    """
    measured = study.shifts[0].agreement.names
    modes = {mode.name: mode for mode in network.modes if mode.name in measured}
    names = list(modes)  # an assignment has no operations of its own in these tables
    study.bops = dict.fromkeys(modes, 0.0)
    for cost in layer_costs(network, input_size, modes.values()):
        study.bops[cost.mode] += cost.bops
    if len(names) < 2:
        study.skipped["cascade"] = "it takes two modes"
        return
    low = next((name for name in names[:-1] if modes[name].weight >= 4), names[0])
    high = names[names.index(low) + 1]
    outputs, labels = pooled(study.shifts)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    fit, held = order[::2], order[1::2]
    reference = outputs[names[-1]]
    differ = outputs[low].argmax(1) != reference.argmax(1)
    study.guard = attempt(
        study, "guard", lambda: choose_guard(modes[low], modes[high], outputs[low][fit], differ[fit])
    )
    thresholds = thresholds_for(outputs[low][fit], SHARES)
    if study.guard is not None:
        thresholds = sorted([*thresholds, study.guard.threshold], reverse=True)
    study.cascade = cascade(
        outputs[low][held], outputs[high][held], reference[held], labels[held],
        (study.bops[low], study.bops[high]), thresholds,
    )  # fmt: skip


def pairs_of(models: Mapping[str, Model]) -> Iterator[Pair]:
    """Each model against the last."""
    top = list(models)[-1]
    for name in list(models)[:-1]:
        yield Pair(models[top], models[name], f"{name} against {top}")


def searched(study: Study, rows: Iterable[tuple[Row, Found]]) -> None:
    """Keep the results of a comparison of searchers, each as it comes."""
    for row, found in rows:
        study.rows.append(row)
        study.found.append(found)
        study.complete &= row.complete
