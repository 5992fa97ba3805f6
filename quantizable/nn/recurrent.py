"""Recurrent layers on quantized products: ``nn.LSTM``, ``nn.GRU``, ``nn.RNN`` and their cells.

A layer is turned into its class here in place, before conversion; its parameters and their names stay. Its
products become layers of their own (:class:`~quantizable.nn.recurrent_products.Product`), which conversion
finds as it finds all others. Where none of them is quantized just now, the float layer's fused kernel runs.
Else the input's products of the whole sequence are one call and the recurrence is a loop; the arithmetic of
the gates stays in float, and so do the states between the steps: on a grid is what enters a product.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.rnn import PackedSequence

from quantizable.nn.layers import all_float
from quantizable.nn.recurrence import gru_recurrence, lstm_recurrence
from quantizable.nn.recurrent_products import Product, QuantProduct, noting_states, watched
from quantizable.nn.recurrent_sequences import Sequences, joined
from quantizable.nn.recurrent_steps import State, Step, gru_step, lstm_step, relu_step, tanh_step

RECURRENCES = {"LSTM": lstm_recurrence, "GRU": gru_recurrence}


class Recurrent(nn.Module):
    """What every recurrent layer has beside its float class.

    Attributes:
        original_class: the class that the layer had.
    """

    original_class: type[nn.Module]

    @property
    def step(self) -> Step:
        """How the state follows from the products."""
        raise TypeError("defined by the classes below")

    def product(self, name: str) -> Product:
        """One of the products of the layer."""
        product = self._modules[name]
        assert isinstance(product, Product)
        return product

    def is_watched(self) -> bool:
        """True if a hook wants to see the calls of a product, which the float kernel does not make."""
        return any(watched(child) for child in self._modules.values() if isinstance(child, QuantProduct))

    def reset_parameters(self) -> None:
        """As the float layer does: it would take the step sizes of the products for weights."""
        bound = float(self.hidden_size) ** -0.5  # type: ignore[arg-type]
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)


class _Recurrent(Recurrent, nn.RNNBase):
    """Stacked, bidirectional layers over whole sequences.

    In a compiled network it runs as it is, like the float layer, which the compiler does not look into.
    """

    @torch.compiler.disable
    def forward(self, input: Any, hx: Any = None) -> Any:
        if all_float(self) and not self.is_watched():
            return super().forward(input, hx)
        packed = input if isinstance(input, PackedSequence) else None
        if packed is not None and torch.onnx.is_in_onnx_export():
            raise ValueError("packed sequences cannot be exported; give sequences of one length")
        x: Tensor = input if packed is None else packed.data
        if packed is None and x.dim() not in (2, 3):
            raise ValueError(f"{self._get_name()}: Expected input to be 2D or 3D, got {x.dim()}D instead")
        batched = packed is not None or x.dim() == 3
        time_first = packed is None and batched and not self.batch_first
        if packed is None:
            x = x.transpose(0, 1).contiguous() if time_first else x if batched else x[None]
            if not x.shape[1]:
                raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        order = None if packed is None else packed.batch_sizes.tolist()
        sequences = Sequences(x.shape[0] if order is None else order[0], order)
        state = self._first_state(x, hx, sequences, packed, batched)
        x, state = self._run(x, state, sequences)
        back = None if packed is None else packed.unsorted_indices
        if back is not None:
            state = tuple(part.index_select(1, back) for part in state)
        if not batched:
            state = tuple(part.squeeze(1) for part in state)
        hidden = state if len(state) > 1 else state[0]
        if packed is not None:
            return PackedSequence(x, packed.batch_sizes, packed.sorted_indices, back), hidden
        return (x.transpose(0, 1).contiguous() if time_first else x if batched else x[0]), hidden

    def _first_state(
        self, x: Tensor, hx: Any, sequences: Sequences, packed: PackedSequence | None, batched: bool
    ) -> State:
        """The state before the first step, ``[layers * directions, B, ...]``, in the order of ``x``."""
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]}"
            )
        cells = self.num_layers * (2 if self.bidirectional else 1)
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: 2 if self.mode == "LSTM" else 1]
        if hx is None:
            return tuple(x.new_zeros(cells, sequences.batch, width) for width in widths)
        given = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        state = given if batched else tuple(part.unsqueeze(1) for part in given)
        expected = [(cells, sequences.batch, width) for width in widths]
        if [tuple(part.shape) for part in state] != expected:
            raise RuntimeError(f"Expected hidden size {expected}, got {[list(part.shape) for part in given]}")
        if packed is not None and packed.sorted_indices is not None:
            state = tuple(part.index_select(1, packed.sorted_indices) for part in state)
        return state

    def _run(self, x: Tensor, state: State, sequences: Sequences) -> tuple[Tensor, State]:
        """All layers, one above the other: outputs and last states."""
        last: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in ("", "_reverse")[: 2 if self.bidirectional else 1]:
                first = tuple(part[len(last)] for part in state)
                output, final = self._direction(x, first, f"l{layer}{suffix}", sequences)
                outputs.append(output)
                last.append(final)
            x = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    def _direction(self, x: Tensor, state: State, name: str, sequences: Sequences) -> tuple[Tensor, State]:
        """One layer in one direction: outputs as ``x`` lies, and the state after the last step."""
        from_input = self.product(f"ih_{name}")
        recurrence = [self.product(f"hh_{name}"), *([self.product(f"hr_{name}")] if self.proj_size else [])]
        sequences.share_samples(from_input, x)
        products = from_input(x).to(state[0].dtype)  # products alone are in bf16 under autocast
        gates = sequences.steps(products)
        for product in recurrence:
            sequences.share_samples(product, x, len(gates))
        loop = partial(self._loop, gates, state, sequences, recurrence, name.endswith("_reverse"))
        fused = None if sequences.sizes or len(recurrence) > 1 else self._fused(products, state, name)
        if fused is not None:
            return fused
        waiting = [p for p in recurrence if isinstance(p, QuantProduct) and p.awaits_states()]
        if waiting:
            with noting_states(waiting):
                outputs, final = loop()
        if not any(product.input_quantizer.calibrating for product in waiting):
            outputs, final = loop()
        return sequences.together(outputs), final

    def _fused(self, gates: Tensor, state: State, name: str) -> tuple[Tensor, State] | None:
        """The same as one node of the graph, where there is one: outputs ``[B, T, H]`` and last state."""
        product, recurrence = self.product(f"hh_{name}"), RECURRENCES.get(self.mode)
        found = product.grid(state[0]) if recurrence and isinstance(product, QuantProduct) else None
        if recurrence is None or found is None:
            return None
        backwards = name.endswith("_reverse")
        steps = gates.transpose(0, 1)
        steps = steps.flip(0) if backwards else steps.contiguous()
        outputs, final = recurrence(steps, product.operand(), product.bias, state, *found)
        return (outputs.flip(0) if backwards else outputs).transpose(0, 1), final

    def _loop(
        self,
        gates: list[Tensor],
        first: State,
        sequences: Sequences,
        products: list[Product],
        backwards: bool,
    ) -> tuple[list[Tensor], State]:
        """The recurrence; outputs in the order of the steps, and the state after the last one."""
        weights = [product.operand() for product in products]
        order = range(len(gates))[:: -1 if backwards else 1]
        state, ended = sequences.at(order[0], first), []
        outputs: list[Tensor] = []
        for t in order:
            state, rest = sequences.change(t, state, first)
            ended += rest
            state = self.step(gates[t], products[0](state[0], weights[0]).to(gates[t].dtype), state)
            if len(products) > 1:
                state = (products[1](state[0], weights[1]).to(gates[t].dtype), *state[1:])
            outputs.append(state[0])
        for rest_of_all in reversed(ended):
            state = joined(state, rest_of_all)
        return outputs[::-1] if backwards else outputs, state


class QuantLSTM(_Recurrent, nn.LSTM):
    """``nn.LSTM`` (also with projections) on quantized products."""

    step = staticmethod(lstm_step)


class QuantGRU(_Recurrent, nn.GRU):
    """``nn.GRU`` on quantized products."""

    step = staticmethod(gru_step)


class QuantRNN(_Recurrent, nn.RNN):
    """``nn.RNN``, tanh or ReLU, on quantized products."""

    @property
    def step(self) -> Step:
        return relu_step if self.mode == "RNN_RELU" else tanh_step


class _RecurrentCell(Recurrent, nn.RNNCellBase):
    """One step, called by the user's own loop; the weights are quantized at each call."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        if all_float(self) and not self.is_watched():
            return super().forward(input, hx)
        if input.dim() not in (1, 2):
            raise ValueError(f"{self._get_name()}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        x = input if input.dim() == 2 else input[None]
        if hx is None:
            state = (x.new_zeros(x.shape[0], self.hidden_size),) * (2 if isinstance(self, nn.LSTMCell) else 1)
        else:
            given = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
            state = tuple(part if part.dim() == 2 else part[None] for part in given)
        from_input, from_state = (self.product(n)(v) for n, v in (("ih", x), ("hh", state[0])))
        state = self.step(from_input.to(state[0].dtype), from_state.to(state[0].dtype), state)
        if input.dim() == 1:
            state = tuple(part[0] for part in state)
        return state if len(state) > 1 else state[0]


class QuantLSTMCell(_RecurrentCell, nn.LSTMCell):
    """``nn.LSTMCell`` on quantized products."""

    step = staticmethod(lstm_step)


class QuantGRUCell(_RecurrentCell, nn.GRUCell):
    """``nn.GRUCell`` on quantized products."""

    step = staticmethod(gru_step)


class QuantRNNCell(_RecurrentCell, nn.RNNCell):
    """``nn.RNNCell``, tanh or ReLU, on quantized products."""

    @property
    def step(self) -> Step:
        return relu_step if self.nonlinearity == "relu" else tanh_step


RECURRENT: dict[type[nn.Module], type[Recurrent]] = {
    nn.LSTM: QuantLSTM, nn.GRU: QuantGRU, nn.RNN: QuantRNN,
    nn.LSTMCell: QuantLSTMCell, nn.GRUCell: QuantGRUCell, nn.RNNCell: QuantRNNCell,
}  # fmt: skip


def recurrent_class(layer: nn.Module) -> type[Recurrent] | None:
    """The class here for a float layer, or None if its own forward is not known (as for other layers)."""
    for base in type(layer).__mro__:
        if base in RECURRENT and not is_parametrized(layer):
            return RECURRENT[base] if type(layer).forward is base.forward else None
    return None


def split_products(model: nn.Module, known: Collection[nn.Module] = ()) -> None:
    """Make layers of the products of the recurrent layers in ``model``, but for ``known`` ones, in place."""
    for layer in list(model.modules()):
        quant = None if layer in known else recurrent_class(layer)
        if quant is None:
            continue
        names = [name.removeprefix("weight_") for name, _ in layer.named_parameters(recurse=False)]
        layer.original_class, layer.__class__ = type(layer), quant  # type: ignore[assignment]
        for name in names:
            if not name.startswith("bias_"):
                layer.add_module(name, Product(layer, name).train(layer.training))


def recurrent_layers(model: nn.Module) -> list[str]:
    """Names of the layers that :func:`split_products` made layers of."""
    return [name for name, layer in model.named_modules() if isinstance(layer, Recurrent)]


def with_products(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Shell patterns of layer names: one that names a recurrent layer names its products, too."""

    def names_it_alone(pattern: str) -> bool:
        found = (name for name in recurrent_layers(model) if fnmatchcase(name, pattern))
        return any(not fnmatchcase(f"{name}.ih", pattern) for name in found)

    return [*patterns, *(f"{pattern}.*" for pattern in patterns if names_it_alone(pattern))]


def restore(layer: nn.Module) -> None:
    """Undo what :func:`split_products` did to one module, in place."""
    if isinstance(layer, Recurrent):
        for name in [name for name, child in layer._modules.items() if isinstance(child, Product)]:
            del layer._modules[name]
        layer.__class__ = layer.__dict__.pop("original_class")
