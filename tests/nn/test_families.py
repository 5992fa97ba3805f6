"""The smallest network of each family: share of quantized products, and mode 32 to the last bit."""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import SwinTransformer
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.video.swin_transformer import SwinTransformer3d

from quantizable import quantize
from quantizable.nn.network_inputs import network_inputs, tensors_of

IMAGE = (2, 3, 32, 32)
TINY = {"img_size": 32, "num_classes": 3}
ONE = {**TINY, "depth": 1, "embed_dim": 32, "num_heads": 2}
WINDOWS = {**TINY, "window_size": 4, "depths": (2, 1), "num_heads": (2, 2), "embed_dim": 16}
TIMM: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {**ONE, "patch_size": 8},
    "eva02_tiny_patch14_224": {**ONE, "patch_size": 8},
    "cait_xxs24_224": {**ONE, "patch_size": 8, "depth_token_only": 1},
    "xcit_nano_12_p8_224": ONE,
    "crossvit_9_240": {
        **TINY, "patch_size": [8, 16], "embed_dim": [16, 32], "depth": [[1, 1, 0]], "num_heads": [2, 2],
        "mlp_ratio": [2, 2, 1],
    },
    "swin_tiny_patch4_window7_224": WINDOWS,
    "swinv2_tiny_window8_256": WINDOWS,
    "tiny_vit_5m_224": {
        "num_classes": 3, "depths": (1, 1, 1, 1), "embed_dims": (16, 16, 32, 32),
        "num_heads": (2, 2, 2, 2), "window_sizes": (4, 4, 4, 2),
    },
    "efficientvit_b0": {"num_classes": 3, "widths": (8, 8, 16, 16, 16), "depths": (1, 1, 1, 1, 1)},
}  # fmt: skip


def check(model: nn.Module, batch: Any, share: float = 1.0) -> None:
    """Modes 4 and 32 of a float network."""
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():  # heads may start at zero
            parameter.add_(torch.randn_like(parameter) * 0.02)
    run = network_inputs(model, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing stays float, and data passes through every layer
        warnings.filterwarnings("ignore", category=FutureWarning)
        net = quantize(model, [4, 32], attention=True, first_last="mode").eval()
        net.calibrate([batch])
    with torch.no_grad():
        expected, found = outputs(run(model)), outputs(run(net))
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
        net.set_bits(4)
        low = outputs(run(net))
        assert all(one.isfinite().all() for one in low)
        assert not torch.equal(low[0], expected[0])
    assert net.coverage(batch).share >= share, str(net.coverage(batch))
    back = net.to_float()
    assert {type(m) for m in back.modules()} == {type(m) for m in model.modules()}


def outputs(value: Any) -> list[Tensor]:
    return list(tensors_of(dict(value) if hasattr(value, "items") else value))


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    check(timm.create_model(name, **TIMM[name]), torch.randn(IMAGE))


def test_torchvision() -> None:
    swin = SwinTransformer(
        [4, 4], 16, [2, 1], [2, 2], [4, 4], num_classes=3,
        block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2,
    )  # fmt: skip
    check(swin, torch.randn(IMAGE), 0.9)
    check(
        SwinTransformer3d([2, 4, 4], 16, [1, 1], [2, 2], [2, 4, 4], num_classes=3),
        torch.randn(1, 3, 4, 32, 32),
    )


COMMON = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TEXT = {**COMMON, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
PICTURE = {**COMMON, "image_size": 32, "patch_size": 8}
SOUND = {
    **COMMON, "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3],
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def ids() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 50, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}


TRANSFORMERS: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "Bert": (TEXT, ids),
    "GPT2": (
        {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 50, "n_positions": 16, "bos_token_id": 1,
         "eos_token_id": 2}, ids,
    ),
    "Llama": ({**TEXT, "num_key_value_heads": 1}, ids),
    "ViT": (PICTURE, lambda: {"pixel_values": torch.randn(IMAGE)}),
    "DINOv3ViT": (PICTURE, lambda: {"pixel_values": torch.randn(IMAGE)}),
    "Wav2Vec2": (SOUND, lambda: {"input_values": torch.randn(2, 400)}),
    "T5": (
        {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 50},
        lambda: {**ids(), "decoder_input_ids": torch.randint(3, 50, (2, 4))},
    ),
}  # fmt: skip


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed (an optional test)",
)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str) -> None:
    import transformers

    options, batch = TRANSFORMERS[name]
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**options))
    check(model, batch())
