"""Training strategies: what they do to a batch, and that the configurations make them."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from quantizable import QuantizableClassifier
from quantizable.data import Fake
from quantizable.training.batch_transforms import Adversarial, Mixup, Standard


@pytest.fixture
def module() -> QuantizableClassifier:
    options = {"in_chans": 1, "width": 4}
    return QuantizableClassifier("patch_cnn", num_classes=4, bits=[4, 32], model_options=options, seed=1)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(8, 1, 6, 6), torch.arange(8) % 4


def attach(module: QuantizableClassifier) -> None:
    """A trainer without data, as a data module's std is looked for there."""
    module.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")


def test_an_attack_raises_the_loss_within_its_limit(module, batch) -> None:  # type: ignore[no-untyped-def]
    attach(module)
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    images, labels = Adversarial(eps=0.1, step=0.05)(module, batch, 0)
    assert (images - batch[0]).abs().max() <= 0.1 + 1e-6
    assert torch.equal(labels, batch[1])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert module.network.training
    frozen = module.network.norms()
    for norm in frozen.values():
        norm.eval()
    Adversarial(iterations=1)(module, batch, 1)
    assert module.network.training
    assert not any(norm.training for norm in frozen.values()), "what was frozen stays so"
    module.eval()
    losses = [torch.nn.functional.cross_entropy(module(x), labels) for x in (batch[0], images)]
    assert losses[1] > losses[0]


def test_an_attack_leaves_pixels_legal(module) -> None:  # type: ignore[no-untyped-def]
    module.eval()
    data = SimpleNamespace(datamodule=SimpleNamespace(mean=(0.5,), std=(0.25,)))
    own = {name: getattr(module, name) for name in ("network", "modes", "seed", "global_rank")}
    pixels = torch.rand(8, 1, 6, 6).round(decimals=1)  # some are 0 and some 1
    pixels[0, 0, 0] = 1.3  # outside already
    images, _ = Adversarial(eps=0.2, step=0.1, iterations=3)(
        SimpleNamespace(trainer=data, **own), ((pixels - 0.5) / 0.25, torch.arange(8) % 4), 0
    )
    attacked = images * 0.25 + 0.5
    assert (attacked - pixels).abs().max() <= 0.2 + 1e-6
    assert attacked.min() >= -1e-6
    assert attacked[0, 0, 0].max() <= 1.3 + 1e-6
    assert attacked[1:].max() <= 1 + 1e-6
    assert (attacked[1:] - pixels[1:]).abs().mean() > 0.05


def test_mixup_mixes_labels_as_it_mixes_images(module) -> None:  # type: ignore[no-untyped-def]
    labels = torch.arange(4)
    images = torch.eye(4).view(4, 4, 1, 1)  # image i is the one-hot code of its label
    state = torch.get_rng_state()
    mixed, soft = Mixup(alpha=5.0)(module, (images, labels), 3)
    torch.testing.assert_close(mixed.flatten(1), soft)
    torch.testing.assert_close(soft.sum(1), torch.ones(4))
    assert not torch.equal(soft, torch.eye(4))
    again = Mixup(alpha=5.0)(module, (images, labels), 3)
    assert torch.equal(again[0], mixed)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("strategy", [Standard(), Adversarial(iterations=1), Mixup()])
def test_a_network_trains_under_each(strategy) -> None:  # type: ignore[no-untyped-def]
    options = {"in_chans": 1, "width": 4}
    module = QuantizableClassifier(
        "patch_cnn", num_classes=4, bits=[4, 32], model_options=options, strategy=strategy
    )
    before = module.network.classifier.weight.clone()
    trainer = pl.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(module, Fake(size=16, num_classes=4, in_chans=1, image_size=6, batch_size=8))
    assert not torch.equal(module.network.classifier.weight, before)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="eps=0"):
        Adversarial(eps=0)
    with pytest.raises(ValueError, match="alpha=-1"):
        Mixup(alpha=-1)
