"""Train torchvision's Faster R-CNN in all modes: find squares and discs, and name them.

    python examples/detection.py

The network takes lists of images and gives a mapping of losses in training, lists of boxes in evaluation;
``MultiModeModule`` passes both on as they are. The pictures are drawn: gray shapes under noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, box_iou

import quantizable
from quantizable.nn.network_inputs import Inputs

SQUARE, DISC = 1, 2  # 0 is the background
Boxes = dict[str, Tensor]


class Shapes(Dataset):
    """Images ``[3, 64, 64]`` in [0, 1], and ``boxes [K, 4]`` (left, top, right, bottom) with ``labels [K]``.

    Args:
        size: pictures.
        start: number of the first; each has a generator of its own, so that they are always the same.
    """

    def __init__(self, size: int, start: int = 0) -> None:
        self.size, self.start = size, start

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, Boxes]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        draw = torch.Generator().manual_seed(self.start + index)
        image = 0.2 + 0.1 * torch.randn(3, 64, 64, generator=draw)
        rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        boxes, labels = [], []
        for left in (2, 34):  # one shape in each half, so that none hides another
            side, x, y = (int(torch.randint(n, (), generator=draw)) for n in (13, 4, 40))
            side, x = side + 12, left + x
            label = int(torch.randint(SQUARE, DISC + 1, (), generator=draw))
            far = torch.stack([(rows - y - side / 2 + 0.5).abs(), (columns - x - side / 2 + 0.5).abs()])
            distance = far.amax(0) if label == SQUARE else far.square().sum(0).sqrt()
            image[:, distance < side / 2] += 0.6
            boxes.append([x, y, x + side, y + side])
            labels.append(label)
        return image.clamp(0, 1), {
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.tensor(labels),
        }


def together(pictures: list[tuple[Tensor, Boxes]]) -> tuple[list[Tensor], list[Boxes]]:
    """A batch: images may be of several sizes, so that they stay a list."""
    return [image for image, _ in pictures], [boxes for _, boxes in pictures]


def detector(width: int = 16) -> FasterRCNN:
    """A plain float network with a small backbone, three scales of anchors; no word of bits."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = 4 * width  # type: ignore[assignment]
    return FasterRCNN(
        backbone, num_classes=None, min_size=64, max_size=64,
        rpn_anchor_generator=AnchorGenerator(((12, 18, 24),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2),
        box_head=TwoMLPHead(4 * width * 25, 64), box_predictor=FastRCNNPredictor(64, 3),
        rpn_pre_nms_top_n_train=200, rpn_post_nms_top_n_train=50,
        rpn_pre_nms_top_n_test=100, rpn_post_nms_top_n_test=20, box_batch_size_per_image=32,
        box_detections_per_img=10,
    )  # fmt: skip


class Detection(quantizable.MultiModeModule):
    """The sum of the detector's losses, and the share of shapes that each mode finds."""

    def inputs(self, batch: tuple[list[Tensor], list[Boxes]]) -> Inputs:
        images, truth = batch[:2]
        return Inputs((images, truth))

    def loss(self, output: Boxes, batch: object) -> Tensor:
        return torch.stack([*output.values()]).sum()

    def on_validation_epoch_start(self) -> None:
        self.found: dict[str, list[float]] = {mode.name: [] for mode in self.modes}

    def validation_step(self, batch: tuple[list[Tensor], list[Boxes]], batch_idx: int) -> None:
        for mode, output in self.outputs_by_mode(batch):
            for guess, truth in zip(output, batch[1], strict=True):
                fits = box_iou(truth["boxes"], guess["boxes"]) > 0.5  # [shapes, guesses]
                fits &= (truth["labels"][:, None] == guess["labels"]) & (guess["scores"] > 0.5)
                self.found[mode.name] += fits.any(1).float().tolist()

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/found/{name}": sum(f) / len(f) for name, f in self.found.items()})


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train; print, and return by mode, the share of shapes found with the right name (IoU above 0.5)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=128, help="per epoch")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args(argv)

    pl.seed_everything(0, verbose=False)
    network = quantizable.quantize(detector(), bits=[2, 4, 8, 32])
    optimizer = {"name": "adamw", "lr": 5e-3, "weight_decay": 1e-4, "warmup": 0.1}
    module = Detection(network, "adabits", optimizer, clip_norm=5.0)  # every mode learns from the boxes alone
    trainer = pl.Trainer(
        max_epochs=args.epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    train = DataLoader(Shapes(args.pictures), batch_size=8, shuffle=True, collate_fn=together)
    val = DataLoader(Shapes(32, start=10**6), batch_size=8, collate_fn=together)
    trainer.fit(module, train, val)
    found = {mode.name: float(trainer.callback_metrics[f"val/found/{mode.name}"]) for mode in module.modes}
    for name, value in found.items():
        print(f"{name:>2} bits: {value:.1%} of the shapes found")
    return found


if __name__ == "__main__":
    main()
