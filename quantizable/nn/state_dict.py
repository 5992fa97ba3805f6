"""Names of tensors in state dicts that other programs wrote."""

from collections.abc import Iterable, Mapping
from typing import Any

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
