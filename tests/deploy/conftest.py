"""The small network of :mod:`tests.small_net`, and both ways that integers reach a processor."""

import pytest

from quantizable.deploy.processor import VARIABLE
from tests.small_net import images, make

__all__ = ["images", "make"]


@pytest.fixture(params=["native", "saturating"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A test with it runs as on this processor, and as on one whose integer kernels saturate."""
    monkeypatch.delenv(VARIABLE, raising=False)
    if request.param == "saturating":
        monkeypatch.setenv(VARIABLE, "saturating")
    return request.param
