"""Activation checkpointing: memory for time, by timm's own means.

Each block keeps its input only and computes the rest again in the backward pass, which costs about one
more forward pass. It runs in the mode of the first, with its norm, wherever the backward pass is called, and
running statistics see each batch once (``nn/recomputation.py``).
"""

from torch import nn


def recompute_activations(network: nn.Module, enable: bool = True) -> None:
    """Switch timm's ``set_grad_checkpointing`` of the network, in place.

    Args:
        network: a quantizable network, or a float one of timm.
        enable: on or off.

    Raises:
        ValueError: the network does not offer it (torchvision's and the CIFAR ResNets do not).
    """
    try:
        network.set_grad_checkpointing(enable)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:  # timm has both ways to say no
        raise ValueError(
            "this network cannot recompute its activations; timm's ResNets, ViTs, ConvNeXts and others "
            "with set_grad_checkpointing can"
        ) from error
