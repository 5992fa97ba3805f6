"""The search for first step sizes in loops: what it finds is as good as what torch's operations find."""

from unittest import mock

import pytest
import torch
from torch import Tensor

from quantizable.kernels import loops
from quantizable.kernels.library import library
from quantizable.quantizers.step_size import factors_between, rows_of, search_scales

pytestmark = pytest.mark.skipif(library(loops.same) is None, reason="no loops here: no g++, or switched off")
NO_LOOPS = mock.patch.object(loops, "library", return_value=None)
SIGNED = [(-2, 1), (-4, 3), (-8, 7), (-128, 127), (-32768, 32767)]
UNSIGNED = [(0, 3), (0, 15), (0, 255)]
WEIGHTS = {
    "normal": torch.randn(256, 64, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.02,
    "heavy tails": torch.randn(96, 16, 3, 3, generator=torch.Generator().manual_seed(1)) ** 5,
    "short rows": torch.randn(64, 7, generator=torch.Generator().manual_seed(2)),
    "positive": torch.rand(40, 300, generator=torch.Generator().manual_seed(3)),
}


def exact_errors(x: Tensor, scale: Tensor, bounds: tuple[int, int], axis: int | None) -> Tensor:
    """What the search minimizes, in float64."""
    rows, shares = rows_of(x, axis)
    rows, steps = rows.double(), scale.double().reshape(-1, 1)
    quantized = (rows / steps).round().clamp(*bounds) * steps
    return (quantized - rows).abs().pow(2.4) @ shares.double()


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("ranges", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_finds_what_torch_finds(kind: str, ranges: list[tuple[int, int]], axis: int | None) -> None:
    x = WEIGHTS[kind] if ranges is SIGNED else WEIGHTS[kind].relu()
    found = search_scales(x, ranges, axis)
    with NO_LOOPS:
        expected = search_scales(x, ranges, axis)
    for ours, torchs, bounds in zip(found, expected, ranges, strict=True):
        assert ours.shape == torchs.shape
        assert (ours == torchs).float().mean() >= 0.97  # the errors of two may be alike to 1e-6
        assert torch.all(
            exact_errors(x, ours, bounds, axis) <= exact_errors(x, torchs, bounds, axis) * (1 + 1e-5)
        )


def test_no_candidate_is_better() -> None:
    x = WEIGHTS["normal"][:8]
    (found,) = search_scales(x, [(-8, 7)], 0)
    around = x.abs().amax((1, 2, 3), keepdim=True) / 8
    coarse, fine = factors_between(0.05, 1.2)
    errors = torch.stack([exact_errors(x, around * f, (-8, 7), 0) for f in coarse.tolist()])
    best = coarse[errors.argmin(0)].float().reshape(around.shape) * around
    errors = torch.stack([exact_errors(x, best * f, (-8, 7), 0) for f in fine.tolist()])
    torch.testing.assert_close(found, best * fine[errors.argmin(0)].float().reshape(around.shape))


@pytest.mark.parametrize("value", [0.0, 1e-20, 1e20, float("inf"), float("nan")])
def test_rows_that_say_nothing_end_as_torchs(value: float) -> None:
    x = torch.full((5, 70), value)
    x[1] = torch.linspace(-1, 1, 70)
    x[2, 3] = 1.0
    found = torch.stack(search_scales(x, SIGNED, 0))
    with NO_LOOPS:
        expected = torch.stack(search_scales(x, SIGNED, 0))
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
