"""Schedulers step as in a module of Lightning's automatic optimization, and schedules end with the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, IterableDataset

from quantizable import MultiModeModule, QuantizableClassifier, quantize
from quantizable.training.optim import OptimizerConfig
from tests.tiny import TinyCNN, batches, loader, trainer

Form = Callable[[SGD], Any]


class Rates(Callback):
    """The learning rates of the first optimizer, batch by batch and at the end."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, run: pl.Trainer, *_: Any) -> None:
        self.seen.append(run.optimizers[0].param_groups[0]["lr"])

    def on_train_end(self, run: pl.Trainer, *_: Any) -> None:
        self.on_train_batch_start(run)


class Automatic(pl.LightningModule):
    """The reference, stepped by Lightning: a weight without meaning, and a metric that never improves."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.weight, self.form = nn.Parameter(torch.ones(1)), form

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.log("stuck", 1.0, on_step=False, on_epoch=True)
        self.log("now", 1.0)
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/stuck", 1.0)

    def configure_optimizers(self) -> Any:
        return self.form(SGD(self.parameters(), lr=1.0))


class Own(MultiModeModule):
    """A user's module with an optimizer and schedulers of its own."""

    def __init__(self, form: Form, **options: Any) -> None:
        super().__init__(quantize(TinyCNN(), [4, 32]), **options)
        self.form = form

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        self.log("stuck", 1.0, on_step=False, on_epoch=True)
        self.log("now", 1.0)
        return 1e-3 * output.square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/stuck", 1.0)

    def configure_optimizers(self) -> Any:
        return self.form(SGD(self.parameters(), lr=1.0))


def rates(module: pl.LightningModule, data: Any = None, **options: Any) -> list[float]:
    seen = Rates()
    run = trainer(**{"max_epochs": 3, "callbacks": [seen], **options})
    run.fit(module, loader(5, 2) if data is None else data, loader(1, 2))
    return seen.seen


def plateau(optimizer: SGD, **options: Any) -> dict[str, Any]:
    return {"scheduler": ReduceLROnPlateau(optimizer, factor=0.5, patience=0), "monitor": "stuck", **options}


FORMS: dict[str, Form] = {
    "optimizer": lambda o: o,
    "list of an optimizer": lambda o: [o],
    "two lists": lambda o: ([o], [StepLR(o, 1, 0.1)]),
    "a list and one scheduler": lambda o: ([o], StepLR(o, 1, 0.1)),
    "two lists of a dictionary": lambda o: ([o], [{"scheduler": StepLR(o, 1, 0.5), "interval": "step"}]),
    "dictionary": lambda o: {"optimizer": o, "lr_scheduler": StepLR(o, 1, 0.1)},
    "dictionaries": lambda o: {
        "optimizer": o,
        "lr_scheduler": {"scheduler": StepLR(o, 2, 0.1), "name": "rate"},
    },
    "every second step": lambda o: {
        "optimizer": o,
        "lr_scheduler": {"scheduler": StepLR(o, 1, 0.5), "interval": "step", "frequency": 2},
    },
    "every second epoch": lambda o: {
        "optimizer": o,
        "lr_scheduler": {"scheduler": StepLR(o, 1, 0.1), "frequency": 2},
    },
    "two schedulers": lambda o: (
        [o],
        [{"scheduler": StepLR(o, 1, 0.5)}, {"scheduler": ExponentialLR(o, 0.9), "interval": "step"}],
    ),
    "plateau of the training loss": lambda o: {"optimizer": o, "lr_scheduler": plateau(o)},
    "plateau of validation": lambda o: {"optimizer": o, "lr_scheduler": plateau(o, monitor="val/stuck")},
    "plateau, monitor outside": lambda o: {
        "optimizer": o,
        "lr_scheduler": ReduceLROnPlateau(o, factor=0.5, patience=0),
        "monitor": "stuck",
    },
    "plateau of steps": lambda o: {
        "optimizer": o,
        "lr_scheduler": plateau(o, monitor="now", interval="step"),
    },
    "plateau without its metric": lambda o: {
        "optimizer": o,
        "lr_scheduler": plateau(o, monitor="absent", strict=False),
    },
    "list of a dictionary": lambda o: [{"optimizer": o, "lr_scheduler": plateau(o)}],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_a_users_scheduler_steps_as_lightning_steps_it(form: str) -> None:
    expected = rates(Automatic(FORMS[form]))
    assert rates(Own(FORMS[form])) == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) > 1 or form in (
        "optimizer",
        "list of an optimizer",
        "plateau without its metric",
    )


@pytest.mark.filterwarnings("ignore")
def test_steps_are_those_of_the_optimizer_where_batches_are_accumulated() -> None:
    form: Form = lambda o: ([o], [{"scheduler": StepLR(o, 1, 0.5), "interval": "step"}])  # noqa: E731
    assert rates(Own(form, accumulate=2), max_epochs=1) == [1, 1, 0.5, 0.5, 0.25, 0.125]


