"""Run a deployed file on an engine, in any of its modes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantizable.bits import BitMode, ModeLike
from quantizable.deploy.engines import Runner, Shape, compile_onnxruntime, compile_openvino
from quantizable.deploy.export import METADATA, onnx_model
from quantizable.deploy.fixed_batch import in_batches
from quantizable.deploy.graph_file import read_graph
from quantizable.deploy.inputs import input_arrays
from quantizable.deploy.processor import check_kernels, processor_name
from quantizable.deploy.requirements import require
from quantizable.interface.choices import ENGINES
from quantizable.interface.errors import unknown
from quantizable.network import QuantizableNetwork
from quantizable.storage.golden import MIXED, Golden, golden
from quantizable.storage.load import load, open_qz
from quantizable.storage.outputs import OUTPUT, Structure, restored, structure_of, tensors_in
from quantizable.storage.preprocessing import preprocessing
from quantizable.storage.signature import (
    Arrays,
    Signature,
    as_inputs,
    batch_of,
    read_signature,
    signature_of,
    takes_one,
)

log = logging.getLogger(__name__)
Mode = BitMode | str | None  # a mode, an assignment by its name, the one of a file that cannot be switched


class Session:
    """A deployed network on an engine: call it with images, get logits.

    A ``.qz`` file holds several modes; each is compiled when it is first used and kept, so that going back
    to it takes no time. An ``.onnx`` file and OpenVINO's ``.xml`` hold one, or a mode per layer (exported
    from an assignment), which cannot be switched. A checkpoint of training runs as the ``.qz`` file
    that would be exported from it, and in its float mode.

    Args:
        path: a ``.qz`` or ``.onnx`` file, ``.xml`` for OpenVINO, or a checkpoint.
        engine: ``"onnxruntime"``, ``"openvino"``, or ``"torch"`` (fake quantization, ``.qz`` only).
        bits: the mode to start in; by default the highest.
        threads: of one inference, at least 1; by default as many as cores.
        batch: images per inference, at least 1; by default whatever a call brings. Fixed, OpenVINO is faster;
            a call may still bring any number. Where OpenVINO refuses a free batch size, it is 1.
        exact: False trades exactness for speed. ONNX Runtime then fuses its integer kernels, which round the
            bias and move some codes; without VNNI the integer kernels of both engines saturate.
        warmup: inferences on zeros after a mode is compiled, at least 0.
        verify: compare the engine's answers with those of training whenever a mode is compiled, and the file
            with its checksum. With ``exact=False``, or of a file with int8 residual additions, a difference
            is logged and not refused.
        model: the float network, needed only if a ``.qz`` file or a checkpoint does not say how to build it.

    Attributes:
        signature: name, shape and type of each input; the only one of a network is called ``image``.
        problem: what was wrong with the answers in the mode that was compiled last; empty: nothing.

    Raises:
        FileNotFoundError, ValueError: no such file, or not a sound one; an unknown engine or mode; a
            number out of range; or a file that was changed.
        RuntimeError: the engine's answers are not those of training, beyond what rounding explains.
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
        verify: bool = True,
        *,
        model: nn.Module | None = None,
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(unknown("engine", engine, ENGINES))
        for what, number, least in (("threads", threads, 1), ("batch", batch, 1), ("warmup", warmup, 0)):
            if number is not None and not (isinstance(number, int) and number >= least):
                raise ValueError(f"{what} is {number!r}; give an integer of at least {least}")
        check_kernels()
        if engine != "torch":
            require(engine, f"engine {engine!r}")
        self.path, self.engine = Path(path), engine
        self.threads, self.batch, self.warmup, self.exact = threads, batch, warmup, exact
        self.verify = verify
        self._golden: Golden | None = None
        self._inexact = "" if exact else "exact=False"
        self.problem = ""
        self._runners: dict[Mode, Runner] = {}
        self.assignments: list[str] = []
        self._network: QuantizableNetwork | None = None
        self._graph: bytes | Path = b""
        self._outputs: Structure = OUTPUT
        if self.path.suffix in (".onnx", ".xml"):
            self._open_graph()
        else:
            self._open_network(model)
        if bits is None:
            self._switch(self.modes[-1] if self.modes else None)
        else:
            self.set_bits(bits)

    def _open_network(self, model: nn.Module | None) -> None:
        if self.engine != "torch":
            require("onnxscript", "compiling a mode")
        if self.path.suffix == ".qz":
            self._network, about = open_qz(self.path, model)
            self._golden = Golden.read(about.get("golden"))
        else:
            self._network = load(self.path, model)
        self.modes, self.assignments = self._network.modes, [*self._network.assignments]
        self.info = preprocessing(self._network)
        self.signature: Signature = signature_of(self._network)

    def _open_graph(self) -> None:
        if self.engine == "torch":
            raise ValueError(
                "engine 'torch' runs .qz files; for an .onnx file choose onnxruntime or openvino"
            )
        if self.path.suffix == ".xml" and self.engine != "openvino":
            raise ValueError(f"{self.path} is a file of OpenVINO's; choose engine 'openvino'")
        read = read_graph(self.path, self.verify)
        self._graph, self.modes, self.info = read.graph, read.modes, read.info
        self.signature = read_signature(self.info, read.input_size)
        self._outputs, self._golden = read.outputs, read.golden
        if read.residual == "int8":  # OpenVINO puts a layer's input on their grid, too
            self._inexact = "its residual additions are int8"

    @property
    def input_size(self) -> tuple[int, ...]:
        """Shape of the (first) input without the batch."""
        return next(iter(self.signature.values())).size

    @property
    def bits(self) -> str:
        """Name of the mode or assignment it runs in; ``"mixed"`` for a file with a mode per layer."""
        return name_of(self._mode)

    def set_bits(self, bits: ModeLike) -> None:
        """Switch to a mode; compiles it at its first use. ``ValueError`` if the file lacks it."""
        if isinstance(bits, str) and bits in self.assignments:
            return self._switch(bits)
        mode = BitMode.parse(bits)
        if mode not in self.modes:
            names = [*(m.name for m in self.modes), *self.assignments]
            held = ", ".join(names) or "a mode per layer, which cannot be switched"
            raise ValueError(f"{self.path} has no mode {mode.name}; it has {held}")
        self._switch(mode)

    def _switch(self, mode: Mode) -> None:
        if mode not in self._runners:
            runner = self._compile(mode)
            for _ in range(self.warmup):
                runner(self.zeros(self.batch or 1))
            self._runners[mode] = self._verified(mode, runner) if self.verify else runner
        self._mode = mode

    def _verified(self, mode: Mode, runner: Runner) -> Runner:
        """The runner, or one without OpenVINO's integer passes where these change the answers."""
        try:
            self._check_answers(mode, runner)
            return runner
        except RuntimeError:
            if self.engine != "openvino":
                raise
            in_float = self._compile(mode, integers=False)
            if not self._answers_right(mode, in_float):
                raise  # not these passes, then: this first error says what is wrong
        log.warning(
            "openvino's integer passes change the answers of %s in mode %s; it runs without them, in float",
            self.path, name_of(mode),
        )  # fmt: skip
        return in_float

    def _answers_right(self, mode: Mode, runner: Runner) -> bool:
        try:
            self._check_answers(mode, runner)
        except RuntimeError:
            return False
        return True

    def _check_answers(self, mode: Mode, runner: Runner) -> None:
        """``RuntimeError`` if the answers to the golden samples are not those of training."""
        name = name_of(mode)
        samples = self._golden
        if (samples is None or name not in samples.answers) and self._network is not None:
            assert mode is not None
            if self.path.suffix == ".qz":
                log.warning("%s holds no golden samples; they are computed from its integers here", self.path)
            samples = golden(self._network, {name: mode})
        if samples is None or name not in samples.answers:
            log.warning(
                "%s holds no golden samples, so that the engine's answers are not verified; "
                "export it again with this version",
                self.path,
            )
            return
        self.problem = samples.check(name, lambda inputs: self._run(inputs, runner)) or ""
        if not self.problem:
            return
        what = (
            f"{self.engine} does not compute what {self.path} promises in mode {name} on {processor_name()}: "
            f"{self.problem}"
        )
        if self._inexact:
            log.warning("%s (%s)", what, self._inexact)
            return
        raise RuntimeError(f"{what}; export it again, try another engine or version, or pass verify=False")

    @contextmanager
    def at_bits(self, bits: ModeLike) -> Iterator[Session]:
        """Switch for the length of a ``with`` block, then back, as the network's ``at_bits``."""
        before = self._mode
        self.set_bits(bits)
        try:
            yield self
        finally:
            self._mode = before

    def _compile(self, mode: Mode, integers: bool = True) -> Runner:
        graph: bytes | Path
        if self._network is None:
            graph = self._graph
        else:
            assert mode is not None
            if self.engine == "torch":
                return self._torch_runner(mode)
            model = onnx_model(self._network, mode)
            self._outputs = json.loads({p.key: p.value for p in model.metadata_props}[METADATA])["outputs"]
            graph = model.SerializeToString()
        shape = self._shape(self.batch) if self.batch else None
        try:
            if self.engine == "onnxruntime":
                return compile_onnxruntime(graph, self.threads, shape, self.exact)
            return compile_openvino(graph, self.threads, shape, self.exact, integers=integers)
        except Exception as error:  # each engine has errors of its own kinds
            free = self.engine == "openvino" and self.batch is None
            if free and (runner := self._one_by_one(graph, integers)):
                return runner
            if self.engine == "openvino" and integers and (runner := self._without_passes(mode)):
                return runner
            why = " ".join(str(error).split())[:300]
            raise ValueError(f"{self.engine} cannot run {self.path}: {why}") from error

    def _shape(self, count: int) -> Shape:
        """Of a batch."""
        shapes = {name: (count, *one.size) for name, one in self.signature.items()}
        return next(iter(shapes.values())) if takes_one(self.signature) else shapes

    def _one_by_one(self, graph: bytes | Path, integers: bool) -> Runner | None:
        """OpenVINO refuses a free batch size for some graphs, and runs them with a fixed one."""
        try:
            runner = compile_openvino(graph, self.threads, self._shape(1), self.exact, integers=integers)
        except Exception:  # then it is not the batch size
            return None
        self.batch = 1
        log.warning("openvino refuses %s with a free batch size; it runs image by image (batch=1)", self.path)
        return runner

    def _without_passes(self, mode: Mode) -> Runner | None:
        """Some graphs OpenVINO compiles only without its integer passes."""
        try:
            runner = self._compile(mode, integers=False)
        except ValueError:  # then it is not these passes
            return None
        log.warning(
            "openvino's integer passes cannot compile %s in mode %s; it runs without them, in float",
            self.path, name_of(mode),
        )  # fmt: skip
        return runner

    def _torch_runner(self, mode: BitMode | str) -> Runner:
        network = self._network
        assert network is not None

        def run(given: Arrays) -> Any:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads or before)
            try:
                with torch.inference_mode(), network.at_bits(mode):
                    found = as_inputs(given)(network)
                    self._outputs = structure_of(found)
                    arrays = [tensor.numpy() for tensor in tensors_in(found)]
                    return arrays[0] if len(arrays) == 1 else arrays
            finally:
                torch.set_num_threads(before)

        return run

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Logits, float32 ``[N, classes]``; of several outputs the tuple, list or dictionary of the network.

        Args:
            inputs: arrays or tensors: float ``[N, C, H, W]`` of the size the network takes, normalized as in
                training (uint8 if the file normalizes them); inputs of another kind in their own shape, ids
                as integers. Several in the order of :attr:`signature`, or one mapping from names to them.
            named: inputs by name.

        Raises:
            ValueError: an input too many or too few, another shape or type, values that are not finite, ids
                that there are not, or a fixed batch where an output has no batch axis.
        """
        found = self._run(input_arrays(self.signature, inputs, named), self._runners[self._mode])
        return restored(self._outputs, found if isinstance(found, list) else [found])

    def zeros(self, count: int) -> Arrays:
        """A batch of inputs that say nothing, to warm up with or to time."""
        return batch_of(self.signature, lambda _, one: one.blank(count))

    def _run(self, given: Arrays, run: Runner) -> Any:
        """An array, or a list of them, for inputs of any number."""
        return run(given) if self.batch is None else in_batches(run, given, self.batch)

    def summary(self) -> dict[str, Any]:
        """What it runs, in plain types."""
        return {
            "path": str(self.path),
            "engine": self.engine,
            "bits": self.bits,
            "modes": [*(m.name for m in self.modes), *self.assignments],
        }


def name_of(mode: Mode) -> str:
    """Of a mode or an assignment that the network holds; ``"mixed"`` for a file with a mode per layer."""
    return MIXED if mode is None else str(mode)
