"""Texts: their words, their files, their batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from quantizable.data import Text
from quantizable.data.choice import check_fit, make_datamodule
from quantizable.data.order import train_batches
from quantizable.data.text_files import read_texts_file
from quantizable.data.text_loader import TextLoader
from quantizable.data.words import PADDING, SPECIAL, UNKNOWN, encode, padded, vocabulary_of, words_of
from quantizable.storage.preprocessing import read_texts
from tests.tiny import SHARED

SENTENCES = [
    "1 good fun",
    "0 so bad",
    "1 good",
    "0 bad , bad story",
    "1 such good fun !",
    "0 dull and bad",
] * 4


def write(path: Path, lines: Sequence[str], encoding: str = "utf-8") -> Path:
    path.write_bytes("\n".join([*lines, ""]).encode(encoding))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with texts in the file ``train.all``."""
    write(tmp_path / "train.all", SENTENCES)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's GOOD, isn't it?!", ["it", "'s", "good", ",", "is", "n't", "it", "?", "!"]),
        ("we ca n't ; you can\u2019t", ["we", "ca", "n't", ";", "you", "ca", "n't"]),  # as SST, and as people
        ("the 'best' of 1930s", ["the", "'", "best", "'", "of", "1930s"]),
        ("cr\u00e8me\u0085br\u00fbl\u00e9e k-19", ["cr\u00e8me", "br\u00fbl\u00e9e", "k", "-", "19"]),
        (" \t ", []),
        ("<pad>", ["<", "pad", ">"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_the_vocabulary_counts_words_and_unknown_ones_have_their_id() -> None:
    texts = ["b b a", "A c", "b d"]
    assert vocabulary_of(texts) == [*SPECIAL, "b", "a", "c", "d"]
    assert vocabulary_of(texts, min_frequency=2) == [*SPECIAL, "b", "a"]
    assert vocabulary_of(texts, max_size=3) == [*SPECIAL, "b"]
    ids = encode(["a B zebra", "b"], vocabulary_of(texts), max_length=8)
    assert [one.tolist() for one in ids] == [[3, 2, UNKNOWN], [2]]
    assert padded(ids, 4).tolist() == [[3, 2, UNKNOWN, PADDING], [2, PADDING, PADDING, PADDING]]
    assert encode(["a b c d"], vocabulary_of(texts), max_length=2)[0].tolist() == [3, 2]
    with pytest.raises(ValueError, match="text 2 of 2 is empty"):
        encode(["a", "\n"], vocabulary_of(texts), 8)


def test_every_layout_of_a_file(tmp_path: Path) -> None:
    files = {
        "a.csv": 'label,text\n1,"good, and ""so""\nlong"\n0,bad\n',
        "semicolons.csv": "\ufefftext;id;label\r\nbad;7;0\r\n",
        "a.tsv": 'label\ttext\n1\t"A lone mark, as GLUE has\n0\tbad\n',
        "first.all": "1 good\tfun \n\n0 bad\n",
        "last.txt": "good\t fun  \t1\r\nbad \t0\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    found = {
        name: [tuple(row) for row in read_texts_file(tmp_path / name)]
        for name in files
        if name != "first.all"
    }
    assert found["a.csv"] == [('good, and "so"\nlong', "1", 3), ("bad", "0", 4)]
    assert found["semicolons.csv"] == [("bad", "0", 2)]
    assert found["a.tsv"] == [('"A lone mark, as GLUE has', "1", 2), ("bad", "0", 3)]
    assert found["last.txt"] == [("good\t fun  ", "1", 1), ("bad ", "0", 2)]
    rows = read_texts_file(tmp_path / "first.all", layout="label_first")
    assert [(words_of(row.text), row.label, row.line) for row in rows] == [
        (["good", "fun"], "1", 1),
        (["bad"], "0", 3),
    ]


def test_bytes_that_are_no_utf8_and_odd_line_ends_stay_inside_a_text(tmp_path: Path) -> None:
    (tmp_path / "reviews.all").write_bytes(b"0 caf\xe9 bad\x85 so\n1 good \xc2\x85fun\x0c\n")
    rows = read_texts_file(tmp_path / "reviews.all")
    assert [row.label for row in rows] == ["0", "1"]
    assert words_of(rows[0].text)[0].startswith("caf")
    assert words_of(rows[1].text) == ["good", "fun"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "sentence,label\ngood,1\n",
            "has no column 'text'; its first line names sentence, label. Set data.",
        ),
        ("a.tsv", "good fun\t1\n", "has no column 'text'; its first line names good fun, 1"),
        ("a.csv", "text,label\ngood\n", "line 2: there is no label"),
        ("a.all", "0 \n", "holds no texts"),
        ("a.txt", "good\t1\nbad\t\n", "line 2: there is no label"),
        ("a.all", "", "a.all is empty"),
        ("a.csv", "text,label\n", "holds no texts"),
        ("b.all", "", "there is no file of texts"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    if name != "b.all":
        (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read_texts_file(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"layout 'label_lst' is unknown.*did you mean 'label_last'"):
        read_texts_file(tmp_path / name, layout="label_lst")


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "text,label\ngood,1\n,0\n"), ("a.all", "1 good\n0 \n")]
)
def test_texts_without_words_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    assert [(row.text, row.label) for row in read_texts_file(tmp_path / name)] == [("good", "1")]
    assert "1 of 2 texts have no words and are left out (line" in caplog.text


def read(**options: Any) -> None:
    data = Text(**options)
    data.prepare_data()
    data.setup()


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["1 good", "1 fine"], {}, "has 1 labels for 2 texts"),
        (
            ["it is good", "so is this", "or that"],
            {},
            "has 3 labels for 3 texts, as 'it'; .* another data.layout",
        ),
        (
            SENTENCES,
            {"class_names": ["bad", "fine"], "layout": "label_first", "train": "other.all"},
            "no file of train",
        ),
        (SENTENCES, {"test_size": 0}, "test_size=0 leaves no test texts"),
        (SENTENCES, {"max_length": 0}, "max_length=0"),
        (SENTENCES, {"class_names": ["one"]}, "give 2 or more different names"),
        (SENTENCES, {"batch_size": 0}, "batch_size=0"),
        (["1 a", "2 b"] * 4, {"class_names": ["x", "y"]}, "label '2' is none of x, y"),
        (["0 a", "1 b"] * 4, {"class_names": ["1", "2"]}, "label '0' is none of 1, 2"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, lines: list[str], options: dict, message: str) -> None:
    write(tmp_path / "train.all", lines)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read(**{"root": tmp_path, "train": "train.all", **options})
    assert "\n" not in str(error.value)


