"""One network, every bit-width: train once, switch the precision at run time.

>>> import timm, quantizable                                         # doctest: +SKIP
>>> network = quantizable.quantize(timm.create_model("resnet18"))    # doctest: +SKIP
>>> network.set_bits(4)                                              # doctest: +SKIP
"""

from quantizable.bits import BitMode
from quantizable.convert import quantize, to_float
from quantizable.network import QuantizableNetwork
from quantizable.quantizers import QUANTIZERS

__version__ = "0.1.0"
__all__ = ["QUANTIZERS", "BitMode", "QuantizableNetwork", "quantize", "to_float"]
