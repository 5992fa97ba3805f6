"""Random streams by key: near keys, other purposes and other runs share nothing."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from quantizable import QuantizableClassifier
from quantizable.seeds import generator, key_seed, seeded
from quantizable.training.batch_transforms import Adversarial, Mixup, with_noise
from tests.tiny import TinyCNN, batches, loader, trainer

numbers = st.integers(0, 2**40)
keys = st.tuples(st.sampled_from(["noise", "attack", "mixup"]), numbers, numbers, numbers, numbers)


def test_keys_do_not_collide():
    seeds = {key_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert generator(1, 2).initial_seed() == key_seed(1, 2)


def test_seeded_restores_the_global_generator():
    state = torch.get_rng_state()
    with seeded(5):
        first = torch.rand(3)
    assert torch.equal(state, torch.get_rng_state())
    with seeded(5):
        assert torch.equal(first, torch.rand(3))


@given(st.lists(keys, min_size=2, max_size=20, unique=True))
def test_different_keys_of_purpose_seed_epoch_batch_and_rank_give_different_streams(found: list) -> None:
    streams = {tuple(torch.rand(4, generator=generator(*key)).tolist()) for key in found}
    assert len(streams) == len(found)


@given(keys, st.integers(1, 4), st.integers(1, 2**33))
def test_no_field_of_a_key_runs_over_into_another(key: tuple, field: int, more: int) -> None:
    moved = list(key)
    moved[field] += more
    moved[field % 4 + 1] -= more
    assert key_seed(*moved) != key_seed(*key)
    assert key_seed(*key) != key_seed(*key, 0) != key_seed(*key[:-1])


def test_a_key_means_the_same_on_every_machine() -> None:
    digest = bytes.fromhex("3ff51ff0bab5f6f7")  # echo -n noise/1/2 | sha256sum
    assert key_seed("noise", 1, 2) == int.from_bytes(digest, "little") // 2
    assert key_seed(1, 2) == 7764949442709860949


class Drawn:
    """A strategy that keeps what it makes of a batch."""

    def __init__(self, change: Any) -> None:
        self.change, self.seen = change, []

    def __call__(self, module: Any, batch: Any, step: int) -> Any:
        images, _ = changed = self.change(module, batch, step)
        self.seen.append(tuple(images.flatten()[:8].tolist()))
        return changed


def noise(module: Any, batch: Any, step: int) -> Any:
    return with_noise(module, batch[0], 0.1, step), batch[1]


@pytest.mark.parametrize("change", [noise, Mixup(alpha=5.0), Adversarial(eps=0.5, step=1e-9, iterations=1)])
def test_no_draw_of_a_run_returns_in_another_or_in_another_process(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 1 drew in epoch e, batch b what seed 0 drew in epoch e + 1, batch b + 3."""
    (images, labels), kept = batches(1, 4)[0], Drawn(change)
    same = DataLoader(TensorDataset(images.repeat(5, 1, 1, 1), labels.repeat(5)), batch_size=4)
    for seed, rank in ((0, 0), (1, 0), (1, 1)):
        monkeypatch.setattr(QuantizableClassifier, "global_rank", rank)
        module = QuantizableClassifier(TinyCNN(), 10, (2, 32), seed=seed, strategy=kept)
        trainer(max_epochs=3).fit(module, same)
    assert len(kept.seen) == 3 * 15
    assert len({*kept.seen}) == 3 * 15


def test_dropout_differs_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for rank in (0, 1, 2):
        monkeypatch.setattr(QuantizableClassifier, "global_rank", rank)
        torch.manual_seed(0)
        trainer(max_epochs=1).fit(QuantizableClassifier(TinyCNN(), 10, (2, 32)), loader(1))
        states.append(torch.rand(4).tolist())
    assert states[0] != states[1] != states[2] != states[0]
