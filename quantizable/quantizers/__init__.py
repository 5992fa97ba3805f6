"""The published quantizers by name: what ``quantize(..., quantizer="lsq")`` chooses from."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from quantizable.quantizers.addend import LSQAddend, LSQRange, Unrounded
from quantizable.quantizers.base import Level, Quantizer
from quantizable.quantizers.dorefa import DoReFaActivation, DoReFaWeight
from quantizable.quantizers.lsq import LSQActivation, LSQWeight
from quantizable.quantizers.lsq_plus import LSQPlusActivation
from quantizable.quantizers.nested import NestedWeight
from quantizable.quantizers.pact import PACTActivation
from quantizable.quantizers.sat import SATWeight


class Recipe(NamedTuple):
    """How the quantizers of a layer are built.

    Attributes:
        weight: called as ``weight(tensor, bits, axis)``.
        activation: called as ``activation(bits)``.
        per_channel: True if the weight quantizer can have one scale per output channel.
    """

    weight: Callable[..., Quantizer]
    activation: type[Quantizer]
    per_channel: bool = False


QUANTIZERS: dict[str, Recipe] = {
    "lsq": Recipe(LSQWeight, LSQActivation, per_channel=True),
    "lsq_plus": Recipe(LSQWeight, LSQPlusActivation, per_channel=True),
    "nested": Recipe(NestedWeight, LSQActivation, per_channel=True),
    "dorefa": Recipe(DoReFaWeight, DoReFaActivation),
    "dorefa_rescaled": Recipe(partial(DoReFaWeight, rescale=True), DoReFaActivation),
    "pact": Recipe(DoReFaWeight, PACTActivation),
    "sat": Recipe(SATWeight, PACTActivation),
    "sat_original": Recipe(partial(SATWeight, rounding="original"), PACTActivation),
    "sat_modified": Recipe(partial(SATWeight, rounding="modified"), PACTActivation),
}

__all__ = [
    "QUANTIZERS",
    "DoReFaActivation",
    "DoReFaWeight",
    "LSQActivation",
    "LSQAddend",
    "LSQPlusActivation",
    "LSQRange",
    "LSQWeight",
    "Level",
    "NestedWeight",
    "PACTActivation",
    "Quantizer",
    "Recipe",
    "SATWeight",
    "Unrounded",
]