def test_several_optimizers_step_together() -> None:
    class Two(Own):
        def configure_optimizers(self) -> Any:
            head = [*self.network.model.fc.parameters()]
            body = [p for p in self.parameters() if all(p is not q for q in head)]
            first, second = SGD(body, lr=0.1), SGD(head, lr=0.5)
            return [
                {"optimizer": first, "lr_scheduler": {"scheduler": StepLR(first, 1, 0.1)}},
                {"optimizer": second, "lr_scheduler": plateau(second)},
            ]

    class One(Own):
        def configure_optimizers(self) -> Any:
            head = [*self.network.model.fc.parameters()]
            body = [p for p in self.parameters() if all(p is not q for q in head)]
            return SGD([{"params": body, "lr": 0.1}, {"params": head, "lr": 0.5}], lr=0.1)

    torch.manual_seed(0)
    two, one = Two(FORMS["optimizer"]), One(FORMS["optimizer"])
    one.load_state_dict(two.state_dict())
    for module in (one, two):
        run = trainer(max_epochs=1)
        run.fit(module, loader(5, 2))
    assert [o.param_groups[0]["lr"] for o in run.optimizers] == pytest.approx([0.01, 0.5])
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda o: torch.optim.LBFGS(o.param_groups[0]["params"]), "LBFGS computes the loss several times"),
        (lambda o: ([o], [plateau(o, monitor=None)]), "ReduceLROnPlateau needs the name of a metric"),
        (lambda o: ([o], [ReduceLROnPlateau(o)]), "ReduceLROnPlateau needs the name of a metric"),
        (
            lambda o: ([o], [plateau(o, monitor="val/none")]),
            "waits for the metric 'val/none', .* there are now",
        ),
        (
            lambda o: ([o], [{"scheduler": StepLR(o, 1), "interval": "batch"}]),
            "interval of StepLR is 'batch'",
        ),
        (lambda o: ([o], [{"scheduler": StepLR(o, 1), "frequency": 0}]), "frequency of StepLR is 0"),
        (lambda o: ([o], [{"scheduler": StepLR(o, 1), "warmup": 3}]), "no setting 'warmup'; its keys are"),
        (lambda o: ([o], [{"interval": "step"}]), "lacks the scheduler itself"),
    ],
)
def test_what_cannot_step_is_refused_in_one_line(form: Form, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        rates(Own(form))
    assert "\n" not in str(error.value)


def test_a_scheduler_of_another_make_needs_its_own_step() -> None:
    class Halving:
        def __init__(self, optimizer: SGD) -> None:
            self.optimizer = optimizer

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    class Steps(Own):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            scheduler.optimizer.param_groups[0]["lr"] /= 2

    form: Form = lambda o: ([o], [Halving(o)])  # noqa: E731
    with pytest.raises(
        ValueError, match="Halving is not one of torch's schedulers; override lr_scheduler_step"
    ):
        rates(Own(form))
    assert rates(Steps(form), loader(1)) == [1, 0.5, 0.25, 0.125]


def test_callbacks_of_the_users_own_must_not_drop_ours() -> None:
    class Dropping(Own):
        def configure_callbacks(self) -> list[Callback]:
            return []

    with pytest.raises(TypeError, match=r"Dropping.configure_callbacks must return super\(\)"):
        rates(Dropping(FORMS["optimizer"]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kept", ["last", "best"])
def test_a_resumed_plateau_goes_on_as_if_never_stopped(kept: str, tmp_path: Path) -> None:
    form: Form = lambda o: {"optimizer": o, "lr_scheduler": plateau(o, monitor="val/stuck")}  # noqa: E731
    whole = rates(Own(form), max_epochs=4)
    saves = [
        ModelCheckpoint(tmp_path, "best", monitor="val/stuck", save_top_k=-1, enable_version_counter=False),
        ModelCheckpoint(tmp_path, "last", save_on_train_epoch_end=True, enable_version_counter=False),
    ]
    rates(Own(form), max_epochs=2, callbacks=[Rates(), *saves], enable_checkpointing=True)
    seen = Rates()
    run = trainer(max_epochs=4, callbacks=[seen])
    run.fit(Own(form), loader(5, 2), loader(1, 2), ckpt_path=tmp_path / f"{kept}.ckpt", weights_only=True)
    assert seen.seen == whole[10:]


# -- the schedule of OptimizerConfig --------------------------------------------------------------


class Stream(IterableDataset):
    """Four images, and nobody knows how many."""

    def __iter__(self) -> Iterator[Any]:
        for images, labels in batches(4, 1):
            yield images[0], labels[0]


def classifier(**options: Any) -> QuantizableClassifier:
    return QuantizableClassifier(TinyCNN(), 10, (2, 4, 32), **options)


@pytest.mark.parametrize(
    ("options", "limits", "count"),
    [
        ({"scheme": "double_rounding"}, {"max_steps": 9, "max_epochs": -1}, 3),
        ({"scheme": "double_rounding"}, {"max_epochs": 2}, 10),
        ({"accumulate": 4}, {"max_epochs": 4, "max_steps": 12}, 20),  # 2 steps an epoch: the epochs end it
        ({"accumulate": 4}, {"max_epochs": 40, "max_steps": 5}, 14),
        ({}, {"max_epochs": 4, "max_steps": 7}, 7),
        ({}, {"max_epochs": 2, "limit_train_batches": 3}, 6),
    ],
)
def test_the_cosine_ends_at_zero_with_the_run(
    options: dict[str, Any], limits: dict[str, Any], count: int
) -> None:
    seen = rates(classifier(optimizer=OptimizerConfig(lr=0.1), **options), **limits)
    assert len(seen) == count + 1  # and the rate behind the last batch
    assert seen[0] == pytest.approx(0.1)
    assert seen[-2] > 1e-4
    assert seen[-1] == pytest.approx(0, abs=1e-9)


def test_the_cosine_of_a_stream_follows_the_limit_that_is_known() -> None:
    stream = DataLoader(Stream(), batch_size=1)
    module = classifier(optimizer=OptimizerConfig(lr=0.1), accumulate=3)
    seen = rates(module, stream, max_steps=4, max_epochs=-1)
    assert len(seen) == 8 + 1  # batches 1-3 and 4 of each of two passes
    assert seen[-1] == pytest.approx(0, abs=1e-9)
    seen = rates(classifier(optimizer=OptimizerConfig(lr=0.1)), stream, max_epochs=2, limit_train_batches=2)
    assert len(seen) == 4 + 1
    assert seen[-1] == pytest.approx(0, abs=1e-9)
    with pytest.raises(
        ValueError, match=r"do not know their length.*: give Trainer max_steps or limit_train_"
    ):
        rates(classifier(), stream, max_epochs=2)
    constant = OptimizerConfig(lr=0.1, schedule="constant")
    assert rates(classifier(optimizer=constant), stream, max_epochs=2) == [0.1] * 9


def test_a_run_that_goes_on_in_its_trainer_has_a_cosine_of_what_is_left() -> None:
    module, seen = classifier(optimizer=OptimizerConfig(lr=0.1)), Rates()
    run = trainer(max_epochs=1, callbacks=[seen])
    run.fit(module, loader(5))
    seen.seen.clear()
    run.fit_loop.max_epochs = 3
    run.fit(module, loader(5))
    assert len(seen.seen) == 10 + 1
    assert seen.seen[5] == pytest.approx(0.05)
    assert seen.seen[-1] == pytest.approx(0, abs=1e-9)


# -- what else a trainer is asked between and before fits ------------------------------------------


@pytest.mark.parametrize("order", ["validate fit", "fit validate fit", "test fit validate predict fit test"])
def test_every_order_of_fit_and_evaluation(order: str) -> None:
    torch.manual_seed(0)
    module, run = classifier(), trainer(max_epochs=1)
    for stage in order.split():
        if stage == "fit":
            run.fit_loop.max_epochs = run.current_epoch + 1
            run.fit(module, loader(2), loader(2))
            inside = run.callback_metrics["val/top1/mean"]
            (outside,) = trainer().validate(module, loader(2), verbose=False)
            assert inside == pytest.approx(outside["val/top1/mean"])
        elif stage == "predict":
            run.predict(module, loader(2))
        else:
            getattr(run, stage)(module, loader(2), verbose=False)


def test_an_interrupted_validation_is_forgotten() -> None:
    class Stops(Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            raise RuntimeError("stopped")

    module = classifier()
    (before,) = trainer().validate(module, loader(2), verbose=False)
    with pytest.raises(RuntimeError, match="stopped"):
        trainer(callbacks=[Stops()]).validate(module, loader(1, 8))
    assert trainer().validate(module, loader(2), verbose=False) == [before]


@pytest.mark.parametrize("combined", [False, True])
def test_several_loaders_calibrate_where_inputs_reads_their_batch(combined: bool) -> None:
    class FromTwo(QuantizableClassifier):
        def inputs(self, batch: Any) -> Tensor:
            return batch["labeled"][0] if isinstance(batch, dict) else batch[0]

        def loss(self, output: Tensor, batch: Any) -> Tensor:
            return super().loss(output, batch["labeled"])

    torch.manual_seed(0)
    module, plain = FromTwo(TinyCNN(), 10, (2, 32)), QuantizableClassifier(TinyCNN(), 10, (2, 32))
    plain.network.load_state_dict(module.network.state_dict())
    both: Any = {"labeled": loader(3), "other": loader(2)}
    run = trainer(max_steps=0, max_epochs=1)
    run.fit(module, CombinedLoader(both, "max_size_cycle") if combined else both)
    plain.network.calibrate(images for images, _ in loader(3))
    for (name, p), q in zip(module.network.named_parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(p, q), name
    trainer(max_epochs=1).fit(module, both)
