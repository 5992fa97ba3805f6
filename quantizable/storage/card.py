"""The model card of a shared network: what its modes are, what they reach and how to switch them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any

from quantizable.bits import BitMode
from quantizable.network import QuantizableNetwork
from quantizable.nn import QuantLayer
from quantizable.nn.layer_modes import NamedModes, plain_mode
from quantizable.storage.preprocessing import preprocessing

BEGIN, END = "<!-- written by quantizable: begin -->", "<!-- written by quantizable: end -->"
HEAD = """---
library_name: quantizable
pipeline_tag: {task}
tags:
- quantization
- multi-bit
- {task}
---
"""
LONGEST = 100  # characters of a value
Results = Mapping[str, Mapping[str, float]]


def model_card(
    network: QuantizableNetwork, repo: str, results: Results | None, files: Mapping[str, int], picture: str
) -> str:
    """The card as Markdown, between :data:`BEGIN` and :data:`END`.

    Args:
        network: what is described.
        repo: ``"user/name"`` or a folder's name, as a reader loads it.
        results: top-1 and more by mode, fractions; None: not measured.
        files: bytes by file name.
        picture: file name of the picture of ``results``; empty: none.
    """
    info = preprocessing(network)
    kind = words(info.get("model") or type(network.model).__name__)
    modes = ", ".join(f"`{mode.name}`" for mode in network.modes)
    named = "".join(f"; `{name}`: bits of its own for each layer" for name in network.assignments)
    parts = [
        BEGIN,
        f"# {words(repo.rpartition('/')[2])}",
        f"{kind} as one network of {len(network.modes)} bit modes: {modes} (`32`: float; `w4a8`: "
        f"weights of 4 bits, activations of 8{named}). It switches between them at run time; nothing is "
        "loaded anew.",
        "## Switch",
        _usage(network, repo, "model.qz" in files),
        "## Modes",
        _table(network, results),
    ]
    if picture:
        parts.append(f"![Top-1 accuracy against bits]({picture})")
    parts += ["## Data", _data(info)]
    parts += ["## Files", "\n".join(f"- `{name}`: {file_size(size)}" for name, size in files.items())]
    parts += ["## License", _LICENSE, END]
    return "\n\n".join(parts) + "\n"


_LICENSE = (
    "No license is named here. Whoever publishes the network chooses one, with the licenses of the data and "
    "of the weights it started from in mind, and adds `license: NAME` to the head of this file."
)


def merged(card: str, old: str | None, task: str = "image-classification") -> str:
    """The card, in place of our part of an old one; the rest of the old one, its head too, stays.

    An old card without our part is its owner's: the new part goes below it. ``task``: the Hub's name of what
    the network does, for a new head.
    """
    if old is None:
        return HEAD.format(task=task) + card
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return f"{old.rstrip()}\n\n{card}"
    return before + card.rstrip("\n") + after


def words(value: Any) -> str:
    """A value as plain words on one line of Markdown: no HTML, no link, none of our marks; cut where long."""
    text = " ".join(str(value).split())
    text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return html.escape(re.sub(r"([\\`*_\[\]|~#!:$])", r"\\\1", text), quote=False)


def file_size(size: float) -> str:
    """``1.25 MB``, of 10^6 bytes; smaller and larger ones in kB, GB or bytes."""
    for unit, bytes_of_one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.9995 * bytes_of_one:  # 999 999 bytes are 1 MB, and not 1e+03 kB
            return f"{size / bytes_of_one:.3g} {unit}"
    return f"{size:.0f} B"


def weight_bytes(network: QuantizableNetwork, mode: BitMode | NamedModes) -> int:
    """Bytes of the weights that are quantized, packed at their widths in a mode."""
    total = 0
    for name, layer in network.layers().items():
        if isinstance(layer, QuantLayer):
            own = mode if isinstance(mode, BitMode) else mode.layer_mode(name)
            total += -(-layer.float_weight().numel() * layer.resolve(own).weight // 8)
    return total


def _usage(network: QuantizableNetwork, repo: str, integers: bool) -> str:
    low, high = (plain_mode(mode) for mode in (network.modes[0], network.modes[-1]))
    address = f"hf://{repo}" if "/" in repo else repo
    file = "model.qz" if "/" in repo else f"{repo}/model.qz"
    texts = bool(network.info.get("vocabulary"))
    call = "logits = network(images)  # normalized as under Data"
    if texts:
        call = "logits = network(deploy.read_texts(texts, network.info))  # texts: a list of strings"
    lines = [
        "```python",
        "import quantizable",
        *(["from quantizable import deploy"] if texts else []),
        "",
        f"network = quantizable.load({_quoted(address)})  # pip install quantizable[hub]",
        f"network.set_bits({low!r})",
        call,
        f"network.set_bits({high!r})",
    ]
    if integers:
        lines += [
            "",
            "from quantizable.deploy import Session  # integers on ONNX Runtime or OpenVINO",
            *(
                [f"# the file itself: hf download {_quoted(repo)} model.qz --local-dir ."]
                if "/" in repo
                else []
            ),
            f'session = Session({_quoted(file)}, engine="openvino", bits={_integer_mode(network)!r})',
        ]
    return "\n".join([*lines, "```"])


def _quoted(text: str) -> str:
    """As Python writes it, and without a mark: `<` could begin one."""
    return json.dumps(text, ensure_ascii=False).replace("<", "\\x3c")


def _integer_mode(network: QuantizableNetwork) -> int | str:
    return plain_mode(next(mode for mode in network.modes if not mode.is_float))


def _table(network: QuantizableNetwork, results: Results | None) -> str:
    measured = results or {}
    names = {"top1": "top-1, %", "top5": "top-5, %", "disagreement": "differs from highest, %"}
    shown = {key: text for key, text in names.items() if any(key in row for row in measured.values())}
    head = ["mode", *shown.values(), "quantized weights"]
    rows = [head, ["---"] * len(head)]
    held: list[BitMode | NamedModes] = [*network.modes, *network.assignments.values()]
    for mode in held:
        found = measured.get(mode.name, {})
        values = [f"{100 * found[key]:.2f}" if found.get(key) is not None else "" for key in shown]
        rows.append([mode.name, *values, file_size(weight_bytes(network, mode))])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return table if shown else f"{table}\n\nThe accuracies were not given."


def _data(info: Mapping[str, Any]) -> str:
    lines = [f"- data: {words(info['data'])}"] if info.get("data") else ["- data: not named"]
    if info.get("image_size"):
        channels, side = (words(info.get(key)) for key in ("in_chans", "image_size"))
        plural = "" if channels == "1" else "s"
        lines.append(f"- images: {channels} channel{plural}, {side} x {side} pixels")
    if info.get("vocabulary"):
        (length,) = info["input_size"]
        lines.append(
            f"- texts: {len(info['vocabulary'])} words are known, {words(length)} of a text are read"
        )
    lines += [f"- {key}: {', '.join(map(_number, info[key]))}" for key in ("mean", "std") if info.get(key)]
    if names := info.get("class_names"):
        shown = ", ".join(map(words, names[:10])) + (", ..." if len(names) > 10 else "")
        lines.append(f"- {len(names)} classes: {shown}")
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else words(value)
