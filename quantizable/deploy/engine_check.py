"""Whether the engines at hand run an exported file as it was trained: asked when it is exported."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterable
from pathlib import Path

from quantizable.bits import ModeLike
from quantizable.deploy.export import export_onnx
from quantizable.deploy.session import Session
from quantizable.storage.load import load_qz

ENGINES = ("onnxruntime", "openvino")
AGREES, DIFFERS, DISAGREES, FAILS = "agrees", "differs, as it may", "disagrees", "cannot run it"


def check_engines(path: Path, modes: Iterable[ModeLike] = ()) -> dict[str, str]:
    """By engine one line: ``agrees``, ``disagrees``, ``differs, as it may`` or ``cannot run it``, and why.

    Engines that are not installed are left out, as is ONNX Runtime for files of OpenVINO.

    Args:
        path: a ``.qz``, ``.onnx`` or ``.xml`` file with golden samples.
        modes: of a ``.qz`` file those to compile; a verdict other than ``agrees`` names its mode.
    """
    engines = [engine for engine in ENGINES if importlib.util.find_spec(engine)]
    if path.suffix == ".xml":
        return {engine: _verdict(path, engine) for engine in engines if engine == "openvino"}
    if path.suffix == ".onnx":
        return {engine: _verdict(path, engine) for engine in engines}
    verdicts: dict[str, str] = {}
    network = load_qz(path)
    with tempfile.TemporaryDirectory() as folder:
        for mode in modes if engines else ():
            graph = Path(folder) / "mode.onnx"  # what a session would compile
            try:
                export_onnx(network, graph, mode)
            except Exception as error:  # torch's exporter has errors of many kinds
                return dict.fromkeys(engines, f"mode {mode}: {FAILS}: {_one_line(error)}")
            for engine in engines:
                verdict = _verdict(graph, engine).replace(str(graph), str(path))
                if verdicts.get(engine, AGREES) == AGREES:
                    verdicts[engine] = verdict if verdict == AGREES else f"mode {mode}: {verdict}"
    return verdicts


def _verdict(path: Path, engine: str) -> str:
    try:
        session = Session(path, engine, warmup=0)
    except RuntimeError as error:
        return f"{DISAGREES}: {_one_line(error)}"
    except Exception as error:  # each engine has errors of its own kinds
        return f"{FAILS}: {_one_line(error)}"
    if session.problem:
        return f"{DIFFERS}: {session.problem}"
    return (
        AGREES if session.batch is None else f"{AGREES}, with a fixed batch size only (batch={session.batch})"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
