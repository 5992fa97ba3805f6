"""``quantizable verify``: prove or refute that two modes of a network stay close over a box."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quantizable.interface.progress import progress
from quantizable.verify.asked import Asked
from quantizable.verify.box import Box
from quantizable.verify.certificate import Certificate, differences, file_sha256, output_scale, replayed
from quantizable.verify.decide import Verdict
from quantizable.verify.error_report import error_rows, show_errors
from quantizable.verify.execution import Execution
from quantizable.verify.fixed_point import (
    FixedPoint,
    fixed_point_network,
    float_network,
    load_npz,
)
from quantizable.verify.graph import Graph
from quantizable.verify.jobs import Job, run_jobs
from quantizable.verify.line_report import verify_lines
from quantizable.verify.outcomes import print_table, save_report
from quantizable.verify.radius_report import radius_rows, show_radii
from quantizable.verify.records import Report


def run(args: argparse.Namespace) -> int:
    """Exit status 0: all proved (or the certificate confirmed); 1: not."""
    return _check(args) if args.check else _verify(args)


def load_graphs(
    path: Path, modes: Sequence[str], input_shape: tuple[int, ...], data: Sequence[str] = ()
) -> list[Graph]:
    """The stages of a network file in each of the modes.

    Args:
        path: a checkpoint, a ``.qz`` file or an ``.npz``.
        modes: modes or assignment files.
        input_shape: of one input.
        data: words ``data=NAME data.KEY=VALUE`` that say where an assignment's norms are fitted; by default
            on the data of training.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a mode the network lacks, an assignment of another network, or see ``graph_of`` and
            ``load_npz``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no network file {path}; give a checkpoint, a .qz or an .npz")
    if path.suffix == ".npz":
        weights, biases = load_npz(path)
        return [
            float_network(weights, biases)
            if mode == "32"
            else fixed_point_network(weights, biases, FixedPoint(_bits(mode)))
            for mode in modes
        ]
    from quantizable.storage.load import load  # what loads checkpoints needs Lightning
    from quantizable.storage.network_data import trained_data
    from quantizable.storage.selection import choose
    from quantizable.verify.trace import graph_of

    network = load(path)
    chosen = [one for mode in modes for one in choose(mode, network, lambda: trained_data(network, data))]
    graphs = []
    for one in chosen:
        with one.network.at_bits(one.bits):
            graphs.append(graph_of(one.network, input_shape))
    return graphs


def _verify(args: argparse.Namespace) -> int:
    question = "robustness" if args.robust else args.question
    modes = [mode.strip() for mode in args.bits.split(",")]
    inputs = _load_inputs(args.inputs)
    if args.line:
        graphs = load_graphs(args.network, modes, tuple(inputs.shape[1:]), args.data)
        return verify_lines(args, modes, graphs, inputs)
    pixels = args.network.suffix == ".npz"
    limits = _limits(args, pixels)
    box = Box.around(inputs, args.radius, *limits, integer=pixels)
    graphs = load_graphs(args.network, modes, tuple(inputs.shape[1:]), args.data)
    if inputs.shape[1:] != graphs[0].input_shape:
        raise ValueError(
            f"{args.inputs} holds inputs of shape {tuple(inputs.shape[1:])}, the network takes "
            f"{tuple(graphs[0].input_shape)}"
        )
    if question == "error":
        others = dict(zip(modes[1:], graphs[1:], strict=True))
        show_errors(args.inputs.stem, error_rows(graphs[0], others, box, args.execution), args.output)
        return 0
    eps = args.eps if question == "difference" else 0.0
    asked = Asked(
        question,
        eps,
        args.time_limit,
        not args.bounds_only,
        args.execution,
        args.confidence,
        args.branch,
    )
    outputs = [int(graphs[0](x[None]).flatten().argmax()) for x in inputs]
    jobs = [Job(i, box[i : i + 1], output) for i, output in enumerate(outputs)]
    which = [(0, k) for k in range(1, len(modes))] if question != "robustness" else [(0,)]
    report = Report(args.network, args.inputs.stem, graphs, modes, which, args.output)
    report.check_folder(asked, jobs)
    if args.resume:
        jobs = report.resume(jobs)
    done = run_jobs(asked, graphs, jobs, args.processes, args.total_time or float("inf"))
    for job, within, answers in progress(done, "verifying", total=len(jobs)):
        report.add(within, job, answers)
    status = _report(report.results(), args.output)
    if args.largest_radius:
        others = dict(zip(modes[1:], graphs[1:], strict=True))
        show_radii(
            args.inputs.stem,
            radius_rows(graphs[0], others, inputs, args.radius, limits, args.execution),
            args.output,
        )
    return status


def _report(results: list[tuple[str, Verdict]], output: Path | None) -> int:
    print_table(results)
    if output is not None:
        for path in save_report(results, output):
            print(f"wrote {path}")
        print(f"wrote {len(results)} certificates to {output}")
    return 0 if all(v.status == "proved" for _, v in results) else 1


def _check(args: argparse.Namespace) -> int:
    old = Certificate.load(args.check)
    path = args.network or Path(old.network)
    if not path.is_file():
        raise FileNotFoundError(
            f"the certificate's network {path} is not here; give its path: "
            "quantizable verify NETWORK --check CERTIFICATE"
        )
    if file_sha256(path) != old.network_sha256:
        print(f"not confirmed: {path} is not the file that the certificate is about")
        return 1
    graphs = load_graphs(path, old.modes, tuple(old.input_shape), args.data)
    # the method is the last one that was used: another may have stood before it
    use_milp = old.status == "proved" or old.method.startswith(("milp", "branching"))
    execution: Execution = old.execution  # type: ignore[assignment]
    branch = old.method.startswith("branching")
    asked = Asked(old.property, old.eps, old.time_limit, use_milp, execution, old.confidence, branch)
    [(_, verdict)] = asked.answers(graphs, old.box, old.output)
    found = replayed(old, graphs)
    if old.status == "refuted" and not found:  # a counterexample that holds needs no second one
        verdict = replace(verdict, status="refuted", method=old.method)
    new = asked.certificate(path, graphs, old.modes, old.box, old.output, verdict)
    problems = differences(old, new, output_scale(graphs, old.box.center)) + found
    for problem in problems:
        print(f"not confirmed: {problem}")
    if not problems:
        print(
            f"confirmed: {new.status} by {new.method} for {new.execution}, bounds {new.bound}, "
            f"{new.seconds} s"
        )
    return 1 if problems else 0


def _load_inputs(path: Path) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"no input file {path}; give an .npy of shape (n, *input_shape)")
    try:
        inputs = torch.from_numpy(np.load(path, allow_pickle=False)).double()
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no .npy of numbers: {error}") from error
    if inputs.ndim < 2 or len(inputs) == 0:
        raise ValueError(
            f"{path} has shape {tuple(inputs.shape)}; expected (n, *input_shape) with n at least 1"
        )
    return inputs


def _limits(args: argparse.Namespace, pixels: bool) -> tuple[float, float]:
    """Legal range of the inputs: 0..255 for pixels, else none, unless given."""
    default = (0.0, 255.0) if pixels else (-float("inf"), float("inf"))
    given = (args.minimum, args.maximum)
    low, high = (d if g is None else g for d, g in zip(default, given, strict=True))
    return low, high


def _bits(mode: str) -> int:
    if not mode.isdigit():
        raise ValueError(f"mode {mode!r} of an .npz network is not a number; allowed: 2 to 16, 32")
    return int(mode)
