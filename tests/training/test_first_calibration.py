"""``fit`` takes step sizes from training batches, as training sees them, whatever ran before it."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from quantizable import QuantizableClassifier
from tests.tiny import TinyCNN, batches, loader, same, trainer

uncalibrated = pytest.mark.filterwarnings("ignore:used at")


def classifier(bits: tuple[Any, ...] = (2, 4), **options: Any) -> QuantizableClassifier:
    torch.manual_seed(0)
    return QuantizableClassifier(TinyCNN(), 10, bits, **options)


def step_sizes(module: QuantizableClassifier) -> dict[str, Tensor]:
    return {
        name: value.clone()
        for name, value in module.network.state_dict().items()
        if "input_quantizer" in name
    }


class Stops(pl.Callback):
    """Keeps the step sizes that training starts from."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, QuantizableClassifier)
        self.sizes = step_sizes(module)


def first_sizes(module: QuantizableClassifier, *data: Any, **options: Any) -> dict[str, Tensor]:
    stops = Stops()
    trainer(max_epochs=1, callbacks=[stops], **options).fit(module, *data)
    return stops.sizes


@uncalibrated
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("before", ["zeros", "rand", "validate", "sanity"])
def test_only_training_batches_set_step_sizes(before: str, training: bool) -> None:
    expected = first_sizes(classifier(), loader())
    module, other, options = classifier(), loader(2), {}
    other.dataset.tensors[0].mul_(7)
    if before == "validate":
        trainer().validate(module, other, verbose=False)
    elif before != "sanity":
        statistics = {name: value.clone() for name, value in module.state_dict().items() if "running" in name}
        module.train(training)
        with module.at_bits(4):
            module(getattr(torch, before)(2, 3, 8, 8))
        module.train()
        module.load_state_dict(statistics, strict=False)
    else:
        options = {"num_sanity_val_steps": 2}
    data = (loader(), other) if before == "sanity" else (loader(),)
    assert same(first_sizes(module, *data, **options), expected)


def test_calibrate_before_fit_is_kept() -> None:
    module = classifier()
    module.network.calibrate([x * 3 for x, _ in batches()])
    before = step_sizes(module)
    assert same(first_sizes(module, loader()), before)


class Bytes(pl.LightningDataModule):
    """Images as bytes, normalized by a hook: before or after they go to the device."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        setattr(self, hook, self.normalize)

    def normalize(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0].float() / 32 - 4, batch[1]

    def train_dataloader(self) -> DataLoader:
        images, labels = loader().dataset.tensors
        return DataLoader(TensorDataset(((images + 4) * 32).to(torch.uint8), labels), batch_size=8)


HOOKS = ["on_before_batch_transfer", "on_after_batch_transfer"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("owner", ["data", "module"])
def test_the_users_hooks_run_before_calibration_looks(hook: str, owner: str) -> None:
    data = type("Data", (Bytes,), {hook: Bytes.normalize})
    if owner == "data":
        module = classifier()
        stops = Stops()
        bytes_module = data.__new__(data)
        pl.LightningDataModule.__init__(bytes_module)
        trainer(max_epochs=1, callbacks=[stops]).fit(module, datamodule=bytes_module)
        sizes = stops.sizes
    else:
        own = type("Own", (QuantizableClassifier,), {hook: Bytes.normalize})
        torch.manual_seed(0)
        module = own(TinyCNN(), 10, (2, 4))
        sizes = first_sizes(module, Bytes("unused").train_dataloader())
    images, labels = Bytes("unused").train_dataloader().dataset.tensors
    plain = DataLoader(TensorDataset(images.float() / 32 - 4, labels), batch_size=8)
    assert same(sizes, first_sizes(classifier(), plain))
    first = "network.model.stem.0.input_quantizer.levels.8.signed".removeprefix("network.")
    assert sizes[first], "images have negative values once they are normalized"


class Pairs(QuantizableClassifier):
    """A batch is a dictionary of two loaders' batches."""

    def inputs(self, batch: Any) -> Tensor:
        return batch["a"][0]

    def loss(self, output: Any, batch: Any) -> Tensor:
        return torch.nn.functional.cross_entropy(output, batch["a"][1])


def test_a_dictionary_of_loaders_is_calibrated_on() -> None:
    torch.manual_seed(0)
    module = Pairs(TinyCNN(), 10, (2, 4))
    module.training_step = lambda *_, **__: None  # calibration alone
    sizes = first_sizes(module, {"a": loader(), "b": loader(2)})
    assert same(sizes, first_sizes(classifier(), loader()))


def test_fit_calibrates_the_mode_that_a_checkpoint_lacks_and_no_other() -> None:
    trained = classifier((2, 8, 32))
    trainer(max_epochs=1).fit(trained, loader())
    learned = step_sizes(trained)
    module = classifier((2, 3, 8, 32))
    with pytest.warns(UserWarning, match="lacks mode 3"):
        module.load_state_dict(trained.state_dict(), strict=False)
    sizes = first_sizes(module, loader())
    assert same(learned, {name: sizes[name] for name in learned})
    new = sizes.keys() - learned.keys()
    assert {name for name in new if name.endswith("3.scale")}
    assert all(sizes[name] != 1 for name in new if name.endswith("3.scale"))
    assert all(sizes[name] for name in new if name.endswith("initialised"))
