"""Published weights where there is no network."""

import socket
import time
from typing import Any

import pytest
from huggingface_hub import constants

from quantizable.models.create import create_model
from quantizable.models.download import reachable, without_retries


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No connection can be made; the seconds that were slept are noted."""
    slept: list[float] = []

    def refuse(*_: Any, **__: Any) -> None:
        raise socket.gaierror("Temporary failure in name resolution")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_without_a_network_weights_are_refused_at_once(no_network: list[float], tmp_path: Any) -> None:
    with pytest.raises(OSError, match=r"'resnet18' cannot be downloaded \(huggingface.co cannot be reached"):
        create_model("resnet18", 10, pretrained=True, cache_dir=str(tmp_path))
    assert not no_network, "a retry waits"
    assert not constants.HF_HUB_OFFLINE, "later downloads may find a network"


@pytest.mark.parametrize("name", ["hf-hub:evil/x", "hf_hub:evil/x", "HF_Hub:evil/x"])
def test_a_network_of_the_hub_is_not_asked_for_again_and_again(name: str, no_network: list[float]) -> None:
    with pytest.raises(OSError, match=r"evil/x' cannot be downloaded \(huggingface.co cannot be reached"):
        create_model(name, 10)
    assert not no_network, "a retry waits"


def test_what_was_downloaded_before_needs_no_network(no_network: list[float]) -> None:
    with without_retries():
        assert constants.HF_HUB_OFFLINE


def test_a_server_or_the_proxy_to_it_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable("127.0.0.1", port)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        with without_retries():
            assert not constants.HF_HUB_OFFLINE
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert reachable("nowhere.invalid", 443), "through the proxy"
    assert not reachable("127.0.0.1", port)
