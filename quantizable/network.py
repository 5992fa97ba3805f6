"""The network whose bit mode can be switched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Union

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from quantizable.bits import BitMode, ModeLike
from quantizable.nn.attention import QuantAttention
from quantizable.nn.layers import QuantLayer
from quantizable.nn.norms import PerModeNorm
from quantizable.quantizers import Quantizer

Assignment = Union[ModeLike, Mapping[str, ModeLike]]


class QuantizableNetwork(nn.Module):
    """A network that runs at any of its bit modes; made by :func:`quantizable.quantize`.

    Attributes:
        model: the converted network; attributes not found here are looked up there.
        modes: the modes it holds, from the lowest to the highest.
        config: what ``quantize`` was asked for, in plain types.

    >>> network.set_bits(4)                                  # doctest: +SKIP
    >>> network.set_bits({"layer1.*": 2}, default="w4a8")    # doctest: +SKIP
    >>> with network.at_bits(2): logits = network(images)    # doctest: +SKIP
    """

    def __init__(self, model: nn.Module, modes: list[BitMode], config: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.modes = modes
        self.config = config
        kinds = (QuantLayer, QuantAttention, PerModeNorm)
        # found once: walking a deep network at each switch would cost more than the switch
        self._switchable: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, kinds)}
        self.set_bits(modes[-1])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model" or name.startswith("__"):
                raise
            return getattr(super().__getattr__("model"), name)

    # -- what is inside ----------------------------------------------------------------------------

    def layers(self) -> dict[str, QuantLayer | QuantAttention]:
        """The switchable layers by name, in the order in which the network registers them."""
        return {n: m for n, m in self.model.named_modules() if isinstance(m, QuantLayer | QuantAttention)}

    def norms(self) -> dict[str, PerModeNorm]:
        """The norms kept per mode, by name."""
        return {n: m for n, m in self.model.named_modules() if isinstance(m, PerModeNorm)}

    def quantizers(self) -> dict[str, Quantizer]:
        """All quantizers by name."""
        return {n: m for n, m in self.model.named_modules() if isinstance(m, Quantizer)}

    # -- switching ---------------------------------------------------------------------------------

    def check_mode(self, mode: ModeLike) -> BitMode:
        """The mode, if the network holds it; else ``ValueError`` with the list of those it holds."""
        parsed = BitMode.parse(mode)
        if parsed not in self.modes:
            raise ValueError(
                f"the network has no mode {parsed.name}; it has {', '.join(m.name for m in self.modes)} "
                "(a new one: add_mode, then reestimate_norms)"
            )
        return parsed

    def set_bits(self, bits: Assignment, default: ModeLike | None = None) -> None:
        """Switch the network to a mode, or each layer to its own.

        Args:
            bits: a mode (``4``, ``"w4a8"``), or a mapping from layer-name patterns to modes, of which the
                last that matches a layer counts. A norm takes the mode of a pattern that matches its
                own name, else of the layer registered before it. First and last layers keep their fixed
                width whatever a pattern with a wildcard says.
            default: with a mapping, the mode of the layers that no pattern matches.

        Raises:
            ValueError: a mode the network lacks, a pattern that matches nothing, a layer left without
                mode, or a fixed layer asked by its name for another width. The network stays as it was.
        """
        if isinstance(bits, Mapping):
            self._switch(self._assign(bits, default))
        else:
            self._switch(self.check_mode(bits))

    def _switch(self, assignment: BitMode | dict[str, BitMode]) -> None:
        if isinstance(assignment, BitMode):
            for module in self._switchable.values():
                module.set_bits(assignment)
        else:
            for name, module in self._switchable.items():
                module.set_bits(assignment[name])
        self._assignment: BitMode | dict[str, BitMode] = assignment

    def _assign(self, patterns: Mapping[str, ModeLike], default: ModeLike | None) -> dict[str, BitMode]:
        """The mode of every layer and norm."""
        modules = self._switchable
        parsed = {pattern: self._check_pattern(pattern, mode) for pattern, mode in patterns.items()}
        fallback = None if default is None else self.check_mode(default)
        assignment: dict[str, BitMode] = {}
        before = fallback or self.modes[-1]
        for name, module in modules.items():
            matching = [mode for pattern, mode in parsed.items() if fnmatchcase(name, pattern)]
            mode = matching[-1] if matching else fallback
            if isinstance(module, PerModeNorm):
                mode = matching[-1] if matching else before
            elif mode is None:
                raise ValueError(f"no pattern matches layer {name!r}; add one or give default=")
            else:
                before = mode
            assignment[name] = mode
        return assignment

    def _check_pattern(self, pattern: str, mode: ModeLike) -> BitMode:
        module = self._switchable.get(pattern)
        if isinstance(module, QuantLayer) and module.fixed_bits is not None:
            parsed = BitMode.parse(mode)
            if module.resolve(parsed) != parsed:
                raise ValueError(
                    f"layer {pattern!r} is fixed at {module.fixed_bits} bits (first_last or overrides); "
                    f"it cannot run at {parsed.name}"
                )
            return parsed
        if not any(fnmatchcase(name, pattern) for name in self._switchable):
            raise ValueError(
                f"layer pattern {pattern!r} matches nothing; there are {', '.join(self._switchable)}"
            )
        return self.check_mode(mode)

    @property
    def bits(self) -> int | str | dict[str, int | str]:
        """The current assignment, as ``set_bits`` takes it: ``4``, ``"w4a8"``, or a mapping of all layers and norms."""
        if isinstance(self._assignment, BitMode):
            return plain(self._assignment)
        shown = {}
        for name, mode in self._assignment.items():
            module = self._switchable[name]
            shown[name] = plain(module.resolve(mode) if isinstance(module, QuantLayer) else mode)
        return shown

    @contextmanager
    def at_bits(self, bits: Assignment, default: ModeLike | None = None) -> Iterator[QuantizableNetwork]:
        """Switch for the length of a ``with`` block, then back."""
        before = self._assignment
        self.set_bits(bits, default)
        try:
            yield self
        finally:
            self._switch(before)

    def add_mode(self, mode: ModeLike, like: ModeLike) -> None:
        """Hold one more mode, made of bit-widths that the quantizers have: ``add_mode("w4a8", like=4)``.

        Its norms start as copies of those of ``like``; ``reestimate_norms`` fits them.

        Raises:
            ValueError: the mode is there already, ``like`` is not, or a layer lacks one of the bit-widths.
        """
        new, source = BitMode.parse(mode), self.check_mode(like)
        if new in self.modes:
            raise ValueError(f"the network has mode {new.name} already")
        for name, layer in self.layers().items():
            wanted = layer.resolve(new)
            if isinstance(layer, QuantLayer):
                for quantizer, bits in (
                    (layer.weight_quantizer, wanted.weight),
                    (layer.input_quantizer, wanted.activation),
                ):
                    if bits not in quantizer.widths:
                        raise ValueError(f"layer {name!r} has no {bits}-bit codes; it has {quantizer.widths}")
        for norm in self.norms().values():
            norm.add_mode(new, source)
        self.modes = sorted([*self.modes, new])

    # -- fitting to data ---------------------------------------------------------------------------

    @torch.no_grad()
    def calibrate(self, loader: Iterable[Any], batches: int = 8) -> None:
        """Set the activations' step sizes of all modes from a few batches, run in the highest mode.

        Args:
            loader: yields image batches, or tuples, lists or mappings whose first entry is one.
            batches: how many batches to look at, at least 1.

        Raises:
            ValueError: the loader is empty, or a batch has NaN or infinite values.
        """
        quantizers = [q for q in self.quantizers().values() if len(q.levels) and not q.starts_initialised()]
        for quantizer in quantizers:
            quantizer.start_calibration()
        try:
            with self.at_bits(self.modes[-1]), evaluating(self):
                for x in first_inputs(self, loader, batches):
                    self(x)
        except BaseException:
            for quantizer in quantizers:
                quantizer.stop_calibration()
            raise
        for quantizer in quantizers:
            quantizer.finish_calibration()

    @torch.no_grad()
    def reestimate_norms(
        self, loader: Iterable[Any], modes: Iterable[ModeLike] | None = None, batches: int = 32
    ) -> None:
        """Recompute the batch-norm statistics of each mode on training batches (cumulative mean).

        Unlike ``torch.optim.swa_utils.update_bn`` it touches the statistics of the asked modes only.

        Args:
            loader: as for :meth:`calibrate`.
            modes: which modes; None: the current assignment as it stands if it is a mapping, else all.
            batches: how many batches, at least 1.
        """
        if modes is None:
            assignments: list[Any] = list(self.modes) if isinstance(self._assignment, BitMode) else [None]
        else:
            assignments = [self.check_mode(mode) for mode in modes]
        data = list(first_inputs(self, loader, batches))
        before = self._assignment
        try:
            for mode in assignments:
                if mode is not None:
                    self.set_bits(mode)
                with evaluating(self):
                    batch_norms = _active_batch_norms(self)
                    momenta = [m.momentum for m in batch_norms]
                    for norm in batch_norms:
                        norm.reset_running_stats()
                        norm.momentum = None  # cumulative mean
                        norm.train()
                    for x in data:
                        self(x)
                    for norm, momentum in zip(batch_norms, momenta, strict=True):
                        norm.momentum = momentum
        finally:
            self._switch(before)

    # -- weights -----------------------------------------------------------------------------------

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a checkpoint of this network, or of its float model.

        A float state dict (timm's, torchvision's: keys without ``model.``) sets the weights, gives
        each mode's norms the float norm's values and starts the weights' step sizes anew.
        """
        if any(key.startswith("model.") for key in state_dict):
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        return self._load_float(state_dict, strict)

    def _load_float(self, state_dict: Mapping[str, Any], strict: bool) -> Any:
        from quantizable.convert import to_float  # a float twin knows the float keys

        result = to_float(self).load_state_dict(state_dict, strict=strict)
        norms = self.norms()
        wanted = {}
        for key, value in state_dict.items():
            owner, _, leaf = key.rpartition(".")
            if owner in norms:
                wanted |= {f"{owner}.norms.{mode}.{leaf}": value for mode in norms[owner].norms}
            else:
                wanted[key] = value
        self.model.load_state_dict(wanted, strict=False)
        for layer in self.layers().values():
            if isinstance(layer, QuantLayer):
                layer.weight_quantizer.refit(layer.float_weight())
        return result

    def to_float(self, mode: ModeLike | None = None) -> nn.Module:
        """The plain float network: a copy with the original classes and keys (``convert.to_float``)."""
        from quantizable.convert import to_float

        return to_float(self, mode)


