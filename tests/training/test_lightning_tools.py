"""What a Lightning user expects of a module: tuners, hparams, load_from_checkpoint, the summary, the CLI."""

import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder, ModelPruning, ModelSummary
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.utilities.model_summary import ModelSummary as Summary
from torch import Tensor, nn
from torch.utils.data import DataLoader

import quantizable
from quantizable import MultiModeModule, QuantizableClassifier, quantize
from quantizable.data import Fake
from quantizable.training.batch_transforms import Mixup
from quantizable.training.objectives import Recursive
from quantizable.training.schemes import Scheme
from tests.tiny import REPOSITORY, TinyCNN, batches, loader, same, trainer

CONFIG = """
model:
  model: tiny_cnn
  num_classes: 10
  bits: [2, w4a8, 32]
  optimizer: {lr: 0.01}
  clip_norm: 1.0
data:
  class_path: quantizable.data.Fake
  init_args: {image_size: 8, size: 64, batch_size: 8}
trainer: {max_epochs: 1, accelerator: cpu, logger: false, enable_progress_bar: false}
"""


def classifier(bits: tuple[Any, ...] = (2, 32), **options: Any) -> QuantizableClassifier:
    return QuantizableClassifier("tiny_cnn", 10, bits, **options)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuners keep their checkpoints in the working directory."""
    monkeypatch.chdir(tmp_path)


# -- learning rate and batch size -------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"scheme": "double_rounding"}])
def test_lr_find_trains_at_the_rates_it_reports_and_leaves_no_trace(options: dict[str, Any]) -> None:
    used: list[float] = []

    class Notes(QuantizableClassifier):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            used.append(optimizer.param_groups[0]["lr"])

    module = Notes("tiny_cnn", 10, (2, 32), optimizer={"quantizer_lr": 0.5}, **options)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    run = trainer(max_epochs=4)
    search: Any = Tuner(run).lr_find(module, loader(8), num_training=20)
    assert used == search.results["lr"], "each step of the optimizer, at the rate of its loss"
    # min_lr = 1e-8, max_lr = 1: the rate grows by the same factor each step
    factors = [b / a for a, b in itertools.pairwise(used[1:])]
    assert factors == pytest.approx([(1 / 1e-8) ** (1 / 20)] * 18)
    assert all(torch.tensor(search.results["loss"]).isfinite())
    assert module.lr == search.suggestion()
    assert same(before, module.state_dict())
    run.fit(module, loader(2))
    rates = {group["name"]: group["initial_lr"] for group in run.optimizers[0].param_groups}
    assert rates == {"weights": module.lr, "norms": module.lr, "quantizers": module.lr / 2}
    assert module.hparams["optimizer"]["lr"] == module.lr


def test_the_callback_sets_rate_schedule_and_first_step_sizes_of_the_fit() -> None:
    finder, module = LearningRateFinder(num_training_steps=15), classifier(optimizer={"quantizer_lr": 0.5})
    run = trainer(max_epochs=2, callbacks=[finder])
    run.fit(module, loader(8))
    assert finder.optimal_lr is not None
    found = finder.optimal_lr.suggestion()
    groups = run.optimizers[0].param_groups
    assert [group["initial_lr"] for group in groups] == [found, found, found / 2]
    assert all(group["lr"] == pytest.approx(0, abs=1e-12) for group in groups), "its own cosine has ended"
    assert run.global_step == 16


def test_a_rate_in_a_users_own_optimizer_is_found_too() -> None:
    class Own(QuantizableClassifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
            decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "epoch"}}

    class Fixed(QuantizableClassifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.3)

    for kind, kept in ((Own, 0.25), (Fixed, 1.0)):
        finder = LearningRateFinder(num_training_steps=15)
        run = trainer(max_epochs=2, callbacks=[finder])
        run.fit(kind("tiny_cnn", 10, (2, 32)), loader(8))
        assert finder.optimal_lr is not None
        assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(finder.optimal_lr.suggestion() * kept)


def test_a_rate_at_which_training_diverges_ends_the_search_and_not_the_program() -> None:
    class Diverges(QuantizableClassifier):
        def loss(self, output: Tensor, batch: Any) -> Tensor:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            return super().loss(output, batch) * (float("nan") if rate > 1e-3 else 1.0)

    module = Diverges("tiny_cnn", 10, (2, 32))
    search: Any = Tuner(trainer(max_epochs=9)).lr_find(module, loader(8), num_training=40)
    assert max(search.results["lr"]) < 1e-2
    assert module.lr <= 1e-3


@pytest.mark.parametrize("callback", [False, True])
def test_the_batch_size_of_a_data_module_is_scaled_up_to_the_set(callback: bool) -> None:
    data, module = Fake(image_size=8, size=64, batch_size=4), classifier(accumulate=2)
    run = trainer(max_epochs=2, callbacks=[BatchSizeFinder(init_val=2, max_trials=4)] if callback else [])
    if not callback:
        assert Tuner(run).scale_batch_size(module, datamodule=data, init_val=2, max_trials=4) == 16
    run.fit(module, datamodule=data)
    assert data.batch_size == 16
    assert run.global_step == 2 * 2, "48 images are 3 batches, 2 steps"
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9), "the schedule knows"
    assert len(data.train_dataloader().dataset) == 48, "16 are held out"


def test_no_batch_is_larger_than_the_set() -> None:
    data = Fake(image_size=8, size=64, batch_size=4)
    found = Tuner(trainer(max_epochs=1)).scale_batch_size(classifier(), datamodule=data, init_val=32)
    assert found == 64, "the first that holds all 48"


# -- settings and checkpoints -----------------------------------------------------------------------


def saved(module: MultiModeModule, path: Path = Path("module.ckpt")) -> Path:
    run = trainer(max_epochs=1)
    run.fit(module, loader(2))
    run.save_checkpoint(path)
    return path


def test_a_logger_shows_the_settings(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    trainer(max_epochs=1, logger=logger).fit(classifier(optimizer={"lr": 0.25}), loader(1))
    assert logger.hparams["optimizer"]["lr"] == 0.25
    events = EventAccumulator(logger.log_dir).Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for word in (b"optimizer/lr", b"tiny_cnn", b"bits", b"scheme"):
        assert word in content


def test_load_from_checkpoint_needs_nothing_but_the_path() -> None:
    settings: dict[str, Any] = {
        "optimizer": {"lr": 0.25, "name": "adamw"}, "clip_norm": 2.0, "accumulate": 3, "scheme": "sandwich",
        "label_smoothing": 0.1, "quantizer": "lsq_plus", "quantize_options": {"first_last": "mode"},
        "seed": 5,
    }  # fmt: skip
    module = classifier((2, "w4a8", 32), **settings)
    again = QuantizableClassifier.load_from_checkpoint(saved(module))
    assert same(module.state_dict(), again.state_dict())
    assert dict(again.hparams) == dict(module.hparams)
    assert again.scheme == module.scheme
    assert again.optimizer == module.optimizer
    assert (again.accumulate, again.clip_norm, again.label_smoothing, again.seed) == (3, 2.0, 0.1, 5)
    for mode in module.modes:
        x = batches(1)[0][0]
        with module.eval().at_bits(mode), again.eval().at_bits(mode):
            assert torch.equal(module(x), again(x))
    changed = QuantizableClassifier.load_from_checkpoint("module.ckpt", optimizer={"lr": 0.5}, clip_norm=None)
    assert (changed.lr, changed.clip_norm) == (0.5, None)
    trainer(max_epochs=1).fit(changed, loader(2))


def test_objects_of_the_users_own_are_given_again() -> None:
    scheme = Scheme(objective=Recursive(alpha=0.3))
    module = QuantizableClassifier(TinyCNN(), 10, (2, 32), scheme=scheme, strategy=Mixup(0.1))
    assert module.hparams["model"] == "<TinyCNN>"
    path = saved(module)
    with pytest.raises(
        ValueError, match=r"model=<TinyCNN>.*path, scheme=\.\.\., strategy=\.\.\., model=\.\.\."
    ):
        QuantizableClassifier.load_from_checkpoint(path)
    given: Any = {"scheme": scheme, "strategy": None}
    for model in (TinyCNN(), quantize(TinyCNN(), [2, 32]), "tiny_cnn"):
        again = QuantizableClassifier.load_from_checkpoint(path, model=model, **given)
        assert same(module.state_dict(), again.state_dict())


class Regressor(MultiModeModule):
    """A task of the user's own, which saves all its arguments as Lightning's documentation says."""

    def __init__(self, network: Any, channels: int = 3, extra: Any = None) -> None:
        super().__init__(network, optimizer={"lr": 0.125})
        self.save_hyperparameters(ignore="network")
        self.channels = channels

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        return F.mse_loss(output[:, 0], self.targets(batch).float())


def test_checkpoints_from_before_settings_were_kept() -> None:
    for model, given in (("tiny_cnn", {}), (TinyCNN(), {"model": TinyCNN()})):
        path = saved(QuantizableClassifier(model, 10, (2, "w4a8", 32)))
        contents = torch.load(path, weights_only=True)
        del contents["hyper_parameters"]
        torch.save(contents, path)
        again = QuantizableClassifier.load_from_checkpoint(path, **given)
        assert same(contents["state_dict"], again.state_dict())
    with pytest.raises(ValueError, match=r"a module of your own.*model=\.\.\."):
        QuantizableClassifier.load_from_checkpoint(path)


def test_a_task_of_the_users_own_keeps_its_arguments_and_no_object() -> None:
    path = saved(Regressor(quantize(TinyCNN(1), [2, 32]), channels=7, extra=nn.ReLU()))
    kept = torch.load(path, weights_only=True)["hyper_parameters"]
    assert (kept["channels"], kept["extra"], kept["optimizer"]["lr"]) == (7, "<ReLU>", 0.125)
    with pytest.raises(ValueError, match=r"extra=<ReLU>"):
        Regressor.load_from_checkpoint(path, network=quantize(TinyCNN(1), [2, 32]))
    again = Regressor.load_from_checkpoint(path, network=quantize(TinyCNN(1), [2, 32]), extra=None)
    assert again.channels == 7
    quantizable.load(path, TinyCNN(1))


def test_no_code_in_a_checkpoint_is_run() -> None:
    path = saved(classifier())
    contents = torch.load(path, weights_only=True)
    torch.save({**contents, "hyper_parameters": {"model": Runs()}}, path)
    with pytest.raises(ValueError, match="holds code or objects"):
        QuantizableClassifier.load_from_checkpoint(path)
    assert not Path("ran").exists()
    with pytest.raises(ValueError, match="would run code"):
        QuantizableClassifier.load_from_checkpoint(path, weights_only=False)
    contents["hyper_parameters"] |= {"_instantiator": "os.system", "_class_path": "os.system"}
    torch.save(contents, path)
    with pytest.raises(ValueError, match=r"instantiator .os.system. .* blocked"):
        QuantizableClassifier.load_from_checkpoint(path)


class Runs:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


# -- summary ----------------------------------------------------------------------------------------

# TinyCNN on 8 x 8 pixels, multiply-adds by hand: 4 * 3 * 9 * 16 + 6 * 4 * 9 * 16 + 6 * 10; 2 operations each
TINY_FLOPS = 2 * (4 * 3 * 9 * 16 + 6 * 4 * 9 * 16 + 6 * 10)


class Seen(ModelSummary):
    """Keeps the summary instead of printing it."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        summary: Any = self._summary(trainer, pl_module)
        self.flops = summary.total_flops


