"""The table of products against products counted by hand."""

import pytest
import torch
from torch import Tensor, nn

from quantizable import quantize


class Mixed(nn.Module):
    """A layer, one whose weight is read past it, a product of two activations, a matrix of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.spare = nn.Linear(8, 8)
        self.table = nn.Embedding(50, 8)
        self.own = nn.Parameter(torch.randn(8, 4))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)  # [N, T, 8]
        x = nn.functional.conv1d(x.transpose(1, 2), self.spare.weight[:, :, None]).transpose(1, 2)
        x = (x @ x.transpose(1, 2)).softmax(-1) @ x
        return self.last(x @ self.own)


def test_every_product_has_a_row_with_its_bits_or_why_not() -> None:
    with pytest.warns(UserWarning, match=r"^the network \(Mixed\): "):
        net = quantize(Mixed(), [4, 32], first_last="mode")
    net.set_bits(4)
    batch, tokens = 2, 5
    table = net.coverage(torch.randn(batch, tokens, 6))
    n = batch * tokens
    found = {(p.name, p.weight): p for p in table}
    by_hand = {
        ("first", "first.weight"): n * 6 * 8,
        ("", "spare.weight"): n * 8 * 8,
        ("", ""): 2 * batch * tokens * tokens * 8,
        ("", "own"): n * 8 * 4,
        ("last", "last.weight"): n * 4 * 3,
    }
    assert {key: p.macs for key, p in found.items()} == by_hand
    quantized = by_hand["first", "first.weight"] + by_hand["last", "last.weight"]
    assert table.share == pytest.approx(quantized / sum(by_hand.values()))
    first = found["first", "first.weight"]
    assert (first.kind, first.weight_bits, first.input_bits, first.why) == ("Linear", 4, 4, "")
    assert "past its layer" in found["", "spare.weight"].why
    assert "two activations" in found["", ""].why
    assert found["", "own"].why == "no quantized form of Mixed"
    assert f"{table.share:.1%} of all products are quantized in mode 4" in str(table)
    assert str(table).count("\n") == len(table) + 1
    assert net.bits == 4
    net.set_bits(32)
    assert net.coverage(torch.randn(1, tokens, 6)).share == 0


def test_recurrent_layers_count_and_what_the_user_left_out_is_said() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(4, 6, batch_first=True)
            self.fc = nn.Linear(6, 5)
            self.out = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.fc(self.gru(x)[0]))

    net = quantize(Net(), [4, 32], exclude=["fc", "gru"])
    net.set_bits(4)
    table = net.coverage(torch.randn(2, 7, 4))
    assert sum(p.macs for p in table if p.name == "gru") == 2 * 7 * 18 * (4 + 6)
    for name in ("fc", "gru"):
        assert next(p for p in table if p.name == name).why.startswith("left out")


@pytest.mark.parametrize("width", [1, 400])
def test_the_warning_depends_on_the_share_of_weights(width: int, recwarn: pytest.WarningsRecorder) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(2, 2 * width))
            self.pos_embed = nn.Parameter(torch.randn(1, 500, 40))  # looked up, no product

    quantize(nn.Sequential(nn.Linear(40, 40), nn.Embedding(1000, 40), Own()), [4, 32])
    said = [str(w.message) for w in recwarn]
    assert len(said) == (width == 400)
    assert all(line.startswith("2 (Own): ") and "50.0% of the weights" in line for line in said)
