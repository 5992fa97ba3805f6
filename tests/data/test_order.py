import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantizable.data.order import (
    eval_batch_count,
    eval_batches,
    split,
    train_batch_count,
    train_batches,
)

sizes = st.integers(8, 200)
batch_sizes = st.integers(1, 50)
worlds = st.integers(1, 4)


@given(sizes, st.integers(0, 7), st.integers(0, 5))
def test_split_parts_the_training_set(size, val_size, seed):
    train, val = split(size, val_size, seed)
    assert len(val) == val_size
    assert sorted(train.tolist() + val.tolist()) == list(range(size))


def test_split_depends_on_its_seed_alone():
    before = split(100, 0.2, seed=3)
    torch.rand(5)
    assert torch.equal(before[1], split(100, 20, seed=3)[1])
    assert not torch.equal(before[1], split(100, 20, seed=4)[1])


@pytest.mark.parametrize("val_size", [-1, 10, 11, 1.0, -0.1, 2.5])
def test_split_refuses_what_cannot_be_held_out(val_size):
    with pytest.raises(ValueError, match="give a count from 0 to 9"):
        split(10, val_size)


def test_split_refuses_a_share_of_no_image():
    with pytest.raises(ValueError, match=r"too few images: val_size=0\.1 of 4 training images"):
        split(4, 0.1)


@given(sizes, batch_sizes, worlds)
def test_eval_shards_cover_every_image_once(size, batch_size, world):
    shards = [eval_batches(size, batch_size, rank, world) for rank in range(world)]
    assert {len(shard) for shard in shards} == {eval_batch_count(size, batch_size, world)}
    seen = [i for shard in shards for batch in shard for i in batch.tolist()]
    assert sorted(seen) == list(range(size))
    assert all(len(batch) for shard in shards for batch in shard)


@given(sizes, batch_sizes, worlds, st.integers(0, 3))
def test_train_shards_are_disjoint_and_together_one_process(size, batch_size, world, epoch):
    shards = [train_batches(size, batch_size, 0, epoch, rank, world) for rank in range(world)]
    whole = train_batches(size, batch_size * world, 0, epoch)
    assert {len(shard) for shard in shards} == {train_batch_count(size, batch_size, world)}
    for step, batch in enumerate(whole):
        dealt = [i for shard in shards for i in shard[step].tolist()]
        assert len(set(dealt)) == len(dealt)
        assert sorted(dealt) == sorted(batch.tolist())


def test_train_order_changes_with_epoch_and_seed_only():
    first = torch.cat(train_batches(64, 8, seed=1, epoch=0))
    assert torch.equal(first, torch.cat(train_batches(64, 8, seed=1, epoch=0)))
    assert not torch.equal(first, torch.cat(train_batches(64, 8, seed=1, epoch=1)))
    assert not torch.equal(first, torch.cat(train_batches(64, 8, seed=2, epoch=0)))
