"""The page's tab on certificates: verdicts of ``quantizable verify``, radii of ``search certify``."""

from __future__ import annotations

from collections import Counter
from typing import Any

from quantizable.report.charts import Interval, axes, line, overlap_warning, wilson
from quantizable.report.found import Found
from quantizable.report.page import Chart, Grid, Part, Tab

STATUS = {"proved": "#2b8a3e", "refuted": "#c1121f", "unknown": "#8a6d00"}


def certificates(found: Found) -> Tab | None:
    """The tab; None without certificates."""
    parts: list[Part] = []
    for name, held in found.certificates.items():
        parts += _verdicts(name, held)
    for name, about in found.certified.items():
        parts += _radii(name, about)
    return Tab("certificates", parts) if parts else None


def _verdicts(name: str, held: dict[str, dict[str, Any]]) -> list[Part]:
    counts = Counter(one["status"] for one in held.values())
    said = ", ".join(f"{counts[status]} {status}" for status in STATUS)
    data = []
    for status, color in STATUS.items():
        own = {key: one for key, one in held.items() if one["status"] == status}
        if own:
            low, high = ([one["bound"][end] for one in own.values()] for end in (0, 1))
            data.append(
                {
                    "type": "bar",
                    "name": status,
                    "orientation": "h",
                    "y": list(own),
                    "base": low,
                    "x": [b - a for a, b in zip(low, high, strict=True)],
                    "marker": {"color": color},
                    "customdata": [[one["eps"], *one["bound"]] for one in own.values()],
                    "hovertemplate": "%{y}: %{customdata[1]:.6g} to %{customdata[2]:.6g}, "
                    "allowed %{customdata[0]:.6g}<extra></extra>",
                }
            )
    says = (
        f"{name}: the bounds of each query's output, a bar from the lowest to the highest value it can take; "
        "proved is what lies between the dashed lines, the allowed difference."
    )
    order = {"categoryorder": "array", "categoryarray": list(held)[::-1]}
    layout = {**axes("bounds of the output", "", yaxis=order), "barmode": "overlay"}
    layout["height"] = max(340, 22 * len(held))
    eps = {one["eps"] for one in held.values() if one["property"] == "difference"}
    if len(eps) == 1:
        (allowed,) = eps
        layout["shapes"] = [
            {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dash"}}
            for x in (-allowed, allowed)
        ]
    head = ["certificate", "status", "property", "modes", "output", "allowed difference", "bounds", "method",
            "seconds"]  # fmt: skip
    rows = [
        [key, one["status"], one["property"], " and ".join(map(str, one["modes"])), one["output"], one["eps"],
         "{:.6g} to {:.6g}".format(*one["bound"]), one["method"], f"{one['seconds']:.2f}"]
        for key, one in held.items()
    ]  # fmt: skip
    return [Chart(f"Verdicts: {said}", says, data, layout), Grid(f"Certificates of {name}", head, rows)]


def _radii(name: str, about: dict[str, Any]) -> list[Part]:
    images = int(about["images"])
    lines, rows = [], []
    at_zero: list[tuple[str, Interval | None]] = []
    for number, (mode, found) in enumerate(about["bits"].items()):
        radii = list(found["certified_accuracy"])
        shares = [found["certified_accuracy"][radius] for radius in radii]
        lines.append(line(f"mode {mode}", [float(r) for r in radii], [100 * s for s in shares], number))
        at_zero.append((f"mode {mode}", wilson(shares[0], images)))
        cells = [f"{100 * share:.1f}" for share in shares]
        wrong = found.get("failure_probability", about["alpha"])
        rows.append([mode, f"{found['acr']:.4f}", *cells, f"{found['samples_per_image']:.0f}",
                     f"{found['seconds']:.1f}", f"{wrong:g}"])  # fmt: skip
    says = (
        f"{name}: the share of {images} images whose class is certified within a radius (l2, noise of sigma "
        f"{about['sigma']:g}), one line for each mode; from-32-4 is mode 4, certified from mode 32."
    )
    chart = Chart(
        "Certified accuracy",
        says,
        lines,
        axes("radius", "certified accuracy, %"),
        overlap_warning(at_zero, "is certified more often at radius 0"),
    )
    head = [
        "mode",
        "average radius",
        *(f"radius {float(r):g}, %" for r in radii),
        "samples an image",
        "seconds",
        "failure probability",
    ]
    return [chart, Grid(f"Certified accuracy of {name}", head, rows)]
