"""An assignment of bits to layers as a YAML file that belongs to one network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from quantizable.bits import BitMode, ModeLike
from quantizable.calibrate import input_of
from quantizable.network import QuantizableNetwork
from quantizable.nn.layer_modes import plain_mode
from quantizable.nn.missing_modes import nearest
from quantizable.report.files import write_text
from quantizable.storage.digests import fingerprint

FORMAT = 2  # 1: its fingerprint did not cover step sizes and norms


@dataclass(frozen=True)
class SavedAssignment:
    """Bits per layer, and what the layers' norms need to fit them.

    Attributes:
        bits: the mode of each layer, as ``set_bits`` takes it.
        norm_batches: batches of training data to re-estimate the norms with; 0: the modes' own norms.
        norm_noise: standard deviation of the Gaussian noise on them, in pixels of [0, 1]: of a network that
            will see noise.
        about: how it was found (method, score, cost), for the reader only.
    """

    bits: Mapping[str, ModeLike]
    norm_batches: int = 0
    norm_noise: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)

    def apply(
        self, network: QuantizableNetwork, loader: Iterable[Any] = (), std: Sequence[float] = (1.0,)
    ) -> None:
        """Switch the network to it, adding the modes that it mixes and fitting the norms.

        The norms are those of the network's own modes, which are then no longer as they were trained. Give a
        copy, or use :meth:`hold`.

        Args:
            network: the network that it was made for.
            loader: training batches; needed only if ``norm_batches`` is above 0.
            std: by which their channels were divided; needed only if ``norm_noise`` is above 0.

        Raises:
            ValueError: a width that the network was not built for, or the loader is empty.
        """
        layers = network.layers()
        free = [n for n in self.bits if getattr(layers.get(n), "fixed_bits", None) is None]
        add_modes(network, (BitMode.parse(self.bits[name]) for name in free))
        network.set_bits(self.bits)
        if self.norm_batches:
            inputs = noisy_inputs(loader, self.norm_noise, std) if self.norm_noise else loader
            network.reestimate_norms(inputs, batches=self.norm_batches)

    def hold(
        self,
        network: QuantizableNetwork,
        name: str,
        loader: Iterable[Any] = (),
        std: Sequence[float] = (1.0,),
    ) -> None:
        """Add it to the network as a mode of that name, and fit the norms of its own.

        Args: as of :meth:`apply`.

        Raises:
            ValueError: as :meth:`QuantizableNetwork.add_assignment`, or the loader is empty.
        """
        network.add_assignment(name, self.bits)
        if self.norm_batches:
            inputs = noisy_inputs(loader, self.norm_noise, std) if self.norm_noise else loader
            network.reestimate_norms(inputs, [name], self.norm_batches)


def noisy_inputs(loader: Iterable[Any], sigma: float, std: Sequence[float]) -> Iterator[Tensor]:
    """The inputs of batches with Gaussian noise, the same in every call.

    Args:
        loader: of batches ``[B, C, H, W]``, or tuples and mappings whose first entry is one.
        sigma: standard deviation in pixels of [0, 1].
        std: by which the channels were divided.
    """
    generator = torch.Generator().manual_seed(0)
    for batch in loader:
        x = input_of(batch)
        scale = sigma / torch.tensor(std).reshape(-1, 1, 1)
        yield x + (torch.randn(x.shape, generator=generator) * scale).to(x)


def add_modes(network: QuantizableNetwork, modes: Iterable[BitMode]) -> list[BitMode]:
    """Add the modes that the network lacks, each with the norms of the mode nearest to it; returns those.

    Raises:
        ValueError: a layer lacks a bit-width: its step size would have to be calibrated first.
    """
    missing, held = sorted(set(modes) - set(network.modes)), list(network.modes)
    for new in missing:
        for name, layer in network.layers().items():
            try:
                layer.check(new)
            except ValueError as error:
                raise ValueError(f"mode {new.name} cannot be added; layer {name!r}: {error}") from None
        network.add_mode(new, like=nearest(new, held))
    return missing


def write_assignment(path: Path, network: QuantizableNetwork, assignment: SavedAssignment) -> None:
    """Write the file, with the fingerprint of its network."""
    contents = {
        "format": FORMAT,
        "network": fingerprint(network),
        "norm_batches": assignment.norm_batches,
        "norm_noise": assignment.norm_noise,
        "about": dict(assignment.about),
        "bits": {name: plain_mode(BitMode.parse(mode)) for name, mode in assignment.bits.items()},
    }
    write_text(path, yaml.safe_dump(contents, sort_keys=False))


def read_assignment(path: str | Path, network: QuantizableNetwork) -> SavedAssignment:
    """The assignment in a file of :func:`write_assignment`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no assignment, or that of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no assignment file {path}; `quantizable search bits` writes one")
    try:
        contents = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML file: {str(error).splitlines()[0]}") from error
    if not isinstance(contents, dict) or not isinstance(contents.get("bits"), dict):
        raise ValueError(f"{path} is no assignment of bits; `quantizable search bits` writes one")
    if contents.get("format") != FORMAT:
        raise ValueError(f"{path} has format {contents.get('format')}; this version reads format {FORMAT}")
    if contents.get("network") != (own := fingerprint(network)):
        raise ValueError(
            f"{path} was made for another network (fingerprint {contents.get('network')}, here {own}); "
            "use the checkpoint that it was searched on, or search anew"
        )
    batches = contents.get("norm_batches", 0)
    if type(batches) is not int or batches < 0:  # bool is an int, too
        raise ValueError(f"{path}: norm_batches is {batches!r}; it is an integer of at least 0")
    noise = contents.get("norm_noise", 0.0)
    if not isinstance(noise, int | float) or not 0 <= noise < float("inf"):
        raise ValueError(f"{path}: norm_noise is {noise!r}; it is a finite number of at least 0")
    return SavedAssignment(contents["bits"], batches, noise, contents.get("about") or {})