def test_held_out_texts_and_their_words_stay_out_of_training(root: Path) -> None:
    write(root / "train.all", [f"{number % 2} word{number} text" for number in range(40)])
    data = Text(root, "train.all", val_size=8, test_size=0.25)
    parts = {part: data.texts(part)[0] for part in ("train", "val", "test")}
    assert {part: len(texts) for part, texts in parts.items()} == {"train": 22, "val": 8, "test": 10}
    assert len({text for texts in parts.values() for text in texts}) == 40
    assert set(data.vocabulary) == {*SPECIAL, "text"} | {text.split()[0] for text in parts["train"]}
    assert all(UNKNOWN in ids.tolist() for ids in data.encode(parts["val"]))
    again = Text(**{**Text(root, "train.all", val_size=8, test_size=0.25, seed=5).settings})
    assert again.texts("test")[0] == parts["test"]
    assert again.seed == 5


def test_batches(root: Path) -> None:
    write(root / "dev.all", ["0 bad", "1 a good story of fun and love", "1 good"])
    data = Text(root, "train.all", "dev.all", "dev.all", batch_size=5, class_names=["no", "yes"])
    assert (data.num_classes, data.class_names, data.input_size) == (2, ("no", "yes"), (64,))
    assert data.model_options == {"vocabulary_size": len(data.vocabulary)}
    for ids, labels in data.train_dataloader():
        assert ids.dtype == labels.dtype == torch.int64
        assert len(ids) == len(labels) == 5
        assert ids[:, -1].any()  # padded to the longest, no further
        assert (ids.ne(PADDING).int().diff(dim=1) <= 0).all()  # padding comes last
    ((ids, labels),) = data.val_dataloader()
    assert ids.shape == (3, 7)
    assert labels.tolist() == [0, 1, 1]
    assert ids[1, 0] == UNKNOWN
    assert Text(root, "train.all", val_size=0).val_dataloader() == []


def test_batches_are_of_similar_length_and_two_ranks_see_what_one_process_does() -> None:
    lengths = torch.randint(1, 60, (1000,), generator=torch.Generator().manual_seed(0))
    one = train_batches(1000, 16, seed=3, epoch=2, lengths=lengths)
    plain = train_batches(1000, 16, seed=3, epoch=2)
    assert torch.cat(one).sort().values.equal(torch.cat(plain).sort().values)
    spread = [lengths[batch].max() - lengths[batch].min() for batch in one]
    assert sum(spread) / len(spread) < 8  # of 58
    two = [train_batches(1000, 8, 3, 2, rank, 2, lengths) for rank in (0, 1)]
    for whole, parts in zip(one, zip(*two, strict=True), strict=True):
        assert torch.cat(parts).sort().values.equal(whole.sort().values)
    assert not torch.equal(torch.stack(one), torch.stack(train_batches(1000, 16, 3, 1, lengths=lengths)))


