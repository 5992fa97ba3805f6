import pytest
import torch
from torch import nn

from quantizable.training.precision import fastest_execution


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "32-true"),
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16-mixed"),
        ({"neon": True, "bf16": True}, "bf16-mixed"),
        ({"avx2": True}, "32-true"),
    ],
)
def test_bf16_only_where_the_cpu_has_units_for_it(capabilities, precision):
    execution = fastest_execution("cpu", capabilities)
    assert execution.precision == precision
    assert ("no bf16" in execution.reason) == (precision == "32-true")


def test_gpu_is_asked_itself(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for supported, precision in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, s=supported: s)
        assert fastest_execution("auto").precision == fastest_execution("gpu").precision == precision


def test_unknown_accelerator_stays_in_float32():
    assert fastest_execution("tpu").precision == "32-true"


def test_auto_on_a_mac_is_its_gpu_whatever_its_cpu_can_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert fastest_execution("auto", {"bf16": True}).precision == "32-true"
    assert fastest_execution("cpu", {"bf16": True}).precision == "bf16-mixed"


def test_prepare_changes_the_layout_and_no_values():
    conv = nn.Conv2d(4, 8, 3)
    before = conv.weight.detach().clone()
    fastest_execution("cpu").prepare(conv)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(conv.weight, before, rtol=0, atol=0)
