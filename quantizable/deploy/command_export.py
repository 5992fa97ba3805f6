"""``quantizable export CHECKPOINT --bits 2,4,8 --format onnx,qz,openvino``: integer files for engines."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from quantizable.bits import FLOAT_BITS, BitMode
from quantizable.calibrate import first_inputs
from quantizable.data import ImageDataModule
from quantizable.deploy.engine_check import DISAGREES, check_engines
from quantizable.deploy.export import check_residual, export_onnx, fits_bytes
from quantizable.deploy.in_graph import mean_and_std
from quantizable.deploy.layer_report import WITHOUT_VNNI
from quantizable.deploy.openvino_format import export_openvino
from quantizable.deploy.requirements import check_installed
from quantizable.interface.progress import progress
from quantizable.interface.words import listed
from quantizable.network import QuantizableNetwork
from quantizable.report.files import check_target, make_folder
from quantizable.storage.load import load
from quantizable.storage.network_data import trained_data
from quantizable.storage.qz import save_qz
from quantizable.storage.selection import FILES, choose
from quantizable.storage.signature import signature_of

CALIBRATION_BATCHES = 4


def run(args: argparse.Namespace) -> int:
    """Write the files, print their sizes and how the engines at hand answer.

    Everything asked for is checked before the first file is written. Returns 1 if an engine answers otherwise
    than training does.
    """
    formats = listed(args.format)
    _check_options(args, formats)
    files = [word for word in (args.bits or "").split(",") if word.endswith(FILES)]
    if files and "qz" in formats:
        raise ValueError(
            f"a .qz file holds the modes of its network and no file such as {files[0]}; choose --format onnx "
            f"or openvino, or make it a mode: quantizable finetune {files[0]} CHECKPOINT"
        )
    for name in formats:
        check_installed(name)
    network = load(args.checkpoint)
    integer = [mode for mode in network.modes if mode.weight != FLOAT_BITS]
    chosen = choose(args.bits, network, lambda: trained_data(network, args.data), integer)
    held = [*integer, *network.assignments]
    if "qz" in formats and (keeps := [one.name for one in chosen if one.bits not in held]):
        raise ValueError(
            f"mode {', '.join(keeps)} keeps float weights; a .qz file holds integer weights only"
        )
    wide = [one.name for one in chosen if isinstance(one.bits, BitMode) and not fits_bytes(one.bits)]
    if wide and formats != ["qz"]:
        raise ValueError(f"mode {', '.join(wide)} has codes of more than 8 bits, which only .qz files hold")
    images = _training_images(network, args.data) if args.residual == "int8" else None
    if images is not None:
        check_residual(network, args.style, signature_of(network))
    if args.preprocess == "in-graph":
        mean_and_std(network, signature_of(network))
    folder = args.output or args.checkpoint.parent
    stem = args.checkpoint.stem
    if "qz" in formats and (folder / f"{stem}.qz").resolve() == args.checkpoint.resolve():
        raise ValueError(f"{args.checkpoint} would be replaced by its own export; give --output a folder")
    make_folder(folder)
    check_target(folder / f"{stem}.qz")
    jobs = [(one, name) for one in chosen for name in ("onnx", "openvino") if name in formats]
    written: list[Path] = []
    reports: dict[str, dict[str, str]] = {}
    if "qz" in formats:
        written.append(folder / f"{stem}.qz")
        save_qz(network, written[-1], [one.name for one in chosen])
    for one, name in progress(jobs, "exporting"):
        target = folder / f"{stem}_{one.name}.{'onnx' if name == 'onnx' else 'xml'}"
        options: dict[str, Any] = {"weight_storage": args.weights, "residual_images": images}
        options["preprocess"] = args.preprocess
        if name == "onnx":
            reports[one.name] = export_onnx(one.network, target, one.bits, style=args.style, **options)
        else:
            reports[one.name] = export_openvino(one.network, target, one.bits, **options)
        written.append(target)
    show(written, reports, args.layers)
    if args.style == "qonnx":  # no engine at hand runs these
        written = [path for path in written if path.suffix != ".onnx"]
    return check(written, [one.name for one in chosen if one.name not in wide])


def _check_options(args: argparse.Namespace, formats: list[str]) -> None:
    """``ValueError`` for options that do not go together, or that would do nothing."""
    if args.style == "qonnx" and ("openvino" in formats or args.weights == "int4" or args.residual == "int8"):
        raise ValueError(
            "--style qonnx is for FPGA compilers: --format onnx alone, with neither --weights nor --residual"
        )
    for option, given in (
        ("--residual int8", args.residual == "int8"),
        ("--preprocess in-graph", args.preprocess == "in-graph"),
        ("--style qonnx", args.style == "qonnx"),
        ("--weights int4", args.weights == "int4"),
        ("--layers", args.layers),
    ):
        if given and formats == ["qz"]:
            raise ValueError(f"{option} is for ONNX and OpenVINO files; add --format onnx or openvino")


def check(written: list[Path], modes: list[str]) -> int:
    """Print how each engine at hand answers; 1 if one answers otherwise than training does, else 0.

    Args:
        written: the files.
        modes: of a ``.qz`` file those that engines can run.
    """
    console, wrong = Console(), False
    verdicts = [(path, check_engines(path, modes)) for path in progress(written, "asking the engines")]
    for path, by_engine in verdicts:
        for engine, verdict in by_engine.items():
            console.print(
                f"{path.name} on {engine}: {verdict}", soft_wrap=True, markup=False, highlight=False
            )
            wrong |= DISAGREES in verdict
    return int(wrong)


def _training_images(network: QuantizableNetwork, words: list[str]) -> Tensor:
    """A few batches of training images, ``[N, C, H, W]``, to fit grids on."""
    data = trained_data(network, words)
    if not isinstance(data, ImageDataModule):
        raise ValueError("--residual int8 is for networks that read images; leave it out")
    data.prepare_data()
    data.setup("fit")
    return torch.cat(list(first_inputs(data.train_dataloader(), CALIBRATION_BATCHES, torch.device("cpu"))))


def show(written: list[Path], reports: dict[str, dict[str, str]], each: bool = False) -> None:
    """Print a table of the files, and for each mode how many layers run on integers and why others do not.

    Args:
        written: the files; OpenVINO's ``.xml`` stands for its ``.bin``, too.
        reports: by mode, how each layer runs.
        each: layer by layer instead of counted.
    """
    console = Console()
    table = Table("file", "bytes")
    for path in written:
        parts = (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)
        size = sum(part.stat().st_size for part in parts)
        table.add_row(str(path), f"{size:,}")
    console.print(table)
    for mode, layers in reports.items():
        integer = sum(how.startswith("integer") for how in layers.values())
        if not integer and "float: mode 32" in layers.values():
            console.print(f"mode {mode}: float, no layer on integers")
            continue
        floats = sum(how.endswith(WITHOUT_VNNI) for how in layers.values())
        without_vnni = f", {floats} of them in float on processors without VNNI" if floats else ""
        console.print(f"mode {mode}: {integer} layers on integers{without_vnni}", soft_wrap=True)
        if each:
            for layer, how in layers.items():
                console.print(f"  {layer}: {how}", soft_wrap=True)
            continue
        for how, count in Counter(how for how in layers.values() if not how.startswith("integer")).items():
            console.print(f"  {count} x {how}")
