"""One image in every mode: the values against the network's own, and the page through HTTP."""

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quantizable import load
from quantizable.cli import main
from quantizable.data import Fake
from quantizable.deploy.demo import Answer, Demo, GuardAnswer, ModeAnswer
from quantizable.deploy.demo_page import render
from quantizable.deploy.guard import Guard
from quantizable.measure.cost import layer_costs
from quantizable.measure.energy import mac_picojoules, microjoules
from quantizable.storage.preprocessing import read_images
from quantizable.storage.qz import save_qz

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(calibrated: Callable[..., Path]) -> Path:
    """A small network with a float mode, as a checkpoint."""
    data = Fake(size=16, num_classes=6, image_size=12, batch_size=16)
    data.setup("fit")
    return calibrated("patch_cnn", [2, 8, 32], data, cifar_stem=False, width=4)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_every_mode_answers_as_the_network_does(model: Path, image: Path) -> None:
    network, demo = load(model), Demo(str(model), "torch", repeats=1)
    assert demo.modes == ["2", "8", "32"]
    before = demo.session.bits
    found = demo.answer(image)
    assert demo.session.bits == before
    pixels = read_images([image], demo.session.info)
    for one in found.modes:
        with network.at_bits(one.mode), torch.no_grad():
            expected = network(pixels)[0]
        np.testing.assert_allclose(one.logits, expected.numpy(), atol=1e-4)
        shares = expected.softmax(0)
        best = shares.topk(5)
        assert [c["index"] for c in one.top] == best.indices.tolist()
        np.testing.assert_allclose([c["probability"] for c in one.top], best.values.numpy(), atol=1e-4)
        assert one.milliseconds > 0
    costs = layer_costs(network, (3, 12, 12))
    for one in found.modes:
        assert one.weight_bytes == sum(cost.weight_bytes for cost in costs if cost.mode == one.mode)


def test_energy_is_by_the_formula() -> None:
    assert mac_picojoules(8, 8) == pytest.approx(0.2 + 0.1)  # Horowitz: 8-bit product, 32-bit sum
    assert mac_picojoules(2, 4) == pytest.approx(0.2 / 8 + 0.1)
    assert mac_picojoules(32, 32) == pytest.approx(3.7 + 0.9)
    assert mac_picojoules(4, 32) == pytest.approx(4.6)  # a float operand: no integer arithmetic


def test_energy_sums_over_the_layers(model: Path) -> None:
    costs = layer_costs(load(model), (3, 12, 12))
    found = microjoules(costs)
    for mode in ("2", "8", "32"):
        own = [c for c in costs if c.mode == mode]
        picojoules = [
            c.macs * (4.6 if c.weight_bits == 32 else 0.2 * c.bops / c.macs / 64 + 0.1) for c in own if c.macs
        ]
        assert found[mode] == pytest.approx(sum(picojoules) / 1e6)
    assert found["2"] < found["8"] < found["32"]


@pytest.mark.parametrize("below", [True, False])
def test_the_guards_decision_is_that_of_the_guard(
    model: Path, image: Path, tmp_path: Path, below: bool
) -> None:
    session = Demo(model, "torch", repeats=1).session
    pixels = read_images([image], session.info)
    with session.at_bits(2):
        low = torch.as_tensor(session(pixels)).softmax(1)
    two = low.topk(2).values[0]
    margin = float(1 - (two[0] - two[1]))
    guard = Guard(2, 32, margin + (0.01 if below else -0.01))
    guard.save(tmp_path / "chosen.json")
    shown = Demo(model, "torch", guard=tmp_path / "chosen.json", repeats=1).answer(image).guard
    rows, asked = guard.predict(session, pixels)
    assert shown is not None
    assert shown.escalated == bool(asked[0]) == (not below)
    assert shown.score == pytest.approx(margin, abs=1e-5)
    assert (shown.low, shown.high, shown.answer) == ("2", "32", str(int(rows.argmax())))


def test_a_guard_beside_the_model_is_found(model: Path, tmp_path: Path) -> None:
    shutil.copy(model, tmp_path / "best.ckpt")
    assert Demo(tmp_path / "best.ckpt", "torch", repeats=1).guard is None
    Guard(2, 8, 0.5).save(tmp_path / "guard.json")
    assert Demo(tmp_path / "best.ckpt", "torch", repeats=1).guard == Guard(2, 8, 0.5)
    Guard(2, 4, 0.5).save(tmp_path / "guard.json")
    with pytest.raises(ValueError, match="has no mode 4; it has 2, 8, 32"):
        Demo(tmp_path / "best.ckpt", "torch", repeats=1)


def test_a_qz_file_runs_its_integers(model: Path, image: Path, tmp_path: Path) -> None:
    save_qz(load(model), tmp_path / "model.qz")
    demo = Demo(tmp_path / "model.qz", "torch", threads=1, repeats=1)
    assert demo.modes == ["2", "8"]
    assert [one.mode for one in demo.answer(image).modes] == ["2", "8"]


def answer(*best: int, guard: GuardAnswer | None = None) -> Answer:
    """Modes whose likeliest class is as given."""
    modes = []
    for mode, index in zip(("2", "8", "32"), best, strict=True):
        logits = np.zeros(3, np.float32)
        logits[index] = 5
        top = [{"class": "<b>ant</b>", "index": index, "probability": 0.75}]
        modes.append(ModeAnswer(mode, logits, top, 1.25, 2.5, 1500))
    return Answer(modes, guard)


