"""An offline W&B run read back, by W&B's own protocol.

A ``.wandb`` file holds protobuf records of ``wandb.proto`` in LevelDB's log format: blocks of 32 KiB, each of
chunks with a header of checksum, length and kind (1 whole, 2 first, 3 middle, 4 last part of a record).
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as protocol

BLOCK, FILE_HEADER = 32768, 7


def records(file: Path) -> Iterator[Any]:
    """Every record, in order."""
    content, place, parts = file.read_bytes(), FILE_HEADER, b""
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:  # what is left of a block is padding
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = protocol.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def items(entries: Any) -> dict[str, Any]:
    """Keys and values of a row of the history or of the summary."""
    return {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


def history(file: Path) -> list[dict[str, Any]]:
    """The rows that the run logged."""
    return [items(one.history.item) for one in records(file) if one.HasField("history")]


def metrics(file: Path) -> dict[str, Any]:
    """What the run said of its metrics (``define_metric``), by name."""
    found = [one.metric for one in records(file) if one.HasField("metric")]
    return {one.name or one.glob_name: one for one in found}
