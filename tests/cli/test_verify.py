"""The command, its certificates and its report, run as a user would."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from rich.console import Console

from quantizable.cli import main
from quantizable.verify import Box, decide, jobs
from quantizable.verify.certificate import Certificate
from quantizable.verify.command import load_graphs
from quantizable.verify.decide import Verdict
from quantizable.verify.outcomes import as_image, print_table
from tests.verify.conftest import random_pair


def run(*words):
    return main(["verify", *map(str, words)])


def write_benchmark(folder, output=1.0):
    """A small fixed-point benchmark: a network, with outputs of some size, and two inputs of 64 pixels."""
    generator = np.random.default_rng(0)
    arrays = {}
    for i, (fan_in, fan_out) in enumerate([(64, 8), (8, 3)]):
        arrays[f"W{i}"] = generator.normal(size=(fan_out, fan_in)).astype(np.float32) / fan_in**0.5
        arrays[f"b{i}"] = generator.normal(size=fan_out).astype(np.float32) / 4
    arrays["W1"], arrays["b1"] = arrays["W1"] * output, arrays["b1"] * output
    np.savez(folder / "net.npz", **arrays)
    np.save(folder / "x.npy", generator.integers(0, 256, (2, 64)))
    return folder


@pytest.fixture
def files(tmp_path):
    return write_benchmark(tmp_path)


@pytest.fixture(scope="module")
def refuted(tmp_path_factory):
    """What a certificate of a refuted query holds; to be changed in a copy."""
    folder = write_benchmark(tmp_path_factory.mktemp("refuted"))
    words = [folder / "net.npz", "--inputs", folder / "x.npy", "--radius", 2, "--eps", 1e-4]
    run(*words, "--bounds-only", "--output", folder)
    assert run("--check", folder / "certificate-0.json") == 0
    return (folder / "certificate-0.json").read_text()


def test_proved_certified_and_confirmed(files, capsys):
    common = [files / "net.npz", "--inputs", files / "x.npy", "--radius", 2, "--output", files / "out"]
    assert run(*common, "--bits", "32,8", "--eps", 5) == 0
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


def test_a_forged_bound_is_not_confirmed_where_outputs_are_small(tmp_path, capsys):
    """An absolute tolerance would confirm any bound below it."""
    files = write_benchmark(tmp_path, 1e-11)
    words = ["--inputs", files / "x.npy", "--radius", 2, "--eps", 1e-9, "--output", files]
    assert run(files / "net.npz", *words) == 0
    path = files / "certificate-0.json"
    assert run("--check", path) == 0
    values = json.loads(path.read_text())
    values["bound"] = [0.5 * side for side in values["bound"]]
    path.write_text(json.dumps(values))
    assert run("--check", path) == 1
    assert "bound high" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"bound": [float("nan"), float("nan")]}, 1, "bound low"),
        ({"bound": [-float("inf"), float("inf")]}, 1, "bound high"),
        ({"bound": [0.5]}, 2, "not a pair"),
        ({"property": "robustness"}, 2, "2 modes do not fit the property robustness"),
        ({"modes": []}, 2, "0 modes do not fit"),
        ({"low": [1.0]}, 2, "is no certificate"),
        ({"eps": "much"}, 2, "its eps is no number"),
        ({"time_limit": None}, 2, "its time_limit is no number"),
        ({"counterexample": None}, 2, "do not fit"),
        ({"input": [300.0] * 64}, 1, "outside the box"),
        ({"first": [9.0] * 3}, 1, "first outputs are others"),
    ],
)
def test_a_tampered_certificate_is_not_confirmed(refuted, tmp_path, capsys, change, status, message):
    values = json.loads(refuted)
    inside = values["counterexample"]
    for name, value in change.items():
        (inside if name in inside else values)[name] = value
    path = tmp_path / "tampered.json"
    path.write_text(json.dumps(values))
    assert run("--check", path) == status
    output = capsys.readouterr()
    assert message in output.out + output.err


def test_a_counterexample_that_refutes_nothing_is_not_confirmed(files, capsys):
    words = [files / "net.npz", "--inputs", files / "x.npy", "--robust", "--bits", "8", "--radius", 80]
    run(*words, "--bounds-only", "--output", files)
    path = files / "certificate-0.json"
    assert run("--check", path) == 0
    values = json.loads(path.read_text())
    values["counterexample"]["input"] = np.load(files / "x.npy")[0].tolist()  # keeps its own class
    path.write_text(json.dumps(values))
    assert run("--check", path) == 1
    assert "refutes nothing" in capsys.readouterr().out


def test_refuted_with_picture(files):
    words = [files / "net.npz", "--inputs", files / "x.npy", "--radius", 2, "--bits", "32,4"]
    assert run(*words, "--eps", 1e-4, "--output", files / "out") == 1
    rows = json.loads((files / "out" / "verdicts.json").read_text())
    assert rows[0]["status"] == "refuted"
    assert len(rows[0]["counterexample"]["input"]) == 64
    assert (files / "out" / "refuted.png").stat().st_size > 1000


def test_robustness(files, capsys):
    words = [files / "net.npz", "--inputs", files / "x.npy", "--robust", "--bits", "8"]
    status = run(*words, "--radius", 0, "--output", files / "out")
    assert status == 0  # a single input keeps its own class
    assert run("--check", files / "out" / "certificate-0.json") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--radius", 1], "eps None is not allowed"),
        (["--radius", 1, "--eps", 0], "eps 0.0 is not allowed"),
        (["--radius", 1, "--eps", 1, "--bits", "32"], "give two modes"),
        (["--radius", 1, "--eps", 1, "--bits", "32,99"], "allowed are 2 to 16"),
        (["--radius", -1, "--eps", 1], "radius -1.0 is not allowed"),
        (["--eps", 1], "radius is missing"),
        (["--radius", 1, "--eps", "inf"], "eps inf is not allowed"),
        (["--radius", 1, "--question", "agreement", "--bits", "32"], "give two modes or more"),
        (["--radius", 1, "--eps", 1, "--largest-radius"], "give --question agreement"),
        (
            ["--radius", 1, "--eps", 1, "--question", "agreement"],
            "--eps is of no use to the question agreement",
        ),
        (["--radius", 1, "--question", "error", "--branch"], "--branch is of no use to the question error"),
        (["--radius", 1, "--question", "error", "--time-limit", 5], "--time-limit is of no use"),
        (["--radius", 1, "--eps", 1, "--time-limit", 0], "time limit 0.0 is not allowed"),
        (["--radius", 1, "--eps", 1, "--minimum", 9, "--maximum", 8], "no input is legal"),
        (["--radius", 1, "--eps", 1, "--minimum", 300, "--maximum", 301], "not all in the legal range"),
    ],
)
def test_bad_input(files, words, message, capsys):
    assert run(files / "net.npz", "--inputs", files / "x.npy", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_inputs_of_another_shape_and_a_broken_network_file(files, capsys):
    np.save(files / "short.npy", np.zeros((1, 63)))
    assert run(files / "net.npz", "--inputs", files / "short.npy", "--radius", 1, "--eps", 1) == 2
    assert "shape (63,), the network takes (64,)" in capsys.readouterr().err
    (files / "text.npz").write_text("no arrays")
    assert run(files / "text.npz", "--inputs", files / "x.npy", "--radius", 1, "--eps", 1) == 2
    assert "text.npz is no .npz of numbers" in capsys.readouterr().err


def test_missing_files(files, tmp_path, capsys):
    assert run(tmp_path / "no.npz", "--inputs", tmp_path / "x.npy", "--radius", 1, "--eps", 1) == 2
    assert "there is no file" in capsys.readouterr().err
    assert run(files / "net.npz", "--inputs", tmp_path / "y.npy", "--radius", 1, "--eps", 1) == 2
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


def test_agreement_of_several_modes_with_certificates(files, capsys):
    words = [files / "net.npz", "--inputs", files / "x.npy", "--question", "agreement", "--bits", "32,10,4"]
    status = run(*words, "--radius", 0, "--output", files / "out", "--largest-radius")
    output = capsys.readouterr().out
    rows = json.loads((files / "out" / "verdicts.json").read_text())
    assert [row["query"][-7:].strip() for row in rows] == ["mode 10", "mode 4"] * 2
    assert status == (0 if all(row["status"] == "proved" for row in rows) else 1)
    assert "mode 10: agreement is" in output.replace("\n", " ")
    radii = json.loads((files / "out" / "radii.json").read_text())
    assert [(row["input"], row["mode"]) for row in radii] == [(0, "10"), (0, "4"), (1, "10"), (1, "4")]
    proved = [row["status"] == "proved" for row in rows]
    assert all(yes for row, yes in zip(radii, proved, strict=True) if row["radius"] == 0)
    for path in (files / "out").glob("certificate-*.json"):
        certificate = Certificate.load(path)
        assert certificate.property == "agreement"
        assert certificate.modes[0] == "32"
        assert run("--check", path) == 0
    assert len(list((files / "out").glob("certificate-*.json"))) == 4


def test_a_counterexample_of_agreement_is_run_again(files, capsys):
    words = [files / "net.npz", "--inputs", files / "x.npy", "--question", "agreement", "--bits", "32,2"]
    run(*words, "--radius", 120, "--bounds-only", "--output", files)
    path = files / "certificate-0.json"
    values = json.loads(path.read_text())
    assert values["status"] == "refuted"
    assert run("--check", path) == 0
    values["counterexample"]["second"] = values["counterexample"]["first"]
    path.write_text(json.dumps(values))
    assert run("--check", path) == 1
    assert "second outputs are others" in capsys.readouterr().out


def test_a_certificate_says_for_which_execution_it_holds(files, capsys):
    """What is proved of float32 is checked for float32; said of real numbers, its bounds are too wide."""
    common = [files / "net.npz", "--inputs", files / "x.npy", "--radius", 1, "--output", files, "--eps", 5]
    assert run(*common, "--bits", "32,8", "--execution", "float32", "--bounds-only") == 0
    path = files / "certificate-0.json"
    assert Certificate.load(path).execution == "float32"
    assert run("--check", path) == 0
    assert "for float32" in capsys.readouterr().out
    written = json.loads(path.read_text())
    path.write_text(json.dumps({**written, "execution": "real"}))
    assert run("--check", path) == 1
    assert "bound" in capsys.readouterr().out
    path.write_text(json.dumps({**written, "execution": "float16"}))
    assert run("--check", path) == 2
    assert "allowed are real, float32, integers" in capsys.readouterr().err
    del written["execution"], written["confidence"]  # as older versions wrote it, of real numbers
    path.write_text(json.dumps({**written, "format": 1}))
    assert Certificate.load(path).execution == "real"


def test_a_certificate_of_confidence(files, capsys):
    common = [files / "net.npz", "--inputs", files / "x.npy", "--radius", 1, "--output", files]
    words = ["--question", "agreement", "--bits", "32,8", "--confidence", 0.6, "--bounds-only"]
    run(*common, *words)
    path = files / "certificate-0.json"
    assert Certificate.load(path).confidence == 0.6
    assert run("--check", path) == 0
    assert run(*common, "--eps", 1, "--confidence", 0.6) == 2
    assert "--confidence is of no use to the question difference" in capsys.readouterr().err
    assert run(*common, *words[:4], "--confidence", 0.2) == 2
    assert "from 0.5 to below 1" in capsys.readouterr().err


def test_a_command_that_ran_out_of_time_is_resumed(files, capsys):
    """What certificates decide is not asked again, unless the question is another one."""
    common = [
        files / "net.npz",
        "--inputs",
        files / "x.npy",
        "--radius",
        1,
        "--output",
        files,
        "--bounds-only",
    ]
    words = [*common, "--eps", 5, "--bits", "32,8"]
    assert run(*words, "--total-time", 0.005) == 1
    assert "not asked" in capsys.readouterr().out
    assert not list(files.glob("certificate-*"))
    assert run(*words, "--total-time", 600) == 0
    written = {path: path.read_text() for path in files.glob("certificate-*")}
    assert len(written) == 2
    (files / "certificate-1.json").unlink()
    before = (files / "certificate-0.json").stat().st_mtime_ns
    assert run(*words, "--resume") == 0
    assert "2 proved" in capsys.readouterr().out
    assert (files / "certificate-0.json").stat().st_mtime_ns == before
    assert (files / "certificate-1.json").is_file()


def test_a_certificate_is_not_replaced_by_one_of_another_question(files, capsys):
    common = [files / "net.npz", "--inputs", files / "x.npy", "--output", files, "--bounds-only"]
    assert run(*common, "--radius", 1, "--eps", 5, "--bits", "32,8") == 0
    written = {path: path.read_text() for path in files.glob("certificate-*")}
    capsys.readouterr()
    others = ["--radius 1 --eps 4 --bits 32,8", "--radius 1 --eps 5 --bits 32,4"]
    others += ["--radius 0 --eps 5 --bits 32,8", "--radius 1 --question robustness --bits 8"]
    for other in others:
        for words in (other.split(), [*other.split(), "--resume"]):
            assert run(*common, *words) == 2
            error = capsys.readouterr().err
            assert "certificate-0.json is of another question" in error
            assert error.count("\n") == 1
    several = "--radius 1 --question agreement --bits 32,8,4"  # whose certificates have other names
    assert run(*common, *several.split()) == 2
    assert {path: path.read_text() for path in files.glob("certificate-*")} == written


def test_a_proof_is_not_replaced_by_a_weaker_answer(files, monkeypatch):
    words = [files / "net.npz", *f"--inputs {files / 'x.npy'} --radius 1 --eps 5 --bits 32,8".split()]
    words += ["--bounds-only", "--output", files]
    assert run(*words) == 0
    written = {path: path.read_text() for path in files.glob("certificate-*")}
    unknown = Verdict("unknown", "search", -9.0, 9.0, 0.0, None)
    monkeypatch.setattr("quantizable.verify.asked.Asked.answers", lambda *_: [((0, 1), unknown)])
    run(*words, "--processes", 1)
    assert {path: path.read_text() for path in files.glob("certificate-*")} == written


def test_a_counterexample_that_holds_is_confirmed_though_no_search_finds_it_again(files, monkeypatch, capsys):
    words = f"--inputs {files / 'x.npy'} --radius 2 --eps 1e-4 --bounds-only --output {files}".split()
    assert run(files / "net.npz", *words) == 1
    path = files / "certificate-0.json"
    old = Certificate.load(path)
    assert old.status == "refuted"
    missed = Verdict("unknown", "search", *old.bound, 0.0, None)
    monkeypatch.setattr("quantizable.verify.asked.Asked.answers", lambda *_: [((0, 1), missed)])
    assert run("--check", path) == 0
    assert "confirmed: refuted by search" in capsys.readouterr().out
    changed = json.loads(path.read_text())
    changed["counterexample"]["first"][0] += 1.0
    path.write_text(json.dumps(changed))
    assert run("--check", path) == 1


def test_a_refuted_query_is_resumed_with_its_counterexample(files):
    words = [files / "net.npz", "--inputs", files / "x.npy", "--radius", 2, "--eps", 1e-4, "--bounds-only"]
    assert run(*words, "--output", files) == 1
    first = json.loads((files / "verdicts.json").read_text())
    assert run(*words, "--output", files, "--resume") == 1
    assert json.loads((files / "verdicts.json").read_text()) == first


def test_branching_is_certified_and_confirmed(files, capsys):
    words = [files / "net.npz", "--inputs", files / "x.npy", "--radius", 2, "--bits", "32,4", "--eps", 0.3]
    run(*words, "--branch", "--time-limit", 5, "--output", files)
    for path in files.glob("certificate-*"):
        certificate = Certificate.load(path)
        if certificate.status != "unknown":
            assert run("--check", path) == 0, capsys.readouterr().out


def test_processes_share_their_queries(files, monkeypatch):
    """With threads in place of processes, to be quick; what goes to a process can be pickled."""

    def threads(processes, mp_context, initializer, initargs):
        again = pickle.loads(pickle.dumps(initargs))
        return ThreadPoolExecutor(processes, initializer=initializer, initargs=again)

    monkeypatch.setattr(jobs, "ProcessPoolExecutor", threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    words = [files / "net.npz", "--inputs", files / "x.npy", "--radius", 1, "--eps", 5, "--bounds-only"]
    assert run(*words, "--output", files / "one") == 0
    assert run(*words, "--output", files / "two", "--processes", 2) == 0
    one, two = (json.loads((files / name / "verdicts.json").read_text()) for name in ("one", "two"))
    for row in (*one, *two):
        del row["seconds"]
    assert one == two


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "give it with --output"),
        (["--processes", 0], "must be 1 or more"),
        (["--total-time", -1], "total time -1.0 is not allowed"),
    ],
)
def test_options_that_cannot_work(files, capsys, words, message):
    common = [files / "net.npz", "--inputs", files / "x.npy", "--radius", 1, "--eps", 5]
    assert run(*common, *words) == 2
    assert message in capsys.readouterr().err


def test_errors_of_all_modes(files, capsys):
    words = [files / "net.npz", "--inputs", files / "x.npy", "--radius", 1, "--bits", "32,8,4"]
    assert run(*words, "--question", "error", "--output", files / "out") == 0
    assert "x[1] class" in capsys.readouterr().out
    rows = json.loads((files / "out" / "errors.json").read_text())
    assert [(row["input"], row["mode"]) for row in rows] == [(0, "8"), (0, "4"), (1, "8"), (1, "4")]
    first, second = load_graphs(files / "net.npz", ["32", "4"], (64,))
    x = torch.from_numpy(np.load(files / "x.npy")).double()
    for row in rows[1::2]:
        error = (second(x) - first(x))[row["input"]]
        low, high = torch.tensor(row["logits"]).double().T
        assert ((error >= low - 1e-6) & (error <= high + 1e-6)).all()
        low, high = torch.tensor(row["margins"]).double().T
        margins = error[row["class"]] - error
        assert ((margins >= low - 1e-6) & (margins <= high + 1e-6)).all()
        assert row["margins"][row["class"]] == [0.0, 0.0]
    assert run(*words[:-1], "32", "--question", "error") == 2
    assert "two modes or more" in capsys.readouterr().err
