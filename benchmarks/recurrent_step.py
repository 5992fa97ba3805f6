"""What a training step of quantized recurrent layers costs beside torch's own of the same size.

    python benchmarks/recurrent_step.py                 # LSTM of 50 and GRU of 75 units, embedding 128
    python benchmarks/recurrent_step.py --batch 64 --length 200 --threads 1

A step is forward, backward and an optimizer step, of the layer with its embedding and classifier and of the
layer alone. ``modes in turn``: one step in modes 2, 4, 8 and 32 beside four passes of the float network;
``mode 4``: one pass in each. Both sides run in one process and in turn; the ratio is the median over the
rounds. On a machine that others use, too, the ratio of processor time is what can be trusted.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from steps import Step, command_line, interleaved, positive, ratio, save, table
from torch import Tensor, nn

import quantizable
from quantizable.network import QuantizableNetwork
from quantizable.training.memory import keep_freed_memory

LAYERS: dict[str, tuple[type[nn.RNNBase], int]] = {"lstm": (nn.LSTM, 50), "gru": (nn.GRU, 75)}
EMBEDDING, VOCABULARY, CLASSES = 128, 5000, 2  # the layers' sizes: the study's, Hu et al., CAIN 2023
MODES: dict[str, list[int]] = {"modes in turn": [2, 4, 8, 32], "mode 4": [4]}


class Text(nn.Module):
    """Words to classes: an embedding, a recurrent layer, a classifier of its last output."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
        self.rnn = layer
        self.fc = nn.Linear(layer.hidden_size, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        return self.fc(self.rnn(self.embedding(words))[0][:, -1])


class Alone(nn.Module):
    """A recurrent layer and the sum of its features, which costs next to nothing."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0][:, -1, :CLASSES]


def step_of(network: nn.Module, x: Tensor, labels: Tensor, modes: list[int]) -> Step:
    """A forward and a backward pass for each of ``modes``, and one optimizer step."""
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        for mode in modes:
            if isinstance(network, QuantizableNetwork):
                network.set_bits(mode)
            F.cross_entropy(network(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare(
    name: str, around: Callable[[nn.RNNBase], nn.Module], what: str, batch: int, length: int, repeats: int
) -> dict[str, Any]:
    """One row of the table."""
    kind, size = LAYERS[name]
    torch.manual_seed(0)
    words = torch.randint(0, VOCABULARY, (batch, length))
    x = words if around is Text else torch.randn(batch, length, EMBEDDING)
    labels = torch.randint(0, CLASSES, (batch,))
    bare = around(kind(EMBEDDING, size, batch_first=True)).train()
    ours = quantizable.quantize(bare, sorted({2, 4, 8, 32}), first_last="mode").train()
    ours.calibrate([x], batches=1)
    steps = {"bare": step_of(bare, x, labels, MODES[what]), "ours": step_of(ours, x, labels, MODES[what])}
    times = interleaved(steps, repeats, "cpu")
    return {
        "layer": f"{kind.__name__} {EMBEDDING} -> {size}",
        "network": "embedding, layer, classifier" if around is Text else "layer alone",
        "step": what,
        "bare ms": 1000 * statistics.median(times["bare"].cpu),
        "ours ms": 1000 * statistics.median(times["ours"].cpu),
        "ratio of processor time": ratio(times["ours"], times["bare"], "cpu"),
        "ratio": ratio(times["ours"], times["bare"], "wall"),
    }


def main() -> None:
    """Print the table and write ``benchmarks/results/recurrent_step.json``."""
    parser = command_line(__doc__)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--batch", type=positive, default=32)
    parser.add_argument("--length", type=positive, default=40)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=positive, default=30)
    parser.add_argument("--out", default="recurrent_step", help="name of the file in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    rows = [
        compare(name, around, what, args.batch, args.length, args.repeats)
        for name in args.layers
        for around in (Text, Alone)
        for what in MODES
    ]
    print(table(save(args.out, "cpu", rows)))


if __name__ == "__main__":
    main()
