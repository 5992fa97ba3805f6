"""A network around a model: what is set on it and belongs to the model reaches the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.bits import BitMode
from quantizable.nn.recomputation import ModeHistory
from quantizable.nn.structure import Structure, check_new, convert_new

OWN = ("model", "modes", "config", "added", "info")  # of the network, also where the model has such a name


class ModelAttributes(nn.Module):
    """Reads, sets and deletes the model's attributes as if they were its own.

    An attribute of the network itself stays its own. One that the model has (a layer, parameter, buffer,
    plain value) is the model's. A new plain value stays with the network; a new layer or parameter is
    refused, as the model would not use it and a checkpoint would hold it.
    """

    model: nn.Module
    modes: list[BitMode]
    config: dict[str, Any]
    info: dict[str, Any]
    _structure: Structure
    _history: ModeHistory

    def belongs_to_model(self, name: str, value: Any = None) -> bool:
        """Whether an attribute of that name is the model's; ``ValueError`` for a new layer or parameter."""
        if name in OWN or name in self.__dict__ or "model" not in self._modules:
            return False
        holds = isinstance(value, nn.Module | nn.Parameter)
        if hasattr(type(self), name):
            if holds:
                raise ValueError(
                    f"{name!r} is the network's own; to replace the model's write net.model.{name} = ..."
                )
            return False
        if hasattr(self.model, name):
            return True
        if holds:
            raise ValueError(
                f"the model has no {name!r} to replace, and would not use a new one; "
                f"to add it nevertheless write net.model.{name} = ..."
            )
        return False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model" or name.startswith("__"):
                raise
            if "_structure" in self.__dict__ and not torch.compiler.is_compiling():
                self.refresh()
            return getattr(super().__getattr__("model"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not self.belongs_to_model(name, value):
            super().__setattr__(name, value)
            return
        if isinstance(value, nn.Module):
            check_new(value, self.modes, within=name)
        setattr(self.model, name, value)
        if isinstance(value, nn.Module):
            self.refresh()

    def __delattr__(self, name: str) -> None:
        if self.belongs_to_model(name):
            delattr(self.model, name)
            self.refresh()
        else:
            super().__delattr__(name)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As assigning an attribute does."""
        if name == "model" or module is None:
            super().add_module(name, module)
        else:
            setattr(self, name, module)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As assigning an attribute does."""
        if param is not None and self.belongs_to_model(name, param):
            self.model.register_parameter(name, param)
        else:
            super().register_parameter(name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """The model's, if it has one of that name; a new one stays out of checkpoints only by asking."""
        if self.belongs_to_model(name):
            self.model.register_buffer(name, tensor, persistent)
        elif persistent:
            raise ValueError(
                f"the model has no {name!r}; write net.model.register_buffer({name!r}, ...), or "
                "persistent=False to keep it out of checkpoints"
            )
        else:
            super().register_buffer(name, tensor, persistent)

    # -- layers put in later -----------------------------------------------------------------------

    def _parts(self, kinds: Any) -> dict[str, Any]:
        """The modules of these classes by name, in the order in which the network registers them."""
        self.refresh()
        return {n: m for n, m in self.model.named_modules() if isinstance(m, kinds)}

    @property
    def _switchable(self) -> dict[str, Any]:
        return self._structure.switchable

    def _share_history(self) -> None:
        self._history.modules = self._switchable
        for module in self._switchable.values():
            module.history = self._history
        for norm in self._structure.shared_norms:
            self._history.watch(norm)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share_history()

    def refresh(self) -> None:
        """Convert layers that were put in the model after it was made, by the network's own config.

        A forward pass, ``set_bits``, ``state_dict``, ``named_modules`` and what rests on it
        (``parameters``) do so first; a compiled forward pass does not.

        Raises:
            ValueError: a new layer cannot be converted: its weights are lazy or computed by a hook, or it
                comes from a network of other modes.
        """
        before = self._structure
        before.follow()
        if before.fits(self.model):
            return
        self._structure = convert_new(self.model, before, self.modes, self.config)
        self._describe_again(before, self._structure)
        self._history.renew(self._switchable, before.switchable, self.modes)
        self._share_history()

    def _describe_again(self, before: Structure, now: Structure) -> None:
        """Say how many classes a new head has, where that was said; name no model that it is not."""
        info = dict(self.__dict__.get("info") or {})
        if now.classes is not None and now.classes != before.classes:
            if getattr(self.model, "num_classes", None) == before.classes:
                self.model.num_classes = now.classes  # type: ignore[assignment]
            if "num_classes" in info:
                info |= {"num_classes": now.classes, "class_names": None}
        if "model" in info and now.architecture != before.architecture:
            info["model"] = None  # it cannot be built by its name any more
        if info:
            self.info = info

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """As every module has, with new layers of the model converted."""
        self.refresh()
        yield from super().named_modules(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As every module has, with new layers of the model converted."""
        self.refresh()
        return super().state_dict(*args, **kwargs)
