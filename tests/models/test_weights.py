import os
import pickle
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from quantizable.data import CIFAR10
from quantizable.models.create import create_model
from quantizable.models.weights import classifier_names, load_float_weights
from tests.tiny import SHARED


def equal(model, state):
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.fixture(scope="module")
def state():
    return create_model("resnet20", 10).state_dict()


@pytest.fixture
def model():
    return create_model("resnet20", 10)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "best_prec1": 91.7},
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    ],
    ids=["plain", "state_dict", "model", "module.", "compiled", "old"],
)
def test_forms_of_state_dict(wrap, state, model, tmp_path):
    torch.save(wrap(state), tmp_path / "weights.pt")
    load_float_weights(model, tmp_path / "weights.pt")
    assert equal(model, state)
    fresh = create_model("resnet20", 10)
    load_float_weights(fresh, wrap(state))
    assert equal(fresh, state)


def test_safetensors(state, model, tmp_path):
    save_file(state, tmp_path / "weights.safetensors")
    load_float_weights(model, str(tmp_path / "weights.safetensors"))
    assert equal(model, state)


def test_torchvisions_resnet_is_timms():
    source = torchvision.models.resnet18(num_classes=5).eval()
    model = timm.create_model("resnet18", num_classes=5).eval()
    load_float_weights(model, source.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(x), source(x))


class Malicious:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("writer", ["torch", "pickle", "namespace"])
def test_code_is_refused_and_never_run(writer, model, state, tmp_path):
    file, trace = tmp_path / "weights.pt", tmp_path / "trace"
    if writer == "torch":
        torch.save({"state_dict": state, "extra": Malicious(trace)}, file)
    elif writer == "pickle":
        file.write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    else:
        torch.save({"state_dict": state, "args": Namespace(lr=0.1)}, file)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"weights\.pt holds Python objects.*refused"):
        load_float_weights(model, file)
    assert not trace.exists()
    assert equal(model, before)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_truncated_files(suffix, keep, state, model, tmp_path):
    file = tmp_path / f"weights.{suffix}"
    torch.save(state, file) if suffix == "pt" else save_file(state, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=f"{file} is truncated or no file of weights"):
        load_float_weights(model, file)


def test_a_changed_byte_of_a_tensor(state, model, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    tensor = max(state.values(), key=torch.Tensor.numel).numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(tensor) + len(tensor) // 2] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a checksum in it does not fit"):
        load_float_weights(model, path)


def test_files_that_are_no_weights(model, tmp_path):
    (tmp_path / "text.pt").write_text("hello world")
    with pytest.raises(ValueError, match="no file of weights"):
        load_float_weights(model, tmp_path / "text.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="no state dict found, but list"):
        load_float_weights(model, tmp_path / "list.pt")
    with pytest.raises(ValueError, match="no state dict found: epoch are no tensors"):
        load_float_weights(model, {"epoch": 3})
    with pytest.raises(FileNotFoundError, match="no file of weights at"):
        load_float_weights(model, tmp_path / "none.pt")


def test_another_architecture(state):
    deeper = create_model("resnet32", 10)
    with pytest.raises(ValueError, match=r"missing layer1\.3\.conv1\.weight.*and 57 more"):
        load_float_weights(deeper, state)
    with pytest.raises(ValueError, match=r"unexpected layer1\.3\.conv1\.weight"):
        load_float_weights(create_model("resnet20", 10), deeper.state_dict())
    grey = create_model("resnet20", 10, in_chans=1)
    with pytest.raises(ValueError, match=r"conv1\.weight \(16, 3, 3, 3\) instead of \(16, 1, 3, 3\)"):
        load_float_weights(grey, state)


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "torchvision:resnet18"])
def test_another_class_count(name):
    state = create_model(name, 10).state_dict()
    model = create_model(name, 100)
    head = {k: v.clone() for k, v in model.state_dict().items() if k.startswith(("fc", "linear"))}
    with pytest.raises(ValueError, match=r"is for 10 classes, the network has 100.*reset_head=True"):
        load_float_weights(model, state)
    load_float_weights(model, state, reset_head=True)
    assert len(head) == 2
    assert equal(model, state | head)


def test_classifier_names():
    assert classifier_names(create_model("resnet20", 10)) == ("linear",)
    assert classifier_names(create_model("torchvision:mobilenet_v2", 10)) == ("classifier.1",)
    squeezenet = create_model("torchvision:squeezenet1_1", 10)
    assert classifier_names(squeezenet) == ("classifier.1",)


@pytest.mark.slow
@pytest.mark.parametrize(
    # right among the first 1000 test images
    ("name", "file", "right"),
    [("resnet20", "resnet20-12fca82f.th", 915), ("resnet56", "resnet56-4bfd9763.th", 926)],
)
def test_published_checkpoints_keep_their_accuracy(name, file, right):
    """9173 and 9339 of the 10 000 test images are the published 91.73 % and 93.39 %."""
    weights = SHARED / "data" / "checkpoints" / file
    root = Path(os.environ.get("QUANTIZABLE_DATA", "data"))
    if not weights.is_file() or not (root / "cifar-10-batches-py").is_dir():
        pytest.skip("needs QUANTIZABLE_SHARED with the checkpoints, QUANTIZABLE_DATA with CIFAR-10")
    model = create_model(name, 10).eval()
    load_float_weights(model, weights)
    images, labels = next(iter(CIFAR10(root=root, batch_size=1000).test_dataloader()))
    with torch.inference_mode():
        assert (model(images).argmax(1) == labels).sum().item() == right
