"""Training all modes of a network together, in anybody's Lightning ``Trainer``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from quantizable.bits import BitMode
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.optim import OptimizerConfig, configure, parameter_groups
from quantizable.schemes import Scheme, get_scheme


class MultiModeModule(pl.LightningModule):
    """One training step that visits several modes, for any task.

    Modes are visited one after another, each with its own forward and backward pass, so that the memory of a step
    does not grow with their number; gradients add up and, unless the scheme says otherwise, the optimizer steps
    once. Processes of a distributed run exchange gradients once per optimizer step.

    A subclass gives :meth:`loss`; its outputs are tensors, or ``teaching`` says what of them a lower mode imitates.

    Args:
        network: a quantizable network.
        scheme: a name (``quantizable.schemes.SCHEMES``) or a :class:`Scheme`.
        optimizer: settings of optimizer and schedule, see :class:`OptimizerConfig`.
        accumulate: batches per optimizer step, at least 1.
        clip_norm: largest norm of the gradient, None for no clipping.
        noise_sigma: Gaussian noise added to training images, in units of pixels in [0, 1].
        seed: of the sampled modes.

    Raises:
        ValueError: the scheme does not suit the network's modes.
    """

    def __init__(
        self,
        network: QuantizableNetwork,
        scheme: str | Scheme = "quantizable",
        optimizer: OptimizerConfig | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        noise_sigma: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.scheme = get_scheme(scheme)
        self.scheme.check(network.modes)
        if accumulate < 1:
            raise ValueError(f"accumulate is {accumulate}; it counts batches per optimizer step, at least 1")
        if noise_sigma < 0:
            raise ValueError(f"noise_sigma is {noise_sigma}; it is a standard deviation, at least 0")
        self.optimizer = optimizer or OptimizerConfig()
        self.accumulate, self.clip_norm, self.noise_sigma, self.seed = (
            accumulate,
            clip_norm,
            noise_sigma,
            seed,
        )

    # -- the task ----------------------------------------------------------------------------------

    def loss(self, output: Any, batch: Any) -> Tensor:
        """The task's loss, a scalar, of one mode's output on a batch."""
        raise TypeError(f"{type(self).__name__} must define loss(output, batch)")

    def inputs(self, batch: Any) -> Tensor:
        """What of a batch goes into the network; the first entry unless overridden."""
        return batch[0]

    def teaching(self, output: Any) -> Tensor:
        """What of a mode's output lower modes learn from, and are compared in; the output itself unless overridden."""
        return output

    # -- switching, as on the network --------------------------------------------------------------

    def set_bits(self, bits: Assignment, default: Any = None) -> None:
        """Switch the network; see :meth:`QuantizableNetwork.set_bits`."""
        self.network.set_bits(bits, default)

    def at_bits(self, bits: Assignment, default: Any = None) -> AbstractContextManager[QuantizableNetwork]:
        """Switch for the length of a ``with`` block."""
        return self.network.at_bits(bits, default)

    @property
    def bits(self) -> Any:
        """The current assignment."""
        return self.network.bits

    @property
    def modes(self) -> list[BitMode]:
        """The modes that the network holds."""
        return self.network.modes

    def forward(self, x: Tensor) -> Any:
        return self.network(x)

    # -- training ----------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Set the activations' step sizes from training batches, unless a checkpoint brought them."""
        if not all(bool(q.initialised) for q in self.network.quantizers().values() if len(q.levels)):
            datamodule = getattr(self.trainer, "datamodule", None)
            if datamodule is not None:
                loader = datamodule.train_dataloader()
            else:
                self.trainer.fit_loop.setup_data()
                loader = self.trainer.train_dataloader
            self.network.calibrate(self.inputs(batch) for batch in loader)  # type: ignore[union-attr]
            self._share_calibration()

    def _share_calibration(self) -> None:
        """Every process takes the step sizes of the first, which saw other images."""
        if self.trainer.world_size > 1:
            states: list[Any] = [{n: q.state_dict() for n, q in self.network.quantizers().items()}]
            dist.broadcast_object_list(states, src=0)
            for name, quantizer in self.network.quantizers().items():
                quantizer.load_state_dict(states[0][name])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        step = self.trainer.current_epoch * 1_000_000 + batch_idx
        x = self._with_noise(self.inputs(batch), step)
        visits = self.scheme.sampler.visits(self.modes, list(self.network.layers()), self.seed, step)
        teachers: list[Tensor] = []
        losses: dict[str, Tensor] = {}
        last_of_step = (
            batch_idx + 1
        ) % self.accumulate == 0 or batch_idx + 1 == self.trainer.num_training_batches
        for visit in visits:
            self._enter(visit)
            with self._without_sync():
                output = self.network(x)
                task_loss = self.loss(output, batch)
                loss = self.scheme.objective(self.teaching(output), task_loss, teachers)
                self.manual_backward(loss / self.accumulate)
            teachers.append(self.teaching(output).detach())
            losses[visit.name if isinstance(visit, BitMode) else f"mixed{len(losses)}"] = task_loss.detach()
            if self.scheme.step_per_mode and last_of_step:
                self._check(losses)
                self._step(optimizer)
        self._check(losses)
        if last_of_step:
            if not self.scheme.step_per_mode:
                self._step(optimizer)
            self._schedule()
        self._enter(self.modes[-1])
        for name, value in losses.items():
            self.log(f"train/loss/{name}", value, on_step=False, on_epoch=True, batch_size=len(x))
        self.log(
            "train/loss", sum(losses.values()) / len(losses), on_step=True, on_epoch=True, batch_size=len(x)
        )

    def _enter(self, visit: BitMode | dict[str, BitMode]) -> None:
        if isinstance(visit, BitMode):
            self.network.set_bits(visit)
        else:
            self.network.set_layer_modes(visit)

    def _with_noise(self, x: Tensor, step: int) -> Tensor:
        if not self.noise_sigma:
            return x
        std = getattr(getattr(self.trainer, "datamodule", None), "std", None)
        scale = torch.as_tensor(1.0 if std is None else std, device=x.device, dtype=x.dtype).reshape(-1, 1, 1)
        generator = torch.Generator().manual_seed(
            (self.seed * 1_000_003 + step) * 64 + self.trainer.global_rank
        )
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        return x + noise * (self.noise_sigma / scale)

    def _check(self, losses: dict[str, Tensor]) -> None:
        names, values = list(losses), torch.stack([value.float() for value in losses.values()])
        if not torch.isfinite(values).all():
            bad = [n for n, v in zip(names, values.tolist(), strict=True) if not v - v == 0]
            raise RuntimeError(
                f"the loss of mode {', '.join(bad)} is not finite in epoch {self.trainer.current_epoch}, step "
                f"{self.trainer.global_step}; lower the learning rate or clip gradients (the last checkpoint is intact)"
            )

    def _without_sync(self) -> AbstractContextManager[None]:
        return self.trainer.strategy.block_backward_sync() if self._sums_gradients() else nullcontext()  # type: ignore[attr-defined]

    def _sums_gradients(self) -> bool:
        return self.trainer.world_size > 1 and hasattr(self.trainer.strategy, "block_backward_sync")

    def _step(self, optimizer: Any) -> None:
        if self._sums_gradients():
            average_gradients(self.network.parameters())
        if self.clip_norm is not None:
            self.clip_gradients(optimizer, gradient_clip_val=self.clip_norm, gradient_clip_algorithm="norm")
        if self.scheme.damp_scales:
            damp_scales(optimizer)
        optimizer.step()
        optimizer.zero_grad()

    def _schedule(self) -> None:
        scheduler = self.lr_schedulers()
        if scheduler is not None:
            scheduler.step()  # type: ignore[union-attr, call-arg]

    def configure_optimizers(self) -> Any:
        """Optimizer and per-step schedule from :class:`OptimizerConfig`."""
        batches = int(self.trainer.estimated_stepping_batches)
        return configure(
            self.optimizer, parameter_groups(self.network, self.optimizer), -(-batches // self.accumulate)
        )

    # -- evaluation: the same for validation and test -----------------------------------------------

    def outputs_by_mode(self, batch: Any) -> Iterator[tuple[BitMode, Any]]:
        """Each mode's output on a batch, from the highest mode to the lowest."""
        for mode in reversed(self.modes):
            with self.network.at_bits(mode):
                yield mode, self.network(self.inputs(batch))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Any, stage: str) -> None:
        size = len(self.inputs(batch))
        for mode, output in self.outputs_by_mode(batch):
            loss = self.loss(output, batch)
            self.log(
                f"{stage}/loss/{mode.name}",
                loss,
                on_step=False,
                on_epoch=True,
                batch_size=size,
                sync_dist=True,
            )


