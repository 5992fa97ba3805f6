"""A trial of the library: does it compute torch's numbers, bit for bit, on this machine?"""

from __future__ import annotations

from ctypes import CDLL, c_int

import torch

from quantizable.kernels.calls import HALF, lanes_of_torch, pointers, rows_as_torch, typed


def same(found: CDLL) -> bool:
    """True if the library rounds, divides and multiplies as torch does here: a trial of each."""
    typed(found)
    if not any(_tried(found, fused) for fused in (1, 0)):
        return False
    lanes = (count for count in (16, 8, 4) if _sums(found, count))
    lanes_of_torch(found).value = next(lanes, 0)
    rows_as_torch(found).value = bool(lanes_of_torch(found).value) and _sums_rows(found)
    return True


def _sums_rows(found: CDLL) -> bool:
    """True if the library adds the numbers of each row of a tensor in torch's order."""
    generator = torch.Generator().manual_seed(0)
    one = torch.ones(64)
    for rows, length in ((40, 1), (33, 3), (64, 9), (24, 16), (17, 27), (40, 147), (9, 2304), (3, 40000)):
        values = torch.rand(rows, length, generator=generator) - 0.3
        ones, sums, grad_x = torch.ones_like(values), torch.empty(rows, 1), torch.empty_like(values)
        found.fake_quantize_gradients_of_rows(
            *pointers(ones, values, torch.zeros_like(values), grad_x, sums), rows, length, *pointers(one), -1,
            1, 1, torch.get_num_threads(),
        )  # fmt: skip
        if not torch.equal(sums, -values.sum(1, keepdim=True)):
            return False
    return True


def _sums(found: CDLL, lanes: int) -> bool:
    """True if the library adds numbers in torch's order, which decides the last bits of a sum."""
    lanes_of_torch(found).value = lanes
    values = torch.rand(200003, generator=torch.Generator().manual_seed(0)) - 0.3
    ones = torch.ones_like(values)
    for count in (1, 5, 63, 64, 1000, 4099, 32767, 32768, 65537, 200003):
        part, parts, total = values[:count], torch.zeros(torch.get_num_threads()), torch.empty(())
        grad_x = torch.empty_like(part)
        found.fake_quantize_gradients_summed(
            *pointers(ones, part, None, grad_x, parts, total), count, *pointers(ones), -1, 1, -1, len(parts),
        )  # fmt: skip
        if not torch.equal(total, part.sum()):
            return False
    return True


def _tried(found: CDLL, fused: int) -> bool:
    """A trial, with product and sum rounded once or twice."""
    c_int.in_dll(found, "one_rounding").value = fused
    step = torch.tensor(0.3)
    low, high = -4 * step.item(), 3 * step.item()
    for dtype, half in HALF.items():
        x = torch.cat([torch.linspace(-3, 3, 997), torch.tensor([0.0, -0.0, 0.15, 0.45, 1e30])])
        x, grad = x.to(dtype), x.flip(0).to(dtype)
        out = ((x.float() / step).round_().clamp_(-4, 3) * step).to(dtype)
        passed = torch.ops.aten.hardtanh_backward(grad, x, low, high)
        share = (grad * out).addcmul_(passed, x, value=-1)
        ours = [torch.empty_like(x) for _ in range(3)]
        found.fake_quantize(half, *pointers(x, ours[0]), 1, x.numel(), *pointers(step, None), -4, 3, 1)
        found.fake_quantize_gradients(
            half, *pointers(grad, x, out, ours[1], ours[2], None), 1, x.numel(), None, None, low, high, 1
        )
        for mine, torchs in zip(ours, (out, passed, share), strict=True):
            if not torch.equal(mine, torchs):
                return False
    return True
