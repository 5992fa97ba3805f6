"""``quantizable search certify|predict CHECKPOINT``: what a smoothed network answers, how far that holds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from quantizable.bits import ModeLike
from quantizable.certify.certification import Certification, average_certified_radius, certified_accuracy
from quantizable.certify.incremental import Incremental
from quantizable.certify.smoothing import ABSTAIN, Classifier, Smoothing
from quantizable.deploy.compiled import compiled
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.report.files import write_json
from quantizable.search.setting import Setting
from quantizable.storage.digests import digest_network, digest_tensors
from quantizable.storage.preprocessing import preprocessing, read_images
from quantizable.storage.selection import choose

TORCH = "torch"  # the engine that is none: fake quantization
RADII = (0.0, 0.25, 0.5, 0.75)


def run_certify(args: argparse.Namespace) -> int:
    """Certify test images in each mode, or in an assignment; print and write ACR and certified accuracies."""
    setting = Setting(args, test=True)
    network, smoothing = setting.network, setting.smoothing(args)
    samples = default_samples(args.n) if args.samples is None else args.samples
    incremental = None if args.first is None else Incremental(smoothing, samples)
    first_mode = None if args.first is None else network.check_mode(args.first)
    setting.fit_norms(args.norm_batches, args.sigma)
    chosen = choose(args.bits, network, lambda: setting.data, norms=_norms(args))
    images, labels = setting.images()
    seen = digest_tensors([images, labels])

    ran_by = "" if args.engine == TORCH else f"-{args.engine}"

    def certification(name: str, one: QuantizableNetwork, bits: Assignment, **more: object) -> Certification:
        # the network's digest holds the norms that were fitted to an assignment, too
        same = {"network": digest_network(one), "images": seen} | ({"engine": args.engine} if ran_by else {})
        settings = same | {"bits": {k: str(v) for k, v in _by_layer(bits).items()}} | more
        return Certification(setting.output, f"{name}{ran_by}", smoothing, settings)

    # all are opened before the first is run: files of other settings are refused before any long work
    first, runs = None, []
    if first_mode is not None:
        first = certification(f"certified-{first_mode.name}", network, first_mode)
    # a mode that is certified from another one has a row beside that of its own
    rows = [one.name if first is None else f"from-{args.first}-{one.name}" for one in chosen]
    for one, row in zip(chosen, rows, strict=True):
        if first is None:
            runs.append(certification(f"certified-{row}", one.network, one.bits))
        else:
            more = {"from": args.first, "samples": samples}
            runs.append(certification(row, one.network, one.bits, **more))
    # so are the engines asked
    classifiers = [_classifier(one.network, one.bits, args.engine, images, smoothing.batch) for one in chosen]
    if first is not None and first_mode is not None:
        first.run(_classifier(network, first_mode, args.engine, images, smoothing.batch), images, labels)
    summary = {}
    for row, run, classify in zip(rows, runs, classifiers, strict=True):
        if incremental is None or first is None:
            results = run.run(classify, images, labels)
        else:
            results = run.fill(partial(incremental.certify_like, classify, first), images, labels)
        summary[f"{row}{ran_by}"] = {
            "acr": average_certified_radius(results),
            "certified_accuracy": {str(r): certified_accuracy(results, r) for r in RADII},
            "samples_per_image": sum(r.certificate.samples for r in results) / len(results),
            "seconds": sum(r.seconds for r in results),
            "failure_probability": smoothing.alpha if incremental is None else incremental.failure,
        }
    _print_certified(summary, smoothing, args.engine)
    about: dict[str, object] = {
        "sigma": smoothing.sigma,
        "n": smoothing.n,
        "n0": smoothing.n0,
        "alpha": smoothing.alpha,
    }
    about |= {"seed": args.seed, "images": len(images), "digest": seen, "network": digest_network(network)}
    _add_to(setting.output / "certified.json", about, summary)
    return 0


def _norms(args: argparse.Namespace) -> tuple[int, float] | None:
    """Training batches and noise to fit the norms of files with, as those of the modes; None: as they say."""
    return (args.norm_batches, args.sigma) if args.norm_batches else None


def _classifier(
    network: QuantizableNetwork, bits: Assignment, engine: str, images: Tensor, batch: int
) -> Classifier:
    """Normalized images ``[B, C, H, W]`` to logits ``[B, K]``: of the network, or of an engine."""
    if engine != TORCH:
        session = compiled(network, bits, engine, tuple(images.shape[1:]), batch)
        return lambda noisy: torch.as_tensor(session(noisy))

    def classify(noisy: Tensor) -> Tensor:
        with network.at_bits(bits):
            answer: Tensor = network(noisy)
        return answer

    return classify


def default_samples(n: int) -> int:
    """Of incremental certification from a mode with ``n``: a quarter, and 100 where that is less."""
    return max(n // 4, min(n, 100))


def run_predict(args: argparse.Namespace) -> int:
    """Print the smoothed answer for each image in each mode, or that it abstains."""
    setting = Setting(args, test=True)
    about = preprocessing(setting.network)  # the images are normalized by it, and so is the noise
    smoothing, names = setting.smoothing(args, std=about.get("std") or (1.0,)), about.get("class_names")
    setting.fit_norms(args.norm_batches, args.sigma)
    chosen = choose(args.bits, setting.network, lambda: setting.data, norms=_norms(args))
    for number, path in enumerate(args.found):
        image = read_images([path], about)[0]
        for one in chosen:
            with one.network.at_bits(one.bits):
                answer = smoothing.predict(one.network, image, number)
            said = None if answer == ABSTAIN else names[answer] if names else str(answer)
            if args.json:
                index = None if answer == ABSTAIN else answer
                print(json.dumps({"image": str(path), "bits": one.name, "class": said, "index": index}))
            else:
                print(f"{path} (mode {one.name}): {said or 'abstains, too close to call'}")
    return 0


def _add_to(path: Path, about: dict[str, object], summary: dict[str, dict]) -> None:
    """Write the summary, with the modes that the file holds of the same settings already."""
    try:
        held = json.loads(path.read_text())
        kept = held.pop("bits")
    except (OSError, ValueError, AttributeError, KeyError):
        held, kept = {}, {}
    write_json(path, about | {"bits": (kept if held == about else {}) | summary})


def _by_layer(bits: Assignment) -> Mapping[str, ModeLike]:
    return bits if isinstance(bits, Mapping) else {"*": bits}


def _print_certified(summary: dict, smoothing: Smoothing, engine: str) -> None:
    columns = ["bits", "ACR", *(f"radius {r:g}, %" for r in RADII), "samples per image", "seconds"]
    ran_by = "" if engine == TORCH else f", on {engine}"
    table = Table(*columns, title=f"certified accuracy, sigma {smoothing.sigma:g}, n {smoothing.n}{ran_by}")
    for name, row in summary.items():
        shares = [f"{100 * share:.1f}" for share in row["certified_accuracy"].values()]
        table.add_row(
            name.removesuffix(f"-{engine}"),
            f"{row['acr']:.4f}",
            *shares,
            f"{row['samples_per_image']:.0f}",
            f"{row['seconds']:.1f}",
        )
    Console().print(table)
