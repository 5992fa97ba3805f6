"""Every test starts from the same seed and uses one thread."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from quantizable.data import Fake
from quantizable.storage.checkpoint import FORMAT
from quantizable.training.classifier import QuantizableClassifier

torch.set_num_threads(1)
# the same examples in every run, however slow the machine is
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def one_table_of_onnx_functions() -> None:
    """torch reads its table of ONNX functions anew for each export, a third of a small one's time."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return  # another version of torch: slower, not wrong
    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a checkpoint as training does, of a network that is calibrated and not trained."""

    def write(model: str, bits: list[int], data: Fake, **options: object) -> Path:
        torch.manual_seed(0)
        options = {"in_chans": 3, "pretrained": False, **options}
        module = QuantizableClassifier(model, data.num_classes, bits=bits, model_options=options)
        inputs = [x for x, _ in data.train_dataloader()]
        module.network.calibrate(inputs)
        module.network.reestimate_norms(inputs)
        about = {"data": "fake", "settings": data.settings, "num_classes": data.num_classes, "in_chans": 3}
        contents = {
            "state_dict": module.state_dict(),
            "quantizable": {
                "format": FORMAT,
                **module.architecture,
                "quantize": module.network.config,
                "modes": [str(mode) for mode in bits],
                "data": {**about, "image_size": data.image_size},
            },
        }
        path = tmp_path_factory.mktemp("run") / "best.ckpt"
        torch.save(contents, path)
        return path

    return write
