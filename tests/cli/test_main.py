"""The command ``quantizable``: its subcommands, its exit codes, one line for an error."""

import pytest

import quantizable
from quantizable.cli import main as cli


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, expected in (("--version", quantizable.__version__), ("--help", "evaluate")):
        with pytest.raises(SystemExit) as stop:
            cli.main([flag])
        assert stop.value.code == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize("room", cli.ROOMS)
def test_every_room_has_a_subcommand_with_help(room: str, capsys: pytest.CaptureFixture[str]) -> None:
    # quantizable.measure.evaluate, quantizable.verify.command, quantizable.deploy.command_export
    command = room.removesuffix(".command").rpartition(".")[2].removeprefix("command_")
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: quantizable" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["banana"], ["evaluate"], ["evaluate", "a.ckpt", "--banana"]])
def test_wrong_words_end_with_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "usage: quantizable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("bad bits"), 2, "quantizable: error: bad bits\n"),
        (FileNotFoundError("no file"), 2, "quantizable: error: no file\n"),
        (ImportError("needs wandb"), 2, "quantizable: error: needs wandb\n"),
        (KeyboardInterrupt(), 130, "quantizable: stopped\n"),
    ],
)
def test_errors_are_one_line(
    error: BaseException, code: int, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr("quantizable.measure.evaluate.run", fail)
    assert cli.main(["evaluate", "some.ckpt"]) == code
    assert capsys.readouterr().err == said


def test_what_is_our_fault_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> int:
        raise KeyError("a bug")

    monkeypatch.setattr("quantizable.measure.evaluate.run", fail)
    with pytest.raises(KeyError):
        cli.main(["evaluate", "some.ckpt"])
