"""Names of tensors in state dicts that other programs, or float networks, wrote."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from quantizable.nn.norms import PerModeNorm

PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, other programs


def without_prefix(found: Mapping[str, Any], wanted: Iterable[str]) -> Mapping[str, Any]:
    """``found`` without a prefix that all its keys share and the network's keys do not."""
    for prefix in PREFIXES:
        if (
            found
            and all(key.startswith(prefix) for key in found)
            and not any(key.startswith(prefix) for key in wanted)
        ):
            return without_prefix({key.removeprefix(prefix): found[key] for key in found}, wanted)
    return found


def for_each_mode(state_dict: Mapping[str, Tensor], norms: Mapping[str, PerModeNorm]) -> dict[str, Tensor]:
    """A float network's tensors by the keys of a switchable one: each mode's norm gets the float norm's.

    Args:
        state_dict: of the float network.
        norms: the norms kept per mode, by name.
    """
    wanted: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        owner, _, leaf = key.rpartition(".")
        if owner in norms:  # clones, as with assign=True the modes would share their statistics
            wanted |= {f"{owner}.norms.{mode}.{leaf}": value.clone() for mode in norms[owner].norms}
        else:
            wanted[key] = value
    return wanted
