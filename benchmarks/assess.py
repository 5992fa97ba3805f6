"""What docs/assessment.md reports of a trained network: agreement, indicators, cascade and search.

    python benchmarks/assess.py best.ckpt data.root=data --images 300 --seeds 200 --budget 50

The images are a random subset of the test set. Results so far are written after every part, so that an
interrupted run leaves what it has. ``--corruptions none`` and ``--seeds 0`` leave out one half or the other;
``benchmarks/assess_tables.py`` makes the tables.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from steps import machine

from quantizable import load
from quantizable.assess import figures
from quantizable.assess.callables import mode_models
from quantizable.assess.corruptions import COMMON
from quantizable.assess.images import images_of
from quantizable.assess.report import print_summary, write_report
from quantizable.assess.searchers.comparison import (
    agreeing,
    compare_searchers,
    coverage_of,
    pixel_searchers,
    relation_searchers,
)
from quantizable.assess.searchers.constraint import LInf, Psnr
from quantizable.assess.shifts import shifts
from quantizable.assess.study import Study, pairs_of, searched, study_cascade, study_indicators
from quantizable.data.choice import make_datamodule
from quantizable.report.files import finite, write_json
from quantizable.report.plots import save_figure


def brief(plain: dict[str, Any]) -> dict[str, Any]:
    """A study without what its tables do not show: of a shift the accuracies, and disagreement with the last
    mode."""
    shifts = []
    for one in plain["shifts"]:
        differs = {name: one["disagreement"][i][-1] for i, name in enumerate(one["names"][:-1])}
        kept = {key: one[key] for key in ("shift", "severity", "images", "accuracy")}
        shifts.append(kept | {"differs": differs})
    return plain | {"shifts": shifts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", nargs="*", help="data=NAME data.KEY=VALUE, as for quantizable assess")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--corruptions", default=",".join(COMMON), help="'none' for hyperspectral scenes")
    parser.add_argument("--severities", default="1,2,3,4,5")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--search-modes", default="4,8", help="modes that are searched against the highest")
    parser.add_argument("--skip", default="", help="searchers (names, with commas) not run under PSNR")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/assess.json"))
    parser.add_argument(
        "--report", type=Path, help="folder for report.html and its pictures of docs/assessment.md"
    )
    options = parser.parse_args()
    started = time.perf_counter()

    network = load(options.checkpoint)
    datamodule = make_datamodule(options.data, network.info)
    every = images_of(datamodule)
    images = every.sample(options.images)
    study = Study(f"{options.checkpoint.parent.name}, {options.images} test images", images.class_names)

    def keep() -> None:
        seconds = round(time.perf_counter() - started)
        kept = {"machine": machine("cpu"), "seconds": seconds, **brief(study.as_dict())}
        write_json(options.json, finite(kept))  # a threshold may be infinite
        print(f"{seconds} s: kept {options.json}", flush=True)

    names = [] if options.corruptions == "none" else options.corruptions.split(",")
    severities = [int(s) for s in options.severities.split(",")]
    for one in shifts(mode_models(network), images, names, severities):
        study.shifts.append(one)
        print(one.shift, one.severity, flush=True)
    study_indicators(study)
    channels, height, width = images.pixels.shape[1:]
    study_cascade(study, network, (channels, height, width))
    keep()

    top = network.modes[-1].name
    searched_modes = options.search_modes.split(",") if options.seeds else []
    known = images_of(datamodule, "val").sample(1000) if searched_modes else images
    for pair in pairs_of(mode_models(network, [*searched_modes, top])):
        pixels, relations = pixel_searchers(), relation_searchers(channels, coverage_of(pair, known))
        seeds = agreeing(pair, every.sample(3 * options.seeds, seed=1), options.seeds)
        loud = [one for one in (*pixels, *relations) if one.name not in options.skip.split(",")]
        for searchers, constraint in ((pixels, LInf(8 / 255)), (loud, Psnr(20))):
            for searcher in searchers:
                rows = compare_searchers(pair, seeds, [searcher], constraint, options.budget, tell=print)
                searched(study, rows)
                keep()
                if not study.complete:
                    return
    print_summary(study)
    if options.report:
        write_report(options.report, study)
        pictures = {"severity": figures.severity(study.shifts)}
        if study.cascade:
            pictures["cascade"] = figures.cascade_curve(study.cascade, study.bops)
        for name, figure in pictures.items():
            if figure is not None:
                save_figure(figure, options.report / f"{name}.png")


if __name__ == "__main__":
    main()
