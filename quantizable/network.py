"""The network whose bit mode can be switched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from quantizable import calibrate as fitting
from quantizable.bits import FLOAT_BITS, BitMode, ModeLike
from quantizable.calibrate import Forward, Run, Widths
from quantizable.interface.reconstructing import Reconstructing
from quantizable.interface.sharing import Sharing
from quantizable.nn import encoder_fast_path, reading, shifted_windows
from quantizable.nn.added_modes import AddedModes
from quantizable.nn.additions import Additions
from quantizable.nn.float_copy import float_copy
from quantizable.nn.layer_modes import NamedModes, held, modes_by_layer, modes_by_pattern, plain_modes
from quantizable.nn.layers import QuantLayer
from quantizable.nn.model_attributes import ModelAttributes
from quantizable.nn.norm_fitting import fit_norms, has_fresh_norms, norms_are_copies
from quantizable.nn.norms import PerModeNorm, keep_activations
from quantizable.nn.operands import QuantOperands
from quantizable.nn.product_search import adopt_products
from quantizable.nn.recomputation import ModeHistory
from quantizable.nn.state_dict import for_each_mode, without_prefix
from quantizable.nn.structure import Structure
from quantizable.quantizers import Quantizer

if TYPE_CHECKING:
    from quantizable import Coverage

Assignment = ModeLike | Mapping[str, ModeLike]  # a name of an assignment is a str, as a mode's is
Modes = BitMode | Mapping[str, BitMode] | NamedModes


class QuantizableNetwork(Sharing, Reconstructing, AddedModes, ModelAttributes):
    """A network that runs at any of its bit modes; made by :func:`quantizable.quantize`.

    What is set on it and belongs to the model reaches the model; layers put in later are converted like the
    others (:class:`ModelAttributes`, :meth:`refresh`). A backward pass goes through the mode of its forward
    pass, wherever it is called, with activation checkpointing too. A switch while a forward pass is running,
    by a hook or another thread, is a ``RuntimeError``. Threads may share a network in one mode, without
    gradients; those that switch or train need a ``copy.deepcopy`` each.

    Attributes:
        model: the converted network; attributes not found here are looked up there.
        modes: the modes it holds, from the lowest to the highest.
        config: what ``quantize`` was asked for, in plain types.
        info: what a file says of its data (class names, mean, std, image size); empty before.

    >>> network.set_bits(4)                                  # doctest: +SKIP
    >>> network.set_bits({"layer1.*": 2}, default="w4a8")    # doctest: +SKIP
    >>> network.set_bits("found")                            # doctest: +SKIP
    >>> with network.at_bits(2): logits = network(images)    # doctest: +SKIP
    """

    def __init__(self, model: nn.Module, modes: list[BitMode], config: dict[str, Any]) -> None:
        super().__init__()
        encoder_fast_path.call_layers(model)
        shifted_windows.call_layers(model)
        reading.call_layers(model)
        self.model = model
        self.training = model.training
        self.modes = modes
        self.config = config
        self.info: dict[str, Any] = {}
        self.added: set[BitMode] = set()  # modes of ``add_mode``
        self.stores_integers = False  # read from a ``.qz``: there is nothing to learn
        # found once: walking a deep network at each switch would cost more than the switch
        self._structure = Structure(model)
        self._history = ModeHistory()
        self._share_history()
        self.set_bits(modes[-1])
        self._warned: list[bool] = []
        for quantizer in self.quantizers().values():
            quantizer.warned = self._warned
        self.register_load_state_dict_post_hook(_after_load)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.model(*args, **kwargs)
        self.refresh()
        fitting.warn_of_unsought_products(self)
        with self._history.running_forward():
            return self.model(*args, **kwargs)

    def apply(self, fn: Callable[[nn.Module], None]) -> QuantizableNetwork:
        """As every module has; weights that ``fn`` changed get first step sizes of their own."""
        self.refuse_integers("has no weights that can be changed")
        with self._refitting():
            super().apply(fn)
        return self

    @contextmanager
    def _refitting(self, unchanged: bool = False) -> Iterator[None]:
        """Give the weights that a ``with`` block changes, or all, first step sizes of their own."""
        layers = self._parts(QuantLayer).values()
        before = [layer.float_weight().detach().clone() for layer in layers]
        yield
        for layer, weight in zip(layers, before, strict=True):
            if unchanged or not torch.equal(layer.float_weight(), weight.to(layer.float_weight())):
                layer.weight_quantizer.refit(layer.float_weight())

    def refuse_integers(self, what: str) -> None:
        """``ValueError`` for a network that holds integers only and ``what``, as "cannot be trained"."""
        if self.stores_integers:
            raise ValueError(
                f"the network was read from a .qz file, which holds integers, and {what}; load the checkpoint"
            )

    def _replicate_for_data_parallel(self) -> Any:
        raise RuntimeError(
            "nn.DataParallel copies a network without the levels that its layers point at; "
            "use torch.nn.parallel.DistributedDataParallel (Trainer(strategy='ddp'))"
        )

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As ``convert_sync_batchnorm`` puts back what it converted; the activations in norms survive it."""
        super().add_module(name, module)
        keep_activations(self)

    # -- what is inside ----------------------------------------------------------------------------

    def layers(self) -> dict[str, QuantLayer | QuantOperands]:
        """The switchable layers by name, in the order in which the network registers them."""
        return self._parts(QuantLayer | QuantOperands)

    def additions(self) -> dict[str, Additions]:
        """The residual additions on integer grids, by name (``layer1.0.additions``)."""
        return self._parts(Additions)

    def norms(self) -> dict[str, PerModeNorm]:
        """The norms kept per mode, by name."""
        return self._parts(PerModeNorm)

    def quantizers(self) -> dict[str, Quantizer]:
        """All quantizers by name."""
        return self._parts(Quantizer)

    # -- switching ---------------------------------------------------------------------------------

    def check_mode(self, mode: ModeLike) -> BitMode:
        """The mode, if the network holds it; else ``ValueError`` with the list of those it holds."""
        return held(self.modes, mode)

    def set_bits(self, bits: Assignment, default: ModeLike | None = None) -> None:
        """Switch the network to a mode, or each layer to its own.

        Args:
            bits: a mode (``4``, ``"w4a8"``), the name of an assignment that the network holds
                (:meth:`add_assignment`), or a mapping from layer-name patterns to modes, of which the last
                that matches a layer counts. A norm takes the mode of a pattern that matches its own name,
                else of the layer registered before it (of the one before that, if the network has no such
                mode). First and last layers keep their fixed width whatever a pattern with a wildcard says.
            default: with a mapping, the mode of the layers that no pattern matches.

        Raises:
            ValueError: a mode the network lacks, a pattern that matches nothing, a layer left without
                mode, a fixed layer asked by its name for another width, or a default without a mapping.
                The network stays as it was.
        """
        self.refresh()
        if isinstance(bits, Mapping):
            self._switch(modes_by_pattern(self._switchable, self.modes, bits, default))
        elif default is not None:
            raise ValueError(f'default={default!r} goes with a mapping, as {{"layer1.*": {bits!r}}}')
        else:
            self._switch(self.check_held(bits))

    def _switch(self, assignment: Modes) -> None:
        self._history.record(assignment)

    @property
    def _assignment(self) -> Modes:
        return self._history.current

    def set_layer_modes(self, modes: Mapping[str, BitMode]) -> None:
        """Give every layer, by its full name, a mode of its own, for layer-wise training.

        Fixed layers keep their width; a norm follows the layer registered before it.
        """
        self.refresh()
        self._switch(modes_by_layer(self._switchable, self.modes[-1], modes))

    @property
    def bits(self) -> int | str | dict[str, int | str]:
        """The current assignment, as ``set_bits`` takes it: ``4``, ``"found"``, or a mapping of all parts."""
        return plain_modes(self._switchable, self._assignment)

    @contextmanager
    def at_bits(self, bits: Assignment, default: ModeLike | None = None) -> Iterator[QuantizableNetwork]:
        """Switch for the length of a ``with`` block, then back."""
        self.refresh()
        before = self._assignment
        self.set_bits(bits, default)
        try:
            yield self
        finally:
            self._switch(before)

    # -- fitting to data ---------------------------------------------------------------------------

    def calibrate(
        self, loader: Iterable[Any], batches: int = 8, modes: Iterable[ModeLike] | ModeLike | None = None, *,
        forward: Forward | None = None,
    ) -> None:  # fmt: skip
        """Set the activations' step sizes of all modes, or of some, from a few batches.

        The network runs in its highest mode, with activations in float. Warns of layers that no data
        passed through.

        Args:
            loader: yields batches, read as :func:`~quantizable.nn.network_inputs.network_inputs` says.
            batches: how many batches to look at, at least 1.
            modes: which modes; None: all. What a mode that is not named uses, too, stays as it is, if it was
                set before: of a network trained at 4 and 8 bits ``modes=[3]`` leaves all step sizes alone.
            forward: ``forward(network, batch)`` runs the network on a batch, where no reading fits.
                With ``attention=True`` the first batch shows which products there are.

        Raises:
            ValueError: no batch, one without inputs or with NaN or infinite values, or no such mode.
        """
        self.refuse_integers("cannot be calibrated again")
        runs, widths = fitting.with_products(self, self._runs(loader, batches, forward)), None
        if modes is not None:
            named = {self.check_mode(mode) for mode in several(modes)}
            widths = fitting.own_widths(self.model, named, {*self.modes} - named)
        self._calibrate(runs, widths)

    def calibrate_lacking(self, loader: Iterable[Any], batches: int = 8) -> None:
        """Set the step sizes that were never set, and leave the others as they are; else as ``calibrate``."""
        runs = fitting.with_products(self, self._runs(loader, batches))
        self._calibrate(runs, fitting.lacking(self.model))

    def _calibrate(self, runs: Iterable[Run], widths: Widths | None) -> None:
        with self.at_bits(self.modes[-1]):
            fitting.fit_quantizers(self.model, runs, widths)

    def _runs(self, loader: Iterable[Any], batches: int, forward: Forward | None = None) -> Iterator[Run]:
        return fitting.first_runs(self, loader, batches, next(self.parameters()).device, forward)

    def reestimate_norms(
        self, loader: Iterable[Any], modes: Iterable[ModeLike] | None = None, batches: int = 8, *,
        forward: Forward | None = None,
    ) -> None:  # fmt: skip
        """Fit the batch-norm statistics of each mode to training batches, where quantization moved them.

        A mode is compared with the highest mode on the same images, and blended with what it has stored by
        how far it moved and how sure that is; formula and source in ``nn/norm_statistics.py``. Where no mode
        is float and none was trained, the comparison is with the network in float. Else the highest mode
        keeps its statistics, unless it alone is named (after its weights changed, say) or its norms were
        never trained. Unlike ``torch.optim.swa_utils.update_bn`` it touches those of the asked modes only.

        Args:
            loader, forward: as for :meth:`calibrate`.
            modes: which modes, and names of assignments; None: the current assignment as it stands if it is
                one, else all.
            batches: how many batches, at least 1.

        Raises:
            ValueError: as for :meth:`calibrate`, or a mode that the network lacks.
        """
        before, top = self._assignment, self.modes[-1]
        if modes is None:
            modes = [*self.modes, *self.assignments] if isinstance(before, BitMode) else []
        asked: list[Modes] = [*map(self.check_held, several(modes))] or [before]
        runs = [*self._runs(loader, batches, forward)]
        in_float = not top.is_float and norms_are_copies(self.model)
        fit_top = not in_float and top in asked and (asked == [top] or has_fresh_norms(self.model))
        switches = [partial(self._switch, mode) for mode in asked if in_float or mode != top]
        try:
            fit_norms(self, runs, switches, partial(self._reference, in_float), fit_top)
        finally:
            self._switch(before)

    def _reference(self, in_float: bool) -> None:
        self._switch(self.modes[-1])
        for quantizer in self.quantizers().values() if in_float else ():
            quantizer.set_bits(FLOAT_BITS)

    def coverage(self, example: Any) -> Coverage:
        """Every product, its share, its bits in the current mode; ``example``: as one batch of a loader."""
        from quantizable import coverage  # of a room above: the package brings it when asked

        return coverage(self, example)

    # -- weights -----------------------------------------------------------------------------------

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a checkpoint of this network, or of its float model.

        A float state dict (timm's, torchvision's: keys without ``model.``) sets the weights, gives
        each mode's norms the float norm's values and starts the weights' step sizes anew. With
        ``strict=False`` it may hold some of the weights; the others keep their step sizes. A prefix that all
        keys share (``module.``) is left out.
        """
        self.refuse_integers("takes no other weights")
        own = self.state_dict()
        state_dict = without_prefix(state_dict, own)
        if not state_dict or any(key in state_dict for key in own):
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        return self._load_float(state_dict, strict, assign)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        below = f"{prefix}model."
        keys = [key.removeprefix(below) for key in state_dict if key.startswith(below)]
        self.__dict__["_held"] = keys
        adopt_products(self.model, keys, self.config)
        self.refresh()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _load_float(self, state_dict: Mapping[str, Any], strict: bool, assign: bool) -> Any:
        # the float twin knows the float keys, and refuses what does not fit before anything is changed
        result = self.to_float().load_state_dict(state_dict, strict=strict)
        wanted = for_each_mode(state_dict, self.norms())
        # what a partial one lacks keeps its step sizes
        with self._refitting(unchanged=not result.missing_keys):
            self.model.load_state_dict(wanted, strict=False, assign=assign)
        return result

    def to_float(self, mode: ModeLike | None = None) -> nn.Module:
        """The plain float network: a copy with the original layer classes and keys.

        Of a ``.qz`` its weights are those of the mode, rounded, and they can be trained.

        Args:
            mode: whose norms to keep; the highest mode by default.
        """
        copy = float_copy(self.model, self.modes[-1] if mode is None else self.check_mode(mode))
        return copy.requires_grad_(True) if self.stores_integers else copy


def several(modes: ModeLike | Iterable[ModeLike]) -> Iterable[ModeLike]:
    """Modes, one of which may stand alone."""
    return [modes] if isinstance(modes, BitMode | int | str) else modes


def _after_load(network: nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(network, QuantizableNetwork)
    if fitting.start_missing_modes(network.model, network.modes, network.__dict__.pop("_held")):
        network._warned.clear()
