"""Published weights without a network: from the cache at once, or one line, instead of minutes of retries."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

SECONDS = 5.0  # for a connection to be made


@contextmanager
def without_retries() -> Iterator[None]:
    """Around a download from the Hugging Face Hub, which is asked nothing where it cannot be reached.

    Its files then come from the cache of earlier downloads; what is not there is an ``OSError`` at once.

    Raises:
        OSError: the hub cannot be reached, and the file is not in the cache.
    """
    server = urlsplit(constants.ENDPOINT)
    if (
        constants.HF_HUB_OFFLINE
        or server.hostname is None
        or reachable(server.hostname, server.port or (80 if server.scheme == "http" else 443))
    ):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise OSError(f"{server.hostname} cannot be reached, and they are not in the cache") from error
    finally:
        constants.HF_HUB_OFFLINE = False


def reachable(host: str, port: int) -> bool:
    """True if a connection can be made, to the host or to the proxy that leads to it; SECONDS at most."""
    proxy = urlsplit("" if proxy_bypass(host) else getproxies().get("https", ""))
    place = (proxy.hostname, proxy.port or 80) if proxy.hostname else (host, port)
    try:
        with socket.create_connection(place, timeout=SECONDS):
            return True
    except OSError:
        return False
