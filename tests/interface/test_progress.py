"""A bar where somebody looks, nothing where nobody does."""

import io
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quantizable import QuantizableClassifier
from quantizable.cli import main
from quantizable.data import Fake
from quantizable.interface.progress import progress
from quantizable.search.problem import Trial, solve
from tests import tiny


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Somebody looks at stderr, and stdout goes to a file; within a test, as pytest sets stderr for each."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    return shown


@pytest.mark.parametrize("still", [False, True])
def test_a_terminal_shows_how_many_are_done_and_the_time_left(
    still: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = open_terminal(monkeypatch)
    seen = []
    for item in progress("abc", "verifying", still=still):
        print(item)
        seen.append(item)
    assert seen == ["a", "b", "c"]
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.getvalue())
    for word in ("verifying", "0/3", "1/3", "2/3", "3/3"):
        assert word in shown
    assert re.search(r"2/3 \d:\d\d:\d\d", shown), "the time left"
    assert capsys.readouterr().out == "a\nb\nc\n", "results go where they are sent"


def test_nothing_is_shown_to_a_file_or_of_a_single_item(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    assert list(progress("a", "verifying")) == ["a"]
    assert terminal.getvalue() == ""
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    assert list(progress("abc", "verifying")) == ["a", "b", "c"]
    assert list(progress(iter("abc"), "verifying")) == ["a", "b", "c"]
    assert file.getvalue() == ""


def test_a_bar_within_another_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of an item: rich has room for one bar, and refuses or garbles a second."""
    terminal = open_terminal(monkeypatch)
    for _ in progress("ab", "searching"):
        assert list(progress("cde", "certifying")) == ["c", "d", "e"]
    assert "searching" in terminal.getvalue()
    assert "certifying" not in terminal.getvalue()
    for item in progress("ab", "searching"):
        if item == "a":  # left early, as by an error
            break
    list(progress("ab", "afterwards"))
    assert "afterwards" in terminal.getvalue()


def test_a_search_counts_its_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted:
        """Evaluates three candidates of five, then ends by itself."""

        evaluations, baseline, budget, spent = 5, (0,), 1.0, 0.0
        scorer = SimpleNamespace(clock=lambda: 0.0)

        def __init__(self) -> None:
            self.trials: dict[Any, Any] = {}
            self.looks: dict[Any, Any] = {}
            self.evaluated: Callable[[], None] = lambda: None

        def evaluate(self, genome: Any) -> Trial:
            self.trials[genome] = Trial(genome, {"bops": 0.0}, {"seconds": 0.0})
            self.evaluated()
            return self.trials[genome]

        @property
        def best(self) -> Trial:
            return self.trials[self.baseline]

    def method(problem: Any) -> None:
        for number in (1, 2):
            problem.evaluate((number,))

    terminal = open_terminal(monkeypatch)
    assert len(solve("greedy", method, Counted()).trials) == 3  # type: ignore[arg-type]
    assert "greedy" in terminal.getvalue()
    assert "3/5" in terminal.getvalue()


@pytest.mark.parametrize("bar", [True, False])
def test_training_tells_that_it_fits_step_sizes_first(bar: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Lightning shows its bar, too."""
    module = QuantizableClassifier("tiny_cnn", 10, [2, 32])
    terminal = open_terminal(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on loaders
        tiny.trainer(max_steps=1, enable_progress_bar=bar, limit_val_batches=0).fit(module, tiny.loader(3))
    assert ("fitting the first step sizes" in terminal.getvalue()) == bar
    assert ("3/8" in terminal.getvalue()) == bar


@pytest.fixture(scope="module")
def checkpoint(calibrated: Callable[..., Path]) -> Path:
    return calibrated("tiny_cnn", [2, 4, 32], Fake(image_size=8, size=32, batch_size=8))


def test_export_and_cost_tell_how_far_they_are(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick(network: Any, path: Path, *_: Any, **options: Any) -> dict[str, str]:
        path.touch()
        return {}

    monkeypatch.setattr("quantizable.deploy.command_export.export_onnx", quick)
    monkeypatch.setattr("quantizable.deploy.command_export.check_engines", lambda *_: {})
    monkeypatch.setattr("quantizable.deploy.command_cost.saturating_layers", lambda *_: 0)
    monkeypatch.setattr("quantizable.deploy.command_cost.exact_kernels", lambda: False)  # times each mode
    monkeypatch.setattr("quantizable.measure.latency.PAUSE", 0)
    terminal = open_terminal(monkeypatch)
    assert main(["export", str(checkpoint), "--format", "onnx", "--output", str(tmp_path)]) == 0
    assert main(["cost", str(checkpoint), "--engine", "torch"]) == 0
    for words in ("exporting", "asking the engines", "counting layers", "compiling", "timing"):
        assert words in terminal.getvalue()


def test_verify_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "net.npz", W0=np.array([[0.5, -0.25], [0.25, 0.5]]), b0=np.zeros(2))
    np.save(tmp_path / "inputs.npy", np.array([[3.0, 9.0], [1.0, 4.0]]))
    terminal = open_terminal(monkeypatch)
    words = ["verify", str(tmp_path / "net.npz"), "--inputs", str(tmp_path / "inputs.npy"), "--radius", "1"]
    assert main([*words, "--bits", "32,8", "--eps", "1000"]) == 0
    assert "verifying" in terminal.getvalue()
