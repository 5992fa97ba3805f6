"""What ``quantizable assess`` does with its options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from quantizable.assess.callables import Model, Pair, chosen_models
from quantizable.assess.corruptions import CORRUPTIONS, SEVERITIES
from quantizable.assess.examples import Examples, examples_of
from quantizable.assess.images import Images
from quantizable.assess.proofs import prove_pair
from quantizable.assess.repair import repair
from quantizable.assess.report import log_wandb, print_summary, write_report
from quantizable.assess.searchers.comparison import (
    agreeing,
    compare_searchers,
    coverage_of,
    pixel_searchers,
    relation_searchers,
)
from quantizable.assess.searchers.constraint import LInf, Psnr
from quantizable.assess.shifts import shifts
from quantizable.assess.study import Study, attempt, pairs_of, searched, study_cascade, study_indicators
from quantizable.assess.texts import Texts, texts_of
from quantizable.bits import BitMode
from quantizable.data import Text
from quantizable.data.base import DataModule
from quantizable.interface.errors import unknown
from quantizable.interface.progress import progress
from quantizable.storage.load import load
from quantizable.storage.network_data import trained_data
from quantizable.storage.selection import choose

KNOWN = 1000  # held-out training images that surprise is measured against


def run(args: argparse.Namespace) -> int:
    """Assess, print and write; 130 after Ctrl-C, with what was found until then written all the same."""
    constraints = check_options(args)
    network = load(args.checkpoint)
    datamodule = trained_data(network, args.data)
    chosen = choose(args.bits, network, lambda: datamodule)
    if len(chosen) < 2:
        raise ValueError(f"--bits {args.bits}: an assessment compares modes; give at least two")
    datamodule.prepare_data() if args.repair or args.search else datamodule.prepare_test_data()
    examples = examples_of(datamodule, count=args.images, seed=args.seed)
    if args.search and not isinstance(examples, Images):
        raise ValueError("--search moves pixels, and texts have none; leave it out")
    train = examples_of(datamodule, "train") if args.repair else None
    if isinstance(examples, Texts) and isinstance(datamodule, Text):
        examples = examples.with_synonyms(texts_of(datamodule, "train").ids)
    names = corruption_names(args.corruptions, examples)
    natural = natural_shifts(args, partial(trained_data, network))
    args.output.mkdir(parents=True, exist_ok=True)
    vocabulary = examples.words.vocabulary if isinstance(examples, Texts) else ()
    study = Study(f"{args.checkpoint}: {type(datamodule).__name__}", examples.class_names, vocabulary)
    try:
        models = chosen_models(chosen)
        try:
            assess(study, models, examples, names, natural, args)
        finally:
            if study.shifts:
                study_cascade(study, network, tuple(examples.inputs.shape[1:]), args.seed)
        if train is not None:
            for one in chosen[:-1]:
                if not isinstance(one.bits, BitMode):
                    study.skipped[f"repair of {one.name}"] = "an assignment; only modes are fine-tuned"
                    continue
                action = partial(repair, network, one.bits, train, examples, args.repair, seed=args.seed)
                if isinstance(chosen[-1].bits, BitMode):
                    action = partial(action, reference=chosen[-1].bits)
                if done := attempt(study, f"repair of mode {one.name}", action):
                    study.repairs[one.name] = done[1]
        if args.search and isinstance(examples, Images):
            known = attempt(study, "surprise coverage", lambda: examples_of(datamodule, "val", KNOWN))
            search_all(study, pairs_of(models), examples, known, constraints, args)
    except KeyboardInterrupt:
        study.complete = False
    return finish(study, f"assess {args.checkpoint.parent.name}", args)


def finish(study: Study, name: str, args: argparse.Namespace) -> int:
    """Print, write and log what is known; 130 after Ctrl-C."""
    print_summary(study)
    written = write_report(args.output, study)
    print(f"kept in {args.output}: {', '.join(path.name for path in written)}")
    if args.logger == "wandb":
        log_wandb(study, "quantizable", name)
    return 0 if study.complete else 130


def check_options(args: argparse.Namespace) -> tuple[LInf, Psnr]:
    """The two constraints; ``ValueError`` for numbers that cannot work, before anything is loaded."""
    if args.search < 0 or args.repair < 0:
        raise ValueError("--search and --repair count seeds and steps; give 0 or more")
    if args.budget < 1:
        raise ValueError(f"--budget {args.budget} finds nothing; give at least 1 query per seed")
    if args.images is not None and args.images < 1:
        raise ValueError(f"--images {args.images}; give at least 1")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}; give 0 or more")
    if not re.fullmatch(r"[1-5](,[1-5])*", args.severities):
        raise ValueError(f"--severities {args.severities}: give numbers from 1 to 5, separated by commas")
    return LInf(args.linf / 255), Psnr(args.psnr)


def natural_shifts(
    args: argparse.Namespace, data: Callable[[Sequence[str]], DataModule]
) -> dict[str, Examples]:
    """The second sets of ``--natural`` by name; texts in the vocabulary of the network.

    Args:
        data: the data module that words ask for.

    Raises:
        ValueError: words that do not say what a set is.
    """
    found: dict[str, Examples] = {}
    for name, *words in args.natural:
        if not words:
            raise ValueError(f"--natural {name}: say what it is, as --natural NAME data=folder data.root=D")
        datamodule = data(words)
        datamodule.prepare_test_data()
        found[name] = examples_of(datamodule, count=args.images, seed=args.seed)
    return found


def corruption_names(text: str, examples: Examples) -> list[str]:
    """The corruptions that ``--corruptions`` asks for; ``ValueError`` for an unknown one, or for scenes."""
    scene = isinstance(examples, Images) and examples.pixels.shape[1] not in (1, 3)
    if text == "none" or (text == "all" and scene):  # hyperspectral: no common ones
        return []
    suite = list(examples.suite())  # refuses what is no image
    if text == "all":
        return suite
    known = CORRUPTIONS if isinstance(examples, Images) else suite
    if strange := [name for name in text.split(",") if name not in known]:
        raise ValueError(unknown("corruption", strange[0], known))
    return text.split(",")


def assess(
    study: Study,
    models: Mapping[str, Model],
    examples: Examples,
    names: Sequence[str],
    natural: dict[str, Examples],
    args: argparse.Namespace,
) -> None:
    """Agreement on all shifts, and indicators; what is measured is in the study at once."""
    severities = [s for s in SEVERITIES if str(s) in args.severities.split(",")]
    measured = shifts(models, examples, names, severities, natural, args.seed)
    try:
        for one in progress(measured, "measuring shifts", 1 + len(names) * len(severities) + len(natural)):
            study.shifts.append(one)
    finally:
        if study.shifts:
            study_indicators(study, args.seed)


def search_all(
    study: Study,
    pairs: Iterable[Pair],
    images: Images,
    known: Images | None,
    constraints: tuple[LInf, Psnr],
    args: argparse.Namespace,
) -> None:
    """Pixel searchers under both constraints, relations under the second, where all methods meet.

    ``known`` are held-out training images, which surprise is measured against; without, it is not pursued.
    """
    near, loud = constraints
    pixels = pixel_searchers()
    for pair in pairs:
        seeds = attempt(study, f"search, {pair.name}", partial(agreeing, pair, images, args.search))
        if seeds is None:
            continue
        coverage = None
        if known is not None:
            coverage = attempt(study, f"surprise coverage of {pair.name}", partial(coverage_of, pair, known))
        relations = relation_searchers(images.pixels.shape[1], coverage, args.psnr)
        jobs = [(one, near) for one in pixels] + [(one, loud) for one in (*pixels, *relations)]
        for one, constraint in progress(jobs, f"searching, {pair.name}"):
            rows = compare_searchers(pair, seeds, [one], constraint, args.budget, args.seed, print)
            # a searcher that a pair cannot take (gradients, of integers) must not cost what was found
            attempt(study, f"{one.name}, {pair.name}, {constraint}", partial(searched, study, rows))
            if not study.complete:
                return
        if args.prove:
            print(f"{pair.name}: proving what was not found, up to {args.prove:g} s for each seed")
            founds = [
                found
                for row, found in zip(study.rows, study.found, strict=True)
                if (row.pair, row.constraint) == (pair.name, str(near))
            ]
            action = partial(prove_pair, pair, founds, seeds.pixels, near, args.prove)
            if counts := attempt(study, f"proofs, {pair.name}", action):
                study.proofs[pair.name] = counts
