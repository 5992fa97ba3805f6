"""The small network of :mod:`tests.small_net`."""

from tests.small_net import images, make

__all__ = ["images", "make"]
