"""One step of each recurrent network: from the products of a step to the next state, in float.

Formulas as in torch's documentation. Every function takes what gates get from the input, ``x``, and from the
state, ``h``, both ``[B, gates * H]``, and the state before, whose first entry is the hidden state ``[B, H]``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""(hidden state,), or of an LSTM (hidden state, cell state)."""
Step = Callable[[Tensor, Tensor, State], State]


def lstm_step(x: Tensor, h: Tensor, state: State) -> State:
    """Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000."""
    size = state[1].shape[-1]
    i_f, new, out = (x + h).split([2 * size, size, size], -1)
    i, f = i_f.sigmoid().chunk(2, -1)
    cell = f * state[1] + i * new.tanh()
    return out.sigmoid() * cell.tanh(), cell


def gru_step(x: Tensor, h: Tensor, state: State) -> State:
    """Cho et al. 2014 in cuDNN's form: the reset gate acts on the product of the hidden state."""
    size = state[0].shape[-1]
    (x_rz, x_n), (h_rz, h_n) = x.split([2 * size, size], -1), h.split([2 * size, size], -1)
    r, z = (x_rz + h_rz).sigmoid().chunk(2, -1)
    new = torch.addcmul(x_n, r, h_n).tanh()
    return (torch.lerp(new, state[0], z),)


def tanh_step(x: Tensor, h: Tensor, state: State) -> State:
    """Elman 1990."""
    return ((x + h).tanh(),)


def relu_step(x: Tensor, h: Tensor, state: State) -> State:
    """Elman 1990, rectified."""
    return ((x + h).relu(),)
