"""Models of other makers: each kind of file gives the logits of the network that it was made of."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quantizable import quantize
from quantizable.assess.callables import Pair, are_probabilities, probabilities
from quantizable.assess.images import Images
from quantizable.assess.model_name import check_name, read_name
from quantizable.assess.outside import OutsideModel, open_model, ready
from quantizable.assess.searchers.comparison import agreeing
from quantizable.deploy.export import export_onnx

MEAN, STD = (0.4,), (0.3,)
PIXELS = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)).eval()


def expected() -> Tensor:
    with torch.no_grad():
        return network()((PIXELS - 0.4) / 0.3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in every kind of file, for batches of any size and for batches of two."""
    onnx, openvino = pytest.importorskip("onnx"), pytest.importorskip("openvino")
    folder, net, two = tmp_path_factory.mktemp("files"), network(), torch.zeros(2, 1, 8, 8)
    torch.jit.trace(net, two).save(folder / "any.pt")
    free = ({0: torch.export.Dim("batch")},)
    for name, shapes in (("any", free), ("two", None)):
        program = torch.export.export(net, (two,), dynamic_shapes=shapes)
        torch.export.save(program, folder / f"{name}.pt2")
    helper, params = onnx.helper, [value.detach().numpy() for value in net.parameters()]
    values = [onnx.numpy_helper.from_array(value, name) for value, name in zip(params, "abcd", strict=True)]
    nodes = [
        helper.make_node("Conv", ["x", "a", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "c", "d"], ["y"], transB=1),
    ]
    for name, batch in (("any", "batch"), ("two", 2)):
        ends = [
            helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, [batch, *rest])
            for end, rest in (("x", (1, 8, 8)), ("y", (4,)))
        ]
        graph = helper.make_graph(nodes, "outside", ends[:1], ends[1:], values)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        onnx.save(model, folder / f"{name}.onnx")
        read = openvino.Core().read_model(folder / f"{name}.onnx")
        openvino.save_model(read, folder / f"{name}.xml", compress_to_fp16=False)
    return folder


@pytest.mark.parametrize(
    "name", ["any.onnx", "two.onnx", "any.xml", "two.xml", "any.pt", "any.pt2", "two.pt2"]
)
def test_a_file_gives_the_logits_of_its_network(files: Path, name: str) -> None:
    model = open_model(read_name(str(files / name)), MEAN, STD, trust=True)
    assert model.batch == (2 if name.startswith("two") else None)
    model = ready(model, name, PIXELS)
    torch.testing.assert_close(
        model(PIXELS), expected(), atol=1e-4, rtol=0
    )  # nine images: an odd one is left
    differentiable = model(PIXELS.clone().requires_grad_()).requires_grad
    assert differentiable == (".pt" in name)


