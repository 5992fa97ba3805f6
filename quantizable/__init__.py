"""One network, every bit-width: train once, switch the precision at run time.

>>> import timm, quantizable                                         # doctest: +SKIP
>>> network = quantizable.quantize(timm.create_model("resnet18"))    # doctest: +SKIP
>>> network.set_bits(4)                                              # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantizable.bits import BitMode
    from quantizable.convert import quantize, to_float
    from quantizable.network import QuantizableNetwork
    from quantizable.quantizers import QUANTIZERS
    from quantizable.storage.load import load
    from quantizable.training.classifier import QuantizableClassifier
    from quantizable.training.module import MultiModeModule

HOMES = {
    "BitMode": "bits",
    "MultiModeModule": "training.module",
    "QUANTIZERS": "quantizers",
    "QuantizableClassifier": "training.classifier",
    "QuantizableNetwork": "network",
    "load": "storage.load",
    "quantize": "convert",
    "to_float": "convert",
}


def __getattr__(name: str) -> Any:
    # imported when asked for: the core works without Lightning, and a wrong setting is refused before torch
    # is read
    if name in HOMES:
        return getattr(import_module(f"quantizable.{HOMES[name]}"), name)
    raise AttributeError(f"module 'quantizable' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])


__version__ = "0.1.0"
__all__ = [
    "QUANTIZERS",
    "BitMode",
    "MultiModeModule",
    "QuantizableClassifier",
    "QuantizableNetwork",
    "load",
    "quantize",
    "to_float",
]
