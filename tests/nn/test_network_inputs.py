"""What of a batch goes into a network, of every structure that loaders give."""

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantizable import quantize
from quantizable.nn.network_inputs import Inputs, network_inputs

X, Y = torch.zeros(2, 3), torch.ones(2, dtype=torch.long)
Batch = namedtuple("Batch", "image label")


class One(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x


class Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
        return left


class Anything(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args


@pytest.mark.parametrize(
    ("model", "batch", "args", "kwargs"),
    [
        (One(), X, (X,), {}),
        (One(), (X, Y), (X,), {}),
        (One(), [X, Y], (X,), {}),
        (One(), Batch(X, Y), (X,), {}),
        (One(), {"image": X, "label": Y}, (X,), {}),
        (One(), {"x": X, "mask": Y, "label": Y}, (), {"x": X, "mask": Y}),
        (One(), ({"x": X, "mask": Y}, Y), (), {"x": X, "mask": Y}),
        (One(), ((X, X), (Y, Y)), ([X, X],), {}),  # images and targets of a detector
        (One(), Y, (Y,), {}),
        (Two(), (X, Y), (X, Y), {}),
        (Two(), (X, X, Y), (X, X), {}),
        (Two(), ((X, Y), Y), (X, Y), {}),
        (Two(), {"left": X, "right": X, "scale": 2.0}, (), {"left": X, "right": X, "scale": 2.0}),
        (Anything(), (X, Y), (X,), {}),
        (nn.Bilinear(3, 3, 1), (X, X), (X, X), {}),
    ],
)
def test_inputs(model: nn.Module, batch: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    found = network_inputs(model, batch)
    assert len(found.args) == len(args)
    assert all(one is other for one, other in zip(flat(found.args), flat(args), strict=True))
    assert found.kwargs.keys() == kwargs.keys()
    assert all(found.kwargs[key] is kwargs[key] for key in kwargs)


def flat(values: Any) -> list[Any]:
    return [y for x in values for y in (flat(x) if isinstance(x, tuple | list) else [x])]


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (One(), ("cat", 1), "the input is a str; needed is a tensor of inputs"),
        (One(), {}, "the input is a NoneType"),
        (Two(), X, "the network takes left, right, and the batch has 1 inputs; .* forward=lambda"),
        (Two(), {"left": X}, "the network takes left, right, and the batch has 1"),
    ],
)
def test_batches_without_inputs_are_refused(model: nn.Module, batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network_inputs(model, batch)


def test_integers_stay_integers_wherever_they_go() -> None:
    moved = Inputs((Y, [X, {"ids": Y}]), {"mask": Y.bool()}).to(torch.device("meta"))
    assert [x.dtype for x in moved.tensors()] == [torch.long, torch.float32, torch.long, torch.bool]
    assert all(x.is_meta for x in moved.tensors())


class Words(nn.Module):
    """Token ids and a float mask that hides by minus infinity; a batch norm in between."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(20, 6), nn.BatchNorm1d(6)
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, ids: Tensor, hidden_mask: Tensor | None = None) -> Tensor:
        x = self.first(self.table(ids))
        if hidden_mask is not None:
            x = x * hidden_mask.exp()[..., None]
        return self.last(self.norm(x.mean(1)).relu())


def words() -> dict[str, Tensor]:
    mask = torch.zeros(8, 5)
    mask[:, 3:] = float("-inf")
    return {"ids": torch.randint(20, (8, 5)), "hidden_mask": mask, "label": torch.zeros(8, dtype=torch.long)}


def test_calibration_and_norms_from_keyword_arguments_are_those_of_a_forward_given() -> None:
    batches = [words() for _ in range(3)]
    one, other = (quantize(Words().eval(), [4, 32], first_last="mode") for _ in range(2))
    other.load_state_dict(one.state_dict())
    seen = []

    def forward(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        seen.append(network)
        return network(batch["ids"], batch["hidden_mask"])

    one.calibrate(batches)
    one.reestimate_norms(batches)
    other.calibrate(batches, forward=forward)
    other.reestimate_norms(batches, forward=forward)
    assert all(network is other for network in seen)
    assert len(seen) >= 6
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())
    assert not torch.equal(one.model.norm.norms["4"].running_mean, torch.zeros(6))
    assert one.model.first.input_quantizer.is_set(4)


def test_nan_is_refused_in_every_argument() -> None:
    net = quantize(Words().eval(), [4, 32])
    batch = words() | {"hidden_mask": torch.zeros(8, 5)}
    net.calibrate([batch])
    broken = quantize(Both(), [4, 32])
    with pytest.raises(ValueError, match="batch 2 of the loader has NaN"):
        broken.calibrate([(X, X), (X, X * float("nan"))])


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fc(left) + self.fc(right)


def test_a_detector_reads_lists_of_images() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

        def forward(self, images: list[Tensor], targets: Any = None) -> list[Tensor]:
            return [self.head(self.conv(image[None]).relu()) for image in images]

    net = quantize(Detector().eval(), [4, 32], first_last="mode")
    images = (torch.rand(3, 8, 8), torch.rand(3, 6, 10))
    net.calibrate([(images, ({"boxes": torch.zeros(1, 4)}, {"boxes": torch.zeros(0, 4)}))])
    scale = net.conv.input_quantizer.level(4).scale
    assert 0.5 / 15 < scale < 1.2 / 15  # of values up to 1, in both images
    net.set_bits(4)
    assert [out.shape for out in net([*images])] == [(1, 2, 6, 6), (1, 2, 4, 8)]
    assert net.coverage((images, None)).share == 1
