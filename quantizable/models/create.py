"""Float networks by name: of timm, of torchvision, of our own for small images and scenes, and of words."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import timm
import torchvision
from timm.models import adapt_input_conv
from torch import nn

import quantizable.models.cifar_resnet  # registers resnet20, resnet32 and resnet56
import quantizable.models.hybrid_sn  # registers hybrid_sn
import quantizable.models.lenet  # registers lenet1 and lenet5
import quantizable.models.nin  # registers nin
import quantizable.models.patch_cnn  # registers patch_cnn
import quantizable.models.ssrn  # noqa: F401  (registers ssrn)
from quantizable.interface.model_names import unknown_model
from quantizable.models.download import without_retries
from quantizable.models.stem import first_conv, replace, use_cifar_stem
from quantizable.models.text import TEXT_MODELS
from quantizable.models.weights import load_float_weights

TORCHVISION = "torchvision:"


def create_model(
    name: str,
    num_classes: int,
    in_chans: int = 3,
    pretrained: bool = False,
    cifar_stem: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """A float classifier.

    Args:
        name: a timm network ("resnet18", "resnet18.a1_in1k", "hf-hub:...", of which a checkpoint
            loads with ``model=...`` alone: reading a file fetches nothing), one for small images
            ("resnet20", "resnet32", "resnet56", "nin", "lenet1", "lenet5"), one for patches of hyperspectral
            scenes ("patch_cnn", "hybrid_sn", "ssrn"), one of torchvision ("torchvision:resnet18"), or one
            that reads words ("lstm", "gru", "text_transformer"), which takes ``vocabulary_size``.
        num_classes: classes, at least 1.
        in_chans: channels of the image, at least 1; of no meaning to what reads words.
        pretrained: start from the published weights, which are downloaded; the classifier starts
            afresh where the number of classes differs.
        cifar_stem: 3x3 stride-1 stem without pooling, for images of about 32x32 pixels.
        **kwargs: given to the network, for instance `img_size=32, patch_size=4` for a ViT.

    Raises:
        ValueError: unknown name (close ones are suggested), a number out of range, arguments that
            the network does not take, or a network whose stem cannot be swapped.
        OSError: the published weights cannot be downloaded.
    """
    for what, value in (("num_classes", num_classes), ("in_chans", in_chans)):
        if value < 1:
            raise ValueError(f"{what}={value}; give at least 1")
    if name in TEXT_MODELS and cifar_stem:
        raise ValueError(f"{name!r} reads words and has no stem for images; leave out cifar_stem")
    make: Callable[..., nn.Module] = _text_model
    if name not in TEXT_MODELS:
        make = _torchvision_model if name.startswith(TORCHVISION) else _timm_model
    try:
        model = make(name, num_classes, in_chans, pretrained, **kwargs)
    except OSError as error:
        raise OSError(
            f"the published weights of {name!r} cannot be downloaded ({error}). Fetch them on a "
            "machine with a network and load the file with load_float_weights, or use "
            "pretrained=False"
        ) from error
    except (TypeError, RuntimeError, AssertionError) as error:
        if not kwargs:
            raise
        raise ValueError(f"{name!r} cannot be built with {kwargs}: {error}") from error
    if cifar_stem:
        use_cifar_stem(model)
    return model


def source_of(name: str) -> str:
    """Where timm looks a network up: ``"hf-hub"`` (the Hugging Face Hub), ``"local-dir"`` (a folder), or
    ``""``: among its own, as for every name that it does not know."""
    source, colon, _ = name.partition(":")
    source = source.strip().lower().replace("_", "-")  # older spellings: hf_hub, local_dir
    return source if colon and source in ("hf-hub", "local-dir") else ""


def check_own(name: str) -> None:
    """``ValueError`` if a name that a file gives would fetch a network, or read it from a folder."""
    if ":" in name.removeprefix(TORCHVISION):
        raise ValueError(
            f"it names a network of elsewhere, {name[:80]!r}, which is not fetched for a file; build it and "
            "pass it: quantizable.load(path, model=...)"
        )


def _timm_model(name: str, num_classes: int, in_chans: int, pretrained: bool, **kwargs: Any) -> nn.Module:
    if source_of(name) == "":  # the others are looked up by timm
        architecture = name.partition(".")[0]
        if not timm.is_model(architecture):
            raise ValueError(unknown_model(name, timm.list_models()))
        if pretrained and not timm.is_model_pretrained(architecture):
            raise ValueError(
                f"there are no published weights of {name!r} to download; use pretrained=False "
                "and, if you have a file of weights, load_float_weights"
            )
    with without_retries() if pretrained or source_of(name) == "hf-hub" else nullcontext():
        return timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **kwargs
        )


def _text_model(name: str, num_classes: int, _: int, pretrained: bool, **kwargs: Any) -> nn.Module:
    size = kwargs.get("vocabulary_size")
    if pretrained:
        raise ValueError(f"there are no published weights of {name!r}; use pretrained=False")
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"{name!r} reads words: give vocabulary_size, how many there are (it is {size!r})")
    return TEXT_MODELS[name](num_classes, **kwargs)


def _torchvision_model(
    name: str, num_classes: int, in_chans: int, pretrained: bool, **kwargs: Any
) -> nn.Module:
    architecture = name.removeprefix(TORCHVISION)
    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        raise ValueError(unknown_model(name, [TORCHVISION + model for model in known]))
    model = torchvision.models.get_model(architecture, weights=None, num_classes=num_classes, **kwargs)
    if pretrained:
        weights = torchvision.models.get_model_weights(architecture).DEFAULT
        state = weights.get_state_dict(progress=False)
        load_float_weights(model, state, reset_head=len(weights.meta["categories"]) != num_classes)
    if in_chans != 3:
        conv_name, conv = first_conv(model)
        replace(model, conv_name, _with_channels(conv, in_chans))
    return model


def _with_channels(conv: nn.Conv2d, in_chans: int) -> nn.Conv2d:
    """The same convolution for images of `in_chans` channels, its weights summed or repeated."""
    new = nn.Conv2d(
        in_chans,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    new.weight.data = adapt_input_conv(in_chans, conv.weight.data)
    if conv.bias is not None:
        new.bias = conv.bias
    return new
