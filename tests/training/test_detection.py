"""torchvision's Faster R-CNN: lists of images, a mapping of losses, boxes; in all modes."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from quantizable import MultiModeModule, QuantizableNetwork, quantize
from tests.tiny import trainer

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "detection.py"))
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]
MODES = [2, 4, 8, 32]


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    pictures = EXAMPLE["Shapes"](6)
    return [EXAMPLE["together"]([pictures[i], pictures[i + 1]]) for i in (0, 2, 4)]


def loader() -> DataLoader:
    """The same batches."""
    return DataLoader(EXAMPLE["Shapes"](6), batch_size=2, collate_fn=EXAMPLE["together"])


def detector() -> nn.Module:
    torch.manual_seed(0)
    return EXAMPLE["detector"](width=4)


def test_all_modes_train_for_a_few_steps_and_then_detect(batches: list[Batch]) -> None:
    network = quantize(detector(), MODES)
    module = EXAMPLE["Detection"](network, "adabits", {"lr": 0.01}, clip_norm=5.0)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    run = trainer(max_epochs=1, limit_val_batches=1)
    run.fit(module, loader(), loader())
    for mode in MODES:
        assert torch.isfinite(run.callback_metrics[f"train/loss/{mode}"])
        assert 0 <= run.callback_metrics[f"val/found/{mode}"] <= 1
    losses = {float(run.callback_metrics[f"train/loss/{mode}"]) for mode in MODES}
    assert len(losses) == 4, "each mode has a loss of its own"
    still = [
        name for name, p in network.named_parameters() if name in before and torch.equal(p, before[name])
    ]
    assert not [name for name in still if name.endswith("weight")], still
    images, targets = batches[0]
    for mode in (2, 32):
        with network.eval().at_bits(mode), torch.no_grad():
            found = network(images)
        assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2
        assert all(box.isfinite().all() for one in found for box in one["boxes"])
    table = network.coverage((images, targets))
    network.set_bits(4)
    assert table.share == 0
    assert network.coverage((images, targets)).share == 1


def test_calibration_and_norms_read_detection_batches(batches: list[Batch]) -> None:
    model = detector().eval()
    network: QuantizableNetwork = quantize(model, MODES, first_last="mode").eval()
    first = network.model.backbone[0]
    seen: list[Tensor] = []
    with first.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach())):
        network.calibrate(batches)
    assert sum(len(images) for images in seen) >= 6, "every image was looked at"
    images = batches[0][0]
    with torch.no_grad(), network.at_bits(32):
        for one, other in zip(model(images), network(images), strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)
    network.reestimate_norms(batches, modes=[4])
    norm: Any = network.model.backbone[1]
    with torch.no_grad(), network.at_bits(4):  # by hand: mean and variance of each batch, averaged
        inputs = [network.model.transform(list(images))[0].tensors for images, _ in batches]
        outputs = [network.model.backbone[0](x) for x in inputs]
    means = torch.stack([x.mean((0, 2, 3)) for x in outputs]).mean(0)
    torch.testing.assert_close(norm.norms["4"].running_mean, means, atol=1e-4, rtol=1e-3)
    assert not torch.equal(norm.norms["4"].running_mean, norm.norms["32"].running_mean)


def test_only_schemes_that_teach_ask_what_lower_modes_learn_from(batches: list[Batch]) -> None:
    class Plain(MultiModeModule):
        inputs = EXAMPLE["Detection"].inputs
        loss = EXAMPLE["Detection"].loss

    network = quantize(detector(), [4, 32])
    with pytest.raises(TypeError, match=r"must define teaching\(output\).*or take scheme=\"adabits\""):
        trainer(max_steps=1).fit(Plain(network), loader())


def test_norms_of_a_trained_detector_are_compared_though_each_mode_finds_boxes_of_its_own(
    batches: list[Batch],
) -> None:
    model = detector()
    with torch.no_grad():
        for _ in range(100):  # the norms' averages have forgotten where they began
            model.backbone(model.transform(list(batches[0][0]))[0].tensors)
    network = quantize(model.eval(), MODES, first_last="mode").eval()
    network.calibrate(batches)
    norms: dict[str, Any] = {mode: network.model.backbone[1].norms[mode] for mode in ("2", "32")}
    stored = {mode: norm.running_var.clone() for mode, norm in norms.items()}
    norms["2"].running_var *= 30  # far from what mode 2 sees
    network.reestimate_norms(batches, modes=[2])
    assert (norms["2"].running_var < 10 * stored["2"]).all()
    assert torch.equal(norms["32"].running_var, stored["32"])
