"""Pictures of an assessment, each a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from quantizable.assess.cascade import CascadePoint
from quantizable.assess.shifts import CLEAN, Shifted


def _figure(width: float, height: float = 3.6) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def severity(measured: Sequence[Shifted]) -> Figure | None:
    """Accuracy and disagreement with the reference against severity, as means over the corruptions."""
    levels = sorted({one.severity for one in measured if one.severity})
    if not levels:
        return None
    figure = _figure(9)
    left, right = figure.subplots(1, 2)
    names = measured[0].agreement.names
    # a natural shift has severity 0, too, and belongs to none of the groups
    groups = [[one.agreement for one in measured if one.shift == CLEAN]]
    groups += [[one.agreement for one in measured if one.severity == level] for level in levels]
    for name in names:
        left.plot(
            [0, *levels],
            [100 * _mean(a.accuracy[name][0] for a in group) for group in groups],
            "o-",
            label=name,
        )
        if name != names[-1]:
            values = [100 * _mean(a.against_reference(name)[0] for a in group) for group in groups]
            right.plot([0, *levels], values, "o-", label=name)
    left.set_ylabel("accuracy, %")
    right.set_ylabel(f"disagreement with mode {names[-1]}, %")
    for axes in (left, right):
        axes.set_xlabel("severity (0 = clean)")
        axes.grid(alpha=0.3)
        axes.legend(title="mode")
    return figure


def _mean(values) -> float:  # type: ignore[no-untyped-def]
    listed = list(values)
    return sum(listed) / len(listed)


def cascade_curve(points: Sequence[CascadePoint], bops: dict[str, float]) -> Figure:
    """Accuracy against the mean cost of the cascade."""
    figure = _figure(5)
    axes = figure.add_subplot()
    unit = 1e9
    axes.plot([p.bops / unit for p in points], [100 * p.accuracy for p in points], "o-", label="cascade")
    for name, cost in bops.items():
        axes.axvline(cost / unit, color="grey", lw=0.8, ls="--")
        axes.annotate(f"mode {name}", (cost / unit, axes.get_ylim()[0]), rotation=90, va="bottom", ha="right")
    axes.set_xscale("log")
    axes.set_xlabel("bit operations per image, 10⁹")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    return figure


def examples(inputs: Tensor, answers: Tensor, class_names: Sequence[str], count: int = 8) -> Figure | None:
    """Inputs ``[N, C, H, W]`` on which a pair disagrees, with both answers ``[N, 2]``; None without any."""
    if len(inputs) == 0:
        return None
    figure = _figure(1.6 * count, 2.2)
    for axes, one, pair in zip(figure.subplots(1, count, squeeze=False)[0], inputs, answers, strict=False):
        axes.imshow(_shown(one), cmap="gray", vmin=0, vmax=1)
        axes.set_title("\n".join(_label(int(answer), class_names) for answer in pair), fontsize=9)
    for axes in figure.axes:
        axes.axis("off")
    return figure


def _shown(image: Tensor) -> object:
    channels = image.shape[0]
    if channels == 3:
        return image.permute(1, 2, 0).numpy()
    return image[channels // 2].numpy()  # grey, or the middle band


def _label(label: int, class_names: Sequence[str]) -> str:
    return class_names[label] if label < len(class_names) else str(label)
