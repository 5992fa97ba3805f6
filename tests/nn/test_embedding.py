"""Embeddings and bilinear layers: the contract, and what is special about them."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from quantizable import quantize
from tests.nn.contract import LayerContract


class Bags(nn.Module):
    """Two bags, the second without the last word."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(9, 4, **options)

    def forward(self, words: Tensor) -> Tensor:
        return self.bag(words, torch.tensor([0, 3]))


class TestEmbeddings(LayerContract):
    options: ClassVar[dict[str, Any]] = {"embedding": True}

    @pytest.fixture(params=["rows", "padded", "bag", "largest"])
    def case(self, request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        words = torch.tensor([1, 8, 3, 0, 1, 2])
        return {
            "rows": (nn.Embedding(9, 4), words[None]),
            "padded": (nn.Embedding(9, 4, padding_idx=0), words[:, None]),
            "bag": (Bags(padding_idx=0), words),
            "largest": (Bags(mode="max"), words),
        }[request.param]

    @pytest.mark.filterwarnings("ignore:no data passed")
    def test_the_rows_are_on_grids_of_their_own(self, case: tuple[nn.Module, Tensor]) -> None:
        net = self.network(case)
        (layer,) = net.layers().values()
        net.set_bits(2)
        grid = layer.weight_quantizer.qparams(layer.weight)
        assert grid.scale.shape == (9, 1)
        codes = layer.quantized_weight() / grid.scale
        torch.testing.assert_close(codes, codes.round())
        assert codes.min() >= -2
        assert codes.max() <= 1


class Own(nn.Module):
    """A bilinear layer on two halves of an input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(3, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[..., :3], x[..., 3:])


class TestBilinear(LayerContract):
    @pytest.fixture
    def case(self) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        return Own(), torch.randn(6, 2, 7)

    def test_first_input_and_weight_are_on_their_grids(self, case: tuple[nn.Module, Tensor]) -> None:
        net, x = self.network(case), case[1]
        net.set_bits(4)
        layer = net.model.layer
        first, second, weight = layer.input_quantizer(x[..., :3]), x[..., 3:], layer.quantized_weight()
        expected = torch.einsum("...i,oij,...j->...o", first, weight, second) + layer.bias
        torch.testing.assert_close(net(x), expected)


def test_embeddings_stay_float_by_default() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))
    assert [*quantize(model, [4, 32]).layers()] == ["1"]
    net = quantize(model, [4, 32], embedding=True)
    assert {name: layer.fixed_bits for name, layer in net.layers().items()} == {"0": None, "1": 8}
    net.set_bits({"0": 4}, default=32)
    assert net.bits == {"0": 4, "1": 32}
    with pytest.raises(ValueError, match="the model has none"):
        quantize(nn.Linear(4, 2), [4, 32], embedding=True)


def test_tables_that_cannot_be_quantized_stay_float() -> None:
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Embedding(9, 4, max_norm=1.0), nn.Linear(4, 2))
    with pytest.warns(UserWarning, match=r"^0 \(Embedding\), 1 \(Embedding\): "):
        net = quantize(model, [4, 32], embedding=True)
    assert [*net.layers()] == ["2"]
