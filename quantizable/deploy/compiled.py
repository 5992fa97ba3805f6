"""A mode of a network in memory on an engine, without a file that stays."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from quantizable.deploy.export import export_onnx
from quantizable.deploy.session import Session
from quantizable.network import Assignment, QuantizableNetwork


def compiled(
    network: QuantizableNetwork,
    bits: Assignment,
    engine: str,
    size: tuple[int, ...],
    batch: int | None = None,
) -> Session:
    """A session of what would be exported, with as many threads as torch has.

    Args:
        network: calibrated or trained.
        bits: a mode or an assignment, as ``set_bits`` takes it.
        engine: ``"onnxruntime"`` or ``"openvino"``.
        size: of an input, without the batch.
        batch: inputs per inference; None: whatever a call brings.

    Raises:
        ValueError: a mode of more than 8 bits, no calibration, a network that cannot be traced.
        RuntimeError: the engine's answers are not those of training, beyond what rounding explains.
        ImportError: the engine, onnx or onnxscript is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mode.onnx"
        export_onnx(network, path, bits, input_size=size)
        try:
            return Session(path, engine, threads=torch.get_num_threads(), batch=batch)
        except RuntimeError as error:  # its advice is for a file that stays
            said = str(error).replace(str(path), "the exported graph").partition("; export it again")[0]
            raise RuntimeError(f"{said}; try another engine or version") from error
