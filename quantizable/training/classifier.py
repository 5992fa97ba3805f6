"""The classifier that ``train.py`` trains; it fits anybody's ``Trainer`` and data as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from quantizable.measure.classification import METRICS, image_metrics
from quantizable.models.create import check_own
from quantizable.models.switchable import build_network
from quantizable.network import QuantizableNetwork
from quantizable.nn.conversion import classifier_of
from quantizable.training.module import MultiModeModule
from quantizable.training.optim import OptimizerConfig
from quantizable.training.schemes import Scheme
from quantizable.training.settings import plain


class QuantizableClassifier(MultiModeModule):
    """A classifier in every mode: cross-entropy, and per mode top-1, top-5 and disagreement with the highest
    mode.

    >>> module = QuantizableClassifier("resnet18", num_classes=100, bits=[2, 4, 8, 32])    # doctest: +SKIP
    >>> Trainer(max_epochs=90).fit(module, datamodule)                                      # doctest: +SKIP

    Args:
        model: a name for :func:`quantizable.models.create.create_model`, a float network, or a quantizable
            one, trained perhaps, which is trained on as it is: with its own modes and quantizers.
        num_classes: classes.
        bits: the modes.
        quantizer: see :func:`quantizable.quantize`; this and ``bits`` are for a float network.
        weights: a file of float weights to start from, or None.
        reset_head: with ``weights``: keep the new classifier.
        model_options: further arguments of ``create_model`` (``in_chans``, ``pretrained``, ``cifar_stem``,
            ...).
        quantize_options: further arguments of ``quantize``.
        optimizer: settings as a dictionary, see :class:`OptimizerConfig`.
        scheme: a name or a :class:`Scheme`.
        label_smoothing: in [0, 1).
        **training: ``accumulate``, ``clip_norm``, ``keep_weights``, ``noise_sigma``, ``seed``,
            ``strategy`` and ``teacher`` of :class:`MultiModeModule`.
    """

    def __init__(
        self,
        model: str | nn.Module | QuantizableNetwork,
        num_classes: int,
        bits: Sequence[Any] = (2, 4, 8, 32),
        *,
        quantizer: str = "lsq",
        scheme: str | Scheme = "quantizable",
        weights: str | None = None,
        reset_head: bool = False,
        model_options: dict[str, Any] | None = None,
        quantize_options: dict[str, Any] | None = None,
        optimizer: dict[str, Any] | OptimizerConfig | None = None,
        label_smoothing: float = 0.0,
        **training: Any,
    ) -> None:
        if not isinstance(num_classes, int) or num_classes < 2:
            raise ValueError(f"num_classes={num_classes!r}; a classifier needs an integer of at least 2")
        if isinstance(model, QuantizableNetwork):
            network, about = model, getattr(model, "info", None) or {}
            known = about.get("model"), about.get("model_options")
            if weights or reset_head or model_options or quantize_options:
                raise ValueError(
                    "the network is quantizable already and has its weights; weights, reset_head, "
                    "model_options and quantize_options are for a float one"
                )
            _, outputs = classifier_of(network.model)
            if outputs is not None and outputs != num_classes:
                raise ValueError(
                    f"the network has {outputs} outputs, but num_classes={num_classes}; give it a new head: "
                    f"network.fc = nn.Linear(..., {num_classes}), network.reset_classifier({num_classes})"
                )
        else:
            network = build_network(
                model, num_classes, bits, quantizer, weights, reset_head, model_options, quantize_options
            )
            known = model if isinstance(model, str) else None, model_options
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must be in [0, 1)")
        super().__init__(network, scheme, optimizer, **training)
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.architecture = {
            "model": known[0],
            "num_classes": num_classes,
            "model_options": dict(known[1] or {}),
        }
        self._save_settings(known[0], reset_head, weights)
        self.metrics = nn.ModuleDict(
            {
                f"{stage}_{mode}": MetricCollection({name: MeanMetric() for name in METRICS})
                for stage in ("val", "test")
                for mode in self.names
            }
        )

    def _save_settings(self, known: str | None, reset_head: bool, weights: str | None) -> None:
        """The constructor's arguments instead of the network that they made."""
        config, model = self.network.config, self.network.model
        options = {name: value for name, value in config.items() if name not in ("bits", "quantizer")}
        settings = {
            "model": known or model,
            "num_classes": self.num_classes,
            "bits": config["bits"],
            "quantizer": config["quantizer"],
            "weights": weights,
            "reset_head": reset_head,
            "model_options": self.architecture["model_options"],
            "quantize_options": options,
            "label_smoothing": self.label_smoothing,
        }
        self.save_hyperparameters(plain(settings), ignore="network")

    @classmethod
    def _settings_to_load(cls, about: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        if isinstance(given.get("model"), QuantizableNetwork):  # brings its own modes and quantizers
            made = {"bits": about["quantize"]["bits"], "model_options": None, "quantize_options": None}
        elif about["model"] is None and "model" not in given:
            raise ValueError(
                "trained from a module of your own, which is not in a checkpoint; load_from_checkpoint(path, "
                "model=...)"
            )
        else:
            if "model" not in given:
                check_own(about["model"])
            options = {k: v for k, v in about["quantize"].items() if k not in ("bits", "quantizer")}
            made = {
                "model": about["model"],
                "model_options": {k: k != "pretrained" and v for k, v in about["model_options"].items()},
                "bits": about["quantize"]["bits"],
                "quantizer": about["quantize"]["quantizer"],
                "quantize_options": options,
            }
            if "model" in given and not isinstance(given["model"], str):
                made["model_options"] = None
        return {"num_classes": about["num_classes"], **made, "weights": None, "reset_head": False}

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        smoothing = self.label_smoothing if self.training else 0.0
        target = self.targets(batch)
        with self._labels_checked(output, target):
            return F.cross_entropy(output.float(), target, label_smoothing=smoothing)

    @contextmanager
    def _labels_checked(self, logits: Tensor, target: Tensor) -> Iterator[None]:
        try:
            yield
        except IndexError as error:
            raise ValueError(
                f"labels reach from {target.min()} to {target.max()}, but num_classes={self.num_classes} and "
                f"the network has {logits.shape[1]} outputs: labels count from 0"
            ) from error

    def evaluate_step(self, batch: Any, stage: str) -> None:
        target = self.targets(batch)
        reference: Tensor | None = None
        for mode, logits in self.outputs_by_mode(batch):
            reference = logits.float().argmax(1) if reference is None else reference
            metrics: Any = self.metrics[f"{stage}_{mode}"]
            with self._labels_checked(logits, target):
                for name, values in image_metrics(logits, target, reference).items():
                    metrics[name].update(values)

    def _log_metrics(self, stage: str) -> None:
        top1, losses = [], {}
        for mode in self.evaluated:
            metrics: Any = self.metrics[f"{stage}_{mode}"]
            values = metrics.compute()
            if mode in self.trained:
                top1.append(values["top1"])
            losses[mode] = values["loss"]
            self.log_dict({f"{stage}/{name}/{mode}": value for name, value in values.items()})
        self._reset(stage)
        self._check(losses, f"{stage} ")
        self.log(f"{stage}/top1/mean", torch.stack(top1).mean(), prog_bar=True)
        self.log(f"{stage}/top1/lowest", torch.stack(top1).min(), prog_bar=True)

    def _reset(self, stage: str) -> None:
        # sums that Trainer.validate made in inference mode could not be added to in a fit
        with torch.inference_mode(False):
            for mode in self.names:
                self.metrics[f"{stage}_{mode}"].reset()  # type: ignore[operator]

    def on_validation_epoch_start(self) -> None:
        self._reset("val")  # what an interrupted validation left

    def on_test_epoch_start(self) -> None:
        self._reset("test")

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")
