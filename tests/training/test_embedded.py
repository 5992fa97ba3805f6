"""Attacks and mixing of ids: what they do to the output of the embedding, against sums by hand."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from quantizable import QuantizableClassifier
from quantizable.nn.embedded import Embedded, embedding_of
from quantizable.seeds import generator
from quantizable.training.batch_transforms import Adversarial, Mixup, with_noise

IDS = torch.tensor([[2, 3, 0, 0], [4, 5, 6, 7], [3, 0, 0, 0], [7, 6, 2, 0]])
LABELS = torch.tensor([0, 1, 2, 1])
LOADER = DataLoader(TensorDataset(IDS, LABELS), batch_size=4)


class Bag(nn.Module):
    """The sum of the words' vectors, and a classifier of it: linear in what the embedding gives."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 5, padding_idx=0)
        self.classifier = nn.Linear(5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.classifier(self.embedding(ids).sum(1))


@pytest.fixture
def module() -> QuantizableClassifier:
    torch.manual_seed(0)
    module = QuantizableClassifier(Bag(), num_classes=3, bits=[4, 32], seed=1)
    module.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module.network.calibrate([IDS])
    return module


def test_an_attack_is_a_step_along_the_gradient_of_the_embeddings(module) -> None:  # type: ignore[no-untyped-def]
    module.network.set_bits(32)
    attacked, labels = Adversarial(eps=0.5, step=0.3, iterations=1)(module, (IDS, LABELS), 4)
    net, words = module.network.model, (IDS != 0)[..., None].float()
    start = 0.5 * (2 * torch.rand(4, 4, 5, generator=generator("attack", 1, 4, 0)) - 1)
    scale = net.embedding.weight.detach().std() * words
    # the gradient of the loss by hand: (softmax - one hot) W / B, the same at every word
    logits = F.linear(
        (net.embedding.weight[IDS] + scale * start).sum(1), net.classifier.weight, net.classifier.bias
    )
    slope = ((logits.softmax(1) - F.one_hot(LABELS, 3)) @ net.classifier.weight / 4)[:, None] * scale
    change = scale * (start + 0.3 * slope.sign()).clamp(-0.5, 0.5)
    expected = F.linear(
        (net.embedding.weight[IDS] + change).sum(1), net.classifier.weight, net.classifier.bias
    )
    torch.testing.assert_close(attacked(module.network), expected)
    assert torch.equal(labels, LABELS)
    assert F.cross_entropy(expected, LABELS) > F.cross_entropy(module.network(IDS), LABELS)


def test_mixed_texts_are_mixed_embeddings_as_long_as_the_longer(module) -> None:  # type: ignore[no-untyped-def]
    with torch.no_grad():
        module.network.model.embedding.weight[0] = 9.0  # padding is no word, whatever its row holds
    mixed, soft = Mixup(alpha=5.0)(module, (IDS, LABELS), 3)
    assert mixed.args[0].tolist() == [IDS[3].tolist(), IDS[1].tolist(), IDS[1].tolist(), IDS[3].tolist()]
    weight = soft[0, 0].item()  # text 0 of class 0 is mixed with text 3 of class 1
    assert 0 < weight < 1
    torch.testing.assert_close(soft[2], torch.tensor([0, 1 - weight, weight]))
    net = module.network.model
    sums = (net.embedding.weight[IDS] * (IDS != 0)[..., None]).sum(1)
    expected = F.linear(
        weight * sums + (1 - weight) * sums.roll(1, 0), net.classifier.weight, net.classifier.bias
    )
    module.network.set_bits(32)
    torch.testing.assert_close(mixed(module.network), expected)


def test_nothing_stays_behind_in_the_network(module) -> None:  # type: ignore[no-untyped-def]
    module.network.set_bits(32)
    before, state = module.network(IDS), {key: value.clone() for key, value in module.state_dict().items()}
    for strategy in (Adversarial(iterations=2), Mixup()):
        batch = strategy(module, (IDS, LABELS), 0)
        batch[0](module.network)
        assert batch[0].to(torch.device("cpu")).change is batch[0].change
    assert torch.equal(module.network(IDS), before)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("strategy", [Adversarial(eps=0.3, step=0.2, iterations=1), Mixup()])
@pytest.mark.parametrize("model", ["lstm", "gru", "text_transformer"])
def test_a_network_of_words_trains_under_each(model: str, strategy) -> None:  # type: ignore[no-untyped-def]
    options = {"vocabulary_size": 8, "embedding_dim": 8}
    module = QuantizableClassifier(
        model, num_classes=3, bits=[4, 32], model_options=options, strategy=strategy
    )
    before = module.network.model.embedding.weight.detach().clone()
    trainer = pl.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(module, LOADER)
    assert not torch.equal(module.network.model.embedding.weight, before)
    assert not module.network.model.embedding._forward_hooks


def test_every_mode_of_a_step_sees_the_change(module) -> None:  # type: ignore[no-untyped-def]
    seen = []
    batch = Embedded((IDS,), change=lambda layer, output: seen.append(output.shape) or 0 * output), LABELS
    module.strategy = lambda *_: batch
    trainer = pl.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(module, LOADER)
    assert seen == [(4, 4, 5)] * 2  # modes 32 and 4


def test_a_network_without_one_embedding_is_refused_in_one_line() -> None:
    two = nn.ModuleList([nn.Embedding(3, 2), nn.Embedding(3, 2)])
    for network, message in ((nn.Linear(2, 2), "0 embeddings"), (two, "2 embeddings")):
        with pytest.raises(ValueError, match=message):
            embedding_of(network)


def test_an_embedding_that_is_not_called_is_said(module) -> None:  # type: ignore[no-untyped-def]
    silent = Bag()
    silent.forward = lambda ids: silent.classifier(silent.embedding.weight[ids].sum(1))
    with pytest.raises(ValueError, match=r"not called.*trainer\.compile=false"):
        Embedded((IDS,), change=lambda layer, output: output)(silent)


def test_noise_on_ids_is_refused(module) -> None:  # type: ignore[no-untyped-def]
    assert with_noise(module, IDS, 0.0, 0) is IDS
    with pytest.raises(ValueError, match="noise_sigma adds noise to images"):
        with_noise(module, IDS, 0.1, 0)