def plain(mode: BitMode) -> int | str:
    """A mode as YAML and JSON write it: ``4`` or ``"w4a8"``."""
    return mode.weight if mode.weight == mode.activation else mode.name


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for the length of a ``with`` block; every module's flag is put back."""
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def first_inputs(network: nn.Module, loader: Iterable[Any], batches: int) -> Iterator[Tensor]:
    """The inputs of up to ``batches`` batches, on the network's device; ``ValueError`` if there are none."""
    if batches < 1:
        raise ValueError(f"batches is {batches}; at least 1 is needed")
    device = next(network.parameters()).device
    count = 0
    for count, batch in enumerate(islice(loader, batches), 1):
        x = (
            next(iter(batch.values()))
            if isinstance(batch, Mapping)
            else batch[0]
            if isinstance(batch, tuple | list)
            else batch
        )
        if not torch.isfinite(x).all():
            raise ValueError(f"batch {count} of the loader has NaN or infinite values; clean the data first")
        yield x.to(device)
    if count == 0:
        raise ValueError("the loader is empty; give at least one batch of inputs")


def _active_batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Batch norms that the current assignment runs."""
    inactive = {
        id(m) for norm in network.modules() if isinstance(norm, PerModeNorm)
        for other in norm.norms.values() if other is not norm.active for m in other.modules()
    }  # fmt: skip
    return [
        m for m in network.modules()
        if isinstance(m, _BatchNorm) and m.track_running_stats and id(m) not in inactive
    ]  # fmt: skip
