"""How a command line names a model to compare: read and checked without torch, so that a typo is answered at
once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantizable.storage.network_file import check_file, check_graph_file

NETWORKS = (".qz", ".ckpt")  # of this library; both hold several modes
GRAPHS = (".onnx", ".xml")
FILES = (*NETWORKS, *GRAPHS, ".pt", ".pt2", ".tflite")
ALLOWED = f"a file ({', '.join(FILES)}), FILE.qz:BITS, or package.module:function"
TRUST = (
    "torch.export can run code that is in the file when it loads it; if you trust whoever made {}, "
    "say so with --trust"
)


@dataclass(frozen=True)
class ModelName:
    """A model by name.

    Attributes:
        text: as it was given.
        path: of its file; None for a function.
        module: of a function, dotted; empty for a file.
        part: the mode of a file of ours, empty for its highest; or the function.
    """

    text: str
    path: Path | None
    module: str
    part: str

    @property
    def kind(self) -> str:
        """The ending of its file, ``""`` for a function."""
        return "" if self.path is None else self.path.suffix

    @property
    def short(self) -> str:
        """As tables call it: without folders."""
        if self.path is None:
            return self.text
        return f"{self.path.name}:{self.part}" if self.part else self.path.name


def read_name(text: str) -> ModelName:
    """What ``FILE``, ``FILE.qz:BITS`` or ``package.module:function`` names; ``ValueError`` for others."""
    head, _, tail = text.rpartition(":")
    if Path(text).suffix in FILES:
        return ModelName(text, Path(text), "", "")
    if Path(head).suffix in NETWORKS and tail:
        return ModelName(text, Path(head), "", tail)
    if all(word.isidentifier() for part in (head, tail) for word in part.split(".")):
        return ModelName(text, None, head, tail)
    raise ValueError(f"{text} names no model; give {ALLOWED}")


def check_name(name: ModelName, trust: bool = False) -> None:
    """Refuse a file that is not there, or one that may run code of its own.

    Args:
        name: of a model; a file of ours is checked by ``cli.arguments.check_network``.
        trust: whether the user trusts the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a ``.pt2`` file that nobody said to trust.
    """
    if name.kind in GRAPHS:
        check_graph_file(name.path)  # type: ignore[arg-type]
    elif name.path is not None:
        check_file(name.path)
    if name.kind == ".pt2" and not trust:
        raise ValueError(f"{name.text}: {TRUST.format('it')}")
