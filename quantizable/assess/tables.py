"""The tables of an assessment, for its page, the terminal and Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterator

from quantizable.assess.agreement import Agreement, Interval
from quantizable.assess.study import Study
from quantizable.report.page import Grid


def percent(value: Interval) -> str:
    """``12.3 (11.0 to 13.6)``, in percent."""
    return f"{100 * value[0]:.2f} ({100 * value[1]:.2f} to {100 * value[2]:.2f})"


def tables(study: Study) -> Iterator[Grid]:
    """All tables of the report: those of what was computed."""
    if study.shifts:
        clean = study.shifts[0].agreement
        yield _by_shift(study)
        yield _flips(clean)
        yield _by_class(clean, study.class_names)
    if study.indicators:
        yield _indicators(study)
    if study.cascade:
        yield _cascade(study)
    if study.repairs:
        yield _repairs(study)
    if study.rows:
        yield _searches(study)


def _by_shift(study: Study) -> Grid:
    clean = study.shifts[0].agreement
    names = clean.names
    head = ["shift", "severity"]
    head += [f"accuracy {n}, %" for n in names] + [f"{n} differs, %" for n in names[:-1]]
    rows = []
    for one in study.shifts:
        found = one.agreement
        shares = [*(found.accuracy[n] for n in names), *(found.against_reference(n) for n in names[:-1])]
        rows.append([one.shift, str(one.severity or ""), *map(percent, shares)])
    return Grid(f"Agreement with mode {names[-1]} ({clean.images} images, 95 % intervals)", head, rows)


def _flips(clean: Agreement) -> Grid:
    kinds = ["right_to_wrong", "wrong_to_right", "wrong_to_other"]
    head = ["mode", *(kind.replace("_", " ") for kind in kinds)]
    rows = [[name, *(str(getattr(found, kind)) for kind in kinds)] for name, found in clean.flips.items()]
    return Grid("Flips on clean images", head, rows)


def _by_class(clean: Agreement, class_names: tuple[str, ...]) -> Grid:
    count = len(next(iter(clean.per_class.values()), []))
    labels = class_names or tuple(str(i) for i in range(count))
    rows = [
        [label, *(percent(rates[i]) for rates in clean.per_class.values())] for i, label in enumerate(labels)
    ]
    return Grid("Disagreement on clean images by class, %", ["class", *clean.per_class], rows)


def _indicators(study: Study) -> Grid:
    head = ["mode", "indicator", "inputs", "AUROC, %", "AUPR, %", "TNR at 95 % TPR, %"]
    rows = [
        [mode, name.replace("_", " "), str(q.inputs), percent(q.auroc), percent(q.aupr), percent(q.tnr95)]
        for mode, found in study.indicators.items()
        for name, q in found.items()
    ]
    return Grid("Indicators over all shifts: disagreeing inputs against as many others", head, rows)


def _cascade(study: Study) -> Grid:
    head = ["threshold", "escalated, %", "accuracy, %", "differs from reference, %", "10⁹ bit operations"]
    rows = [
        [f"{p.threshold:.4g}", f"{100 * p.escalated:.1f}", f"{100 * p.accuracy:.2f}",
         f"{100 * p.disagreement:.2f}", f"{p.bops / 1e9:.3f}"] for p in study.cascade
    ]  # fmt: skip
    return Grid("Cascade by margin, on the half of the images that did not set the threshold", head, rows)


def _repairs(study: Study) -> Grid:
    head = ["mode", "trained on", "test images", "before", "persisting", "new", "accuracy before, after, %"]
    rows = [
        [mode, str(r.trained_on), str(r.images), str(r.before), str(r.persisting), str(r.new),
         ", ".join(f"{100 * a:.2f}" for a in r.accuracy)] for mode, r in study.repairs.items()
    ]  # fmt: skip
    return Grid("Repair", head, rows)


def _searches(study: Study) -> Grid:
    head = ["pair", "searcher", "constraint", "queries a seed", "seeds", "found, %", "median queries"]
    rows = [
        [r.pair, r.searcher + ("" if r.complete else " (interrupted)"), r.constraint, str(r.budget),
         str(r.seeds), percent(r.success), "" if r.queries is None else f"{r.queries:g}"] for r in study.rows
    ]  # fmt: skip
    return Grid("Searches for disagreements", head, rows)
