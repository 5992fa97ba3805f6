"""The multi-mode step in a plain Trainer, with the user's own data and the user's own task."""

import copy
import weakref
from typing import Any

import pytest
import pytorch_lightning as pl
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from quantizable import MultiModeModule, QuantizableClassifier, QuantizableNetwork, quantize
from quantizable.training.batch_transforms import with_noise
from quantizable.training.optim import OptimizerConfig
from tests.tiny import TinyCNN, batches, loader, same, trainer

PLAIN = OptimizerConfig(lr=0.05, weight_decay=0.0, momentum=0.0, schedule="constant")


class OwnData(pl.LightningDataModule):
    """A user's data module around torch's DataLoader."""

    def train_dataloader(self) -> DataLoader:
        return loader(4)

    def val_dataloader(self) -> DataLoader:
        return loader(2)

    test_dataloader = val_dataloader


def classifier(bits: tuple[Any, ...] = (2, 4, 32), **options: Any) -> QuantizableClassifier:
    return QuantizableClassifier(TinyCNN(), 10, bits, **options)


def test_drop_in_with_the_users_own_trainer_and_data() -> None:
    module = classifier()
    before = copy.deepcopy(module.network.state_dict())
    run = trainer(max_epochs=2)
    run.fit(module, datamodule=OwnData())
    after = module.network.state_dict()
    assert not torch.equal(before["model.stem.0.weight"], after["model.stem.0.weight"])
    metrics = run.test(module, datamodule=OwnData(), verbose=False)[0]
    for mode in ("2", "4", "32"):
        assert {f"test/{name}/{mode}" for name in ("loss", "top1", "top5", "disagreement")} <= metrics.keys()
    assert metrics["test/disagreement/32"] == 0
    tops = [metrics[f"test/top1/{mode}"] for mode in ("2", "4", "32")]
    assert metrics["test/top1/mean"] == pytest.approx(sum(tops) / 3)
    assert metrics["test/top1/lowest"] == pytest.approx(min(tops))


def test_metrics_are_those_of_a_loop_over_the_images() -> None:
    module = classifier()
    run = trainer(max_epochs=1)
    run.fit(module, loader(2), loader(3))
    run.validate(module, loader(3), verbose=False)
    module.eval()
    for mode in (2, 32):
        right = right5 = differs = 0
        loss = 0.0
        for x, y in batches(3):
            with torch.no_grad(), module.at_bits(mode):
                z = module(x)
            with torch.no_grad(), module.at_bits(32):
                top = module(x).argmax(1)
            for row, label, reference in zip(z, y, top, strict=True):
                ranking = row.argsort(descending=True).tolist()
                right += ranking[0] == label
                right5 += label in ranking[:5]
                differs += ranking[0] != reference
                loss -= row.log_softmax(0)[label].item()
        logged = {n: run.callback_metrics[f"val/{n}/{mode}"].item() for n in ("top1", "top5", "disagreement")}
        expected = {"top1": right / 24, "top5": right5 / 24, "disagreement": differs / 24}
        assert logged == pytest.approx({name: float(value) for name, value in expected.items()})
        assert run.callback_metrics[f"val/loss/{mode}"].item() == pytest.approx(loss / 24, rel=1e-4)


def test_the_test_set_is_measured_in_float32_whatever_was_trained_in() -> None:
    module, kinds = classifier(), []
    module.network.model.fc.register_forward_hook(lambda _layer, _inputs, out: kinds.append(out.dtype))
    run = trainer(max_epochs=1, precision="bf16-mixed")
    run.fit(module, loader(2), loader(2))
    assert torch.bfloat16 in kinds
    kinds.clear()
    run.test(module, loader(2), verbose=False)
    assert set(kinds) == {torch.float32}


def test_set_bits_on_the_module() -> None:
    module = classifier()
    module.set_bits(2)
    assert (module.bits, module.network.bits) == (2, 2)
    with module.at_bits({"body.*": 4}, default=2):
        assert isinstance(module.bits, dict)
    assert module.bits == 2
    assert [str(mode) for mode in module.modes] == ["2", "4", "32"]
    with pytest.raises(ValueError, match="no mode 3; it has 2, 4, 32"):
        module.set_bits(3)


class Regressor(MultiModeModule):
    """Needs nothing but its loss."""

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        return F.mse_loss(output[:, 0], batch[1].float())


