"""One step of each recurrent network: from the products of a step to the next state, in float.

Formulas as in torch's documentation. Every function takes the input's share of the gates ``x`` and the state's
share ``h``, both ``[B, gates * H]``, and the state before, whose first entry is the hidden state ``[B, H]``.
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
    i, f, g, o = (x + h).chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def gru_step(x: Tensor, h: Tensor, state: State) -> State:
    """Cho et al. 2014 in cuDNN's form: the reset gate acts on the product of the hidden state."""
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), h.chunk(3, -1)
    z = (x_z + h_z).sigmoid()
    new = torch.addcmul(x_n, (x_r + h_r).sigmoid(), h_n).tanh()
    return (torch.lerp(new, state[0], z),)


def tanh_step(x: Tensor, h: Tensor, state: State) -> State:
    """Elman 1990."""
    return ((x + h).tanh(),)


def relu_step(x: Tensor, h: Tensor, state: State) -> State:
    """Elman 1990, rectified."""
    return ((x + h).relu(),)
