"""Training all modes of a network together, in anybody's Lightning ``Trainer``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.bits import BitMode
from quantizable.interface.lightning_package import pl
from quantizable.network import QuantizableNetwork
from quantizable.nn.kept_weights import KeptWeights
from quantizable.nn.network_inputs import Inputs, network_inputs, run_on
from quantizable.seeds import key_seed
from quantizable.training import schedulers
from quantizable.training.batch_transforms import Standard, Strategy, entry, with_noise
from quantizable.training.first_step_sizes import set_first_step_sizes
from quantizable.training.network_module import NetworkModule
from quantizable.training.objectives import Consistency, mean_squared_error
from quantizable.training.optim import (
    OptimizerConfig,
    configure,
    optimizer_config,
    parameter_groups,
    positive_parameters,
)
from quantizable.training.optimizer_step import hand_on_kept, take_step, without_sync
from quantizable.training.samplers import Only, Visit, visits
from quantizable.training.schemes import Scheme, get_scheme
from quantizable.training.settings import plain


class MultiModeModule(NetworkModule):
    """One training step that visits several modes, for any task.

    Modes are visited one after another, each with its own forward and backward pass, so that the memory of a
    step does not grow with their number; gradients add up and, unless the scheme says otherwise, the
    optimizer steps once. Processes of a distributed run exchange gradients once per optimizer step.

    A subclass gives :meth:`loss`; its outputs are tensors, or ``teaching`` says what of them a lower mode
    imitates. Layers of the subclass beside the network, a head for example, are trained too and stay float.

    Args:
        network: a quantizable network.
        scheme: a name of ``training.schemes.SCHEMES``, made for logits, or a :class:`Scheme`; by default the
            quantizable scheme with squared distances between outputs, which mean something for every task.
        optimizer: settings of optimizer and schedule: an :class:`OptimizerConfig`, or a dictionary of its
            fields.
        accumulate: batches per optimizer step, at least 1.
        clip_norm: largest norm of the gradient, None for no clipping.
        keep_weights: quantize weights once per optimizer step, not once per batch (``accumulate`` above 1,
            eager); each quantized mode takes the memory of two more weights.
        noise_sigma: Gaussian noise added to training images, in units of pixels in [0, 1].
        seed: of sampled modes, noise, attacks and mixing; runs of two seeds share no draw.
        strategy: changes training batches of (images, labels): attacks, mixing; None: leaves them.
        teacher: a trained float network, whose output is a teacher above the highest mode (Hinton et al.
            2015, arXiv:1503.02531): the quantizable scheme teaches all modes by it, recursive ones the
            highest. It is put into evaluation mode and frozen here, and is in no checkpoint. None: the
            highest mode learns from the labels alone.

    Raises:
        ValueError: the scheme does not suit the network's modes, or a number is out of range.
    """

    teacher: nn.Module | None

    def __init__(
        self,
        network: QuantizableNetwork,
        scheme: str | Scheme | None = None,
        optimizer: OptimizerConfig | dict[str, Any] | None = None,
        *,
        accumulate: int = 1,
        clip_norm: float | None = None,
        keep_weights: bool = False,
        noise_sigma: float = 0.0,
        seed: int = 0,
        strategy: Strategy | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(network, "set_bits"):
            raise TypeError(
                f"network is a float {type(network).__name__}; give quantizable.quantize(network, bits=...)"
            )
        self.automatic_optimization = False
        self.network = network
        self.scheme = get_scheme(scheme or Scheme(objective=Consistency(distance=mean_squared_error)))
        self.scheme.check(network.modes)
        for name in self.trained:
            network.check_held(name)
        if not isinstance(accumulate, int) or accumulate < 1:
            raise ValueError(f"accumulate is {accumulate}; it counts batches per optimizer step, at least 1")
        if keep_weights and accumulate == 1:
            raise ValueError("keep_weights=True saves nothing with accumulate=1; give accumulate above 1")
        self.scheme.check_training(accumulate, teacher is not None)
        if not 0 <= noise_sigma < float("inf"):
            raise ValueError(f"noise_sigma is {noise_sigma}; it is a finite standard deviation, at least 0")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm is {clip_norm}; it must be greater than 0, or None for no clipping")
        self.optimizer, self.strategy = optimizer_config(optimizer), strategy
        self.accumulate, self.clip_norm = accumulate, clip_norm
        self.keep_weights, self._kept_weights = keep_weights, KeptWeights(keep_weights)
        self.noise_sigma, self.seed = noise_sigma, seed
        self.scheduler_settings: dict[int, dict[str, Any]] = {}  # see Schedulers
        # no submodule: neither trained nor saved
        self.__dict__["teacher"] = None if teacher is None else teacher.eval().requires_grad_(False)
        self.save_hyperparameters(
            plain(
                {
                    "network": f"<{network.config['quantizer']}, modes {', '.join(map(str, network.modes))}>",
                    "scheme": scheme,
                    "optimizer": asdict(self.optimizer),
                    "accumulate": accumulate,
                    "clip_norm": clip_norm,
                    "keep_weights": keep_weights,
                    "noise_sigma": noise_sigma,
                    "seed": seed,
                    "strategy": None if strategy == Standard() else strategy,
                    "teacher": teacher,
                }
            )
        )

    @property
    def trained(self) -> list[str]:
        """Names of the modes and assignments that are trained: all, unless the scheme trains some alone."""
        sampler = self.scheme.sampler
        if not isinstance(sampler, Only):
            return self.names
        return [self.network.check_held(name).name for name in sampler.modes]  # w4a4 is mode 4

    @property
    def evaluated(self) -> list[str]:
        """The names of what is trained and of the highest mode, in the order of :attr:`names`."""
        return [name for name in self.names if name in (*self.trained, str(self.modes[-1]))]

    # -- the task ----------------------------------------------------------------------------------

    def loss(self, output: Any, batch: Any) -> Tensor:
        """The task's loss, a scalar, of one mode's output on a batch."""
        raise TypeError(f"{type(self).__name__} must define loss(output, batch)")

    def inputs(self, batch: Any) -> Any:
        """What of a batch goes into the network, read as ``calibrate`` does: one argument, or ``Inputs``."""
        read = network_inputs(self.network.model, batch)
        plain = type(read) is Inputs and not read.kwargs and len(read.args) == 1
        return read.args[0] if plain else read

    def targets(self, batch: Any) -> Tensor:
        """What of a batch the outputs are compared with; the second entry unless overridden."""
        return entry(batch, 1, f"{type(self).__name__} must define targets(batch)")

    def teaching(self, output: Any) -> Tensor:
        """What of a mode's output lower modes learn from; the output itself unless overridden."""
        if not isinstance(output, Tensor):
            raise TypeError(
                f"the network gives a {type(output).__name__}, not a tensor: {type(self).__name__} must "
                'define teaching(output), the tensor that lower modes learn from, or take scheme="adabits", '
                "in which every mode learns from the labels alone"
            )
        return output

    # -- training ----------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[pl.Callback]:
        """What steps the schedulers; a Trainer asks for it before it refuses these in words of its own."""
        fits = self._trainer is not None and self.trainer.state.fn == pl.trainer.states.TrainerFn.FITTING
        return schedulers.callbacks_for(self.trainer) if fits else []

    def on_fit_start(self) -> None:
        """Set the activations' step sizes from training batches, unless a checkpoint brought them.

        A network that is in evaluation mode as a whole, as ``quantizable.load`` gives it, is put into
        training mode first; Lightning does not. So is the module, as ``scale_batch_size(method="validate")``
        leaves it. Of a network that trains in part, the other parts (frozen norms, say) stay as they are.
        """
        schedulers.require(self)
        if not any(module.training for module in self.modules()):
            self.train()
        if not any(part.training for part in self.network.modules()):
            self.network.train()
        self._prepare()

    def on_train_start(self) -> None:
        """The same for the trial of a tuner, which trains before the fit has started."""
        if self._on_trial:
            self._prepare()

    def _prepare(self) -> None:
        self._kept_weights.forget()
        if self.teacher is not None:
            self.trainer.precision_plugin.convert_module(self.teacher).to(self.device)
        set_first_step_sizes(self)
        self._step_sizes = positive_parameters(self.network)

    @property
    def _on_trial(self) -> bool:
        """True while Lightning's search for a learning rate or a batch size trains, without any callback."""
        return not schedulers.has_schedulers(self.trainer)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Visit the modes of this step, and step the optimizer; the mean of their losses."""
        step = self.trainer.current_epoch << 32 | batch_idx  # another for each batch of the run
        # or dropout would draw in every process what it draws in the first
        if batch_idx == 0 and self.global_rank > 0:
            torch.manual_seed(key_seed("dropout", self.seed, self.trainer.current_epoch, self.global_rank))
        if self.strategy is not None:
            batch = self.strategy(self, batch, step)
        x = with_noise(self, self.inputs(batch), self.noise_sigma, step)
        chosen = self._visits(step)
        # a search counts one step to a batch
        accumulate, step_per_mode = self.accumulate, self.scheme.step_per_mode
        if self._on_trial:
            accumulate, step_per_mode = 1, False
        ends = (batch_idx + 1) % accumulate == 0 or self.trainer.is_last_batch
        teachers = self._from_the_teacher(x)
        losses: dict[str, Tensor] = {}  # of the task, as logged
        totals: dict[str, Tensor] = {}
        for visit in chosen:
            name = f"mixed{len(losses)}" if isinstance(visit, dict) else str(visit)
            self._enter(visit)
            with without_sync(self.trainer), self._kept_weights.used(self.network):
                output = run_on(self.network, x)
                losses[name] = self.loss(output, batch)
                teaching = losses[name] if self.scheme.learns_from_labels_alone else self.teaching(output)
                self._check_teacher(teaching, teachers)
                loss = self.scheme.objective(teaching, losses[name], teachers)
                self.manual_backward(loss / accumulate)
            teachers.append(teaching.detach())
            losses[name], totals[name] = losses[name].detach(), loss.detach()
            if step_per_mode:
                self._check(totals)
                self._step()
        self._check(totals)
        if ends and not step_per_mode:
            self._step()
        self._enter(self.modes[-1])
        for name, value in losses.items():
            self.log(f"train/loss/{name}", value, on_step=False, on_epoch=True, batch_size=len(x))
        mean = torch.stack([*losses.values()]).mean()
        self.log("train/loss", mean, on_step=True, on_epoch=True, batch_size=len(x))
        return mean

    def on_validation_model_zero_grad(self) -> None:
        """Before a validation between two batches: gradients that no step has used yet are kept."""
        hand_on_kept(self)

    def _step(self) -> None:
        take_step(self, self.clip_norm)
        if self._on_trial:
            schedulers.step_in_trial(self.trainer)

    @torch.no_grad()
    def _from_the_teacher(self, x: Any) -> list[Tensor]:
        return [] if self.teacher is None else [self.teaching(run_on(self.teacher, x)).detach()]

    def _check_teacher(self, output: Tensor, teachers: list[Tensor]) -> None:
        if self.teacher is not None and teachers[0].shape != output.shape:
            raise ValueError(
                f"the teacher's output has shape {tuple(teachers[0].shape)}, the network's "
                f"{tuple(output.shape)}; they must be alike, as a distance between them is to be minimized"
            )

    def _visits(self, step: int) -> list[Visit]:
        layers = {
            name: sum(p.numel() for p in one.parameters()) for name, one in self.network.layers().items()
        }
        named = [*self.network.assignments]
        return visits(self.scheme.sampler, self.modes, named, layers, self.seed, step)

    def _enter(self, visit: Visit) -> None:
        if isinstance(visit, dict):
            self.network.set_layer_modes(visit)
        else:
            self.network.set_bits(visit)

    def _check(self, losses: dict[str, Tensor], stage: str = "") -> None:
        """Stop before the optimizer takes a step that would spoil the weights, or they are kept."""
        finite = torch.stack([*losses.values()]).isfinite()
        if not finite.all() and self.trainer.training and self._on_trial:
            self.trainer.should_stop = True  # a search for the learning rate has gone far enough
        elif not finite.all():
            bad = ", ".join(name for name, ok in zip(losses, finite.tolist(), strict=True) if not ok)
            also = (
                "" if stage or self.network.training else ", or put the network into training mode: train()"
            )
            raise RuntimeError(
                f"the {stage}loss of mode {bad} is not finite in epoch {self.trainer.current_epoch}, step "
                f"{self.trainer.global_step}; lower the learning rate or clip gradients{also}"
                + ("" if stage == "test " else " (the last checkpoint is intact)")
            )

    def configure_optimizers(self) -> Any:
        """Optimizer and schedule from :class:`OptimizerConfig`.

        A subclass may return any form that Lightning allows; several optimizers step together.
        """
        self.network.refuse_integers("cannot be trained")
        steps = 1
        if self.optimizer.has_an_end:
            each = len(self._visits(0)) if self.scheme.step_per_mode else 1
            steps = schedulers.scheduled_steps(self.trainer, self.accumulate, each)
        return configure(self.optimizer, parameter_groups(self, self.optimizer), steps)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.configure_optimizers = schedulers.keep_settings(cls.configure_optimizers)  # type: ignore[method-assign]

    # -- evaluation: the same for validation and test -----------------------------------------------

    def outputs_by_mode(self, batch: Any) -> Iterator[tuple[BitMode | str, Any]]:
        """Each mode's output on a batch, from the highest mode to the lowest, then each assignment's.

        Where the scheme trains some alone, these and the highest mode, which they are compared with.
        """
        held: list[BitMode | str] = [*reversed(self.modes), *self.network.assignments]
        for mode in (one for one in held if str(one) in self.evaluated):
            with self.network.at_bits(mode):
                yield mode, run_on(self.network, self.inputs(batch))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluate_step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        # in float32, as `quantizable evaluate` measures and integers are deployed, whatever was trained in
        with torch.autocast(self.device.type, enabled=False):
            self.evaluate_step(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """The output of the current mode; a batch is as in training, or the inputs alone."""
        return run_on(self.network, batch if isinstance(batch, Tensor) else self.inputs(batch))

    def evaluate_step(self, batch: Any, stage: str) -> None:
        """What validation and test do with a batch: log every mode's loss. Override it for other metrics.

        Args:
            batch: as :meth:`loss` takes it.
            stage: ``"val"`` or ``"test"``, the first part of what is logged.
        """
        size = len(self.inputs(batch))
        losses: dict[str, Tensor] = {}
        for mode, output in self.outputs_by_mode(batch):
            loss = losses[str(mode)] = self.loss(output, batch)
            self.log(f"{stage}/loss/{mode}", loss, on_epoch=True, batch_size=size, sync_dist=True)
        self._check(losses, f"{stage} ")
