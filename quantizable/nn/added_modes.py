"""Modes that a network is given after it was made: one more width, or an assignment under a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantizable.bits import BitMode, ModeLike
from quantizable.nn.layer_modes import NamedModes, check_name, held, modes_by_pattern, plain_mode
from quantizable.nn.missing_modes import nearest
from quantizable.nn.model_attributes import ModelAttributes
from quantizable.nn.norms import PerModeNorm

ASSIGNMENTS = "assignments"  # key of a network's config: by name, the mode of each layer in plain words


class AddedModes(ModelAttributes):
    """Adds modes to a network; what it holds then is in its ``config``, and so in every checkpoint."""

    added: set[BitMode]
    _warned: list[bool]

    def add_mode(self, mode: ModeLike, like: ModeLike) -> None:
        """Hold one more mode: ``add_mode("w4a8", like=4)``, ``add_mode(3, like=4)``.

        Its norms start as copies of those of ``like``; ``reestimate_norms`` fits them. Step sizes of a
        bit-width that the quantizers lack start from the weights; for activations call
        ``calibrate(loader, modes=[mode])``. Add modes before an optimizer is made: they have parameters.

        Raises:
            ValueError: the mode is there already, ``like`` is not, or a quantizer is not defined at one of
                the bit-widths. The network stays as it was.
        """
        new, source = BitMode.parse(mode), held(self.modes, like)
        if new in self.modes:
            raise ValueError(f"the network has mode {new.name} already")
        self.refresh()
        layers, norms = self._layers_and_norms()
        for name, layer in layers.items():
            try:
                layer.check_widths(new)
            except ValueError as error:
                raise ValueError(f"mode {new.name} cannot be added; layer {name!r}: {error}") from None
        for layer in layers.values():
            layer.add_widths(new)
        for norm in norms.values():
            norm.add_mode(new, source)
        self.modes = sorted([*self.modes, new])
        self.added.add(new)
        self._warned.clear()
        self.config = {**self.config, "bits": [one.name for one in self.modes]}  # a checkpoint holds it too

    def add_assignment(
        self, name: str, bits: Mapping[str, ModeLike], default: ModeLike | None = None
    ) -> None:
        """Hold bits per layer as one more mode: ``add_assignment("found", {...})``, ``set_bits("found")``.

        It has norms of its own, which start as copies of those that ``set_bits(bits)`` would run, or of the
        nearest mode's; ``reestimate_norms`` fits them and training trains them. Its layers share the weights
        and the step sizes of the widths that they run at with the other modes. Add it before an optimizer is
        made: its norms have parameters.

        Args:
            name: letters, digits, ``-`` and ``_``, a letter first; no mode.
            bits: as :meth:`set_bits` takes it; a layer may run at any widths that its quantizers hold.
            default: the mode of the layers that no pattern matches.

        Raises:
            ValueError: such a name is not possible or taken, a pattern matches nothing, a layer is left
                without mode or lacks the width. The network stays as it was.
        """
        check_name(name)
        if not isinstance(bits, Mapping):
            raise ValueError(
                f"an assignment maps layers to modes, as {{'*': {bits!r}}}; {bits!r} alone does not"
            )
        if name in self.assignments:
            raise ValueError(f"the network has an assignment {name!r} already")
        self.refresh()
        asked = {BitMode.parse(mode) for mode in bits.values()}
        modes = modes_by_pattern(self._switchable, [*(asked - {*self.modes}), *self.modes], bits, default)
        layers, norms = self._layers_and_norms()
        for layer_name, layer in layers.items():
            try:
                layer.check(modes[layer_name])
            except ValueError as error:
                raise ValueError(f"{name!r} cannot be added; layer {layer_name!r}: {error}") from None
        for norm_name, norm in norms.items():
            norm.add_mode(name, nearest(modes[norm_name], self.modes))
        plain = {one: plain_mode(layer.resolve(modes[one])) for one, layer in layers.items()}
        self.config = {**self.config, ASSIGNMENTS: {**self.config.get(ASSIGNMENTS, {}), name: plain}}

    def add_assignments(self, assignments: Mapping[str, Mapping[str, ModeLike]]) -> None:
        """As :meth:`add_assignment`, for several by name."""
        for name, bits in assignments.items():
            self.add_assignment(name, bits)

    @property
    def assignments(self) -> dict[str, NamedModes]:
        """The assignments that it holds, by name."""
        return {name: self._assignment_of(name) for name in self.config.get(ASSIGNMENTS, {})}

    def check_held(self, mode: ModeLike) -> BitMode | NamedModes:
        """A mode or, by its name, an assignment, if the network holds it; else ``ValueError``."""
        named = self.config.get(ASSIGNMENTS, {})
        if isinstance(mode, str) and mode in named:
            return self._assignment_of(mode)
        return held(self.modes, mode, named)

    def _assignment_of(self, name: str) -> NamedModes:
        return NamedModes(name, self._switchable, self.modes[-1], self.config[ASSIGNMENTS][name])

    def _layers_and_norms(self) -> tuple[dict[str, Any], dict[str, PerModeNorm]]:
        layers = {n: m for n, m in self._switchable.items() if not isinstance(m, PerModeNorm)}
        return layers, {n: m for n, m in self._switchable.items() if isinstance(m, PerModeNorm)}
