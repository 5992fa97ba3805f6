"""The criterion against an emulation of ``vpmaddubsw``, and the processor's word against its flags."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantizable.deploy import processor
from quantizable.deploy.saturation import can_saturate, headroom, largest_pair


def saturating_sum(codes: np.ndarray, weights: np.ndarray, order: list[int]) -> int:
    """What a kernel without VNNI adds up: pairs of products in int16 with saturation, those in int32."""
    products = (codes.astype(np.int64) * weights)[order]
    products = np.append(products, 0) if len(products) % 2 else products
    return int(np.clip(products[::2] + products[1::2], -32768, 32767).sum())


rows = st.lists(st.integers(-128, 127), min_size=1, max_size=9)


@given(rows, st.integers(1, 255), st.randoms(use_true_random=False))
def test_a_safe_layer_is_exact_in_every_order(row: list[int], highest: int, random) -> None:
    weights = np.array(row)
    while can_saturate(weights[None], highest):  # half as large weights, until none can
        weights = weights // 2
    for _ in range(5):
        codes = np.array([random.choice((0, highest, random.randint(0, highest))) for _ in row])
        order = random.sample(range(len(row)), len(row))
        assert saturating_sum(codes, weights, order) == int(codes @ weights)


@given(rows, st.integers(1, 255))
def test_an_unsafe_layer_has_an_input_that_goes_wrong(row: list[int], highest: int) -> None:
    weights = np.array([*row, 100, 100])  # two that can, beside those drawn: 200 x 164 = 32 800
    highest = max(highest, 164)
    assert can_saturate(weights[None], highest)
    order = np.argsort(weights)
    by_pair = [[*order[::-1]], [*order]]  # the two largest first, or the two smallest
    wrong = []
    for chosen in by_pair:
        codes = np.zeros(len(weights), np.int64)
        codes[chosen[:2]] = highest
        wrong.append(saturating_sum(codes, weights, chosen) != int(codes @ weights))
        codes[chosen[1:2]] = 0  # a row with one weight of that sign
        wrong.append(saturating_sum(codes, weights, chosen) != int(codes @ weights))
    assert any(wrong)


def test_the_borders_of_int16() -> None:
    assert not can_saturate(np.array([[64, 64]]), 255)  # 32640
    assert can_saturate(np.array([[64, 65]]), 255)  # 32895
    assert not can_saturate(np.array([[-64, -64], [3, 4]]), 255)  # -32640
    assert can_saturate(np.array([[-65, -64]]), 255)
    assert not can_saturate(np.array([[-128, 127]]), 255)  # one negative, one positive: no sum of two
    assert not can_saturate(np.array([[127, 127]]), 128)
    assert can_saturate(np.array([[127, 127]]), 130)
    assert largest_pair(np.array([[5]]), 10) == (0, 50)


@given(rows, st.integers(1, 255))
def test_headroom_is_the_largest_safe_shift_within_int8(row: list[int], highest: int) -> None:
    weights = np.array([row])

    def fits(shift: int) -> bool:
        moved = weights << shift
        return moved.min() >= -128 and moved.max() <= 127 and not can_saturate(moved, highest)

    shift = headroom(weights, highest)
    assert shift == 0 or fits(shift)
    assert shift == 7 or not fits(shift + 1)


@pytest.mark.parametrize(
    ("flags", "exact"),
    [("sse4_2 avx2", False), ("avx2 avx512bw", False), ("avx2 avx_vnni", True), ("avx512_vnni", True),
     ("amx_int8", True), ("fp asimd", False), ("fp asimd asimddp", True), ("", False)],
)  # fmt: skip
def test_exact_kernels_by_flags(flags: str, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(processor.VARIABLE, raising=False)
    monkeypatch.setattr(processor.sys, "platform", "linux")
    monkeypatch.setattr(processor, "_cpuinfo", lambda *keys: flags if "flags" in keys else "Some Processor")
    processor._processor_is_exact.cache_clear()
    try:
        assert processor.exact_kernels() is exact
    finally:
        processor._processor_is_exact.cache_clear()


def test_the_variable_overrides_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(processor.VARIABLE, "saturating")
    assert not processor.exact_kernels()
    monkeypatch.setenv(processor.VARIABLE, "exact")
    assert processor.exact_kernels()
    monkeypatch.setenv(processor.VARIABLE, "fast")
    with pytest.raises(ValueError, match="give exact or saturating"):
        processor.exact_kernels()