def test_a_loader_goes_on_where_it_stopped() -> None:
    texts = [torch.full((1 + number % 7,), 2 + number) for number in range(40)]
    loader, again = (TextLoader(texts, torch.zeros(40).long(), 4, True, seed=1) for _ in range(2))
    full = [ids for ids, _ in loader]
    half = iter(again)
    for _ in range(4):
        next(half)
    resumed = TextLoader(texts, torch.zeros(40).long(), 4, True, seed=1)
    resumed.load_state_dict(again.state_dict())
    assert all(a.equal(b) for a, (b, _) in zip(full[4:], resumed, strict=True))


def test_other_texts_are_read_with_the_words_of_training(root: Path) -> None:
    trained = Text(root, "train.all", val_size=4, test_size=4)
    info = {
        "data": "text",
        "settings": trained.settings,
        "vocabulary": trained.vocabulary,
        "class_names": list(trained.class_names),
        "num_classes": 2,
        "input_size": [64],
    }
    (root / "train.all").unlink()  # as on another machine
    write(root / "other.tsv", ["sentence\tlabel", "bad new\t0", "odd\t3", "good\t1"])
    words = [f"data.test={root / 'other.tsv'}", "data.text_column=sentence"]
    data = make_datamodule(words, info)
    data.prepare_data()
    with pytest.raises(ValueError, match=r"line 3: label '3' is none of 0, 1; data.skip_other_labels=true"):
        data.setup("test")
    data = make_datamodule([*words, "data.skip_other_labels=true"], info)
    ((ids, labels),) = data.test_dataloader()
    assert labels.tolist() == [0, 1]
    assert [data.vocabulary[i] for i in ids.flatten()] == ["bad", "<unk>", "good", "<pad>"]


class _Network:
    def __init__(self, **info: object) -> None:
        self.info = info


def test_words_do_not_fit_a_network_of_images(root: Path) -> None:
    from quantizable.data import Fake

    text = Text(root, "train.all")
    for network, data, message in (
        (_Network(in_chans=3, num_classes=2), text, "the network reads images, Text gives words"),
        (
            _Network(vocabulary=["<pad>"], num_classes=10),
            Fake(),
            "the network reads words, Fake gives images",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            check_fit(network, data)  # type: ignore[arg-type]
    check_fit(_Network(vocabulary=text.vocabulary, num_classes=2), text)  # type: ignore[arg-type]


def test_sst2() -> None:
    root = SHARED / "data" / "text"
    if not (root / "stsa.binary.train").is_file():
        pytest.skip("SST-2 is not in ../shared/data/text")
    data = Text(root, "stsa.binary.train", "stsa.binary.dev", "stsa.binary.test")
    sizes = [len(data.texts(part)[0]) for part in ("train", "val", "test")]
    assert sizes == [6920, 872, 1821]
    assert data.texts("train")[1].bincount().tolist() == [3310, 3610]  # as cut and uniq count
    ids = torch.cat([x.flatten() for x, _ in data.val_dataloader()])
    known = ids[ids != PADDING]
    assert (known == UNKNOWN).float().mean() < 0.06
    assert len(read_texts_file(root / "uci_yelp_labelled.txt")) == 1000


def test_numbers_that_stand_for_named_classes_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "train.csv", ["text,label", "good,pos", "bad,neg", "fine,pos", "dull,neg"])
    write(tmp_path / "test.csv", ["text,label", "good,1", "bad,0"])
    data = Text(tmp_path, train="train.csv", val_size=0, test="test.csv")
    assert not caplog.text
    assert data.texts("test")[1].tolist() == [1, 0]
    assert "test.csv: labels that are numbers stand for classes: 0 = neg, 1 = pos" in caplog.text


@pytest.mark.parametrize(("content", "message"), [("\n\n", "is empty"), ("\ngood,1\n", "names none")])
def test_files_without_a_first_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_texts_file(tmp_path / "train.csv")


def test_a_single_string_is_no_list_of_texts() -> None:
    info = {"vocabulary": ["<pad>", "<unk>", "good"], "input_size": (4,)}
    assert read_texts(["good film"], info).tolist() == [[2, 1, 0, 0]]
    for wrong in ("good film", [None]):
        with pytest.raises(TypeError, match=r"give a list of strings, as \[text\]"):
            read_texts(wrong, info)  # type: ignore[arg-type]


def test_a_text_is_not_cut_at_a_comma_without_quotation_marks(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("label,text\n1,good\n0,Great film, truly great\n")
    with pytest.raises(ValueError, match=r"train.csv, line 3: there are more fields .* that holds ','"):
        list(read_texts_file(path, "auto", "text", "label"))


def test_a_folder_may_be_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2024").mkdir()
    (tmp_path / "2024" / "train.csv").write_text("label,text\n1,good\n0,bad\n")
    assert Text(2024, train="train.csv", test="train.csv").class_names == ("0", "1")  # type: ignore[arg-type]
