"""Shifts of texts: typos, dropped and swapped words, synonyms, other texts; and what a page shows of them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from quantizable.assess.corruptions.words import SHARES, TEXT, Words, _mistyped, corrupt_text
from quantizable.assess.shifts import CLEAN, shifts
from quantizable.assess.study import Study
from quantizable.assess.texts import Texts, sentences
from quantizable.assess.word_neighbors import word_neighbors
from quantizable.report.agreement_tables import tables

VOCABULARY = ("<pad>", "<unk>", "a", "good", "bad", "film", "flim", "not", "plot")
WORDS = Words(VOCABULARY, torch.tensor([[i] for i in range(3)] + [[4], [3], [8], [6], [7], [5]]))
TEN = torch.tensor([[2, 3, 4, 5, 7, 8, 3, 4, 5, 7, 0, 0]])  # ten words, two places of padding


def texts(*rows: list[int]) -> Texts:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return Texts(ids, torch.zeros(len(rows), dtype=torch.long), WORDS, ("no", "yes"))


@pytest.mark.parametrize("name", TEXT)
def test_every_corruption_keeps_the_form_repeats_and_leaves_the_clean_texts_alone(name: str) -> None:
    ids = torch.cat([TEN, torch.tensor([[5] + [0] * 11]), torch.tensor([[1] * 12])])
    before = ids.clone()
    for severity in (1, 5):
        changed = corrupt_text(ids, name, severity, WORDS, seed=3)
        assert changed.shape == ids.shape
        assert changed.dtype == torch.int64
        there = changed != 0
        assert torch.equal(there, there.cumprod(1).bool())  # padding stands behind the words alone
        assert there.any(1).all()
        assert torch.equal(changed, corrupt_text(ids, name, severity, WORDS, seed=3))
    assert torch.equal(ids, before)
    assert not torch.equal(changed, corrupt_text(ids, name, 5, WORDS, seed=4))
    assert not torch.equal(changed, ids)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_a_severity_is_a_share_of_the_words(severity: int) -> None:
    count = max(1, int(SHARES[severity - 1] * 10))
    assert count == (1, 1, 2, 3, 4)[severity - 1]
    dropped = corrupt_text(TEN, "dropped_words", severity, WORDS)
    assert (dropped != 0).sum() == 10 - count
    assert (corrupt_text(TEN, "synonyms", severity, WORDS) != TEN).sum() == count
    typed = corrupt_text(TEN, "typos", severity, WORDS)
    assert (typed != TEN).sum() == count  # no typo gives the word itself: "good" with its letters swapped may
    swapped = corrupt_text(TEN, "swapped_words", severity, WORDS)
    assert (swapped != TEN).sum() <= 2 * count


def test_dropping_keeps_the_order_and_swapping_the_words() -> None:
    row = torch.arange(2, 9).repeat(1, 5)
    left = iter(row[0].tolist())
    dropped = corrupt_text(row, "dropped_words", 4, WORDS)[0]
    assert all(word in left for word in dropped[dropped != 0].tolist())  # in order
    swapped = corrupt_text(row, "swapped_words", 4, WORDS)
    assert torch.equal(swapped.sort().values, row.sort().values)
    assert not torch.equal(swapped, row)


def test_the_only_word_is_neither_dropped_nor_moved() -> None:
    one = torch.tensor([[5, 0, 0]])
    assert torch.equal(corrupt_text(one, "dropped_words", 5, WORDS), one)
    assert torch.equal(corrupt_text(one, "swapped_words", 5, WORDS), one)


def test_typos_are_four_kinds_of_slips() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = {_mistyped("ab", generator) for _ in range(200)}
    replaced = {letter + "b" for letter in "abcdefghijklmnopqrstuvwxyz"}
    assert seen <= {"ba", "b", "aab"} | replaced
    assert {"ba", "b", "aab"} < seen
    # swapped letters of "film" are a word of this vocabulary; all other slips of it are none
    found = {int(corrupt_text(torch.tensor([[5]]), "typos", 1, WORDS, seed)[0, 0]) for seed in range(60)}
    assert found <= {1, 5, 6}
    assert {1, 6} <= found


def test_synonyms_are_neighbors_and_words_without_any_stay() -> None:
    changed = corrupt_text(TEN.repeat(50, 1), "synonyms", 5, WORDS)
    pairs = set(zip(TEN.repeat(50, 1).flatten().tolist(), changed.flatten().tolist(), strict=True))
    exchanged = {(3, 3), (3, 4), (4, 4), (4, 3), (5, 5), (5, 8), (8, 8), (8, 5)}
    assert pairs == {(0, 0), (2, 2), (7, 7)} | exchanged


def test_bad_names_and_severities_are_refused() -> None:
    with pytest.raises(ValueError, match="'fog' is unknown"):
        corrupt_text(TEN, "fog", 1, WORDS)
    with pytest.raises(ValueError, match="severity 6"):
        corrupt_text(TEN, "typos", 6, WORDS)
    with pytest.raises(ValueError, match="training texts"):
        corrupt_text(TEN, "synonyms", 1, Words(VOCABULARY))
    assert "synonyms" not in Texts(TEN, torch.zeros(1), Words(VOCABULARY)).suite()


def test_words_that_are_used_alike_are_neighbors() -> None:
    animal, bird = [2, 3], [4, 5]  # ids 6 to 9 are what each kind does
    draw = torch.Generator().manual_seed(0)
    rows = []
    for kind, does in ((animal, (6, 7)), (bird, (8, 9))):
        for _ in range(40):
            a, b = torch.randint(2, (2,), generator=draw).tolist()
            rows.append([does[b], kind[a], does[1 - b]])
    near = word_neighbors(torch.tensor([*rows, [10, 0, 0]]), size=12, count=1)
    assert near[2:6, 0].tolist() == [3, 2, 5, 4]
    assert near[[0, 1, 10, 11], 0].tolist() == [0, 1, 10, 11]  # no words, a rare one, one that is not there


def test_neighbors_are_those_of_a_dense_decomposition() -> None:
    ids = torch.randint(2, 14, (60, 9), generator=torch.Generator().manual_seed(1))
    counts = np.zeros((12, 12))
    for row in (ids - 2).tolist():
        for i, a in enumerate(row):
            for j, b in enumerate(row):
                counts[a, b] += 0 < abs(i - j) <= 4
    share = counts / counts.sum()
    with np.errstate(divide="ignore"):
        positive = np.maximum(np.log(share / np.outer(share.sum(1), share.sum(1))), 0)
    u, s, _ = np.linalg.svd(positive)
    vectors = u[:, :5] * np.sqrt(s[:5])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = vectors @ vectors.T - 3 * np.eye(12)
    expected = np.argsort(-likeness, axis=1)[:, :2] + 2
    found = word_neighbors(ids, size=14, count=2, dimensions=5)
    assert found[2:].tolist() == expected.tolist()


def test_bad_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="no texts"):
        Texts(torch.zeros(0, 3, dtype=torch.long), torch.zeros(0), WORDS)
    with pytest.raises(ValueError, match="1 texts but 2 labels"):
        Texts(TEN, torch.zeros(2), WORDS)
    with pytest.raises(ValueError, match="reach from 0 to 99, but the vocabulary has 9"):
        Texts(torch.tensor([[0, 99]]), torch.zeros(1), WORDS)


def votes(word: int):  # type: ignore[no-untyped-def]
    """Class 1 where a text has the word."""

    def model(ids: Tensor) -> Tensor:
        there = 4.0 * (ids == word).any(1) - 2
        return torch.stack((-there, there), 1)

    return model


def test_shifts_of_texts_and_the_table_that_shows_them() -> None:
    clean = texts([2, 3, 5], [7, 4], [8])  # "a good film", "not bad", "plot"
    models = {"4": votes(4), "32": votes(3)}
    measured = list(
        shifts(models, clean, ["swapped_words"], [1], natural={"other": clean.subset(clean.ids[:, 0] == 8)})
    )
    assert [(one.shift, one.severity) for one in measured] == [(CLEAN, 0), ("swapped_words", 1), ("other", 0)]
    # both models ask for a word alone: swapping changes nothing; "plot" is 0 for both
    assert [one.agreement.against_reference("4")[0] for one in measured] == pytest.approx([2 / 3, 2 / 3, 0])
    study = Study("texts", clean.class_names, VOCABULARY, shifts=measured)
    found = study.as_dict()
    assert found["examples"][0] == {
        "shift": "clean", "severity": 0, "mode": "4", "text": "a good film", "answers": [1, 0],
    }  # fmt: skip
    grids = {grid.title: grid for grid in tables(found)}
    assert ["clean", "4", "not bad", "no", "yes"] in grids["Texts on which modes disagree"].rows
    assert "Agreement with mode 32 (3 texts, 95 % intervals)" in grids
    assert sentences(TEN[:, 8:], VOCABULARY) == ["film not"]
