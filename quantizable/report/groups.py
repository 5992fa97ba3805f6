"""Runs in groups: those that differ in nothing but the seed, or that were given one name."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scipy.stats import t

from quantizable.report.charts import Interval, wilson
from quantizable.report.runs import Run, by_width, flatten

LONGEST = 60  # characters of a label in a legend
DIGITS = 6  # of a percentage; to round to 3 and then to 2 would change the last one
Groups = Mapping[str, Sequence[Run]]


def group(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by configuration and by the set that they were measured on, labeled by what these differ in, one
    run alone by its name; a missing setting is None."""
    by_config: dict[str, list[Run]] = {}
    for one in runs:
        said = {key: value for key, value in _config(one).items() if value is not None}
        by_config.setdefault(json.dumps(said, sort_keys=True), []).append(one)
    configs = [_config(members[0]) for members in by_config.values()]
    keys = dict.fromkeys(key for config in configs for key in config)
    differing = [key for key in keys if len({json.dumps(config.get(key)) for config in configs}) > 1]
    members = list(by_config.values())
    alone = members[0][0].name if sum(map(len, members)) == 1 else "all runs"

    def labels(shown: Callable[[Any], str]) -> list[str]:
        each = [[f"{key}={shown(one[key])}" for key in differing if key in one] for one in configs]
        return [", ".join(parts) or alone for parts in each]

    names = labels(str)
    if len({*names}) < len(names):  # 1 and "1" are two settings
        names = labels(json.dumps)
    return dict(zip(names, members, strict=True))


def _config(one: Run) -> dict[str, Any]:
    return one.config | {"set": one.results.get("set")}


def joined(given: Groups, rest: Iterable[Run]) -> dict[str, Sequence[Run]]:
    """Groups that were given a name, and the other runs in theirs; none takes the place of another."""
    groups = dict(given)
    for label, runs in group(rest).items():
        groups[f"{label}, not named" if label in groups else label] = runs
    return groups


def named(groups: Groups) -> dict[str, Sequence[Run]]:
    """The groups with names that fit a legend: one run alone, and runs that many settings tell apart, go by
    the name of their first folder."""
    short: dict[str, Sequence[Run]] = {}
    for label, runs in groups.items():
        alone = label == "all runs" and len(runs) == 1
        name = runs[0].name if alone or len(label) > LONGEST else label
        short[label if name in short else name] = runs
    return short


def modes_of(runs: Sequence[Run]) -> list[str]:
    """The modes that the runs of a group measured, from the lowest to the highest."""
    return sorted({mode for one in runs for mode in one.results["modes"]}, key=by_width)


def with_mode(runs: Sequence[Run], mode: str) -> list[Run]:
    """The runs of a group that measured a mode: all, unless they are networks for a mode each."""
    return [one for one in runs if mode in one.results["modes"]]


def by_seed(runs: Sequence[Run], mode: str) -> list[list[Run]]:
    """The runs of a group that measured a mode; those of one configuration and seed together, as a run that
    is repeated, or copied, is no further sample."""
    held: dict[str, list[Run]] = {}
    for one in with_mode(runs, mode):
        said = {key: value for key, value in one.config.items() if value is not None}
        seeds = {k: v for k, v in flatten(one.results.get("config", {})).items() if k.endswith("seed")}
        key = json.dumps([said, seeds, one.results.get("seed")], sort_keys=True)
        held.setdefault(key, []).append(one)
    return list(held.values())


def values_of(runs: Sequence[Run], mode: str) -> list[float]:
    """Top-1 of a mode, a fraction, for each seed: the mean of the runs that repeat it."""
    return [
        statistics.mean(float(one.results["modes"][mode]["top1"]) for one in same)
        for same in by_seed(runs, mode)
    ]


def mean_of(runs: Sequence[Run], mode: str) -> float:
    """Mean top-1 of a mode over a group's seeds, a fraction."""
    return statistics.mean(values_of(runs, mode))


def interval_of(runs: Sequence[Run], mode: str) -> Interval | None:
    """Mean top-1 of a mode with its 95 % interval, fractions.

    Over the seeds where there are several (Student's t); of one run over the images it was tested on
    (Wilson); None where neither is known.
    """
    values = values_of(runs, mode)
    if len(values) > 1:
        half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
        mean = statistics.mean(values)
        return mean, max(0.0, mean - half), min(1.0, mean + half)  # of two seeds it can leave [0, 1]
    images = with_mode(runs, mode)[0].images
    return wilson(values[0], images) if images else None


def table_rows(groups: Groups) -> list[dict[str, Any]]:
    """One row per group and mode: top-1 in percent, mean and sample standard deviation over seeds, and the
    ends of the 95 % interval of :func:`interval_of`."""
    rows = []
    for label, members in groups.items():
        for mode in modes_of(members):
            runs = with_mode(members, mode)
            values = [100 * value for value in values_of(members, mode)]
            interval = interval_of(members, mode)
            rows.append(
                {
                    "group": label,
                    "mode": mode,
                    "top1_mean": round(statistics.mean(values), DIGITS),
                    "top1_std": round(statistics.stdev(values), DIGITS) if len(values) > 1 else None,
                    "top1_low": None if interval is None else round(100 * interval[1], DIGITS),
                    "top1_high": None if interval is None else round(100 * interval[2], DIGITS),
                    "seeds": sorted(same[0].results["seed"] for same in by_seed(members, mode)),
                    "epochs": sorted({one.results["epochs"] for one in runs}),
                    "set": runs[0].results["set"],
                    "runs": [one.name for one in runs],
                }
            )
    return rows


def accuracy(row: Mapping[str, Any]) -> str:
    """Top-1 in percent, with the standard deviation where there are seeds."""
    spread = "" if row["top1_std"] is None else f" ± {row['top1_std']:.2f}"
    return f"{row['top1_mean']:.2f}{spread}"


def words(value: Any) -> Any:
    """A cell as a reader wants it: a list as its items, nothing for None."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else value
