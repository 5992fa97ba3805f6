"""``quantizable assess`` on a network of words: other files, corruptions of text, repair, and the page."""

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from quantizable import QuantizableClassifier
from quantizable.assess.callables import mode_models
from quantizable.assess.texts import texts_of
from quantizable.cli import main
from quantizable.data import Text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of texts, and a network that has seen those of training."""
    place = tmp_path_factory.mktemp("words")
    good = ("1 a good film", "1 not bad at all", "1 fine and good")
    bad = ("0 a bad film", "0 not good at all", "0 dull and bad")
    rows = [f"{text} {number % 7}" for number in range(20) for text in (*good, *bad)]
    (place / "train.txt").write_text("\n".join(rows))
    (place / "test.txt").write_text("\n".join(rows[:30]))
    (place / "elsewhere.txt").write_text("1 splendid phone\n0 bad phone and not good\n1 good\n0 dull")
    data = Text(place, "train.txt", test="test.txt", class_names=("negative", "positive"), batch_size=16)
    options = {"vocabulary_size": len(data.vocabulary), "embedding_dim": 8, "hidden_size": 6}
    module = QuantizableClassifier(
        "lstm", 2, [2, 4, 32], model_options=options, quantize_options={"first_last": "mode"}
    )
    trainer = pl.Trainer(
        max_epochs=2, logger=False, enable_progress_bar=False, accelerator="cpu", default_root_dir=place
    )
    trainer.fit(module, data)
    with torch.no_grad():  # mode 32 gives both answers, mode 2, whose weights all round to 0, one
        logits = mode_models(module.network)["32"](texts_of(data).ids)
        module.network.classifier.bias -= logits.median(0).values
        module.network.classifier.weight_quantizer.levels["2"].scale.mul_(1e6)
    trainer.save_checkpoint(place / "best.ckpt")
    return place


def test_the_whole_command_on_texts(folder: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    words = ["data=text", f"data.root={folder}", "--corruptions", "typos,dropped_words", "--severities", "3"]
    words += ["--natural", "phones", "data=text", f"data.root={folder}", "data.test=elsewhere.txt"]
    words += ["--repair", "2", "--output", str(tmp_path)]
    assert main(["assess", str(folder / "best.ckpt"), *words]) == 0
    found = json.loads((tmp_path / "assessment.json").read_text())
    assert [(one["shift"], one["images"]) for one in found["shifts"]] == [
        ("clean", 30), ("typos", 30), ("dropped_words", 30), ("phones", 4)
    ]  # fmt: skip
    assert found["inputs"] == "texts"
    assert found["examples"]
    assert all(one["text"] and len(one["answers"]) == 2 for one in found["examples"])
    assert {one["shift"] for one in found["examples"]} >= {"clean"}
    assert found["bops_per_image"]["2"] < found["bops_per_image"]["4"] < found["bops_per_image"]["32"]
    page = (tmp_path / "report.html").read_text()
    assert all(one["text"] in page for one in found["examples"])
    assert not list(tmp_path.glob("examples-*.png"))
    assert "30 texts" in capsys.readouterr().out


def test_a_search_and_unknown_corruptions_are_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys
) -> None:  # type: ignore[no-untyped-def]
    for words, message in (
        (["--search", "4"], "--search moves pixels"),
        (["--corruptions", "fog"], "corruption 'fog' is unknown"),
    ):
        status = main(
            ["assess", str(folder / "best.ckpt"), f"data.root={folder}", *words, "--output", str(tmp_path)]
        )
        assert status != 0
        said = capsys.readouterr().err
        assert message in said
        assert "Traceback" not in said