def test_regression_needs_only_its_loss_and_learns_from_the_float_mode() -> None:
    module = Regressor(quantize(TinyCNN(num_classes=1), [2, 32]), optimizer=PLAIN)
    run = trainer(max_epochs=8)
    run.fit(module, loader(4), loader(2))
    first = Regressor(quantize(TinyCNN(num_classes=1), [2, 32]), optimizer=PLAIN)
    blank = trainer(max_epochs=1)
    blank.validate(first, loader(2), verbose=False)
    for mode in ("2", "32"):
        assert run.callback_metrics[f"val/loss/{mode}"] < blank.callback_metrics[f"val/loss/{mode}"]
    # the default distance is one that a single output has
    student, teacher = torch.zeros(4, 1), torch.ones(4, 1)
    assert module.scheme.objective(student, torch.tensor(0.0), [teacher]).item() == pytest.approx(1.0)


class Segmenter(MultiModeModule):
    """A float head of the user's own on the features of a quantizable backbone."""

    def __init__(self, network: QuantizableNetwork, channels: int) -> None:
        super().__init__(network, optimizer=PLAIN)
        self.head = nn.Conv2d(channels, 2, 1)

    def teaching(self, output: list[Tensor]) -> Tensor:
        return self.head(output[-1])

    def loss(self, output: list[Tensor], batch: Any) -> Tensor:
        mask = F.adaptive_max_pool2d(batch[1][:, None], output[-1].shape[-2:])[:, 0]
        return F.cross_entropy(self.head(output[-1]), mask.long())


def test_segmentation_on_timm_features_trains_the_users_head() -> None:
    backbone = timm.create_model("resnet20", features_only=True, out_indices=(0, 1))
    module = Segmenter(quantize(backbone, [4, 32]), backbone.feature_info.channels()[-1])
    head = module.head.weight.clone()
    images, masks = torch.randn(4, 3, 16, 16), torch.randint(2, (4, 16, 16)).float()
    run = trainer(max_epochs=1)
    data = DataLoader(TensorDataset(images, masks), batch_size=2)
    run.fit(module, data, data)
    assert not torch.equal(module.head.weight, head)
    assert run.callback_metrics["val/loss/4"].isfinite()


def test_outputs_that_are_no_tensors_need_a_teaching() -> None:
    class Backbone(Regressor):
        def loss(self, output: Any, batch: Any) -> Tensor:
            return output[0].sum()

    module = Backbone(quantize(TinyCNN(), [4, 32]))
    with pytest.raises(TypeError, match="gives a list, not a tensor: Backbone must define teaching"):
        module.teaching([torch.zeros(1)])
    with pytest.raises(TypeError, match="must define loss"):
        MultiModeModule(quantize(TinyCNN(), [4, 32])).loss(torch.zeros(1), None)


class Saved:
    """A tensor kept for the backward pass; counts how many bytes are kept at once."""

    now = peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        size = tensor.nbytes
        Saved.now += size
        Saved.peak = max(Saved.peak, Saved.now)
        weakref.finalize(self, Saved.release, size)

    @staticmethod
    def release(size: int) -> None:
        Saved.now -= size


def peak_of(bits: tuple[int, ...]) -> int:
    Saved.now = Saved.peak = 0
    module = classifier(bits)
    module.network.calibrate(batches(1))
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        trainer(max_epochs=1, limit_train_batches=2).fit(module, loader(2))
    return Saved.peak


def test_memory_of_a_step_does_not_grow_with_the_modes() -> None:
    few, many = peak_of((2, 32)), peak_of((2, 3, 4, 5, 6, 8, 32))
    assert few > 10_000  # something was measured
    assert many <= 1.02 * few  # the logits of the higher modes


