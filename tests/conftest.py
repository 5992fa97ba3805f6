"""Every test starts from the same seed and uses one thread."""

import functools
import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from quantizable.data import Fake
from quantizable.storage.checkpoint import FORMAT
from quantizable.training.classifier import QuantizableClassifier
from tests.export_memo import exported_anew, shared_exports

__all__ = ["exported_anew", "shared_exports"]

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
# An export makes and drops millions of small objects, beside which the libraries' own are looked at each
# time.
gc.set_threshold(100_000, 50, 100)
# the same examples in every run, however slow the machine is
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays


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
