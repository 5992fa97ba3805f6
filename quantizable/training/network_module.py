"""A Lightning module around a switchable network: what is asked of it beside training."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from quantizable.bits import BitMode
from quantizable.interface.lightning_package import pl
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.storage.checkpoint import read_checkpoint
from quantizable.training.description import describe
from quantizable.training.example_input import example_input
from quantizable.training.optim import OptimizerConfig
from quantizable.training.random_state import random_state, set_random_state
from quantizable.training.settings import check_given, plain


class NetworkModule(pl.LightningModule):
    """Switching, checkpoints that hold no code, and what ``Tuner`` and ``ModelSummary`` read.

    Attributes:
        network: the network, all of whose modes are trained.
        optimizer: settings of optimizer and schedule.
        architecture: how :func:`quantizable.load` builds the float network again; it is given one where
            that is not known.
    """

    network: QuantizableNetwork
    optimizer: OptimizerConfig

    def __init__(self) -> None:
        super().__init__()
        self.architecture: dict[str, Any] = {"model": None, "num_classes": None, "model_options": {}}

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

    @property
    def names(self) -> list[str]:
        """The names of the assignments that the network holds, and of its modes from the lowest on."""
        return [*self.network.assignments, *(mode.name for mode in self.modes)]

    def forward(self, x: Tensor) -> Any:
        return self.network(x)

    # -- for Lightning's tools ----------------------------------------------------------------------

    @property
    def lr(self) -> float:
        """The learning rate of :attr:`optimizer`; Lightning's ``Tuner`` and ``LearningRateFinder`` set it."""
        return self.optimizer.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self.optimizer = replace(self.optimizer, lr=float(value))
        self.save_hyperparameters({"optimizer": asdict(self.optimizer)})

    @property
    def example_input_array(self) -> Any:
        """What ``ModelSummary`` counts FLOPs by: as set, else as the data or the network are shaped."""
        given = super().example_input_array
        return example_input(self) if given is None else given

    @example_input_array.setter
    def example_input_array(self, example: Any) -> None:
        self._example_input_array = example

    # -- checkpoints ------------------------------------------------------------------------------

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool = True,
        **kwargs: Any,
    ) -> Any:
        """The module again, with the settings that the checkpoint keeps and those given here.

        No code from the file runs. :func:`quantizable.load` gives the network alone.

        Raises:
            FileNotFoundError, ValueError: as :func:`read_checkpoint`; or an object that the module was made
                with (a network, a scheme, a teacher of the user's own) is not given again.
        """
        if not weights_only:
            raise ValueError("weights_only=False would run code from the file; leave it out")
        contents = read_checkpoint(checkpoint_path)
        kept = contents.get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {})
        check_given(cls.__init__, kept, kwargs)
        settings = {**cls._settings_to_load(contents["quantizable"], kwargs), **kwargs}
        try:
            return super().load_from_checkpoint(
                checkpoint_path, map_location, hparams_file, strict, weights_only=True, **settings
            )
        except TypeError as error:
            if "required" not in str(error):
                raise
            raise TypeError(f"{error}: load_from_checkpoint(path, name=...)") from error

    @classmethod
    def _settings_to_load(cls, about: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the constructor that make a module for a checkpoint's weights."""
        return {}

    # the random state too: dropout goes on as if a resumed run had never stopped

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of torch's random generators, and what :func:`quantizable.load` reads."""
        checkpoint["quantizable"] = self.description()
        # a subclass that saves all its arguments saves objects, which no checkpoint may hold
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = plain(self.hparams)
        checkpoint["random"] = random_state()

    def description(self) -> dict[str, Any]:
        """What a checkpoint says of the network, see :func:`describe`."""
        datamodule = getattr(self.trainer, "datamodule", None) if self._trainer else None
        return describe(self.network, self.architecture, datamodule)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the random generators where a resumed run left them."""
        if self._trainer is not None and self.trainer.training and "random" in checkpoint:
            set_random_state(checkpoint["random"])
