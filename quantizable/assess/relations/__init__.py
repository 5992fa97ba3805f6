"""Metamorphic relations: distortions after which the answer should be the same."""

from quantizable.assess.relations.natural import NATURAL
from quantizable.assess.relations.relation import Relation, Relations
from quantizable.assess.relations.spectral import SPECTRAL

__all__ = ["NATURAL", "SPECTRAL", "Relation", "Relations", "relations_for"]


def relations_for(channels: int) -> Relations:
    """The set for such inputs: natural distortions for up to 4 channels, a sensor's faults for more."""
    return NATURAL if channels <= 4 else SPECTRAL
