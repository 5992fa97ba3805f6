"""Models that read words: padding changes no answer, in no mode."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from quantizable import QuantizableNetwork, quantize
from quantizable.interface.choices import TEXT_MODELS as NAMES
from quantizable.models.create import create_model
from quantizable.models.text import TEXT_MODELS, positions

SIZES = {"lstm": 50, "gru": 75, "text_transformer": 128}
LENGTHS = (5, 1, 3, 8)


@pytest.fixture
def ids() -> Tensor:
    """Four texts of unequal lengths."""
    draw = torch.Generator().manual_seed(0)
    texts = torch.randint(1, 30, (4, 8), generator=draw)
    return texts * (torch.arange(8) < torch.tensor(LENGTHS)[:, None])


def network(name: str, ids: Tensor, **options: object) -> QuantizableNetwork:
    pool = {} if name == "text_transformer" else {"pool": "last"}
    model = create_model(name, 3, vocabulary_size=30, **pool, **options)
    with torch.no_grad():
        model.embedding.weight.div_(model.embedding.weight.std())  # so that every word has its say
    net = quantize(model, [3, 8, 32], attention=name == "text_transformer").eval()
    net.calibrate([ids])
    return net


def test_names_and_sizes() -> None:
    assert tuple(TEXT_MODELS) == NAMES
    for name, width in SIZES.items():
        model = create_model(name, 2, vocabulary_size=30)
        assert model.embedding.weight.shape == (30, 128)
        assert model.embedding.padding_idx == 0
        assert model.classifier.weight.shape == (2, width)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", [3, 8, 32])
def test_padding_changes_no_answer(name: str, mode: int, ids: Tensor) -> None:
    net = network(name, ids)
    net.set_bits(mode)
    with torch.no_grad():
        together = net(ids)
        padded = net(nn.functional.pad(ids, (0, 9)))
        alone = torch.cat([net(text[None, :length]) for text, length in zip(ids, LENGTHS, strict=True)])
    assert together.std() > 0
    # a sum in another order may move a code; a word more would move an answer by tenths
    torch.testing.assert_close(padded, together, atol=2e-3, rtol=0)
    torch.testing.assert_close(alone, together, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("mode", [3, 32])
def test_padded_texts_get_the_answers_of_packed_ones(name: str, mode: int, ids: Tensor) -> None:
    net = network(name, ids)
    net.set_bits(mode)
    model = net.model
    packed = pack_padded_sequence(
        model.embedding(ids), torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )
    with torch.no_grad():
        _, state = model.rnn(packed)
        expected = model.classifier((state[0] if name == "lstm" else state)[-1])
        torch.testing.assert_close(net(ids), expected, atol=1e-5, rtol=1e-5)


def test_the_mean_is_over_words_alone(ids: Tensor) -> None:
    model = create_model("lstm", 3, vocabulary_size=30, pool="mean").eval()
    states, _ = model.rnn(model.embedding(ids))
    by_hand = torch.stack([row[:length].mean(0) for row, length in zip(states, LENGTHS, strict=True)])
    torch.testing.assert_close(model(ids), model.classifier(by_hand))


@pytest.mark.parametrize("name", NAMES)
def test_a_text_of_padding_alone_has_a_finite_answer_and_gradient(name: str) -> None:
    model = create_model(name, 3, vocabulary_size=30)
    model(torch.zeros(2, 4, dtype=torch.int64)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_positions_are_those_of_the_paper() -> None:
    found = positions(7, 8)
    for place in (0, 3, 6):
        for i in range(4):
            angle = torch.tensor(place / 10000 ** (2 * i / 8))
            torch.testing.assert_close(
                found[place, 2 * i : 2 * i + 2], torch.stack([angle.sin(), angle.cos()])
            )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lstm", {}, "'lstm' reads words: give vocabulary_size"),
        ("gru", {"vocabulary_size": 9, "pretrained": True}, "no published weights of 'gru'"),
        ("gru", {"vocabulary_size": 9, "cifar_stem": True}, "has no stem"),
        ("gru", {"vocabulary_size": 9, "pool": "max"}, "pool='max'; give 'last' or 'mean'"),
        ("text_transformer", {"vocabulary_size": 9, "heads": 3}, "multiple of 2 \\* heads"),
        ("lstm", {"vocabulary_size": 9, "width": 3}, "'lstm' cannot be built with"),
        ("resnet20", {"vocabulary_size": 9}, "'resnet20' cannot be built with"),
        ("lstn", {}, "did you mean lstm"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(name, 2, **options)
