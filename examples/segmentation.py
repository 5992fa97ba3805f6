"""Train a segmentation network in all modes: a small U-Net that gives a class to every pixel.

    python examples/segmentation.py

The pictures are made from scikit-learn's handwritten digits: each shows four digits under noise as strong as
faint ink, and the label of a pixel is 1 where there is ink, 0 elsewhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassJaccardIndex

import quantizable

CLASSES = 2  # ground and ink


class FourDigits(Dataset):
    """Images ``[1, 32, 32]`` and the class of each pixel ``[32, 32]``.

    Args:
        first, last: which of the 1797 digits to draw from.
        size: pictures; each has a generator of its own, so that they are always the same.
    """

    def __init__(self, first: int, last: int, size: int) -> None:
        self.ink = torch.tensor(load_digits().images[first:last], dtype=torch.float32) / 16  # [N, 8, 8]
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(index)
        image = 0.3 * torch.randn(1, 32, 32, generator=draw)
        label = torch.zeros(32, 32, dtype=torch.long)
        for row in (0, 16):
            for column in (0, 16):
                chosen = int(torch.randint(len(self.ink), (), generator=draw))
                ink = (
                    self.ink[chosen].repeat_interleave(2, 0).repeat_interleave(2, 1)
                )  # 8 x 8 drawn at 16 x 16
                image[0, row : row + 16, column : column + 16] += ink
                label[row : row + 16, column : column + 16] = ink > 0.3
        return image, label


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, each with a norm and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """A plain float network: three scales down, three up, logits ``[B, 2, H, W]``; no word of bits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = (
            block(1, width),
            block(width, 2 * width),
            block(2 * width, 4 * width),
        )
        self.enlarge2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up2 = block(4 * width, 2 * width)
        self.enlarge1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up1 = block(2 * width, width)
        self.head = nn.Conv2d(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x)
        middle = self.down2(F.max_pool2d(fine, 2))
        coarse = self.bottom(F.max_pool2d(middle, 2))
        middle = self.up2(torch.cat([middle, self.enlarge2(coarse)], 1))
        return self.head(self.up1(torch.cat([fine, self.enlarge1(middle)], 1)))


class Segmentation(quantizable.MultiModeModule):
    """Cross-entropy of every pixel, and the mean intersection over union (IoU) of each mode."""

    def loss(self, output: Tensor, batch: Sequence[Tensor]) -> Tensor:
        return F.cross_entropy(output, batch[1])

    def on_validation_epoch_start(self) -> None:
        self.iou = {mode.name: MulticlassJaccardIndex(CLASSES).to(self.device) for mode in self.modes}

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        for mode, output in self.outputs_by_mode(batch):
            self.iou[mode.name].update(output.argmax(1), batch[1])

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/iou/{name}": metric.compute() for name, metric in self.iou.items()})


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train; print, and return by mode, the mean IoU on digits that training has not seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=8, help="channels at the finest scale")
    parser.add_argument("--pictures", type=int, default=256, help="per epoch")
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args(argv)

    pl.seed_everything(0, verbose=False)
    network = quantizable.quantize(UNet(args.width), bits=[2, 4, 8, 32])
    module = Segmentation(network, "quantizable", clip_norm=1.0)
    trainer = pl.Trainer(
        max_epochs=args.epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    train = DataLoader(FourDigits(0, 1400, args.pictures), batch_size=32, shuffle=True)
    val = DataLoader(FourDigits(1400, 1797, 64), batch_size=32)
    trainer.fit(module, train, val)
    iou = {mode.name: float(trainer.callback_metrics[f"val/iou/{mode.name}"]) for mode in module.modes}
    for name, value in iou.items():
        print(f"{name:>2} bits: IoU {value:.3f}")
    return iou


if __name__ == "__main__":
    main()
