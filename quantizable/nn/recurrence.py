"""The recurrence of a whole sequence as one node of the graph, for training with LSQ.

Step by step through autograd, a sequence of 40 steps makes 800 nodes. Here a step costs the forward pass its
arithmetic alone; in the backward pass the gradient of the state is linear in that of the next step, so that
all factors are computed at once for the whole sequence, and so are the gradients of weight and step size. A
matrix product and a few passes over ``[B, gates * H]`` are left for a step. The forward pass rounds as
``recurrent_steps`` does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from quantizable.functional import hardtanh_backward, positive


class Grid(NamedTuple):
    """What the states are rounded to; ``factor`` is that on the gradient of ``scale`` (LSQ sec. 2.2)."""

    low: int
    high: int
    factor: float | Tensor


class _States:
    """The states of a sequence and their values on the grid, each ``[T, B, H]`` and one more state."""

    def __init__(self, first: Tensor, steps: int, scale: Tensor, grid: Grid) -> None:
        self.step, self.grid = positive(scale), grid
        self.all = first.new_empty(steps + 1, *first.shape)
        self.all[0] = first
        self.quantized = first.new_empty(steps, *first.shape)
        self.each, self.on_grid = self.all.unbind(), self.quantized.unbind()

    def operand(self, t: int) -> Tensor:
        """The state before step ``t``, on the grid."""
        codes = torch.div(self.each[t], self.step, out=self.on_grid[t])
        return codes.round_().clamp_(self.grid.low, self.grid.high).mul_(self.step)


class _Backward:
    """The way back through the products of the states: the same for every kind of gate.

    Args:
        saved: states ``[T + 1, B, H]``, values on the grid ``[T, B, H]``, weight ``[gates * H, H]``, scale.
    """

    def __init__(self, saved: tuple[Tensor, ...], grid: Grid) -> None:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a quantized LSTM or GRU in float32 has no second derivatives (create_graph=True); "
                "take them in mode 32 or in float64"
            )
        states, self.quantized, self.weight, scale = saved
        self.before, self.grid = states[:-1], grid
        self.scale = positive(scale)
        step = float(self.scale)
        inside = torch.ones_like(self.before)
        self.passes = hardtanh_backward(inside, self.before, grid.low * step, grid.high * step)
        self.of_operands = torch.empty_like(self.before)
        self.steps = self.of_operands.unbind(), self.passes.unbind()  # once: an index costs what a sum does

    def of_state(self, t: int, of_gates: Tensor, out: Tensor) -> Tensor:
        """Gradient of the state before step ``t``, through its product, from that of the gates."""
        of_operands, passes = self.steps
        return torch.mul(torch.mm(of_gates, self.weight, out=of_operands[t]), passes[t], out=out)

    def of_weight(self, of_gates: Tensor) -> Tensor:
        """Gradient of the weight."""
        return of_gates.reshape(-1, len(self.weight)).t() @ self.quantized.flatten(0, 1)

    def of_scale(self) -> Tensor:
        """Gradient of the step size: LSQ eq. 3, summed over all states."""
        total = (self.of_operands * self.quantized).sum() - (
            self.of_operands * self.passes * self.before
        ).sum()
        return (total / self.scale * self.grid.factor).to(self.scale.dtype)


class _LSTM(torch.autograd.Function):
    """From gates ``[T, B, 4 H]`` to states ``[T, B, H]`` and the last cell state ``[B, H]``."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor | None, h: Tensor, c: Tensor,
        scale: Tensor, grid: Grid,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        steps, size = len(gates), h.shape[-1]
        states, acts = _States(h, steps, scale, grid), torch.empty_like(gates)
        cells, squashed = gates.new_empty(steps + 1, *c.shape), gates.new_empty(steps, *c.shape)
        cells[0] = c
        i_f, new, out = (part.unbind() for part in acts.split([2 * size, size, size], -1))
        i, f = (part.unbind() for part in acts[..., : 2 * size].chunk(2, -1))
        each, each_squashed = cells.unbind(), squashed.unbind()
        for t, (x, act) in enumerate(zip(gates.unbind(), acts.unbind(), strict=True)):
            product = torch.nn.functional.linear(states.operand(t), weight, bias)
            torch.add(x, product, out=act)
            i_f[t].sigmoid_(), new[t].tanh_(), out[t].sigmoid_()
            torch.mul(f[t], each[t], out=each[t + 1]).add_(i[t] * new[t])
            torch.mul(out[t], torch.tanh(each[t + 1], out=each_squashed[t]), out=states.each[t + 1])
        ctx.save_for_backward(acts, cells, squashed, states.all, states.quantized, weight, scale)
        ctx.grid, ctx.biased = grid, bias is not None
        return states.all[1:], cells[-1].clone()

    @staticmethod
    def backward(ctx: Any, of_outputs: Tensor, of_cell: Tensor) -> tuple[Tensor | None, ...]:
        acts, cells, squashed, *rest = ctx.saved_tensors
        back = _Backward(tuple(rest), ctx.grid)
        steps, batch, size = squashed.shape
        i, f, new, out = acts.view(steps, batch, 4, size).unbind(2)
        factors = torch.stack(
            [new * i * (1 - i), cells[:-1] * f * (1 - f), i * (1 - new * new), squashed * out * (1 - out)], 2
        )
        to_cell = out * (1 - squashed * squashed)
        of_gates = torch.empty_like(factors)
        of_x = of_gates.flatten(2)
        of_h, of_c = torch.zeros_like(squashed[0]), of_cell.clone()
        of_three, of_out = of_gates[:, :, :3].unbind(), of_gates[:, :, 3].unbind()
        to_three, to_out, to_c = factors[:, :, :3].unbind(), factors[:, :, 3].unbind(), to_cell.unbind()
        given, kept, together, three = of_outputs.unbind(), f.unbind(), of_x.unbind(), of_c[:, None]
        for t in reversed(range(steps)):
            of_h.add_(given[t])
            of_c.addcmul_(of_h, to_c[t])
            torch.mul(three, to_three[t], out=of_three[t])
            torch.mul(of_h, to_out[t], out=of_out[t])
            of_c.mul_(kept[t])
            back.of_state(t, together[t], out=of_h)
        of_bias = of_x.sum((0, 1)) if ctx.biased else None
        return of_x, back.of_weight(of_gates), of_bias, of_h, of_c, back.of_scale(), None