def test_modes_differ_from_the_highest() -> None:
    assert answer(1, 2, 1).differing == ["8"]
    assert answer(0, 2, 1).differing == ["2", "8"]
    assert answer(1, 1, 1).differing == []


def test_the_answer_is_shown_and_escaped() -> None:
    html = render(answer(1, 2, 1), 1, ["<i>x</i>", "bee", "cat"])
    text = " ".join(re.sub(r"<[^>]*>", " ", html).split())
    assert "<b>ant" not in html
    assert "<i>x" not in html
    assert "Mode 8 says &lt;b&gt;ant&lt;/b&gt; 75.0&nbsp;%" in text
    assert "Modes differ: mode 8 says" in text
    assert "All modes agree" in render(answer(1, 1, 1), 0, None)
    assert "latency, ms 1.25 1.25 1.25" in text
    assert "2.5 2.5 2.5" in text
    assert "weights, kB 1.5 1.5 1.5" in text
    assert text.index("bee 5.00 0.00 5.00") < text.index(
        "cat 0.00 5.00 0.00"
    )  # as the highest mode ranks them
    assert "quantizable assess chooses one" in text
    assert html.count('<td class="chosen') == 1 + 3 + 3  # top class, costs, logits
    asked = GuardAnswer("2", "8", "margin", 0.5, 0.25, True, "cat")
    shown = " ".join(render(answer(1, 1, 1, guard=asked), 0, None).split())
    assert "at least the threshold 0.25, so mode 8 is asked: cat." in shown
    asked = GuardAnswer("2", "8", "margin", 0.125, 0.25, False, "cat")
    shown = " ".join(render(answer(1, 1, 1, guard=asked), 0, None).split())
    assert "below the threshold 0.25, so mode 2 is enough: cat." in shown


# in a process of its own: gradio's server leaves threads, and pytest's capture behind it was closed
ASKED_OVER_HTTP = """
import sys
from pathlib import Path
import httpx
from gradio_client import Client, handle_file
from PIL import Image
from quantizable.deploy.demo import Demo
from quantizable.deploy.demo_page import serve

model, image, folder = map(Path, sys.argv[1:])
with serve(Demo(model, "torch", repeats=1)) as (url, _):
    policy = httpx.get(url).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy, "no other machine is named"
    client = Client(url, verbose=False, analytics_enabled=False)

    def answer(file):
        html = client.predict(file, 0, api_name="/answer")
        return html if isinstance(html, str) else html[-1]

    assert "Mode 2 says" in answer(handle_file(image))
    assert "Drop an image" in answer(None)
    Image.new("L", (20, 20), 90).save(folder / "grey.xyz", format="PNG")
    assert "Mode 2 says" in answer(handle_file(folder / "grey.xyz")), "its name is odd"
    for name, contents in (("a.png", b"text"), ("b.png", image.read_bytes()[:100]), ("c.txt", b"text")):
        (folder / name).write_bytes(contents)
        try:
            answer(handle_file(folder / name))
        except Exception as error:
            assert "no image" in str(error), error
        else:
            raise AssertionError(f"{name} was taken for an image")
"""


@pytest.mark.slow
def test_the_page_answers_over_http(model: Path, image: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the demo extra is not installed")
    command = [sys.executable, "-W", "ignore", "-c", ASKED_OVER_HTTP, str(model), str(image), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_browser_shows_report_and_demo_without_errors(model: Path, image: Path, tmp_path: Path) -> None:
    """The script ends with an error where a page's script fails, asks another machine, or is too wide."""
    for library in ("PySide6.QtWebEngineWidgets", "gradio", "plotly"):
        pytest.importorskip(library, reason=f"{library} is not installed", exc_type=ImportError)
    words = ["--report", str(ROOT / "docs" / "results" / "cifar10_resnet20"), "--output", str(tmp_path)]
    words += ["--demo", str(model), "--image", str(image)]
    script = [sys.executable, str(ROOT / "benchmarks" / "screenshots.py"), *words]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in tmp_path.iterdir()}
    for width in ("desktop", "phone"):
        assert {f"{name}-{width}.png" for name in ("report-training", "report-modes", "demo")} <= written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.qz"], "there is no file absent.qz"),
        (["{model}", "--engine", "onnxruntime,torch"], "one engine"),
        (["{model}", "--engine", "tvm"], "'tvm'"),
        (["{model}", "--port", "0"], "--port is 0"),
        (["{model}", "--guard", "absent.json"], "there is no file absent.json"),
    ],
)
def test_bad_words_are_one_line(model: Path, capsys, words: list[str], message: str) -> None:  # type: ignore[no-untyped-def]
    assert main(["demo", *(word.format(model=model) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_port_that_is_taken_is_said_before_any_work(model: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("quantizable.deploy.demo_page.gradio", lambda: None)
    monkeypatch.setattr("quantizable.deploy.demo_page.Demo", lambda *_: pytest.fail("began"))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        assert main(["demo", str(model), "--port", str(port)]) == 2
    assert f"port {port} cannot be used" in capsys.readouterr().err


def test_a_file_of_one_mode_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ValueError, match=r"give a \.qz file"):
        Demo(tmp_path / "model.onnx")


def test_without_gradio_it_is_one_line(model: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", str(model)]) == 2
    assert "pip install quantizable[demo]" in capsys.readouterr().err