class QuantizableClassifier(MultiModeModule):
    """A classifier in every mode: cross-entropy, and per mode top-1, top-5 and disagreement with the highest mode.

    >>> module = QuantizableClassifier("resnet18", num_classes=100, bits=[2, 4, 8, 32])    # doctest: +SKIP
    >>> Trainer(max_epochs=90).fit(module, datamodule)                                      # doctest: +SKIP

    Args:
        model: a name for :func:`quantizable.models.create_model`, or a float network.
        num_classes: classes.
        bits: the modes.
        quantizer: see :func:`quantizable.quantize`.
        weights: a file of float weights to start from, or None.
        reset_head: with ``weights``: keep the new classifier.
        model_options: further arguments of ``create_model`` (``in_chans``, ``pretrained``, ``cifar_stem``, ...).
        quantize_options: further arguments of ``quantize``.
        optimizer: settings as a dictionary, see :class:`OptimizerConfig`.
        scheme: a name or a :class:`Scheme`.
        label_smoothing: in [0, 1).
        **training: ``accumulate``, ``clip_norm``, ``noise_sigma`` and ``seed`` of :class:`MultiModeModule`.
    """

    def __init__(
        self,
        model: str | nn.Module,
        num_classes: int,
        bits: Sequence[Any] = (2, 4, 8, 32),
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
        from quantizable.build import build_network

        network = build_network(
            model, num_classes, bits, quantizer, weights, reset_head, model_options, quantize_options
        )
        config = optimizer if isinstance(optimizer, OptimizerConfig) else OptimizerConfig(**(optimizer or {}))
        super().__init__(network, scheme, config, **training)
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.architecture = {
            "model": model if isinstance(model, str) else None,
            "num_classes": num_classes,
            "model_options": dict(model_options or {}),
        }
        self.metrics = nn.ModuleDict(
            {f"{stage}_{mode.name}": self._metrics() for stage in ("val", "test") for mode in network.modes}
        )

    def _metrics(self) -> MetricCollection:
        top5 = MulticlassAccuracy(self.num_classes, top_k=min(5, self.num_classes), average="micro")
        top1 = MulticlassAccuracy(self.num_classes, average="micro")
        metrics: dict[str, Any] = {
            "loss": MeanMetric(),
            "top1": top1,
            "top5": top5,
            "disagreement": MeanMetric(),
        }
        return MetricCollection(metrics, compute_groups=False)

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(output.float(), batch[1], label_smoothing=smoothing)

    def _evaluate(self, batch: Any, stage: str) -> None:
        target = batch[1]
        reference: Tensor | None = None
        for mode, logits in self.outputs_by_mode(batch):
            logits = logits.float()
            reference = logits.argmax(1) if reference is None else reference
            metrics: Any = self.metrics[f"{stage}_{mode.name}"]
            metrics["loss"].update(F.cross_entropy(logits, target), len(target))
            metrics["top1"].update(logits, target)
            metrics["top5"].update(logits, target)
            metrics["disagreement"].update((logits.argmax(1) != reference).float())

    def _log_metrics(self, stage: str) -> None:
        top1 = []
        for mode in self.modes:
            metrics: Any = self.metrics[f"{stage}_{mode.name}"]
            values = metrics.compute()
            metrics.reset()
            top1.append(values["top1"])
            self.log_dict({f"{stage}/{name}/{mode.name}": value for name, value in values.items()})
        self.log(f"{stage}/top1/mean", torch.stack(top1).mean(), prog_bar=True)
        self.log(f"{stage}/top1/lowest", torch.stack(top1).min(), prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what :func:`quantizable.load` needs to build the network again, in plain types."""
        from quantizable.checkpoint import describe

        checkpoint["quantizable"] = describe(self)


def average_gradients(parameters: Iterator[nn.Parameter]) -> None:
    """Mean of the gradients over all processes, by one all-reduce of one flat tensor per type."""
    grads = [p.grad for p in parameters if p.grad is not None]
    for dtype in {g.dtype for g in grads}:
        same = [g for g in grads if g.dtype == dtype]
        flat = torch.cat([g.flatten() for g in same])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for grad, mean in zip(same, flat.split([g.numel() for g in same]), strict=True):
            grad.copy_(mean.view_as(grad))


def damp_scales(optimizer: Any) -> None:
    """Shrink the gradient of each step size by ``1 - mean min(|gradient|, 1)`` (see :class:`Scheme`)."""
    for group in optimizer.param_groups:
        if group.get("name") == "quantizers":
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad *= 1 - parameter.grad.abs().clamp(max=1).mean()