class Own(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return loader(2)


@pytest.mark.filterwarnings("error:used at")
@pytest.mark.parametrize("data", [loader(2), Own(), Fake(image_size=8, size=64, batch_size=8)])
@pytest.mark.parametrize("bits", [(2, 4), (2, 32)])
def test_the_summary_counts_the_operations_of_the_layers(data: Any, bits: Any) -> None:
    seen = Seen()
    trainer(max_epochs=1, callbacks=[seen], limit_train_batches=1).fit(classifier(bits), data)
    assert seen.flops == TINY_FLOPS


def test_the_summary_without_data() -> None:
    """ResNet-20 on CIFAR has 40.55 million multiply-adds (He et al., CVPR 2016, count them so)."""
    module = QuantizableClassifier("resnet20", 10, (2, 32))
    assert Summary(module).total_flops == pytest.approx(2 * 40.55e6, rel=1e-3)
    assert classifier().example_input_array is None
    module = classifier()
    module.example_input_array = torch.zeros(1, 3, 8, 8)
    assert Summary(module).total_flops == TINY_FLOPS


# -- batches that are no pairs ----------------------------------------------------------------------


class Dictionaries(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.images, self.labels = (torch.cat(part) for part in zip(*batches(2), strict=True))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index], "label": self.labels[index]}


