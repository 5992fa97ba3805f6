"""A SHA-256 inside the file whose bytes it covers, for formats that have none: ONNX and OpenVINO."""

from __future__ import annotations

import hashlib

KEY = "quantizable_sha256"  # of the metadata entry that holds the digest
BLANK = "0" * 64  # stands where the digest will, while it is computed


def sealed(content: bytes, *others: bytes) -> bytes:
    """``content`` with the digest in place of ``BLANK``, which it must hold once.

    Args:
        content: of the file that holds the digest.
        others: contents of files that belong to it, as OpenVINO's weights.
    """
    if content.count(BLANK.encode()) != 1:
        raise AssertionError("the content must hold the blank digest once")
    return content.replace(BLANK.encode(), _digest(content, others).encode())


def check_seal(name: str, content: bytes, digest: str, *others: bytes) -> None:
    """``ValueError`` if the digest does not fit the contents; arguments as of :func:`sealed`."""
    if _digest(content.replace(digest.encode(), BLANK.encode(), 1), others) != digest:
        raise ValueError(
            f"{name} was changed or damaged: its checksum does not fit; copy or export it again, or pass "
            "verify=False if you changed it yourself"
        )


def _digest(content: bytes, others: tuple[bytes, ...]) -> str:
    digest = hashlib.sha256(content)
    for other in others:
        digest.update(other)
    return digest.hexdigest()