class _GRU(torch.autograd.Function):
    """From gates ``[T, B, 3 H]`` to states ``[T, B, H]``."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor | None, h: Tensor, scale: Tensor, grid: Grid
    ) -> Tensor:
        steps, size = len(gates), h.shape[-1]
        states = _States(h, steps, scale, grid)
        acts, new = gates.new_empty(steps, len(h), 2 * size), gates.new_empty(steps, *h.shape)
        products = gates.new_empty(steps, *h.shape)  # of the new state, before the reset gate
        x_rz, x_n = (part.unbind() for part in gates.split([2 * size, size], -1))
        r, z = (part.unbind() for part in acts.chunk(2, -1))
        each_new, each_product = new.unbind(), products.unbind()
        for t, act in enumerate(acts.unbind()):
            product = torch.nn.functional.linear(states.operand(t), weight, bias)
            torch.add(x_rz[t], product[:, : 2 * size], out=act).sigmoid_()
            of_new = each_product[t].copy_(product[:, 2 * size :])
            torch.addcmul(x_n[t], r[t], of_new, out=each_new[t]).tanh_()
            torch.lerp(each_new[t], states.each[t], z[t], out=states.each[t + 1])
        ctx.save_for_backward(acts, new, products, states.all, states.quantized, weight, scale)
        ctx.grid, ctx.biased = grid, bias is not None
        return states.all[1:]

    @staticmethod
    def backward(ctx: Any, of_outputs: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        acts, new, products, *rest = ctx.saved_tensors
        back = _Backward(tuple(rest), ctx.grid)
        r, z = acts.chunk(2, -1)
        to_new = (1 - z) * (1 - new * new)
        factors = torch.stack(
            [to_new * products * r * (1 - r), (back.before - new) * z * (1 - z), to_new * r], 2
        )
        of_gates, of_states = torch.empty_like(factors), torch.empty_like(new)
        of_h, totals, each, kept = torch.zeros_like(new[0]), of_states.unbind(), of_gates.unbind(), z.unbind()
        given, to_gates, together = of_outputs.unbind(), factors.unbind(), of_gates.flatten(2).unbind()
        for t in reversed(range(len(new))):
            total = torch.add(of_h, given[t], out=totals[t])
            torch.mul(total[:, None], to_gates[t], out=each[t])
            back.of_state(t, together[t], out=of_h).addcmul_(total, kept[t])
        of_weight, of_bias = back.of_weight(of_gates), of_gates.sum((0, 1)).flatten() if ctx.biased else None
        of_gates[:, :, 2] = of_states * to_new  # before the reset gate that of the product, now of the input
        return of_gates.flatten(2), of_weight, of_bias, of_h, back.of_scale(), None


def lstm_recurrence(
    gates: Tensor, weight: Tensor, bias: Tensor | None, state: tuple[Tensor, ...], scale: Tensor, grid: Grid
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """States ``[T, B, H]`` and the last hidden and cell state.

    Args:
        gates: the input's products, ``[T, B, 4 H]``.
        weight, bias: of the hidden state's product, ``[4 H, H]`` and ``[4 H]``.
        state: hidden and cell state before the first step, ``[B, H]`` each.
        scale, grid: of the hidden state.
    """
    outputs, cell = _LSTM.apply(gates, weight, bias, *state, scale, grid)
    return outputs, (outputs[-1], cell)


def gru_recurrence(
    gates: Tensor, weight: Tensor, bias: Tensor | None, state: tuple[Tensor, ...], scale: Tensor, grid: Grid
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As :func:`lstm_recurrence`, of three gates and without a cell state."""
    outputs = _GRU.apply(gates, weight, bias, *state, scale, grid)
    return outputs, (outputs[-1],)