class ByName(QuantizableClassifier):
    def inputs(self, batch: Any) -> Tensor:
        return batch["image"]

    def targets(self, batch: Any) -> Tensor:
        return batch["label"]


def test_batches_by_name_train_and_are_measured_as_pairs_are() -> None:
    measured = []
    for kind, data in (
        (QuantizableClassifier, loader(2)),
        (ByName, DataLoader(Dictionaries(), batch_size=8)),
    ):
        torch.manual_seed(0)
        module, run = kind("tiny_cnn", 10, (2, 32)), trainer(max_epochs=2)
        run.fit(module, data, data)
        measured.append((run.callback_metrics, run.test(module, data, verbose=False)))
    assert measured[0] == measured[1]


def test_batches_by_name_say_what_to_define() -> None:
    data = DataLoader(Dictionaries(), batch_size=8)

    class Half(QuantizableClassifier):
        def inputs(self, batch: Any) -> Tensor:
            return batch["image"]

        def loss(self, output: Tensor, batch: Any) -> Tensor:
            return F.cross_entropy(output, batch["label"])

    what = r"a dict of image, label.*QuantizableClassifier must define targets\(batch\)"
    with pytest.raises(ValueError, match=what):  # its first entry is the input
        trainer(max_epochs=1).fit(classifier(), data)
    with pytest.raises(ValueError, match=r"a dict of image, label.*Half must define targets\(batch\)"):
        trainer(max_epochs=1).fit(Half("tiny_cnn", 10, (2, 32)), data, data)
    with pytest.raises(ValueError, match=r"mixing needs batches of \(inputs, labels\)"):
        trainer(max_epochs=1).fit(ByName("tiny_cnn", 10, (2, 32), strategy=Mixup()), data)


