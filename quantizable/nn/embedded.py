"""Ids whose embeddings are changed on their way: how attacks and mixing reach a network of words.

Ids have no neighborhood and no mean; the vectors that an embedding gives for them have both. A change is a
function of the embedding's output, and gradients of it are with respect to that output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from quantizable.nn.network_inputs import Inputs


@dataclass(frozen=True, kw_only=True)
class Embedded(Inputs):
    """Arguments of one forward pass in which the embedding's output is changed.

    Attributes:
        change: from the embedding and its output ``[B, L, D]`` to what the rest of the network is given.
    """

    change: Callable[[nn.Embedding, Tensor], Tensor]

    def __call__(self, network: Callable[..., Any]) -> Any:
        """The network's output.

        Raises:
            ValueError: the network has no embedding, or does not call it as it is, being compiled.
        """
        calls: list[None] = []

        def changed(layer: nn.Embedding, args: Any, output: Tensor) -> Tensor:
            calls.append(None)
            return self.change(layer, output)

        hook = embedding_of(network).register_forward_hook(changed)
        try:
            output = super().__call__(network)
        finally:
            hook.remove()
        if not calls:
            raise ValueError(
                "the network's embedding was not called, so that nothing could be changed behind it; give "
                "strategy=standard, or trainer.compile=false"
            )
        return output


def embedding_of(network: Any) -> nn.Embedding:
    """The layer that turns ids into vectors.

    It is what ``get_input_embeddings()`` of a Hugging Face network gives, the layer named ``embedding``, or
    the one embedding that there is.

    Raises:
        ValueError: there is none, or more than one.
    """
    asked = getattr(network, "get_input_embeddings", None)
    named = getattr(network, "embedding", None) if asked is None else asked()
    if isinstance(named, nn.Embedding):
        return named
    found = [part for part in network.modules() if isinstance(part, nn.Embedding)]
    if len(found) != 1:
        raise ValueError(
            f"{type(network).__name__} has {len(found)} embeddings; attacks and mixing of ids change the "
            "output of one: name that layer `embedding`"
        )
    return found[0]
