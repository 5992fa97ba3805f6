"""``quantizable evaluate``: the table of a checkpoint, against a loop over the images."""

import json
import warnings
from pathlib import Path

import pytest
import torch

import quantizable
from quantizable import QuantizableClassifier
from quantizable.bits import BitMode
from quantizable.cli import main
from quantizable.data import Digits, Fake
from quantizable.data.choice import check_fit, make_datamodule
from quantizable.measure.evaluate import evaluate
from quantizable.report.tables import print_table
from tests.tiny import batches, trainer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained for an epoch on 32 images of 12x12 pixels in 7 classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    module = QuantizableClassifier("tiny_cnn", 7, [2, 8, 32])
    run = trainer(max_epochs=1)
    run.fit(module, datamodule=Fake(size=32, num_classes=7, image_size=12, batch_size=8))
    run.save_checkpoint(path)
    return path


def test_the_numbers_are_those_of_a_loop(checkpoint: Path) -> None:
    network = quantizable.load(checkpoint)
    data = [(x, y % 7) for x, y in batches(3)]
    results = evaluate(network, data, [BitMode.parse(2), BitMode.parse(8)])
    assert [*results] == ["2", "8"]
    for name, values in results.items():
        right = right5 = differs = 0
        loss = 0.0
        for x, y in data:
            with torch.no_grad(), network.at_bits(32):
                top = network(x).argmax(1)
            with torch.no_grad(), network.at_bits(name):
                z = network(x)
            for row, label, reference in zip(z, y, top, strict=True):
                ranking = row.argsort(descending=True).tolist()
                right += int(ranking[0] == label)
                right5 += int(label in ranking[:5])
                differs += int(ranking[0] != reference)
                loss -= row.log_softmax(0)[label].item()
        expected = {"loss": loss, "top1": right, "top5": right5, "disagreement": differs}
        assert values == pytest.approx({key: value / 24 for key, value in expected.items()}, rel=1e-5)
    assert network.bits == 32


def test_no_images() -> None:
    network = quantizable.quantize(torch.nn.Sequential(torch.nn.Linear(2, 2)), [2, 32])
    with pytest.raises(ValueError, match="no images"):
        evaluate(network, [], network.modes)


def test_the_five_likeliest_of_five_classes_are_no_figure(capsys: pytest.CaptureFixture[str]) -> None:
    modes = {"4": {"top1": 0.5, "top5": 1.0, "loss": 1.0, "disagreement": 0.25}}
    print_table(modes, "five classes", 5)
    few = capsys.readouterr().out
    print_table(modes, "six", 6)
    assert "top-5" not in few
    assert "100.00" not in few
    assert "25.00" in few
    assert "top-5 %" in capsys.readouterr().out


def test_the_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(checkpoint), "--bits", "8,2", "data.size=32", "--output", str(tmp_path / "out")]
    assert main(["evaluate", *words]) == 0
    assert "top-1 %" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [*written["modes"]] == ["2", "8"]
    assert (tmp_path / "out" / "modes.png").exists()
    network = quantizable.load(checkpoint)
    data = Fake(size=32, num_classes=7, image_size=12)
    assert written["modes"]["2"] == pytest.approx(
        evaluate(network, data.test_dataloader(), [BitMode.parse(2)])["2"], rel=1e-5
    )


def test_norms_are_fitted_to_training_images_first(checkpoint: Path, tmp_path: Path) -> None:
    network = quantizable.load(checkpoint)
    data = Fake(size=32, num_classes=7, image_size=12, batch_size=8)
    data.setup("fit")
    words = ["evaluate", str(checkpoint), "--bits", "2,8", "data.batch_size=8", "--output", str(tmp_path)]
    assert main([*words, "--norm-batches", "4"]) == 0
    fitted = json.loads((tmp_path / "results.json").read_text())
    assert fitted["norm_batches"] == 4
    network.reestimate_norms(data.train_dataloader(), [2, 8], 4)
    expected = evaluate(network, data.test_dataloader(), [BitMode.parse(2), BitMode.parse(8)])
    assert fitted["modes"] == {mode: pytest.approx(values, rel=1e-5) for mode, values in expected.items()}
    assert main(words) == 0
    assert json.loads((tmp_path / "results.json").read_text())["modes"] != fitted["modes"]


