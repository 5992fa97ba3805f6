"""Names of networks, read from the files of libraries, against what these libraries say themselves."""

import re

import pytest
import timm
import torchvision
from timm.models._registry import _deprecated_models

from quantizable.interface.model_names import REGISTERED, check_model_name, source_texts
from tests.tiny import tiny_cnn


def of_timm(name: str) -> bool:
    return timm.model_entrypoint(name).__module__.startswith("timm.")


def test_no_name_that_a_library_knows_is_refused() -> None:
    for source, names in (
        ("", [*timm.list_models(), *_deprecated_models, "resnet20", "lenet5", "nin", "patch_cnn"]),
        ("torchvision", torchvision.models.list_models()),
    ):
        words = set(re.findall(r"\w+", " ".join(source_texts(source))))  # what the check looks through
        assert len(names) > 50
        added = {name for name in names if timm.is_model(name) and not of_timm(name)}  # by other tests
        assert not {*names} - words - added
        check_model_name(f"{source}:{names[0]}".lstrip(":"))


def test_names_with_weights_and_of_elsewhere_pass() -> None:
    for name in ("resnet18.a1_in1k", "lstm", "hf-hub:user/model", "local-dir:x", "resnet56"):
        check_model_name(name)


def test_a_typo_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(
        ValueError, match=r"unknown model 'resnett20': did you mean resnet20, .*timm\.list_models"
    ):
        check_model_name("resnett20")
    assert REGISTERED.findall("@register_model\ndef a(x):\n@register_model()\n@b(c=(1, 2))\ndef d(e):") == [
        "a",
        "d",
    ]


def test_a_network_that_the_user_has_registered_passes() -> None:
    assert timm.is_model(tiny_cnn.__name__)
    check_model_name("tiny_cnn")
