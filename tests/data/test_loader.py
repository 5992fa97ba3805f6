import itertools

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from quantizable.data import Fake
from quantizable.data.augment import named_augmentation
from quantizable.data.tensors import TensorLoader


def make(batch_size=8, train=True, rank=0, world_size=1, seed=0, size=50):
    images = torch.arange(size).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).to(torch.uint8)
    return TensorLoader(
        images,
        torch.arange(size),
        (0.5,),
        (0.25,),
        batch_size,
        train,
        augmentation=named_augmentation("crop_flip"),
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def same(first, second):
    assert len(first) == len(second)
    for (x, y), (u, v) in zip(first, second, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_evaluation_equals_a_plain_dataloader():
    data = Fake(size=40, num_classes=5, batch_size=8)
    images, labels = data.read(train=False)
    reference = DataLoader(TensorDataset((images / 255 - 0.5) / 12**-0.5, labels), batch_size=8)
    for (x, y), (u, v) in zip(data.test_dataloader(), reference, strict=True):
        torch.testing.assert_close(x, u)
        assert torch.equal(y, v)


def test_same_seed_same_batches_and_passes_advance_the_epoch():
    loader = make()
    first, second = list(loader), list(loader)
    same(first, list(make()))
    assert any(not torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
    again = make()
    again.set_epoch(1)
    same(second, list(again))
    assert any(not torch.equal(a[1], b[1]) for a, b in zip(first, list(make(seed=1)), strict=True))


def test_an_abandoned_pass_starts_over():
    loader = make()
    first = next(iter(loader))
    same([first], [next(iter(loader))])


@pytest.mark.parametrize("position", range(1, 7))
def test_resume_inside_an_epoch(position):
    loader = make()
    loader.set_epoch(3)
    whole = list(loader)
    loader.set_epoch(3)
    list(itertools.islice(loader, position))
    state = loader.state_dict()

    resumed = make()
    resumed.load_state_dict(state)
    if position == len(whole):  # the epoch was over
        assert state == {"epoch": 4, "position": 0}
    else:
        resumed.set_epoch(3)
        same(whole[position:], list(resumed))
        assert resumed.epoch == 4
    resumed.set_epoch(4)
    loader.set_epoch(4)
    same(list(loader), list(resumed))


def test_a_position_holds_only_for_its_own_epoch():
    loader = make()
    loader.load_state_dict({"epoch": 2, "position": 3})
    loader.set_epoch(5)
    assert len(list(loader)) == len(loader)


def test_two_ranks_see_what_one_process_sees():
    whole = list(make(batch_size=16))
    ranks = [list(make(batch_size=8, rank=rank, world_size=2)) for rank in (0, 1)]
    for one, left, right in zip(whole, *ranks, strict=True):
        order = one[1].argsort()
        labels = torch.cat([left[1], right[1]])
        assert torch.equal(one[1][order], labels.sort().values)
        images = torch.cat([left[0], right[0]])[labels.argsort()]
        assert torch.equal(one[0][order], images)  # augmented alike, too


def test_bad_arguments():
    with pytest.raises(ValueError, match="batch_size=0"):
        make(batch_size=0)
    with pytest.raises(ValueError, match="seed=-1"):
        make(seed=-1)
    with pytest.raises(ValueError, match="1 images cannot be shared by 2"):
        make(size=1, world_size=2)


class Recorder(pl.LightningModule):
    """Keeps the checksum of each training batch; stops like a killed run after `stop` of them."""

    def __init__(self, stop=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stop, self.seen = stop, []

    def training_step(self, batch, _):
        if len(self.seen) == self.stop:
            raise InterruptedError
        images, labels = batch
        self.seen.append((images.double().sum().item(), labels.tolist()))
        return (images.mean() * self.weight).square()

    def validation_step(self, batch, _):
        self.log("val", batch[0].mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("stop", [7, 12, 13])  # 6 batches an epoch
def test_lightning_resumes_in_the_middle_of_an_epoch(tmp_path, stop):
    def fit(module, run, **options):
        checkpoint = pl.callbacks.ModelCheckpoint(
            tmp_path / run, save_last=True, every_n_train_steps=1, save_top_k=0
        )
        trainer = pl.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[checkpoint],
        )
        data = Fake(size=64, image_size=8, batch_size=8, augment="crop_flip")
        trainer.fit(module, data, **options)
        return module.seen

    whole = fit(Recorder(), "whole")
    assert len(whole) == 18
    killed = Recorder(stop)
    with pytest.raises(InterruptedError):
        fit(killed, "killed")
    resumed = fit(Recorder(), "resumed", ckpt_path=tmp_path / "killed" / "last.ckpt", weights_only=True)
    assert killed.seen + resumed == whole
