"""What ``quantizable dashboard`` would save, seen without a network."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantizable.cli import main

pytest.importorskip(
    "wandb_workspaces", reason="the dashboard is an extra: pip install quantizable[dashboard]"
)


def strings(node: Any) -> set[str]:
    """Every string anywhere in a JSON value."""
    if isinstance(node, dict):
        return set().union(*(strings(v) for v in node.values()), set(node))
    if isinstance(node, list):
        return set().union(*(strings(v) for v in node))
    return {node} if isinstance(node, str) else set()


def test_panels_compare_the_modes(tmp_path: Path) -> None:
    file = tmp_path / "workspace.json"
    assert main(["dashboard", "--bits", "2,w4a8,32", "--project", "mine", "--dry-run", str(file)]) == 0
    saved = strings(json.loads(file.read_text()))
    for mode in ("2", "w4a8", "32"):
        for key in ("val/top1", "val/top5", "val/loss", "val/disagreement", "test/top1", "train/loss"):
            assert f"{key}/{mode}" in saved, key
        assert f"summary:test/top1/{mode}" in saved, "runs against modes"
    assert {"val/top1/mean", "val/top1/lowest", "top-1 by mode", "test/modes", "mine"} <= saved
    assert "val/top1/8" not in saved


def test_an_entity_or_a_dry_run_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard"]) == 2
    assert "give --entity" in capsys.readouterr().err
    assert main(["dashboard", "--bits", "33", "--entity", "me"]) == 2
    assert "out of range" in capsys.readouterr().err


def test_a_refusal_of_wandb_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb_workspaces.workspaces as ws
    from wandb.errors import CommError

    def refuse(self: Any) -> None:
        raise CommError("no API key")

    monkeypatch.setattr(ws.Workspace, "save", refuse)
    assert main(["dashboard", "--entity", "me"]) == 2
    said = capsys.readouterr().err
    assert "no API key" in said
    assert "wandb login" in said
