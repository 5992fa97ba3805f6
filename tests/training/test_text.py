"""A network that reads words, from its files to its answers: trained, resumed, exported, asked."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import quantizable
from quantizable import deploy
from quantizable.cli import main
from quantizable.data import Text
from quantizable.deploy import Session, read_texts
from quantizable.measure.evaluate import evaluate
from quantizable.storage.input_files import find_texts
from quantizable.storage.preprocessing import preprocessing
from quantizable.training.run import train
from tests.tiny import config, same

GOOD, BAD = ["good", "fun", "lovely", "fine"], ["bad", "dull", "awful", "poor"]
WORDS = (
    "data=text",
    "data.train=train.tsv",
    "data.val=dev.tsv",
    "data.test=dev.tsv",
    "data.class_names=[negative,positive]",
    "data.max_length=6",
    "data.batch_size=8",
    "model=lstm",
    "model.options={embedding_dim:8,hidden_size:6,drop_rate:0.1}",
    "bits.modes=[4,8,32]",
    "quantizer.embedding=true",
    "trainer=cpu",
    "trainer.precision=32-true",
    "schedule.optimizer.lr=0.05",
    "schedule.optimizer.schedule=constant",
    "schedule.epochs=3",
)


def write(path: Path, count: int) -> None:
    """Sentences of 2 to 5 words, one of which says the class."""
    draw = torch.Generator().manual_seed(count)
    lines = ["text\tlabel"]
    for number in range(count):
        pool = (BAD, GOOD)[number % 2]
        place, length, kind = (int(torch.randint(n, (1,), generator=draw)) for n in (2, 4, 4))
        words = ["a", "story", "of", "it", "all"][: length + 1]
        lines.append(f"{' '.join([*words[:place], pool[kind], *words[place:]])}\t{number % 2}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    root = tmp_path_factory.mktemp("text")
    write(root / "train.tsv", 80)
    write(root / "dev.tsv", 20)
    train(config(root, f"data.root={root}", *WORDS, small=False))
    return root / "text_lstm"


def test_every_mode_learns_and_the_checkpoint_holds_the_words(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert results["images"] == 20
    assert all(values["top1"] == 1 for values in results["modes"].values())
    network = quantizable.load(run / "best.ckpt")
    assert network.info["class_names"] == ["negative", "positive"]
    assert {"good", "dull"} < {*network.info["vocabulary"]}
    assert network.info["input_size"] == [6]
    assert "vocabulary" not in network.info["settings"]
    data = Text(**network.info["settings"])
    assert data.vocabulary == network.info["vocabulary"]
    (ids, _), *_ = data.test_dataloader()
    asked = read_texts(data.texts("test")[0][: len(ids)], network.info)
    assert asked[:, : ids.shape[1]].equal(ids)
    assert not asked[:, ids.shape[1] :].any()
    measured = evaluate(network, data.test_dataloader(), network.modes)
    for mode, values in measured.items():
        assert values == pytest.approx(results["modes"][mode], rel=1e-4, abs=1e-6)


def test_a_run_goes_on_as_if_it_had_never_stopped(run: Path, tmp_path: Path) -> None:
    root = run.parent
    words = [f"data.root={root}", *WORDS, "run=again"]
    train(config(tmp_path, *words, "schedule.epochs=1", "test=false", small=False))
    train(config(tmp_path, *words, "resume=last", "test=false", small=False))
    whole, cut = (
        torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (run, tmp_path / "again")
    )
    assert same(whole, cut, [key for key in whole if key.startswith("network.")])
    (tmp_path / "train.tsv").write_text((root / "train.tsv").read_text().replace("story", "tale"))
    (tmp_path / "dev.tsv").write_text((root / "dev.tsv").read_text())
    with pytest.raises(
        ValueError, match="cannot be resumed: the training texts have other words than before"
    ):
        train(config(tmp_path, *words, f"data.root={tmp_path}", "resume=last", small=False))


def test_a_new_run_starts_with_the_words_of_the_old(run: Path, tmp_path: Path) -> None:
    for name, count in (("train.tsv", 32), ("dev.tsv", 8)):
        write(tmp_path / name, count)
    lines = (tmp_path / "train.tsv").read_text().replace("story", "tale")
    (tmp_path / "train.tsv").write_text(lines)
    words = [f"data.root={tmp_path}", *WORDS, f"start={run / 'best.ckpt'}", "schedule.epochs=1"]
    train(config(tmp_path, *words, small=False))
    known = quantizable.load(run / "best.ckpt").info["vocabulary"]
    assert quantizable.load(tmp_path / "text_lstm" / "best.ckpt").info["vocabulary"] == known
    assert "tale" not in known


def test_exported_files_answer_texts_on_both_engines(run: Path, tmp_path: Path, capsys: Any) -> None:
    network = quantizable.load(run / "best.ckpt")
    texts = ["A lovely story!", "so DULL", "unheard of", "awful awful awful it is all too long to be read"]
    inputs = read_texts(texts, network.info)
    assert inputs.shape == (4, 6)
    network.set_bits(4)
    with torch.no_grad():
        expected = network(inputs).numpy()
    deploy.save_qz(network, tmp_path / "model.qz", [4])
    deploy.export_onnx(network, tmp_path / "model.onnx", 4)
    for name, engine in (("model.qz", "torch"), ("model.onnx", "onnxruntime"), ("model.onnx", "openvino")):
        session = Session(tmp_path / name, engine)
        assert not session.problem
        assert session.info["vocabulary"] == network.info["vocabulary"]
        found = session(read_texts(texts, session.info))
        assert abs(found - expected).max() < 0.05
        assert (found.argmax(1) == expected.argmax(1)).all()
    (tmp_path / "many.txt").write_text("\n".join([*texts[:2], ""]))
    asked = ["a fine story", str(tmp_path / "many.txt")]
    for name in ("model.qz", "model.onnx"):
        engine = ["--engine", "torch"] if name == "model.qz" else []
        assert main(["predict", str(tmp_path / name), *asked, "--json", *engine]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["text"] for line in lines] == ["a fine story", *texts[:2]]
        assert [line["top5"][0]["class"] for line in lines] == ["positive", "positive", "negative"]
    for words, message in (
        ([" "], "a text is empty; give at least one word"),
        (["missing.txt"], "there is no file missing.txt"),
    ):
        assert main(["predict", str(tmp_path / "model.qz"), *words]) == 2
        assert message in capsys.readouterr().err


def test_commands_on_other_texts(run: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "other.csv").write_text("text,label\nso good,1\nquite dull,negative\n")
    checkpoint = str(run / "best.ckpt")
    assert main(["evaluate", checkpoint, f"data.test={tmp_path / 'other.csv'}", "--bits", "4,8"]) == 0
    assert "100.00" in capsys.readouterr().out
    assert main(["cost", checkpoint, "--layers"]) == 0
    assert "rnn.hh_l0" in capsys.readouterr().out
    assert main(["search", "sensitivity", checkpoint, "--images", "8", "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    for words, message in (
        (["evaluate", checkpoint, "data=fake"], "the network reads words, Fake gives images"),
        (["evaluate", checkpoint, "data.test=nothing.csv"], "there is no file of test texts"),
        (["search", "certify", checkpoint, "--output", str(tmp_path)], "adds noise to images"),
        (
            ["export", checkpoint, "--format", "onnx", "--residual", "int8", "--output", str(tmp_path)],
            "for networks that read images",
        ),
        (["demo", checkpoint], "reads words, the demo shows images"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["model=resnet20"],
            "model=resnet20 reads images, data=text gives words; choose model=lstm, gru, text_tr",
        ),
        (["model.pretrained=true"], "no published weights of lstm"),
        (["train.noise_sigma=0.1"], "adds noise to images"),
        (["train.teacher=resnet20", "train.teacher_weights=x.th"], "train.teacher=resnet20 reads images"),
        (
            ["data=digits", "schedule=digits"],
            "model=lstm reads words, this data gives images; choose data=text",
        ),
        (["data.val=nothing.tsv"], "no file of val texts"),
        (["data.text_column=sentence"], "has no column 'sentence'; its first line names text, label"),
    ],
)
def test_what_does_not_fit_is_refused(run: Path, tmp_path: Path, words: list[str], message: str) -> None:
    kept = [word for word in WORDS if not (words[0].startswith("data=") and word.startswith("data"))]
    root = [] if len(kept) < len(WORDS) else [f"data.root={run.parent}"]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(config(tmp_path, *kept, *root, *words, small=False))


def test_hub_card_names_texts(run: Path, tmp_path: Path) -> None:
    network = quantizable.load(run / "best.ckpt")
    network.save_pretrained(tmp_path / "shared")
    card = (tmp_path / "shared" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert f"{len(network.info['vocabulary'])} words are known, 6 of a text are read" in card
    again = quantizable.load(tmp_path / "shared")
    assert again.info["vocabulary"] == network.info["vocabulary"]
    assert preprocessing(again)["input_ids"] == len(network.info["vocabulary"])


def test_a_command_line_names_texts_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "b.txt").write_text("good film\n\nbad film\n")
    assert find_texts(["a plot", str(tmp_path / "b.txt")]) == ["a plot", "good film", "bad film"]
    (tmp_path / "c.csv").write_text('\ufefflabel;text\n1;"good; film"\n0;bad\n')
    (tmp_path / "d.TSV").write_text('text\tlabel\na "good film\t1\n')
    found = find_texts([str(tmp_path / "c.csv"), str(tmp_path / "d.TSV")])
    assert found == ["good; film", "bad", 'a "good film']
    (tmp_path / "f.csv").write_text('text\n"Hello, world"\n"two\nlines"\n')  # as pandas writes it
    assert find_texts([str(tmp_path / "f.csv")]) == ["Hello, world", "two\nlines"]
    (tmp_path / "g.csv").write_text("label,text\n1,Great film, truly\n")
    with pytest.raises(ValueError, match="more fields than names"):
        find_texts([str(tmp_path / "g.csv")])
    (tmp_path / "e.csv").write_text("review\ngood\n")
    with pytest.raises(ValueError, match="has no column 'text'"):
        find_texts([str(tmp_path / "e.csv")])
    for word, message in ((tmp_path / "a.png", "is no file of texts"), (tmp_path, "is a folder")):
        with pytest.raises(ValueError, match=message):
            find_texts([str(word)])