# -- the CLI and the unified package ----------------------------------------------------------------


def test_the_command_line_of_lightning(tmp_path: Path) -> None:
    pytest.importorskip("jsonargparse", reason="LightningCLI needs jsonargparse[signatures]")
    from pytorch_lightning.cli import LightningCLI

    from quantizable.data import ImageDataModule

    (tmp_path / "config.yaml").write_text(CONFIG)
    words = [
        "fit",
        "--config",
        "config.yaml",
        "--model.optimizer.lr",
        "0.02",
        "--trainer.default_root_dir",
        "x",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on loggers and loaders, if it has any
        cli = LightningCLI(QuantizableClassifier, ImageDataModule, subclass_mode_data=True, args=words)
    assert [mode.name for mode in cli.model.modes] == ["2", "w4a8", "32"]
    assert (cli.model.clip_norm, cli.model.lr) == (1.0, 0.02)
    callback: Any = cli.trainer.checkpoint_callback
    again = QuantizableClassifier.load_from_checkpoint(callback.best_model_path)
    assert same(cli.model.state_dict(), again.state_dict())


@pytest.mark.slow
def test_the_unified_package_trains_too(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="the unified package is not installed")
    script = """
import lightning as L
from lightning.pytorch.tuner import Tuner
from quantizable import QuantizableClassifier
from quantizable.data import Fake
module, data = QuantizableClassifier("resnet20", 10, [2, 32]), Fake(image_size=8, size=64, batch_size=8)
options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
trainer = L.Trainer(max_epochs=1, **options)
Tuner(trainer).lr_find(module, datamodule=data, num_training=4)
trainer.fit(module, data)
QuantizableClassifier.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
assert len(trainer.predict(module, data)) == 8
import sys
assert "pytorch_lightning" not in sys.modules
"""
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# -- what Lightning leaves behind, or does on its own -------------------------------------------------


def test_a_search_that_only_validates_leaves_a_module_that_trains() -> None:
    """Lightning leaves it in evaluation mode, where norms that saw nothing do not see the batch."""
    module, data = classifier(), Fake(image_size=8, size=64, batch_size=8)
    Tuner(trainer()).scale_batch_size(module, datamodule=data, method="validate", max_trials=2)
    assert not any(part.training for part in module.modules())
    trainer(max_steps=2).fit(module, data)
    assert all(part.training for part in module.modules())
    norm = module.network.model.stem[1]
    assert int(norm.norms["32"].num_batches_tracked) == 2


def test_a_part_that_is_left_in_evaluation_mode_stays_so() -> None:
    module = classifier()
    module.network.model.body.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning says so
        trainer(max_steps=1).fit(module, loader(1))
    assert not module.network.model.body[1].training
    assert module.network.model.stem[1].training


def test_a_network_as_load_gives_it_is_trained_unless_its_norms_were_frozen(tmp_path: Path) -> None:
    trainer(max_steps=1).fit(first := classifier(), loader(1))
    first.trainer.save_checkpoint(tmp_path / "one.ckpt")
    for frozen in (False, True):
        network = quantizable.load(tmp_path / "one.ckpt")
        assert not any(part.training for part in network.modules())
        if frozen:
            network.train()
            for norm in network.norms().values():
                norm.eval()
        before = {name: value.clone() for name, value in network.named_buffers() if "running_mean" in name}
        assert before
        trainer(max_steps=1).fit(QuantizableClassifier(network, 10), loader(1))
        assert network.training
        held = {name: torch.equal(before[name], network.get_buffer(name)) for name in before}
        assert set(held.values()) == {frozen}, held


def test_without_an_optimizer_a_fit_changes_no_weight() -> None:
    class Nothing(QuantizableClassifier):
        def configure_optimizers(self) -> Any:
            return None

    module = Nothing("tiny_cnn", 10, (2, 32))
    before = {name: value.clone() for name, value in module.network.named_parameters()}
    with pytest.warns(UserWarning, match="this fit will run with no optimizer"):
        trainer(max_epochs=1).fit(module, loader(2))
    trained = [
        name for name, value in module.network.named_parameters() if not torch.equal(before[name], value)
    ]
    assert all("input_quantizer" in name for name in trained), "step sizes alone, by calibration"


def test_a_schedule_of_accumulation_says_what_to_write() -> None:
    callbacks = [pl.callbacks.GradientAccumulationScheduler({0: 2})]
    with pytest.raises(ValueError, match=r"accumulate by the module: accumulate=2, not"):
        trainer(max_epochs=1, callbacks=callbacks).fit(classifier(), loader(2))


def test_overfit_batches_repeats_the_same_images() -> None:
    seen: list[list[Tensor]] = []

    class Notes(QuantizableClassifier):
        def on_train_epoch_start(self) -> None:
            seen.append([])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen[-1].append(batch[0].clone())
            return super().training_step(batch, batch_idx)

    data = Fake(image_size=8, size=64, batch_size=8, val_size=16)
    run = trainer(max_epochs=3, overfit_batches=2)
    run.fit(Notes("tiny_cnn", 10, (2, 32)), data)
    assert [len(epoch) for epoch in seen] == [2, 2, 2]
    first = next(iter(Fake(image_size=8, size=64, batch_size=8, val_size=16).train_dataloader()))[0]
    for epoch in seen:
        torch.testing.assert_close(epoch[0], first)
        torch.testing.assert_close(epoch[1], seen[0][1])


def test_pruned_weights_are_zero_in_a_low_mode_too() -> None:
    """Lightning's callback halves the weights of the layers named, counted over all of them."""
    module = classifier()
    named = [(layer, "weight") for layer in module.network.layers().values()]
    pruning = ModelPruning("l1_unstructured", parameters_to_prune=named, amount=0.5)
    trainer(max_epochs=1, callbacks=[pruning]).fit(module, loader())
    module.network.set_bits(2)
    zeros = [layer.weight == 0 for layer, _ in named]
    assert torch.cat([zero.flatten() for zero in zeros]).float().mean() == pytest.approx(0.5, abs=0.01)
    for (layer, _), zero in zip(named, zeros, strict=True):
        assert not layer.weight_quantizer(layer.weight)[zero].any()
