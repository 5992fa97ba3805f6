"""The first step sizes of activations, from the batches that training is about to see."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

from quantizable import calibrate as fitting
from quantizable.interface.lightning_package import pl
from quantizable.interface.progress import progress
from quantizable.nn.network_inputs import Inputs
from quantizable.training.processes import share_quantizers

BATCHES = 8


def set_first_step_sizes(module: Any) -> None:
    """Set the step sizes that wait for data, in every process those of the first; others stay.

    Args:
        module: the :class:`quantizable.MultiModeModule` in training; its network, trainer and ``inputs`` are
            used.
    """
    if not _waits(module):
        return
    known = len([*module.parameters()])
    inputs = _training_inputs(module)
    if module.trainer.is_global_zero and module.trainer.progress_bar_callback is not None:
        inputs = progress(inputs, "fitting the first step sizes", BATCHES)
    with closing(inputs):  # a bar that is left open would stand above that of the training
        module.network.calibrate_lacking(inputs, BATCHES)
    if len([*module.parameters()]) > known:  # of products that the first batch showed
        module.trainer.strategy.setup_optimizers(module.trainer)
    if module.trainer.world_size > 1:
        share_quantizers(module.network)


def _waits(module: Any) -> bool:
    network = module.network
    begun = any(bool(q.initialised) for q in network.quantizers().values() if not q.starts_initialized())
    # a layer that no data reached before reaches none in a resumed run, which must draw the same numbers
    if begun and module.trainer.ckpt_path is not None:
        return bool(fitting.partly_lacking(network.model, network.modes))
    return any(fitting.lacking(network.model).values())


def _training_inputs(module: Any) -> Generator[Inputs, None, None]:
    """Inputs of training batches, as steps get them: after precision, device and the user's hooks."""
    trainer, combined = module.trainer, pl.utilities.CombinedLoader
    if trainer.datamodule is not None:
        loader = trainer.datamodule.train_dataloader()
    else:
        trainer.fit_loop.setup_data()
        loader = trainer.train_dataloader
    # several loaders give a batch together, as in a step
    together = loader if isinstance(loader, combined) else combined(loader, "max_size_cycle")
    for batch, _, _ in together:
        batch = trainer.precision_plugin.convert_input(batch)
        batch = module._on_before_batch_transfer(batch)
        x = module.inputs(trainer.strategy.batch_to_device(batch, module.device))
        yield x if isinstance(x, Inputs) else Inputs((x,))
