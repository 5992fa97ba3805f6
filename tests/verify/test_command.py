"""The command, its certificates and its report, run as a user would."""

import argparse
import json

import numpy as np
import pytest
import torch
from conftest import random_pair
from rich.console import Console

from quantizable.verify import Box, decide
from quantizable.verify.certificate import Certificate
from quantizable.verify.command import add_parser
from quantizable.verify.report import as_image, print_table


def run(*words):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["verify", *map(str, words)])
    return args.run(args)


@pytest.fixture
def files(tmp_path):
    """A small fixed-point benchmark: a network file and two inputs of 64 pixels."""
    generator = np.random.default_rng(0)
    arrays = {}
    for i, (fan_in, fan_out) in enumerate([(64, 8), (8, 3)]):
        arrays[f"W{i}"] = generator.normal(size=(fan_out, fan_in)).astype(np.float32) / fan_in**0.5
        arrays[f"b{i}"] = generator.normal(size=fan_out).astype(np.float32) / 4
    np.savez(tmp_path / "net.npz", **arrays)
    np.save(tmp_path / "x.npy", generator.integers(0, 256, (2, 64)))
    return tmp_path


def test_proved_certified_and_confirmed(files, capsys):
    common = [files / "net.npz", "--inputs", files / "x.npy", "--radius", 2, "--output", files / "out"]
    assert run(*common, "--modes", "32", "8", "--eps", 5) == 0
    assert "2 proved" in capsys.readouterr().out
    path = files / "out" / "certificate-0.json"
    certificate = Certificate.load(path)
    assert certificate.status == "proved"
    assert certificate.box.integer
    assert set(certificate.tools) >= {"python", "torch"}
    assert run("--check", path) == 0
    assert "confirmed" in capsys.readouterr().out
    assert {p.name for p in (files / "out").iterdir()} >= {"verdicts.json", "decided.png"}


def test_a_forged_bound_and_a_changed_network_are_not_confirmed(files, capsys):
    run(files / "net.npz", "--inputs", files / "x.npy", "--radius", 2, "--eps", 5, "--output", files)
    path = files / "certificate-1.json"
    values = json.loads(path.read_text())
    values["bound"][1] *= 0.5
    forged = files / "forged.json"
    forged.write_text(json.dumps(values))
    assert run("--check", forged) == 1
    assert "bound high" in capsys.readouterr().out
    with np.load(files / "net.npz") as arrays:
        changed = dict(arrays)
    changed["b1"] = changed["b1"] + 1
    np.savez(files / "net.npz", **changed)
    assert run("--check", path) == 1
    assert "not the file" in capsys.readouterr().out


def test_refuted_with_picture(files):
    words = [files / "net.npz", "--inputs", files / "x.npy", "--radius", 2, "--modes", "32", "4"]
    assert run(*words, "--eps", 1e-4, "--output", files / "out") == 1
    rows = json.loads((files / "out" / "verdicts.json").read_text())
    assert rows[0]["status"] == "refuted"
    assert len(rows[0]["counterexample"]["input"]) == 64
    assert (files / "out" / "refuted.png").stat().st_size > 1000


def test_robustness(files, capsys):
    words = [files / "net.npz", "--inputs", files / "x.npy", "--robust", "--modes", "8"]
    status = run(*words, "--radius", 0, "--output", files / "out")
    assert status == 0  # a single input keeps its own class
    assert run("--check", files / "out" / "certificate-0.json") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--radius", 1], "eps None is not allowed"),
        (["--radius", 1, "--eps", 0], "eps 0.0 is not allowed"),
        (["--radius", 1, "--eps", 1, "--modes", "32"], "give two modes"),
        (["--radius", 1, "--eps", 1, "--modes", "32", "99"], "allowed are 2 to 16"),
        (["--radius", -1, "--eps", 1], "radius -1.0 is not allowed"),
        (["--eps", 1], "radius is missing"),
    ],
)
def test_bad_input(files, words, message, capsys):
    assert run(files / "net.npz", "--inputs", files / "x.npy", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_missing_files(tmp_path, capsys):
    assert run(tmp_path / "no.npz", "--inputs", tmp_path / "x.npy", "--radius", 1, "--eps", 1) == 2
    assert "no input file" in capsys.readouterr().err
    assert run("--check", tmp_path / "no.json") == 2
    (tmp_path / "bad.json").write_text("{}")
    assert run("--check", tmp_path / "bad.json") == 2
    assert "is no certificate" in capsys.readouterr().err


def test_table_counts():
    first, second = random_pair(0)
    verdict = decide(first, second, Box.around(torch.full((1, 4), 9.0), 1), 0, 50.0)
    console = Console(record=True, width=100)
    print_table([("one", verdict)], console)
    assert "1 proved, 0 refuted, 0 unknown" in console.export_text()


def test_as_image():
    assert as_image(torch.zeros(784)).shape == (28, 28)
    assert as_image(torch.zeros(1, 8, 8)).shape == (8, 8)
    assert as_image(torch.zeros(3, 8, 9)).shape == (8, 9, 3)
    assert as_image(torch.zeros(5)) is None
