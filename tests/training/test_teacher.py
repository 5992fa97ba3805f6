"""A float network that teaches beside the labels."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from quantizable import QuantizableClassifier, load
from quantizable.training.objectives import Consistency
from quantizable.training.optim import OptimizerConfig
from quantizable.training.run import train
from quantizable.training.schemes import Scheme
from tests.tiny import TinyCNN, batches, config, loader, same, trainer

PLAIN = OptimizerConfig(lr=0.05, weight_decay=0.0, momentum=0.0, schedule="constant")


def teacher() -> TinyCNN:
    torch.manual_seed(5)
    network = TinyCNN()
    network(torch.randn(64, 3, 8, 8))  # running statistics of its own
    return network


def classifier(**options: Any) -> QuantizableClassifier:
    torch.manual_seed(1)
    return QuantizableClassifier(TinyCNN(), 10, [4, 32], optimizer=PLAIN, **options)


def test_every_mode_learns_from_labels_and_teacher() -> None:
    """One step of SGD against ``lr * d/dw sum_k [CE(z_k, y) + KL(teacher || z_k)]``."""
    ours = classifier(teacher=teacher())
    images, labels = batches(1)[0]
    ours.network.calibrate([images])
    by_hand = copy.deepcopy(ours.network).train()
    target = F.softmax(teacher().eval()(images), 1).detach()
    loss = torch.zeros(())
    for mode in (32, 4):
        by_hand.set_bits(mode)
        logits = by_hand(images)
        divergence = (target * (target.log() - F.log_softmax(logits, 1))).sum(1).mean()
        loss = loss + F.cross_entropy(logits, labels) + divergence
    loss.backward()
    before = {name: p.detach().clone() for name, p in ours.network.named_parameters()}
    trainer(max_epochs=1).fit(ours, loader(1))
    for name, p in by_hand.named_parameters():
        if p.grad is not None and "scale" not in name:  # scales have a rate of their own
            after = dict(ours.network.named_parameters())[name]
            torch.testing.assert_close(after, before[name] - 0.05 * p.grad, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_neither_trained_nor_saved() -> None:
    given = teacher().train()
    before = copy.deepcopy(given.state_dict())
    module = classifier(teacher=given)
    trainer(max_epochs=1).fit(module, loader(2))
    assert same(before, given.state_dict())
    assert module.state_dict().keys() == classifier().state_dict().keys()
    assert {id(p) for p in given.parameters()}.isdisjoint(id(p) for p in module.parameters())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_it_computes_in_the_precision_of_the_training(precision: str) -> None:
    given, seen = teacher(), []
    given.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    trainer(max_epochs=1, precision=precision).fit(classifier(teacher=given), loader(1))
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float64
    assert set(seen) == {(dtype, dtype)}


def test_one_for_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"teacher's output has shape \(.*, 3\), the network's \(.*, 10\)"):
        trainer(max_epochs=1).fit(classifier(teacher=TinyCNN(num_classes=3)), loader(1))


@pytest.mark.parametrize("scheme", ["any_precision", Scheme(objective=Consistency(alpha=0.0))])
def test_labels_must_teach_some_mode(scheme: Any) -> None:
    with pytest.raises(ValueError, match="give alpha more than 0"):
        classifier(scheme=scheme, teacher=teacher())


@pytest.mark.parametrize("scheme", ["adabits", "double_rounding"])
def test_a_scheme_of_labels_alone_would_ignore_it(scheme: str) -> None:
    with pytest.raises(ValueError, match="ignore the teacher"):
        classifier(scheme=scheme, teacher=teacher())


def test_from_the_command_line(tmp_path: Path) -> None:
    weights = tmp_path / "teacher.pt"
    torch.save(TinyCNN(num_classes=10).state_dict(), weights)
    said = ("train.teacher=tiny_cnn", f"train.teacher_weights={weights}", "schedule.epochs=1", "seed=3")
    taught = train(config(tmp_path, *said, "run=taught"))
    alone = train(config(tmp_path, "schedule.epochs=1", "seed=3", "run=alone"))
    assert taught["config"]["train"]["teacher"] == "tiny_cnn"
    losses = [run["modes"]["32"]["loss"] for run in (taught, alone)]
    assert losses[0] != losses[1]
    with pytest.raises(FileNotFoundError, match="banana"):
        train(config(tmp_path, "train.teacher=tiny_cnn", "train.teacher_weights=banana.th"))
    for name, file, wrong in (
        ("5", weights, "'5'|no network"),
        ("tiny_cnn", "true", "no file of weights at True"),
        ("tiny_cnn", "''", "a teacher needs both"),
        ("tiny_cnn", "null", "a teacher needs both"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=re.compile(wrong)):
            train(config(tmp_path, f"train.teacher={name}", f"train.teacher_weights={file}"))


def test_the_highest_mode_of_a_run_teaches(tmp_path: Path) -> None:
    train(config(tmp_path, "schedule.epochs=1", "seed=3", "run=first"))
    checkpoint = tmp_path / "first" / "best.ckpt"
    by_run = train(config(tmp_path, "schedule.epochs=1", "run=second", f"train.teacher={checkpoint}"))
    weights = tmp_path / "first.pt"
    torch.save(load(checkpoint).to_float().state_dict(), weights)
    by_name = train(
        config(
            tmp_path,
            *("schedule.epochs=1", "run=third", "train.teacher=tiny_cnn", f"train.teacher_weights={weights}"),
        )
    )
    assert by_run["modes"]["32"]["loss"] == pytest.approx(by_name["modes"]["32"]["loss"], rel=1e-5)
    contents = torch.load(checkpoint, weights_only=True)
    contents["quantizable"]["data"]["mean"] = [0.1, 0.2, 0.3]
    otherwise = tmp_path / "otherwise.ckpt"
    torch.save(contents, otherwise)
    for wrong, said in (
        (
            (f"train.teacher={checkpoint}", f"train.teacher_weights={weights}"),
            "leave out train.teacher_weights",
        ),
        (("train.teacher=banana.ckpt",), "no checkpoint banana.ckpt"),
        ((f"train.teacher={checkpoint}", "data.num_classes=3"), "cannot teach here: its class_names"),
        ((f"train.teacher={otherwise}",), "cannot teach here: its mean"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            train(config(tmp_path, "run=wrong", *wrong))
        assert not (tmp_path / "wrong").exists()