def test_accumulation_equals_a_larger_batch() -> None:
    """Layer norm instead of batch norm, whose statistics are of a batch."""

    class Normed(TinyCNN):
        def __init__(self) -> None:
            super().__init__()
            self.stem[1], self.body[1] = nn.GroupNorm(1, 4), nn.GroupNorm(1, 6)

    net = quantize(Normed(), [2, 32])
    net.calibrate(batches(4))
    states = []
    for accumulate, size in ((3, 4), (1, 12)):
        module = Regressor(copy.deepcopy(net), optimizer=PLAIN, accumulate=accumulate)
        images, labels = (torch.cat(part) for part in zip(*batches(3), strict=True))
        run = trainer(max_epochs=1)
        run.fit(module, DataLoader(TensorDataset(images, labels), batch_size=size))
        assert run.global_step == 2
        states.append(dict(module.network.named_parameters()))
    for name, value in states[0].items():
        # next to a tie a value may take another code in another batch; the steps move weights by 0.08
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 10), (2, 6), (5, 2), (7, 2)])
def test_the_schedule_ends_with_the_run(accumulate: int, steps: int) -> None:
    config = OptimizerConfig(lr=0.1, schedule="cosine")
    module = classifier(optimizer=config, accumulate=accumulate)
    run = trainer(max_epochs=2)
    run.fit(module, loader(5))
    assert run.global_step == steps
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_the_schedule_follows_max_steps() -> None:
    module = classifier(optimizer=OptimizerConfig(lr=0.1))
    run = trainer(max_steps=3, max_epochs=-1)
    run.fit(module, loader(2))
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="give Trainer max_epochs or max_steps"):
        trainer(max_epochs=-1).fit(classifier(), loader(2))


class Explodes(Regressor):
    """Its loss is NaN in 2 bits from the second step on."""

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        loss = super().loss(output, batch)
        return loss * float("nan") if self.trainer.global_step == 1 and self.bits == 2 else loss


def test_nan_stops_names_mode_and_step_and_spoils_no_weight() -> None:
    module = Explodes(quantize(TinyCNN(), [2, 4, 32]), optimizer=PLAIN)
    with pytest.raises(RuntimeError, match="the loss of mode 2 is not finite in epoch 0, step 1;"):
        trainer(max_epochs=1).fit(module, loader(4))
    assert all(p.isfinite().all() for p in module.parameters())


def test_a_distance_that_overflows_is_found_too() -> None:
    class Huge(Regressor):
        def teaching(self, output: Tensor) -> Tensor:
            return output + (1e30 if self.bits == 2 else 0)

    module = Huge(quantize(TinyCNN(), [2, 32]))
    with pytest.raises(RuntimeError, match="mode 2 is not finite"):
        trainer(max_epochs=1).fit(module, loader(1))


def test_noise_has_the_asked_sigma_in_pixels_and_is_drawn_anew_each_step() -> None:
    class Scaled(OwnData):
        std = (0.5, 0.25, 0.2)

    module = classifier(noise_sigma=0.1)
    run = trainer(max_epochs=1, limit_train_batches=1)
    run.fit(module, datamodule=Scaled())
    clean = torch.zeros(64, 3, 32, 32)
    noisy = with_noise(module, clean, 0.1, 0)
    assert noisy.std((0, 2, 3)).tolist() == pytest.approx([0.2, 0.4, 0.5], rel=0.02)
    assert torch.equal(noisy, with_noise(module, clean, 0.1, 0))
    assert not torch.equal(noisy, with_noise(module, clean, 0.1, 1))
    assert with_noise(module, clean, 0.0, 0) is clean


def test_calibration_happens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = QuantizableNetwork.calibrate_lacking

    def counted(self: QuantizableNetwork, *args: Any, **kwargs: Any) -> None:
        calls.append(1)
        original(self, *args, **kwargs)

    monkeypatch.setattr(QuantizableNetwork, "calibrate_lacking", counted)
    module = classifier()
    trainer(max_epochs=1).fit(module, loader(2))
    assert len(calls) == 1
    scales = {n: p.clone() for n, p in module.named_parameters() if n.endswith("scale")}
    assert scales
    again = trainer(max_epochs=1, limit_train_batches=0)
    again.fit(module, loader(2))
    assert len(calls) == 1
    assert same(scales, {n: p for n, p in module.named_parameters() if n.endswith("scale")})


