import pytest
import torch
from torch import nn

from quantizable.training.precision import check_accelerator, fastest_execution


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
    conv, volume = nn.Conv2d(4, 8, 3), nn.Conv3d(1, 2, 3)  # five axes: torch's own conversion refuses them
    network = nn.Sequential(conv, volume)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert fastest_execution("cpu").prepare(network) is network
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for accelerator in ("auto", "cpu", "tpu"):
        check_accelerator(accelerator)
    for accelerator in ("gpu", "cuda"):
        with pytest.raises(ValueError, match=f"trainer.accelerator={accelerator}: torch finds no GPU here"):
            check_accelerator(accelerator)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)  # Apple's is Lightning's "gpu"
    check_accelerator("gpu")
    assert "GPU has no bf16" not in fastest_execution("gpu").reason
    with pytest.raises(ValueError, match="no GPU here"):
        check_accelerator("cuda")
