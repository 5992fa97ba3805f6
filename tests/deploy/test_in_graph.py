"""Normalization inside the exported graph: the bytes of an image go in, the same answers come out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from quantizable.deploy import Session, export_onnx
from quantizable.deploy.export import onnx_model
from quantizable.deploy.openvino_format import export_openvino
from quantizable.storage.golden import Golden
from quantizable.storage.preprocessing import read_images

onnx = pytest.importorskip("onnx", reason="the deploy extra is not installed")
pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")

MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]


def pictures(size: int, count: int = 6) -> np.ndarray:
    """``[N, 3, size, size]``, uint8; both ends of the range are in each."""
    drawn = np.random.default_rng(1).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    drawn[..., 0, :2] = (0, 255)
    return drawn


@pytest.fixture
def network(make, images: Tensor):
    """The small network, whose images are normalized."""
    network = make(bits=(2, 8, 32))
    network.info |= {"mean": MEAN, "std": STD, "in_chans": 3, "image_size": images.shape[-1]}
    return network


def test_the_graph_begins_with_the_formula(network, images: Tensor) -> None:
    """Against ``(x / 255 - mean) / std`` in float64, by ONNX's own evaluator of the graph's first nodes."""
    from onnx.reference import ReferenceEvaluator

    model = onnx_model(network, 8, preprocess="in-graph")
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node][:4] == ["Cast", "Div", "Sub", "Div"]
    last = model.graph.node[3].output[0]
    steps = onnx.helper.make_graph(
        model.graph.node[:4], "steps", [model.graph.input[0]],
        [onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None)], [*model.graph.initializer],
    )  # fmt: skip
    given = pictures(images.shape[-1])
    opsets = [one for one in model.opset_import if one.domain == ""]
    (found,) = ReferenceEvaluator(onnx.helper.make_model(steps, opset_imports=opsets)).run(
        None, {"image": given}
    )
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (MEAN, STD))
    np.testing.assert_allclose(found, (given / 255 - mean) / std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("engine", "bits"), [("onnxruntime", 32), ("openvino", 2)])
def test_bytes_give_the_answers_of_normalized_images(
    network, images: Tensor, tmp_path: Path, engine: str, bits: int
) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    given = pictures(images.shape[-1])
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (MEAN, STD))
    export_onnx(network, tmp_path / "outside.onnx", bits)
    expected = Session(tmp_path / "outside.onnx", engine)(
        (given.astype(np.float32) / np.float32(255) - mean) / std
    )
    export_onnx(network, tmp_path / "inside.onnx", bits, preprocess="in-graph")
    paths = [tmp_path / "inside.onnx"]
    if (engine, bits) == ("openvino", 2):
        export_openvino(network, tmp_path / "inside.xml", bits, preprocess="in-graph")
        paths.append(tmp_path / "inside.xml")
    for path in paths:  # each start compares the golden samples, which are bytes, too
        for batch in (None, 4):
            session = Session(path, engine, batch=batch)
            assert session.problem == ""
            np.testing.assert_allclose(session(given), expected, atol=1e-5 * np.abs(expected).max())
        with pytest.raises(ValueError, match="images are float32; give uint8, from 0 to 255"):
            session(given.astype(np.float32))


def test_golden_samples_notice_another_normalization(network, tmp_path: Path) -> None:
    export_onnx(network, tmp_path / "inside.onnx", 8, preprocess="in-graph")
    model = onnx.load(tmp_path / "inside.onnx")
    (std,) = (one for one in model.graph.initializer if one.name.endswith("_by_std"))
    std.CopyFrom(onnx.numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), std.name))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="checksum"):
        Session(tmp_path / "other.onnx")
    (seal,) = (entry for entry in model.metadata_props if "sha" in entry.key)
    model.metadata_props.remove(seal)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(RuntimeError, match="differ beyond rounding"):
        Session(tmp_path / "other.onnx")


def test_a_picture_is_read_as_bytes_for_such_a_file(network, images: Tensor, tmp_path: Path) -> None:
    """What ``predict`` gives such a file, normalized, is what it gives any other."""
    side = images.shape[-1]
    Image.fromarray(pictures(2 * side + 5, 1)[0].transpose(1, 2, 0)).save(tmp_path / "one.png")
    export_onnx(network, tmp_path / "inside.onnx", 8, preprocess="in-graph")
    session = Session(tmp_path / "inside.onnx")
    info = {key: value for key, value in session.info.items() if key != "image_bytes"}
    for steps in ({}, {"evaluation": {"resize": side + 2, "crop": side, "interpolation": "bilinear"}}):
        plain = read_images([tmp_path / "one.png"], info | steps)
        found = read_images([tmp_path / "one.png"], session.info | steps)
        assert found.dtype == torch.uint8
        assert found.shape == (1, 3, side, side)
        again = (found / 255 - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
        torch.testing.assert_close(again, plain, rtol=0, atol=2e-6)
    assert session(found).shape[0] == 1


def test_samples_of_floats_say_what_they_said_before() -> None:
    """They gain no entry, so that two versions write the same bytes."""
    plain = Golden((3, 8, 8), (-2.0, 2.0), {}, {}, {}).plain()
    assert "image_bytes" not in plain
    asked = Golden((3, 8, 8), (-2.0, 2.0), {}, {}, {}, image_bytes=True).plain()
    assert asked.keys() - plain.keys() == {"image_bytes"}
    for values in (plain, asked):
        assert Golden.read(values).signature["image"].type == ("uint8" if values is asked else "float32")


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"mean": None, "std": None}, "needs the mean and the standard deviation of 3 channels"),
        ({"std": [0.2]}, "needs the mean and the standard deviation of 3 channels"),
        ({"std": [0.2, 0.0, 0.2]}, "needs the mean and the standard deviation"),
        ({"input_size": [7, 5], "image_size": None}, "is for networks that read images"),
    ],
)
def test_what_cannot_be_normalized_is_one_line(network, info: dict, message: str) -> None:
    network.info |= info
    with pytest.raises(ValueError, match=message):
        onnx_model(network, 8, preprocess="in-graph")


def test_an_unknown_word_is_one_line(network) -> None:
    with pytest.raises(ValueError, match=r"preprocess .ingraph.*in-graph"):
        onnx_model(network, 8, preprocess="ingraph")
