"""The pictures of a report, each a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from sklearn.metrics import roc_curve
from torch import Tensor

from quantizable.assess.agreement import Agreement
from quantizable.assess.cascade import CascadePoint
from quantizable.assess.indicators import balanced
from quantizable.assess.shifts import CLEAN, Shifted, pooled
from quantizable.measure.uncertainty import INDICATORS


def _figure(width: float, height: float = 3.6) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def matrix(found: Agreement, title: str) -> Figure:
    """Heat maps of disagreement and distance between all modes."""
    figure = _figure(8)
    what = (
        ("top-1 disagreement, %", found.disagreement, 100),
        ("Jensen-Shannon distance", found.distance, 1),
    )
    for axes, (name, rows, unit) in zip(figure.subplots(1, 2), what, strict=True):
        values = [[unit * cell[0] for cell in row] for row in rows]
        axes.imshow(values, cmap="viridis")
        ticks = range(len(found.names))
        axes.set_xticks(ticks, found.names)
        axes.set_yticks(ticks, found.names)
        axes.set_title(name)
        brightest = max(max(row) for row in values)
        for i in ticks:
            for j in ticks:
                color = "black" if values[i][j] > brightest / 2 else "white"
                axes.text(j, i, f"{values[i][j]:.3g}", ha="center", va="center", color=color)
    figure.suptitle(title)
    return figure


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


def roc(measured: Sequence[Shifted], mode: str) -> Figure:
    """ROC of the four indicators of one mode, over all shifts."""
    outputs, _ = pooled(measured)
    disagree = outputs[mode].argmax(1) != outputs[measured[0].agreement.names[-1]].argmax(1)
    index = balanced(disagree)
    figure = _figure(4.5, 4)
    axes = figure.add_subplot()
    for name, indicator in INDICATORS.items():
        fpr, tpr, _ = roc_curve(disagree[index].numpy(), indicator(outputs[mode][index]).numpy())
        axes.plot(fpr, tpr, label=name.replace("_", " "))
    axes.set_xlabel("agreeing inputs flagged")
    axes.set_ylabel("disagreeing inputs flagged")
    axes.set_title(f"mode {mode}")
    axes.legend()
    return figure


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


def examples(
    inputs: Tensor, answers: Tensor, class_names: Sequence[str], title: str, count: int = 8
) -> Figure | None:
    """Inputs ``[N, C, H, W]`` on which a pair disagrees, with both answers ``[N, 2]``; None without any."""
    if len(inputs) == 0:
        return None
    figure = _figure(1.6 * count, 2.2)
    for axes, one, pair in zip(figure.subplots(1, count, squeeze=False)[0], inputs, answers, strict=False):
        axes.imshow(_shown(one), cmap="gray", vmin=0, vmax=1)
        axes.set_title("\n".join(_label(int(answer), class_names) for answer in pair), fontsize=9)
    for axes in figure.axes:
        axes.axis("off")
    figure.suptitle(title)
    return figure


def _shown(image: Tensor) -> object:
    channels = image.shape[0]
    if channels == 3:
        return image.permute(1, 2, 0).numpy()
    return image[channels // 2].numpy()  # grey, or the middle band


def _label(label: int, class_names: Sequence[str]) -> str:
    return class_names[label] if label < len(class_names) else str(label)
