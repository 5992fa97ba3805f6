"""The modes of a run compared, in every experiment tracker: what a module's own metrics do not show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from quantizable.bits import FLOAT_BITS, BitMode
from quantizable.interface.lightning_package import pl
from quantizable.measure.cost import layer_costs, mode_costs
from quantizable.nn import QuantLayer
from quantizable.nn.layer_modes import NamedModes
from quantizable.report.metric_names import AGAINST_BITS, COSTS, TABLE, THROUGHPUT
from quantizable.report.tables import COLUMNS, by_mode
from quantizable.training import trackers


class ModeLogging(pl.Callback):
    """Logs what compares the modes of a :class:`quantizable.QuantizableClassifier`, to all loggers alike.

    The module logs the metrics of each mode (``val/top1/4``). Beside them, after each epoch of training:
    images per second, and every ``histograms_every`` epochs histograms of the weights' codes and of the step
    sizes of each layer and mode; after each validation the accuracy against bits; at the end of a test (or of
    a validation that is no part of a fit) one table of the modes with their costs. W&B keeps the best and the
    last value of each metric in its summary. ``metrics.csv`` has the module's metrics alone.

    Args:
        histograms_every: epochs from one set of histograms to the next, at least 1; None: none.

    Raises:
        ValueError: ``histograms_every`` is less than 1.
    """

    def __init__(self, histograms_every: int | None = None) -> None:
        if histograms_every is not None and (not isinstance(histograms_every, int) or histograms_every < 1):
            raise ValueError(
                f"histograms_every={histograms_every!r}; give a number of epochs, at least 1, or None"
            )
        self.histograms_every = histograms_every
        self.images, self.seconds, self.since = 0, 0.0, 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Say what W&B keeps of each metric."""
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                trackers.define_summaries(logger, pl_module.names, AGAINST_BITS)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Begin to count images and seconds."""
        self.images, self.seconds, self.since = 0, 0.0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of a step, of all processes, and its seconds, those of its data included."""
        now = time.perf_counter()
        self.images += len(pl_module.inputs(batch)) * trainer.world_size
        self.seconds, self.since = self.seconds + now - self.since, now

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Images per second, and histograms when it is time for them."""
        if not trainer.is_global_zero or not self.seconds:
            return
        epoch = trainer.current_epoch
        for logger in trainer.loggers:
            if not trackers.is_csv(logger):  # which one seed fills with the same numbers
                rate = {THROUGHPUT: self.images / self.seconds, "epoch": epoch}
                logger.log_metrics(rate, step=trainer.global_step)
        if self.histograms_every and (epoch + 1) % self.histograms_every == 0:
            numbers = {
                name: values.double().cpu().numpy() for name, values in mode_tensors(pl_module.network)
            }
            for logger in trainer.loggers:
                trackers.log_histograms(logger, numbers, trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """A line of accuracy against bits, for this epoch."""
        self.since = time.perf_counter()  # a validation within an epoch is no training
        modes = by_mode(trainer.callback_metrics, "val")
        if trainer.sanity_checking or not trainer.is_global_zero or not modes:
            return
        if trainer.state.fn == pl.trainer.states.TrainerFn.VALIDATING:
            return self._log_table(trainer, pl_module, "val")
        for mode in pl_module.modes if all("top1" in values for values in modes.values()) else []:
            if mode.name not in modes:
                continue
            point = (mean_bits(mode), modes[mode.name]["top1"], trainer.current_epoch)
            for logger in trainer.loggers:
                trackers.log_point(logger, dict(zip(AGAINST_BITS, point, strict=True)))

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """One table of the modes."""
        if trainer.is_global_zero:
            self._log_table(trainer, pl_module, "test")

    def _log_table(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        modes = by_mode(trainer.callback_metrics, stage)
        costs = costs_by_mode(module)
        rows = [
            {
                "mode": mode,
                "bits": mean_bits(module.network.check_held(mode)),
                **{name: modes[mode][name] for name in COLUMNS if name in modes[mode]},
                **costs.get(mode, {}),
            }
            for mode in module.names
            if mode in modes
        ]
        spent = {
            f"{name}/{mode}": value
            for mode, one in costs.items()
            for name, value in zip(COSTS, one.values(), strict=True)
        }
        for logger in trainer.loggers if rows else []:
            trackers.log_table(logger, f"{stage}/{TABLE}", rows, trainer.global_step)
            if not trackers.is_csv(logger):
                logger.log_metrics(spent, step=trainer.global_step)


def mean_bits(mode: BitMode | NamedModes) -> float:
    """The bits of a mode as a place on an axis: the mean of its weights' and its inputs', and over layers."""
    if isinstance(mode, BitMode):
        return (mode.weight + mode.activation) / 2
    return fmean(map(mean_bits, mode.of_layers()))


def costs_by_mode(module: Any) -> dict[str, dict[str, float]]:
    """Billions of bit operations of an image and megabytes, by mode; empty where no image is known."""
    image = module.example_input_array
    if not isinstance(image, Tensor) or image.ndim != 4:
        return {}
    network, (_, channels, height, width) = module.network, image.shape
    # what counts the operations follows gradients, which Lightning's test loop has switched off
    with torch.inference_mode(False), torch.enable_grad():
        totals = mode_costs(network, layer_costs(network, (channels, height, width)))
    return {
        cost.mode: {"gbops": cost.bops / 1e9, "megabytes": (cost.weight_bytes + cost.other_bytes) / 1e6}
        for cost in totals
    }


@torch.no_grad()
def mode_tensors(network: Any) -> Iterator[tuple[str, Tensor]]:
    """Name and values of the weights' codes and of the step sizes, by layer and mode."""
    for name, layer in network.layers().items():
        for mode in network.modes if isinstance(layer, QuantLayer) else []:
            widths, place = layer.resolve(mode), f"{name}/{mode.name}"
            if (bits := widths.weight) != FLOAT_BITS:
                quantizer, weight = layer.weight_quantizer, layer.float_weight()
                yield f"weight_codes/{place}", quantizer.codes(weight, bits)
                yield f"weight_step/{place}", quantizer.qparams(weight, bits).scale
            if (bits := widths.activation) != FLOAT_BITS:
                quantizer = layer.input_quantizer
                none = torch.zeros(1, device=quantizer.initialised.device)  # an input's grid needs no data
                yield f"input_step/{place}", quantizer.qparams(none, bits).scale
