"""How long one inference takes, engine by engine and mode by mode."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from quantizable.interface.progress import progress

PAUSE = 0.1  # seconds


def interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int = 20, warmup: int = 2
) -> dict[str, float]:
    """Median milliseconds of each run.

    The runs take turns, so that whatever else the machine does falls on all of them alike. Before its turn a
    run waits, as the engines' threads go on spinning for a while after an inference and would take the cores
    from the next one, and goes once untimed, which brings its own threads and caches back.

    Args:
        runs: what to time, by name.
        repeats: turns, at least 1.
        warmup: turns that are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in progress(range(warmup + repeats), "timing", still=True):
        for name, run in runs.items():
            time.sleep(PAUSE)
            run()
            start = time.perf_counter()
            run()
            if turn >= warmup:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}
