"""One network, every bit-width: train once, switch the precision at run time.

>>> import timm, quantizable                                         # doctest: +SKIP
>>> network = quantizable.quantize(timm.create_model("resnet18"))    # doctest: +SKIP
>>> network.set_bits(4)                                              # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from quantizable.interface.lazy import lazy

if TYPE_CHECKING:
    from quantizable.bits import BitMode
    from quantizable.convert import quantize, to_float
    from quantizable.measure.coverage import Coverage, coverage
    from quantizable.network import QuantizableNetwork
    from quantizable.quantizers import QUANTIZERS
    from quantizable.storage.load import load
    from quantizable.training.classifier import QuantizableClassifier
    from quantizable.training.module import MultiModeModule

HOMES = {
    "BitMode": "bits",
    "Coverage": "measure.coverage",
    "MultiModeModule": "training.module",
    "QUANTIZERS": "quantizers",
    "QuantizableClassifier": "training.classifier",
    "QuantizableNetwork": "network",
    "coverage": "measure.coverage",
    "load": "storage.load",
    "quantize": "convert",
    "to_float": "convert",
}


# imported when asked for: the core works without Lightning, and a wrong setting is refused before torch is
# read
__getattr__, __dir__ = lazy(__name__, HOMES)

__version__ = "0.1.0"
__all__ = [
    "QUANTIZERS",
    "BitMode",
    "Coverage",
    "MultiModeModule",
    "QuantizableClassifier",
    "QuantizableNetwork",
    "coverage",
    "load",
    "quantize",
    "to_float",
]