def test_learned_step_sizes_survive_a_layer_that_no_data_reaches() -> None:
    class Unused(TinyCNN):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(3, 3)

    module = QuantizableClassifier(Unused(), 10, [2, 32])
    with pytest.warns(UserWarning, match="no data passed through spare"):
        trainer(max_epochs=1).fit(module, loader(2))
    key = "body.0.input_quantizer.levels.2.scale"
    learned = dict(module.network.model.named_parameters())[key].clone()
    other = trainer(max_epochs=1, limit_train_batches=0)
    other.fit(module, loader(1))
    assert torch.equal(dict(module.network.model.named_parameters())[key], learned)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "at least 1"),
        ({"accumulate": 1.5}, "at least 1"),
        ({"noise_sigma": -0.1}, "at least 0"),
        ({"clip_norm": 0.0}, "greater than 0"),
        ({"label_smoothing": 1.0}, r"in \[0, 1\)"),
        ({"optimizer": {"learning_rate": 1}}, "learning_rate"),
        ({"scheme": "banana"}, "unknown"),
        ({"quantizer": "banana"}, "unknown"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier(**options)


@pytest.mark.parametrize("num_classes", [1, 0, "banana"])
def test_a_classifier_needs_two_classes(num_classes: Any) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        QuantizableClassifier(TinyCNN(), num_classes)


def test_labels_beyond_the_classes_name_them() -> None:
    module = QuantizableClassifier(TinyCNN(num_classes=3), 3, [2, 32])
    with pytest.raises(ValueError, match=r"labels reach from 0 to 8, but num_classes=3"):
        trainer(max_epochs=1).fit(module, loader(2))
    with pytest.raises(ValueError, match="num_classes=3"):
        trainer().validate(module, loader(2), verbose=False)


def test_a_float_network_is_refused() -> None:
    network: Any = TinyCNN()
    with pytest.raises(TypeError, match=r"float TinyCNN; give quantizable\.quantize"):
        Regressor(network)


@pytest.mark.parametrize(
    ("option", "ours"),
    [
        ({"gradient_clip_val": 1.5}, r"by the module: clip_norm=1.5, not Trainer\(gradient_clip_val=1.5\)"),
        ({"gradient_clip_val": 1, "gradient_clip_algorithm": "value"}, "by their norm alone.* clip_norm="),
        (
            {"accumulate_grad_batches": 2},
            r"by the module: accumulate=2, not Trainer\(accumulate_grad_batches=2\)",
        ),
    ],
)
def test_what_the_module_does_itself_is_not_asked_of_the_trainer(option: dict[str, Any], ours: str) -> None:
    with pytest.raises(ValueError, match=ours):
        trainer(max_epochs=1, **option).fit(classifier(), loader(1))
    trainer(**option).validate(classifier(), loader(1), verbose=False)


def test_predict_gives_the_logits_of_the_current_mode() -> None:
    module = classifier()
    module.network.calibrate(batches(1))
    module.set_bits(2)
    images = [x for x, _ in batches(2)]
    expected = [module.eval()(x) for x in images]
    for data in (loader(2), DataLoader(torch.cat(images), batch_size=8)):
        found: Any = trainer().predict(module, data)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_parameters_of_any_type_are_calibrated_and_trained(precision: str) -> None:
    module = classifier(optimizer=OptimizerConfig(lr=1e-3))
    trainer(max_epochs=1, precision=precision).fit(module, loader(2), loader(1))
    assert all(p.isfinite().all() for p in module.parameters())
    assert all(q.initialised for q in module.network.quantizers().values() if q.levels)


def test_a_loss_of_evaluation_that_is_not_finite_is_named() -> None:
    class Lost(Regressor):
        def loss(self, output: Tensor, batch: Any) -> Tensor:
            return super().loss(output, batch) * (float("nan") if self.bits == 2 else 1)

    module = Lost(quantize(TinyCNN(), [2, 32]))
    with pytest.raises(RuntimeError, match="the val loss of mode 2 is not finite"):
        trainer().validate(module, loader(1), verbose=False)


@pytest.mark.parametrize("bits", [0, 1.5, 20, 33, -4, "w4", "banana"])
def test_illegal_modes_are_refused(bits: Any) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        classifier((bits, 32))


def test_clipping_bounds_the_gradient() -> None:
    class Norm(Regressor):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            grads = [p.grad.norm() for p in self.parameters() if p.grad is not None]
            self.norm = torch.stack(grads).norm().item()

    for clip, expected in ((1e-3, True), (None, False)):
        module = Norm(quantize(TinyCNN(), [2, 32]), optimizer=PLAIN, clip_norm=clip)
        trainer(max_epochs=1, limit_train_batches=1).fit(module, loader(1))
        assert (module.norm == pytest.approx(1e-3, rel=1e-3)) is expected
