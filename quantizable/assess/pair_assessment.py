"""What ``quantizable assess FIRST --against SECOND`` does: any two models side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from quantizable.assess.assessment import (
    KNOWN,
    assess,
    check_options,
    corruption_names,
    finish,
    natural_shifts,
    search_all,
)
from quantizable.assess.callables import Pair
from quantizable.assess.examples import examples_of
from quantizable.assess.images import Images
from quantizable.assess.model_name import NETWORKS, ModelName, read_name
from quantizable.assess.outside import OutsideModel, open_model, ready
from quantizable.assess.study import Study, attempt
from quantizable.data import ImageDataModule
from quantizable.data.base import DataModule
from quantizable.data.choice import check_fit, make_datamodule
from quantizable.network import QuantizableNetwork
from quantizable.storage.load import load

TRIED = 64  # images that a model is tried with


def run(args: argparse.Namespace) -> int:
    """Assess a pair, print and write; 130 after Ctrl-C, with what was found until then kept."""
    constraints = check_options(args)
    names = [read_name(str(text)) for text in (args.checkpoint, args.against, args.surrogate) if text]
    networks = {path: load(path) for path in _own_files(names)}
    datamodule = _data(args.data, list(networks.values()))
    datamodule.prepare_data() if args.search else datamodule.prepare_test_data()
    images = examples_of(datamodule, count=args.images, seed=args.seed)
    assert isinstance(images, Images)
    first, second, *others = _models(names, networks, datamodule, images, args)
    surrogate = others[0] if others else None
    labels = [name.short for name in names[:2]]
    if labels[0] == labels[1]:
        labels = [name.text for name in names[:2]]
    shifts = corruption_names(args.corruptions, images)
    natural = natural_shifts(args, lambda words: _data(words, list(networks.values())))
    args.output.mkdir(parents=True, exist_ok=True)
    title = f"{labels[0]} against {labels[1]}: {type(datamodule).__name__}"
    study = Study(title, images.class_names)
    try:
        assess(study, {labels[1]: second, labels[0]: first}, images, shifts, natural, args)
        if args.search:
            known = attempt(study, "surprise coverage", partial(examples_of, datamodule, "val", KNOWN))
            pair = Pair(first, second, f"{labels[1]} against {labels[0]}", surrogate)
            search_all(study, [pair], images, known, constraints, args)
    except KeyboardInterrupt:
        study.complete = False
    return finish(study, f"assess {title}", args)


def _own_files(names: Sequence[ModelName]) -> list[Path]:
    """Of ours, each once."""
    return list(dict.fromkeys(name.path for name in names if name.path and name.kind in NETWORKS))


def _data(words: Sequence[str], networks: Sequence[QuantizableNetwork]) -> ImageDataModule:
    """The images that the words ask for, else those that the first network of ours was trained on."""
    datamodule: DataModule = make_datamodule(words, networks[0].info if networks else {})
    known = {tuple(network.info.get("class_names") or ()) for network in networks} - {()}
    if len(known) > 1 and len(set(map(frozenset, known))) == 1:
        raise ValueError("the two networks hold the same classes in another order; they cannot be compared")
    for network in networks:
        check_fit(network, datamodule)
    if not isinstance(datamodule, ImageDataModule):
        raise ValueError(f"--against compares models of images, and {type(datamodule).__name__} has texts")
    return datamodule


def _models(
    names: Sequence[ModelName],
    networks: dict[Path, QuantizableNetwork],
    datamodule: ImageDataModule,
    images: Images,
    args: argparse.Namespace,
) -> list[OutsideModel]:
    """The models by name, each tried with some images, and all of the same classes."""
    mean, std = (
        tuple(args_of) if args_of is not None else tuple(of_data)
        for args_of, of_data in ((args.mean, datamodule.mean), (args.std, datamodule.std))
    )
    models, classes = [], []
    for name in names:
        network = networks.get(name.path) if name.path else None
        model = ready(open_model(name, mean, std, network, args.trust), name.text, images.pixels[:TRIED])
        if model.takes_log:
            print(f"{name.short} gives probabilities; their logarithms are taken as logits")
        models.append(model)
        with torch.no_grad():
            classes.append(model(images.pixels[:1]).shape[1])
    if len(set(classes)) > 1 or classes[0] < len(images.class_names):
        given = ", ".join(f"{n.short} {k}" for n, k in zip(names, classes, strict=True))
        raise ValueError(
            f"the models must know the same classes, with the data's {len(images.class_names)}: {given}"
        )
    return models
