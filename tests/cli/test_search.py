"""The command, end to end on a tiny checkpoint, and its refusals."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.stats import binomtest

from quantizable.bits import BitMode
from quantizable.certify.smoothing import Smoothing
from quantizable.cli import main
from quantizable.data import Fake
from quantizable.search.setting import Setting
from quantizable.storage.assignment import SavedAssignment, write_assignment
from quantizable.storage.load import load
from quantizable.storage.preprocessing import preprocessing, read_images
from quantizable.storage.selection import choose

DATA = ["data=fake", "data.size=64", "data.image_size=8", "data.num_classes=4", "data.batch_size=16"]


@pytest.fixture(scope="module")
def checkpoint(calibrated: Callable[..., Path]) -> str:
    """Of a network with a float mode."""
    return str(calibrated("resnet20", [2, 4, 32], Fake(size=64, image_size=8, num_classes=4, batch_size=16)))


def test_search_writes_a_front_and_files_that_evaluate_takes(checkpoint: str, tmp_path: Path) -> None:
    bits = [
        "search",
        "bits",
        checkpoint,
        *DATA,
        "--images",
        "16",
        "--norm-batches",
        "1",
        "--output",
        str(tmp_path),
    ]
    assert main([*bits, "--methods", "uniform,integer", "--budget", "3bit", "--evaluations", "6"]) == 0
    assert {"front.csv", "front.png", "uniform-3bit.yaml", "integer-3bit.yaml"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert (
        (tmp_path / "front.csv").read_text().startswith("method,bops,accuracy,agreement,kl,on_front,genome\n")
    )
    found = str(tmp_path / "integer-3bit.yaml")
    output = tmp_path / "evaluated"
    assert main(["evaluate", checkpoint, *DATA, "--bits", found, "--output", str(output)]) == 0
    assert list(json.loads((output / "results.json").read_text())["modes"]) == ["integer-3bit"]


def test_certify_in_steps_and_from_a_certified_mode(checkpoint: str, tmp_path: Path) -> None:
    certify = ["search", "certify", checkpoint, *DATA, "--images", "3", "--output", str(tmp_path)]
    certify += ["--n", "60", "--n0", "10", "--sigma", "0.1"]
    assert main([*certify, "--bits", "32"]) == 0
    assert main([*certify, "--bits", "4", "--from", "32", "--samples", "20"]) == 0
    rows = json.loads((tmp_path / "certified.json").read_text())["bits"]
    assert list(rows) == ["32", "from-32-4"]  # the first command's, too
    row = rows["from-32-4"]
    assert row["samples_per_image"] <= 20
    assert row["failure_probability"] == pytest.approx(0.002)
    lines = (tmp_path / "certified-32.jsonl").read_text().splitlines()
    assert len(lines) == 4  # the settings and three images, certified once


def test_candidates_can_be_scored_on_noisy_images(checkpoint: str, tmp_path: Path) -> None:
    options = "--images 16 --norm-batches 1 --budget 3bit --methods uniform --evaluations 1 --objective kl"
    scored = []
    for noise in ("0", "0.3"):
        words = ["search", "bits", checkpoint, *DATA, *options.split(), "--noise", noise]
        assert main([*words, "--output", str(tmp_path / noise)]) == 0
        one = yaml.safe_load((tmp_path / noise / "uniform-3bit.yaml").read_text())
        assert one["norm_noise"] == float(noise)
        scored.append(one["about"]["kl"])
    assert scored[0] != scored[1]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_certify_what_an_engine_runs(checkpoint: str, tmp_path: Path, engine: str) -> None:
    pytest.importorskip(engine)
    words = ["search", "certify", checkpoint, *DATA, "--images", "4", "--output", str(tmp_path)]
    words += ["--n", "150", "--n0", "10", "--sigma", "0.1", "--bits", "4"]
    assert main(words) == 0
    assert main([*words, "--engine", engine]) == 0
    assert main([*words, "--engine", engine, "--from", "32", "--samples", "100"]) == 0
    rows = json.loads((tmp_path / "certified.json").read_text())["bits"]
    assert rows.keys() == {"4", f"4-{engine}", f"from-32-4-{engine}"}  # none in another's place
    own, ran = (np.load(tmp_path / f"certified-{name}.votes.npy") for name in ("4", f"4-{engine}"))
    assert own.shape == ran.shape == (4, 150)
    assert (own == ran).mean() > 0.98  # ties alone may be decided otherwise
    assert (tmp_path / f"certified-32-{engine}.jsonl").is_file()
    assert "engine" not in (tmp_path / "certified-4.jsonl").read_text().splitlines()[0]
    assert engine in (tmp_path / f"certified-4-{engine}.jsonl").read_text().splitlines()[0]


def test_kept_certificates_are_of_one_network_and_its_images(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--n", "20", "--n0", "5", "--images", "2", "--bits", "4", "--output", str(tmp_path / "out")]
    assert main(["search", "certify", checkpoint, *DATA, *options]) == 0
    kept = (tmp_path / "out" / "certified-4.jsonl").read_text()
    contents = torch.load(checkpoint, weights_only=True)
    norm = next(key for key in contents["state_dict"] if key.endswith("norms.4.weight"))
    contents["state_dict"][norm].neg_()
    torch.save(contents, tmp_path / "other.ckpt")
    assert main(["search", "certify", str(tmp_path / "other.ckpt"), *DATA, *options]) == 2
    assert "made with other settings (network)" in capsys.readouterr().err
    assert main(["search", "certify", checkpoint, *DATA[:-1], "data.seed=1", *options]) == 2
    assert "made with other settings (images)" in capsys.readouterr().err
    # all files are opened before the first mode is certified
    words = ["search", "certify", checkpoint, *DATA, *options, "--n", "30", "--bits", "2,4"]
    assert main(words) == 2
    assert "made with other settings (n)" in capsys.readouterr().err
    assert not (tmp_path / "out" / "certified-2.votes.npy").exists()
    assert (tmp_path / "out" / "certified-4.jsonl").read_text() == kept


def test_an_assignment_is_refused_by_a_network_with_other_norms(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "search",
        "bits",
        checkpoint,
        *DATA,
        "--images",
        "8",
        "--norm-batches",
        "1",
        "--evaluations",
        "1",
    ]
    assert main([*words, "--methods", "uniform", "--output", str(tmp_path)]) == 0
    found = str(tmp_path / "uniform-4bit.yaml")
    contents = torch.load(checkpoint, weights_only=True)
    norm = next(key for key in contents["state_dict"] if key.endswith("norms.4.weight"))
    contents["state_dict"][norm].neg_()
    torch.save(contents, tmp_path / "other.ckpt")
    given = ["search", "certify", str(tmp_path / "other.ckpt"), *DATA, "--output", str(tmp_path)]
    assert main([*given, "--bits", found]) == 2
    assert "made for another network" in capsys.readouterr().err


def test_sensitivity_leaves_its_table_and_picture(checkpoint: str, tmp_path: Path) -> None:
    words = ["search", "sensitivity", checkpoint, *DATA, "--images", "4", "--norm-batches", "0"]
    assert main([*words, "--output", str(tmp_path)]) == 0
    rows = (tmp_path / "sensitivity.csv").read_text().splitlines()
    assert len(rows) == 1 + 18 * 2
    assert (tmp_path / "sensitivity.png").is_file()


def test_limits_hold_together_and_activations_can_be_held(checkpoint: str, tmp_path: Path) -> None:
    words = ["search", "bits", checkpoint, "--images", "16", "--norm-batches", "1", "--output", str(tmp_path)]
    words += ["--methods", "uniform,fisher", "--evaluations", "3", "--objective", "kl", "--activations", "4"]
    assert main([*words, "--budget", "bytes=3bit", "mean_bits=2.5", *DATA]) == 0
    path = tmp_path / "fisher-bytes-3bit-mean_bits-2.5.yaml"
    contents = yaml.safe_load(path.read_text())
    assert contents["about"]["weight_bits"] <= 2.5
    network = load(Path(checkpoint))
    fixed = {name for name, layer in network.layers().items() if layer.fixed_bits is not None}
    chosen = {name: BitMode.parse(mode) for name, mode in contents["bits"].items() if name not in fixed}
    assert {mode.activation for mode in chosen.values()} == {4}
    layers = {name: layer.weight.numel() for name, layer in network.layers().items() if name not in fixed}
    mean = sum(size * chosen[name].weight for name, size in layers.items()) / sum(layers.values())
    assert mean == pytest.approx(contents["about"]["weight_bits"])
    head = (tmp_path / "front.csv").read_text().splitlines()[0]
    assert head.startswith("method,bytes,weight_bits,accuracy")


def test_the_smoothed_answer_for_images_of_ones_own(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for i, value in enumerate((0, 128, 255)):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (8, 8), (value, value, value)).save(paths[-1])
    words = ["search", "predict", checkpoint, *map(str, paths), *DATA, "--n", "200", "--sigma", "0.1"]
    assert main([*words, "--bits", "32", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    network = load(Path(checkpoint))
    about = preprocessing(network)
    smoothing = Smoothing(0.1, 200, std=tuple(about["std"]))
    for number, (path, row) in enumerate(zip(paths, rows, strict=True)):
        image = read_images([path], about)[0]
        counts = smoothing.votes(network, image, number, 1, 200).bincount(minlength=4)
        first, second = counts.topk(2).values.tolist()
        sure = binomtest(first, first + second, 0.5).pvalue <= 0.001
        assert row["index"] == (int(counts.argmax()) if sure else None)
    assert main([*words, "--bits", "4", "--norm-batches", "1"]) == 0
    assert capsys.readouterr().out.count("(mode 4)") == 3
    # without norms to fit no data are asked for: the images are normalized by what the network says
    monkeypatch.setattr("quantizable.search.setting.trained_data", None)
    assert main([*words, "--bits", "32", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows


def test_norms_can_be_fitted_to_noise_before_they_are_certified(checkpoint: str, tmp_path: Path) -> None:
    words = ["search", "certify", checkpoint, *DATA, "--images", "1", "--n", "20", "--n0", "5", "--bits", "4"]
    for batches in ("0", "2"):
        assert main([*words, "--norm-batches", batches, "--output", str(tmp_path / batches)]) == 0
    settings = [
        json.loads((tmp_path / batches / "certified-4.jsonl").read_text().splitlines()[0]) for batches in "02"
    ]
    assert settings[0]["network"] != settings[1]["network"]


def test_norms_of_assignments_are_fitted_to_noise_too(checkpoint: str, tmp_path: Path) -> None:
    args = argparse.Namespace(checkpoint=Path(checkpoint), data=DATA, output=tmp_path, images=1)
    setting = Setting(args, test=True)
    setting.network.add_assignment("found", {"*": 4, "layer3.*": 2})
    before = {key: value.clone() for key, value in setting.network.state_dict().items()}
    setting.fit_norms(1, 0.25)
    moved = {key for key, value in setting.network.state_dict().items() if not value.equal(before[key])}
    assert any(key.endswith("norms.found.running_mean") for key in moved)
    file = tmp_path / "other.yaml"
    write_assignment(file, setting.network, SavedAssignment({"*": 4}, 0, 0.0, {}))
    own = setting.network.state_dict()
    statistics = [key for key in own if key.endswith("running_var")]
    for norms, same in ((None, True), ((1, 1.0), False)):  # the file itself asks for none
        [one] = choose(str(file), setting.network, lambda: setting.data, norms=norms)
        assert all(one.network.state_dict()[key].equal(own[key]) for key in statistics) == same


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bits", "--budget", ""], "--budget names no limit"),
        (["bits", "--noise", "-1"], "--noise is -1.0"),
        (["bits", "--noise", "0.1", "--objective", "acr"], "give --sigma, not --noise"),
        (["bits", "--methods", "evolution", "--seed", "-1"], "--seed is -1"),
        (["certify", "--bits", "4", "--from", "found.yaml"], "bit mode 'found.yaml' is not understood"),
        (["bits", "--budget", "bytes=3bit", "bytes=4bit"], "limits bytes twice"),
        (["bits", "--budget", "joule=4"], "cost 'joule' is unknown"),
        (["bits", "--budget", "latency=1"], "--latency-table"),
        (["bits", "--activations", "3"], "no mode of the network has activations of 3 bits; there are 2, 4"),
        (["bits", "--budget", "5"], "the smallest assignment needs"),
        (
            ["bits", "--objective", "speed"],
            "objective 'speed' is unknown; choose from accuracy, agreement, kl, acr, ",
        ),
        (["bits", "--methods", "luck"], "method 'luck' is unknown"),
        (["bits", "--cost", "joule"], "cost 'joule' is unknown"),
        (["bits", "--cost", "latency"], "--latency-table"),
        (["bits", "--evaluations", "0"], "at least 1"),
        (["bits", "--norm-batches", "0"], "give --norm-batches 1 or more"),
        (["bits", "--objective", "acr", "--sigma", "0"], "sigma is 0"),
        (["bits", "--objective", "acr", "--sigma", "inf"], "sigma is inf"),
        (["bits", "--objective", "acr", "--robust-images", "0"], "robust_images is 0"),
        (["bits", "--budget", "inf"], "budget 'inf' is not understood"),
        (["certify", "--seed", "-1"], "--seed is -1"),
        (["certify", "--engine", "tensorrt"], "engine 'tensorrt' is unknown"),
        (["certify", "--sigma", "-1"], "sigma is -1"),
        (["certify", "--n", "5"], "needed are at least 10"),
        (["certify", "--bits", "3"], "no mode 3"),
        (["certify", "--from", "32", "--samples", "3"], "samples is 3: if all agree"),
        (["sensitivity", "--images", "0"], "--images is 0"),
    ],
)
def test_bad_input_gets_one_clear_error(
    words: list[str], message: str, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part, *options = words
    assert main(["search", part, checkpoint, *DATA, "--output", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_an_assignment_of_another_network_is_refused(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("format: 2\nnetwork: 0123456789abcdef\nnorm_batches: 0\nbits: {conv1: 8}\n")
    for words in (["evaluate", checkpoint], ["search", "certify", checkpoint]):
        assert (
            main(
                [
                    *words,
                    *DATA,
                    "--bits",
                    str(path),
                    *([] if "evaluate" in words else ["--output", str(tmp_path)]),
                ]
            )
            == 2
        )
        assert "made for another network" in capsys.readouterr().err
