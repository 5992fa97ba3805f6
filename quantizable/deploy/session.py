"""Run a deployed file on an engine, in any of its modes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantizable.bits import BitMode, ModeLike
from quantizable.deploy.engines import Runner, compile_onnxruntime, compile_openvino
from quantizable.deploy.export import METADATA, onnx_model
from quantizable.deploy.requirements import openvino_core, require
from quantizable.network import QuantizableNetwork
from quantizable.storage.load import load_qz
from quantizable.storage.preprocessing import input_size_of, preprocessing

ENGINES = ("onnxruntime", "openvino", "torch")
MIXED = "mixed"  # what ``bits`` says of a file with a mode per layer


class Session:
    """A deployed network on an engine: call it with images, get logits.

    A ``.qz`` file holds several modes; each is compiled when it is first used and kept, so that going back
    to it takes no time. An ``.onnx`` file and OpenVINO's ``.xml`` hold one, or a mode per layer (exported
    from an assignment), which cannot be switched.

    Args:
        path: a ``.qz`` or ``.onnx`` file, or ``.xml`` for OpenVINO.
        engine: ``"onnxruntime"``, ``"openvino"``, or ``"torch"`` (fake quantization, ``.qz`` only).
        bits: the mode to start in; by default the highest.
        threads: of one inference, at least 1; by default as many as cores.
        batch: images per inference, at least 1; by default whatever a call brings. Fixed, OpenVINO is faster;
            a call may still bring any number.
        exact: False trades exactness for speed. ONNX Runtime then fuses its integer kernels, which round the
            bias and move some codes; without VNNI the integer kernels of both engines saturate.
        warmup: inferences on zeros after a mode is compiled, at least 0.

    Raises:
        FileNotFoundError, ValueError: no such file, or not a sound one; an unknown engine or mode; a
            number out of range.
        ImportError: the engine is not installed.

    >>> session = Session("model.qz", engine="openvino", threads=2, batch=1)    # doctest: +SKIP
    >>> session.set_bits(4)                                                     # doctest: +SKIP
    >>> logits = session(images)                                                # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        engine: str = "onnxruntime",
        bits: ModeLike | None = None,
        threads: int | None = None,
        batch: int | None = None,
        warmup: int = 1,
        exact: bool = True,
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine {engine!r} is unknown; choose from {', '.join(ENGINES)}")
        for what, number, least in (("threads", threads, 1), ("batch", batch, 1), ("warmup", warmup, 0)):
            if number is not None and not (isinstance(number, int) and number >= least):
                raise ValueError(f"{what} is {number!r}; give an integer of at least {least}")
        if engine != "torch":
            require(engine, f"engine {engine!r}")
        self.path, self.engine = Path(path), engine
        self.threads, self.batch, self.warmup, self.exact = threads, batch, warmup, exact
        self._runners: dict[BitMode | None, Runner] = {}
        self._network: QuantizableNetwork | None = None
        self._graph: bytes | Path = b""
        if self.path.suffix in (".onnx", ".xml"):
            self._open_graph()
        else:
            self._open_qz()
        if bits is None:
            self._switch(self.modes[-1] if self.modes else None)
        else:
            self.set_bits(bits)

    def _open_qz(self) -> None:
        if self.engine != "torch":
            require("onnxscript", "compiling a mode")
        self._network = load_qz(self.path)
        self.modes, self.info = self._network.modes, preprocessing(self._network)
        self.input_size: tuple[int, ...] = input_size_of(self._network)

    def _open_graph(self) -> None:
        """Read an ``.onnx`` or ``.xml`` file: the graph's bytes or path, and what its metadata say."""
        if self.engine == "torch":
            raise ValueError(
                "engine 'torch' runs .qz files; for an .onnx file choose onnxruntime or openvino"
            )
        if self.path.suffix == ".xml" and self.engine != "openvino":
            raise ValueError(f"{self.path} is a file of OpenVINO's; choose engine 'openvino'")
        read = self._read_onnx if self.path.suffix == ".onnx" else self._read_openvino
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {self.path}")
        try:
            self._graph, metadata, self.input_size = read()
            about = json.loads(metadata)
            bits, self.info = about["bits"], about["info"]
        except ImportError:
            raise
        except Exception as error:  # protobuf and OpenVINO answer damaged bytes with errors of many kinds
            raise ValueError(f"{self.path} is truncated, or was not exported by this library") from error
        if about.get("style") == "qonnx":
            raise ValueError(f"{self.path} is in style qonnx, for FPGA compilers; engines run style qdq")
        self.modes = [] if isinstance(bits, dict) else [BitMode.parse(bits)]

    def _read_onnx(self) -> tuple[bytes, str, tuple[int, ...]]:
        onnx = require("onnx", "reading an .onnx file")
        content = self.path.read_bytes()
        model = onnx.load_from_string(content)
        _, *size = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
        return content, {p.key: p.value for p in model.metadata_props}[METADATA], tuple(size)

    def _read_openvino(self) -> tuple[Path, str, tuple[int, ...]]:
        graph = openvino_core("reading an .xml file").read_model(self.path)
        _, *size = graph.input(0).get_partial_shape()  # the batch is free
        return self.path, graph.get_rt_info(METADATA).astype(str), tuple(d.get_length() for d in size)

    @property
    def bits(self) -> str:
        """Name of the mode it runs in; ``"mixed"`` for a file with a mode per layer."""
        return MIXED if self._mode is None else self._mode.name

    def set_bits(self, bits: ModeLike) -> None:
        """Switch to a mode; compiles it at its first use. ``ValueError`` if the file lacks it."""
        mode = BitMode.parse(bits)
        if mode not in self.modes:
            held = ", ".join(m.name for m in self.modes) or "a mode per layer, which cannot be switched"
            raise ValueError(f"{self.path} has no mode {mode.name}; it has {held}")
        self._switch(mode)

    def _switch(self, mode: BitMode | None) -> None:
        if mode not in self._runners:
            runner = self._compile(mode)
            for _ in range(self.warmup):
                runner(np.zeros((self.batch or 1, *self.input_size), np.float32))
            self._runners[mode] = runner
        self._mode = mode

    @contextmanager
    def at_bits(self, bits: ModeLike) -> Iterator[Session]:
        """Switch for the length of a ``with`` block, then back, as the network's ``at_bits``."""
        before = self._mode
        self.set_bits(bits)
        try:
            yield self
        finally:
            self._mode = before

    def _compile(self, mode: BitMode | None) -> Runner:
        graph: bytes | Path
        if self._network is None:
            graph = self._graph
        else:
            assert mode is not None
            if self.engine == "torch":
                return self._torch_runner(mode)
            graph = onnx_model(self._network, mode, input_size=self.input_size).SerializeToString()  # type: ignore[arg-type]
        shape = (self.batch, *self.input_size) if self.batch else None
        try:
            if self.engine == "onnxruntime":
                return compile_onnxruntime(graph, self.threads, shape, self.exact)
            return compile_openvino(graph, self.threads, shape, self.exact)
        except Exception as error:  # each engine has errors of its own kinds
            why = " ".join(str(error).split())[:300]
            raise ValueError(f"{self.engine} cannot run {self.path}: {why}") from error

    def _torch_runner(self, mode: BitMode) -> Runner:
        network = self._network
        assert network is not None

        def run(images: np.ndarray) -> np.ndarray:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads or before)
            try:
                with torch.inference_mode(), network.at_bits(mode):
                    return network(torch.from_numpy(images)).numpy()
            finally:
                torch.set_num_threads(before)

        return run

    def __call__(self, images: np.ndarray | Tensor) -> np.ndarray:
        """Logits, float32 ``[N, classes]``.

        Args:
            images: float ``[N, C, H, W]`` of the size the network takes, normalized as in training.

        Raises:
            ValueError: another shape or type, or values that are not finite.
        """
        if isinstance(images, Tensor):
            images = images.detach().cpu()
            images = images.float() if images.is_floating_point() else images  # NumPy has no bfloat16
        array = np.asarray(images)
        if array.ndim != 4 or array.shape[1:] != tuple(self.input_size) or not len(array):
            wanted = ", ".join(map(str, self.input_size))
            raise ValueError(
                f"images of shape {list(array.shape)} do not fit; the network takes [N, {wanted}], N >= 1"
            )
        if array.dtype.kind != "f":
            raise ValueError(f"images are {array.dtype}; give floats, normalized as in training")
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(array).all():
            raise ValueError("images have NaN or infinite values")
        run = self._runners[self._mode]
        if self.batch is None:
            return run(array)
        padding = -len(array) % self.batch
        padded = (
            np.concatenate([array, np.zeros((padding, *self.input_size), np.float32)]) if padding else array
        )
        parts = [run(padded[i : i + self.batch]) for i in range(0, len(padded), self.batch)]
        return np.concatenate(parts)[: len(array)]

    def summary(self) -> dict[str, Any]:
        """What it runs, in plain types."""
        return {
            "path": str(self.path),
            "engine": self.engine,
            "bits": self.bits,
            "modes": [m.name for m in self.modes],
        }
