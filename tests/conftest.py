"""Every test starts from the same seed and uses one thread."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# the same examples in every run, however slow the machine is
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