def test_a_function_is_the_model_or_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from tests.assess.test_outside import network\ndef logits(x): return network()((x - 0.4) / 0.3)\n"
    text += "def build(): return network()\nnumber = 3\n"
    (tmp_path / "given_models.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with torch.no_grad():
        found = open_model(read_name("given_models:logits"), MEAN, STD)(PIXELS)
        torch.testing.assert_close(found, expected(), msg="a function normalizes for itself")
        built = open_model(read_name("given_models:build"))((PIXELS - 0.4) / 0.3)
    torch.testing.assert_close(built, expected())
    assert sys.path == before
    with pytest.raises(ValueError, match="given_models has no logit;"):
        open_model(read_name("given_models:logit"))
    with pytest.raises(ValueError, match="number is no function"):
        open_model(read_name("given_models:number"))


def test_probabilities_are_told_from_logits() -> None:
    soft = OutsideModel(lambda x: network()(x).softmax(1))
    model = ready(soft, "soft", PIXELS)
    assert model.takes_log
    with torch.no_grad():
        torch.testing.assert_close(model(PIXELS).softmax(1), network()(PIXELS).softmax(1))
    assert not ready(OutsideModel(network()), "logits", PIXELS).takes_log
    assert not are_probabilities(torch.tensor([[0.3, 0.7]])), "one row of logits may be so by chance"
    codes = (network()(PIXELS).softmax(1) * 256).round() / 256
    assert are_probabilities(codes), "of an integer network, which sum to 1 only nearly"
    assert not are_probabilities(codes * 1.02)
    pair = Pair(network(), soft)
    for action in (
        lambda: probabilities({"soft": soft}, PIXELS),
        lambda: agreeing(pair, Images(PIXELS, PIXELS)),
    ):
        with pytest.raises(ValueError, match="gives probabilities"):
            action()
    certain = ready(
        OutsideModel(lambda x: nn.functional.one_hot(torch.arange(len(x)) % 4, 4).float()), "1", PIXELS
    )
    assert torch.isfinite(certain(PIXELS)).all()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda x: network()(x)[:, 0], r"gives \[9\] for 9 images"),
        (lambda x: network()(x).argmax(1, keepdim=True), "gives integers"),
        (lambda x: network()(x) / 0, "NaN or infinite"),
        (lambda x: (network()(x), x), "gives tuple for 9 images"),
        (lambda x: network()(x.expand(-1, 3, -1, -1)), "cannot take images of shape .1, 8, 8.: Runtime"),
    ],
)  # fmt: skip
def test_what_is_no_classifier_is_refused(run, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        ready(OutsideModel(run), "it", PIXELS)


def test_a_model_of_single_images_is_asked_one_by_one() -> None:
    def single(images: Tensor) -> Tensor:
        return network()(images.view(1, 1, 8, 8))  # fails for more than one

    model = ready(OutsideModel(single, MEAN, STD), "single", PIXELS)
    assert model.batch == 1
    with torch.no_grad():
        torch.testing.assert_close(model(PIXELS), expected(), atol=1e-5, rtol=0)
        many = replace(OutsideModel(network(), MEAN, STD), batch=4)
        torch.testing.assert_close(many(PIXELS), expected(), atol=1e-5, rtol=0)
    assert model(PIXELS.clone().requires_grad_()).requires_grad, "batches that are split keep their gradient"


def test_no_file_runs_its_code(files: Path, tmp_path: Path) -> None:
    """A pickled module is not read; what torch.export might run is not, without a word of the user's."""
    torch.save(network(), tmp_path / "pickled.pt")
    with pytest.raises(ValueError, match="is no TorchScript file; a pickled module could run code"):
        open_model(read_name(str(tmp_path / "pickled.pt")))
    with pytest.raises(ValueError, match="--trust"):
        open_model(read_name(str(files / "any.pt2")))


def test_names() -> None:
    assert read_name("a/b.qz:4").path == Path("a/b.qz")
    assert (read_name("a/b.qz:4").part, read_name("a/b.qz:4").short) == ("4", "b.qz:4")
    assert (read_name("a.b:c.d").module, read_name("a.b:c.d").part) == ("a.b", "c.d")
    assert read_name("x/net.onnx").short == "net.onnx"
    for wrong in ("net.onx", "net.onnx:4", "a b:c", "net"):
        with pytest.raises(ValueError, match="names no model; give a file"):
            read_name(wrong)
    for missing in ("none.onnx", "none.pt", "none.xml"):
        with pytest.raises(FileNotFoundError):
            check_name(read_name(missing))


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    for name, message in (
        ("a.onnx", "cannot be read"), ("a.xml", "cannot be read"), ("a.pt", "is no TorchScript"),
        ("a.pt2", "no file of torch.export"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(b"not a model")
        (tmp_path / "a.bin").write_bytes(b"")
        with pytest.raises(ValueError, match=message):
            open_model(read_name(str(tmp_path / name)), trust=True)


@pytest.mark.skipif(find_spec("ai_edge_litert") is not None, reason="LiteRT is installed")
def test_tflite_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(b"")
    with pytest.raises(ImportError, match=r"quantizable\[tflite\]"):
        open_model(read_name(str(tmp_path / "a.tflite")))


def test_a_file_of_ours_that_takes_bytes_gets_the_nearest_ones(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    net = quantize(network(), bits=[8, 32]).eval()
    net.calibrate([(PIXELS - 0.4) / 0.3])
    net.info = {"mean": list(MEAN), "std": list(STD), "image_size": 8, "in_chans": 1}
    export_onnx(net, tmp_path / "bytes.onnx", 8, preprocess="in-graph")
    pixels = (255 * PIXELS).round() / 255
    with net.at_bits(8), torch.no_grad():
        wanted = net((pixels - 0.4) / 0.3)
    model = open_model(
        read_name(str(tmp_path / "bytes.onnx")), (0.0,), (9.0,)
    )  # those of the data say nothing
    for some in (pixels, pixels + 0.4 / 255):
        torch.testing.assert_close(model(some), wanted, atol=1e-3, rtol=1e-3)
