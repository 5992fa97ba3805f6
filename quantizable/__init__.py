"""One network, every bit-width: train once, switch the precision at run time.

>>> import timm, quantizable                                         # doctest: +SKIP
>>> network = quantizable.quantize(timm.create_model("resnet18"))    # doctest: +SKIP
>>> network.set_bits(4)                                              # doctest: +SKIP
"""

from quantizable.bits import BitMode
from quantizable.convert import quantize, to_float
from quantizable.network import QuantizableNetwork
from quantizable.quantizers import QUANTIZERS


def __getattr__(name: str) -> object:
    # what needs Lightning is imported when it is asked for, so that the core works without
    if name == "QuantizableClassifier":
        from quantizable.classifier import QuantizableClassifier

        return QuantizableClassifier
    if name == "MultiModeModule":
        from quantizable.module import MultiModeModule

        return MultiModeModule
    if name == "load":
        from quantizable.deploy.load import load

        return load
    raise AttributeError(f"module 'quantizable' has no attribute {name!r}")


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