def test_a_network_without_batch_norms_has_none_to_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"img_size": 32, "patch_size": 8, "depth": 1}
    module = QuantizableClassifier("vit_tiny_patch16_224", 3, [2, 32], model_options=options)
    run = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(module, datamodule=Fake(size=8, num_classes=3, image_size=32, batch_size=8))
    run.save_checkpoint(tmp_path / "best.ckpt")
    assert main(["evaluate", str(tmp_path / "best.ckpt"), "--norm-batches", "2"]) == 2
    assert "has no batch norms to fit; leave out --norm-batches" in capsys.readouterr().err


def test_sizes_are_those_of_training_unless_given(checkpoint: Path) -> None:
    info = quantizable.load(checkpoint).info
    data = make_datamodule(["data.size=4"], info)
    assert (data.image_size, data.num_classes, data.size) == (12, 7, 4)  # type: ignore[attr-defined]
    assert make_datamodule(["data=fake", "data.image_size=16"], info).image_size == 16


def test_the_images_held_out_are_those_of_training(tmp_path: Path) -> None:
    data = Digits(split_seed=3, val_size=0.2, batch_size=512)
    module = QuantizableClassifier("tiny_cnn", 10, [2, 32], model_options={"in_chans": 1})
    run = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(module, datamodule=data)
    run.save_checkpoint(tmp_path / "best.ckpt")
    info = quantizable.load(tmp_path / "best.ckpt").info
    again = make_datamodule(["data.batch_size=32"], info)
    again.setup("fit")
    assert torch.equal(data._val[0], again._val[0])  # type: ignore[attr-defined, index]
    assert (again.batch_size, again.augment) == (32, "crop")
    del info["settings"]  # as in older checkpoints
    assert make_datamodule([], info).split_seed == 0  # type: ignore[attr-defined]


def test_a_split_that_is_not_known_is_said(checkpoint: Path, tmp_path: Path) -> None:
    words = ["--set", "val", "data.size=32", "--bits", "2"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*held out")
        assert main(["evaluate", str(checkpoint), *words]) == 0
    old = torch.load(checkpoint, weights_only=True)
    del old["quantizable"]["data"]["settings"]
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.warns(UserWarning, match="does not say which images were held out"):
        assert main(["evaluate", str(tmp_path / "old.ckpt"), *words]) == 0


def test_the_size_of_the_fake_data_is_kept(checkpoint: Path) -> None:
    assert make_datamodule([], quantizable.load(checkpoint).info).size == 32  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["banana"], "write data=NAME and data.KEY=VALUE"),
        (["data=fake", "data=digits"], "data= is given more than once (fake, digits)"),
        (["--output", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        (["data=banana"], "'banana' is unknown; choose from digits"),
        (["data.banana=1"], "banana"),
        (["data.batch_size=0"], "at least 1"),
        (["data.num_classes=10"], "trained with num_classes=7, Fake has 10"),
        (["data=digits"], "num_classes=7, Digits has 10"),
        (["--bits", "4"], "no mode 4; it has 2, 8, 32"),
        (["--bits", "0"], "out of range"),
        (["--bits", ""], "--bits names no mode"),
        (["--bits", "2,2"], "more than once"),
        (["--norm-batches", "-1"], "--norm-batches is -1; it is 0 or more"),
    ],
)
def test_mistakes_are_one_line(
    checkpoint: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(checkpoint), *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_other_channels_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="in_chans=3, Fake has 1"):
        check_fit(quantizable.load(checkpoint), Fake(num_classes=7, in_chans=1))


def test_the_results_of_a_training_are_not_replaced(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.yaml", "results.json"):
        (tmp_path / name).write_text("{}")
    assert main(["evaluate", str(checkpoint), "--output", str(tmp_path)]) == 2
    assert f"give another folder, as {tmp_path}/test" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == "{}"


def test_the_norms_of_float_are_not_fitted(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(checkpoint), "--bits", "32", "--norm-batches", "2"]) == 2
    assert "--bits names none" in capsys.readouterr().err
